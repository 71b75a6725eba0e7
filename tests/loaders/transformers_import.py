"""GGUF files by transformers' own import, and what was converted from them.

    transformers_import.py ROWS FILE FOLDER [FILE FOLDER ...]

prints one JSON document: of each pair the largest difference between the logits of both on the rows in f32, the largest logit, and
the versions; or why transformers does not import the file, or does not load the folder. Experts and whatever else depends on
the order of sums aside, the same weights give the same bits.
"""

import contextlib
import json
import os
import pathlib
import sys

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def logits(rows, *place, **keys):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(*place, dtype=torch.float32, attn_implementation="eager", **keys).eval()
    with torch.inference_mode():
        return model.config, [model(input_ids=torch.tensor([row])).logits[0] for row in rows]


def tokens(text, *place, **keys):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(*place, **keys)(text)["input_ids"]


def compare(rows, text, file, folder):
    file = pathlib.Path(file)
    told = {}
    try:
        config, converted = logits(rows, folder)
        own_tokens = tokens(text, folder)
    except Exception as refusal:
        return {"folder_refused": f"{type(refusal).__name__}: {refusal}"}
    told["family"] = config.model_type
    try:
        other, imported = logits(rows, file.parent, gguf_file=file.name)
    except Exception as refusal:
        return told | {"import_refused": f"{type(refusal).__name__}: {refusal}"}
    told["imported_as"] = other.model_type
    told["largest_logit"] = max(float(a.abs().max()) for a in converted)
    told["largest_difference"] = max(float((a - b).abs().max()) for a, b in zip(converted, imported, strict=True))
    try:
        told["same_tokens"] = own_tokens == tokens(text, file.parent, gguf_file=file.name)
    except Exception as refusal:
        told["tokenizer_refused"] = f"{type(refusal).__name__}: {refusal}"
    return told


def main(rows, *pairs):
    import gguf
    import torch
    import transformers

    text = "Conversion keeps numbers: 3,14159 × 2 = 6.28318;\n\tdef f(x):  return x ** 2  # naïve\n"
    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    torch.set_num_threads(os.cpu_count() or 1)
    del gguf
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"versions": versions, "pairs": [compare(rows, text, *pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        document = main(*sys.argv[1:])
    print(json.dumps(document))
