//! The secret that a hub knows the user by.

use std::fmt;

/// An access token. It shows itself to nobody: neither [`fmt::Debug`] nor a message has its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in a text such as a file's, without the white space around it; none if nothing is left.
    #[must_use]
    pub fn clean(text: &str) -> Option<Self> {
        let text: String = text.chars().filter(|character| !matches!(character, '\r' | '\n')).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Whether a header can carry it.
    pub(super) fn is_sendable(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// The value of the header `Authorization`.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn a_token_is_cleaned_and_never_shown() {
        let token = Token::clean("  hf_secret\r\n").unwrap();
        assert_eq!(token.bearer(), "Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(Token::clean(" \n"), None);
        assert!(!Token::clean("hf secret").unwrap().is_sendable());
    }
}
