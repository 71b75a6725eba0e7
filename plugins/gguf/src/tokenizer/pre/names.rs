//! The values of `tokenizer.ggml.pre` that llama.cpp accepts, and what each changes besides splitting.
//!
//! Facts read from `llama-vocab.cpp` as vendored by llama-cpp-sys-2 0.1.161; it knows no structure.

/// Every name that llama.cpp accepts; it refuses to load a file with any other.
#[rustfmt::skip]
pub(super) const KNOWN: &[&str] = &[
    "default", "minicpm5", "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "jina-v5-nano", "deepseek-llm", "deepseek-coder", "deepseek-v3", "spark2_5", "youtu", "falcon", "mpt",
    "starcoder", "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
    "modern-bert", "jais-2", "gemma4", "granite-embed-multi-311m", "mmbert", "sarvam-moe", "jina-v1-en",
    "jina-v2-code", "roberta-bpe", "whitespace", "refact", "command-r", "qwen2", "deepseek-r1-qwen", "kormo",
    "f2llmv2", "qwen35", "stablelm2", "olmo", "dbrx", "smaug-bpe", "poro-chat", "chatglm-bpe", "glm4", "glm5",
    "viking", "jais", "tekken", "smollm", "codeshell", "bloom", "gpt3-finnish", "exaone", "exaone4", "exaone-moe",
    "chameleon", "minerva-7b", "megrez", "gpt-4o", "llama4", "kanana2", "talkie", "granite-embed-multi-97m",
    "tiny_aya", "cohere2moe", "superbpe", "trillion", "granite-docling", "bailingmoe", "bailingmoe2", "llada-moe",
    "seed-coder", "hunyuan", "hunyuan-dense", "hy_v4", "joyai-llm", "kimi-k2", "ufakzeka", "grok-2", "afmoe",
    "laguna", "minimax-m2", "solar-open", "mellum2",
];

/// What llama.cpp changes under a name, besides how text is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts")]
pub(in super::super) struct Traits {
    /// A piece that is a token is taken whole, without merging.
    pub(in super::super) ignore_merges: bool,
    /// A BOS token is added where the file does not say.
    pub(in super::super) adds_bos: bool,
    /// There is no BOS token where the file names none; under other names it would be token 11.
    pub(in super::super) forgets_bos: bool,
    /// Decoding leaves the spaces before punctuation in place.
    pub(in super::super) keeps_spaces: bool,
}

const LLAMA3: &[&str] =
    &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"];

/// The name that the table of structures has, of several for one splitting.
pub(super) fn usual(name: &str) -> &str {
    match name {
        _ if LLAMA3.contains(&name) => "llama-bpe",
        "phi-2" => "gpt-2",
        "deepseek-r1-qwen" => "qwen2",
        other => other,
    }
}

/// The side effects of a known name.
pub(in super::super) fn traits(name: &str) -> Traits {
    let llama3 = LLAMA3.contains(&name);
    Traits {
        ignore_merges: llama3
            || ["minicpm5", "youtu", "glm4", "glm5", "tekken", "granite-embed-multi-97m"].contains(&name),
        // llama.cpp even insists on a BOS under `gemma4` when the file says otherwise.
        adds_bos: llama3 || ["tekken", "chameleon", "gemma4", "granite-embed-multi-311m"].contains(&name),
        forgets_bos: ["chatglm-bpe", "glm4", "glm5"].contains(&name),
        // Only for names between which `clean_up_tokenization_spaces` chooses.
        keeps_spaces: ["smollm", "qwen2", "poro-chat"].contains(&name),
    }
}
