"""Reference numbers of LoRA: PEFT's adapters on the models of make_reference.py, with TRL's own loss code and torch.optim.AdamW.

usage: make_lora.py GOLDEN (the folder with the models, rollouts.jsonl and expected.json) TOKENIZER_FOLDER (any: only ids are used)
Writes GOLDEN/lora/MODEL: the adapter as PEFT saves it (its base is called MODEL), expected.json, gradients, and the adapter after three steps.
"""
import sys, os, json, tempfile, warnings, torch, trl, peft, transformers
warnings.filterwarnings("ignore"); transformers.logging.set_verbosity_error()
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from trl import GRPOConfig, GRPOTrainer
golden, tokdir = sys.argv[1:3]
tok = AutoTokenizer.from_pretrained(tokdir)
MODELS = {
    "llama-tied": dict(r=4, lora_alpha=6, target_modules="all-linear"),
    "qwen2-bias": dict(r=16, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"], use_rslora=True, modules_to_save=["lm_head"]),
    "qwen3-qknorm": dict(r=3, lora_alpha=3, target_modules="all-linear", modules_to_save=["norm", "embed_tokens"]),
}
ds = Dataset.from_list([{"prompt": "a"}] * 8)
G, MAXC, LR, ITER = 4, 16, 1e-3, 3
saved_name = lambda n: n.replace(".modules_to_save.default", "").replace(".default", "")
for mi, (name, settings) in enumerate(MODELS.items()):
    base, out = os.path.join(golden, name), os.path.join(golden, "lora", name)
    os.makedirs(out, exist_ok=True)
    rows = [json.loads(line) for line in open(os.path.join(base, "rollouts.jsonl"))]
    given = json.load(open(os.path.join(base, "expected.json")))
    def make():
        m = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings))
        g = torch.Generator().manual_seed(41 + mi)
        for n, p in m.named_parameters():  # neither matrix zero, so that every gradient is of some size
            if not p.requires_grad: continue
            p.data = torch.randn(p.shape, generator=g) * (0.3 * p.shape[-1] ** -0.5 if "lora" in n else 0.15) + (1.0 if p.dim() == 1 else 0.0)
        return m
    P, C = max(len(r["prompt_ids"]) for r in rows), max(len(r["completion_ids"]) for r in rows)
    pid = torch.zeros(len(rows), P, dtype=torch.long); pm = torch.zeros_like(pid); cid = torch.zeros(len(rows), C, dtype=torch.long); cm = torch.zeros_like(cid)
    for b, r in enumerate(rows):
        pid[b, P - len(r["prompt_ids"]):] = torch.tensor(r["prompt_ids"]); pm[b, P - len(r["prompt_ids"]):] = 1
        cid[b, :len(r["completion_ids"])] = torch.tensor(r["completion_ids"]); cm[b, :len(r["completion_ids"])] = 1
    pad = lambda k: torch.tensor([r[k] + [0.0] * (C - len(r[k])) for r in rows])
    def trainer(m, **kw):
        a = GRPOConfig(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=12, num_generations=G, max_completion_length=MAXC, use_cpu=True, bf16=False,
            report_to=[], save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, **kw)
        t = GRPOTrainer(model=m, reward_funcs=lambda completions, **k: [0.0] * len(completions), args=a, train_dataset=ds, processing_class=tok)
        t.current_gradient_accumulation_steps = 1; t.model.train(); return t
    start = make(); start.save_pretrained(out)
    config = json.load(open(os.path.join(out, "adapter_config.json"))); config["base_model_name_or_path"] = name
    config["target_modules"] = sorted(config["target_modules"])
    json.dump(config, open(os.path.join(out, "adapter_config.json"), "w"), indent=2, sort_keys=True)
    for extra in ("README.md",):
        if os.path.exists(os.path.join(out, extra)): os.remove(os.path.join(out, extra))
    t0 = trainer(start, temperature=1.0)
    scores = lambda t: t._get_per_token_logps_and_entropies(t.model, torch.cat([pid, cid], 1), torch.cat([pm, cm], 1), C, compute_entropy=False)[0]
    with torch.no_grad():
        lp = scores(t0)
        with t0.model.disable_adapter(): ref = scores(t0)
    listed = lambda x: [x[b, :len(r["completion_ids"])].tolist() for b, r in enumerate(rows)]
    exp = {"made_with": {"peft": peft.__version__, "trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
           "settings": given["settings"], "logprobs": listed(lp), "reference_logprobs": listed(ref), "cases": {}}
    for case, reference in given["cases"].items():
        kw = reference["config"]
        t = trainer(make(), **kw); m = t.model
        mask = cm.clone()
        if kw.get("mask_truncated_completions"): mask = mask * torch.tensor([[int(r["finished"])] for r in rows])
        inp = dict(prompt_ids=pid, prompt_mask=pm, completion_ids=cid, completion_mask=mask, advantages=torch.tensor(reference["advantages"]), old_per_token_logps=pad("old_logprobs"),
                   ref_per_token_logps=pad("ref_logprobs"), sampling_per_token_logps=pad("sampling_logprobs"), num_items_in_batch=mask.sum())
        trained = [p for p in m.parameters() if p.requires_grad]
        opt = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        e = {"config": kw, "loss": [], "grad_norm": []}
        for it in range(ITER):
            opt.zero_grad(); loss = t._compute_loss(m, inp); loss.backward()
            if it == 0 and case in ("grpo", "dapo"):
                save_file({saved_name(n): p.grad.clone().contiguous() for n, p in m.named_parameters() if p.requires_grad}, os.path.join(out, f"grads-{case}.safetensors"))
            gn = torch.nn.utils.clip_grad_norm_(trained, 1.0); opt.step()
            e["loss"].append(loss.item()); e["grad_norm"].append(gn.item())
        if case in ("grpo", "dapo"): save_file({n: p.contiguous() for n, p in get_peft_model_state_dict(m, save_embedding_layers=False).items()}, os.path.join(out, f"updated-{case}.safetensors"))
        exp["cases"][case] = e
        print(name, case, [round(x, 6) for x in e["loss"]], [round(x, 5) for x in e["grad_norm"]], flush=True)
    json.dump(exp, open(os.path.join(out, "expected.json"), "w"), indent=1)
