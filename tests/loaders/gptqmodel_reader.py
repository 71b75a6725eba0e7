"""What gptqmodel makes of a folder, with its kernels for PyTorch on CPU.

    gptqmodel_reader.py FOLDER ROWS

prints one JSON document: a digest of each linear's weights as gptqmodel dequantises them ([out, in], in f32), the mean loss of
the rows with these in a plain forward pass in f32, and 16 tokens that its own kernels go on with after the first row; or why
it refuses the folder.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import sys

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    # Its pool of threads cannot be made on few cores otherwise.
    "GPTQMODEL_CPU_WORKERS": "2",
    # Nothing is compiled: that takes minutes, and the figures are the same.
    "GPTQMODEL_DISABLE_PACK_EXT": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "GPTQMODEL_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def losses(model, rows):
    import torch

    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row])
            logits = model(input_ids=ids).logits[0, :-1].float()
            yield torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").double()


def dequantised(module):
    """[in, out] as gptqmodel has it, with scales in f32, so that what it multiplies is not rounded to f16."""
    module.scales = module.scales.float()
    if hasattr(module, "dequantize_weight"):
        return module.dequantize_weight()
    # Its modules for AWQ have no such method; this is what they call.
    from gptqmodel.nn_modules.qlinear.torch_awq import dequantize_gemm

    parts = {name: getattr(module, name) for name in ("qweight", "qzeros", "scales", "bits", "group_size")}
    return dequantize_gemm(**parts)


def main(folder, rows):
    import gptqmodel
    import torch
    import transformers

    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    told = {"versions": {"gptqmodel": gptqmodel.__version__, "torch": torch.__version__, "transformers": transformers.__version__}}
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        method = json.loads((pathlib.Path(folder) / "config.json").read_text())["quantization_config"]["quant_method"]
        backend = gptqmodel.BACKEND(f"{method}_torch")
        loaded = gptqmodel.GPTQModel.load(folder, device="cpu", backend=backend, dtype=torch.float16)
    except Exception as refusal:
        return told | {"refused": f"{type(refusal).__name__}: {refusal}"}
    model = loaded.model.eval()
    prompt = torch.tensor([rows[0][:32]])
    generated = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, min_new_tokens=16, do_sample=False)
    told |= {"generated": generated[0, prompt.shape[1] :].tolist(), "linears": {}}
    for name, module in list(model.named_modules()):
        if not hasattr(module, "qweight"):
            continue
        weight = dequantised(module).float().T.contiguous() + 0.0
        told["linears"][name] = hashlib.sha256(weight.numpy().tobytes()).hexdigest()
        plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
        plain.weight.data = weight
        if module.bias is not None:
            plain.bias.data = module.bias.float()
        model.set_submodule(name, plain)
    loss = torch.cat(list(losses(model.float(), rows)))
    mean = loss.mean().item()
    # JSON has no word for what is no number.
    return told | {"tokens": loss.numel(), "mean_nll": mean if math.isfinite(mean) else None}


if __name__ == "__main__":
    # It says much on standard output.
    with contextlib.redirect_stdout(sys.stderr):
        document = main(*sys.argv[1:])
    print(json.dumps(document))
