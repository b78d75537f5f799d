"""Learning rates of Hugging Face's schedulers, the reference of src/optim/schedule.ts in test/unit/schedule.test.ts.

usage: make_schedules.py > schedules.json (needs transformers 5.24 and torch)
Every rate is what the optimizer holds when step s is made, so the first one is of step 0. Warm-up steps come from `TrainingArguments`.
"""
import json, torch, transformers
from transformers import TrainingArguments, get_scheduler

BASE = 8e-4
SCHEDULES = [
    ("constant", {}), ("constant_with_warmup", {}), ("linear", {}), ("cosine", {}), ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}), ("cosine_with_restarts", {"num_cycles": 3}), ("polynomial", {}), ("polynomial", {"lr_end": 2e-4, "power": 2.0}),
    ("inverse_sqrt", {}), ("inverse_sqrt", {"timescale": 7}), ("cosine_with_min_lr", {"min_lr": 1e-4}), ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 1.0}), ("cosine_warmup_with_min_lr", {"min_lr": 1e-4}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1, "warmup_lr_rate": 0.3}), ("warmup_stable_decay", {"num_decay_steps": 4}),
    ("warmup_stable_decay", {"num_decay_steps": 3, "num_stable_steps": 2, "warmup_type": "cosine", "decay_type": "linear", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 5, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "min_lr_ratio": 0.25}),
]


def rates(name, kwargs, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=kwargs)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def warmup(steps, value):
    return TrainingArguments(output_dir="unused", warmup_steps=value, use_cpu=True, report_to=[]).get_warmup_steps(steps)


print(json.dumps({
    "made_with": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}, "base": BASE,
    "cases": [dict(type=name, kwargs=kwargs, warmup=w, steps=s, rates=rates(name, kwargs, w, s))
              for name, kwargs in SCHEDULES for w, s in ((0, 9), (3, 12))],
    # [given warmup_steps, total steps, warm-up steps]
    "warmup": [[v, s, warmup(s, v)] for v, s in ((0, 10), (3, 10), (1, 10), (2.7, 10), (0.1, 10), (0.15, 10), (0.03, 500), (0.5, 7), (0.999, 3))],
}))
