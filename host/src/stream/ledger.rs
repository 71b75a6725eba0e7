//! The one place that grants working memory, so that a ceiling is kept in one place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts the working memory that was granted and not yet given back.
#[derive(Debug)]
pub struct Ledger {
    /// Bytes that may be out at once; none means no ceiling.
    limit: Option<u64>,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    next: u64,
    /// What is in use without a grant.
    own: u64,
    out: u64,
    peak: u64,
    grants: HashMap<u64, u64>,
}

/// A grant that would pass the ceiling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{purpose} needs {asked} bytes of working memory, and {out} of the ceiling of {limit} bytes are in use")]
pub struct Refused {
    /// What it was for.
    pub purpose: String,
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes granted already.
    pub out: u64,
    /// The ceiling.
    pub limit: u64,
}

impl Ledger {
    /// A ledger with a ceiling in bytes, or without one.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit, books: Mutex::default() }
    }

    /// The ceiling in bytes.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Counts memory that is in use without a grant: the process itself.
    pub fn set_own(&self, bytes: u64) {
        self.books().own = bytes;
    }

    /// Grants `bytes`; the answer names the grant.
    ///
    /// # Errors
    /// Fails when the ceiling would be passed.
    pub fn grant(&self, bytes: u64, purpose: &str) -> Result<u64, Refused> {
        let mut books = self.books();
        let out = books.out.saturating_add(bytes);
        if let Some(limit) = self.limit.filter(|&limit| out.saturating_add(books.own) > limit) {
            return Err(Refused {
                purpose: purpose.to_owned(),
                asked: bytes,
                out: books.out.saturating_add(books.own),
                limit,
            });
        }
        books.out = out;
        books.peak = books.peak.max(out);
        books.next += 1;
        let id = books.next;
        books.grants.insert(id, bytes);
        Ok(id)
    }

    /// Grants `bytes` for as long as the answer lives.
    ///
    /// # Errors
    /// Fails when the ceiling would be passed.
    pub fn hold(self: &Arc<Self>, bytes: u64, purpose: &str) -> Result<Grant, Refused> {
        Ok(Grant { id: self.grant(bytes, purpose)?, ledger: Arc::clone(self) })
    }

    /// Takes a grant back; an unknown one is ignored.
    pub fn release(&self, id: u64) {
        let mut books = self.books();
        if let Some(bytes) = books.grants.remove(&id) {
            books.out -= bytes;
        }
    }

    /// The most that was granted at once.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.books().peak
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that is given back when this is dropped.
#[derive(Debug)]
pub struct Grant {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.ledger.release(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_over_the_ceiling_is_refused_and_room_comes_back() {
        let ledger = Ledger::new(Some(100));
        let first = ledger.grant(60, "first").unwrap();
        let refused = ledger.grant(41, "second").unwrap_err();
        assert_eq!(refused, Refused { purpose: "second".into(), asked: 41, out: 60, limit: 100 });
        ledger.release(first);
        ledger.release(first);
        let second = ledger.grant(100, "second").unwrap();
        assert_ne!(first, second);
        assert_eq!(ledger.peak(), 100);
        ledger.release(second);
        ledger.set_own(30);
        assert!(ledger.grant(71, "too much").is_err());
        assert!(ledger.grant(70, "the rest").is_ok());
    }

    #[test]
    fn sums_that_would_overflow_are_refused() {
        let ledger = Ledger::new(Some(u64::MAX - 1));
        ledger.grant(u64::MAX / 2, "half").unwrap();
        assert!(ledger.grant(u64::MAX, "all").is_err());
    }
}
