//! Conversions: what plugins give and take is followed from a source to a target, and what is lost on the way is told.
//!
//! It knows encodings by their declarations alone, and no format. Opening files and carrying a plan out are for others.

mod error;
mod loss;
mod transcoders;
mod ways;

use std::collections::BTreeMap;

use qhost_plugin_api::documents::{Arriving, Conversion, Encoding, FormatDescription, Model, Offer, Plan};

pub use error::Error;
pub use loss::{LITTLE_ERROR, Loss, LossClass};
pub use transcoders::Transcoders;
pub use ways::{Edge, Step, Way, ways};

/// For every tensor of a model the ways on which it can come.
pub struct Negotiated {
    /// How the source stores each tensor.
    pub stored: Vec<Encoding>,
    /// For each tensor the cheapest way to each encoding that the target takes, the cheapest of all first.
    pub ways: Vec<Vec<Way>>,
    /// Who makes the steps.
    pub transcoders: Transcoders,
}

impl Negotiated {
    /// Finds the ways for every tensor; `given` are the encodings that the source gives of each.
    ///
    /// # Errors
    /// Fails when the target does without floats, and there is no way for a tensor; see [`Error`].
    pub fn new(
        model: &Model,
        given: &[Vec<Encoding>],
        target: &FormatDescription,
        transcoders: Transcoders,
    ) -> Result<Self, Error> {
        // Tensors of a model are stored in few ways.
        let mut known: BTreeMap<&[Encoding], Vec<Way>> = BTreeMap::new();
        let mut negotiated = Self { stored: Vec::new(), ways: Vec::new(), transcoders };
        for (index, tensor) in model.tensors.iter().enumerate() {
            let given = given.get(index).map_or(&[][..], Vec::as_slice);
            let found = known.entry(given).or_insert_with(|| ways(given, &negotiated.transcoders.edges, &target.takes));
            if target.takes_no_floats && found.is_empty() {
                return Err(Error::no_way(&tensor.name, given, target));
            }
            negotiated.stored.push(given.first().cloned().unwrap_or_else(|| Encoding::float(&*tensor.dtype)));
            negotiated.ways.push(found.clone());
        }
        Ok(negotiated)
    }

    /// What the target is told of it.
    #[must_use]
    pub fn conversion(&self, format: &str, level: Option<&str>) -> Conversion {
        let offer = |way: &Way| Offer::new(way.encoding().clone(), way.fidelity.clone());
        let arriving = self.stored.iter().zip(&self.ways);
        let arriving = arriving.map(|(stored, ways)| Arriving::new(stored.clone(), ways.iter().map(offer).collect()));
        let mut conversion = Conversion::new(format, arriving.collect());
        conversion.level = level.map(str::to_owned);
        conversion
    }

    /// The way on which a tensor comes in an encoding.
    #[must_use]
    pub fn way(&self, tensor: u32, encoding: &Encoding) -> Option<&Way> {
        self.ways.get(tensor as usize)?.iter().find(|way| way.encoding() == encoding)
    }

    /// What a plan does to the numbers of each tensor.
    ///
    /// # Errors
    /// Fails when the plan takes what was not offered.
    pub fn loss(&self, plan: &Plan) -> Result<Loss, Error> {
        Loss::of(plan, self)
    }
}
