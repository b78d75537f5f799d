"""Batched decoding with llama.cpp: completion tokens/s as one JSON line. Ids are made up: drawing them costs nothing here.

Each prompt is computed once and its keys and values, kept in --dtype, are copied to the sequences of its group. The GGUF file is
made from the model's folder (llama_gguf.py); one that is given is converted to --dtype.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time

import llama_cpp
from llama_context import Context

FILE_TYPES = {
    "float32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "float16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "bfloat16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
}

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--gguf")
parser.add_argument("--sequences", type=int, required=True)
parser.add_argument("--num_generations", type=int, required=True)
parser.add_argument("--prompt_tokens", type=int, required=True)
parser.add_argument("--max_completion_length", type=int, required=True)
parser.add_argument("--dtype", choices=list(FILE_TYPES), required=True)
parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
args = parser.parse_args()


def make_file(path):
    """The model in --dtype. A process of its own, whose memory is not the rollout's, does it."""
    if args.gguf:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = FILE_TYPES[args.dtype], True, args.threads
        if llama_cpp.llama_model_quantize(args.gguf.encode(), path.encode(), params) != 0:
            sys.exit(f"--gguf {args.gguf}: llama.cpp does not convert it to {args.dtype}")
        return
    converter = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama_gguf.py")
    made = subprocess.run([sys.executable, converter, "--model", args.model, "--gguf", path, "--dtype", args.dtype])
    if made.returncode != 0:
        sys.exit(made.returncode)


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model.gguf")
    make_file(path)
    B, P, N = args.sequences, args.prompt_tokens, args.max_completion_length
    context = Context(path, B, P + N, args.threads, args.dtype)
    prompts = B // args.num_generations

    def token(number):
        return number % context.vocabulary

    # Prompts are in the first sequences, and sequence s is of prompt s % prompts: streams of a batch have to be neighbours.
    start = time.perf_counter()
    context.decode([(token(i * 131 + s), i, s, i == P - 1) for s in range(prompts) for i in range(P)])
    for s in range(prompts, B):
        context.copy(s % prompts, s)
    steps = []
    for n in range(N - 1):
        before = time.perf_counter()
        context.decode([(token(n * 7919 + s * 31), P + n, s, True) for s in range(B)])
        steps.append(time.perf_counter() - before)
    seconds = time.perf_counter() - start
    context.close()
print(
    json.dumps(
        {
            "tokens_per_second": B * N / seconds,
            "decode_tokens_per_second": B / statistics.median(steps),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
