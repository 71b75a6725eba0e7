//! From what the user names to an opened checkpoint: a local folder, or a model of a hub.
//!
//! Of a model of a hub, the small files and the headers of the weights are fetched for the plan. The weights
//! themselves, where they are not in the cache already, come when the plan is carried out.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{Error, Event, Events};
use crate::{
    cancel::CancelFlag,
    hub::{self, Hub, Listing, RemoteFile, RepoId, Settings, Unobserved},
    plan,
    source::{self, Checkpoint, ENOUGH_FOR_MOST_HEADERS, Selection, TEMPLATE_FOLDER, Weights},
    write,
};

/// What says that a name is meant to be one on a hub, even where there is a folder of that name.
const SCHEME: &str = "hf://";

/// The model that the user wants.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// A folder, or the name of a model on a hub. A folder that is there comes first.
    pub name: PathBuf,
    /// The branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// Where the hub and its cache are.
    pub hub: Settings,
}

/// Where a model of a hub comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The hub's address.
    pub endpoint: String,
    /// The model's name there.
    pub id: String,
    /// The revision that was asked for.
    pub revision: String,
    /// The commit that it named.
    pub commit: String,
}

/// A checkpoint whose weights may yet have to be fetched.
pub(super) struct Opened {
    pub(super) checkpoint: Checkpoint,
    pub(super) origin: Option<Origin>,
    pub(super) missing: Option<Missing>,
}

/// Weights that have to be fetched before a plan can be carried out.
pub(super) struct Missing {
    hub: Hub,
    commit: String,
    files: Vec<RemoteFile>,
    /// Bytes that have to be fetched.
    pub(super) bytes: u64,
}

/// Opens what the user names; no weight is read.
pub(super) fn open(model: &ModelSource, cancel: &CancelFlag) -> Result<Opened, Error> {
    let Some(id) = on_hub(&model.name)? else {
        if model.revision.is_some() {
            return Err(Error::RevisionOfFolder { path: model.name.clone() });
        }
        return Ok(Opened { checkpoint: source::open(&model.name)?, origin: None, missing: None });
    };
    let revision = model.revision.as_deref().unwrap_or(hub::DEFAULT_REVISION);
    let hub = Hub::new(&model.hub, id, revision, cancel)?;
    if hub.is_offline() {
        return open_cached(&hub);
    }
    match hub.list(&[TEMPLATE_FOLDER]) {
        Ok(listing) => open_listed(hub, &listing),
        Err(error) if error.is_out_of_reach() => match open_cached(&hub) {
            Ok(mut opened) => {
                let warning = format!("{error}: what the cache has of the model is used");
                opened.checkpoint.warnings.push(warning);
                Ok(opened)
            }
            Err(_) => Err(Error::NotAsked { name: model.name.display().to_string(), source: error }),
        },
        Err(error) => Err(error.into()),
    }
}

/// The name on a hub that a user's text is, or nothing if it is a folder's.
fn on_hub(name: &Path) -> Result<Option<RepoId>, Error> {
    let text = name.to_str().unwrap_or_default();
    if let Some(id) = text.strip_prefix(SCHEME) {
        let bad = || Error::BadHubName { name: text.to_owned() };
        return RepoId::parse(id).map(Some).ok_or_else(bad);
    }
    let absent = fs::symlink_metadata(name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let parts: Vec<_> = name.components().collect();
    // Where its first part is a folder, a path below it was meant.
    let below_a_folder =
        parts.len() > 1 && matches!(parts[0], Component::Normal(first) if fs::symlink_metadata(first).is_ok());
    Ok(if absent && !below_a_folder { RepoId::parse(text) } else { None })
}

/// Opens what the cache has, without asking the hub.
fn open_cached(hub: &Hub) -> Result<Opened, Error> {
    let commit = hub.known_commit().filter(|commit| hub.snapshot(commit).is_dir());
    let Some(commit) = commit else { return Err(hub.not_cached("nothing of it is there".into()).into()) };
    let snapshot = hub.snapshot(&commit);
    let opened = source::open(&snapshot);
    let checkpoint = opened.map_err(|error| match error {
        source::Error::NoConfig { .. } | source::Error::NoWeights { .. } | source::Error::MissingShard { .. } => {
            let as_named = error.renamed(&snapshot, Path::new(hub.id().as_str()));
            Error::from(hub.not_cached(as_named.to_string()))
        }
        damaged => damaged.into(),
    })?;
    let digest = |name: &str| hub.digest_in_cache(&commit, name);
    let checkpoint = of_hub(checkpoint, hub, digest);
    tracing::info!("{} is taken from the cache, commit {commit}", hub.id());
    Ok(Opened { checkpoint, origin: Some(origin(hub, &commit)), missing: None })
}

fn origin(hub: &Hub, commit: &str) -> Origin {
    Origin {
        endpoint: hub.endpoint().to_owned(),
        id: hub.id().to_string(),
        revision: hub.revision().to_owned(),
        commit: commit.to_owned(),
    }
}

/// A checkpoint goes by its name on the hub, and its weights by their checksums.
fn of_hub(mut checkpoint: Checkpoint, hub: &Hub, digest: impl Fn(&str) -> Option<String>) -> Checkpoint {
    hub.id().name().clone_into(&mut checkpoint.name);
    for shard in &mut checkpoint.shards {
        shard.digest = digest(&shard.file_name);
    }
    checkpoint
}

/// Opens a checkpoint whose files are listed, with whatever of it is in the cache.
fn open_listed(hub: Hub, listing: &Listing) -> Result<Opened, Error> {
    let model = || hub.id().to_string();
    let files: Vec<_> = listing.files.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
    let selection = Selection::of(&files);
    if !selection.has_config {
        return Err(hub::Error::NoConfig { model: model() }.into());
    }
    if let Weights::None { pickle } = selection.weights {
        return Err(hub::Error::NoWeights { model: model(), pickle }.into());
    }
    let commit = listing.commit.clone();
    let small: Vec<_> = selection.small.iter().filter_map(|name| listing.file(name)).collect();
    hub.download(&commit, &small, &Unobserved)?;
    let snapshot = hub.snapshot(&commit);
    let shown = PathBuf::from(model());
    let renamed = |error: source::Error| error.renamed(&snapshot, &shown);
    let names = match selection.weights {
        Weights::Single(name) => vec![name],
        _ => source::shards_in_index(&snapshot).map_err(renamed)?.into_iter().collect(),
    };
    let listed = |name: &String| {
        listing.file(name).ok_or_else(|| renamed(source::Error::MissingShard { path: snapshot.join(name) }))
    };
    let weights = names.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
    let (held, missing): (Vec<_>, Vec<_>) = weights.iter().partition(|file| hub.holds(&commit, file));
    // Nothing is fetched: they only get their names.
    hub.download(&commit, &held, &Unobserved)?;
    let digest = |name: &str| listing.file(name).map(|file| file.checksum.hex().to_owned());
    let origin = Some(origin(&hub, &commit));
    if missing.is_empty() {
        let checkpoint = of_hub(source::open(&snapshot)?, &hub, digest);
        return Ok(Opened { checkpoint, origin, missing: None });
    }
    let checkpoint = outlined(&hub, &commit, &small, &held, &missing)?;
    let checkpoint = of_hub(checkpoint, &hub, digest);
    let bytes = missing.iter().map(|file| hub.missing_bytes(&commit, file)).fold(0, u64::saturating_add);
    let files = missing.into_iter().cloned().collect();
    Ok(Opened { checkpoint, origin, missing: Some(Missing { hub, commit, files, bytes }) })
}

/// Opens a checkpoint of which some weights are only outlined: their headers are fetched, and nothing more.
fn outlined(
    hub: &Hub,
    commit: &str,
    small: &[&RemoteFile],
    held: &[&RemoteFile],
    missing: &[&RemoteFile],
) -> Result<Checkpoint, Error> {
    let snapshot = hub.snapshot(commit);
    let folder = tempfile::Builder::new().prefix("qhost-plan-").tempdir().map_err(Error::outline)?;
    for file in small.iter().chain(held) {
        let path = folder.path().join(&file.name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::outline)?;
        }
        link(&snapshot.join(&file.name), &path).map_err(Error::outline)?;
    }
    let starts = hub.beginnings(commit, missing, ENOUGH_FOR_MOST_HEADERS, source::header_end)?;
    for (file, start) in missing.iter().zip(starts) {
        source::outline(&folder.path().join(&file.name), file.bytes, &start).map_err(Error::outline)?;
    }
    let root = fs::canonicalize(folder.path()).map_err(Error::outline)?;
    let opened = source::open(&root).map_err(|error| error.renamed(&root, Path::new(hub.id().as_str())));
    let mut checkpoint = opened?;
    checkpoint.root = fs::canonicalize(&snapshot).unwrap_or(snapshot);
    for companion in &mut checkpoint.companions {
        companion.path = checkpoint.root.join(&companion.name);
    }
    Ok(checkpoint)
}

/// Gives a file a second name, or a copy where there are no links.
fn link(file: &Path, name: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if std::os::unix::fs::symlink(file, name).is_ok() {
        return Ok(());
    }
    fs::copy(file, name).map(drop)
}

/// A model of a hub whose files are all here.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The folder in the cache.
    pub root: PathBuf,
    /// Its name on the hub, without its owner.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Fetches all files of a model, if it is one of a hub: what quantised files are like is known only when they are here.
///
/// # Errors
/// Fails when they cannot be fetched.
pub fn fetch_whole(
    model: &ModelSource,
    cancel: &CancelFlag,
    events: &Arc<dyn Events>,
) -> Result<Option<Fetched>, Error> {
    if on_hub(&model.name)?.is_none() {
        return Ok(None);
    }
    let Opened { mut checkpoint, origin, missing } = open(model, cancel)?;
    if let Some(missing) = missing {
        checkpoint = missing.fetch(&checkpoint, events)?;
    }
    let Checkpoint { root, name, .. } = checkpoint;
    Ok(origin.map(|origin| Fetched { root, name, origin }))
}

impl Missing {
    /// What the download means for the disks.
    pub(super) fn needs(&self, target: &write::Target) -> plan::Download {
        let cache = self.hub.cache();
        plan::Download {
            cache: cache.to_owned(),
            bytes: self.bytes,
            free: write::free_at(cache),
            same_disk: write::same_disk(cache, &target.folder),
        }
    }

    /// Fetches the weights; gives the checkpoint with them in the place of their outlines.
    pub(super) fn fetch(&self, outlined: &Checkpoint, events: &Arc<dyn Events>) -> Result<Checkpoint, Error> {
        let whole = self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
        let from = format!("{}/{}", self.hub.endpoint(), self.hub.id());
        events.emit(Event::Downloading { from: &from, bytes: whole, files: self.files.len(), missing: self.bytes });
        let files: Vec<_> = self.files.iter().collect();
        self.hub.download(&self.commit, &files, &Teller(events.as_ref()))?;
        events.emit(Event::AllDownloaded);
        let opened = source::open(&outlined.root)?;
        if opened.tensors != outlined.tensors || opened.config != outlined.config {
            return Err(Error::SourceChanged);
        }
        let shards = opened.shards.into_iter().zip(&outlined.shards);
        let shards = shards.map(|(shard, outline)| source::Shard { digest: outline.digest.clone(), ..shard });
        Ok(Checkpoint { shards: shards.collect(), ..outlined.clone() })
    }
}

/// Tells [`Events`] how a download gets on.
struct Teller<'a>(&'a dyn Events);

impl hub::Observer for Teller<'_> {
    fn kept(&self, bytes: u64) {
        self.0.emit(Event::Kept { bytes });
    }

    fn arrived(&self, bytes: u64) {
        self.0.emit(Event::Arrived { bytes });
    }

    fn lost(&self, bytes: u64) {
        self.0.emit(Event::Lost { bytes });
    }

    fn finished(&self, name: &str) {
        self.0.emit(Event::FileDownloaded { name });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Option<String> {
        on_hub(Path::new(name)).unwrap().map(|id| id.to_string())
    }

    /// Tests run in the folder of their package, where there is `src`.
    #[test]
    fn folders_come_first_and_what_looks_like_a_path_is_one() {
        assert_eq!(named("org/name").as_deref(), Some("org/name"));
        assert_eq!(named("some-model").as_deref(), Some("some-model"));
        assert_eq!(named("hf://src/run").as_deref(), Some("src/run"));
        for path in ["src", "src/run", "src/no-such-folder", "./org", "../org", "/org/name", "a/b/c", "name/", "~/x"] {
            assert_eq!(named(path), None, "{path}");
        }
        assert!(on_hub(Path::new("hf://a/b/c")).is_err());
    }
}
