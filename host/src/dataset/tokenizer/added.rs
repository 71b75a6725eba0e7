//! Tokens that `tokenizer_config.json` adds to those of the tokenizer's own file, as transformers does when it loads.

use std::collections::BTreeSet;

use tokenizers::{AddedToken, Tokenizer};

use super::{CONFIG, Error, config::Config};

/// Adds them. One whose number would be another than the config says, or that the vocabulary does not have, is left
/// out: the model has no row for it.
pub(super) fn add(tokenizer: &mut Tokenizer, config: &Config) -> Result<(), Error> {
    let known: BTreeSet<String> =
        tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let mut tokens = Vec::new();
    let mut next = u32::try_from(tokenizer.get_vocab_size(true)).unwrap_or(u32::MAX);
    for (id, token) in config.added()? {
        let fits = match tokenizer.token_to_id(&token.content) {
            Some(found) => found == id,
            None => id == next,
        };
        if known.contains(&token.content) || !fits {
            continue;
        }
        next = next.max(id.saturating_add(1));
        let added = AddedToken::from(token.content, token.special);
        let added = added.single_word(token.single_word).lstrip(token.lstrip).rstrip(token.rstrip);
        tokens.push(added.normalized(token.normalized));
    }
    let named = config.named_tokens();
    let named = named.iter().map(|(_, token)| token.as_str()).chain(config.further());
    for token in named {
        let listed = known.contains(token) || tokens.iter().any(|added: &AddedToken| added.content == token);
        if !listed && tokenizer.token_to_id(token).is_some() {
            tokens.push(AddedToken::from(token, true));
        }
    }
    // The kinds are kept apart by the library: a special token is not split, and left out of a decoded text.
    let (special, plain): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|token| token.special);
    let bad = |error: tokenizers::Error| Error::BadTokenizer { file: CONFIG.into(), reason: error.to_string() };
    tokenizer.add_tokens(plain).map_err(bad)?;
    tokenizer.add_special_tokens(special).map_err(bad)?;
    Ok(())
}
