"""A Llama checkpoint of Hugging Face's format as a GGUF file that llama.cpp loads: weights and sizes, no tokenizer.

As a program: python llama_gguf.py --model FOLDER --gguf FILE --dtype bfloat16
"""
import argparse, json, math, mmap, os, sys

import gguf
import numpy

TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32, 4),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16, 2),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16, 2),
}

# Hugging Face's name of a layer's tensor, and GGUF's.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class InputError(Exception):
    """A checkpoint that is not converted; the text names its file and field."""


class Safetensors:
    """The tensors of a folder's safetensors files, read one at a time as float32 [shape as stored]."""

    def __init__(self, folder):
        index = os.path.join(folder, "model.safetensors.index.json")
        names = ["model.safetensors"]
        if os.path.exists(index):
            with open(index, encoding="utf-8") as file:
                names = sorted(set(json.load(file)["weight_map"].values()))
        self.tensors = {}
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                raise InputError(f"{path}: no such file; --model needs a folder with config.json and safetensors")
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            for tensor, entry in header.items():
                if tensor != "__metadata__":
                    self.tensors[tensor] = (path, entry, data, 8 + length)

    def shape(self, name):
        return tuple(self.tensors[name][1]["shape"])

    def read(self, name):
        path, entry, data, start = self.tensors[name]
        begin, end = entry["data_offsets"]
        kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
        if entry["dtype"] not in kinds:
            raise InputError(f"{path}: {name} is {entry['dtype']}; F32, F16 and BF16 can be converted")
        stored = numpy.frombuffer(data, kinds[entry["dtype"]], math.prod(entry["shape"]), start + begin)
        if stored.nbytes != end - begin:
            raise InputError(f"{path}: {name} has {end - begin} bytes, its shape {entry['shape']} needs {stored.nbytes}")
        if entry["dtype"] == "BF16":
            stored = (stored.astype(numpy.uint32) << 16).view(numpy.float32)
        return stored.astype(numpy.float32, copy=False).reshape(entry["shape"])


def interleaved(weight, heads):
    """Rows of q or k [heads · Dh, D] in llama.cpp's order: dimensions that rope turns together lie side by side, where
    Hugging Face has them half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def rope_divisors(rope, half):
    """What llama3's scaling divides the frequency of each of a head's pairs by (float32 [half]); None without scaling."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise InputError(f"config.json: rope_type {json.dumps(kind)} is not converted; default and llama3 are")
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (numpy.arange(half) / half)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    turns = rope["original_max_position_embeddings"] / wavelengths
    share = numpy.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - share) / factor + share)).astype(numpy.float32)


def read_config(folder):
    """config.json, with defaults. Raises InputError for what llama.cpp's architecture "llama" would compute otherwise."""
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; --model needs a folder with config.json and safetensors")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    if config.get("architectures") != ["LlamaForCausalLM"]:
        named = json.dumps(config.get("architectures"))
        cure = "LlamaForCausalLM is converted here; make others by llama.cpp's own converter and give --gguf"
        raise InputError(f"{path}: architectures {named}: {cure}")
    for key, value in {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}.items():
        if config.get(key, value) != value:
            raise InputError(f"{path}: {key} {json.dumps(config[key])} is not converted; {json.dumps(value)} is")
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    if config.get("head_dim") is None:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    config["rope"] = {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}
    config["rope"].update(config.get("rope_parameters") or {})
    return config


def write_gguf(folder, path, dtype):
    """Writes the checkpoint in `folder` to the file `path`: matrices in `dtype`, vectors in float32. Tensors go through one by
    one. Raises InputError for a checkpoint of another architecture, or one with a tensor missing or left over."""
    config, source = read_config(folder), Safetensors(folder)
    kind, file_type, size = TYPES[dtype]
    heads, kv_heads, head_dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    layers, tied = config["num_hidden_layers"], config.get("tie_word_embeddings", False)

    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not tied:
        names["lm_head.weight"] = "output.weight"
    for layer in range(layers):
        for theirs, ours in LAYER.items():
            names[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{ours}.weight"
    missing = [name for name in names if name not in source.tensors]
    left = [name for name in source.tensors if name not in names and not name.endswith("rotary_emb.inv_freq")]
    if tied:
        left = [name for name in left if name != "lm_head.weight"]
    if missing or left:
        raise InputError(f"{folder}: tensors missing: {missing[:3]}, not of a Llama: {left[:3]}")

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config["rope"]["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("none")  # ids only

    divisors = rope_divisors(config["rope"], head_dim // 2)
    if divisors is not None:
        writer.add_tensor_info("rope_freqs.weight", divisors.shape, divisors.dtype, divisors.nbytes)
    for theirs, ours in names.items():
        shape = source.shape(theirs)
        vector = len(shape) == 1
        bytes_each, raw = (4, TYPES["float32"][0]) if vector else (size, kind)
        writer.add_tensor_info(ours, shape, numpy.dtype(numpy.float32), math.prod(shape) * bytes_each, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if divisors is not None:
        writer.write_tensor_data(divisors)
    for theirs in names:
        values = source.read(theirs)
        if theirs.endswith("q_proj.weight"):
            values = interleaved(values, heads)
        elif theirs.endswith("k_proj.weight"):
            values = interleaved(values, kv_heads)
        writer.write_tensor_data(values if values.ndim == 1 else gguf.quants.quantize(values, kind))
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--dtype", choices=list(TYPES), required=True)
    given = parser.parse_args()
    try:
        write_gguf(given.model, given.gguf, given.dtype)
    except InputError as error:
        sys.stderr.write(f"llama_gguf.py: {error}\n")
        sys.exit(2)
