"""Losses of the steps that one generation serves, by TRL's own `GRPOTrainer._compute_loss`, the reference of test/unit/generation-steps.test.ts.

usage: make_split_losses.py > split-losses.json (needs trl 1.16 and torch; no model)
A generation of 24 completions is cut into micro-batches of 4, and these into optimizer steps: sizes that hold parts of groups of 6. Each case
gives the loss of every step (the sum over its micro-batches) and the gradients of its logprobs. Logprobs stand in for a model's.
"""
import json
from collections import defaultdict
from types import SimpleNamespace
import torch, trl
from trl.trainer.grpo_trainer import GRPOTrainer

N, MICRO, T = 24, 4, 7
g = torch.Generator().manual_seed(11)
rand = lambda *shape: torch.rand(*shape, generator=g)
lengths = torch.randint(1, T + 1, (N,), generator=g)
MASK = (torch.arange(T)[None, :] < lengths[:, None]).float()
FINISHED = (rand(N) > 0.25)
LOGPROBS = -3 * rand(N, T)
OLD = LOGPROBS + 0.3 * (rand(N, T) - 0.5)
REF = LOGPROBS + 0.4 * (rand(N, T) - 0.5)
ADVANTAGES = 2 * rand(N) - 1


class Accelerator(SimpleNamespace):
    """Of one process."""
    gather = gather_for_metrics = staticmethod(lambda x: x)
    reduce = staticmethod(lambda x, reduction=None: x)


def run(loss_type, accumulation, per_generation, masked):
    mask = MASK * FINISHED[:, None] if masked else MASK
    high = 5.0 if loss_type == "cispo" else 0.28
    model = SimpleNamespace(training=True)
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.__dict__.update(
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=per_generation, sapo_temperature_pos=1.0,
                             sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0),
        model=model, accelerator=Accelerator(num_processes=1, sync_gradients=True), _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False, use_adaptive_entropy=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token", beta=0.05, loss_type=loss_type, epsilon_low=0.2, epsilon_high=high, max_completion_length=T,
        aux_loss_enabled=False, use_vllm=False, vllm_importance_sampling_correction=False, current_gradient_accumulation_steps=accumulation)
    steps = []
    for start in range(0, N, MICRO * accumulation):
        loss, rows = 0.0, []
        for at in range(start, start + MICRO * accumulation, MICRO):
            part = slice(at, at + MICRO)
            logprobs = LOGPROBS[part].clone().requires_grad_()
            trainer._get_per_token_logps_and_entropies = lambda *a, **b: (logprobs, torch.zeros_like(logprobs), None)
            ids = torch.zeros(MICRO, T, dtype=torch.long)
            value = trainer._compute_loss(model, dict(
                prompt_ids=ids[:, :1], prompt_mask=ids[:, :1] + 1, completion_ids=ids, completion_mask=mask[part], advantages=ADVANTAGES[part],
                old_per_token_logps=OLD[part], ref_per_token_logps=REF[part], num_items_in_batch=mask.sum()))
            value.backward()
            loss += value.item()
            rows += [row[:n].tolist() for row, n in zip(logprobs.grad, lengths[part])]
        steps.append(dict(loss=loss, gradients=[[float(f"{x:.5g}") for x in row] for row in rows]))
    return dict(loss_type=loss_type, epsilon_high=high, gradient_accumulation_steps=accumulation, steps_per_generation=per_generation,
                mask_truncated_completions=masked, steps=steps)


rows = lambda x: [[float(f"{v:.9g}") for v in r[:n].tolist()] for r, n in zip(x, lengths)]
print(json.dumps({
    "made_with": {"trl": trl.__version__, "torch": torch.__version__.split("+")[0]},
    "per_device_train_batch_size": MICRO, "num_generations": 6, "max_completion_length": T, "beta": 0.05, "epsilon": 0.2,
    "finished": FINISHED.tolist(), "advantages": [float(f"{v:.9g}") for v in ADVANTAGES.tolist()],
    "logprobs": rows(LOGPROBS), "old_logprobs": rows(OLD), "ref_logprobs": rows(REF),
    "cases": [run(kind, *split, masked=(kind in ("grpo", "dapo"))) for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
              for split in ((1, 6), (2, 6), (6, 6))],
}))
