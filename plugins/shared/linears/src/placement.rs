//! Which tensor of a folder goes where: the tensors of modules, what is kept, and the segments that the host is told.

use std::{borrow::Cow, collections::BTreeMap};

use qhost_folder::{CONFIG, INDEX, Layout, Object, Tensor, companions, lay_out};
use qhost_plugin_api::{
    documents::{BoundOf, Companion, Fidelity, PlannedFile, Segment, TensorSegment},
    sdk::{Failure, FilesHandle, Result},
};

use crate::{Effort, Item, Module, NARROWED, expected_error, round_cost};

/// The key of `config.json` that tells how the model is quantised.
pub const CONFIG_KEY: &str = "quantization_config";

/// What an element costs that is copied, in nanoseconds on a core of the reference machine.
const COPY_COST: f64 = 0.5;

/// What a weight costs whose code is taken over.
const TAKE_COST: f64 = 2.0;

/// A tensor of a module, as a format has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What comes after the module's name and a dot.
    pub end: &'static str,
    /// How an element is stored: a safetensors dtype name.
    pub dtype: &'static str,
    /// The shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// How readers call what is stored.
    pub encoding: String,
    /// The weights of the model that it stands for; none where it belongs to codes.
    pub weights: u64,
}

impl Part {
    /// The codes of a module: they stand for its weights, in the encoding of its settings.
    #[must_use]
    pub fn codes(end: &'static str, dtype: &'static str, shape: Vec<u64>, module: &Module) -> Self {
        Self { end, dtype, shape, encoding: module.settings.encoding(), weights: module.weights() }
    }

    /// What belongs to codes.
    #[must_use]
    pub fn beside(end: &'static str, dtype: &'static str, shape: Vec<u64>) -> Self {
        Self { end, dtype, shape, encoding: dtype.to_owned(), weights: 0 }
    }
}

/// The tensors of a module in the format's order; they lie in one file.
pub type Parts = fn(&Module) -> Vec<Part>;

/// The tensors of the folder, in the order of the items.
#[must_use]
pub fn tensors(items: &[Item], parts: Parts) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for item in items {
        match item {
            Item::Module(module) => {
                for (place, part) in parts(module).into_iter().enumerate() {
                    let tensor = Tensor::new(format!("{}.{}", module.name, part.end), part.dtype, part.shape);
                    tensors.push(if place == 0 { tensor } else { tensor.following() });
                }
            }
            Item::Kept(kept) => tensors.push(Tensor::new(&*kept.name, &*kept.dtype, kept.shape.clone())),
        }
    }
    tensors
}

/// Where everything of a folder goes.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The files of weights.
    pub layout: Layout,
    /// The tensors in them, in the order of the items.
    pub tensors: Vec<Tensor>,
    parts: Parts,
}

impl Placement {
    /// Lays out everything in files of at most so many bytes, and tells the items their segments: first come the
    /// headers, then the tensors in their order.
    ///
    /// # Errors
    /// Fails as [`lay_out`].
    pub fn of(items: &mut [Item], parts: Parts, shard_bytes: u64) -> Result<Self> {
        let tensors = tensors(items, parts);
        let layout = lay_out(&tensors, shard_bytes)?;
        let mut next = u32::try_from(layout.shards.len()).unwrap_or(u32::MAX);
        for item in items {
            let place = next;
            match item {
                Item::Module(module) => {
                    module.first_segment = place;
                    next += u32::try_from(parts(module).len()).unwrap_or(u32::MAX);
                }
                Item::Kept(kept) => {
                    kept.segment = place;
                    next += 1;
                }
            }
        }
        Ok(Self { layout, tensors, parts })
    }

    /// The files, for the plan.
    #[must_use]
    pub fn files(&self) -> Vec<PlannedFile> {
        self.layout.shards.iter().map(|shard| PlannedFile::new(&*shard.name, shard.bytes)).collect()
    }

    /// The segments of the items that were placed, for the plan; beside rounding, a weight of a module costs so many
    /// nanoseconds on a core of the reference machine. What is done to numbers is told of those that `are_converted`.
    #[must_use]
    pub fn segments(&self, items: &[Item], effort: Effort, more: f64, are_converted: bool) -> Vec<Segment> {
        let mut errors = BTreeMap::new();
        let headers = (0..).zip(&self.layout.shards).map(|(file, shard)| {
            Segment::constant(file, 0, shard.header.len() as u64, format!("header of {}", shard.name))
        });
        let mut segments: Vec<_> = headers.collect();
        let mut places = self.layout.places.iter();
        let mut push = |mut made: TensorSegment, cost: f64| {
            made.cost = Some(cost);
            if let Some(place) = places.next() {
                segments.push(Segment::tensor(place.shard, place.offset, place.bytes, made));
            }
        };
        for item in items {
            match item {
                Item::Module(module) => {
                    let taken = module.taken.as_ref();
                    let module_cost = if taken.is_some() { TAKE_COST } else { round_cost(module, effort) + more };
                    let settings = module.settings;
                    let error = errors.entry((settings.bits, module.group_size(), settings.symmetric));
                    let error = *error.or_insert_with(|| expected_error(settings, module.columns));
                    // As readers tell of them: codes by what they stand for, what belongs to them as it is stored.
                    for part in (self.parts)(module) {
                        let name = format!("{}.{}", module.name, part.end);
                        let sources = vec![module.tensor];
                        let mut made = TensorSegment::new(name, module.unit, sources, part.encoding, part.weights);
                        made.takes = taken.map(|taken| taken.encoding.clone());
                        let fidelity = taken.map_or_else(Fidelity::requantised, |taken| taken.fidelity.clone());
                        made.fidelity = are_converted.then_some(fidelity);
                        made.expected_error = (are_converted && taken.is_none()).then_some(error);
                        push(made, module_cost);
                    }
                }
                Item::Kept(kept) => {
                    let sources = vec![kept.tensor];
                    let mut made = TensorSegment::new(&*kept.name, kept.unit, sources, &*kept.dtype, kept.elements());
                    let narrowed = kept.narrowed.then(|| Fidelity::rounded(NARROWED, BoundOf::Weight));
                    made.fidelity = are_converted.then(|| narrowed.unwrap_or_else(Fidelity::exact));
                    push(made, COPY_COST);
                }
            }
        }
        segments
    }

    /// The bytes of a segment that is known from the plan: a header.
    ///
    /// # Errors
    /// Fails for any other segment.
    pub fn constant(&self, segment: u32) -> Result<Cow<'_, [u8]>> {
        let shard = self.layout.shards.get(segment as usize);
        shard
            .map(|shard| Cow::Borrowed(&*shard.header))
            .ok_or_else(|| Failure::internal(format!("segment {segment} is not constant")))
    }

    /// The index among [`Placement::tensors`] of a part of a module.
    #[must_use]
    pub fn tensor_of(&self, module: &Module, part: usize) -> usize {
        (module.first_segment as usize).saturating_sub(self.layout.shards.len()) + part
    }

    /// The small files: the model's config, with what is said of the quantisation if there is one, a file of the
    /// format's own that says it as well, the index, and those of the checkpoint.
    ///
    /// # Errors
    /// Fails when the model's config cannot be read.
    pub fn small_files(
        &self,
        quantization: Option<&Object>,
        own: Option<(&str, &Object)>,
        files: &FilesHandle,
    ) -> Result<Vec<Companion>> {
        let mut config = Object::config(files)?;
        if let Some(quantization) = quantization {
            config.set_object(CONFIG_KEY, quantization)?;
        }
        let mut made = vec![Companion::text(CONFIG, config.text() + "\n")];
        made.extend(own.map(|(name, object)| Companion::text(name, object.text() + "\n")));
        made.extend(self.layout.index.as_ref().map(|index| Companion::text(INDEX, &**index)));
        made.extend(companions(files.list()));
        Ok(made)
    }
}
