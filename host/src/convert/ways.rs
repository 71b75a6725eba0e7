//! The ways from what a source gives to what a target takes: a graph whose nodes are encodings.
//!
//! Pure: what plugins declare comes in as values. Which way a tensor goes is for the target to say.

use std::cmp::Ordering;

use qhost_plugin_api::documents::{Encoding, EncodingPattern, Fidelity, Transcoding};

/// A longer way than anybody wants.
const MOST_STEPS: usize = 8;

/// More encodings than anybody declares; plugins that do would only cost time.
const MOST_ENCODINGS: usize = 256;

/// A way from an encoding that the source gives to one that the target takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// What the source gives.
    pub from: Encoding,
    /// What is made of it, one after the other.
    pub steps: Vec<Step>,
    /// What all steps together do to the numbers.
    pub fidelity: Fidelity,
}

/// One encoding is made of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The index of who makes it.
    pub by: usize,
    /// What is made.
    pub to: Encoding,
}

/// What somebody makes of encodings.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// The index of who does it.
    pub by: usize,
    /// What it takes and gives.
    pub transcoding: Transcoding,
}

impl Way {
    /// What arrives.
    #[must_use]
    pub fn encoding(&self) -> &Encoding {
        self.steps.last().map_or(&self.from, |step| &step.to)
    }

    /// The better fidelity first, then the fewer steps.
    fn compare(&self, other: &Self) -> Ordering {
        let bound = |way: &Self| way.fidelity.bounds.iter().map(|bound| bound.most).sum::<f64>();
        let by_class = self.fidelity.class.cmp(&other.fidelity.class);
        by_class.then(bound(self).total_cmp(&bound(other))).then(self.steps.len().cmp(&other.steps.len()))
    }

    fn further(&self, edge: &Edge) -> Option<Self> {
        let to = edge.transcoding.of(self.encoding())?;
        let mut steps = self.steps.clone();
        steps.push(Step { by: edge.by, to });
        Some(Self { from: self.from.clone(), steps, fidelity: self.fidelity.then(&edge.transcoding.fidelity) })
    }
}

/// For each encoding that the target takes and that can be reached, the cheapest way to it; the cheapest of all first.
///
/// Floats are no node: a tensor can be had as floats whatever else there is, and what is made of floats is the target's.
#[must_use]
pub fn ways(given: &[Encoding], edges: &[Edge], takes: &[EncodingPattern]) -> Vec<Way> {
    let start = |encoding: &Encoding| Way { from: encoding.clone(), steps: Vec::new(), fidelity: Fidelity::exact() };
    let mut open: Vec<Way> = given.iter().filter(|encoding| !encoding.is_float()).map(start).collect();
    // Dijkstra's algorithm: no step makes a way cheaper, so the cheapest one that is open is the best to where it leads.
    let mut settled: Vec<Way> = Vec::new();
    while let Some(at) = cheapest(&open) {
        let way = open.remove(at);
        if settled.iter().any(|best| best.encoding() == way.encoding()) {
            continue;
        }
        if way.steps.len() < MOST_STEPS && settled.len() < MOST_ENCODINGS {
            open.extend(edges.iter().filter_map(|edge| way.further(edge)));
        }
        settled.push(way);
    }
    settled.retain(|way| takes.iter().any(|pattern| pattern.fits(way.encoding())));
    settled
}

/// The index of the first of the cheapest ways.
fn cheapest(open: &[Way]) -> Option<usize> {
    let ways = open.iter().enumerate();
    ways.min_by(|(at, a), (other, b)| a.compare(b).then(at.cmp(other))).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use qhost_plugin_api::documents::{BoundOf, FidelityClass};

    use super::*;

    fn edge(by: usize, from: &str, to: Encoding, fidelity: Fidelity) -> Edge {
        Edge { by, transcoding: Transcoding::new(EncodingPattern::new(from), to, fidelity) }
    }

    fn symmetric() -> Encoding {
        Encoding::affine(4, 32, [8, 8], "F16")
    }

    #[test]
    fn what_the_source_gives_itself_needs_no_step() {
        let given = [Encoding::own("toy/blocks", 32, 18), symmetric(), Encoding::float("F32")];
        let found = ways(&given, &[], &[EncodingPattern::new(Encoding::AFFINE), EncodingPattern::new(Encoding::FLOAT)]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].encoding(), found[0].steps.len()), (&symmetric(), 0));
        assert!(ways(&given, &[], &[]).is_empty());
    }

    #[test]
    fn an_exact_way_over_two_plugins_goes_before_a_short_one_that_rounds() {
        let edges = [
            edge(0, "toy/blocks", symmetric(), Fidelity::rounded(0.5, BoundOf::Step)),
            edge(1, "toy/blocks", Encoding::own("toy/other", 32, 20), Fidelity::exact()),
            edge(2, "toy/other", symmetric(), Fidelity::exact()),
        ];
        let given = [Encoding::own("toy/blocks", 32, 18)];
        let takes = [EncodingPattern::new(Encoding::AFFINE)];
        let found = ways(&given, &edges, &takes);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].steps.iter().map(|step| step.by).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(found[0].fidelity.class, FidelityClass::Exact);
        let without = ways(&given, &edges[..2], &takes);
        assert_eq!((without[0].steps.len(), without[0].fidelity.class), (1, FidelityClass::Rounded));
    }

    #[test]
    fn the_smaller_bound_goes_first_and_circles_end() {
        let edges = [
            edge(0, "a/x", Encoding::own("a/y", 1, 1), Fidelity::rounded(0.5, BoundOf::Step)),
            edge(1, "a/x", Encoding::own("a/z", 1, 1), Fidelity::rounded(0.125, BoundOf::Step)),
            edge(2, "a/z", Encoding::own("a/y", 1, 1), Fidelity::rounded(0.125, BoundOf::Step)),
            edge(3, "a/y", Encoding::own("a/x", 1, 1), Fidelity::exact()),
        ];
        let found = ways(&[Encoding::own("a/x", 1, 1)], &edges, &[EncodingPattern::new("a/y")]);
        assert_eq!(found[0].steps.iter().map(|step| step.by).collect::<Vec<_>>(), [1, 2]);
        assert!((found[0].fidelity.bounds[0].most - 0.25).abs() < 1e-12);
        // Ever longer groups would go on for ever.
        let mut grow = Vec::new();
        for size in 0..600_u64 {
            let from = EncodingPattern::new(format!("g/{size}"));
            grow.push(Edge {
                by: 0,
                transcoding: Transcoding::new(from, Encoding::own(format!("g/{}", size + 1), 1, 1), Fidelity::exact()),
            });
        }
        let found = ways(&[Encoding::own("g/0", 1, 1)], &grow, &[EncodingPattern::new("g/9")]);
        assert!(found.is_empty(), "nine steps are too many");
    }
}
