//! Sums over the tensors of a plan or of an output, for documents and for people.

use std::collections::BTreeMap;

use qhost_plugin_api::documents::TensorSegment;

use crate::run::TensorOutcome;

/// A tensor as it will be, or is, stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) name: &'a str,
    pub(super) encoding: &'a str,
    pub(super) elements: u64,
    pub(super) bytes: u64,
    /// Why the encoding is not the level's own choice.
    pub(super) fallback: Option<&'a str>,
    /// What the level's own choice would be.
    pub(super) instead_of: Option<&'a str>,
}

impl<'a> Stored<'a> {
    pub(super) fn planned((_, bytes, tensor): (u32, u64, &'a TensorSegment)) -> Self {
        Self {
            name: &tensor.name,
            encoding: &tensor.encoding,
            elements: tensor.elements,
            bytes,
            fallback: tensor.fallback.as_deref(),
            instead_of: tensor.instead_of.as_deref(),
        }
    }
}

impl<'a> From<&'a TensorOutcome> for Stored<'a> {
    fn from(tensor: &'a TensorOutcome) -> Self {
        Self {
            name: &tensor.name,
            encoding: &tensor.encoding,
            elements: tensor.elements,
            bytes: tensor.bytes,
            fallback: tensor.fallback.as_deref(),
            instead_of: tensor.instead_of.as_deref(),
        }
    }
}

/// A number of tensors with something in common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) tensors: u64,
    pub(super) elements: u64,
    pub(super) bytes: u64,
}

impl Sum {
    fn add(&mut self, tensor: &Stored<'_>) {
        self.tensors += 1;
        self.elements = self.elements.saturating_add(tensor.elements);
        self.bytes = self.bytes.saturating_add(tensor.bytes);
    }
}

/// The tensors of each encoding, the largest part of the output first.
pub(super) fn encodings<'a>(tensors: &[Stored<'a>]) -> Vec<(&'a str, Sum)> {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for tensor in tensors {
        sums.entry(tensor.encoding).or_default().add(tensor);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.bytes));
    sums
}

/// Tensors that are not stored as the level says, for one and the same reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fallback<'a> {
    pub(super) encoding: &'a str,
    pub(super) instead_of: Option<&'a str>,
    pub(super) reason: &'a str,
    pub(super) sum: Sum,
}

/// The fallbacks by what they are and why, those of most weights first.
pub(super) fn fallbacks<'a>(tensors: &[Stored<'a>]) -> Vec<Fallback<'a>> {
    let mut sums: BTreeMap<_, Sum> = BTreeMap::new();
    for tensor in tensors {
        if let Some(reason) = tensor.fallback {
            sums.entry((tensor.encoding, tensor.instead_of, reason)).or_default().add(tensor);
        }
    }
    let fallbacks =
        sums.into_iter().map(|((encoding, instead_of, reason), sum)| Fallback { encoding, instead_of, reason, sum });
    let mut fallbacks: Vec<_> = fallbacks.collect();
    fallbacks.sort_by_key(|fallback| std::cmp::Reverse(fallback.sum.elements));
    fallbacks
}

/// Tensors of the same kind and encoding, in however many layers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind<'a> {
    /// Their name with `*` in the place of numbers.
    pub(super) pattern: String,
    pub(super) encoding: &'a str,
    pub(super) fallback: bool,
    /// The first number in each name, sorted.
    pub(super) layers: Vec<u64>,
    pub(super) sum: Sum,
}

/// The tensors by kind, in the order in which kinds first appear; those of one pattern stand together.
pub(super) fn kinds<'a>(tensors: &[Stored<'a>]) -> Vec<Kind<'a>> {
    let mut order: BTreeMap<String, usize> = BTreeMap::new();
    let mut kinds: Vec<(usize, Kind<'a>)> = Vec::new();
    let mut places: BTreeMap<(usize, &str, bool), usize> = BTreeMap::new();
    for tensor in tensors {
        let (pattern, layer) = pattern(tensor.name);
        let next = order.len();
        let rank = *order.entry(pattern.clone()).or_insert(next);
        let (encoding, fallback) = (tensor.encoding, tensor.fallback.is_some());
        let place = *places.entry((rank, encoding, fallback)).or_insert_with(|| {
            kinds.push((rank, Kind { pattern, encoding, fallback, layers: Vec::new(), sum: Sum::default() }));
            kinds.len() - 1
        });
        let kind = &mut kinds[place].1;
        kind.sum.add(tensor);
        kind.layers.extend(layer);
    }
    kinds.sort_by_key(|(rank, _)| *rank);
    let sorted = kinds.into_iter().map(|(_, mut kind)| {
        kind.layers.sort_unstable();
        kind.layers.dedup();
        kind
    });
    sorted.collect()
}

/// A name with `*` for every part that is a number, and the first of the numbers.
fn pattern(name: &str) -> (String, Option<u64>) {
    let mut first = None;
    let parts = name.split('.').map(|part| match part.parse::<u64>() {
        Ok(number) if part.bytes().all(|byte| byte.is_ascii_digit()) => {
            first = first.or(Some(number));
            "*"
        }
        _ => part,
    });
    (parts.collect::<Vec<_>>().join("."), first)
}

/// Sorted numbers as ranges: `0–3, 6, 9–11`.
pub(super) fn ranges(numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(number) => *end = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = ranges.into_iter().map(|range| match range {
        (start, end) if start == end => start.to_string(),
        (start, end) if start + 1 == end => format!("{start}, {end}"),
        (start, end) => format!("{start}–{end}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<'a>(name: &'a str, encoding: &'a str) -> Stored<'a> {
        Stored { name, encoding, elements: 100, bytes: 50, fallback: None, instead_of: None }
    }

    #[test]
    fn layers_of_a_kind_are_one_row_and_experts_do_not_multiply_it() {
        let tensors = [
            tensor("embd", "A"),
            tensor("blk.0.v", "A"),
            tensor("blk.0.exps.0.up", "A"),
            tensor("blk.0.exps.1.up", "A"),
            tensor("blk.1.v", "B"),
            tensor("blk.2.v", "A"),
            tensor("blk.2.exps.0.up", "A"),
        ];
        let kinds = kinds(&tensors);
        let rows: Vec<_> = kinds
            .iter()
            .map(|kind| (kind.pattern.as_str(), kind.encoding, ranges(&kind.layers), kind.sum.tensors))
            .collect();
        assert_eq!(
            rows,
            [
                ("embd", "A", String::new(), 1),
                ("blk.*.v", "A", "0, 2".into(), 2),
                ("blk.*.v", "B", "1".into(), 1),
                ("blk.*.exps.*.up", "A", "0, 2".into(), 3),
            ]
        );
    }

    #[test]
    fn numbers_in_words_are_no_layers() {
        assert_eq!(pattern("h.10.q8.weight"), ("h.*.q8.weight".into(), Some(10)));
        assert_eq!(pattern("a.+1.b"), ("a.+1.b".into(), None));
    }

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&[0, 1, 2, 3, 6, 8, 9, 20]), "0–3, 6, 8, 9, 20");
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[u64::MAX]), u64::MAX.to_string());
    }

    #[test]
    fn sums_are_by_encoding_and_by_reason() {
        let fallen = |name, reason| Stored { fallback: Some(reason), instead_of: Some("Z"), ..tensor(name, "B") };
        let tensors = [tensor("a", "A"), fallen("b", "rows"), fallen("c", "rows"), fallen("d", "other")];
        let sum = |tensors| Sum { tensors, elements: 100 * tensors, bytes: 50 * tensors };
        assert_eq!(encodings(&tensors), [("B", sum(3)), ("A", sum(1))]);
        let fallbacks = fallbacks(&tensors);
        assert_eq!((fallbacks[0].reason, fallbacks[0].sum), ("rows", sum(2)));
        assert_eq!((fallbacks[1].reason, fallbacks[1].sum), ("other", sum(1)));
    }
}
