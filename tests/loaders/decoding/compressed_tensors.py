"""The format of compressed-tensors folders, `pack-quantized`: codes of 2 to 8 bits, packed along the inputs of each output."""

import re

import numpy as np

from . import demand
from .files import shaped, typed
from .packed import Packed

SUFFIXES = {"weight_packed": "int32", "weight_scale": "float16", "weight_shape": "int64", "weight_zero_point": "int32", "weight_g_idx": "int32"}


def unpack(words, bits, count):
    """[n, words] -> [n, count]: along each row a stream of bits, the lowest of each word first."""
    single = (words.view(np.uint32)[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    stream = single.reshape(len(words), -1)[:, : count * bits].reshape(len(words), count, bits)
    return (stream.astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(-1, dtype=np.int32)


def named(module, word):
    """Whether a word of the config is the name of a module, or a pattern of it."""
    return re.match(word[3:], module) is not None if word.startswith("re:") else word == module


def settings_of(module, quantisation):
    """How a linear is quantised, or nothing where it is ignored: names count before patterns, and these before classes."""
    if any(named(module, word) for word in quantisation["ignore"]):
        return None
    groups = [(word, group["weights"]) for group in quantisation["config_groups"].values() for word in group["targets"]]
    exact = [weights for word, weights in groups if not word.startswith("re:") and named(module, word)]
    patterns = [weights for word, weights in groups if word.startswith("re:") and named(module, word)]
    return next(iter([*exact, *patterns, *(weights for word, weights in groups if word == "Linear")]), None)


def check_folder(folder, quantisation, packed, tensors):
    """What the format asks of a folder that this project writes: what is not packed is ignored, the head is by name."""
    demand((quantisation["format"], quantisation["quantization_status"]) == ("pack-quantized", "compressed"), f"it is {quantisation['format']}")
    linears = [name.removesuffix(".weight") for name, array in tensors.items() if name.endswith(".weight") and array.ndim == 2]
    left = [module for module in linears if "embed" not in module and settings_of(module, quantisation)]
    demand(not left, f"not packed, and not ignored: {left[:3]}")
    for module, parts in packed.items():
        typed(module, parts, {suffix: dtype for suffix, dtype in SUFFIXES.items() if suffix in parts})


def unpacked(module, parts, quantisation):
    """One linear."""
    settings = settings_of(module, quantisation)
    demand(settings is not None, f"{module}: is packed, though it is ignored")
    bits = settings["num_bits"]
    outputs, inputs = (int(length) for length in parts["weight_shape"])
    group = settings["group_size"] if settings["strategy"] == "group" else inputs
    groups = inputs // group
    expected = {"weight_packed", "weight_scale", "weight_shape"}
    expected |= set() if settings["symmetric"] else {"weight_zero_point"}
    expected |= {"weight_g_idx"} if settings.get("actorder") == "group" else set()
    demand(set(parts) == expected, f"{module} has {sorted(set(parts) ^ expected)} more or less")
    shaped(module, parts, {"weight_packed": (outputs, -(-inputs * bits // 32)), "weight_scale": (outputs, groups)})
    codes = unpack(parts["weight_packed"], bits, inputs)
    zeros = np.full((outputs, groups), 1 << (bits - 1), np.int32)
    if "weight_zero_point" in parts:
        shaped(module, parts, {"weight_zero_point": (-(-outputs * bits // 32), groups)})
        zeros = unpack(np.ascontiguousarray(parts["weight_zero_point"].T), bits, outputs).T
    group_of = parts.get("weight_g_idx", np.arange(inputs) // group)
    return Packed(bits, codes, parts["weight_scale"], zeros, group_of)
