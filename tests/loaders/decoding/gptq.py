"""The format of GPTQ folders: codes of 2, 3, 4 or 8 bits, packed down the inputs."""

import re

import numpy as np

from . import demand
from .files import same_settings, shaped, there, typed
from .packed import Packed

SUFFIXES = {"qweight": "int32", "qzeros": "int32", "scales": "float16", "g_idx": "int32"}


def unpack(words, bits):
    """[words, n] -> [words * 32 / bits, n]: down each column a stream of bits, the lowest of each word first."""
    single = (words.view(np.uint32)[:, None, :] >> np.arange(32, dtype=np.uint32)[None, :, None]) & 1
    stream = single.reshape(-1, bits, words.shape[1])
    return (stream.astype(np.int32) << np.arange(bits, dtype=np.int32)[None, :, None]).sum(1, dtype=np.int32)


def more_by_one(words, bits):
    """Version 1 stores zero-points less one. gptqmodel adds it to whole words, as it has taken it off: what is less than nothing
    borrows from the field above. Fields of 3 bits, which do not fill a word, go around."""
    if bits == 3:
        stored = unpack(np.ascontiguousarray(words.T), bits).T
        return repacked((stored + 1) & 7)
    ones = sum(1 << place for place in range(0, 32, bits))
    return (words.view(np.uint32) + np.uint32(ones)).view(np.int32)


def repacked(codes):
    """[n, codes] of 3 bits -> [n, words]."""
    stream = (codes[:, :, None] >> np.arange(3)) & 1
    single = stream.reshape(len(codes), -1, 32).astype(np.uint32)
    return (single << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


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


def check_folder(folder, quantisation, packed, tensors):
    """What the format asks of a folder that this project writes."""
    same_settings(folder, "quantize_config.json", quantisation, ("bits", "group_size", "desc_act", "sym", "checkpoint_format", "dynamic"))
    for module, parts in packed.items():
        typed(module, parts, SUFFIXES)


def unpacked(module, parts, quantisation):
    """One linear."""
    settings = settings_of(module, quantisation)
    demand(settings is not None, f"{module}: is quantised, though a rule leaves it alone")
    there(module, parts, SUFFIXES)
    bits = settings["bits"]
    (inputs,) = parts["g_idx"].shape
    group = settings["group_size"] if settings["group_size"] > 0 else inputs
    groups = -(-inputs // group)
    outputs = parts["qweight"].shape[1]
    shapes = {"qweight": (inputs * bits // 32, outputs), "qzeros": (groups, outputs * bits // 32), "scales": (groups, outputs)}
    shaped(module, parts, shapes)
    codes = unpack(parts["qweight"], bits)
    words = parts["qzeros"]
    if quantisation.get("checkpoint_format", "gptq") == "gptq":
        words = more_by_one(words, bits)
    zeros = unpack(np.ascontiguousarray(words.T), bits).T
    group_of = parts["g_idx"]
    if not settings["desc_act"]:
        demand((group_of == np.arange(inputs) // group).all(), f"{module}.g_idx is not trivial, though desc_act is false")
    if settings["sym"]:
        demand((zeros == 1 << (bits - 1)).all(), f"{module}.qzeros is not the middle, though sym is true")
    return Packed(bits, codes.T, parts["scales"].T, zeros.T, group_of)
