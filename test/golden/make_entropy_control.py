"""The adaptive entropy bonus as TRL's own `GRPOTrainer._compute_loss` applies it, the reference of test/unit/entropy-control.test.ts.

usage: make_entropy_control.py > entropy-control.json (needs trl 1.16 and torch; no model)
Each case gives the entropies (nats) and the mask of every micro-batch of every optimizer step. Advantages are 0, so the loss is only the
bonus, which reveals the applied coefficient; the entropies replace a model's, everything else is TRL's code.
"""
import json
from collections import defaultdict
from types import SimpleNamespace
import torch, trl
from trl.trainer.grpo_trainer import GRPOTrainer

# The mean entropies of five steps; a quarter is an exact float, so that "at the target" is well defined.
RISING = [0.50, 0.10, 0.19, 0.10, 0.30]
CASES = {
    "starts above the target": dict(entropies=RISING),
    "starts under the target": dict(entropies=[0.10, 0.15, 0.19, 0.30, 0.05]),
    "on the target": dict(entropies=[0.25, 0.25, 0.25, 0.5, 0.25], entropy_target=0.25, spread=0.0),
    "to its largest": dict(entropies=[0.1] * 5, entropy_coef=0.012),
    "to its least": dict(entropies=[0.9, 0.9, 0.9, 0.1, 0.1], entropy_coef=0.008, entropy_coef_min=0.002),
    "from nothing": dict(entropies=[0.1] * 5, entropy_coef=0.0),
    "two micro-batches a step": dict(entropies=RISING, accumulation=2),
    "four micro-batches a step, two steps a generation": dict(entropies=RISING, accumulation=4, steps_per_generation=8),
    "the highest entropies alone": dict(entropies=RISING, accumulation=2, top_entropy_quantile=0.5),
    "without adaptation": dict(entropies=RISING, use_adaptive_entropy=False),
}
DEFAULTS = dict(entropy_coef=0.01, entropy_coef_min=0.0, entropy_coef_max=0.02, entropy_coef_delta=0.005, entropy_target=0.2,
                use_adaptive_entropy=True, accumulation=1, steps_per_generation=None, spread=0.05, top_entropy_quantile=1.0)


class Accelerator(SimpleNamespace):
    """Of one process."""
    gather = gather_for_metrics = staticmethod(lambda x: x)
    reduce = staticmethod(lambda x, reduction=None: x)
    pad_across_processes = staticmethod(lambda x, dim=0, pad_index=0: x)


def micro_batches(mean, accumulation, spread, generator):
    """Entropies around a mean: every micro-batch has 3 completions of different lengths, and differs a little from the step's mean."""
    batches = []
    for k in range(accumulation):
        lengths = torch.tensor([2 + k, 4, 3])
        mask = (torch.arange(6 + accumulation)[None, :] < lengths[:, None]).float()
        entropies = mean + spread * mean * (torch.rand(mask.shape, generator=generator) - 0.5)
        batches.append((entropies, mask))
    # Shifted so that the token mean of the whole step is the requested one.
    total = sum((e * m).sum() for e, m in batches) / sum(m.sum() for _, m in batches)
    return [((e + mean - total), m) for e, m in batches]


def run(case):
    s = SimpleNamespace(**{**DEFAULTS, **case})
    generator = torch.Generator().manual_seed(3)
    model = SimpleNamespace(training=True)
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    adaptive = {k: getattr(s, k) for k in ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target")}
    trainer.__dict__.update(
        args=SimpleNamespace(**adaptive, delta=None, use_bias_correction_kl=False, steps_per_generation=s.steps_per_generation or s.accumulation),
        model=model, accelerator=Accelerator(num_processes=1, sync_gradients=False), _metrics={"train": defaultdict(list)},
        entropy_coef=s.entropy_coef, use_adaptive_entropy=s.use_adaptive_entropy, _entropy_bonus_enabled=True,
        _entropy_window_stats=None, _last_world_entropy=float("inf"), top_entropy_quantile=s.top_entropy_quantile,
        off_policy_mask_threshold=None, importance_sampling_level="token", beta=0.0, loss_type="grpo", epsilon_low=0.2, epsilon_high=0.2,
        aux_loss_enabled=False, use_vllm=False, current_gradient_accumulation_steps=s.accumulation)
    steps = []
    for mean in s.entropies:
        batches, applied, kept = micro_batches(mean, s.accumulation, s.spread, generator), [], []
        for k, (entropies, mask) in enumerate(batches):
            trainer.accelerator.sync_gradients = k == s.accumulation - 1
            zeros = torch.zeros_like(mask)
            trainer._get_per_token_logps_and_entropies = lambda *a, **b: (zeros.clone().requires_grad_(), entropies, None)
            ids = torch.zeros_like(mask, dtype=torch.long)
            inputs = dict(prompt_ids=ids[:, :1], prompt_mask=ids[:, :1] + 1, completion_ids=ids, completion_mask=mask, advantages=torch.zeros(3))
            loss = trainer._compute_loss(model, inputs).item()
            acts = mask if s.top_entropy_quantile >= 1 else mask * trainer.get_high_entropy_mask(entropies, mask, 1 - s.top_entropy_quantile)
            bonus = ((entropies * acts).sum() / acts.sum() / s.accumulation).item()
            applied.append(-loss / bonus)
            kept.append([[e for e, a in zip(row, on) if a] for row, on in zip(entropies.tolist(), acts.tolist())])
        spread = max(applied) - min(applied)
        assert spread < 1e-7, "micro-batches of one step apply different coefficients"
        steps.append(dict(applied=round(applied[0], 7), logged=trainer._metrics["train"]["entropy_coef"][-1], entropies=kept))
    return dict(settings={k: v for k, v in vars(s).items() if k not in ("entropies", "accumulation", "steps_per_generation", "spread")}, steps=steps)


print(json.dumps({"made_with": {"trl": trl.__version__, "torch": torch.__version__.split("+")[0]}, "cases": {name: run(case) for name, case in CASES.items()}}))
