//! The conversions whose numbers are looked at: of what, into what, and how much of it has to be the same.

/// A quantised model, and what is made of it, one after the other.
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) source: Source,
    pub(crate) steps: &'static [Step],
}

/// Arguments of `qhost convert`, and by how much the result may differ from the source of the chain: the relative error of a
/// tensor, nothing where every number is to be the same.
pub(crate) struct Step {
    pub(crate) options: &'static [&'static str],
    pub(crate) error: f64,
}

/// A quantised model.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// The bundled model, by `qhost quantize` with these arguments.
    Quantised(&'static [&'static str]),
    /// A folder of `tests/fixtures`, which gptqmodel wrote; it gets a tokenizer of its vocabulary's size.
    Fixture(&'static str),
    /// The bundled model by gptqmodel, with these settings.
    Gptqmodel(&'static str),
    /// The bundled model by llama.cpp, in this level.
    Level(&'static str),
}

impl Step {
    /// The format that is converted into.
    pub(crate) fn format(&self) -> &'static str {
        format_of(self.options).unwrap_or_default()
    }
}

/// What is after `--format`.
pub(crate) fn format_of(options: &[&'static str]) -> Option<&'static str> {
    options.iter().skip_while(|option| **option != "--format").nth(1).copied()
}

impl Source {
    /// The format of the model.
    pub(crate) fn format(self) -> Option<&'static str> {
        match self {
            Self::Quantised(options) => format_of(options),
            Self::Fixture(folder) => folder.split('/').next(),
            Self::Gptqmodel(settings) if settings.contains("awq") => Some("awq"),
            Self::Gptqmodel(_) => Some("gptq"),
            Self::Level(_) => Some("gguf"),
        }
    }

    /// Whether it is there without Python's packages and without llama.cpp.
    pub(crate) fn is_at_hand(self) -> bool {
        matches!(self, Self::Quantised(_) | Self::Fixture(_))
    }
}

const GPTQ: Step = exactly(&["--format", "gptq"]);
const GPTQ_V1: Step = exactly(&["--format", "gptq", "--plugin-option", "checkpoint-format=gptq"]);
const GPTQ_V2: Step = exactly(&["--format", "gptq", "--plugin-option", "checkpoint-format=gptq_v2"]);
const AWQ: Step = exactly(&["--format", "awq"]);
const CT: Step = exactly(&["--format", "compressed-tensors"]);
const GGUF: Step = exactly(&["--format", "gguf"]);
const FLOATS: Step = exactly(&["--format", "safetensors", "--level", "F32"]);

/// GPTQ and AWQ leave embeddings and the head as floats of 16 bits, which hold less than what files of GGUF say of them.
const GPTQ_OF_GGUF: Step = rounded(&["--format", "gptq"]);
const AWQ_OF_GGUF: Step = rounded(&["--format", "awq"]);
const GGUF_AGAIN: Step = rounded(&["--format", "gguf"]);

/// Half of the last of eleven bits.
const fn rounded(options: &'static [&'static str]) -> Step {
    Step { options, error: 0.000_49 }
}

const fn exactly(options: &'static [&'static str]) -> Step {
    Step { options, error: 0.0 }
}

/// Exact pairs, and back. Where a chain ends in the format that it began with, codes, scales and zero-points are those of the
/// source as well.
pub(crate) const CHAINS: &[Chain] = &[
    // Written here.
    quantised("awq-to-gptq", &["--format", "awq", "--asym"], &[GPTQ, AWQ]),
    quantised("awq-sym-to-gptq-v1", &["--format", "awq", "--sym"], &[GPTQ_V1, AWQ]),
    quantised("awq-sym-to-gguf", &["--format", "awq", "--sym", "--group-size", "32"], &[GGUF, AWQ]),
    quantised("gptq-v2-to-awq", &["--format", "gptq", "--asym"], &[AWQ, GPTQ, GPTQ_V1]),
    quantised("gptq-order-to-ct", &["--format", "gptq", "--desc-act"], &[CT, GPTQ]),
    quantised("awq-to-ct", &["--format", "awq", "--asym"], &[CT, AWQ]),
    quantised("ct-3bit-asym-to-gptq", &["--format", "compressed-tensors", "--bits", "3", "--asym"], &[GPTQ, CT]),
    quantised("ct-5bit-to-floats", &["--format", "compressed-tensors", "--bits", "5"], &[FLOATS]),
    quantised("gptq-4bit-to-gguf", &["--format", "gptq", "--group-size", "32"], &[GGUF, GPTQ]),
    quantised("gptq-8bit-to-gguf", &["--format", "gptq", "--bits", "8"], &[GGUF, GPTQ]),
    quantised("gptq-order-to-floats", &["--format", "gptq", "--desc-act"], &[FLOATS]),
    quantised("q4_0-to-gptq", &["--format", "gguf", "--level", "Q4_0"], &[GPTQ_OF_GGUF, GGUF_AGAIN]),
    quantised("q4_0-to-awq", &["--format", "gguf", "--level", "Q4_0"], &[AWQ_OF_GGUF, GGUF_AGAIN]),
    quantised("q8_0-to-gptq", &["--format", "gguf", "--level", "Q8_0"], &[GPTQ_OF_GGUF, GGUF_AGAIN]),
    quantised("q5_1-to-floats", &["--format", "gguf", "--level", "Q5_1"], &[FLOATS]),
    // Written by gptqmodel.
    fixture("fixture-b4", "gptq/b4", &[GPTQ_V2, GGUF, GPTQ_V1]),
    fixture("fixture-b4v2", "gptq/b4v2", &[GPTQ_V1, AWQ, GPTQ_V2]),
    fixture("fixture-b4zero", "gptq/b4zero", &[GPTQ_V2, FLOATS]),
    fixture("fixture-b8row", "gptq/b8row", &[GGUF, GPTQ]),
    fixture("fixture-b3asym", "gptq/b3asym", &[GPTQ_V2, GPTQ_V1]),
    fixture("fixture-b4order", "gptq/b4order", &[GPTQ_V2, GPTQ_V1]),
    fixture("fixture-awq", "awq/asym", &[GPTQ, AWQ]),
    fixture("fixture-awq-sym", "awq/sym", &[GGUF, AWQ]),
    fixture("fixture-awq-row", "awq/row", &[GPTQ, AWQ]),
    // Written by the package.
    fixture("fixture-ct-asym", "compressed-tensors/asym", &[AWQ, GPTQ, CT]),
    fixture("fixture-ct-row8", "compressed-tensors/row8", &[GPTQ, CT]),
    gptqmodel("gptqmodel-2bit", r#"{"bits": 2, "group_size": 32, "sym": true}"#, &[GPTQ_V2, FLOATS]),
    gptqmodel("gptqmodel-3bit-asym", r#"{"bits": 3, "group_size": 64, "sym": false}"#, &[GPTQ_V2, GPTQ_V1]),
    gptqmodel("gptqmodel-4bit", r#"{"bits": 4, "group_size": 32, "sym": true}"#, &[GGUF, GPTQ]),
    gptqmodel("gptqmodel-4bit-asym", r#"{"bits": 4, "group_size": 128, "sym": false}"#, &[AWQ, GPTQ_V1]),
    gptqmodel(
        "gptqmodel-4bit-v2",
        r#"{"bits": 4, "group_size": 64, "sym": false, "format": "gptq_v2"}"#,
        &[AWQ, GPTQ_V2],
    ),
    gptqmodel(
        "gptqmodel-4bit-order",
        r#"{"bits": 4, "group_size": 128, "sym": true, "desc_act": true, "act_group_aware": false}"#,
        &[GPTQ_V2, FLOATS],
    ),
    gptqmodel("gptqmodel-8bit", r#"{"bits": 8, "group_size": 128, "sym": true}"#, &[GGUF, GPTQ]),
    gptqmodel("gptqmodel-awq", r#"{"method": "awq", "bits": 4, "group_size": 64, "sym": false}"#, &[FLOATS]),
    // Written by llama.cpp.
    level("llama.cpp-q4_0", "Q4_0", &[GPTQ_OF_GGUF, GGUF_AGAIN]),
    level("llama.cpp-q8_0", "Q8_0", &[GPTQ_OF_GGUF, GGUF_AGAIN]),
    level("llama.cpp-q5_0", "Q5_0", &[FLOATS]),
];

const fn quantised(name: &'static str, options: &'static [&'static str], steps: &'static [Step]) -> Chain {
    Chain { name, source: Source::Quantised(options), steps }
}

const fn fixture(name: &'static str, folder: &'static str, steps: &'static [Step]) -> Chain {
    Chain { name, source: Source::Fixture(folder), steps }
}

const fn gptqmodel(name: &'static str, settings: &'static str, steps: &'static [Step]) -> Chain {
    Chain { name, source: Source::Gptqmodel(settings), steps }
}

const fn level(name: &'static str, level: &'static str, steps: &'static [Step]) -> Chain {
    Chain { name, source: Source::Level(level), steps }
}
