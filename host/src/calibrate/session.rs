//! A calibration under way: the hidden states between two units, the statistics of the unit at work, and the
//! weights that stand in for those of the checkpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use qhost_compute::Device;
use qhost_plugin_api::documents::{
    InputGroup, LossAnswer, Model, RoleKind, Scarce, Statistic, StatisticsAnswer, StatisticsNeed, StatisticsRequest,
    UnitKind,
};

use super::{
    Batch, Engine, Error, HiddenStates, Input, Interruption, Kept, LayerRun, Nobody, Observer, Point, Stretch,
    Substitutes,
    original::{Chain, Original, Shown, snapshot_of_original},
    statistics::{Collector, Gathered, Key, Numbers, comes_after, needs_original},
};
use crate::stream::{Grant, Ledger};

/// Ids of tensors that no file has.
const FIRST_VIRTUAL: u32 = 1 << 31;

/// What the units of a plan need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Needs {
    /// For every unit with needs: what it asks, and whether it replays.
    pub units: BTreeMap<u32, (Vec<StatisticsNeed>, bool)>,
}

impl Needs {
    /// Whether a unit takes the original model beside the one with substitutes.
    #[must_use]
    pub fn take_original(&self) -> bool {
        self.units.values().any(|(needs, _)| needs.iter().any(needs_original))
    }
}

/// A calibration under way.
pub struct Calibration<D: Device> {
    engine: Engine<D>,
    model: Arc<Model>,
    needs: Needs,
    samples: Vec<Vec<u32>>,
    ledger: Arc<Ledger>,
    inner: Mutex<Inner<D>>,
}

struct Inner<D: Device> {
    states: HiddenStates,
    /// What is kept of the layer at work, if it replays.
    kept: Kept,
    /// The original model, if anything is asked of it.
    original: Option<Original>,
    /// The unit at work.
    place: Place,
    /// Whether the states are those after the unit already.
    advanced: bool,
    substitutes: Substitutes,
    gathered: BTreeMap<Key, Gathered<D>>,
    lent: Vec<(LentKey, Arc<Virtual>)>,
}

/// What is run of the layer at work.
struct Going<'a> {
    layer: usize,
    until: Option<Point>,
    /// Whether the states become those after the layer.
    keep: bool,
    /// Experts that are shown all tokens.
    forced: Option<&'a BTreeSet<u32>>,
    /// Whether the original model goes beside.
    beside: bool,
}

type LentKey = (Key, Statistic);

/// Where a calibration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Between units, before this layer.
    Before(usize),
    /// In a unit that is no layer and no head.
    Outside(usize),
    /// In a layer.
    In(usize),
    /// In the head.
    Head,
}

/// A tensor that no file has.
#[derive(Debug)]
pub struct Virtual {
    /// Its numbers.
    pub numbers: Numbers,
    /// Rows.
    pub rows: u64,
    /// Elements of a row.
    pub row_elements: u64,
    _memory: Arc<Grant>,
}

/// What a plugin may not ask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What the plan did not say.
    #[error("the plan of this unit does not ask for {0}")]
    NotPlanned(String),
    /// What there is not.
    #[error("this unit has no {0}")]
    Absent(String),
    /// Numbers that are not those of the tensor.
    #[error("tensor {tensor} has {expected} elements, not {actual}")]
    WrongLength {
        /// The tensor.
        tensor: u32,
        /// What it has.
        expected: u64,
        /// What came.
        actual: u64,
    },
}

/// An answer, or why there is none.
pub type Answer<T> = Result<Result<T, Refusal>, Error>;

/// A calibration under way, on whatever computes.
pub trait Calibrating: Send + Sync {
    /// Embeds the samples: the states before the first layer.
    ///
    /// # Errors
    /// Fails when a token is unknown, or weights cannot be read.
    fn embed(&self) -> Result<(), Error>;

    /// Goes on from a snapshot, if there is a sound one: the states before a layer.
    ///
    /// # Errors
    /// Fails when the states cannot be put in their place.
    fn restore(&self, path: &Path, layer: usize) -> Result<bool, Error>;

    /// Writes a snapshot of the states between two units; those of the original model go beside it.
    ///
    /// # Errors
    /// Fails when the disk refuses.
    fn save(&self, path: &Path) -> Result<(), Error>;

    /// The layer that a unit is, or none for what is before and after the layers.
    fn layer_of(&self, unit: u32) -> Option<usize>;

    /// Whether a unit is what comes after the layers.
    fn is_head(&self, unit: u32) -> bool;

    /// Begins a unit.
    fn enter(&self, unit: u32);

    /// Ends the unit: its statistics are forgotten, and the states become those after it.
    ///
    /// # Errors
    /// Fails when weights cannot be read, or an activation is not finite.
    fn leave(&self) -> Result<(), Error>;

    /// Lets go of what only the unit at work needs, when nobody asks for the states after it.
    fn rest(&self);

    /// Gives a statistic of the unit at work.
    ///
    /// # Errors
    /// Fails when weights cannot be read, or an activation is not finite.
    fn get(&self, unit: u32, request: &StatisticsRequest) -> Answer<StatisticsAnswer>;

    /// A tensor that no file has.
    fn lend(&self, tensor: u32) -> Option<Arc<Virtual>>;

    /// Puts numbers in the place of a tensor of the unit at work, or the checkpoint's again.
    ///
    /// # Errors
    /// Fails when that is not planned, or the tensor is not of the unit.
    fn substitute(&self, unit: u32, tensor: u32, numbers: Option<Vec<f32>>) -> Result<(), Refusal>;

    /// What the substitutes change at the output of the unit at work, over the first samples or all.
    ///
    /// # Errors
    /// Fails when weights cannot be read.
    fn loss(&self, unit: u32, samples: Option<u64>) -> Answer<LossAnswer>;
}

impl<D: Device> Inner<D> {
    fn forget_kept(&mut self) {
        self.kept.clear();
        if let Some(original) = &mut self.original {
            original.kept.clear();
        }
    }
}

impl<D: Device> Calibration<D> {
    /// Makes room for the hidden states of samples. They are there once they are embedded or restored. What is kept
    /// within a layer leaves a reserve of the ledger's memory to the unit at work.
    ///
    /// # Errors
    /// Fails when there is none.
    pub fn new(
        engine: Engine<D>,
        model: Arc<Model>,
        needs: Needs,
        samples: Vec<Vec<u32>>,
        (ledger, reserve): (&Arc<Ledger>, u64),
        folder: &Path,
    ) -> Result<Self, Error> {
        let lengths = samples.iter().map(Vec::len).collect();
        let width = engine.decoder().width;
        let states = |lengths| HiddenStates::new(lengths, width, ledger, folder);
        let kept = || Kept::new(ledger, reserve, folder.to_owned());
        let original = needs.take_original().then(|| states(Vec::clone(&lengths))).transpose()?;
        let inner = Inner {
            states: states(lengths)?,
            kept: kept(),
            original: original.map(|states| Original { states, kept: kept() }),
            place: Place::Before(0),
            advanced: false,
            substitutes: Substitutes::new(),
            gathered: BTreeMap::new(),
            lent: Vec::new(),
        };
        Ok(Self { engine, model, needs, samples, ledger: Arc::clone(ledger), inner: Mutex::new(inner) })
    }

    /// The same calibration, which keeps nothing within a layer: each stretch begins at the layer's input.
    #[must_use]
    pub fn keeping_nothing(self) -> Self {
        let mut inner = self.lock();
        inner.kept = Kept::nothing();
        if let Some(original) = &mut inner.original {
            original.kept = Kept::nothing();
        }
        drop(inner);
        self
    }

    /// Those of a layer that is done are of no more use.
    fn drop_substitutes(&self, inner: &mut Inner<D>, layer: usize) {
        let unit = self.engine.decoder().layers[layer].unit;
        let tensors = &self.model.tensors;
        inner.substitutes.retain(|id, _| tensors.get(*id as usize).is_some_and(|tensor| tensor.unit != unit));
    }

    /// Runs a stretch of a layer from what is kept.
    fn go(&self, inner: &mut Inner<D>, going: &Going<'_>, observer: &mut dyn Observer<D>) -> Result<(), Error> {
        let &Going { layer, until, keep, forced, beside } = going;
        let Inner { states, kept, original, substitutes, .. } = inner;
        // What is kept of experts is of the tokens that were sent to them; all of them are in what the block reads.
        let before_experts = forced.map(|_| Point::FfnIn);
        let stretch = Stretch { from: kept.last(before_experts.or(until)), until };
        let chain = Chain { states, kept, stretch };
        let original = original.as_mut().filter(|_| beside || keep).map(|Original { states, kept }| {
            let until = before_experts.or(until);
            let stretch = Stretch { from: kept.last(until), until };
            Chain { states, kept, stretch }
        });
        self.engine.stretch(layer, &LayerRun { substitutes, keep, forced }, (chain, original), observer)
    }

    /// Runs the unit to gather statistics: of one group, or all that are planned at once.
    fn gather(&self, inner: &mut Inner<D>, needs: &[StatisticsNeed], group: Option<&InputGroup>) -> Result<(), Error> {
        let gathered = std::mem::take(&mut inner.gathered);
        let (ledger, originals) = (&self.ledger, BTreeMap::new());
        let mut collector = Collector { needs, only: None, group, gathered, originals, ledger };
        let beside = needs.iter().filter(|need| group.is_none_or(|group| *group == need.group)).any(needs_original);
        match inner.place {
            Place::In(layer) => {
                // The states before the layer are needed once more for experts that saw too few tokens.
                let again = group.is_some() || needs.iter().any(|need| need.fewest_tokens > 0);
                let until = group.map(Point::of).or(again.then_some(Point::FfnMid));
                let going = Going { layer, until, keep: !again, forced: None, beside };
                self.go(inner, &going, &mut collector)?;
                inner.advanced = !again;
                let mut gathered = collector.gathered;
                let scarce = self.scarce(needs, layer, group, &gathered);
                if !scarce.is_empty() {
                    gathered.retain(|key, _| !scarce.contains(key));
                    let originals = BTreeMap::new();
                    let mut again = Collector { needs, only: Some(&scarce), group, gathered, originals, ledger };
                    let forced: BTreeSet<u32> = scarce.iter().filter_map(|(_, expert)| *expert).collect();
                    let going = Going { layer, until, keep: false, forced: Some(&forced), beside };
                    self.go(inner, &going, &mut again)?;
                    gathered = again.gathered;
                    for (_, of_expert) in gathered.iter_mut().filter(|(key, _)| scarce.contains(key)) {
                        of_expert.all_tokens = true;
                    }
                }
                inner.gathered = gathered;
            }
            Place::Head => {
                self.engine.finish(&mut inner.states)?;
                if let Some(original) = &mut inner.original {
                    self.engine.finish(&mut original.states)?;
                }
                for batch in Batch::cut(inner.states.lengths()) {
                    if let Some(original) = &inner.original {
                        self.show_head((&original.states, &batch), &mut Shown(&mut collector))?;
                    }
                    self.show_head((&inner.states, &batch), &mut collector)?;
                }
                inner.gathered = collector.gathered;
            }
            Place::Before(_) | Place::Outside(_) => inner.gathered = collector.gathered,
        }
        Ok(())
    }

    /// Shows what the head reads of a batch.
    fn show_head(&self, (states, batch): (&HiddenStates, &Batch), observer: &mut dyn Observer<D>) -> Result<(), Error> {
        let (device, width) = (self.engine.device(), states.width());
        let numbers = &device.upload(&states.read(batch)?)?;
        let group = InputGroup::OutputIn;
        let input = Input { group, expert: None, numbers, width, rows: None, stream: None, batch };
        match observer.look(device, &input) {
            Err(Interruption::Failed(error)) => Err(error),
            Ok(()) | Err(Interruption::Enough) => Ok(()),
        }
    }

    /// The inputs of experts that saw too few tokens for a need that wants all of them then.
    fn scarce(
        &self,
        needs: &[StatisticsNeed],
        layer: usize,
        group: Option<&InputGroup>,
        gathered: &BTreeMap<Key, Gathered<D>>,
    ) -> BTreeSet<Key> {
        let of_experts = [InputGroup::FfnIn, InputGroup::FfnMid];
        let asking = needs.iter().filter(|need| {
            let now = group.is_none_or(|group| *group == need.group) && of_experts.contains(&need.group);
            now && need.scarce == Scarce::AllTokens
        });
        let keys = asking.flat_map(|need| {
            let keys = (0..self.experts_of(layer)).map(|expert| (need.group.clone(), Some(expert)));
            keys.filter(|key| gathered.get(key).map_or(0, |seen| seen.tokens) < need.fewest_tokens)
        });
        keys.collect()
    }

    fn experts_of(&self, layer: usize) -> u32 {
        let unit = self.engine.decoder().layers[layer].unit;
        let routed =
            self.model.tensors.iter().any(|tensor| tensor.unit == unit && tensor.role.kind == RoleKind::Router);
        self.engine.decoder().experts.as_ref().filter(|_| routed).map_or(0, |experts| experts.count)
    }

    fn is_unseen_expert(&self, inner: &Inner<D>, (group, expert): &Key) -> bool {
        let Place::In(layer) = inner.place else { return false };
        let of_experts = [InputGroup::FfnIn, InputGroup::FfnMid].contains(group);
        of_experts && expert.is_some_and(|expert| expert < self.experts_of(layer))
    }

    /// An expert that saw no token has statistics of none.
    fn nothing_seen(&self, inner: &mut Inner<D>, need: &StatisticsNeed, key: &Key) -> Result<(), Error> {
        let width = match key.0 {
            InputGroup::FfnMid => self.engine.decoder().experts.as_ref().map_or(0, |experts| experts.ffn_size),
            _ => self.engine.decoder().width as u64,
        };
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        let nothing = Gathered::new(self.engine.device(), need, key, (width, None), &self.ledger)?;
        inner.gathered.insert(key.clone(), nothing);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Device + Send + Sync> Calibrating for Calibration<D> {
    fn embed(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        let Inner { states, original, .. } = &mut *inner;
        self.engine.embed_into(states, &self.samples)?;
        if let Some(original) = original {
            original.copy(states)?;
        }
        inner.place = Place::Before(0);
        Ok(())
    }

    fn restore(&self, path: &Path, layer: usize) -> Result<bool, Error> {
        let mut inner = self.lock();
        let own = inner.states.restore(path)?;
        let restored = match &mut inner.original {
            Some(original) => own && original.states.restore(&snapshot_of_original(path))?,
            None => own,
        };
        if restored {
            inner.place = Place::Before(layer);
        }
        Ok(restored)
    }

    fn save(&self, path: &Path) -> Result<(), Error> {
        let inner = self.lock();
        if let Some(original) = &inner.original {
            original.states.save(&snapshot_of_original(path))?;
        }
        inner.states.save(path)
    }

    fn layer_of(&self, unit: u32) -> Option<usize> {
        self.engine.decoder().layers.iter().position(|layer| layer.unit == unit)
    }

    fn is_head(&self, unit: u32) -> bool {
        self.model.units.iter().any(|info| info.id == unit && info.kind == UnitKind::Epilogue)
    }

    fn enter(&self, unit: u32) {
        let mut inner = self.lock();
        inner.gathered.clear();
        inner.lent.clear();
        inner.forget_kept();
        let done = match inner.place {
            Place::Before(layer) | Place::Outside(layer) | Place::In(layer) => layer,
            Place::Head => self.engine.decoder().layers.len(),
        };
        inner.place = match self.layer_of(unit) {
            Some(layer) => Place::In(layer),
            None if self.is_head(unit) => Place::Head,
            None => Place::Outside(done),
        };
        inner.advanced = false;
    }

    fn leave(&self) -> Result<(), Error> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.gathered.clear();
        inner.lent.clear();
        inner.place = match inner.place {
            Place::In(layer) => {
                if !inner.advanced {
                    let going = Going { layer, until: None, keep: true, forced: None, beside: false };
                    self.go(inner, &going, &mut Nobody)?;
                }
                inner.forget_kept();
                self.drop_substitutes(inner, layer);
                Place::Before(layer + 1)
            }
            Place::Outside(layer) | Place::Before(layer) => Place::Before(layer),
            Place::Head => Place::Before(self.engine.decoder().layers.len()),
        };
        Ok(())
    }

    fn rest(&self) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.gathered.clear();
        inner.lent.clear();
        inner.forget_kept();
        if let Place::In(layer) = inner.place {
            self.drop_substitutes(inner, layer);
        }
    }

    fn get(&self, unit: u32, request: &StatisticsRequest) -> Answer<StatisticsAnswer> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let asked = self.needs.units.get(&unit);
        let need = asked.and_then(|(needs, _)| needs.iter().find(|need| need.group == request.group));
        let planned = need.filter(|need| need.what.contains(&request.what));
        let (Some(need), Some((needs, replays))) = (planned, asked) else {
            return Ok(Err(Refusal::NotPlanned(format!("{:?} of {}", request.what, request.group))));
        };
        let key = (request.group.clone(), request.expert);
        if !inner.gathered.keys().any(|(group, _)| *group == request.group) {
            self.gather(inner, needs, replays.then_some(&request.group))?;
        }
        if !inner.gathered.contains_key(&key) && self.is_unseen_expert(inner, &key) {
            self.nothing_seen(inner, need, &key)?;
        }
        let Some(gathered) = inner.gathered.get_mut(&key) else {
            let expert = request.expert.map_or_else(String::new, |expert| format!(" of expert {expert}"));
            return Ok(Err(Refusal::Absent(format!("{}{expert}", request.group))));
        };
        let (tokens, all_tokens) = (gathered.tokens, gathered.all_tokens);
        let lent_key = (key, request.what);
        let index = if let Some(index) = inner.lent.iter().position(|(lent, _)| *lent == lent_key) {
            index
        } else {
            let Some((rows, numbers)) = gathered.numbers(self.engine.device(), request.what)? else {
                return Ok(Err(Refusal::Absent(format!("{:?}", request.what))));
            };
            let (rows, row_elements) = (rows as u64, gathered.width as u64);
            let lent = Virtual { numbers, rows, row_elements, _memory: gathered.memory() };
            inner.lent.push((lent_key, Arc::new(lent)));
            inner.lent.len() - 1
        };
        let lent = &inner.lent[index].1;
        let tensor = FIRST_VIRTUAL + u32::try_from(index).unwrap_or(0);
        let mut answer = StatisticsAnswer::new(tensor, lent.rows, lent.row_elements, tokens);
        answer.all_tokens = all_tokens;
        Ok(Ok(answer))
    }

    fn lend(&self, tensor: u32) -> Option<Arc<Virtual>> {
        let index = tensor.checked_sub(FIRST_VIRTUAL)?;
        self.lock().lent.get(index as usize).map(|(_, lent)| Arc::clone(lent))
    }

    fn substitute(&self, unit: u32, tensor: u32, numbers: Option<Vec<f32>>) -> Result<(), Refusal> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if !self.needs.units.get(&unit).is_some_and(|(_, replays)| *replays) {
            return Err(Refusal::NotPlanned("replaying".into()));
        }
        let found = self.model.tensors.get(tensor as usize).filter(|found| found.unit == unit);
        let found = found.ok_or_else(|| Refusal::Absent(format!("tensor {tensor}")))?;
        let group = InputGroup::of(&found.role.kind);
        match numbers {
            None => drop(inner.substitutes.remove(&tensor)),
            Some(numbers) if numbers.len() as u64 != found.elements() => {
                let (expected, actual) = (found.elements(), numbers.len() as u64);
                return Err(Refusal::WrongLength { tensor, expected, actual });
            }
            Some(numbers) => drop(inner.substitutes.insert(tensor, Arc::new(numbers))),
        }
        // What comes later in the layer reads other inputs now.
        inner.kept.forget_after(group.as_ref());
        let stale = |other: &InputGroup| group.as_ref().is_none_or(|group| comes_after(other, group));
        inner.gathered.retain(|(other, _), _| !stale(other));
        // Ids of tensors that are lent already must keep their meaning; those that are stale are never found again.
        for ((key, _), _) in &mut inner.lent {
            if stale(&key.0) {
                key.0 = InputGroup::Other("stale".into());
            }
        }
        Ok(())
    }

    fn loss(&self, unit: u32, samples: Option<u64>) -> Answer<LossAnswer> {
        let guard = self.lock();
        if !self.needs.units.get(&unit).is_some_and(|(_, replays)| *replays) {
            return Ok(Err(Refusal::NotPlanned("replaying".into())));
        }
        let Place::In(layer) = guard.place else { return Ok(Err(Refusal::Absent("output of a layer".into()))) };
        let samples = samples.map_or(usize::MAX, |samples| usize::try_from(samples).unwrap_or(usize::MAX));
        let (mean_square, original) = self.engine.difference(layer, &guard.states, &guard.substitutes, samples)?;
        Ok(Ok(LossAnswer::new(mean_square, original)))
    }
}
