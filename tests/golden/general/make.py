"""Writes cases.json: what gguf-py's Metadata makes of names, cards and configurations.

Run with the gguf-py of the README beside this file: python make.py > cases.json
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf

CARDS = {
    "none": None,
    "no front matter": "# A model\n\n---\nlicense: mit\n---\n",
    "empty": "",
    "usual": """---
license: apache-2.0
license_link: https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/LICENSE
language:
- en
- no
- zh
pipeline_tag: text-generation
library_name: transformers
base_model: Qwen/Qwen3-30B-A3B-Base
tags: [chat, "text-generation-inference"]
---
# Not read: tags
""",
    "other license": """---
license: other
license_name: llama3.2   # a comment
license_link: 'LICENSE'
datasets:
  - HuggingFaceFW/fineweb-edu
  - https://huggingface.co/datasets/allenai/c4
  - https://huggingface.co/bigcode/the-stack
base_model:
- meta-llama/Llama-3.2-1B
- https://huggingface.co/mistralai/Mistral-7B-v0.1
- https://example.org/models/mine
- {name: Named, author: Someone, version: v2, organization: An Org, description: "d: e", url: u, doi: 10.1/x, uuid: ab-cd, repo_url: r, other: gone}
extra_gated_fields:
  First Name: text
  ip_location:
  - a
  - b: [1, {c: d}]
widget:
- text: |
    tags:
      - not one
---
""",
    "conventions": """---
model_name: My Model
model_creator: Somebody
model_type: llama
model_description: >
  Folded
  text

  with a blank line
url: https://example.org
doi: 10.5555/12345678
version: v3.1
size_label: 9x9B
base_models: []
dataset: one/data-set-v2
tags: single
languages: en
language: [de, fr]
license: [mit, cc-by-4.0]
---
""",
    "nulls": """---
name: ~
model_name: null
author:
organization: ""
base_model:
datasets: null
tags: []
language:
license: mit
license: apache-2.0
---
""",
    "crlf and tabs": "---\r\nlicense: mit\r\ntags:\r\n-\ta\r\n- b\r\n---\r\ntext\r\n",
    "quoted": "---\nname: \"A \\u00e9 \\\"q\\\"\"\ntags:\n- 'it''s'\n- \"no\"\n- ünï\nlicense_name: a - b\n---\n",
    "unclosed": "---\nlicense: mit\ntags:\n  - x\n",
}

NAMES = """Llama-3.2-1B-Instruct
Qwen3-30B-A3B
Qwen3-235B-A22B-Instruct-2507
mistral-7b-v0.3
Mistral-7B-Instruct-v0.2
gemma-3-1b-it
gemma-2-9b
Mixtral-8x7B-Instruct-v0.1
Mixtral-8x22B-v0.1
Phi-3-mini-4k-instruct
Phi-3.5-mini-instruct
Phi-3-medium-128k-instruct
phi-4
phi-2
gpt-oss-20b
DeepSeek-V2-Lite-Chat
deepseek-coder-6.7b-instruct
DeepSeek-R1-Distill-Qwen-1.5B
GLM-4-9B-0414
glm-4-9b-chat-1m
granite-3.3-8b-instruct
OLMo-2-1124-7B
SmolLM3-3B
SmolLM2-135M
stablelm-2-1_6b
stablelm-2-12b-chat
starcoder2-3b
c4ai-command-r-v01
EXAONE-4.0-1.2B
Seed-OSS-36B-Instruct
internlm3-8b-instruct
pythia-160m-deduped-v0
gpt-neox-20b
gpt2-xl
gpt2
opt-125m
bloom-7b1
TinyLlama-1.1B-intermediate-step-480k-1T
TinyLlama_v1.1
Llama-2-7b-chat-hf
CodeLlama-34b-Instruct-hf
Yi-1.5-34B-Chat-16K
Nous-Hermes-2-Mixtral-8x7B-DPO
WizardLM-13B-v1.2-fp16
model-Q4_K_M
model-BF16
--odd--name--
v2
A model in words
a
1.5-pro
x-7B-7b-large
Some-Large-xl
iter2-base-3
vision-chat-lora
org/Name-7B-v1.0-chat
./Name-7B
_name-7B
ünï-7b
x-12
Model-3.5.1-8x3.8B-v2.1
model.with.dots-70B
""".splitlines()

SIZES = [
    ("dense", [("token_embd.weight", [128256, 2048]), ("blk.0.ffn_up.weight", [2048, 475000])]),
    ("7B", [("token_embd.weight", [32000, 4096]), ("blk.0.ffn_up.weight", [4096, 1736000])]),
    ("tiny", [("token_embd.weight", [320, 64]), ("output_norm.weight", [64])]),
    ("experts", [
        ("token_embd.weight", [32000, 4096]),
        ("blk.0.ffn_gate_exps.weight", [8, 14336, 131072]),
        ("blk.0.ffn_down_exps.weight", [8, 4096, 458752]),
        ("blk.0.ffn_up_exps.weight", [8, 14336, 131072]),
    ]),
    ("many experts", [
        ("token_embd.weight", [151936, 2048]),
        ("blk.0.ffn_gate_exps.weight", [128, 768, 98304]),
        ("blk.0.ffn_down_exps.weight", [64, 2048, 36864]),
        ("blk.0.ffn_up_exps.bias", [32, 2880]),
    ]),
]

GENERATIONS = {
    "none": None,
    "greedy": {"do_sample": False, "eos_token_id": [1, 2]},
    "sampled": {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05},
    "whole": {"temperature": 1, "min_p": 0, "penalty_repeat": 1.1, "repetition_penalty": 9.0, "mirostat": 2,
              "mirostat_tau": 5.0, "mirostat_eta": 0.1, "penalty_last_n": -1, "xtc_probability": 0.5,
              "xtc_threshold": 0.1, "sequence": "dkypmxt", "top_k": None},
    "broken": "{",
}

CONFIGS = [{}, {"_name_or_path": "meta-llama/Llama-2-7b-hf"}, {"_name_or_path": "/data/my/model-3B"}]


def case(name, tensors, card=None, config=None, generation=None):
    writer = gguf.GGUFWriter(None, "llama")
    # The writer's shapes are numpy's: outermost first.
    for tensor, shape in tensors:
        writer.tensors[0][tensor] = gguf.gguf_writer.TensorInfo(tuple(shape), gguf.GGMLQuantizationType.F32, 0)
    total, shared, expert, experts = writer.get_total_parameter_count()
    with tempfile.TemporaryDirectory() as parent:
        # A name with slashes cannot be a folder's; it is a repository's id then.
        folder = Path(parent) / name.replace("/", "\\")
        folder.mkdir()
        if card is not None:
            (folder / "README.md").write_bytes(card.encode())
        (folder / "config.json").write_text(json.dumps(config or {}))
        if generation is not None:
            text = generation if isinstance(generation, str) else json.dumps(generation)
            (folder / "generation_config.json").write_text(text)

        class Named(type(folder)):
            name = folder.name.replace("\\", "/")

        metadata = gguf.Metadata.load(None, Named(folder), None, total)
    if metadata.size_label is None and total > 0:
        metadata.size_label = gguf.size_label(total, shared, expert, experts)
    before = len(writer.kv_data[0])
    metadata.set_gguf_meta_model(writer)
    pairs = [[key, value.type.name, value.value] for key, value in list(writer.kv_data[0].items())[before:]]
    for pair in pairs:
        # Whatever number Python had, the file holds a single-precision one.
        if pair[1] == "FLOAT32":
            pair[2] = float(pair[2])
    return {"name": name, "tensors": tensors, "card": card, "config": config or {},
            "generation": generation if isinstance(generation, (str, type(None))) else json.dumps(generation),
            "expected": pairs}


sizes = dict(SIZES)
cases = [case(name, sizes["7B"]) for name in NAMES]
cases += [case(name, sizes[size]) for name in ["Llama-3.2-1B-Instruct", "mistral-7b-v0.3", "Mixtral-8x7B-Instruct-v0.1",
                                               "Qwen3-30B-A3B", "gemma-3-1b-it", "plain"] for size in sizes]
cases += [case(name, sizes["dense"], card) for card in CARDS.values() for name in ["Llama-3.2-1B-Instruct", "model"]]
cases += [case("model-1b", sizes["dense"], CARDS["usual"], {}, generation) for generation in GENERATIONS.values()]
cases += [case("folder", sizes["7B"], card, config) for card in [None, CARDS["usual"]] for config in CONFIGS]
lines = [json.dumps(entry, ensure_ascii=False) for entry in cases]
sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")
