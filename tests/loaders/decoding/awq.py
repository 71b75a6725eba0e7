"""The format of AWQ folders, version gemm: codes of 4 bits, packed along the outputs."""

import json

import numpy as np

from . import demand
from .files import shaped, there, typed
from .packed import Packed

SUFFIXES = {"qweight": "int32", "qzeros": "int32", "scales": "float16"}

# In a word are eight neighbouring outputs: which of them are in its nibbles, the lowest first.
NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)

# What is never quantised, and no loader takes for a linear.
NO_LINEARS = ("embed_tokens", "norm", "layernorm")


def unpack(words):
    """[n, words] -> [n, 8 * words]."""
    codes = np.empty((*words.shape, 8), np.int32)
    for place, output in enumerate(NIBBLES):
        codes[:, :, output] = (words.view(np.uint32) >> np.uint32(4 * place)) & np.uint32(15)
    return codes.reshape(words.shape[0], -1)


def same_settings(folder, quantisation):
    """AutoAWQ's own file has to say the same, in its words or in these."""
    beside = json.loads((folder / "quant_config.json").read_text())
    for key, own in {"bits": "w_bit", "group_size": "q_group_size", "zero_point": "zero_point", "modules_to_not_convert": "modules_to_not_convert"}.items():
        demand(beside.get(own, beside.get(key)) == quantisation.get(key), f"quant_config.json and config.json differ in {key}")
    demand(beside["version"].lower() == quantisation["version"].lower(), "quant_config.json and config.json differ in version")


def check_folder(folder, quantisation, packed, tensors):
    """What the format asks of a folder that this project writes: above all that what is not packed is named, and nothing else."""
    same_settings(folder, quantisation)
    left = quantisation.get("modules_to_not_convert") or []
    # vLLM asks whether the name of a module contains one of these.
    named = [module for module in packed if any(part in module for part in left)]
    demand(not named, f"modules_to_not_convert names what is packed: {named[:3]}")
    linears = [name.removesuffix(".weight") for name, array in tensors.items() if name.endswith(".weight") and array.ndim == 2]
    linears = [module for module in linears if not module.rpartition(".")[2].endswith(NO_LINEARS)]
    missing = [module for module in {*linears, "lm_head"} if not any(part in module for part in left)]
    demand(not missing, f"modules_to_not_convert does not name {sorted(missing)[:3]}")
    for module, parts in packed.items():
        typed(module, parts, SUFFIXES)


def unpacked(module, parts, quantisation):
    """One linear."""
    demand(quantisation["bits"] == 4, f"{quantisation['bits']} bits")
    demand(quantisation["version"].lower() == "gemm", f"version {quantisation['version']}")
    there(module, parts, SUFFIXES)
    demand(set(parts) == set(SUFFIXES), f"{module} has {sorted(set(parts) - set(SUFFIXES))}")
    inputs, words = parts["qweight"].shape
    group = quantisation["group_size"] if quantisation["group_size"] > 0 else inputs
    demand(inputs % group == 0, f"{module}: groups of {group} do not divide {inputs} inputs")
    shaped(module, parts, {"qzeros": (inputs // group, words), "scales": (inputs // group, 8 * words)})
    codes, zeros = unpack(parts["qweight"]), unpack(parts["qzeros"])
    if not quantisation["zero_point"]:
        demand((zeros == 8).all(), f"{module}.qzeros is not the middle, though zero_point is false")
    return Packed(4, codes.T, parts["scales"].T, zeros.T, np.arange(inputs) // group)
