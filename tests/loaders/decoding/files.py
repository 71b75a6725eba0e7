"""Files of safetensors. It knows no format of quantisation."""

import json

import numpy as np

from . import demand


def read_safetensors(path):
    """Name to array; bf16 is widened, whatever else stays as it is stored."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    demand(header.pop("__metadata__", {}).get("format") == "pt", f"{path.name}: metadata without format pt")
    types = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "I64": np.int64}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(raw, types[entry["dtype"]], (end - begin) // np.dtype(types[entry["dtype"]]).itemsize, 8 + length + begin)
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def read_folder(folder):
    """All tensors of a folder, from the one file or from those that the index names."""
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


def same_settings(folder, name, quantisation, keys):
    """The file beside config.json has to say the same."""
    beside = json.loads((folder / name).read_text())
    for key in keys:
        demand(beside.get(key) == quantisation.get(key), f"{name} and config.json differ in {key}")


def there(module, parts, suffixes):
    """A packed linear has every part."""
    for suffix in suffixes:
        demand(suffix in parts, f"{module}.{suffix} is missing")


def typed(module, parts, types):
    """Every part of a packed linear is there, and of its type."""
    there(module, parts, types)
    for suffix, dtype in types.items():
        demand(parts[suffix].dtype == dtype, f"{module}.{suffix} is {parts[suffix].dtype}, and not {dtype}")


def shaped(module, parts, shapes):
    """Every part of a packed linear has its shape."""
    for suffix, shape in shapes.items():
        demand(parts[suffix].shape == shape, f"{module}.{suffix} is {parts[suffix].shape}, and not {shape}")


def product(scales, codes, zeros):
    """Scale × (code − zero): a scale has 11 bits and a difference at most 9, so it is exact. The zero takes the sign off -0."""
    return scales.astype(np.float32) * (codes - zeros).astype(np.float32) + np.float32(0)
