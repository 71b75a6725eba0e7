//! Looking at every number of every tensor, on all threads, a piece at a time.
//!
//! Pages that were looked at are let go, so memory does not grow with the files.

use qhost_plugin_api::documents::{Check, Numbers, Reading, StoredTensor};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{Error, checkpoint};
use crate::{
    inspect::{Content, Opened},
    plugin::{ConnectSettings, NumberCheck},
    run::{Event, Events},
};

/// Bytes that one thread looks at in one go, about: whole rows.
const PIECE: u64 = 1 << 20;

/// What looking at all numbers found.
pub(super) struct Found {
    pub(super) check: Check,
    pub(super) warnings: Vec<String>,
}

/// Looks at every number.
pub(super) fn check(
    opened: &Opened,
    reading: &Reading,
    settings: &ConnectSettings,
    events: &dyn Events,
) -> Result<Found, Error> {
    let look = match &opened.content {
        Content::Plugin(plugin, format) => Look::Plugin(plugin.number_check(format)?),
        Content::Checkpoint(_) => Look::Host,
    };
    events.emit(Event::Started { weights: reading.elements(), units: reading.tensors.len() });
    let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
    for tensor in &reading.tensors {
        events.emit(Event::UnitStarted { name: &tensor.name });
        match look_at(opened, tensor, &look, settings)? {
            Numbers::Finite => {}
            Numbers::NotFinite(element) => wrong.push((tensor, element)),
            _ => unknown.push(tensor),
        }
        events.emit(Event::Progress { weights: tensor.elements() });
        events.emit(Event::UnitCommitted { name: &tensor.name });
    }
    let check = match wrong.as_slice() {
        [] => Check::passed("numbers", "all scales and values are finite"),
        [(tensor, element), more @ ..] => {
            let others = if more.is_empty() { String::new() } else { format!(", and {} more tensors", more.len()) };
            let place = format!("{} has a scale or value that is no finite number, at element {element}", tensor.name);
            Check::failed("numbers", format!("{place}{others}"))
        }
    };
    let warnings = match unknown.as_slice() {
        [] => Vec::new(),
        [first, ..] => vec![format!(
            "the numbers of {} tensors were not looked at, such as {}: {} is not known",
            unknown.len(),
            first.name,
            first.encoding
        )],
    };
    Ok(Found { check, warnings })
}

/// Who knows how numbers are stored.
enum Look<'a> {
    Host,
    Plugin(NumberCheck<'a>),
}

/// Looks at one tensor; gives the first place in it that is wrong.
fn look_at(
    opened: &Opened,
    tensor: &StoredTensor,
    look: &Look<'_>,
    settings: &ConnectSettings,
) -> Result<Numbers, Error> {
    let rows = tensor.rows();
    let Some(file) = opened.files.get(tensor.file as usize).filter(|_| rows > 0 && tensor.bytes > 0) else {
        return Ok(Numbers::Finite);
    };
    let row_bytes = (tensor.bytes / rows).max(1);
    let (step, row_elements) = ((PIECE / row_bytes).max(1), tensor.elements() / rows);
    let piece = |index: u64| -> Result<Numbers, Error> {
        let (first, last) = (index * step, rows.min((index + 1) * step));
        let place = tensor.offset + first * row_bytes..tensor.offset + last * row_bytes;
        let bounds = usize::try_from(place.start).ok().zip(usize::try_from(place.end).ok());
        // The plugin's answer was held against the file's length.
        let bytes = bounds.and_then(|(start, end)| file.mapping.bytes().get(start..end)).unwrap_or_default();
        let found = match look {
            Look::Host => checkpoint::numbers(&tensor.encoding, bytes),
            Look::Plugin(check) => check.look(&tensor.encoding, bytes)?,
        };
        Ok(match found {
            Numbers::NotFinite(element) => Numbers::NotFinite(first * row_elements + element),
            other => other,
        })
    };
    let pieces = rows.div_ceil(step);
    let found: Result<Vec<Numbers>, Error> = settings.pool.install(|| (0..pieces).into_par_iter().map(piece).collect());
    file.mapping.release(tensor.offset..tensor.offset.saturating_add(tensor.bytes));
    Ok(found?.into_iter().find(|found| *found != Numbers::Finite).unwrap_or(Numbers::Finite))
}
