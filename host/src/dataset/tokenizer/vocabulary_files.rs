//! `vocab.json` and `merges.txt`: a byte-level BPE as GPT-2's.

use std::{collections::HashMap, str};

use tokenizers::{
    Tokenizer, decoders::byte_level::ByteLevel as Decoder, models::bpe::BPE, pre_tokenizers::byte_level::ByteLevel,
};

use super::{Error, MERGES, VOCABULARY, config::Config};

/// The classes of transformers whose text is split as by GPT-2.
const CLASSES: [&str; 3] = ["GPT2Tokenizer", "PreTrainedTokenizer", "TokenizersBackend"];

/// The tokenizer of the two files.
pub(super) fn tokenizer(vocabulary: &[u8], merges: &[u8], config: &Config) -> Result<Tokenizer, Error> {
    if let Some(class) = config.class().filter(|class| !CLASSES.contains(class)) {
        let kind = format!("the vocabulary of a {class}, of which tokenizer.json is needed");
        return Err(Error::ForeignTokenizer { file: VOCABULARY.into(), kind });
    }
    let bad = |file: &str, reason: String| Error::BadTokenizer { file: file.to_owned(), reason };
    let vocabulary: HashMap<String, u32> =
        serde_json::from_slice(vocabulary).map_err(|error| bad(VOCABULARY, error.to_string()))?;
    let merges = str::from_utf8(merges).map_err(|error| bad(MERGES, error.to_string()))?;
    let pairs = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
    let pair = |line: &str| match line.split_once(' ') {
        Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
        None => Err(bad(MERGES, format!("`{line}` is not a pair"))),
    };
    let merges = pairs.map(pair).collect::<Result<Vec<_>, _>>()?;
    let model =
        BPE::builder().vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges);
    let model = model.build().map_err(|error| bad(MERGES, error.to_string()))?;
    let mut tokenizer = Tokenizer::new(model);
    let prefix = config.adds_prefix_space().unwrap_or(false);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(prefix, true, true)));
    tokenizer.with_decoder(Some(Decoder::default()));
    Ok(tokenizer)
}
