//! How the download of weights gets on: bytes, files, speed, and the time that is left.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use indicatif::HumanDuration;
use serde_json::{Value, json};

/// Counts what several threads tell.
#[derive(Default)]
pub(super) struct Download {
    active: AtomicBool,
    began: Mutex<Option<Instant>>,
    bytes: AtomicU64,
    done: AtomicU64,
    /// What this run has fetched itself: its speed is told from that.
    arrived: AtomicU64,
    files: AtomicU64,
    files_done: AtomicU64,
}

impl Download {
    pub(super) fn begin(&self, bytes: u64, files: u64) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.bytes.store(bytes, Ordering::Relaxed);
        self.files.store(files, Ordering::Relaxed);
        self.active.store(true, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.active.store(false, Ordering::Relaxed);
    }

    /// Whether it goes on just now.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn kept(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn arrived(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.arrived.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn lost(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn file_done(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes that are there, of how many.
    pub(super) fn position(&self) -> (u64, u64) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed).min(bytes), bytes)
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn percent(&self) -> f64 {
        let (done, bytes) = self.position();
        if bytes == 0 { 0.0 } else { done as f64 * 100.0 / bytes as f64 }
    }

    /// Bytes per second of this run, and what is left at that speed.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn speed(&self) -> (f64, Option<Duration>) {
        let (done, bytes) = self.position();
        let speed = self.arrived.load(Ordering::Relaxed) as f64 / self.elapsed().as_secs_f64().max(1e-3);
        let left = bytes.saturating_sub(done) as f64;
        let eta = (speed > 0.0 && left > 0.0).then(|| Duration::try_from_secs_f64(left / speed).ok()).flatten();
        (speed, eta)
    }

    fn elapsed(&self) -> Duration {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |began| began.elapsed())
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a figure for people")]
    pub(super) fn human(&self) -> String {
        let (done, bytes) = self.position();
        let (speed, eta) = self.speed();
        let eta = eta.map_or_else(String::new, |eta| format!(", {} left", HumanDuration(eta)));
        format!(
            "downloading, {} of {}, {} of {} files, {}/s{eta}",
            ByteSize(done),
            ByteSize(bytes),
            self.files_done.load(Ordering::Relaxed),
            self.files.load(Ordering::Relaxed),
            ByteSize(speed as u64),
        )
    }

    pub(super) fn json(&self) -> Value {
        let (done, bytes) = self.position();
        let (speed, eta) = self.speed();
        json!({
            "event": "download",
            "bytes_done": done,
            "bytes": bytes,
            "files_done": self.files_done.load(Ordering::Relaxed),
            "files": self.files.load(Ordering::Relaxed),
            "percent": self.percent(),
            "bytes_per_second": speed,
            "eta_seconds": eta.map(|eta| eta.as_secs_f64()),
            "elapsed_seconds": self.elapsed().as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Download;

    #[test]
    fn what_was_there_before_counts_as_done_but_not_as_speed() {
        let download = Download::default();
        download.begin(100, 2);
        download.kept(40);
        download.arrived(30);
        download.lost(20);
        download.file_done();
        let document = download.json();
        assert_eq!((&document["bytes_done"], &document["percent"]), (&50.into(), &50.0.into()));
        assert_eq!((&document["files_done"], &document["files"]), (&1.into(), &2.into()));
        assert!(download.is_active() && download.human().contains("50 B of 100 B"), "{}", download.human());
        download.end();
        assert!(!download.is_active());
    }
}
