"""Models that should be the same, by transformers: folders, and GGUF files by its own import.

    transformers_pairs.py ROWS A B [A B ...]

prints one JSON document: of each pair the largest logit on the rows, in f32, the largest difference between both, and whether they
make the same tokens of a text; or why transformers does not take A or B. The same weights give the same bits.
"""

import contextlib
import json
import os
import pathlib
import sys

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}

TEXT = "Conversion keeps numbers: 3,14159 × 2 = 6.28318;\n\tdef f(x):  return x ** 2  # naïve\n"


def placed(path):
    """How transformers is told of a file in a folder."""
    path = pathlib.Path(path)
    return ((path,), {}) if path.is_dir() else ((path.parent,), {"gguf_file": path.name})


def logits(rows, path):
    import torch
    import transformers

    place, keys = placed(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(*place, dtype=torch.float32, attn_implementation="eager", **keys).eval()
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([row])).logits[0] for row in rows]


def tokens(path):
    import transformers

    place, keys = placed(path)
    return transformers.AutoTokenizer.from_pretrained(*place, **keys)(TEXT)["input_ids"]


def attempt(told, which, read, *arguments):
    try:
        return read(*arguments)
    except Exception as refusal:
        told[which] = f"{type(refusal).__name__}: {refusal}"
        return None


def compare(rows, a, b):
    told = {}
    one, other = attempt(told, "a_refused", logits, rows, a), attempt(told, "b_refused", logits, rows, b)
    if one and other:
        told["largest_logit"] = max(float(each.abs().max()) for each in one)
        told["largest_difference"] = max(float((x - y).abs().max()) for x, y in zip(one, other, strict=True))
    one, other = attempt(told, "a_has_no_tokens", tokens, a), attempt(told, "b_has_no_tokens", tokens, b)
    return told | ({"same_tokens": one == other} if one and other else {})


def main(rows, *paths):
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"versions": versions, "pairs": [compare(rows, *pair) for pair in zip(paths[::2], paths[1::2], strict=True)]}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        document = main(*sys.argv[1:])
    print(json.dumps(document))
