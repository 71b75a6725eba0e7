//! What a conversion does to the numbers of the output's tensors.
//!
//! It puts together what plugins have said; nothing is measured here.

use std::collections::BTreeSet;

use qhost_plugin_api::documents::{Encoding, Fidelity, FidelityClass, Plan, SegmentContent, TensorSegment};

use super::{Error, Negotiated};

/// A relative error that is no loss of quality to speak of: somewhat more than 8 bits cost.
pub const LITTLE_ERROR: f64 = 0.01;

/// What a conversion does to numbers, by classes of tensors to which the same is done; those of the most bytes first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loss {
    /// The classes.
    pub classes: Vec<LossClass>,
}

/// Tensors to which the same is done.
#[derive(Debug, Clone, PartialEq)]
pub struct LossClass {
    /// How the source stores them: several ways where several of its tensors become one.
    pub stored: BTreeSet<String>,
    /// How they are taken; none where they are taken as floats.
    pub taken: Option<String>,
    /// The plugins that make that of what the source gives, in order.
    pub by: Vec<String>,
    /// How the output stores them.
    pub encoding: String,
    /// From what is stored to what is written. Absent where the plugin tells nothing.
    pub fidelity: Option<Fidelity>,
    /// Whether they were floats in the source.
    pub from_floats: bool,
    /// The greatest relative error to expect, where they are quantised and the plugin tells.
    pub expected_error: Option<f64>,
    /// The name of one of them.
    pub example: String,
    /// How many there are.
    pub tensors: u64,
    /// Their weights.
    pub elements: u64,
    /// Their bytes in the output.
    pub bytes: u64,
}

impl LossClass {
    fn of(tensor: &TensorSegment, bytes: u64, negotiated: &Negotiated) -> Result<Option<Self>, Error> {
        let stored = tensor.sources.iter().filter_map(|source| negotiated.stored.get(*source as usize));
        let stored: BTreeSet<&Encoding> = stored.collect();
        if stored.is_empty() {
            return Ok(None);
        }
        let mut way_there = Fidelity::exact();
        let mut by = Vec::new();
        if let Some(encoding) = &tensor.takes {
            for source in &tensor.sources {
                let way = negotiated
                    .way(*source, encoding)
                    .ok_or_else(|| Error::NotOffered { tensor: tensor.name.clone(), what: encoding.to_string() })?;
                if way.fidelity.class >= way_there.class {
                    way_there = way.fidelity.clone();
                    let plugin = |step: &super::Step| negotiated.transcoders.by.get(step.by);
                    by = way.steps.iter().filter_map(plugin).map(|by| by.plugin().to_owned()).collect();
                }
            }
        }
        Ok(Some(Self {
            from_floats: stored.iter().all(|stored| stored.is_float()),
            stored: stored.iter().map(ToString::to_string).collect(),
            taken: tensor.takes.as_ref().map(ToString::to_string),
            by,
            encoding: tensor.encoding.clone(),
            fidelity: tensor.fidelity.as_ref().map(|fidelity| way_there.then(fidelity)),
            expected_error: tensor.expected_error,
            example: tensor.name.clone(),
            tensors: 1,
            elements: tensor.elements,
            bytes,
        }))
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.stored, &self.taken, &self.by, &self.encoding)
            == (&other.stored, &other.taken, &other.by, &other.encoding)
            && self.fidelity == other.fidelity
    }

    /// Whether numbers are quantised: anything that is neither exact nor rounded within a bound.
    #[must_use]
    pub fn is_quantised(&self) -> bool {
        self.fidelity.as_ref().is_none_or(|fidelity| fidelity.class > FidelityClass::Rounded)
    }

    /// What is done to the numbers, in a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.fidelity.as_ref().map(|fidelity| fidelity.class) {
            Some(FidelityClass::Exact) => "exact",
            Some(FidelityClass::Rounded) => "rounded",
            _ if self.from_floats => "quantised",
            _ => "requantised",
        }
    }

    /// Whether the user has to agree: numbers that were quantised are quantised once more, and that costs more than a
    /// little.
    #[must_use]
    pub fn costs_quality(&self) -> bool {
        self.is_quantised() && !self.from_floats && self.expected_error.is_none_or(|error| error > LITTLE_ERROR)
    }
}

impl Loss {
    /// Of a plan.
    pub(super) fn of(plan: &Plan, negotiated: &Negotiated) -> Result<Self, Error> {
        let mut classes: Vec<LossClass> = Vec::new();
        for segment in &plan.segments {
            let SegmentContent::Tensor(tensor) = &segment.content else { continue };
            if tensor.elements == 0 && segment.bytes > 0 {
                // Scales and the like: what is done to numbers is told with their codes.
                continue;
            }
            let Some(class) = LossClass::of(tensor, segment.bytes, negotiated)? else { continue };
            match classes.iter_mut().find(|before| before.is_like(&class)) {
                Some(before) => {
                    before.tensors += 1;
                    before.elements = before.elements.saturating_add(class.elements);
                    before.bytes = before.bytes.saturating_add(class.bytes);
                    // What nobody knows of one of them is not known of all.
                    let both = before.expected_error.zip(class.expected_error);
                    before.expected_error = both.map(|(one, other)| one.max(other));
                }
                None => classes.push(class),
            }
        }
        classes.sort_by_key(|class| std::cmp::Reverse(class.bytes));
        Ok(Self { classes })
    }

    /// Whether every number that is written is the one that is stored.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.word() == "exact"
    }

    /// The worst that is done to a tensor, in a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        let rank =
            |word: &&str| ["exact", "rounded", "quantised", "requantised"].iter().position(|known| known == word);
        self.classes.iter().map(LossClass::word).max_by_key(rank).unwrap_or("exact")
    }

    /// All of it in a sentence.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn sentence(&self) -> String {
        let weights = |wanted: &dyn Fn(&&LossClass) -> bool| -> u64 {
            self.classes.iter().filter(wanted).map(|class| class.elements).sum()
        };
        let share = |some: u64| some as f64 * 100.0 / weights(&|_| true).max(1) as f64;
        match self.word() {
            "exact" => "every weight is the number that it was".to_owned(),
            "rounded" => {
                let rounded = share(weights(&|class| class.word() == "rounded"));
                format!(
                    "{rounded:.0} % of the weights are rounded once, within a known bound; the others are as they were"
                )
            }
            word => {
                let quantised = share(weights(&|class| class.is_quantised()));
                format!("{quantised:.0} % of the weights are {word}")
            }
        }
    }

    /// The classes for which the user has to agree.
    pub fn costly(&self) -> impl Iterator<Item = &LossClass> {
        self.classes.iter().filter(|class| class.costs_quality())
    }
}
