"""PyTorch's products and attention: reads a JSON list of cases from stdin, prints their milliseconds as one JSON line.

A case: {"op": "matmul", "M", "N", "K", "dtype", "cold"} or {"op": "attention", "T", "H", "Hkv", "Dh", "dtype"}. "cold": the
weight comes from memory, as in decoding, where other layers' were read in between; so several copies take turns.
"""
import argparse, itertools, json, statistics, sys, time

import torch
import torch.nn.functional as F

COLD_BYTES = 192 * 2**20  # more than most caches, as bench/ops/workspace.ts has it

parser = argparse.ArgumentParser()
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--threads", type=int)
parser.add_argument("--seconds", type=float, default=0.3, help="per case")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)


def settle():
    if args.device == "cuda":
        torch.cuda.synchronize()


def milliseconds(work):
    for _ in range(2):
        work()
    settle()
    times = []
    end = time.perf_counter() + args.seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        settle()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def case_of(case):
    dtype = getattr(torch, case["dtype"])
    make = lambda *shape: torch.randn(*shape, device=args.device, dtype=dtype)
    if case["op"] == "matmul":
        x, w = make(case["M"], case["K"]), make(case["N"], case["K"])
        copies = min(64, -(-COLD_BYTES // (w.numel() * w.element_size()))) if case["cold"] else 1
        weights = itertools.cycle([w.clone() for _ in range(copies)])
        return lambda: F.linear(x, next(weights))
    q = make(1, case["H"], case["T"], case["Dh"])
    k, v = (make(1, case["Hkv"], case["T"], case["Dh"]) for _ in range(2))
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=case["H"] != case["Hkv"])


with torch.no_grad():
    print(json.dumps({"milliseconds": [milliseconds(case_of(case)) for case in json.load(sys.stdin)]}))
