"""The format of GGUF files: the container, the simplest of its types, and two families' names.

What is here are the types with one scale for each block of 32, and that of the head in files of such levels; the others are
compared with llama.cpp itself, elsewhere.
"""

import struct

import numpy as np

from . import demand
from .packed import Packed

# A number for each type of metadata value, and what it is to `struct`; 8 is a string and 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
BLOCK = 32

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Cursor:
    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def scalar(self, code):
        (value,) = struct.unpack_from("<" + code, self.raw, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self):
        length = self.scalar("Q")
        self.at += length
        return self.raw[self.at - length : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, count = self.scalar("I"), self.scalar("Q")
            return [self.value(kind) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def halves(blocks, begin):
    """The f16 at a place of every block, [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., begin : begin + 2]).view(np.float16)[..., 0]


def nibbles(packed):
    """Of each block the lower halves of all bytes, and then the upper."""
    return np.concatenate([packed & 15, packed >> 4], -1).astype(np.int32)


def fifth_bits(blocks, begin):
    bits = np.ascontiguousarray(blocks[..., begin : begin + 4]).view("<u4")
    return ((bits >> np.arange(BLOCK, dtype=np.uint32)) & 1).astype(np.int32) << 4


def in_groups(bits, codes, scales, zero):
    """A row's blocks one after the other are its groups."""
    rows, groups, _ = codes.shape
    zeros = np.full((rows, groups), zero, np.int32)
    return Packed(bits, codes.reshape(rows, -1), scales, zeros, np.arange(groups * BLOCK) // BLOCK)


def with_minimum(codes, scales, minima):
    """Code × scale + minimum, rounded twice, as ggml does."""
    weights = codes.astype(np.float32) * scales.astype(np.float32)[..., None] + minima.astype(np.float32)[..., None]
    return weights.reshape(len(codes), -1)


def q4_0(blocks):
    return in_groups(4, nibbles(blocks[..., 2:]), halves(blocks, 0), 8)


def q4_1(blocks):
    return with_minimum(nibbles(blocks[..., 4:]), halves(blocks, 0), halves(blocks, 2))


def q5_0(blocks):
    return in_groups(5, nibbles(blocks[..., 6:]) | fifth_bits(blocks, 2), halves(blocks, 0), 16)


def q5_1(blocks):
    return with_minimum(nibbles(blocks[..., 8:]) | fifth_bits(blocks, 4), halves(blocks, 0), halves(blocks, 2))


def q8_0(blocks):
    return in_groups(8, blocks[..., 2:].view(np.int8).astype(np.int32) + 128, halves(blocks, 0), 128)


def q6_k(blocks):
    """Sixteen scales for 256 weights, in two halves; all products are exact."""
    rows, count, _ = blocks.shape
    low, high = blocks[..., :128].reshape(rows, count, 2, 2, 32), blocks[..., 128:192].reshape(rows, count, 2, 1, 32)
    low = np.concatenate([low & 15, low >> 4], 3)
    high = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = (low | high << 4).astype(np.float32) - 32
    scales = halves(blocks, 208).astype(np.float32)[..., None] * blocks[..., 192:208].view(np.int8).astype(np.float32)
    return (codes.reshape(rows, count, 16, 16) * scales[..., None]).reshape(rows, -1)


# The number of each type: weights and bytes of a block, and what it is read by.
BLOCKS = {
    2: (BLOCK, 18, q4_0),
    3: (BLOCK, 20, q4_1),
    6: (BLOCK, 22, q5_0),
    7: (BLOCK, 24, q5_1),
    8: (BLOCK, 34, q8_0),
    14: (256, 210, q6_k),
}
FLOATS = {0: np.float32, 1: np.float16, 30: np.uint16}


def rows_of(raw, kind, shape):
    """Packed, or weights in f32."""
    count = int(np.prod(shape))
    if kind in FLOATS:
        array = np.frombuffer(raw, FLOATS[kind], count).reshape(shape)
        return (array.astype(np.uint32) << 16).view(np.float32) if kind == 30 else array.astype(np.float32)
    demand(kind in BLOCKS, f"type {kind} is not known here")
    weights, size, read = BLOCKS[kind]
    blocks = np.frombuffer(raw, np.uint8, count // weights * size)
    return read(blocks.reshape(-1, shape[-1] // weights, size))


def unpermuted(array, heads):
    """The rows of a head in the order of a checkpoint: first all that are rotated with those of the second half."""
    return array.reshape(heads, len(array) // heads // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)


def in_checkpoints_order(rows, heads):
    if isinstance(rows, Packed):
        parts = {part: unpermuted(getattr(rows, part), heads) for part in ("codes", "scales", "zeros")}
        return Packed(rows.bits, parts["codes"], parts["scales"], parts["zeros"], rows.group_of)
    return unpermuted(rows, heads)


def checkpoint_name(name):
    base, _, suffix = name.rpartition(".")
    if base.startswith("blk."):
        _, layer, base = base.split(".")
        return f"model.layers.{layer}.{NAMES[base]}.{suffix}"
    return f"{NAMES[base]}.{suffix}"


def read_file(path):
    """Metadata, and by the names of a checkpoint a `Packed` or an array of f32 for each tensor."""
    raw = path.read_bytes()
    demand(raw[:4] == b"GGUF", "no GGUF file")
    cursor = Cursor(raw)
    cursor.at = 4
    version, tensors, keys = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
    demand(version == 3, f"version {version}")
    metadata = {}
    for _ in range(keys):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.scalar("I"))
    entries = []
    for _ in range(tensors):
        name = cursor.text()
        shape = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))][::-1]
        entries.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    data = -(-cursor.at // alignment) * alignment
    family = metadata["general.architecture"]
    demand(family in ("llama", "qwen2"), f"the model is a {family}")
    heads = {"attn_q": metadata[f"{family}.attention.head_count"], "attn_k": metadata[f"{family}.attention.head_count_kv"]}
    found = {}
    for name, shape, kind, offset in entries:
        if name.startswith("rope_freqs"):
            continue
        rows = rows_of(memoryview(raw)[data + offset :], kind, shape)
        part = name.split(".")[-2]
        if family == "llama" and part in heads:
            rows = in_checkpoints_order(rows, heads[part])
        found[checkpoint_name(name)] = rows
    return metadata, found
