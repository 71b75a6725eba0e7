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
    zeros = unpack(np.ascontiguousarray(parts["qzeros"].T), bits).T
    if quantisation.get("checkpoint_format", "gptq") == "gptq":
        # Version 1 stores one less, and what is less than nothing goes around.
        zeros = (zeros + 1) & ((1 << bits) - 1)
    group_of = parts["g_idx"]
    if not settings["desc_act"]:
        demand((group_of == np.arange(inputs) // group).all(), f"{module}.g_idx is not trivial, though desc_act is false")
    if settings["sym"]:
        demand((zeros == 1 << (bits - 1)).all(), f"{module}.qzeros is not the middle, though sym is true")
    return Packed(bits, codes.T, parts["scales"].T, zeros.T, group_of)
