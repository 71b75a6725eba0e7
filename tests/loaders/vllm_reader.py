"""What vLLM makes of a folder, on CPU.

    vllm_reader.py FOLDER ROWS

prints one JSON document: the mean loss of the rows in bf16, and 16 tokens that it goes on with after the first row; or why it
refuses the folder.
"""

import json
import os
import pathlib
import sys

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # In this process, so that a refusal is an exception here.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}


def main(folder, rows):
    import torch
    import transformers
    import vllm

    rows = [json.loads(line)["input_ids"] for line in pathlib.Path(rows).read_text().splitlines() if line.strip()]
    told = {"versions": {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__}}
    try:
        model = vllm.LLM(model=folder, dtype="bfloat16", enforce_eager=True, max_model_len=256, max_num_seqs=2, seed=0)
    except Exception as refusal:
        return told | {"refused": f"{type(refusal).__name__}: {refusal}"}

    def ask(tokens, **settings):
        settings = vllm.SamplingParams(temperature=0, **settings)
        return model.generate([{"prompt_token_ids": tokens}], settings, use_tqdm=False)[0]

    total, count = 0.0, 0
    for row in rows:
        chosen = ask(row, max_tokens=1, prompt_logprobs=0).prompt_logprobs
        total -= sum(candidates[token].logprob for token, candidates in zip(row[1:], chosen[1:], strict=True))
        count += len(row) - 1
    generated = ask(rows[0][:32], max_tokens=16, min_tokens=16).outputs[0].token_ids
    return told | {"generated": list(generated), "tokens": count, "mean_nll": total / count}


if __name__ == "__main__":
    # Its log goes to standard output, and so does what it starts.
    out = os.dup(1)
    os.dup2(2, 1)
    document = main(*sys.argv[1:])
    os.write(out, (json.dumps(document) + "\n").encode())
