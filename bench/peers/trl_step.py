"""GRPO steps of TRL: seconds and completion tokens of each step after the first, and the phases' seconds, as one JSON line.

The reward is the last number of the completion against the answer's, as `gsm8k` of this project judges.
"""
import argparse, json, re, resource, tempfile, time

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True, help="JSON Lines with question and answer")
parser.add_argument("--completions", type=int, required=True)
parser.add_argument("--num_generations", type=int, required=True)
parser.add_argument("--max_completion_length", type=int, required=True)
parser.add_argument("--steps", type=int, required=True, help="timed, after one that warms up")
parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--threads", type=int)
parser.add_argument("--beta", type=float, default=0.04)
parser.add_argument("--gradient_checkpointing", action="store_true")
args = parser.parse_args()

started = time.perf_counter()
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

imported = time.perf_counter()
if args.threads:
    torch.set_num_threads(args.threads)


def number(text):
    found = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def reward(completions, answer, **_):
    texts = [c[0]["content"] for c in completions]
    return [1.0 if number(text) == number(gold) else 0.0 for text, gold in zip(texts, answer)]


with open(args.data, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
dataset = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": r["question"]}], "answer": r["answer"]} for r in rows]
)
micro = args.num_generations
config = GRPOConfig(
    output_dir=tempfile.mkdtemp(),
    per_device_train_batch_size=micro,
    gradient_accumulation_steps=args.completions // micro,
    num_generations=args.num_generations,
    max_completion_length=args.max_completion_length,
    learning_rate=1e-6,
    beta=args.beta,
    max_steps=args.steps + 1,
    logging_steps=1,
    use_cpu=args.device == "cpu",
    bf16=args.dtype == "bfloat16",
    gradient_checkpointing=args.gradient_checkpointing,
    report_to=[],
    save_strategy="no",
    temperature=1.0,
    loss_type="grpo",
    disable_tqdm=True,
    seed=1,
    model_init_kwargs={"dtype": args.dtype},
)
trainer = GRPOTrainer(model=args.model, reward_funcs=reward, args=config, train_dataset=dataset)
generating = [0.0]
generate = trainer._generate


def timed(*positional, **named):
    start = time.perf_counter()
    result = generate(*positional, **named)
    generating[0] += time.perf_counter() - start
    return result


trainer._generate = timed
ready = time.perf_counter()
marks = []


class Marks(TrainerCallback):
    def on_step_end(self, *_, **__):
        marks.append((time.perf_counter(), generating[0]))


trainer.add_callback(Marks())
trainer.train()
log = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
times = [b[0] - a[0] for a, b in zip(marks, marks[1:])]
samples = [b[1] - a[1] for a, b in zip(marks, marks[1:])]
lengths = [entry["completions/mean_length"] for entry in log][1:]
print(
    json.dumps(
        {
            "step_seconds": times,
            "rollout_seconds": samples,
            "completion_tokens": [length * args.completions for length in lengths],
            "setup_seconds": ready - started,
            "import_seconds": imported - started,
            "reward": [entry["reward"] for entry in log][1:],
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else None,
        }
    )
)
