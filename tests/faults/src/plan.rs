//! Which call is to fail, and how: `KIND:N:WHAT`, or `KIND:N+:WHAT` for that one and all after it.

use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::calls::Kind;

/// What is done to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// It is refused with this number.
    Error(i32),
    /// It takes half of the bytes.
    Short,
    /// The process ends before it, as by `kill -9`.
    Kill,
    /// The process ends after it.
    Killed,
    /// The process ends when half of the bytes are written.
    Torn,
}

/// The names of what can be done to a call.
const WHATS: [(&str, What); 13] = [
    ("EIO", What::Error(libc::EIO)),
    ("ENOSPC", What::Error(libc::ENOSPC)),
    ("EDQUOT", What::Error(libc::EDQUOT)),
    ("EROFS", What::Error(libc::EROFS)),
    ("EACCES", What::Error(libc::EACCES)),
    ("EPERM", What::Error(libc::EPERM)),
    ("EINTR", What::Error(libc::EINTR)),
    ("EMFILE", What::Error(libc::EMFILE)),
    ("EOPNOTSUPP", What::Error(libc::EOPNOTSUPP)),
    ("short", What::Short),
    ("kill", What::Kill),
    ("killed", What::Killed),
    ("torn", What::Torn),
];

/// A fault that was asked for.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Of these calls; none stands for all.
    kind: Option<Kind>,
    /// The first one that fails, counted from 1.
    first: usize,
    /// Whether all after it do, too.
    lasting: bool,
    what: What,
}

impl Fault {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (kind, count, what) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = if kind == "any" { None } else { Some(Kind::named(kind)?) };
        let lasting = count.ends_with('+');
        let first = count.trim_end_matches('+').parse().ok()?;
        let (_, what) = WHATS.into_iter().find(|(name, _)| *name == what)?;
        Some(Self { kind, first, lasting, what })
    }
}

/// What is watched, and what has come so far.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Calls below it count.
    pub(crate) folder: Vec<u8>,
    /// Where calls are written down.
    pub(crate) log: Option<RawFd>,
    fault: Option<Fault>,
    counts: [AtomicUsize; Kind::ALL.len()],
    all: AtomicUsize,
}

impl Plan {
    pub(crate) fn new(folder: String, log: Option<RawFd>, fault: Option<Fault>) -> Self {
        let folder = folder.into_bytes();
        Self { folder, log, fault, counts: Default::default(), all: AtomicUsize::new(0) }
    }

    /// Counts a call, and tells what is to be done to it.
    pub(crate) fn next(&self, kind: Kind) -> Option<What> {
        let of_kind = self.counts[kind as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let of_all = self.all.fetch_add(1, Ordering::SeqCst) + 1;
        let fault = self.fault.as_ref()?;
        let count = match fault.kind {
            None => of_all,
            Some(of) if of == kind => of_kind,
            Some(_) => return None,
        };
        (count == fault.first || (fault.lasting && count > fault.first)).then_some(fault.what)
    }
}
