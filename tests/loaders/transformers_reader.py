"""What transformers makes of a folder, by way of optimum and gptqmodel, on CPU.

    transformers_reader.py FOLDER ROWS

prints one JSON document: the mean loss of the rows in f16 by the kernels that it chooses, which they are, and 16 tokens that it
goes on with after the first row; or why it refuses the folder.
"""

import contextlib
import json
import os
import pathlib
import sys

# As in gptqmodel_reader.py.
os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "GPTQMODEL_CPU_WORKERS": "2",
    "GPTQMODEL_DISABLE_PACK_EXT": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "GPTQMODEL_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def main(folder, rows):
    import optimum.version
    import torch
    import transformers

    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    told = {"versions": {"transformers": transformers.__version__, "optimum": optimum.version.__version__, "torch": torch.__version__}}
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        return told | read(folder, rows)
    except Exception as refusal:
        # Some kernels refuse only when they are to compute.
        return told | {"refused": f"{type(refusal).__name__}: {refusal}"}


def read(folder, rows):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float16).eval()
    kernels = {type(module).__name__ for module in model.modules() if hasattr(module, "qweight")}
    prompt = torch.tensor([rows[0][:32]])
    generated = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, min_new_tokens=16, do_sample=False)
    total, count = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row])
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += len(row) - 1
    told = {"kernels": sorted(kernels), "generated": generated[0, prompt.shape[1] :].tolist()}
    return told | {"tokens": count, "mean_nll": total / count}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        document = main(*sys.argv[1:])
    print(json.dumps(document))
