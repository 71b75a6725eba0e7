"""What a folder of GPTQ weights says, read with numpy alone from the text of the format.

    decoder.py FOLDER ROWS [SOURCE]

prints one JSON document: the mean loss of the rows ({"input_ids": [...]} a line, every predicted token), a digest of each
linear's weights as [out, in] in f32, and, given the unquantised checkpoint, the mean divergence from it.

It shares no code with the project, with torch or with any loader; it knows one family, llama.
"""

import hashlib
import json
import pathlib
import re
import sys

import numpy as np

SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")


class Malformed(Exception):
    """The folder is not what the format asks for."""


def demand(condition, message):
    if not condition:
        raise Malformed(message)


# Files.


def read_safetensors(path):
    """Name to array; bf16 is widened, whatever else stays as it is stored."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    demand(header.pop("__metadata__", {}).get("format") == "pt", f"{path.name}: metadata without format pt")
    types = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(raw, types[entry["dtype"]], (end - begin) // np.dtype(types[entry["dtype"]]).itemsize, 8 + length + begin)
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def read_folder(folder):
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    tensors = {}
    places = json.loads(index.read_text())["weight_map"]
    for file in sorted(set(places.values())):
        found = read_safetensors(folder / file)
        for name in found:
            demand(places.get(name) == file, f"{name}: the index has it in {places.get(name)}, and not in {file}")
        tensors |= found
    demand(tensors.keys() == places.keys(), "the index names tensors that no file has")
    return tensors


# The format.


def unpack(words, bits):
    """[words, n] -> [words * 32 / bits, n]: down each column a stream of bits, the lowest of each word first."""
    single = (words.view(np.uint32)[:, None, :] >> np.arange(32, dtype=np.uint32)[None, :, None]) & 1
    stream = single.reshape(-1, bits, words.shape[1])
    return (stream.astype(np.int32) << np.arange(bits, dtype=np.int32)[None, :, None]).sum(1, dtype=np.int32)


def settings_of(module, quantisation):
    """How a linear is quantised, or nothing where a rule leaves it alone: the first rule that matches decides."""
    settings = {key: quantisation[key] for key in ("bits", "group_size", "sym", "desc_act")}
    for rule, overrides in (quantisation.get("dynamic") or {}).items():
        if rule.startswith("-:"):
            if re.match(rule[2:], module):
                return None
        elif re.match(rule.removeprefix("+:"), module):
            return settings | {key: overrides[key] for key in settings if key in overrides}
    return settings


def dequantise(module, parts, quantisation, inputs, zeros_seen):
    """The weights [out, in] of one linear."""
    settings = settings_of(module, quantisation)
    demand(settings is not None, f"{module}: is quantised, though a rule leaves it alone")
    bits = settings["bits"]
    group = settings["group_size"] if settings["group_size"] > 0 else inputs
    groups = -(-inputs // group)
    for suffix, dtype in zip(SUFFIXES, ("int32", "int32", "float16", "int32")):
        demand(suffix in parts, f"{module}.{suffix} is missing")
        demand(parts[suffix].dtype == dtype, f"{module}.{suffix} is {parts[suffix].dtype}, and not {dtype}")
    outputs = parts["qweight"].shape[1]
    shapes = {
        "qweight": (inputs * bits // 32, outputs),
        "qzeros": (groups, outputs * bits // 32),
        "scales": (groups, outputs),
        "g_idx": (inputs,),
    }
    for suffix, shape in shapes.items():
        demand(parts[suffix].shape == shape, f"{module}.{suffix} is {parts[suffix].shape}, and not {shape}")
    codes = unpack(parts["qweight"], bits)
    zeros = unpack(np.ascontiguousarray(parts["qzeros"].T), bits).T
    if quantisation.get("checkpoint_format", "gptq") == "gptq":
        # Version 1 stores one less.
        zeros = zeros + 1
    low, high = zeros_seen.get(bits, (zeros.min(), zeros.max()))
    zeros_seen[bits] = (min(low, zeros.min()), max(high, zeros.max()))
    group_of = parts["g_idx"]
    if not settings["desc_act"]:
        demand((group_of == np.arange(inputs) // group).all(), f"{module}.g_idx is not trivial, though desc_act is false")
    if settings["sym"]:
        demand((zeros == 1 << (bits - 1)).all(), f"{module}.qzeros is not the middle, though sym is true")
    # A scale has 11 bits and a difference 9, so the product is exact. The zero takes the sign off -0.
    weights = parts["scales"].astype(np.float32)[group_of] * (codes - zeros[group_of]).astype(np.float32) + np.float32(0)
    return np.ascontiguousarray(weights.T)


def inputs_of(module, config):
    heads = config["num_attention_heads"]
    if module.endswith("o_proj"):
        return heads * (config.get("head_dim") or config["hidden_size"] // heads)
    return config["intermediate_size"] if module.endswith("down_proj") else config["hidden_size"]


def read_model(folder):
    """The config, all weights in f32 by the names of an unquantised checkpoint, and what is told of the quantisation."""
    config = json.loads((folder / "config.json").read_text())
    quantisation = config.get("quantization_config")
    tensors = read_folder(folder)
    packed = {}
    for name in [name for name in tensors if name.rpartition(".")[2] in SUFFIXES]:
        module, _, suffix = name.rpartition(".")
        packed.setdefault(module, {})[suffix] = tensors.pop(name)
    weights = {name: array.astype(np.float32) for name, array in tensors.items()}
    told = {"linears": {}, "zeros": {}}
    if quantisation is None:
        return config, weights, told
    demand(quantisation["quant_method"] == "gptq", "quant_method is not gptq")
    beside = json.loads((folder / "quantize_config.json").read_text())
    for key in ("bits", "group_size", "desc_act", "sym", "checkpoint_format", "dynamic"):
        demand(beside.get(key) == quantisation.get(key), f"quantize_config.json and config.json differ in {key}")
    for module, parts in packed.items():
        array = dequantise(module, parts, quantisation, inputs_of(module, config), told["zeros"])
        weights[module + ".weight"] = array
        told["linears"][module] = hashlib.sha256(array.tobytes()).hexdigest()
    told["zeros"] = {str(bits): [int(low), int(high)] for bits, (low, high) in told["zeros"].items()}
    return config, weights, told


# The model.


def logits_of(row, config, weights):
    """A llama's logits [tokens, vocabulary] in f32."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    width = config.get("head_dim") or hidden // heads
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
    demand(config["model_type"] == "llama", f"the model is a {config['model_type']}, and not a llama")
    demand(not config.get("rope_scaling") and rope.get("rope_type", "default") == "default", "positions are scaled")
    frequencies = 1.0 / float(rope["rope_theta"]) ** (np.arange(0, width, 2) / width)
    angles = np.arange(len(row))[:, None] * np.tile(frequencies, 2)[None]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def norm(x, name):
        variance = np.mean(np.square(x), -1, keepdims=True, dtype=np.float32)
        return x / np.sqrt(variance + np.float32(config["rms_norm_eps"])) * weights[name]

    def linear(x, name):
        y = x @ weights[name + ".weight"].T
        return y + weights[name + ".bias"] if name + ".bias" in weights else y

    def rotate(x):
        return x * cos + np.concatenate([-x[..., width // 2 :], x[..., : width // 2]], -1) * sin

    def split(x, count):
        return x.reshape(len(row), count, width).transpose(1, 0, 2)

    mask = np.triu(np.full((len(row), len(row)), -np.inf, np.float32), 1)
    x = weights["model.embed_tokens.weight"][row]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm.weight")
        q, k, v = (linear(y, f"{at}self_attn.{name}_proj") for name in "qkv")
        q, k = rotate(split(q, heads)), rotate(split(k, kv_heads))
        k, v = (np.repeat(part, heads // kv_heads, 0) for part in (k, split(v, kv_heads)))
        scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(width)) + mask
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        y = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + linear(y.transpose(1, 0, 2).reshape(len(row), -1), at + "self_attn.o_proj")
        y = norm(x, at + "post_attention_layernorm.weight")
        gate = linear(y, at + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
    x = norm(x, "model.norm.weight")
    return x @ weights["model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"].T


def log_probabilities(row, config, weights):
    logits = logits_of(row, config, weights)[:-1].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def main(folder, rows, source=None):
    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    config, weights, told = read_model(pathlib.Path(folder))
    original = read_model(pathlib.Path(source))[:2] if source else None
    losses, divergences = [], []
    for row in rows:
        found = log_probabilities(row, config, weights)
        losses.append(-np.take_along_axis(found, np.array(row[1:])[:, None], 1))
        if original:
            expected = log_probabilities(row, *original)
            divergences.append((np.exp(expected) * (expected - found)).sum(-1))
    loss = float(np.concatenate(losses).mean())
    told |= {"versions": {"numpy": np.__version__}, "tokens": sum(map(len, losses)), "mean_nll": loss}
    if original:
        told["kl_mean"] = float(np.concatenate(divergences).mean())
    return told


if __name__ == "__main__":
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except Malformed as fault:
        sys.exit(f"{sys.argv[1]}: {fault}")
