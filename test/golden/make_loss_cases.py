"""Gradients of the policy loss by torch's autograd, in float64, the reference of the analytic ones in test/unit/loss.test.ts.

usage: make_loss_cases.py > loss-cases.json (needs torch alone)
Every loss type with every option, on one small batch of random numbers and on one that sits on the kinks
(old logprobs equal to the new ones, and a bound of 1: the ratio is on the bound, and both arguments of the minimum are equal).
"""
import json, math, torch

torch.manual_seed(5)
B, T = 7, 6
LENGTHS = [1, 6, 3, 4, 2, 5, 6]
FINISHED = [True, False, True, True, True, False, True]
ADVANTAGES = [1.3, -0.7, 0.0, 0.4, -1.6, -0.9, 2.1]
rand = lambda scale: torch.randn(B, T, dtype=torch.float64) * scale
logprobs = -torch.rand(B, T, dtype=torch.float64) * 4 - 0.1
RANDOM = {"logprobs": logprobs, "entropies": torch.rand(B, T, dtype=torch.float64) * 3,
          "old_logprobs": logprobs + rand(0.3), "ref_logprobs": logprobs + rand(0.4), "sampling_logprobs": logprobs + rand(0.25)}
KINKS = {**RANDOM, "old_logprobs": logprobs.clone()}
ON_POLICY = {**RANDOM, "old_logprobs": None}
BATCHES = {"random": RANDOM, "kinks": KINKS, "on_policy": ON_POLICY}
DEFAULTS = dict(loss_type="grpo", epsilon=0.2, epsilon_high=None, delta=None, beta=0.0, kl_estimator="k3", use_bias_correction_kl=False,
                importance_sampling_level="token", max_completion_length=9, per_device_train_batch_size=None, mask_truncated_completions=False,
                top_entropy_quantile=1.0, entropy_coef=0.0, off_policy_mask_threshold=None, importance_sampling_correction=False,
                importance_sampling_mode="sequence_mask", importance_sampling_clip_max=3.0, importance_sampling_clip_min=None,
                sapo_temperature_pos=1.0, sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0)
OPTIONS = {
    "plain": {}, "kl_k1": dict(beta=0.3, kl_estimator="k1"), "kl_k2": dict(beta=0.3, kl_estimator="k2"), "kl_k3": dict(beta=0.3),
    "kl_corrected": dict(beta=0.3, use_bias_correction_kl=True), "clip_higher": dict(epsilon=0.1, epsilon_high=0.35),
    "two_sided": dict(delta=1.25, epsilon=0.05), "masked_truncated": dict(mask_truncated_completions=True, beta=0.1),
    "off_policy": dict(off_policy_mask_threshold=0.02, beta=0.1), "top_entropy": dict(top_entropy_quantile=0.37, entropy_coef=0.05),
    "all_on": dict(beta=0.2, use_bias_correction_kl=True, top_entropy_quantile=0.6, entropy_coef=0.02, off_policy_mask_threshold=0.05,
                   importance_sampling_correction=True, importance_sampling_mode="token_truncate", importance_sampling_clip_max=1.1,
                   mask_truncated_completions=True),
    **{f"sampler_{mode}": dict(importance_sampling_correction=True, importance_sampling_mode=mode, importance_sampling_clip_max=1.2,
                               importance_sampling_clip_min=0.8)
       for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")},
}


def loss_of(batch, c):
    lp = batch["logprobs"].clone().requires_grad_(); ent = batch["entropies"].clone().requires_grad_()
    m = torch.tensor([[float(t < n) for t in range(T)] for n in LENGTHS], dtype=torch.float64)
    if c["mask_truncated_completions"]: m = m * torch.tensor(FINISHED).unsqueeze(1)
    A = torch.tensor(ADVANTAGES, dtype=torch.float64).unsqueeze(1)
    old = lp.detach() if batch["old_logprobs"] is None else batch["old_logprobs"]
    n = m.sum(1, keepdim=True).clamp(min=1)
    high = c["epsilon"] if c["epsilon_high"] is None else c["epsilon_high"]
    keep = torch.ones(B, 1, dtype=torch.float64)
    if c["off_policy_mask_threshold"] is not None:
        moved = ((batch["sampling_logprobs"] - lp.detach()) * m).sum(1, keepdim=True) / n
        keep = ((A >= 0) | (moved <= c["off_policy_mask_threshold"])).double()
    ent_mask = torch.ones_like(m)
    if c["top_entropy_quantile"] < 1:
        ent_mask = (ent.detach() >= torch.quantile(ent.detach()[m > 0], 1 - c["top_entropy_quantile"])).double()
    sampler = None
    if c["importance_sampling_correction"]:
        d = (old - batch["sampling_logprobs"]) * m
        if c["importance_sampling_mode"].startswith("sequence"): d = d.sum(1, keepdim=True)
        lo, hi = c["importance_sampling_clip_min"], c["importance_sampling_clip_max"]
        sampler = d.exp()
        if c["importance_sampling_mode"].endswith("truncate"): sampler = sampler.clamp(lo, hi)
        else: sampler = sampler.masked_fill((sampler < (-math.inf if lo is None else lo)) | (sampler > hi), 0.0)
    log_ratio = lp - old
    ratio = (log_ratio if c["importance_sampling_level"] == "token" else (log_ratio * m).sum(1, keepdim=True) / n).exp()
    kind = c["loss_type"]
    if kind == "cispo": term = -ratio.clamp(max=high).detach() * A * lp
    elif kind == "sapo":
        tau = c["sapo_temperature_neg"] + (A > 0).double() * (c["sapo_temperature_pos"] - c["sapo_temperature_neg"])
        term = -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * A
    elif kind == "vespo":
        logw = (log_ratio.detach().clamp(-20, 20) * m).sum(1, keepdim=True)
        if sampler is not None: logw = logw + ((sampler.log().clamp(math.log(1e-8), 20)) * (m if sampler.shape[1] > 1 else 1)).sum(1, keepdim=True)
        logw = logw.clamp(math.log(1e-8), 20)
        k = torch.where(A >= 0, c["vespo_k_pos"], c["vespo_k_neg"]); lam = torch.where(A >= 0, c["vespo_lambda_pos"], c["vespo_lambda_neg"])
        term = -torch.exp(lam + k * logw - lam * logw.exp()) * A * lp
    else:
        free = ratio if c["delta"] is None else ratio.clamp(max=c["delta"])
        term = -torch.min(free * A, ratio.clamp(1 - c["epsilon"], 1 + high) * A)
    term = term * keep * ent_mask
    if sampler is not None and kind != "vespo": term = term * sampler
    if c["beta"] != 0:
        x = batch["ref_logprobs"] - lp
        kl = {"k1": -x, "k2": x * x / 2, "k3": x.exp() - x - 1}[c["kl_estimator"]]
        term = term + c["beta"] * (kl * ratio if c["use_bias_correction_kl"] else kl)
    sums = (term * m).sum(1)
    if kind in ("grpo", "sapo"): loss = (sums / n.squeeze(1)).mean()
    elif kind == "luspo": loss = sums.mean()
    elif kind == "dr_grpo": loss = sums.sum() / (B * c["max_completion_length"])
    elif kind == "bnpo":
        size = c["per_device_train_batch_size"] or B
        loss = torch.stack([sums[i:i + size].sum() / m[i:i + size].sum().clamp(min=1) for i in range(0, B, size)]).mean()
    else: loss = sums.sum() / m.sum()
    both = m * ent_mask
    if c["entropy_coef"] != 0: loss = loss - c["entropy_coef"] * (ent * both).sum() / both.sum().clamp(min=1)
    loss.backward()
    grad = lambda x: (torch.zeros_like(m) if x.grad is None else x.grad)
    rows = lambda x: [r[:k].tolist() for r, k in zip(x, LENGTHS)]
    return dict(loss=loss.item(), dlogprobs=rows(grad(lp)), dentropies=rows(grad(ent)) if c["entropy_coef"] else None)


def cases():
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"):
        for level in ("token", "sequence"):
            # The clipped surrogate's types differ only in aggregation: options that act before it need just one of them.
            names = OPTIONS if kind in ("grpo", "cispo", "sapo", "vespo") else ("plain", "all_on")
            for name in names:
                yield "random", dict(loss_type=kind, importance_sampling_level=level, **OPTIONS[name])
            yield "on_policy", dict(loss_type=kind, importance_sampling_level=level, **OPTIONS["kl_corrected"])
            for kink in (dict(epsilon=0.0), dict(epsilon=0.0, epsilon_high=0.2), dict(epsilon=0.2, epsilon_high=0.0), dict(delta=1.0)):
                yield "kinks", dict(loss_type=kind, importance_sampling_level=level, **kink)
        if kind == "bnpo": yield "random", dict(loss_type=kind, per_device_train_batch_size=3)


rows = lambda x: None if x is None else [r[:k].tolist() for r, k in zip(x, LENGTHS)]
print(json.dumps({"made_with": {"torch": torch.__version__.split("+")[0]}, "finished": FINISHED, "advantages": ADVANTAGES, "defaults": DEFAULTS,
                  "batches": {name: {k: rows(v) for k, v in b.items()} for name, b in BATCHES.items()},
                  "cases": [dict(batch=b, config=c, **loss_of(BATCHES[b], {**DEFAULTS, **c})) for b, c in cases()]}))
