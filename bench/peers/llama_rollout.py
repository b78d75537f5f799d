"""Batched decoding with llama.cpp: completion tokens/s as one JSON line. Ids are made up: drawing them costs nothing here.

The file is made from the model's folder by llama.cpp's convert_hf_to_gguf.py; it is converted to --dtype if it holds another.
"""
import argparse, json, os, resource, tempfile, time

import cyllama.llama.llama_cpp as llama

FILE_TYPES = {"float32": 0, "float16": 1, "q8_0": 7, "bfloat16": 32}  # enum llama_ftype

parser = argparse.ArgumentParser()
parser.add_argument("--gguf", required=True)
parser.add_argument("--sequences", type=int, required=True)
parser.add_argument("--prompt_tokens", type=int, required=True)
parser.add_argument("--max_completion_length", type=int, required=True)
parser.add_argument("--dtype", choices=list(FILE_TYPES), required=True)
parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
args = parser.parse_args()

llama.disable_logging()
llama.ggml_backend_load_all()
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model.gguf")
    quantize = llama.LlamaModelQuantizeParams()
    quantize.ftype, quantize.allow_requantize, quantize.nthread = FILE_TYPES[args.dtype], True, args.threads
    llama.model_quantize(args.gguf, path, quantize)
    model = llama.LlamaModel(path, llama.LlamaModelParams())
    B, P, N = args.sequences, args.prompt_tokens, args.max_completion_length
    params = llama.LlamaContextParams()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = B * (P + N + 8), 2048, 512, B
    params.n_threads = params.n_threads_batch = args.threads
    params.kv_unified = False
    context = llama.LlamaContext(model, params)

    def decode(rows):
        batch = llama.LlamaBatch(n_tokens=max(1, len(rows)), embd=0, n_seq_max=B)
        for token, position, sequence, logits in rows:
            batch.add(token, position, [sequence], logits)
        context.decode(batch)
        context.synchronize()

    start = time.perf_counter()
    for s in range(B):
        decode([(100 + (i * 131 + s) % 40000, i, s, i == P - 1) for i in range(P)])
    prefilled = time.perf_counter()
    for n in range(N - 1):
        decode([(100 + (n * 7919 + s * 31) % 40000, P + n, s, True) for s in range(B)])
    end = time.perf_counter()
print(
    json.dumps(
        {
            "tokens_per_second": B * N / (end - start),
            "decode_tokens_per_second": B * (N - 1) / (end - prefilled),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
