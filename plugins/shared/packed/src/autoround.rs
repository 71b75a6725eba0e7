//! The settings of `AutoRound`, which writes folders of several formats under a method of its own.

use serde_json::{Map, Value};

use crate::settings::text;

/// Its names of its method, the older one last.
const METHODS: [&str; 2] = ["auto-round", "intel/auto-round"];

/// Which tensors a folder of `AutoRound` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoRound {
    /// GPTQ's, with zero points stored less one.
    LessOne,
    /// GPTQ's, with zero points as they are.
    AsTheyAre,
    /// AWQ's.
    Awq,
    /// Some that are not packed integers, or not these.
    Other,
}

impl AutoRound {
    /// What settings say; none if they are not of `AutoRound`.
    #[must_use]
    pub fn of(written: &Map<String, Value>) -> Option<Self> {
        text(written, "quant_method").filter(|method| METHODS.contains(method))?;
        if text(written, "data_type").is_some_and(|kind| kind != "int") {
            return Some(Self::Other);
        }
        // Readers take what is not told for the first; releases before that key named what loads the folder.
        let name = text(written, "packing_format").or_else(|| text(written, "backend")).unwrap_or("auto");
        let (family, packing) = name.split_once(':').unwrap_or((name, ""));
        Some(match (family, packing) {
            ("auto", _) => Self::LessOne,
            (_, packing) if packing.contains("awq") => Self::Awq,
            (_, packing) if packing.contains("gptqmodel") => Self::AsTheyAre,
            (_, packing) if packing.contains("gptq") => Self::LessOne,
            ("auto_round", "" | "exllamav2" | "triton" | "tritonv2") => Self::AsTheyAre,
            _ => Self::Other,
        })
    }

    /// The name of the layout, for words.
    #[must_use]
    pub fn named(written: &Map<String, Value>) -> &str {
        let kind = text(written, "data_type").filter(|kind| *kind != "int");
        kind.or_else(|| text(written, "packing_format")).or_else(|| text(written, "backend")).unwrap_or("auto")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_release_s_words_are_understood() {
        for (key, value, expected) in [
            ("packing_format", "auto_round:auto_gptq", AutoRound::LessOne),
            ("packing_format", "auto_round:gptq", AutoRound::LessOne),
            ("packing_format", "auto_round", AutoRound::AsTheyAre),
            ("packing_format", "auto_round:gptqmodel", AutoRound::AsTheyAre),
            ("packing_format", "auto_round:auto_awq", AutoRound::Awq),
            ("packing_format", "auto_round:llm_compressor", AutoRound::Other),
            ("packing_format", "auto_round:fp8", AutoRound::Other),
            ("backend", "auto_round:exllamav2", AutoRound::AsTheyAre),
            ("backend", "auto_round:gptq:exllamav2", AutoRound::LessOne),
            ("backend", "auto", AutoRound::LessOne),
            ("none", "", AutoRound::LessOne),
            ("data_type", "mx_fp4", AutoRound::Other),
        ] {
            for method in METHODS {
                let written = json!({"quant_method": method, key: value});
                assert_eq!(AutoRound::of(written.as_object().unwrap()), Some(expected), "{written}");
            }
        }
        assert_eq!(AutoRound::of(json!({"quant_method": "gptq"}).as_object().unwrap()), None);
    }
}
