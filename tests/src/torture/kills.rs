//! Kills at any instant: by the clock, and at single calls, before, in and after them.

use std::{fs, thread, time::Duration};

use super::{Complaint, Subject, subject::Place};
use crate::checkpoint::Random;

/// What came of a number of kills.
#[derive(Debug, Default, Clone, Copy)]
pub struct Kills {
    /// Processes that were killed.
    pub killed: usize,
    /// Of these, in runs that went on from the work of one that was killed before.
    pub while_resuming: usize,
    /// Of these, with a unit on the disk.
    pub with_work: usize,
    /// Of these, with the whole output in its place.
    pub in_place: usize,
    /// Runs that ended before they were killed.
    pub too_late: usize,
    /// Outputs that were finished by the same command, and compared byte for byte.
    pub finished: usize,
}

impl Subject {
    /// Kills so many processes, and has the work finished after each few of them.
    ///
    /// # Errors
    /// Complains about everything that must not be.
    pub fn kill(&self, kills: usize, random: &mut Random) -> Result<Kills, Complaint> {
        let mut figures = Kills::default();
        while figures.killed < kills {
            self.begin()?;
            let mut resuming = false;
            let mut history = Vec::new();
            // Most outputs take a few kills, some many.
            let most = 1 + random.below(4) * random.below(3);
            while history.len() < most && figures.killed < kills {
                let how = How::any(self, random);
                history.push(how.to_string());
                let blame = |complaint| format!("{} killed at {}: {complaint}", self.name, history.join(", "));
                if !self.killed(&how).map_err(blame)? {
                    figures.too_late += 1;
                    break;
                }
                figures.killed += 1;
                figures.while_resuming += usize::from(resuming);
                figures.in_place += usize::from(self.look().map_err(blame)? == Place::Whole);
                let journal = fs::read_to_string(self.partial().join("journal")).unwrap_or_default();
                // The first two lines are the start and the header.
                let has_work = journal.lines().count() > 2;
                figures.with_work += usize::from(has_work);
                resuming |= has_work;
            }
            let blame = |complaint| format!("{} after kills at {}: {complaint}", self.name, history.join(", "));
            self.resume().map_err(blame)?;
            figures.finished += 1;
        }
        Ok(figures)
    }

    /// Starts a run and kills it; tells whether it was still there.
    fn killed(&self, how: &How) -> Result<bool, Complaint> {
        let complain = |error: std::io::Error| error.to_string();
        let ended = match how {
            How::After(instant) => {
                let (mut child, _home) = self.command().start();
                thread::sleep(*instant);
                child.kill().map_err(complain)?;
                child.wait().map_err(complain)?
            }
            How::At(fault) => {
                let (command, _watched) = self.watched("kill", Some(fault));
                let (mut child, _home) = command.start();
                child.wait().map_err(complain)?
            }
        };
        match ended.code() {
            None => Ok(true),
            Some(0) => Ok(false),
            // The kill before came when all was done but removing the rest of the work folder.
            Some(2) if self.look()? == Place::Whole && !self.partial().join("journal").exists() => Ok(false),
            Some(code) => Err(format!("it ended with {code}")),
        }
    }
}

enum How {
    After(Duration),
    At(String),
}

impl How {
    fn any(subject: &Subject, random: &mut Random) -> Self {
        if random.below(2) == 0 {
            let part = u32::try_from(random.below(1100)).unwrap_or(0);
            return Self::After(subject.span * part / 1000);
        }
        let writes = subject.calls.iter().filter(|call| call.kind == "write").count();
        match random.below(3) {
            0 => Self::At(format!("any:{}:kill", 1 + random.below(subject.calls.len()))),
            1 => Self::At(format!("any:{}:killed", 1 + random.below(subject.calls.len()))),
            _ => Self::At(format!("write:{}:torn", 1 + random.below(writes))),
        }
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::After(instant) => write!(f, "{instant:?}"),
            Self::At(fault) => f.write_str(fault),
        }
    }
}
