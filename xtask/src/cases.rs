//! The folders that loaders are shown: of which model, how quantised, and who is known not to read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A way to quantise a model.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) model: Model,
    /// What it is quantised to first, so that the folder is converted from that.
    pub(crate) before: &'static [&'static str],
    pub(crate) format: &'static str,
    pub(crate) options: &'static [&'static str],
    /// Loaders that cannot read such folders, as far as they are known.
    pub(crate) refused_by: &'static [&'static str],
    /// Loaders that say nothing, and compute with other weights than those of the folder.
    pub(crate) misread_by: &'static [&'static str],
}

/// What is quantised.
#[derive(Clone, Copy)]
pub(crate) enum Model {
    /// The bundled model, which is trained.
    Trained,
    /// A random checkpoint of `tests/fixtures/arch`.
    Family(&'static str),
}

/// vLLM reads GPTQ with 4 and 8 bits, symmetric, in columns' own order; on CPU it has no kernel for 8, and none for
/// experts. optimum knows no rules but those that leave modules out, and the kernel that transformers takes for 4 bits on
/// CPU no groups beyond 256. transformers 5 has a layer's experts in one tensor, which its readers of packed linears leave
/// at random values. gptqmodel has modules of its own in the place of phi3's fused ones and of mixtral's experts: of GPTQ it
/// misses their tensors, of AWQ it leaves them at random values. Of compressed-tensors, vLLM has a kernel for 4 bits on CPU, and
/// nobody takes groups in an order of their own any more; transformers does not take what is asymmetric unless it is told how.
pub(crate) const CASES: [Case; 43] = [
    gptq("4bit-g128", &[], &[]),
    gptq("4bit-g128-asym", &["--asym"], &["vllm"]),
    gptq("4bit-g32", &["--group-size", "32"], &[]),
    gptq("4bit-channel", &["--group-size", "-1"], &["transformers"]),
    gptq("3bit-g128", &["--bits", "3"], &["vllm"]),
    gptq("3bit-g32-asym", &["--bits", "3", "--group-size", "32", "--asym"], &["vllm"]),
    gptq("2bit-g128", &["--bits", "2"], &["vllm"]),
    gptq("8bit-g128-in-shards", &["--bits", "8", "--plugin-option", "shard-size=2MB"], &["vllm"]),
    gptq("4bit-g128-act-order", &["--desc-act"], &["vllm"]),
    // GPTQModel, and transformers by it, take such files only from GPTQModel.
    gptq("4bit-g128-asym-v1", &["--asym", "--plugin-option", "checkpoint-format=gptq"], &["vllm", "gptqmodel"]),
    gptq("rules-to-skip", &["--plugin-option", r#"dynamic={"-:.*\\.o_proj": {}}"#], &[]),
    gptq(
        "rules-for-groups",
        &["--plugin-option", r#"dynamic={"-:.*\\.o_proj": {}, "+:.*\\.down_proj": {"group_size": 32}}"#],
        &["transformers"],
    ),
    gptq(
        "rules-for-bits",
        &["--plugin-option", r#"dynamic={"-:.*\\.0\\..*": {}, "+:.*\\.down_proj": {"bits": 8, "sym": false}}"#],
        &["transformers", "vllm"],
    ),
    gptq_of("qwen2", "qwen2", &[], &[]),
    gptq_of("phi3", "phi3", &["gptqmodel"], &[]),
    gptq_of("mixtral", "mixtral", &["gptqmodel", "vllm"], &["transformers"]),
    gptq_of("qwen2-moe", "qwen2_moe", &["vllm"], &["transformers"]),
    awq("awq-g128", &["--asym"], &[]),
    awq("awq-g64", &["--group-size", "64", "--asym"], &[]),
    awq("awq-g32-in-shards", &["--group-size", "32", "--asym", "--plugin-option", "shard-size=2MB"], &[]),
    awq("awq-channel", &["--group-size", "-1", "--asym"], &["transformers"]),
    awq("awq-g128-sym", &["--sym"], &[]),
    awq("awq-exclusions", &["--asym", "--plugin-option", "modules-to-not-convert=o_proj,layers.1.mlp"], &[]),
    awq_of("awq-qwen2", "qwen2", &[], &[]),
    awq_of("awq-phi3", "phi3", &[], &["gptqmodel"]),
    awq_of("awq-mixtral", "mixtral", &["vllm"], &["gptqmodel", "transformers"]),
    awq_of("awq-qwen2-moe", "qwen2_moe", &["vllm"], &["transformers"]),
    packed("ct-4bit-g128", &[], &[]),
    packed("ct-4bit-g32-asym", &["--group-size", "32", "--asym"], &["transformers"]),
    packed("ct-4bit-channel-in-shards", &["--group-size", "-1", "--plugin-option", "shard-size=2MB"], &[]),
    packed("ct-3bit-g64", &["--bits", "3", "--group-size", "64"], &["vllm"]),
    packed("ct-8bit-g128", &["--bits", "8"], &["vllm"]),
    packed("ct-4bit-g32-act-order", &["--group-size", "32", "--desc-act"], &["transformers", "vllm"]),
    packed("ct-exclusions", &["--plugin-option", "ignore=o_proj,layers.1."], &[]),
    converted("gptq-to-ct", &["--format", "gptq", "--group-size", "32"], "compressed-tensors", &[], &[]),
    converted("awq-to-ct", &["--format", "awq", "--asym"], "compressed-tensors", &[], &["transformers"]),
    converted("ct-to-gptq", &["--format", "compressed-tensors"], "gptq", &[], &[]),
    converted("q4_0-to-gptq", &["--format", "gguf", "--level", "Q4_0"], "gptq", &[], &[]),
    converted("q8_0-to-gptq", &["--format", "gguf", "--level", "Q8_0"], "gptq", &[], &["vllm"]),
    converted("q4_k_m-to-gptq", &["--format", "gguf", "--level", "Q4_K_M"], "gptq", &["--bits", "4"], &[]),
    converted("q4_k_m-to-awq", &["--format", "gguf", "--level", "Q4_K_M"], "awq", &["--bits", "4", "--asym"], &[]),
    converted("gptq-to-awq", &["--format", "gptq", "--asym"], "awq", &[], &[]),
    converted("awq-to-gptq", &["--format", "awq", "--asym"], "gptq", &[], &["vllm"]),
];

const fn converted(
    name: &'static str,
    before: &'static [&'static str],
    format: &'static str,
    options: &'static [&'static str],
    refused_by: &'static [&'static str],
) -> Case {
    Case { name, model: Model::Trained, before, format, options, refused_by, misread_by: &[] }
}

const fn gptq(name: &'static str, options: &'static [&'static str], refused_by: &'static [&'static str]) -> Case {
    Case { name, model: Model::Trained, before: &[], format: "gptq", options, refused_by, misread_by: &[] }
}

const fn packed(name: &'static str, options: &'static [&'static str], refused_by: &'static [&'static str]) -> Case {
    let format = "compressed-tensors";
    Case { name, model: Model::Trained, before: &[], format, options, refused_by, misread_by: &[] }
}

const fn gptq_of(
    name: &'static str,
    family: &'static str,
    refused_by: &'static [&'static str],
    misread_by: &'static [&'static str],
) -> Case {
    let options = &["--group-size", "32"];
    Case { name, model: Model::Family(family), before: &[], format: "gptq", options, refused_by, misread_by }
}

const fn awq(name: &'static str, options: &'static [&'static str], refused_by: &'static [&'static str]) -> Case {
    Case { name, model: Model::Trained, before: &[], format: "awq", options, refused_by, misread_by: &[] }
}

const fn awq_of(
    name: &'static str,
    family: &'static str,
    refused_by: &'static [&'static str],
    misread_by: &'static [&'static str],
) -> Case {
    let options = &["--group-size", "32", "--asym"];
    Case { name, model: Model::Family(family), before: &[], format: "awq", options, refused_by, misread_by }
}

impl Model {
    /// The checkpoint, and rows of its tokens to score. What has to be made is made in a folder.
    pub(crate) fn prepare(self, folder: &Path) -> Result<(PathBuf, PathBuf)> {
        let rows = qhost_tests::fixture("text/prose.tinylm.jsonl");
        let Self::Family(family) = self else {
            return Ok((qhost_tests::fixture("tinylm"), rows));
        };
        let model = folder.join(family);
        fs::create_dir_all(&model).with_context(|| format!("{} cannot be made", model.display()))?;
        let (arch, tokenizer) =
            (qhost_tests::fixture("arch").join(family), qhost_tests::fixture("tokenizers/bpe-gpt2"));
        for (from, name) in
            [(&arch, "model.safetensors"), (&tokenizer, "tokenizer.json"), (&tokenizer, "tokenizer_config.json")]
        {
            fs::copy(from.join(name), model.join(name))
                .with_context(|| format!("{family}: {name} cannot be copied"))?;
        }
        let config = loadable(&fs::read_to_string(arch.join("config.json"))?)?;
        fs::write(model.join("config.json"), serde_json::to_string_pretty(&config)?)?;
        let vocabulary = config["vocab_size"].as_u64().context("config.json has no vocab_size")?;
        let own = folder.join(format!("{family}.jsonl"));
        fs::write(&own, within(&fs::read_to_string(rows)?, vocabulary)?)?;
        Ok((model, own))
    }
}

/// vLLM has no attention on CPU for heads of 16: half as many of twice the width have the same tensors. gptqmodel asks for
/// a token to pad with.
fn loadable(config: &str) -> Result<Value> {
    let mut config: Value = serde_json::from_str(config)?;
    for key in ["num_attention_heads", "num_key_value_heads"] {
        let heads = config[key].as_u64().with_context(|| format!("config.json has no {key}"))?;
        config[key] = (heads / 2).into();
    }
    if !config["head_dim"].is_null() {
        config["head_dim"] = (config["head_dim"].as_u64().context("head_dim is no number")? * 2).into();
    }
    config["pad_token_id"] = config["eos_token_id"].clone();
    Ok(config)
}

/// Rows of another vocabulary's tokens, folded into one that is smaller.
pub(crate) fn within(rows: &str, vocabulary: u64) -> Result<String> {
    let mut text = String::new();
    for line in rows.lines() {
        let row: Value = serde_json::from_str(line)?;
        let tokens = row["input_ids"].as_array().context("a row has no input_ids")?;
        let tokens: Vec<_> = tokens.iter().filter_map(Value::as_u64).map(|token| token % vocabulary).collect();
        text.push_str(&json!({ "input_ids": tokens }).to_string());
        text.push('\n');
    }
    Ok(text)
}
