"""Forward, and forward and backward, of transformers on sequences of random tokens: tokens/s as one JSON line."""
import argparse, json, resource, statistics, time

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--length", type=int, required=True)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--threads", type=int)
parser.add_argument("--runs", type=int, default=2)
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device).train()
ids = torch.randint(0, model.config.vocab_size, (args.batch, args.length), device=args.device)


def logprobs():
    logits = model(ids).logits[:, :-1].float()
    return torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])


def both():
    (-logprobs().mean()).backward()
    model.zero_grad()


def forward():
    with torch.no_grad():
        logprobs()


def rate(work):
    times = []
    for _ in range(args.runs + 1):
        start = time.perf_counter()
        work()
        if args.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return args.batch * args.length / statistics.median(times[1:])


result = {"forward_tokens_per_second": rate(forward), "both_tokens_per_second": rate(both)}
result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(result))
