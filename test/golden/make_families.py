"""Reference numbers of each model family: tiny random models of transformers, TRL's own GRPO loss, torch.optim.AdamW.

    python test/golden/make_families.py test/golden/families data/model [NAME ...]

Writes a folder per family (only the named ones, if any): the model as transformers saves it, rollouts.jsonl,
expected.json with logprobs, entropies, losses and gradient norms of three steps, the first step's gradients
(grads-grpo.safetensors) and the weights after the third (updated-grpo.safetensors), all in float32. The second argument
is a folder with any tokenizer, which the trainer asks for; only ids are used. As make_reference.py does for more loss
types on fewer families.
"""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.models.mixtral import modeling_mixtral
from trl import GRPOConfig, GRPOTrainer

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
transformers.logging.set_verbosity_error()

SAMPLES, GROUPS, LONGEST, STEPS = 4, 3, 16, 3
LEARNING_RATE = 1e-3
LOSS = {
    "temperature": 1.0,
    "epsilon": 0.2,
    "use_bias_correction_kl": False,
    "scale_rewards": "group",
    "importance_sampling_level": "token",
    "loss_type": "grpo",
    "beta": 0.04,
}

BASE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}


def rope(theta, rope_type="default", **fields):
    return {"rope_type": rope_type, "rope_theta": theta, **fields}


def llama3():
    scaling = rope(
        1e4,
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    config = LlamaConfig(**BASE, tie_word_embeddings=True, rope_parameters=scaling)
    return LlamaForCausalLM(config)


def qwen2_yarn():
    scaling = rope(1e4, "yarn", factor=4.0, original_max_position_embeddings=32)
    return Qwen2ForCausalLM(Qwen2Config(**BASE, rope_parameters=scaling))


def smollm3():
    fields = {**BASE, "num_hidden_layers": 4}
    config = SmolLM3Config(
        **fields,
        no_rope_layer_interval=2,
        tie_word_embeddings=True,
        rope_parameters=rope(1e4),
    )
    return SmolLM3ForCausalLM(config)


def mistral():
    fields = {**BASE, "num_key_value_heads": 1}
    config = MistralConfig(
        **fields, head_dim=12, sliding_window=7, rope_parameters=rope(1e4)
    )
    return MistralForCausalLM(config)


def olmo2():
    return Olmo2ForCausalLM(Olmo2Config(**BASE, rope_parameters=rope(5e5)))


def phi3():
    config = Phi3Config(
        **BASE,
        sliding_window=9,
        original_max_position_embeddings=128,
        rope_parameters=rope(1e4),
    )
    return Phi3ForCausalLM(config)


def gemma3(**own):
    fields = {**BASE, "num_hidden_layers": 3}
    config = Gemma3TextConfig(
        **fields,
        **own,
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        final_logit_softcapping=3.0,
        rope_parameters={
            "full_attention": rope(1e5, "linear", factor=2.0),
            "sliding_attention": rope(1e3),
        },
    )
    return Gemma3ForCausalLM(config)


def qwen3_moe():
    fields = {**BASE, "num_hidden_layers": 3}
    config = Qwen3MoeConfig(
        **fields,
        head_dim=8,
        moe_intermediate_size=16,
        num_experts=5,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        mlp_only_layers=[1],
        rope_parameters=rope(1e4),
    )
    return Qwen3MoeForCausalLM(config)


def gemma3_untied():
    return gemma3(tie_word_embeddings=False, attention_bias=True)


def qwen3_moe_tied():
    fields = {**BASE, "num_hidden_layers": 4}
    config = Qwen3MoeConfig(
        **fields,
        head_dim=8,
        moe_intermediate_size=24,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=False,
        decoder_sparse_step=2,
        router_aux_loss_coef=0.05,
        tie_word_embeddings=True,
        rope_parameters=rope(1e4),
    )
    return Qwen3MoeForCausalLM(config)


# Weights of the loss of an unbalanced load, 0 by default.
ROUTER_AUX_LOSS = {"qwen3-moe-tied": 0.05}

MODELS = {
    "llama3": llama3,
    "qwen2-yarn": qwen2_yarn,
    "smollm3": smollm3,
    "mistral": mistral,
    "olmo2": olmo2,
    "phi3": phi3,
    "gemma3": gemma3,
    "qwen3-moe": qwen3_moe,
    "gemma3-untied": gemma3_untied,
    "qwen3-moe-tied": qwen3_moe_tied,
}


def without_last_tokens(load_balancing_loss):
    """Of rows padded on both sides, leaves the last token out, after which nothing is predicted: no trainer computes it."""

    def loss(gate_logits, num_experts=None, top_k=2, attention_mask=None):
        mask = attention_mask.clone()
        for row in mask:
            row[row.nonzero().max()] = 0
        return load_balancing_loss(gate_logits, num_experts, top_k, mask)

    return loss


# TRL takes it from there for every mixture.
modeling_mixtral.load_balancing_loss_func = without_last_tokens(
    modeling_mixtral.load_balancing_loss_func
)


def randomize(model):
    """Livelier weights than the default ones, so that every path matters to the loss."""
    for name, weight in model.named_parameters():
        scale = 0.12 if weight.dim() > 1 else 0.2
        # Gemma's norms multiply by 1 + weight.
        mean = 1.0 if "norm" in name and "Gemma" not in type(model).__name__ else 0.0
        weight.data = torch.randn_like(weight) * scale + mean
    model.tie_weights()


def make_rollouts(vocabulary, generator):
    """Completions of random ids in groups, with rewards; the last of a group is cut at the length limit."""

    def integers(low, high, count):
        return torch.randint(low, high, (count,), generator=generator).tolist()

    rows = []
    for group in range(GROUPS):
        prompt = integers(3, vocabulary, integers(4, 14, 1)[0])
        for sample in range(SAMPLES):
            cut = sample == SAMPLES - 1
            ids = integers(
                3, vocabulary, LONGEST if cut else integers(1, LONGEST, 1)[0]
            )
            if not cut:
                ids[-1] = 2
            reward = float(integers(0, 2, 1)[0]) if group else float(sample == 1)
            rows.append(
                {
                    "group": group,
                    "prompt_ids": prompt,
                    "completion_ids": ids,
                    "finished": not cut,
                    "reward": reward,
                }
            )
    rows[5]["reward"] = 0.25
    return rows


def padded(rows, key, left):
    """Ids and mask, (rows, longest)."""
    longest = max(len(row[key]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        count = len(row[key])
        place = slice(longest - count, None) if left else slice(0, count)
        ids[i, place] = torch.tensor(row[key])
        mask[i, place] = 1
    return ids, mask


def open_trainer(model, folder, tokenizer, router_aux_loss):
    model.config._name_or_path = str(folder)
    arguments = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=GROUPS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=LONGEST,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=True,
        router_aux_loss_coef=router_aux_loss,
        **LOSS,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def unpadded(values, rows):
    return [
        values[i, : len(row["completion_ids"])].tolist() for i, row in enumerate(rows)
    ]


def save_like_checkpoint(model, values, folder, name):
    """`values`, by parameter, as transformers would save them: experts by themselves, tied ones once."""
    weights = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    for key, weight in model.named_parameters():
        weight.data.copy_(values[key])
    with tempfile.TemporaryDirectory() as temporary:
        model.save_pretrained(temporary)
        saved = Path(temporary) / "model.safetensors"
        (folder / name).write_bytes(saved.read_bytes())
    for key, weight in model.named_parameters():
        weight.data.copy_(weights[key])


def make(index, name, folder, tokenizer):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(100 + index)
    model = MODELS[name]().float()
    randomize(model)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(200 + index)
    rows = make_rollouts(model.config.vocab_size, generator)
    prompt_ids, prompt_mask = padded(rows, "prompt_ids", left=True)
    completion_ids, completion_mask = padded(rows, "completion_ids", left=False)
    router_aux_loss = ROUTER_AUX_LOSS.get(name, 0.0)
    trainer = open_trainer(model, folder, tokenizer, router_aux_loss)
    with torch.no_grad():
        logprobs, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([prompt_ids, completion_ids], 1),
            torch.cat([prompt_mask, completion_mask], 1),
            completion_ids.shape[1],
            compute_entropy=True,
        )

    def noisy(scale):
        noise = torch.randn(logprobs.shape, generator=generator) * scale
        return ((logprobs + noise) * 1e6).round() / 1e6

    recorded = {
        "old_logprobs": noisy(0.15),
        "ref_logprobs": noisy(0.3),
        "sampling_logprobs": noisy(0.1),
    }
    for key, values in recorded.items():
        for row, own in zip(rows, unpadded(values, rows), strict=True):
            row[key] = [round(value, 6) for value in own]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rollouts.jsonl").write_text(lines)

    rewards = torch.tensor([row["reward"] for row in rows]).view(-1, SAMPLES)
    centered = rewards - rewards.mean(1, keepdim=True)
    advantages = (centered / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": advantages,
        "old_per_token_logps": recorded["old_logprobs"],
        "ref_per_token_logps": recorded["ref_logprobs"],
        "sampling_per_token_logps": recorded["sampling_logprobs"],
        "num_items_in_batch": completion_mask.sum(),
    }
    trained = trainer.model
    optimizer = torch.optim.AdamW(
        trained.parameters(),
        lr=LEARNING_RATE,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
    )
    losses, norms, metrics = [], [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = trainer._compute_loss(trained, inputs)
        loss.backward()
        if step == 0:
            gradients = {key: w.grad for key, w in trained.named_parameters()}
            save_like_checkpoint(trained, gradients, folder, "grads-grpo.safetensors")
            logged = trainer._metrics["train"]
            metrics = {
                key: values[-1]
                for key, values in logged.items()
                if values and isinstance(values[-1], (int, float))
            }
        norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    weights = dict(trained.named_parameters())
    save_like_checkpoint(trained, weights, folder, "updated-grpo.safetensors")
    case = {
        # TRL has each step's router choose anew.
        "config": {
            **LOSS,
            "router_aux_loss_coef": router_aux_loss,
            "router_replay": False,
        }
        if "moe" in name
        else LOSS,
        "advantages": advantages.tolist(),
        "loss": losses,
        "grad_norm": norms,
        "metrics_first_iteration": metrics,
    }
    expected = {
        "made_with": {
            "trl": trl.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0],
        },
        "settings": {
            "num_generations": SAMPLES,
            "max_completion_length": LONGEST,
            "learning_rate": LEARNING_RATE,
            "weight_decay": 0.0,
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "adam_epsilon": 1e-8,
            "max_grad_norm": 1.0,
            "num_iterations": STEPS,
            "lr_scheduler_type": "constant",
            "dtype": "float32",
        },
        "logprobs": unpadded(logprobs, rows),
        "entropies": unpadded(entropies, rows),
        "cases": {"grpo": case},
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(name, "losses", losses, "norms", norms, flush=True)


def main():
    out, tokenizer_folder, *names = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    for index, name in enumerate(MODELS):
        if not names or name in names:
            make(index, name, Path(out) / name, tokenizer)


main()
