//! Windows of a text, as perplexities are measured over them.

/// Cuts a text into windows of `length` tokens that follow each other without overlap; what is left at the end and
/// fills none is dropped. With `first`, each window's first token is replaced with it: llama.cpp's perplexity does so
/// with the BOS token where the model adds one to a text, transformers' example does not.
#[must_use]
pub fn windows(tokens: &[u32], length: usize, first: Option<u32>) -> Vec<Vec<u32>> {
    let window = |window: &[u32]| {
        let mut window = window.to_vec();
        if let (Some(token), Some(first)) = (window.first_mut(), first) {
            *token = first;
        }
        window
    };
    tokens.chunks_exact(length.max(1)).map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn windows_follow_each_other() {
        let tokens = [1, 2, 3, 4, 5, 6, 7];
        assert_eq!(windows(&tokens, 3, None), [[1, 2, 3], [4, 5, 6]]);
        assert_eq!(windows(&tokens, 3, Some(0)), [[0, 2, 3], [0, 5, 6]]);
        assert!(windows(&tokens, 8, None).is_empty());
    }
}
