"""Sampling with vLLM on a GPU: completion tokens/s as one JSON line. Every completion has the same length."""
import argparse, json, random, time

from vllm import LLM, SamplingParams

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--sequences", type=int, required=True)
parser.add_argument("--num_generations", type=int, required=True)
parser.add_argument("--prompt_tokens", type=int, required=True)
parser.add_argument("--max_completion_length", type=int, required=True)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
args = parser.parse_args()
longest = args.prompt_tokens + args.max_completion_length
model = LLM(args.model, dtype=args.dtype, max_model_len=longest, max_num_seqs=args.sequences, enable_prefix_caching=True)
vocabulary = model.get_tokenizer().vocab_size
draw = random.Random(1)
prompts = [
    {"prompt_token_ids": [draw.randrange(vocabulary) for _ in range(args.prompt_tokens)]}
    for _ in range(-(-args.sequences // args.num_generations))
]


def generate(tokens):
    model.generate(
        prompts,
        SamplingParams(n=args.num_generations, temperature=1.0, max_tokens=tokens, ignore_eos=True, logprobs=0),
        use_tqdm=False,
    )


generate(4)
start = time.perf_counter()
generate(args.max_completion_length)
seconds = time.perf_counter() - start
count = len(prompts) * args.num_generations * args.max_completion_length
print(json.dumps({"tokens_per_second": count / seconds}))
