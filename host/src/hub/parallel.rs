//! Doing the same for several files at once, with a few threads that wait for the network.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::Error;

/// Files that are fetched at the same time.
const WORKERS: usize = 4;

/// Does `work` for every item; the results are in the order of the items.
///
/// # Errors
/// Fails with the first error met, after `failed` was called and all workers have ended.
pub(super) fn for_each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, Error> + Sync,
    failed: impl Fn() + Sync,
) -> Result<Vec<R>, Error> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::default();
    let first_error: Mutex<Option<Error>> = Mutex::default();
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            match work(item) {
                Ok(result) => results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result)),
                Err(error) => {
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                    next.store(items.len(), Ordering::Relaxed);
                    failed();
                }
            }
        }
    };
    thread::scope(|scope| {
        let thread = |index: usize| thread::Builder::new().name(format!("hub-{index}"));
        let spawned = (1..WORKERS.min(items.len())).map(|index| thread(index).spawn_scoped(scope, worker));
        // With fewer threads it takes longer.
        let spawned: Vec<io::Result<_>> = spawned.collect();
        worker();
        drop(spawned);
    });
    if let Some(error) = first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
