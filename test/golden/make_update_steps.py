"""Optimizer steps of one generation by TRL's own loss code, a transformers model and torch.optim.AdamW, the reference of `grpo update` in test/e2e/update-steps.test.ts.

usage: make_update_steps.py > update-steps.json (needs trl 1.16, torch, transformers)
The 12 completions of qwen3-qknorm/rollouts.jsonl, shuffled, are learned from twice in two steps of two micro-batches of 3: steps hold parts of groups of
4. The policy before the first step is the one that sampled. Each case gives loss and gradient norm of the four steps.
"""
import json, os, random
from collections import defaultdict
from types import SimpleNamespace
import torch, transformers, trl
from trl.trainer.grpo_trainer import GRPOTrainer

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "qwen3-qknorm")
MICRO, ACCUMULATION, STEPS, ITERATIONS, RATE = 3, 2, 2, 2, 0.003
CASES = {
    "dapo": dict(loss_type="dapo", epsilon_high=0.28),
    "grpo, bias-corrected KL": dict(loss_type="grpo", beta=0.1, use_bias_correction_kl=True, scale_rewards="batch"),
    "bnpo, truncated completions masked": dict(loss_type="bnpo", beta=0.05, mask_truncated_completions=True, temperature=0.8),
    "dr_grpo with delta": dict(loss_type="dr_grpo", scale_rewards="none", delta=1.3),
    "cispo": dict(loss_type="cispo", epsilon_high=1.1),
    "sapo by sequence": dict(loss_type="sapo", beta=0.02, importance_sampling_level="sequence", use_bias_correction_kl=True),
    "luspo": dict(loss_type="luspo", importance_sampling_level="sequence", epsilon=0.02),
    "vespo, truncated completions masked": dict(loss_type="vespo", mask_truncated_completions=True),
    "dapo with the off-policy mask": dict(loss_type="dapo", beta=0.01, off_policy_mask_threshold=0.02),
}

rows = [json.loads(line) for line in open(os.path.join(FOLDER, "rollouts.jsonl"))]
order = list(range(len(rows)))
random.Random(3).shuffle(order)
T = max(len(row["completion_ids"]) for row in rows)
P = max(len(row["prompt_ids"]) for row in rows)
left = lambda values: [0] * (P - len(values)) + values
right = lambda values: values + [0] * (T - len(values))
PROMPTS = torch.tensor([left(row["prompt_ids"]) for row in rows])
PROMPT_MASK = torch.tensor([left([1] * len(row["prompt_ids"])) for row in rows])
IDS = torch.tensor([right(row["completion_ids"]) for row in rows])
MASK = torch.tensor([right([1] * len(row["completion_ids"])) for row in rows])
REFERENCE = torch.tensor([right(row["ref_logprobs"]) for row in rows])
REWARDS = torch.tensor([row["reward"] for row in rows]).view(3, 4)


class Accelerator(SimpleNamespace):
    """Of one process."""
    gather = gather_for_metrics = staticmethod(lambda x: x)
    reduce = staticmethod(lambda x, reduction=None: x)


def logprobs(model, which, temperature):
    mask = torch.cat([PROMPT_MASK[which], MASK[which]], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=torch.cat([PROMPTS[which], IDS[which]], 1), attention_mask=mask, position_ids=positions).logits
    logs = (logits[:, -T - 1 : -1].float() / temperature).log_softmax(-1)
    return logs.gather(-1, IDS[which][..., None])[..., 0], -(logs.exp() * logs).sum(-1)


def run(case):
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    temperature, scale = case.get("temperature", 1.0), case.get("scale_rewards", "group")
    advantages = REWARDS - REWARDS.mean(1, keepdim=True)
    if scale != "none":
        advantages = advantages / ((REWARDS.std(1, keepdim=True) if scale == "group" else REWARDS.std()) + 1e-4)
    advantages = advantages.flatten()
    mask = MASK * torch.tensor([[int(row["finished"])] for row in rows]) if case.get("mask_truncated_completions") else MASK
    with torch.no_grad():
        old, _ = logprobs(model, order, temperature)
    old = old[torch.tensor(order).argsort()]
    stand_in = SimpleNamespace(training=True)
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.__dict__.update(
        args=SimpleNamespace(delta=case.get("delta"), use_bias_correction_kl=case.get("use_bias_correction_kl", False),
                             steps_per_generation=STEPS * ACCUMULATION, sapo_temperature_pos=1.0, sapo_temperature_neg=1.05, vespo_k_pos=2.0,
                             vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0),
        model=stand_in, accelerator=Accelerator(num_processes=1, sync_gradients=True), _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False, use_adaptive_entropy=False, top_entropy_quantile=1.0, aux_loss_enabled=False, use_vllm=False,
        off_policy_mask_threshold=case.get("off_policy_mask_threshold"), importance_sampling_level=case.get("importance_sampling_level", "token"),
        beta=case.get("beta", 0.0), loss_type=case["loss_type"], epsilon_low=case.get("epsilon", 0.2),
        epsilon_high=case.get("epsilon_high", case.get("epsilon", 0.2)), max_completion_length=T,
        vllm_importance_sampling_correction=False, current_gradient_accumulation_steps=ACCUMULATION)
    groups = [[p for p in model.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW([dict(params=groups[0], weight_decay=0.1), dict(params=groups[1], weight_decay=0.0)], lr=RATE)
    steps = []
    for _ in range(ITERATIONS):
        for start in range(0, len(rows), MICRO * ACCUMULATION):
            optimizer.zero_grad()
            loss = 0.0
            for at in range(start, start + MICRO * ACCUMULATION, MICRO):
                which = order[at : at + MICRO]
                trainer._get_per_token_logps_and_entropies = lambda *a, **b: (*logprobs(model, which, temperature), None)
                value = trainer._compute_loss(stand_in, dict(
                    prompt_ids=PROMPTS[which], prompt_mask=PROMPT_MASK[which], completion_ids=IDS[which], completion_mask=mask[which],
                    advantages=advantages[which], old_per_token_logps=old[which], ref_per_token_logps=REFERENCE[which], num_items_in_batch=mask.sum()))
                value.backward()
                loss += value.item()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
            optimizer.step()
            steps.append([float(f"{loss:.8g}"), float(f"{norm:.8g}")])
    return steps


torch.set_num_threads(1)
print(json.dumps({
    "made_with": {"trl": trl.__version__, "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
    "order": order, "completions_per_step": MICRO * ACCUMULATION,
    "settings": {"per_device_train_batch_size": MICRO, "num_iterations": ITERATIONS, "learning_rate": RATE, "weight_decay": 0.1, "max_grad_norm": 1,
                 "max_completion_length": T, "beta": 0},
    "cases": [{"name": name, "settings": case, "steps": run(case)} for name, case in CASES.items()],
}))
