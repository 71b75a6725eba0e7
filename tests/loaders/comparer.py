"""Whether two models have the same numbers, whatever they are stored as: folders, packed or not, and GGUF files.

    comparer.py A B

of which B was written by this project, and A by anybody. It prints one JSON document: how many tensors are the same number for
number in f32, and which are not, by how much; of the linears that both have as codes, how many have the same codes, scales and
zero-points for every weight, and which do not. The sign of a zero is not compared: most formats' texts do not speak of it.
"""

import json
import pathlib
import sys

import numpy as np

from decoder import read_model
from decoding import Malformed
from decoding.gguf import read_file
from decoding.packed import Packed


def read(path, strict):
    """All weights in f32, and the packed linears."""
    if path.is_dir():
        _, weights, linears = read_model(path, strict)
        return weights, linears
    _, found = read_file(path)
    packed = {name: rows for name, rows in found.items() if isinstance(rows, Packed)}
    weights = {name: rows.weights() if name in packed else rows for name, rows in found.items()}
    return weights, {name.removesuffix(".weight"): rows for name, rows in packed.items()}


def difference(a, b):
    """Nothing if all numbers are the same."""
    if a.shape != b.shape:
        return {"shapes": [a.shape, b.shape]}
    a, b = a + np.float32(0), b + np.float32(0)
    if a.tobytes() == b.tobytes():
        return None
    gap, size = (a.astype(np.float64) - b), np.linalg.norm(a.astype(np.float64))
    return {"numbers": int((a != b).sum()), "largest": float(np.abs(gap).max()), "relative_rms": float(np.linalg.norm(gap) / size) if size else None}


def differences(a, b, compare):
    told = {name: compare(a[name], b[name]) for name in sorted(a.keys() & b.keys())}
    return {"same": sum(said is None for said in told.values()), "different": {name: said for name, said in told.items() if said}}


def codes(a, b):
    for part, one, other in zip(("codes", "scales", "zero-points"), a.spread(), b.spread(), strict=True):
        if one.shape != other.shape or not (one == other).all():
            return part
    return None


def main(a, b):
    (weights, packed), (others, packed_too) = read(pathlib.Path(a), False), read(pathlib.Path(b), True)
    only = {"a": sorted(weights.keys() - others.keys()), "b": sorted(others.keys() - weights.keys())}
    return {"tensors": differences(weights, others, difference), "only": only, "codes": differences(packed, packed_too, codes)}


if __name__ == "__main__":
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except Malformed as fault:
        sys.exit(f"{' or '.join(sys.argv[1:])}: {fault}")
