//! Faults at single calls: an error, a full disk from then on, half of the bytes, an interruption.

use std::{collections::BTreeMap, fmt};

use super::{Complaint, Subject, subject::Place};
use crate::command::Ended;

/// What a kind of call may meet.
const WHATS: [(&str, &[&str]); 9] = [
    ("open", &["EIO", "ENOSPC", "EACCES", "EMFILE", "EINTR"]),
    ("write", &["EIO", "ENOSPC", "EINTR", "short"]),
    ("sync", &["EIO", "ENOSPC", "EINTR"]),
    ("truncate", &["EIO", "ENOSPC", "EINTR"]),
    ("allocate", &["EIO", "ENOSPC", "EINTR", "EOPNOTSUPP"]),
    ("lock", &["EIO", "EINTR"]),
    ("rename", &["EIO", "ENOSPC", "EACCES"]),
    ("mkdir", &["EIO", "ENOSPC", "EACCES"]),
    ("remove", &["EIO", "EACCES"]),
];

/// What a run has to get over.
const HARMLESS: [&str; 3] = ["EINTR", "short", "EOPNOTSUPP"];

/// A fault at one call, or from one on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kind of call, or `any`.
    pub kind: String,
    /// Which of its kind, from 1.
    pub count: usize,
    /// Whether all after it meet the same.
    pub lasting: bool,
    /// What it meets.
    pub what: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}:{}", self.kind, self.count, if self.lasting { "+" } else { "" }, self.what)
    }
}

/// How a run with a fault has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It ended before the call came.
    NotReached,
    /// It got over it.
    Done,
    /// It ended with the exit code for disks, said so, and went on from there.
    Refused,
    /// It was killed, and went on from there.
    Killed,
}

impl Subject {
    /// Every fault at every call of a run.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &self.calls {
            *counts.entry(&call.kind).or_default() += 1;
        }
        let mut faults = Vec::new();
        for (kind, whats) in WHATS {
            let fault = |count, lasting, what| Fault { kind: kind.into(), count, lasting, what };
            for count in 1..=counts.get(kind).copied().unwrap_or(0) {
                faults.extend(whats.iter().map(|what| fault(count, false, *what)));
                // A disk that is full stays so.
                if kind == "write" {
                    faults.push(fault(count, true, "ENOSPC"));
                }
            }
        }
        // A disk that has gone, or that the system does not let be written to any more.
        for count in 1..=self.calls.len() {
            let fault = |what| Fault { kind: "any".into(), count, lasting: true, what };
            faults.extend(["EIO", "EROFS"].map(fault));
        }
        // A process that ends when that call is made.
        let fault = |kind: &str, count, what| Fault { kind: kind.into(), count, lasting: false, what };
        faults.extend((1..=self.calls.len()).map(|count| fault("any", count, "killed")));
        faults.extend((1..=counts.get("write").copied().unwrap_or(0)).map(|count| fault("write", count, "torn")));
        faults
    }

    /// Kills after each call that moves or removes something: then all is done, and the traces are being removed.
    #[must_use]
    pub fn kills_at_the_end(&self) -> Vec<Fault> {
        let calls = (1..).zip(&self.calls).filter(|(_, call)| ["rename", "remove"].contains(&&*call.kind));
        calls.map(|(count, _)| Fault { kind: "any".into(), count, lasting: false, what: "killed" }).collect()
    }

    /// Runs with a fault, and once more without one.
    ///
    /// # Errors
    /// Complains about everything that must not be.
    pub fn suffer(&self, fault: &Fault) -> Result<Outcome, Complaint> {
        self.suffered(fault).map_err(|complaint| format!("{} with {fault}: {complaint}", self.name))
    }

    fn suffered(&self, fault: &Fault) -> Result<Outcome, Complaint> {
        self.begin()?;
        let (command, watched) = self.watched("fault", Some(&fault.to_string()));
        let ended = command.run();
        let hit = watched.calls().iter().any(|call| call.hit);
        let place = self.look()?;
        let outcome = match ended.code {
            Some(0) if !hit => Outcome::NotReached,
            Some(0) => Outcome::Done,
            Some(6) if hit => Outcome::Refused,
            None if hit && ["killed", "torn"].contains(&fault.what) => Outcome::Killed,
            _ => return Err(format!("{ended:?}")),
        };
        if outcome == Outcome::Killed {
            self.resume()?;
        } else if outcome == Outcome::Refused {
            if HARMLESS.contains(&fault.what) {
                return Err(format!("it is not got over: {ended:?}"));
            }
            if place == Place::Empty && self.has_old() && !fault.lasting {
                return Err(format!("the old output is not in its place: {ended:?}"));
            }
            self.explained(&ended)?;
            self.resume()?;
        } else {
            self.finished(&ended, fault.kind == "remove" || fault.kind == "any")?;
        }
        Ok(outcome)
    }

    /// Checks that a run says what went wrong where, and what to do.
    fn explained(&self, ended: &Ended) -> Result<(), Complaint> {
        let told: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let names_it = text("message").contains(&*self.place().to_string_lossy());
        if names_it && !text("hint").is_empty() && told["code"] == 6 && !ended.stderr.contains("panicked") {
            return Ok(());
        }
        Err(format!("it does not say what went wrong where: {ended:?}"))
    }
}
