//! What the host reads, on seeds, on what once failed, and on changed seeds.

use qhost_fuzz::targets::{checkpoint, data, tokenizer, work};

macro_rules! tried {
    ($($name:ident: $target:path),* $(,)?) => {$(
        #[test]
        fn $name() {
            $target.try_all();
        }
    )*};
}

tried! {
    safetensors: checkpoint::SAFETENSORS,
    index: checkpoint::INDEX,
    config: checkpoint::CONFIG,
    tokenizer: tokenizer::TOKENIZER,
    sentencepiece: tokenizer::SENTENCEPIECE,
    vocabulary: tokenizer::VOCABULARY,
    template: tokenizer::TEMPLATE,
    lines: data::LINES,
    parquet: data::PARQUET,
    journal: work::JOURNAL,
    manifest: work::MANIFEST,
    card: work::CARD,
}
