"""Python's side of hub-python.test.ts: one word says what to do with the hub at HF_ENDPOINT."""

import json
import sys

NEEDED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
NEEDED += ["generation_config.json", "special_tokens_map.json"]


def snapshot(repo, which="all"):
    from huggingface_hub import snapshot_download

    print(snapshot_download(repo, allow_patterns=NEEDED if which == "needed" else None))


def files(repo):
    from huggingface_hub import HfApi, hf_hub_download

    present = HfApi().list_repo_files(repo)
    for name in NEEDED:
        if name in present:
            print(hf_hub_download(repo, name))


def scan():
    from huggingface_hub import scan_cache_dir

    info = scan_cache_dir()
    for repo in info.repos:
        print(f"{repo.repo_id}: {len(repo.revisions)} revision, {len(info.warnings)} warnings")


def parquet(path):
    import pyarrow
    import pyarrow.parquet

    rows = {"question": ["What is 1 + 1?", "What is 2 + 2?"], "answer": ["#### 2", "#### 4"]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)


def dataset(repo):
    from datasets import load_dataset

    print(len(load_dataset(repo, split="train")))


def logprobs(repo, row):
    import torch
    from transformers import AutoModelForCausalLM

    row = json.loads(row)
    model = AutoModelForCausalLM.from_pretrained(repo, dtype=torch.float32)
    ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
    with torch.no_grad():
        scores = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
    first = len(row["prompt_ids"])
    print(json.dumps([scores[first + i - 1, token].item() for i, token in enumerate(row["completion_ids"])]))


globals()[sys.argv[1]](*sys.argv[2:])
