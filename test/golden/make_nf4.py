"""A checkpoint in NF4 with double quantization as transformers and bitsandbytes save it, with the logprobs that it gives in float32
on a CPU; and, for comparison, those of the model it was made from.

usage: make_nf4.py GOLDEN (the folder of make_reference.py's models and rollouts). Writes GOLDEN/nf4
"""
import json, os, sys, warnings
import bitsandbytes, torch, transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
warnings.filterwarnings("ignore"); transformers.logging.set_verbosity_error()

golden = sys.argv[1]
base, out = os.path.join(golden, "qwen3-qknorm"), os.path.join(golden, "nf4")
rows = [json.loads(line) for line in open(os.path.join(base, "rollouts.jsonl"))]
settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=settings, device_map="cpu")
model.save_pretrained(out)
plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
# bitsandbytes' kernels for AVX-512 (products, and decoding) take rows for whole blocks, which they are not here: its general decoding,
# and torch's products.
decoded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
for name, module in model.named_modules():
    if isinstance(module, bitsandbytes.nn.Linear4bit):
        weight = module.weight
        state = weight.quant_state
        absmax = bitsandbytes.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        decoded.get_submodule(name).weight.data = _dequantize_4bit_compute(weight.data.reshape(-1), absmax, state.code, 64, state.shape, torch.float32)
os.chmod(os.path.join(out, "model.safetensors"), 0o644)

def logprobs(m):
    found = []
    for row in rows:
        ids = row["prompt_ids"] + row["completion_ids"]
        with torch.no_grad():
            scores = torch.log_softmax(m(torch.tensor([ids])).logits[0].float(), -1)
        at = len(row["prompt_ids"])
        found.append([scores[at - 1 + i, token].item() for i, token in enumerate(row["completion_ids"])])
    return found

made_with = {"bitsandbytes": bitsandbytes.__version__, "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
with open(os.path.join(out, "expected.json"), "w") as file:
    json.dump({"made_with": made_with, "logprobs": logprobs(decoded), "plain": logprobs(plain)}, file)
