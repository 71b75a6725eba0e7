//! What a run reads: a checkpoint, here or on a hub, or quantised files whose weights a plugin gives.
//!
//! It knows how each is opened, told from another, and lent; what is made of it is for others.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use qhost_plugin_api::documents::{Encoding, EncodingPattern, Model};

use super::{
    Error, Events, ModelSource, Origin, Sources,
    fetch::{self, Fetched, Missing, Opened},
    files::Companion,
};
use crate::{
    cancel::CancelFlag,
    inspect,
    model::{self, StoredAs, Understood, Widening},
    plugin::{Catalog, ConnectSettings},
    quantised::{self, QuantisedSource},
    source::{self, Checkpoint},
};

/// What a run reads; a clone is the same files.
#[derive(Clone)]
pub(super) enum Input {
    /// A checkpoint.
    Checkpoint(Arc<CheckpointInput>),
    /// Quantised files, and where they come from if from a hub.
    Files(Arc<QuantisedSource>, Option<Origin>),
}

/// A checkpoint, of which weights may yet have to be fetched.
pub(super) struct CheckpointInput {
    opened: Checkpoint,
    /// The same with all its weights, once those that were missing are here.
    fetched: OnceLock<Checkpoint>,
    /// For every tensor of the model, how the checkpoint stores it.
    stored: Vec<StoredAs>,
    origin: Option<Origin>,
    missing: Option<Missing>,
}

impl CheckpointInput {
    fn checkpoint(&self) -> &Checkpoint {
        self.fetched.get().unwrap_or(&self.opened)
    }
}

/// An input, understood.
pub(super) struct Read {
    pub(super) input: Input,
    pub(super) model: Model,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

/// What kind of input a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A checkpoint whose weights are floats.
    Checkpoint,
    /// Files of a format that a plugin reads.
    Quantised,
    /// Either.
    Any,
}

impl Input {
    /// Opens what the user names, or what was fetched of it; no weight is read, but what of quantised files is needed to
    /// know them.
    pub(super) fn open(
        source: &ModelSource,
        fetched: Option<&Fetched>,
        wanted: Wanted,
        catalog: &Catalog,
        settings: &ConnectSettings,
    ) -> Result<Read, Error> {
        if let Some(Fetched { root, name, origin }) = fetched {
            let files = QuantisedSource::open(root, Some(name), catalog, settings).map_err(|error| match error {
                quantised::Error::Checkpoint { .. } => Error::NotQuantised { path: source.name.clone() },
                error => error.into(),
            })?;
            return Ok(Read::of_files(files, Some(origin.clone())));
        }
        let path = &source.name;
        if path.exists() && wanted != Wanted::Checkpoint {
            if source.revision.is_some() {
                return Err(Error::RevisionOfFolder { path: path.clone() });
            }
            if inspect::is_folder_of_plugin(path, catalog) || !looks_like_checkpoint(path) {
                match QuantisedSource::open(path, None, catalog, settings) {
                    // It looked like a folder of a plugin's, and is none.
                    Err(quantised::Error::Checkpoint { .. }) => {}
                    opened => return Ok(Read::of_files(opened?, None)),
                }
            }
            if wanted == Wanted::Quantised {
                return Err(Error::NotQuantised { path: path.clone() });
            }
        }
        if wanted == Wanted::Checkpoint && path.is_file() {
            return Err(Error::IsFile { path: path.clone() });
        }
        let Opened { checkpoint, origin, missing } = fetch::open(source, &settings.cancel)?;
        let on_hub = origin.is_some();
        let read = Read::of_checkpoint(checkpoint, origin, missing).map_err(|error| match error {
            Error::Model(model::Error::AlreadyQuantised { .. }) if on_hub => {
                Error::QuantisedOnHub { name: path.display().to_string() }
            }
            error => error,
        })?;
        if wanted == Wanted::Quantised { Err(Error::NotQuantised { path: path.clone() }) } else { Ok(read) }
    }

    /// Opens a checkpoint that is to be run itself.
    pub(super) fn checkpoint(source: &ModelSource, cancel: &CancelFlag) -> Result<Read, Error> {
        let Opened { checkpoint, origin, missing } = fetch::open(source, cancel)?;
        Read::of_checkpoint(checkpoint, origin, missing)
    }

    /// What the user knows it by: the folder, or the file.
    pub(super) fn root(&self) -> &Path {
        match self {
            Self::Checkpoint(input) => &input.checkpoint().root,
            Self::Files(files, _) => &files.path,
        }
    }

    /// The same, absolute and free of links: where it is a folder, no output may be put into it.
    pub(super) fn place(&self) -> PathBuf {
        let root = self.root();
        root.canonicalize().unwrap_or_else(|_| root.to_owned())
    }

    /// Bytes of weights.
    pub(super) fn weight_bytes(&self) -> u64 {
        match self {
            Self::Checkpoint(input) => input.checkpoint().weight_bytes(),
            Self::Files(files, _) => files.file_bytes,
        }
    }

    /// Where it comes from, if from a hub.
    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Checkpoint(input) => input.origin.as_ref(),
            Self::Files(_, origin) => origin.as_ref(),
        }
    }

    /// Weights that have to be fetched first.
    pub(super) fn missing(&self) -> Option<&Missing> {
        match self {
            Self::Checkpoint(input) => input.missing.as_ref().filter(|_| input.fetched.get().is_none()),
            Self::Files(..) => None,
        }
    }

    /// Fetches what has to be fetched and is not here yet.
    pub(super) fn fetch(&self, events: &Arc<dyn Events>) -> Result<(), Error> {
        if let (Self::Checkpoint(input), Some(missing)) = (self, self.missing()) {
            let whole = missing.fetch(&input.opened, events)?;
            // Whoever was here first has fetched the same.
            let _ = input.fetched.set(whole);
        }
        Ok(())
    }

    /// The quantised files, if it is some.
    pub(super) fn files(&self) -> Option<&Arc<QuantisedSource>> {
        match self {
            Self::Checkpoint(_) => None,
            Self::Files(files, _) => Some(files),
        }
    }

    /// Has the inputs of linears follow each other by groups where a target takes them so and not otherwise; tells of it.
    pub(super) fn put_in_order(&mut self, takes: &[EncodingPattern]) -> Result<Option<String>, Error> {
        let Self::Files(files, _) = self else { return Ok(None) };
        let Some(files) = Arc::get_mut(files) else { return Ok(None) };
        let taken = |encoding: &Encoding| takes.iter().any(|pattern| pattern.fits(encoding));
        let only_in_order = |encoding: &Encoding| {
            let mut in_order = encoding.clone();
            in_order.permuted = false;
            !taken(encoding) && taken(&in_order)
        };
        Ok(match files.put_in_order(&only_in_order)? {
            0 => None,
            linears => Some(format!(
                "the inputs of {linears} linears are put in the order of their groups, and the rows that make them too: the model computes the same, with channels in another order than the original's"
            )),
        })
    }

    /// The small files.
    pub(super) fn companions(&self) -> Vec<Companion> {
        match self {
            Self::Checkpoint(input) => input.checkpoint().companions.iter().map(Companion::from).collect(),
            Self::Files(files, _) => {
                files.companions.iter().map(|(name, bytes)| Companion::in_memory(name.clone(), bytes)).collect()
            }
        }
    }

    /// Whether rows of a tensor are made when they are lent, instead of being lent where they lie.
    pub(super) fn is_made(&self, tensor: usize) -> bool {
        match self {
            Self::Checkpoint(input) => input.stored.get(tensor).is_some_and(|stored| stored.widening != Widening::None),
            Self::Files(..) => true,
        }
    }

    /// Bytes of an element of a tensor, as it is lent.
    pub(super) fn element_bytes(&self, model: &Model, tensor: usize) -> u64 {
        let narrow = model.tensors.get(tensor).is_some_and(|described| described.dtype != "F32");
        // What a checkpoint has to widen becomes F32.
        let widened = matches!(self, Self::Checkpoint(_)) && self.is_made(tensor);
        if narrow && !widened { 2 } else { 4 }
    }

    /// A digest of everything that an output depends on; of the small files, the contents of those that were `read`.
    pub(super) fn fingerprint(&self, read: &BTreeSet<String>) -> io::Result<String> {
        match self {
            Self::Checkpoint(input) => source::fingerprint(input.checkpoint(), read),
            // What the small files say comes from the files, or they are among them.
            Self::Files(files, _) => Ok(files.fingerprint()),
        }
    }

    /// Whether the files are as they were when they were opened.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        match self {
            Self::Checkpoint(input) => source::is_unchanged(input.checkpoint()),
            Self::Files(files, _) => files.is_unchanged(),
        }
    }

    /// What lends the rows of its tensors.
    pub(super) fn sources(&self, model: &Arc<Model>) -> Sources {
        match self {
            Self::Checkpoint(input) => Sources::new(input.checkpoint(), Arc::clone(model), &input.stored),
            Self::Files(files, _) => Sources::of_files(Arc::clone(files)),
        }
    }
}

impl Read {
    fn of_checkpoint(
        mut checkpoint: Checkpoint,
        origin: Option<Origin>,
        missing: Option<Missing>,
    ) -> Result<Self, Error> {
        let Understood { model, stored, warnings } = model::understand(&checkpoint)?;
        let warnings = std::mem::take(&mut checkpoint.warnings).into_iter().chain(warnings).collect();
        let (tensors, files) = (checkpoint.tensors.len(), checkpoint.shards.len());
        tracing::info!("{}: {}, {tensors} tensors in {files} files", checkpoint.root.display(), model.family);
        let input = Input::Checkpoint(Arc::new(CheckpointInput {
            opened: checkpoint,
            fetched: OnceLock::new(),
            stored,
            origin,
            missing,
        }));
        Ok(Self { input, model, warnings })
    }

    fn of_files(mut files: QuantisedSource, origin: Option<Origin>) -> Self {
        let warnings = std::mem::take(&mut files.warnings);
        let model = files.model.as_ref().clone();
        tracing::info!("{}: {} in {}", files.path.display(), model.family, files.format);
        Self { input: Input::Files(Arc::new(files), origin), model, warnings }
    }
}

/// Whether the host reads it itself.
fn looks_like_checkpoint(path: &Path) -> bool {
    source::has_weights(path) || path.join("config.json").exists()
}
