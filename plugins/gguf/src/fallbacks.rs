//! What fallbacks cost: a level's promise for a model against what the file really takes.
//!
//! The promise is that of the level's own mixture: every tensor in the type that it wants, at that type's
//! bits per weight, whether its rows are whole blocks or not. It knows no names and no weights.

use std::collections::BTreeMap;

use crate::{
    format::{BlockType, LEVELS, Level},
    recipe::Choice,
};

/// The smallest excess over the promise that is worth a warning.
const WORTH_SAYING: f64 = 0.01;

/// What there is to tell of a plan.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Judgement {
    /// The length of the file without fallbacks, if there were any.
    pub(crate) level_bytes: Option<u64>,
    /// The warning, if they make a difference.
    pub(crate) warning: Option<String>,
}

/// Holds the choices for tensors, given as (row length, rows), against what the level wants for them.
///
/// `choose` gives the choices of another level. `parameters` are those of the model, as the host counts
/// them for its bits per weight.
pub(crate) fn judge(
    level: &Level,
    tensors: &[(u64, u64)],
    choices: &[Choice],
    file_bytes: u64,
    parameters: u64,
    choose: impl Fn(&Level) -> Vec<Choice>,
) -> Judgement {
    if choices.iter().all(|choice| choice.instead_of.is_none()) {
        return Judgement::default();
    }
    let (stored, wanted) = (bytes(tensors, choices, stored), bytes(tensors, choices, wanted));
    let around = file_bytes.saturating_sub(stored);
    let promised = around + wanted;
    let excess = figure(file_bytes) / figure(promised.max(1)) - 1.0;
    let warning = (excess >= WORTH_SAYING).then(|| {
        let bits = |bytes| figure(bytes) * 8.0 / figure(parameters.max(1));
        let others = LEVELS.iter().filter(|other| other.name != level.name);
        let others = others.map(|other| (other.name, around + bytes(tensors, &choose(other), self::stored)));
        let distance = |bytes: u64| bytes.abs_diff(promised);
        let nearest = others.min_by_key(|(_, bytes)| distance(*bytes));
        let advice = match nearest.filter(|(_, bytes)| distance(*bytes) < distance(file_bytes)) {
            Some((name, bytes)) => {
                format!("the level that comes nearest to {:.2} here is {name}, with {:.2}", bits(promised), bits(bytes))
            }
            None => format!("no level comes nearer to {:.2} for this model", bits(promised)),
        };
        format!(
            "{} takes {:.2} bits per weight here, not {:.2}: {}; {advice}",
            level.name,
            bits(file_bytes),
            bits(promised),
            blame(tensors, choices),
        )
    });
    Judgement { level_bytes: Some(promised), warning }
}

/// Which rows are to blame: "30 of 41 tensors (98% of the weights) have rows of 64 or 172, which are no whole
/// blocks of 256 for Q4_K".
fn blame(tensors: &[(u64, u64)], choices: &[Choice]) -> String {
    let weights = |fallen: bool| {
        let chosen = tensors.iter().zip(choices).filter(|(_, choice)| !fallen || choice.instead_of.is_some());
        figure(chosen.map(|((row, rows), _)| row * rows).sum())
    };
    let share = 100.0 * weights(true) / weights(false).max(1.0);
    let share = if share < 1.0 { "less than 1".to_owned() } else { format!("{share:.0}") };
    let fallen = tensors.iter().zip(choices).filter_map(|((row, _), choice)| Some((*row, choice.instead_of?)));
    let fallen: Vec<_> = fallen.collect();
    let mut blocks: BTreeMap<usize, (Vec<u64>, Vec<BlockType>)> = BTreeMap::new();
    for &(row, wanted) in &fallen {
        let (rows, types) = blocks.entry(wanted.block_elements()).or_default();
        if !rows.contains(&row) {
            rows.push(row);
        }
        if !types.contains(&wanted) {
            types.push(wanted);
        }
    }
    let reasons = blocks.into_iter().map(|(block, (rows, types))| {
        let rows: Vec<_> = rows.iter().map(u64::to_string).collect();
        let types: Vec<_> = types.iter().map(|wanted| wanted.name()).collect();
        format!("rows of {} are no whole blocks of {block} for {}", or(&rows), or(&types))
    });
    let reasons: Vec<_> = reasons.collect();
    format!(
        "{} of {} tensors ({share}% of the weights) are stored in larger types, because {}",
        fallen.len(),
        choices.len(),
        reasons.join(", and ")
    )
}

/// `a`, `a or b`, `a, b or c`; of many, the first few.
fn or<S: AsRef<str>>(items: &[S]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = items.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match shown.as_slice() {
        _ if items.len() > SHOWN => format!("{}, …", shown.join(", ")),
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        all => all.concat(),
    }
}

fn stored(choice: &Choice) -> BlockType {
    choice.block_type
}

fn wanted(choice: &Choice) -> BlockType {
    choice.instead_of.unwrap_or(choice.block_type)
}

/// The bytes of tensors in one of the types of their choices, blocks that are not whole counted by their
/// share.
fn bytes(tensors: &[(u64, u64)], choices: &[Choice], of: impl Fn(&Choice) -> BlockType) -> u64 {
    let each = tensors.iter().zip(choices).map(|((row, rows), choice)| {
        let (elements, block) = (u128::from(row * rows), of(choice));
        let bytes = elements * block.block_bytes() as u128 / block.block_elements() as u128;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    });
    each.fold(0, u64::saturating_add)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn figure(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str) -> &'static Level {
        Level::named(name).unwrap()
    }

    fn as_wanted(block_type: BlockType) -> Choice {
        Choice { block_type, instead_of: None }
    }

    fn instead(block_type: BlockType, wanted: BlockType) -> Choice {
        Choice { block_type, instead_of: Some(wanted) }
    }

    #[test]
    fn a_promise_that_is_kept_is_not_spoken_of() {
        let choices = [as_wanted(BlockType::Q4K), as_wanted(BlockType::F32)];
        let judged = judge(level("Q4_K_M"), &[(256, 4), (256, 1)], &choices, 10_000, 1280, |_| unreachable!());
        assert_eq!(judged, Judgement::default());
    }

    #[test]
    fn a_promise_that_is_not_kept_is_told_with_numbers_rows_and_a_way_out() {
        // 896 is seven halves of a super-block: Q4_K becomes Q5_0, and Q6_K Q8_0.
        let tensors = [(896, 896), (896, 896), (4864, 896)];
        let choices = [
            instead(BlockType::Q5_0, BlockType::Q4K),
            instead(BlockType::Q8_0, BlockType::Q6K),
            as_wanted(BlockType::Q4K),
        ];
        let parameters = tensors.iter().map(|(row, rows)| row * rows).sum();
        let (square, down) = (896 * 896, 4864 * 896);
        let stored = square / 32 * (22 + 34) + down / 256 * 144;
        let header = 5000;
        let all = |block_type| tensors.iter().map(|_| as_wanted(block_type)).collect::<Vec<_>>();
        let judged = judge(level("Q4_K_M"), &tensors, &choices, header + stored, parameters, |other| {
            all(if other.name == "Q4_1" { BlockType::Q4_1 } else { BlockType::F32 })
        });
        assert_eq!(judged.level_bytes, Some(header + square / 256 * (144 + 210) + down / 256 * 144));
        let warning = judged.warning.unwrap();
        for words in [
            "Q4_K_M takes 5.18 bits per weight here, not 4.78",
            "2 of 3 tensors (27% of the weights)",
            "rows of 896 are no whole blocks of 256 for Q4_K or Q6_K",
            "nearest to 4.78 here is Q4_1, with 5.01",
        ] {
            assert!(warning.contains(words), "{words}: {warning}");
        }
    }

    #[test]
    fn where_every_level_is_as_large_none_is_recommended() {
        let choices = [instead(BlockType::F16, BlockType::Q4K)];
        let judged = judge(level("Q4_K_M"), &[(172, 64)], &choices, 172 * 64 * 2, 172 * 64, |_| choices.to_vec());
        assert!(judged.warning.unwrap().contains("no level comes nearer to 4.50"));
    }

    #[test]
    fn a_difference_that_nobody_would_notice_is_in_the_figures_alone() {
        let tensors = [(896, 1), (4096, 4096)];
        let choices = [instead(BlockType::Q5_0, BlockType::Q4K), as_wanted(BlockType::Q4K)];
        let file = 896 / 32 * 22 + 4096 * 16 * 144;
        let judged = judge(level("Q4_K_S"), &tensors, &choices, file, 4096 * 4096, |_| unreachable!());
        assert_eq!(judged.warning, None);
        assert_eq!(judged.level_bytes, Some(file - 896 / 32 * 22 + 896 * 144 / 256));
    }

    #[test]
    fn lists_are_short() {
        assert_eq!(or(&["a"]), "a");
        assert_eq!(or(&["a", "b", "c"]), "a, b or c");
        assert_eq!(or(&["a", "b", "c", "d", "e"]), "a, b, c, d, …");
    }
}
