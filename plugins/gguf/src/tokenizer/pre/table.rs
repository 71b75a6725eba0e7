//! The structures that llama.cpp implements, each with the names that stand for it.
//!
//! A row is here when the steps can be read from llama.cpp's own patterns or the comments beside them,
//! and the spelling of `tokenizer.json` files was established from published ones (models named in the
//! comments). It knows nothing of vocabularies.
//!
//! Where llama.cpp splits otherwise than the structure says, the row tells how, for the user to know.
//! Three differences are too small for that: in the patterns of `deepseek-coder` and `deepseek-llm` a space
//! outside of ASCII is not part of the ranges that contain it; `deepseek-llm` keeps runs of digits together
//! and `falcon` a space with the digits after it where the original parts them, for which no vocabulary made
//! under the original has tokens; and `superbpe` groups ASCII digits only.

use super::structure::{GPT2, Step};

/// A step as the table writes it.
enum Row {
    Isolated(&'static str),
    MergedWithNext(&'static str),
    PunctuationRuns,
    Bytes,
}
use Row::{Bytes, Isolated, MergedWithNext, PunctuationRuns};

/// Names in order of preference where nothing else decides, and the structures that they stand for.
struct Entry {
    names: &'static [&'static str],
    structures: &'static [&'static [Row]],
    /// How llama.cpp splits otherwise, if it does.
    limit: Option<&'static str>,
}

const ASCII_CASE: &str = "llama.cpp splits words at combining marks (Hindi, Thai, Arabic vowel signs), and at capital \
    letters in ASCII only; the tokenizer keeps marks in words, and knows the capitals of every alphabet";
const NO_CASE: &str = "llama.cpp does not split words at capital letters, as the tokenizer does";
const NO_CASE_NOR_MARKS: &str = "llama.cpp splits words at combining marks (Hindi, Thai, Arabic vowel signs), and not at \
    capital letters; the tokenizer does the contrary";
const LINE_ENDS: &str = "llama.cpp makes two tokens of each Windows line end, the tokenizer one";

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As tiktoken writes it: the same matches, since nothing that a possessive quantifier holds could be
/// given back, and `\s*` takes the line ends but the last.
const CL100K_TIKTOKEN: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
const JAPANESE_AND_CHINESE: &str = "[一-龥぀-ゟ゠-ヿ]+";
const CHINESE_AND_KOREAN: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const DEEPSEEK3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
/// The characters that a Unicode normalization of this file would change are escaped.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_PUNCTUATION: &str = "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+";
const YOUTU_SCRIPTS: &str = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";
const YOUTU_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TABLE: &[Entry] = &[
    // GPT-2, OPT, GPT-NeoX, Pythia, OLMo 1, Phi-1/2, MPT, ModernBERT. The name is the one that every
    // reader knows; `trillion` and `granite-docling` split alike and differ only in decoding (they keep
    // spaces before punctuation), which concerns one function of llama.cpp and no token id.
    Entry { names: &["gpt-2"], structures: &[&[Isolated(GPT2), Bytes]], limit: None },
    // StarCoder 2, SmolLM 1/2, Command-R, Granite 3, EXAONE 3, CodeShell, Refact, Minerva.
    Entry { names: &["starcoder", "smollm"], structures: &[&[Isolated(r"\p{N}"), Isolated(GPT2), Bytes]], limit: None },
    // Llama 3 (ignores merges); Phi-4, OLMo 2/3, Granite 4, DBRX (do not); GLM 4 and later (ignores
    // merges, has no BOS), its first release (does not ignore them).
    Entry {
        names: &["llama-bpe", "dbrx", "glm4", "chatglm-bpe"],
        structures: &[&[Isolated(CL100K), Bytes], &[Isolated(CL100K_TIKTOKEN), Bytes]],
        limit: None,
    },
    // Qwen 1.5 to 3, and many that follow it; StableLM 2 cleans spaces.
    Entry { names: &["qwen2", "stablelm2"], structures: &[&[Isolated(QWEN2), Bytes]], limit: None },
    // Qwen 3.5 and later: marks belong to words.
    Entry { names: &["qwen35"], structures: &[&[Isolated(QWEN35), Bytes]], limit: None },
    // GPT-4o, gpt-oss, Llama 4, Phi-4-mini, MiniMax-M2.
    Entry { names: &["gpt-4o"], structures: &[&[Isolated(O200K), Bytes]], limit: Some(ASCII_CASE) },
    // Mistral NeMo and later, Nemotron 3.
    Entry { names: &["tekken"], structures: &[&[Isolated(TEKKEN), Bytes]], limit: Some(ASCII_CASE) },
    // DeepSeek V3, R1 and later, Hunyuan dense.
    Entry {
        names: &["deepseek-v3"],
        structures: &[&[Isolated(r"\p{N}{1,3}"), Isolated(JAPANESE_AND_CHINESE), Isolated(DEEPSEEK3_WORDS), Bytes]],
        limit: None,
    },
    // DeepSeek LLM, V2, V2-Lite, Coder-V2.
    Entry {
        names: &["deepseek-llm"],
        structures: &[&[
            Isolated(r"[\r\n]"),
            Isolated(DEEPSEEK_LETTERS),
            Isolated(DEEPSEEK_PUNCTUATION),
            Isolated(r"\s+$"),
            Isolated(CHINESE_AND_KOREAN),
            Isolated(r"\p{N}"),
            Bytes,
        ]],
        limit: None,
    },
    // DeepSeek Coder 1.
    Entry {
        names: &["deepseek-coder"],
        structures: &[&[
            Isolated(r"[\r\n]"),
            Isolated(r"\s?\p{L}+"),
            Isolated(r"\s?\p{P}+"),
            Isolated(CHINESE_AND_KOREAN),
            Isolated(r"\p{N}"),
            Bytes,
        ]],
        limit: None,
    },
    // Falcon 7B, 40B, Mamba: its digits are parted after the bytes have become characters.
    Entry {
        names: &["falcon"],
        structures: &[&[PunctuationRuns, Isolated(GPT2), Bytes, Isolated(r"\p{N}+"), Isolated("[0-9][0-9][0-9]")]],
        limit: None,
    },
    // BLOOM, GPT-3 Finnish; Poro keeps spaces.
    Entry { names: &["bloom", "poro-chat"], structures: &[&[Isolated(BLOOM), Bytes]], limit: None },
    Entry { names: &["viking"], structures: &[&[Isolated(BLOOM), Isolated(r"\p{N}"), Bytes]], limit: None },
    // Ling, LLaDA.
    Entry { names: &["bailingmoe"], structures: &[&[Isolated(BAILING), Bytes]], limit: None },
    // Seed-Coder, Seed-OSS.
    Entry { names: &["seed-coder"], structures: &[&[Isolated(SEED_CODER), Bytes]], limit: None },
    Entry { names: &["ufakzeka"], structures: &[&[Isolated(UFAKZEKA), Bytes]], limit: None },
    Entry { names: &["minicpm5"], structures: &[&[Isolated(r"\p{N}{1,3}"), Isolated(MINICPM5), Bytes]], limit: None },
    // K-EXAONE.
    Entry { names: &["exaone-moe"], structures: &[&[Isolated(EXAONE_MOE), Bytes]], limit: None },
    // Jais 2.
    Entry { names: &["jais-2"], structures: &[&[Isolated(JAIS2), Bytes]], limit: None },
    // Aya: digits in threes from the right, then as GPT-4o.
    Entry {
        names: &["tiny_aya"],
        structures: &[&[Isolated(r"\d{1,3}(?=(?:\d{3})*\b)"), Isolated(O200K), Bytes]],
        limit: Some(NO_CASE),
    },
    // OLMo 2 SuperBPE: no words, digits in threes from the right.
    Entry {
        names: &["superbpe"],
        structures: &[&[Isolated(r"\p{N}+"), Isolated(r"(?=(\d{3})+(?!\d))"), Bytes]],
        limit: None,
    },
    // Laguna: a run of line ends goes with what follows it.
    Entry {
        names: &["laguna"],
        structures: &[&[MergedWithNext(r"(?:\r?\n)+(?!\r?\n)"), Isolated(QWEN2), Bytes]],
        limit: Some(LINE_ENDS),
    },
    // Spark X2.5.
    Entry {
        names: &["spark2_5"],
        structures: &[&[
            Isolated(r"\p{N}{1,3}"),
            Isolated(JAPANESE_AND_CHINESE),
            Isolated(SPARK_WORDS),
            Isolated(r"\p{N}"),
            Bytes,
        ]],
        limit: None,
    },
    // Youtu-LLM.
    Entry {
        names: &["youtu"],
        structures: &[&[Isolated(YOUTU_SCRIPTS), Isolated(YOUTU_WORDS), Bytes]],
        limit: Some(NO_CASE),
    },
    // Kimi K2 and later, where somebody has made a `tokenizer.json` of its tiktoken file.
    Entry { names: &["kimi-k2"], structures: &[&[Isolated(KIMI), Bytes]], limit: Some(NO_CASE_NOR_MARKS) },
];

/// The names for a structure, the preferred first, and how llama.cpp splits otherwise.
pub(super) fn find(steps: &[Step]) -> Option<(&'static [&'static str], Option<&'static str>)> {
    TABLE
        .iter()
        .find(|entry| entry.structures.iter().any(|rows| matches(rows, steps)))
        .map(|entry| (entry.names, entry.limit))
}

/// The first structure that a name stands for.
pub(super) fn steps(name: &str) -> Option<Vec<Step>> {
    let entry = TABLE.iter().find(|entry| entry.names.contains(&name))?;
    let step = |row: &Row| match row {
        Isolated(regex) => Step::Isolated((*regex).to_owned()),
        MergedWithNext(regex) => Step::MergedWithNext((*regex).to_owned()),
        PunctuationRuns => Step::PunctuationRuns,
        Bytes => Step::Bytes,
    };
    Some(entry.structures.first()?.iter().map(step).collect())
}

fn matches(rows: &[Row], steps: &[Step]) -> bool {
    rows.len() == steps.len()
        && rows.iter().zip(steps).all(|(row, step)| match (row, step) {
            (Isolated(expected), Step::Isolated(regex)) | (MergedWithNext(expected), Step::MergedWithNext(regex)) => {
                expected == regex
            }
            (PunctuationRuns, Step::PunctuationRuns) | (Bytes, Step::Bytes) => true,
            _ => false,
        })
}

/// Every name that the table can give.
#[cfg(test)]
pub(super) fn every_name() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|entry| entry.names.iter().copied())
}
