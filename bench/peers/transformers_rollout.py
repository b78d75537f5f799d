"""Sampling with transformers' generate: completion tokens/s as one JSON line. Every completion has the same length."""
import argparse, json, resource, time

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--sequences", type=int, required=True)
parser.add_argument("--prompt_tokens", type=int, required=True)
parser.add_argument("--max_completion_length", type=int, required=True)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--threads", type=int)
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device).eval()
ids = torch.randint(0, model.config.vocab_size, (args.sequences, args.prompt_tokens), device=args.device)


def generate(tokens):
    with torch.no_grad():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
    if args.device == "cuda":
        torch.cuda.synchronize()


generate(4)
start = time.perf_counter()
generate(args.max_completion_length)
seconds = time.perf_counter() - start
print(
    json.dumps(
        {
            "tokens_per_second": args.sequences * args.max_completion_length / seconds,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
