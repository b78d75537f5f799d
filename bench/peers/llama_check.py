"""Whether llama.cpp computes the model that llama_gguf.py converts: logits and a greedy continuation against transformers, both
in float32. Exit status 1 if they differ. Needs the packages of requirements.txt and of requirements-llama.txt.

Logits are compared at every position of a prompt, and after every token of the continuation, which goes on in a second sequence
with a copy of the prompt's keys and values, as a rollout's does.
"""
import argparse, json, os, sys, tempfile

import numpy
import torch
from transformers import AutoModelForCausalLM

from llama_context import Context
from llama_gguf import InputError, write_gguf

TOLERANCE = 1e-3  # of a logit, in deviations of its row

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--prompt_tokens", type=int, default=16)
parser.add_argument("--max_completion_length", type=int, default=32)
args = parser.parse_args()

P, N = args.prompt_tokens, args.max_completion_length
try:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write_gguf(args.model, path, "float32")
        context = Context(path, 2, P + N, len(os.sched_getaffinity(0)), "float32", flash=False)
        ids = [(100 + i * 131) % context.vocabulary for i in range(P)]
        context.decode([(token, i, 0, True) for i, token in enumerate(ids)])
        rows = [context.logits(i) for i in range(P)]
        context.copy(0, 1)
        for n in range(N):
            ids.append(int(rows[-1].argmax()))
            context.decode([(ids[-1], P + n, 1, True)])
            rows.append(context.logits(0))
        context.close()
except InputError as error:
    sys.stderr.write(f"llama_check.py: {error}\n")
    sys.exit(2)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
with torch.no_grad():
    expected = model(torch.tensor([ids])).logits[0].numpy()
    greedy = model.generate(
        torch.tensor([ids[:P]]), do_sample=False, min_new_tokens=N, max_new_tokens=N, pad_token_id=0, eos_token_id=None
    )[0].tolist()
difference = float((numpy.abs(numpy.stack(rows) - expected).max(1) / expected.std(1)).max())
same = next((n for n in range(N) if ids[P + n] != greedy[P + n]), N)
print(json.dumps({"greedy_tokens": N, "same_greedy_tokens": same, "largest_logit_difference_in_deviations": difference}))
if same < N or difference > TOLERANCE:
    sys.exit(1)
