//! Inputs that are sound, of the fixtures and made: what fuzzing starts from.
#![expect(clippy::missing_panics_doc, clippy::panic, reason = "a test that cannot make its input has failed")]

mod made;

use std::fs;

use qhost_tests::fixture;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use made::packed;
pub use made::{gguf, library, weights};

use crate::SEPARATOR;

/// The bytes of a file of `tests/fixtures`.
#[must_use]
pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The text of a file of `tests/fixtures`.
#[must_use]
pub fn text(name: &str) -> String {
    String::from_utf8(bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// An input of several files.
#[must_use]
pub fn joined(files: &[&[u8]]) -> Vec<u8> {
    files.join(&SEPARATOR)
}

/// Weight files: of a few tensors with notes, and of a fixture.
#[must_use]
pub fn safetensors() -> Vec<Vec<u8>> {
    let small = weights(&[
        ("a.weight", "F32", &[2, 3], vec![1; 24]),
        ("b", "BF16", &[], vec![1; 2]),
        ("empty", "U8", &[0, 4], vec![]),
        ("é", "I64", &[1], vec![0; 8]),
    ]);
    vec![small, weights(&[]), bytes("gptq/b4order/model.safetensors")]
}

/// Two weight files of two tensors each.
#[must_use]
pub fn shards() -> (Vec<u8>, Vec<u8>) {
    let shard = |names: [&'static str; 2]| weights(&names.map(|name| (name, "F16", &[2][..], vec![0; 4])));
    (shard(["one", "two"]), shard(["three", "four"]))
}

/// Indexes over these two.
#[must_use]
pub fn index() -> Vec<Vec<u8>> {
    let map =
        json!({"one": "a.safetensors", "two": "a.safetensors", "three": "b.safetensors", "four": "b.safetensors"});
    let whole = json!({"metadata": {"total_size": 16}, "weight_map": map});
    vec![whole.to_string().into_bytes(), json!({"weight_map": {"one": "a.safetensors"}}).to_string().into_bytes()]
}

/// The configs of the families.
#[must_use]
pub fn configs() -> Vec<Vec<u8>> {
    let folder = fixture("arch");
    let mut names: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    let config = |folder: &std::path::PathBuf| fs::read(folder.join("config.json")).ok();
    let parsed = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).ok();
    // As short as they can be.
    names.iter().filter_map(config).filter_map(parsed).map(|config| config.to_string().into_bytes()).collect()
}

/// Journals: of a whole run, and of one that has just begun.
#[must_use]
pub fn journals() -> Vec<Vec<u8>> {
    let start = json!({"record": "start", "schema": "qhost.journal/1", "key": "k", "host": "0.1.0",
        "plugin": "p 1.0.0", "plugin_sha256": "00", "source": "s"});
    let unit = |record: &str, unit: Option<u32>| {
        json!({"record": record, "unit": unit, "segments": [{"segment": 1, "xxh3": "00"}],
            "metrics": [{"segment": 1, "key": "rmse", "value": 0.5}],
            "saved": [{"key": "state", "file": "0", "xxh3": "00"}]})
    };
    let records = [
        start.clone(),
        unit("survey", Some(0)),
        unit("unit", None),
        unit("unit", Some(0)),
        json!({"record": "complete"}),
    ];
    vec![lines_of(&records), lines_of(&[start])]
}

fn lines_of(records: &[Value]) -> Vec<u8> {
    let line = |record: &Value| {
        let json = record.to_string();
        format!("{:016x} {json}\n", xxh3_64(json.as_bytes()))
    };
    records.iter().map(line).collect::<String>().into_bytes()
}

/// Plugin libraries for this machine.
#[must_use]
pub fn libraries() -> Vec<Vec<u8>> {
    let manifest = json!({"schema": "qhost.manifest/1", "id": "x", "version": "1.0.0", "abi": "abi_stable-0.11",
        "api": "^1.0", "summary": "s", "license": "MIT", "homepage": "h", "formats": [{"id": "x", "summary": "s",
        "levels": ["a", "b"], "reads": [{"ending": "x", "magic": "00ff"}], "folders": [], "loaders": ["l"]}],
        "transcodes": [{"from": "a", "to": "b"}]});
    vec![library(&manifest.to_string())]
}

/// Model cards as hubs have them.
#[must_use]
pub fn cards() -> Vec<Vec<u8>> {
    let cards = [
        "---\nlicense: other\nlicense_name: llama3.2\nlicense_link: LICENSE\nlanguage:\n- en\n- de\npipeline_tag: \
         text-generation\ntags: [llama, safetensors, \"pytorch\"]\nbase_model:\n- org/name\nmodel-index:\n- name: x\n  \
         results: []\nextra: |\n  text\n---\n# Title\n",
        "---\nlicense: &l mit\nlanguage: no\ntags: [*l, 'a: b', 1.0]\n? complex\n: value\ndatasets: {a: [b, {c: d}]}\n---\n",
    ];
    cards.map(|card| card.as_bytes().to_vec()).to_vec()
}

/// A `tokenizer_config.json` with a chat template.
#[must_use]
pub fn chatting() -> String {
    text("tokenizers/bpe-gpt2/tokenizer_config.json")
}

/// Tokenizers of `tokenizer.json`.
#[must_use]
pub fn tokenizers() -> Vec<Vec<u8>> {
    let special = text("tinylm/special_tokens_map.json");
    let of = |name: &str| {
        let config = text(&format!("tokenizers/{name}/tokenizer_config.json"));
        joined(&[config.as_bytes(), special.as_bytes(), text(&format!("tokenizers/{name}/tokenizer.json")).as_bytes()])
    };
    let mut seeds: Vec<_> = ["bpe-gpt2", "bpe-llama3", "bpe-qwen2"].map(of).to_vec();
    // Small ones of every kind of model, with parts that the fixtures do not have.
    let added = json!([{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}]);
    let config = json!({"bos_token": "<s>", "added_tokens_decoder": {"4": {"content": "<s>", "special": true}},
        "additional_special_tokens": ["b"], "chat_template": "{{ messages }}"});
    let models = [
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3}, "merges": [["a", "b"]], "unk_token": "a",
            "byte_fallback": true, "fuse_unk": true, "dropout": null, "ignore_merges": true}),
        json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0], ["ab", -0.5], ["▁", -3.0]],
            "byte_fallback": false}),
        json!({"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
            "vocab": {"a": 0, "##b": 1, "ab": 2, "▁": 3}}),
        json!({"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3}}),
    ];
    for model in models {
        let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "model": model,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
                {"type": "Digits", "individual_digits": true}]},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteFallback"}});
        seeds.push(joined(&[config.to_string().as_bytes(), b"{}", tokenizer.to_string().as_bytes()]));
    }
    seeds
}

/// SentencePiece models.
#[must_use]
pub fn sentencepieces() -> Vec<Vec<u8>> {
    let config =
        json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": true, "bos_token": "<s>", "legacy": true});
    ["spm-llama", "spm-unigram", "spm-user"]
        .map(|name| joined(&[config.to_string().as_bytes(), &bytes(&format!("tokenizers/{name}/tokenizer.model"))]))
        .to_vec()
}

/// `vocab.json` with `merges.txt`.
#[must_use]
pub fn vocabularies() -> Vec<Vec<u8>> {
    let letters = ["!", "\"", "a", "b", "c", "d", "e", "Ġ", "l", "o", "he", "Ġa", "<s>"];
    let vocabulary: serde_json::Map<String, Value> =
        letters.iter().zip(0_u32..).map(|(letter, id)| ((*letter).to_owned(), id.into())).collect();
    let merges = "#version: 0.2\nĠ a\n";
    let config = json!({"tokenizer_class": "GPT2Tokenizer", "bos_token": {"content": "<s>"}, "add_bos_token": true});
    let vocabulary = Value::Object(vocabulary).to_string();
    vec![joined(&[config.to_string().as_bytes(), vocabulary.as_bytes(), merges.as_bytes()])]
}

/// Chat templates with a conversation.
#[must_use]
pub fn templates() -> Vec<Vec<u8>> {
    let golden: Value = serde_json::from_str(&text("text/chat_templates.json")).unwrap_or_default();
    let templates = golden["templates"].as_array().into_iter().flatten();
    let conversations: Vec<String> =
        golden["conversations"].as_array().into_iter().flatten().map(|each| each["messages"].to_string()).collect();
    let of = |template: &Value| {
        let source = template["template"].as_str().unwrap_or_default();
        // The first that it does not refuse.
        let taken = template["rendered"].as_array()?.iter().position(|rendered| !rendered.is_null())?;
        Some(joined(&[source.as_bytes(), conversations.get(taken)?.as_bytes()]))
    };
    templates.filter_map(of).collect()
}

/// JSON lines of every kind.
#[must_use]
pub fn lines() -> Vec<Vec<u8>> {
    let message = |role: &str| json!({"role": role, "content": "Hello there"});
    let texts =
        format!("{}\n\n{}\n", json!({"text": "Hello world"}), json!({"text": "a\nb", "other": [1, {"x": null}]}));
    let chats = format!("{}\n", json!({"messages": [message("user"), message("assistant")], "tools": [{"name": "f"}]}));
    vec![texts.into_bytes(), chats.into_bytes(), b"{\"input_ids\":[1,2,319]}\n{\"input_ids\":[5]}".to_vec()]
}

/// Parquet files.
#[must_use]
pub fn parquets() -> Vec<Vec<u8>> {
    ["ids", "lines.snappy", "lines.zstd", "messages"].map(|name| bytes(&format!("text/{name}.parquet"))).to_vec()
}

/// Small files of a model: config, card, `generation_config.json`, `tokenizer_config.json`, and a tokenizer.
#[must_use]
pub fn companions() -> Vec<Vec<u8>> {
    let config = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1,
        "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1,
        "vocab_size": 512, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "bos_token_id": 1, "eos_token_id": [2, 3]});
    let generation = json!({"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.5, "top_k": 3, "top_p": 0.5});
    let cards = cards();
    let of = |tokenizer_config: &str, tokenizer: &[u8]| {
        let (config, generation) = (config.to_string(), generation.to_string());
        joined(&[config.as_bytes(), &cards[0], generation.as_bytes(), tokenizer_config.as_bytes(), tokenizer])
    };
    vec![
        of(&text("stories260K/tokenizer_config.json"), &bytes("stories260K/tokenizer.model")),
        of(&chatting(), text("tokenizers/bpe-gpt2/tokenizer.json").as_bytes()),
        of(&chatting(), text("tokenizers/bpe-llama3/tokenizer.json").as_bytes()),
    ]
}

/// Folders of GPTQ: of fixtures of several layouts, and small ones.
#[must_use]
pub fn gptq() -> Vec<Vec<u8>> {
    let settings = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false, "desc_act": true,
        "dynamic": {"+:.*o_proj": {"bits": 4, "group_size": 32}}});
    let parts: [(&str, &str, &[u64], Vec<u8>); 4] = [
        ("qweight", "I32", &[4, 32], vec![0; 512]),
        ("qzeros", "I32", &[1, 4], vec![0; 16]),
        ("scales", "F16", &[1, 32], vec![0; 64]),
        ("g_idx", "I32", &[32], vec![0; 128]),
    ];
    let small = packed(&settings, &parts);
    let mut planar = settings;
    (planar["bits"], planar["checkpoint_format"]) = (3.into(), "gptq_p".into());
    let parts = [
        ("qweight", "I32", &[3, 32][..], vec![0; 384]),
        ("qzeros", "I32", &[1, 3], vec![0; 12]),
        ("scales", "BF16", &[1, 32], vec![0; 64]),
    ];
    let of = |name: &str| folder(&format!("gptq/{name}"));
    [small, packed(&planar, &parts)].into_iter().chain(["b4order", "mixed", "planar"].map(of)).collect()
}

/// Folders of AWQ: of fixtures of several layouts, and small ones.
#[must_use]
pub fn awq() -> Vec<Vec<u8>> {
    let settings = json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true, "version": "gemm"});
    let parts: [(&str, &str, &[u64], Vec<u8>); 3] = [
        ("qweight", "I32", &[32, 4], vec![0; 512]),
        ("qzeros", "I32", &[1, 4], vec![0; 16]),
        ("scales", "F16", &[1, 32], vec![0; 64]),
    ];
    let of = |name: &str| folder(&format!("awq/{name}"));
    std::iter::once(packed(&settings, &parts)).chain(["asym", "gemv", "gemv_fast"].map(of)).collect()
}

/// Folders of compressed-tensors: of fixtures of several packings, and small ones.
#[must_use]
pub fn compressed_tensors() -> Vec<Vec<u8>> {
    let weights = json!({"num_bits": 4, "group_size": 32, "strategy": "group", "symmetric": false, "type": "int"});
    let settings = json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"}}});
    let shape = [32_i64, 32].iter().flat_map(|size| size.to_le_bytes()).collect();
    let parts: [(&str, &str, &[u64], Vec<u8>); 4] = [
        ("weight_packed", "I32", &[32, 4], vec![0; 512]),
        ("weight_scale", "F16", &[32, 1], vec![0; 64]),
        ("weight_zero_point", "I32", &[4, 1], vec![0; 16]),
        ("weight_shape", "I64", &[2], shape),
    ];
    let of = |name: &str| folder(&format!("compressed-tensors/{name}"));
    std::iter::once(packed(&settings, &parts)).chain(["mixed", "order", "padded3"].map(of)).collect()
}

/// A folder of `tests/fixtures`.
fn folder(name: &str) -> Vec<u8> {
    let config: Value = serde_json::from_str(&text(&format!("{name}/config.json"))).unwrap_or_default();
    joined(&[config.to_string().as_bytes(), b"", &bytes(&format!("{name}/model.safetensors"))])
}

/// The small files without which no GGUF file is planned.
#[must_use]
pub fn tokenizer_of_a_plan() -> [(&'static str, Vec<u8>); 2] {
    ["tokenizer.model", "tokenizer_config.json"].map(|name| (name, bytes(&format!("stories260K/{name}"))))
}

/// Importance matrices of a tensor of a plan, in both forms.
#[must_use]
pub fn imatrix() -> Vec<Vec<u8>> {
    let (name, values) = (b"blk.0.attn_q.weight", [1.5_f32; 32]);
    let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let number = |number: usize| u32::try_from(number).unwrap_or(0).to_le_bytes();
    let entry = [&number(name.len()), &name[..], &number(3), &number(32), &values].concat();
    let older = [&number(1)[..], &entry].concat();
    let with_data = [&older[..], &number(7), &number(4), b"data"].concat();
    let mut form_of_gguf = [&b"GGUF"[..], &number(3), &2_u64.to_le_bytes(), &0_u64.to_le_bytes()].concat();
    for (part, columns, offset) in [("in_sum2", 32_u64, 0_u64), ("counts", 1, 128)] {
        let name = format!("blk.0.attn_q.weight.{part}");
        form_of_gguf.extend((name.len() as u64).to_le_bytes());
        form_of_gguf.extend(name.bytes());
        // Two dimensions, 32-bit floats.
        form_of_gguf.extend(number(2));
        form_of_gguf.extend([columns, 1].iter().flat_map(|size| size.to_le_bytes()));
        form_of_gguf.extend(number(0));
        form_of_gguf.extend(offset.to_le_bytes());
    }
    form_of_gguf.resize(form_of_gguf.len().next_multiple_of(32), 0);
    form_of_gguf.extend(&values);
    form_of_gguf.extend(6_f32.to_le_bytes());
    form_of_gguf.resize(form_of_gguf.len().next_multiple_of(32), 0);
    vec![older, with_data, form_of_gguf]
}
