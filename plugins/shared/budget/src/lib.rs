//! Chooses for each of several things one of its encodings, so that the sum of their losses is least and the sum of
//! their bytes is within a limit.
//!
//! That is the multiple-choice knapsack. First everything has its smallest encoding; then steps along the lower convex
//! hulls of loss over bytes are taken, those that save most loss for a byte first (Sinha and Zoltners, 1979), which is
//! Lagrange's solution. A large thing may find no room at its turn that many small ones have taken, so that is tried once more with
//! each candidate of the largest things given. What is left of the limit goes to single changes and exchanges of two, as long as one
//! helps.
//! It knows numbers only, and the same numbers give the same choice.

mod losses;
mod size;

use std::cmp::{Ordering, Reverse};

pub use losses::{Losses, read_losses};
pub use size::{Size, bits_per_weight};

/// An encoding that something may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// What it takes.
    pub bytes: u64,
    /// What is lost with it; no NaN.
    pub loss: f64,
}

/// Changes and exchanges that are made at most; each takes time with the square of the number of candidates.
const ROUNDS: usize = 256;

/// Things that are given each of their candidates in turn.
const LARGEST: usize = 4;

/// What of a loss is too small to be worth an exchange: sums differ by as much for the order of their terms.
const NOTHING: f64 = 1e-12;

/// The candidate for each of the things; none if the smallest of all take more than `most` bytes, or something has no
/// candidate.
#[must_use]
pub fn choose(things: &[Vec<Candidate>], most: u64) -> Option<Vec<usize>> {
    let smallest = things.iter().map(|candidates| {
        let places = candidates.iter().enumerate();
        places.min_by(|(_, a), (_, b)| by_bytes(a, b)).map(|(place, _)| place)
    });
    let smallest = smallest.collect::<Option<Vec<_>>>()?;
    let climbed = |given: Option<(usize, usize)>| {
        let mut chosen = smallest.clone();
        if let Some((thing, place)) = given {
            chosen[thing] = place;
        }
        let mut left = most.checked_sub(bytes(things, &chosen)?)?;
        climb(things, &mut chosen, &mut left, given.map(|(thing, _)| thing));
        Some((loss(things, &chosen), chosen, left))
    };
    let mut largest: Vec<_> = (0..things.len()).collect();
    // The sort is stable: of equals the first come first.
    largest.sort_by_key(|thing| Reverse(things[*thing].iter().map(|candidate| candidate.bytes).max()));
    let given = largest.iter().take(LARGEST).flat_map(|thing| (0..things[*thing].len()).map(|place| (*thing, place)));
    let others = given.filter_map(|given| climbed(Some(given)));
    let better =
        |best: (f64, Vec<usize>, u64), other: (f64, Vec<usize>, u64)| if other.0 < best.0 { other } else { best };
    let (_, mut chosen, mut left) = others.fold(climbed(None)?, better);
    for _ in 0..ROUNDS {
        if !improve(things, &mut chosen, &mut left) {
            break;
        }
    }
    Some(chosen)
}

fn loss(things: &[Vec<Candidate>], chosen: &[usize]) -> f64 {
    things.iter().zip(chosen).map(|(candidates, place)| candidates[*place].loss).sum()
}

fn bytes(things: &[Vec<Candidate>], chosen: &[usize]) -> Option<u64> {
    things.iter().zip(chosen).try_fold(0_u64, |sum, (candidates, place)| sum.checked_add(candidates[*place].bytes))
}

/// Fewer bytes first, of as many those with less loss.
fn by_bytes(a: &Candidate, b: &Candidate) -> Ordering {
    a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss))
}

/// A step from one corner of a hull to the next.
struct Step {
    thing: usize,
    from: usize,
    to: usize,
    bytes: u64,
    /// Loss that it saves for a byte.
    gain: f64,
}

/// Takes steps along the hulls, the best first, while there is room; none of the thing that is given.
fn climb(things: &[Vec<Candidate>], chosen: &mut [usize], left: &mut u64, given: Option<usize>) {
    let free = things.iter().enumerate().filter(|(thing, _)| Some(*thing) != given);
    let mut steps: Vec<_> = free.flat_map(|(thing, of_thing)| hull(thing, of_thing)).collect();
    // The sort is stable: of equals the first thing comes first, and its steps are in their order.
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    for step in steps {
        // Without the step before it this one leads from somewhere else.
        if chosen[step.thing] == step.from && step.bytes <= *left {
            chosen[step.thing] = step.to;
            *left -= step.bytes;
        }
    }
}

/// The steps along the lower convex hull of loss over bytes; each saves less for a byte than the one before it.
fn hull(thing: usize, candidates: &[Candidate]) -> Vec<Step> {
    let mut order: Vec<_> = (0..candidates.len()).collect();
    order.sort_by(|a, b| by_bytes(&candidates[*a], &candidates[*b]));
    let step = |from: usize, to: usize| {
        let bytes = candidates[to].bytes - candidates[from].bytes;
        Step { thing, from, to, bytes, gain: (candidates[from].loss - candidates[to].loss) / float(bytes) }
    };
    let mut steps: Vec<Step> = Vec::new();
    let Some(&first) = order.first() else { return steps };
    for place in order {
        let mut from = steps.last().map_or(first, |step| step.to);
        if candidates[place].loss >= candidates[from].loss || candidates[place].bytes == candidates[from].bytes {
            continue;
        }
        while steps.last().is_some_and(|last| last.gain <= step(from, place).gain) {
            from = steps.pop().map_or(first, |last| last.from);
        }
        steps.push(step(from, place));
    }
    steps
}

/// A thing given another candidate.
#[derive(Clone, Copy)]
struct Change {
    thing: usize,
    to: usize,
    bytes: i128,
    loss: f64,
}

/// Makes the change, or the exchange of two, that saves most; tells whether there is one.
fn improve(things: &[Vec<Candidate>], chosen: &mut [usize], left: &mut u64) -> bool {
    let changes: Vec<_> = things
        .iter()
        .enumerate()
        .flat_map(|(thing, candidates)| {
            let now = candidates[chosen[thing]];
            let to = candidates.iter().enumerate().filter(move |(_, candidate)| **candidate != now);
            to.map(move |(to, candidate)| Change {
                thing,
                to,
                bytes: i128::from(candidate.bytes) - i128::from(now.bytes),
                loss: candidate.loss - now.loss,
            })
        })
        .collect();
    let room = i128::from(*left);
    let all: f64 = things.iter().zip(&*chosen).map(|(candidates, place)| candidates[*place].loss.abs()).sum();
    let mut best = (-NOTHING * all, None);
    // What saves loss is paired with what saves bytes.
    for change in changes.iter().filter(|change| change.loss < 0.0) {
        if change.bytes <= room && change.loss < best.0 {
            best = (change.loss, Some((*change, None)));
        }
        for other in changes.iter().filter(|other| other.thing != change.thing && other.bytes < 0) {
            let loss = change.loss + other.loss;
            if loss < best.0 && change.bytes + other.bytes <= room {
                best = (loss, Some((*change, Some(*other))));
            }
        }
    }
    let (_, Some((change, other))) = best else { return false };
    let mut room = room;
    for change in [Some(change), other].into_iter().flatten() {
        chosen[change.thing] = change.to;
        room -= change.bytes;
    }
    *left = u64::try_from(room).unwrap_or(0);
    true
}

#[expect(clippy::cast_precision_loss, reason = "slopes are compared, not added up")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers below `below` (Knuth's MMIX).
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    fn sums(things: &[Vec<Candidate>], chosen: &[usize]) -> (u64, f64) {
        let all = things.iter().zip(chosen).map(|(candidates, place)| candidates[*place]);
        all.fold((0, 0.0), |(bytes, loss), one| (bytes + one.bytes, loss + one.loss))
    }

    /// The least loss of all choices.
    fn exhaustive(things: &[Vec<Candidate>], most: u64) -> Option<f64> {
        let Some((first, rest)) = things.split_first() else { return Some(0.0) };
        let with = |one: &Candidate| Some(one.loss + exhaustive(rest, most.checked_sub(one.bytes)?)?);
        first.iter().filter_map(with).min_by(f64::total_cmp)
    }

    /// Things as modules are: each with some weights, and a loss that falls with the bits, mostly.
    fn modules(numbers: &mut Numbers, count: usize) -> Vec<Vec<Candidate>> {
        let of_module = |numbers: &mut Numbers| {
            let weights = 16 * (1 + numbers.next(40));
            let scale = float(1 + numbers.next(1000));
            let at = |bits: i32| {
                let noise = 1.0 + float(numbers.next(100)) / 200.0;
                Candidate {
                    bytes: weights * u64::from(bits.unsigned_abs()) / 8,
                    loss: scale * noise * 0.25_f64.powi(bits),
                }
            };
            [2, 3, 4, 8].map(at).to_vec()
        };
        (0..count).map(|_| of_module(numbers)).collect()
    }

    #[test]
    fn small_cases_are_solved_within_the_limit_and_next_to_the_best() {
        let mut numbers = Numbers(1);
        let (mut exact, cases) = (0, 300);
        let (mut lost, mut lost_at_best) = (0.0, 0.0);
        for case in 0..cases {
            let things = modules(&mut numbers, 6);
            let (least, _) = sums(&things, &[0; 6]);
            let (all, _) = sums(&things, &[3; 6]);
            let most = least + numbers.next(all - least + 1);
            let chosen = choose(&things, most).unwrap();
            let (bytes, loss) = sums(&things, &chosen);
            assert!(bytes <= most, "case {case}");
            let best = exhaustive(&things, most).unwrap();
            assert!(loss <= 2.0 * best, "case {case}: {loss} against {best}");
            (lost, lost_at_best) = (lost + loss, lost_at_best + best);
            exact += u32::from(loss <= best * (1.0 + 1e-9));
        }
        assert!(exact * 10 > cases * 8, "{exact} of {cases} are the best");
        assert!(lost < 1.02 * lost_at_best, "{lost} against {lost_at_best}");
    }

    #[test]
    fn limits_are_kept_to_the_byte() {
        let two = |loss: f64| vec![Candidate { bytes: 10, loss }, Candidate { bytes: 20, loss: 0.0 }];
        let things = [two(1.0), two(3.0), two(2.0)];
        assert_eq!(choose(&things, 29), None);
        assert_eq!(choose(&things, 30), Some(vec![0, 0, 0]));
        assert_eq!(choose(&things, 39), Some(vec![0, 0, 0]));
        assert_eq!(choose(&things, 40), Some(vec![0, 1, 0]));
        assert_eq!(choose(&things, 59), Some(vec![0, 1, 1]));
        assert_eq!(choose(&things, u64::MAX), Some(vec![1, 1, 1]));
        assert_eq!(choose(&[vec![]], 10), None);
        assert_eq!(choose(&[], 0), Some(vec![]));
    }

    #[test]
    fn what_takes_more_and_is_no_better_is_never_chosen() {
        let candidate = |bytes, loss| Candidate { bytes, loss };
        let things = [vec![candidate(8, 0.5), candidate(2, 1.0), candidate(4, 1.5), candidate(16, 0.5)]];
        for most in 2..40 {
            let expected = usize::from(most < 8);
            assert_eq!(choose(&things, most), Some(vec![expected]), "{most}");
        }
    }

    #[test]
    fn many_small_things_do_not_keep_a_large_one_from_its_room() {
        let candidate = |bytes, loss| Candidate { bytes, loss };
        // Each small one saves more for a byte than the large one, and all together save less.
        let mut things = vec![vec![candidate(0, 100.0), candidate(100, 0.0)]];
        things.extend((0..20).map(|_| vec![candidate(0, 2.0), candidate(1, 0.0)]));
        let chosen = choose(&things, 100).unwrap();
        assert_eq!(chosen[0], 1, "{chosen:?}");
        assert_eq!(sums(&things, &chosen), (100, 40.0));
    }

    #[test]
    fn room_that_the_hull_leaves_is_used() {
        let candidate = |bytes, loss| Candidate { bytes, loss };
        // The middle one is above the line from the first to the last.
        let thing = vec![candidate(0, 10.0), candidate(5, 9.0), candidate(10, 0.0)];
        assert_eq!(choose(&[thing], 7), Some(vec![1]));
    }
}
