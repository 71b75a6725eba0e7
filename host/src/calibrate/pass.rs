//! The forward pass of a model: embeddings, one layer after the other over all samples, and the head.
//!
//! Only one layer's weights are on loan at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use qhost_compute::Device;
use qhost_plugin_api::{
    abi::Failure,
    documents::{InputGroup, Model, Role, RoleKind, UnitKind},
};

use super::{
    Batch, Decoder, Error, HiddenStates, Input, Interruption, Kept, Nobody, Observer, Point, RotaryTable, Stretch,
    Substitutes, Tables, UnitTensors, Weights,
    kept::Pieces,
    layer::{Run, normed},
    original::{Chain, Shown},
    weights::Modules,
};
use crate::{cancel::CancelFlag, stream::Ledger};

/// How far an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It begins with a layer, from 0.
    Layer(usize),
    /// It begins with the head.
    Head,
    /// So many more tokens have gone through what it is at.
    Tokens(usize),
}

/// Who is told.
type Teller = Box<dyn Fn(Step) + Send + Sync>;

/// A model that runs.
pub struct Engine<D: Device> {
    device: D,
    decoder: Decoder,
    model: Arc<Model>,
    weights: Arc<dyn Weights>,
    /// The tables of each of the frequencies, on the device and as they were made.
    tables: Vec<(Tables<D>, RotaryTable)>,
    cancel: CancelFlag,
    tell: Option<Teller>,
}

/// How a layer is run.
#[derive(Debug, Clone, Copy)]
pub struct LayerRun<'a> {
    /// What stands in for weights of the checkpoint.
    pub substitutes: &'a Substitutes,
    /// Whether the states become those after the layer.
    pub keep: bool,
    /// Experts that are shown all tokens; then nothing else is sent to experts, and the layer ends there.
    pub forced: Option<&'a BTreeSet<u32>>,
}

/// A stretch of a layer that runs over a batch.
struct Piece<'a, 't, D: Device> {
    index: usize,
    modules: &'a Modules<'t, D>,
    batch: &'a Batch,
    before: &'a [f32],
    forced: Option<&'a BTreeSet<u32>>,
    stretch: Stretch,
    kept: &'a Kept,
}

/// The stream after a layer, and what it left on its way.
type Outcome<D> = (Result<<D as Device>::Buffer, Interruption>, BTreeMap<Point, Vec<f32>>);

impl<D: Device> Engine<D> {
    /// An engine for samples of these lengths.
    ///
    /// # Errors
    /// Fails when the model cannot be run, or not so far.
    pub fn new(
        device: D,
        model: Arc<Model>,
        weights: Arc<dyn Weights>,
        lengths: &[usize],
        cancel: CancelFlag,
    ) -> Result<Self, Error> {
        let decoder = Decoder::of(&model)?;
        decoder.longest(lengths.iter().copied())?;
        let tables = decoder.frequencies.iter().map(|frequencies| {
            let mut table = frequencies.tables(lengths);
            // What stays here is where rows stand.
            let (cosines, sines) = (std::mem::take(&mut table.cosines), std::mem::take(&mut table.sines));
            Ok((Tables { cosines: device.upload(&cosines)?, sines: device.upload(&sines)? }, table))
        });
        let tables = tables.collect::<Result<_, Error>>()?;
        Ok(Self { device, decoder, model, weights, tables, cancel, tell: None })
    }

    /// The same engine, which tells how it gets on.
    #[must_use]
    pub fn telling(self, tell: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self { tell: Some(Box::new(tell)), ..self }
    }

    fn tell(&self, step: Step) {
        if let Some(tell) = &self.tell {
            tell(step);
        }
    }

    /// What it computes.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// What it computes with.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Embeds samples.
    ///
    /// # Errors
    /// Fails when a token is unknown or weights cannot be read.
    pub fn embed(&self, samples: &[Vec<u32>], ledger: &Arc<Ledger>, folder: &Path) -> Result<HiddenStates, Error> {
        let lengths = samples.iter().map(Vec::len).collect();
        let mut states = HiddenStates::new(lengths, self.decoder.width, ledger, folder)?;
        self.embed_into(&mut states, samples)?;
        Ok(states)
    }

    /// Embeds the samples that there is room for.
    ///
    /// # Errors
    /// Fails when a token is unknown or weights cannot be read.
    pub(super) fn embed_into(&self, states: &mut HiddenStates, samples: &[Vec<u32>]) -> Result<(), Error> {
        let width = self.decoder.width;
        for (sample, tokens) in samples.iter().enumerate() {
            if let Some(&token) = tokens.iter().find(|&&token| token as usize >= self.decoder.vocabulary) {
                return Err(Error::UnknownToken { token, sample, vocabulary: self.decoder.vocabulary as u64 });
            }
        }
        let table = self.tensor(&RoleKind::TokenEmbedding)?;
        for batch in Batch::cut(states.lengths()) {
            self.go_on()?;
            let tokens = samples[batch.first..].iter().take(batch.lengths.len()).flatten();
            let mut numbers = self.rows_of(table, tokens.copied())?;
            for number in &mut numbers {
                *number *= self.decoder.embedding_scale;
            }
            if let Some(positions) = batch.learned_positions(&self.decoder) {
                let learned = self.rows_of(self.tensor(&RoleKind::PositionEmbedding)?, positions.into_iter())?;
                for (number, learned) in numbers.iter_mut().zip(learned) {
                    *number += learned;
                }
            }
            if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
                let (sample, token) = batch.place(at / width);
                return Err(Error::NotFinite { place: "embedding".into(), sample, token });
            }
            states.write(&batch, &numbers)?;
        }
        Ok(())
    }

    fn tensor(&self, kind: &RoleKind) -> Result<u32, Error> {
        let role = Role::weight(kind.clone());
        let found = (0..).zip(&self.model.tensors).find(|(_, tensor)| tensor.role == role);
        let missing = || Error::MissingModule { layer: "(outside)".into(), role: kind.name().to_owned() };
        found.map(|(id, _)| id).ok_or_else(missing)
    }

    /// Rows of a tensor, in the given order; each is read once.
    fn rows_of(&self, tensor: u32, rows: impl Iterator<Item = u32>) -> Result<Vec<f32>, Error> {
        let mut places: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let mut count = 0;
        for row in rows {
            places.entry(row).or_default().push(count);
            count += 1;
        }
        let width = self.decoder.width;
        let mut out = vec![0.0; count * width];
        for (row, places) in places {
            let lent = self.weights.rows(tensor, row.into(), 1).map_err(|failure| self.unreadable(tensor, failure))?;
            let numbers = lent.numbers();
            for place in places {
                out[place * width..][..width].copy_from_slice(&numbers);
            }
        }
        Ok(out)
    }

    fn unreadable(&self, tensor: u32, failure: Failure) -> Error {
        let tensor = self.model.tensors.get(tensor as usize).map_or_else(String::new, |tensor| tensor.name.clone());
        Error::Weights { tensor, failure: Box::new(failure) }
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Runs a layer over all samples.
    ///
    /// # Errors
    /// Fails when weights cannot be read, or an activation is not finite.
    pub fn layer(
        &self,
        index: usize,
        states: &mut HiddenStates,
        how: &LayerRun<'_>,
        observer: &mut dyn Observer<D>,
    ) -> Result<(), Error> {
        let chain = Chain { states, kept: &mut Kept::nothing(), stretch: Stretch::WHOLE };
        self.stretch(index, how, (chain, None), observer)
    }

    /// Runs a stretch of a layer over all samples, which goes on from what is kept, and keeps what is at its end. The
    /// original model may go through the layer beside it.
    pub(super) fn stretch(
        &self,
        index: usize,
        how: &LayerRun<'_>,
        (mut chain, mut original): (Chain<'_>, Option<Chain<'_>>),
        observer: &mut dyn Observer<D>,
    ) -> Result<(), Error> {
        let none = Substitutes::new();
        let original_how = LayerRun { substitutes: &none, keep: how.keep, forced: None };
        self.tell(Step::Layer(index));
        let tensors = self.tensors_of(index, chain.stretch, how.substitutes)?;
        let modules = Modules::load(&self.device, &tensors)?;
        let own = original.as_ref().map(|original| self.tensors_of(index, original.stretch, &none)).transpose()?;
        let own = own.as_ref().map(|tensors| Modules::load(&self.device, tensors)).transpose()?;
        for chain in original.iter_mut().chain([&mut chain]) {
            chain.kept.begin();
        }
        for batch in Batch::cut(chain.states.lengths()) {
            if let (Some(original), Some(own)) = (&mut original, &own) {
                self.advance((index, own), original, &original_how, &batch, &mut Shown(observer))?;
            }
            self.advance((index, &modules), &mut chain, how, &batch, observer)?;
            self.tell(Step::Tokens(batch.tokens()));
        }
        for chain in original.iter_mut().chain([&mut chain]) {
            chain.kept.end();
        }
        Ok(())
    }

    /// The tensors of a layer that a stretch of it needs.
    fn tensors_of(&self, index: usize, stretch: Stretch, with: &Substitutes) -> Result<UnitTensors<'_>, Error> {
        let missing = || Error::MissingModule { layer: index.to_string(), role: "weights".into() };
        let unit = self.decoder.layers.get(index).ok_or_else(missing)?.unit;
        UnitTensors::borrow(&self.model, &*self.weights, with, unit, |role| is_used(stretch, &role.kind))
    }

    /// Takes a batch through a stretch of a layer.
    fn advance(
        &self,
        (index, modules): (usize, &Modules<'_, D>),
        chain: &mut Chain<'_>,
        how: &LayerRun<'_>,
        batch: &Batch,
        observer: &mut dyn Observer<D>,
    ) -> Result<(), Error> {
        self.go_on()?;
        let before = chain.states.read(batch)?;
        let (stretch, kept) = (chain.stretch, &*chain.kept);
        let piece = Piece { index, modules, batch, before: &before, forced: how.forced, stretch, kept };
        let (after, left) = self.run(&piece, observer);
        let after = match after {
            Ok(after) => Some(after),
            Err(Interruption::Enough) => None,
            Err(Interruption::Failed(error)) => return Err(error),
        };
        let at = match &after {
            Some(after) => self.device.first_not_finite(after)?,
            None => left.values().flatten().any(|number| !number.is_finite()).then_some(0),
        };
        if let Some(at) = at {
            // It takes another run to say where it came from.
            let mut finder = Finder { layer: index, found: None };
            drop(self.run(&piece, &mut finder));
            let (sample, token) = batch.place(at / self.decoder.width);
            let output = Error::NotFinite { place: format!("layer {index}, output"), sample, token };
            return Err(finder.found.unwrap_or(output));
        }
        drop(before);
        chain.kept.add(batch, chain.states.lengths(), &left);
        if let Some(after) = after.filter(|_| how.keep) {
            let mut numbers = vec![0.0; self.device.length(&after)];
            self.device.download(&after, &mut numbers)?;
            chain.states.write(batch, &numbers)?;
        }
        Ok(())
    }

    /// Runs a layer, or a stretch of it, over a batch.
    fn run(&self, piece: &Piece<'_, '_, D>, observer: &mut dyn Observer<D>) -> Outcome<D> {
        let &Piece { index, modules, batch, before, forced, stretch, kept } = piece;
        let shape = &self.decoder.layers[index];
        let rows = shape.frequencies.map(|at| batch.table_rows(&self.tables[at].1));
        let rotation = shape.frequencies.zip(rows.as_deref()).map(|(at, rows)| (&self.tables[at].0, rows));
        let (device, decoder) = (&self.device, &self.decoder);
        let pieces = Pieces::new(stretch, kept, batch);
        let mut run = Run { device, decoder, index, shape, modules, rotation, batch, before, pieces, forced, observer };
        let after = run.forward();
        (after, run.pieces.left())
    }

    /// Mean squares of what substitutes change at a layer's output, and of that output without them, over the
    /// first samples.
    ///
    /// # Errors
    /// Fails when weights cannot be read.
    pub fn difference(
        &self,
        index: usize,
        states: &HiddenStates,
        substitutes: &Substitutes,
        samples: usize,
    ) -> Result<(f64, f64), Error> {
        let unit = self.decoder.layers[index].unit;
        let borrow = |with: &Substitutes| UnitTensors::borrow(&self.model, &*self.weights, with, unit, |_| true);
        let (none, theirs) = (Substitutes::new(), borrow(substitutes)?);
        let own = borrow(&none)?;
        let (own, theirs) = (Modules::load(&self.device, &own)?, Modules::load(&self.device, &theirs)?);
        let lengths = &states.lengths()[..samples.min(states.lengths().len())];
        let (mut difference, mut original, mut count) = (0.0, 0.0, 0_u32);
        for batch in Batch::cut(lengths) {
            self.go_on()?;
            let before = states.read(&batch)?;
            let after = |modules: &Modules<'_, D>| {
                let (batch, kept) = (&batch, &Kept::nothing());
                let piece =
                    Piece { index, modules, batch, before: &before, forced: None, stretch: Stretch::WHOLE, kept };
                let after = self.run(&piece, &mut Nobody).0.map_err(Interruption::error)?;
                let mut numbers = vec![0.0; before.len()];
                self.device.download(&after, &mut numbers)?;
                Ok::<_, Error>(numbers)
            };
            for (x, y) in after(&own)?.into_iter().zip(after(&theirs)?) {
                difference += f64::from(x - y).powi(2);
                original += f64::from(x).powi(2);
                count += 1;
            }
        }
        let count = f64::from(count.max(1));
        Ok((difference / count, original / count))
    }

    /// The states after the last layer as the head reads them: after the final norm.
    ///
    /// # Errors
    /// Fails when weights cannot be read.
    pub fn finish(&self, states: &mut HiddenStates) -> Result<(), Error> {
        let tensors = self.epilogue(|role| role.kind == RoleKind::OutputNorm)?;
        let modules = Modules::load(&self.device, &tensors)?;
        let Some(gain) = modules.norm_of(&RoleKind::OutputNorm) else { return Ok(()) };
        for batch in Batch::cut(states.lengths()) {
            self.go_on()?;
            let stream = self.device.upload(&states.read(&batch)?)?;
            let out = normed(&self.device, &self.decoder, &RoleKind::OutputNorm, gain, &stream)?;
            let mut numbers = vec![0.0; batch.tokens() * self.decoder.width];
            self.device.download(&out, &mut numbers)?;
            states.write(&batch, &numbers)?;
        }
        Ok(())
    }

    fn epilogue(&self, wanted: impl Fn(&Role) -> bool) -> Result<UnitTensors<'_>, Error> {
        let unit = self.model.units.iter().find(|unit| unit.kind == UnitKind::Epilogue);
        let unit = unit.map_or(u32::MAX, |unit| unit.id);
        UnitTensors::borrow(&self.model, &*self.weights, &Substitutes::new(), unit, wanted)
    }

    /// The tensors that the head is made of: a matrix of its own, or the embedding.
    ///
    /// # Errors
    /// Fails when weights cannot be read.
    pub fn head_tensors(&self) -> Result<UnitTensors<'_>, Error> {
        if self.model.tensors.iter().any(|tensor| tensor.role == Role::weight(RoleKind::Output)) {
            return self.epilogue(|role| role.kind == RoleKind::Output);
        }
        let unit = self.model.units.iter().find(|unit| unit.kind == UnitKind::Prologue).map_or(0, |unit| unit.id);
        let wanted = |role: &Role| role.kind == RoleKind::TokenEmbedding;
        let mut tensors = UnitTensors::borrow(&self.model, &*self.weights, &Substitutes::new(), unit, wanted)?;
        // A head that reuses the embedding may still have a bias of its own.
        tensors.extend(self.epilogue(|role| role.kind == RoleKind::Output)?);
        Ok(tensors)
    }

    /// The head, made of its tensors.
    ///
    /// # Errors
    /// Fails when the device refuses, or there is none.
    pub fn head<'t>(&self, tensors: &'t UnitTensors<'_>) -> Result<Modules<'t, D>, Error> {
        self.tell(Step::Head);
        Modules::load(&self.device, tensors)
    }

    /// Logits of states that [`Engine::finish`] has left, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// Fails when the device refuses, or the head is none.
    pub fn logits(&self, head: &Modules<'_, D>, states: &[f32]) -> Result<Vec<f32>, Error> {
        self.go_on()?;
        let own = head.linear_of(&RoleKind::Output, None);
        let bias = head.vector_of(&RoleKind::Output);
        let missing = || Error::MissingModule { layer: "(outside)".into(), role: RoleKind::Output.name().to_owned() };
        let head = own.or_else(|| head.linear_of(&RoleKind::TokenEmbedding, None)).ok_or_else(missing)?;
        let device = &self.device;
        // Where the matrix is the embedding, it stands alone.
        let own_bias = bias.map(|bias| device.upload(bias)).transpose()?;
        let x = device.upload(states)?;
        let rows = states.len() / self.decoder.width.max(1);
        let mut logits = device.linear(&x, rows, &head.matrix, head.bias.as_ref().or(own_bias.as_ref()))?;
        if (self.decoder.logit_scale - 1.0).abs() > 0.0 {
            device.scale(&mut logits, self.decoder.logit_scale)?;
        }
        if let Some(cap) = self.decoder.logit_cap {
            device.soft_cap(&mut logits, cap)?;
        }
        let mut numbers = vec![0.0; device.length(&logits)];
        device.download(&logits, &mut numbers)?;
        self.tell(Step::Tokens(rows));
        Ok(numbers)
    }
}

/// Whether a stretch of a layer needs a module. A router says which rows are an expert's wherever it begins.
fn is_used(stretch: Stretch, kind: &RoleKind) -> bool {
    let routes = matches!(kind, RoleKind::Router | RoleKind::SharedRouter);
    let point = InputGroup::of(kind).map(|group| Point::of(&group)).filter(|_| !routes);
    // What is kept before down projections is cut by their sizes.
    point.is_none_or(|point| stretch.uses(point) || (point, stretch.from) == (Point::FfnMid, Point::FfnMid))
}

/// Finds the first input that is not finite.
struct Finder {
    layer: usize,
    found: Option<Error>,
}

impl<D: Device> Observer<D> for Finder {
    fn look(&mut self, device: &D, input: &Input<'_, D>) -> Result<(), Interruption> {
        let Some(at) = device.first_not_finite(input.numbers)? else { return Ok(()) };
        let row = at / input.width.max(1);
        let row = input.rows.and_then(|rows| rows.get(row)).map_or(row, |&row| row as usize);
        let (sample, token) = input.batch.place(row);
        let expert = input.expert.map_or_else(String::new, |expert| format!(" of expert {expert}"));
        let group: &InputGroup = &input.group;
        let place = format!("layer {}, {group}{expert}", self.layer);
        self.found = Some(Error::NotFinite { place, sample, token });
        Err(Interruption::Enough)
    }
}

impl<D: Device> std::fmt::Debug for Engine<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}
