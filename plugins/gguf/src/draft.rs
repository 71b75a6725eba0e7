//! A file before it is planned: everything that does not depend on the types of its tensors, and then its layout with
//! these.
//!
//! Types are those of a level, of what a conversion loses least with, or of a size. It knows the order of these steps;
//! segments and units are the job's.

use std::collections::HashSet;

use qhost_budget::{Size, read_losses};
use qhost_linears::check_host;
use qhost_plugin_api::{
    documents::{Model, OpenRequest},
    sdk::{Failure, FilesHandle, HostHandle, Result, STATISTICS, SURVEY},
};

use crate::{
    calibrated, conversion,
    decided::Decided,
    fallbacks,
    families::{self, Family},
    format::{LEVELS, Level},
    general::{Parameters, general},
    importance::{self, file::Matrix},
    items::{self, Item},
    job::row_shape,
    keys_given,
    metadata::Metadata,
    mixture::Mixture,
    name_trap,
    options::{Choices, DEFAULT_LEVEL, Imatrix},
    recipe::{self, Choice, ModelFacts},
    split, tokenizer,
    write::{Layout, Unplaced},
};

/// The version of ggml's quantised formats that the bytes follow.
const QUANTIZATION_VERSION: u32 = 2;

/// What of a file does not depend on types.
pub(crate) struct Draft<'a> {
    request: &'a OpenRequest,
    host: &'a HostHandle,
    family: &'static Family,
    items: Vec<Item>,
    pub(crate) choices: Choices,
    /// The importance matrix that is read, if one is.
    pub(crate) matrix: Option<Matrix>,
    metadata: Metadata,
    warnings: Vec<String>,
}

/// A file with all that was decided about its tensors.
pub(crate) struct LaidOut {
    pub(crate) decided: Vec<Decided>,
    /// Of the files, in their order.
    pub(crate) layouts: Vec<Layout>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

impl LaidOut {
    /// The length of all files together.
    fn file_bytes(&self) -> u64 {
        self.layouts.iter().map(|layout| layout.file_bytes).sum()
    }
}

/// A file whose types are chosen.
pub(crate) struct Settled {
    /// The name of the level.
    pub(crate) name: String,
    pub(crate) laid_out: LaidOut,
    /// The choice, if it was made by a size.
    pub(crate) mixture: Option<Mixture>,
    /// What the level promises, if that is something else.
    pub(crate) level_bytes: Option<u64>,
}

impl<'a> Draft<'a> {
    /// Reads all that is asked for, and the model's small files.
    ///
    /// # Errors
    /// Fails with what keeps the file from being made.
    pub(crate) fn new(request: &'a OpenRequest, companions: &FilesHandle, host: &'a HostHandle) -> Result<Self> {
        let model = &request.model;
        let choices = Choices::read(request)?;
        if choices.size.is_some() && !host.facts().has_service(SURVEY) {
            return Err(Failure::unsupported("this qhost does not measure before it plans").hint("use a newer qhost"));
        }
        let matrix = choices.matrix(companions)?;
        let family = families::family_of(model)?;
        let (items, of_items) = items::items(model, family)?;
        let counted = Parameters::of(items.iter().map(|item| (item.name.as_str(), item.shape.as_slice())));
        let mut of_card = Vec::new();
        let general = general(model, companions, counted, &mut of_card)?;
        let (mut metadata, mut warnings) = families::metadata(model, family, general)?;
        warnings.extend(of_card);
        warnings.extend(of_items);
        let vocabulary = model.hyperparameters.vocab_size;
        let _grant = host.grant(tokenizer::memory(companions, vocabulary), "reading the tokenizer")?;
        let tokenizer = tokenizer::tokenizer_metadata(companions, vocabulary, &model.config, choices.pre.as_deref())?;
        metadata.append(tokenizer.metadata)?;
        warnings.extend(tokenizer.warnings);
        warnings.extend(name_trap::avoid(&mut metadata));
        warnings.extend(
            choices.types.unmatched(&items.iter().filter(|item| quantised(item)).map(|item| item.name.as_str())),
        );
        Ok(Self { request, host, family, items, choices, matrix, metadata, warnings })
    }

    /// Chooses the types.
    ///
    /// # Errors
    /// Fails when there is no file of the size that is asked for, or of these types.
    pub(crate) fn settle(&self) -> Result<Settled> {
        if let Some(size) = self.choices.size {
            return self.of_size(size);
        }
        let (asked, items, model) = (self.choices.level, &self.items, &self.request.model);
        let gentlest = match (asked, &self.request.conversion) {
            (None, Some(conversion)) if self.choices.types.is_empty() => {
                conversion::gentlest(items, model, conversion)?
            }
            _ => None,
        };
        let (level, types) = match (gentlest, asked.or_else(|| Level::named(DEFAULT_LEVEL))) {
            (Some(gentlest), _) => gentlest,
            (None, Some(level)) => (level, self.choose(level)?),
            (None, None) => return Err(Failure::internal("there is no default level")),
        };
        let mut laid_out = self.lay_out((level, level.name), &types)?;
        let shapes: Vec<_> = items.iter().map(|item| row_shape(&item.shape)).collect();
        let other = |level: &'static Level| Ok((level.name, self.choose(level)?));
        let others: Vec<_> = LEVELS.iter().map(other).collect::<Result<_>>()?;
        let other = |level: &Level| {
            others.iter().find(|(name, _)| *name == level.name).map(|(_, choices)| choices.clone()).unwrap_or_default()
        };
        let judged = fallbacks::judge(level, &shapes, &types, laid_out.file_bytes(), model.parameters(), other);
        laid_out.warnings.extend(judged.warning);
        Ok(Settled { name: level.name.into(), laid_out, mixture: None, level_bytes: judged.level_bytes })
    }

    fn of_size(&self, size: Size) -> Result<Settled> {
        let model = &self.request.model;
        let source = |place: usize| conversion::as_it_comes(&self.items[place], model);
        let types = (&self.choices.types, self.choices.mixed.as_slice());
        let mut mixture =
            Mixture::new(size, (model.parameters(), model.hyperparameters.layers), &self.items, types, &source)?;
        if let Some(texts) = &self.request.surveyed {
            mixture.take(&read_losses(texts)?)?;
        }
        let (mut room, mut around) = (mixture.limit, 0);
        loop {
            let types = mixture.settle(room, around)?;
            let laid_out = self.lay_out((mixture.nearest(&types), &mixture.name), &types)?;
            let bytes = laid_out.file_bytes();
            if bytes <= mixture.limit {
                return Ok(Settled { name: mixture.name.clone(), laid_out, mixture: Some(mixture), level_bytes: None });
            }
            // What stands before the data has a length, too.
            around = laid_out.layouts.iter().map(|layout| layout.header.len() as u64).sum();
            room = room.saturating_sub(bytes - mixture.limit);
        }
    }

    /// Decides about all tensors, and lays the file out.
    fn lay_out(&self, (level, name): (&Level, &str), types: &[Choice]) -> Result<LaidOut> {
        let Self { request, host, choices, matrix, .. } = self;
        let (mut metadata, mut warnings) = (self.metadata.clone(), self.warnings.clone());
        let decided = Decided::all(self.items.clone(), types, request, choices, matrix.as_ref())?;
        let entries = decided.iter().filter(|decided| decided.weighed || decided.compensated).count();
        warnings.extend(without_importances(&decided, name, &choices.imatrix, matrix.as_ref())?);
        let needs_model = matrix.is_none() && entries > 0;
        if let Some(calibration) = choices.calibration.as_ref().filter(|_| entries > 0) {
            check_host(host.facts(), "a calibrated file", calibration)?;
        }
        if (needs_model || choices.saves) && !host.facts().has_service(STATISTICS) {
            return Err(Failure::unsupported("this qhost does not run models, which importances need")
                .about("--imatrix auto")
                .hint("use a newer qhost, or leave --imatrix out"));
        }
        // Last, and in this order, as llama.cpp's quantiser leaves them.
        metadata.push("general.quantization_version", QUANTIZATION_VERSION)?;
        metadata.push("general.file_type", level.file_type)?;
        keys_given::put(&mut metadata, &choices.keys)?;
        if let (Some(matrix), Imatrix::File { name, .. }) = (matrix, &choices.imatrix) {
            importance::push_keys_of_file(&mut metadata, name, matrix)?;
        } else if entries > 0 {
            importance::push_keys(&mut metadata, entries, request.calibration.as_ref())?;
            if let Some(calibration) = &choices.calibration {
                calibrated::push_keys(&mut metadata, calibration, &host.facts().version)?;
            }
        }
        let unplaced = decided.iter().map(|decided| Unplaced {
            name: decided.item.name.clone(),
            shape: decided.item.shape.clone(),
            block_type: decided.choice.block_type,
        });
        let layouts = split::lay_out(&metadata, unplaced.collect(), choices.split)?;
        Ok(LaidOut { decided, layouts, warnings })
    }

    /// The types of all tensors at a level.
    fn choose(&self, level: &Level) -> Result<Vec<Choice>> {
        choose(level, &self.request.model, self.family, &self.items, &self.choices)
    }
}

/// Whether a level has its say about a tensor.
fn quantised(item: &Item) -> bool {
    !recipe::stays_f32(&item.into())
}

/// What there is to say of tensors without importances.
///
/// # Errors
/// Fails with kind `USAGE` when an importance matrix is of another model altogether.
fn without_importances(
    decided: &[Decided],
    level: &str,
    imatrix: &Imatrix,
    matrix: Option<&Matrix>,
) -> Result<Option<String>> {
    if *imatrix == Imatrix::None {
        return Ok(None);
    }
    if !decided.iter().any(|decided| decided.choice.block_type.uses_importance()) {
        return Ok(Some(format!("no tensor at {level} depends on importances: --imatrix changes nothing")));
    }
    let Some(matrix) = matrix else { return Ok(None) };
    let known: HashSet<_> = decided.iter().map(|decided| decided.item.name.as_str()).collect();
    if !matrix.names().any(|name| known.contains(name)) {
        return Err(Failure::usage("no entry of the importance matrix is of a tensor of this model")
            .about("--imatrix")
            .hint("make one from this model, or leave --imatrix out"));
    }
    // llama-imatrix has no entries of what is in no block.
    let missing = decided.iter().filter(|decided| {
        let uses = decided.choice.block_type.uses_importance() && decided.taken.is_none();
        uses && !decided.weighed && decided.item.name.starts_with("blk.")
    });
    let missing: Vec<_> = missing.map(|decided| decided.item.name.as_str()).collect();
    Ok(missing.first().map(|first| {
        let count = missing.len();
        format!("{count} tensors are not in the importance matrix, such as {first}: they are quantised without")
    }))
}

/// The types of all tensors at a level.
///
/// # Errors
/// Fails as [`recipe::choose`].
fn choose(level: &Level, model: &Model, family: &Family, items: &[Item], choices: &Choices) -> Result<Vec<Choice>> {
    let sizes = &model.hyperparameters;
    let facts = ModelFacts {
        layers: sizes.layers,
        grouped_heads: if sizes.latent_attention.is_some() {
            // llama.cpp sees one key/value head.
            sizes.heads
        } else {
            sizes.heads / sizes.kv_heads.max(1)
        },
        is_70b: (family.is_70b)(sizes),
        experts: sizes.experts.as_ref().map_or(0, |experts| experts.count),
        has_importances: choices.imatrix != Imatrix::None,
    };
    let shapes: Vec<_> = items.iter().map(Into::into).collect();
    recipe::choose(level, facts, &choices.types, &shapes, &|place| conversion::as_it_comes(&items[place], model))
}
