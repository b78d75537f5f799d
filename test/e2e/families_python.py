"""Python's side of golden-families-python.test.ts: loads saved models in transformers, and scores rollouts with them.

usage: families_python.py FOLDER=ROLLOUTS ... ; prints a line of JSON per folder.
"""

import json
import sys

import torch
import transformers


def logprobs(model, row):
    prompt, completion = row["prompt_ids"], row["completion_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0]
    predictions = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return predictions.gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


def main():
    transformers.logging.set_verbosity_error()
    for argument in sys.argv[1:]:
        folder, rollouts = argument.split("=")
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        with open(rollouts) as lines:
            rows = [json.loads(line) for line in lines]
        report = {
            "missing": sorted(loaded["missing_keys"]),
            "unexpected": sorted(loaded["unexpected_keys"]),
            "mismatched": sorted(str(key) for key in loaded["mismatched_keys"]),
            "logprobs": [logprobs(model, row) for row in rows],
        }
        print(json.dumps(report))


main()
