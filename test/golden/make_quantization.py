"""Reference numbers of bitsandbytes on a CPU: the dynamic maps, block-wise 8-bit quantization, steps of AdamW8bit, and NF4 with
double quantization.

usage: make_quantization.py GOLDEN (writes GOLDEN/quantization.json; arrays are base64 of their bytes)
"""
import base64, json, os, sys
import bitsandbytes, torch
import bitsandbytes.functional as F
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

golden = sys.argv[1]
g = torch.Generator().manual_seed(15)
text = lambda t: base64.b64encode(t.contiguous().view(torch.uint8).numpy().tobytes()).decode()

signed, unsigned = F.create_dynamic_map(True), F.create_dynamic_map(False)
x = torch.randn(3000, generator=g) * torch.logspace(-6, 1, 3000)
blockwise = {}
for name, code, values in (("signed", signed, x), ("unsigned", unsigned, x * x)):
    codes, absmax = torch.ops.bitsandbytes.quantize_blockwise(values, code.clone(), 256)
    decoded = torch.ops.bitsandbytes.dequantize_blockwise(codes, absmax, code, 256, torch.float32)
    blockwise[name] = {"map": text(code), "values": text(values), "codes": text(codes), "absmax": text(absmax), "decoded": text(decoded)}

n, steps = 5000, 4
p = torch.nn.Parameter(torch.randn(n, generator=g) * 0.05)
settings = {"lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1}
optimizer = bitsandbytes.optim.AdamW8bit([p], lr=settings["lr"], betas=tuple(settings["betas"]), eps=settings["eps"], weight_decay=settings["weight_decay"])
adamw = {"settings": settings, "start": text(p.data), "steps": []}
for _ in range(steps):
    p.grad = torch.randn(n, generator=g)
    optimizer.step()
    state = optimizer.state[p]
    adamw["steps"].append({"gradient": text(p.grad), "weight": text(p.data), "m": text(state["state1"]), "m_absmax": text(state["absmax1"]),
                           "v": text(state["state2"]), "v_absmax": text(state["absmax2"])})

nf4 = []
for shape in ((48, 128), (33, 80), (16, 30), (40, 1024)):
    w = (torch.randn(shape, generator=g) * 0.05 * torch.logspace(-1, 0, shape[0]).unsqueeze(1)).to(torch.bfloat16)
    packed, state = F.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")
    saved = state.as_dict(packed=True)
    absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    decode = lambda dtype: _dequantize_4bit_compute(packed.reshape(-1), absmax, state.code, 64, shape, dtype)  # its general decoding, not AVX-512's, which takes rows for whole blocks
    if shape[1] % 64 == 0:
        assert torch.equal(decode(torch.bfloat16), F.dequantize_4bit(packed, state))
    entry = {"shape": list(shape), "values": text(w), "weight": text(packed), "decoded": text(decode(torch.float32))}
    for key, value in saved.items():
        entry[key] = text(value)
    nf4.append(entry)

made_with = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__.split("+")[0]}
with open(os.path.join(golden, "quantization.json"), "w") as file:
    json.dump({"made_with": made_with, "blockwise": blockwise, "adamw_8bit": adamw, "nf4": nf4}, file, indent=1)
    file.write("\n")
