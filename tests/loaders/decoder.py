"""What a folder of packed weights says, read with numpy alone from the text of its format, GPTQ, AWQ or compressed-tensors.

    decoder.py FOLDER ROWS [SOURCE]

prints one JSON document: the mean loss of the rows ({"input_ids": [...]} a line, every predicted token), a digest of each
linear's weights as [out, in] in f32, the zero-points of each width, and, given the unquantised checkpoint, the mean
divergence from it.

It shares no code with the project, with torch or with any loader; it knows the families of `decoding/forward.py`.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np

from decoding import Malformed, awq, compressed_tensors, demand, gptq
from decoding.files import read_folder
from decoding.forward import Model

FORMATS = {"gptq": gptq, "awq": awq, "compressed-tensors": compressed_tensors}


def read_model(folder, strict=True):
    """The config, all weights in f32 by the names of an unquantised checkpoint, and those linears that are packed. Whoever is strict
    wants all that this project's folders have to have; other writers leave some of it out."""
    config = json.loads((folder / "config.json").read_text())
    quantisation = config.get("quantization_config")
    tensors = read_folder(folder)
    if quantisation is None:
        return config, {name: array.astype(np.float32) for name, array in tensors.items()}, {}
    demand(quantisation["quant_method"] in FORMATS, f"quant_method is {quantisation['quant_method']}")
    form = FORMATS[quantisation["quant_method"]]
    packed = {}
    for name in [name for name in tensors if name.rpartition(".")[2] in {**gptq.SUFFIXES, **form.SUFFIXES}]:
        module, _, suffix = name.rpartition(".")
        packed.setdefault(module, {})[suffix] = tensors.pop(name)
    if strict:
        form.check_folder(folder, quantisation, packed, tensors)
    weights = {name: array.astype(np.float32) for name, array in tensors.items()}
    linears = {module: form.unpacked(module, parts, quantisation) for module, parts in packed.items()}
    for module, linear in linears.items():
        demand(module + ".weight" not in weights, f"{module} is packed and is not")
        weights[module + ".weight"] = np.ascontiguousarray(linear.weights())
    return config, weights, linears


def told_of(weights, linears):
    """A digest of each linear's weights, and the range of the zero-points of each width."""
    digests = {module: hashlib.sha256(weights[module + ".weight"].tobytes()).hexdigest() for module in linears}
    zeros = {}
    for linear in linears.values():
        seen = [*zeros.get(str(linear.bits), []), int(linear.zeros.min()), int(linear.zeros.max())]
        zeros[str(linear.bits)] = [min(seen), max(seen)]
    return {"linears": digests, "zeros": zeros}


def same_shapes(weights, original):
    """Whatever is packed, a checkpoint's tensors are there and no others, each in its shape."""
    demand(weights.keys() == original.keys(), f"tensors that only one of both has: {sorted(weights.keys() ^ original.keys())[:3]}")
    for name, array in original.items():
        demand(weights[name].shape == array.shape, f"{name} is {weights[name].shape}, and in the original {array.shape}")


def main(folder, rows, source=None):
    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    config, weights, linears = read_model(pathlib.Path(folder))
    told = told_of(weights, linears)
    model = Model(config, weights)
    original = None
    if source:
        original = Model(*read_model(pathlib.Path(source))[:2])
        same_shapes(weights, original.weights)
    losses, divergences = [], []
    for row in rows:
        found = model.log_probabilities(row)
        losses.append(-np.take_along_axis(found, np.array(row[1:])[:, None], 1))
        if original:
            expected = original.log_probabilities(row)
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
