"""Folders by gptqmodel, quantised on CPU.

    gptqmodel_writer.py MODEL ROWS OUT NAME=SETTINGS ...

quantises the model once for each NAME into OUT/NAME, with SETTINGS as the JSON of what its GPTQConfig takes, or its AWQConfig if
"method" is "awq", and prints one JSON document: the versions, and for each name nothing or why it was refused.
"""

import contextlib
import json
import pathlib
import shutil
import sys

import gptqmodel_reader  # noqa: F401 - sets the environment, before torch is imported


def write(model, rows, folder, settings):
    from gptqmodel import GPTQModel
    from gptqmodel.quantization.config import AWQConfig, GPTQConfig

    kind = {"gptq": GPTQConfig, "awq": AWQConfig}[settings.pop("method", "gptq")]
    quantised = GPTQModel.load(model, kind(device="cpu", **settings))
    quantised.quantize([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows], batch_size=1)
    quantised.save(str(folder))


def main(model, rows, out, *wanted):
    import gptqmodel
    import torch
    import transformers

    torch.manual_seed(0)
    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    told = {"versions": {"gptqmodel": gptqmodel.__version__, "torch": torch.__version__, "transformers": transformers.__version__}}
    for name, _, settings in (each.partition("=") for each in wanted):
        folder = pathlib.Path(out) / name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            told[name] = write(model, rows, folder, json.loads(settings))
        except Exception as refusal:
            told[name] = f"{type(refusal).__name__}: {refusal}"
    return told


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        document = main(*sys.argv[1:])
    print(json.dumps(document))
