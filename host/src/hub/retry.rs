//! Trying again after a failure that may pass, with longer and longer pauses.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::Error;
use crate::cancel::CancelFlag;

/// Tries that get nowhere, one after the other, before it is given up.
const TRIES: u32 = 5;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// The longest pause of our own choice.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause that a server may ask for. A hub counts requests over five minutes.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// How often someone who waits looks whether the user wants to stop.
const TICK: Duration = Duration::from_millis(20);

/// How often it was tried.
pub(super) struct Retry<'a> {
    cancel: &'a CancelFlag,
    tries: u32,
}

impl<'a> Retry<'a> {
    pub(super) fn new(cancel: &'a CancelFlag) -> Self {
        Self { cancel, tries: 0 }
    }

    /// The last try got further than any before.
    pub(super) fn progressed(&mut self) {
        self.tries = 0;
    }

    /// Waits until it is time for the next try.
    ///
    /// # Errors
    /// Gives the error back if it will not pass, or was met too often.
    pub(super) fn after(&mut self, error: Error) -> Result<(), Error> {
        self.tries += 1;
        if !error.is_transient() || self.tries >= TRIES || self.cancel.is_cancelled() {
            return Err(error);
        }
        let pause = pause(self.tries, error.wait());
        tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f64());
        if sleep(pause, self.cancel) { Ok(()) } else { Err(error) }
    }
}

fn pause(tries: u32, asked: Option<Duration>) -> Duration {
    let own = FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_PAUSE);
    asked.map_or(own, |asked| asked.min(LONGEST_ASKED).max(own))
}

/// Whether the time has passed without the user asking to stop.
pub(super) fn sleep(time: Duration, cancel: &CancelFlag) -> bool {
    let began = Instant::now();
    while began.elapsed() < time {
        if cancel.is_cancelled() {
            return false;
        }
        thread::sleep(TICK.min(time));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_a_server_may_ask_for_more_but_not_for_ever() {
        let own: Vec<_> = (1..9).map(|tries| pause(tries, None)).collect();
        assert!(own.is_sorted() && own[0] == FIRST_PAUSE && own[7] == LONGEST_PAUSE);
        assert_eq!(pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(3, Some(Duration::ZERO)), own[2]);
        assert_eq!(pause(1, Some(Duration::from_secs(9999))), LONGEST_ASKED);
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        let cancel = CancelFlag::default();
        assert!(Retry::new(&cancel).after(Error::BadToken).is_err());
        cancel.cancel();
        let cut = Error::Unreachable { host: "h".into(), reason: "r".into() };
        assert!(Retry::new(&cancel).after(cut).is_err());
    }
}
