//! Ends a process whose plugin does not come back.
//!
//! A thread that has been in a plugin's own code for a long time without a single call to the host is taken to hang: a
//! plugin leases, writes, takes the next iteration of a loop or has the host compute many times a second. No thread can
//! be stopped from outside, so the process ends; what is finished is in the journal.

use std::{env, sync::Once, thread, time::Duration};

/// How long a plugin may take between two calls to the host, in seconds; 0 is for ever.
pub(super) const TIMEOUT_VARIABLE: &str = "QHOST_PLUGIN_TIMEOUT";

const USUAL: Duration = Duration::from_secs(30 * 60);

/// Starts to watch, once in a process.
pub(super) fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let limit = limit(env::var(TIMEOUT_VARIABLE).ok().as_deref());
        if limit.is_zero() {
            return;
        }
        let look = move || loop {
            thread::sleep((limit / 8).clamp(Duration::from_millis(50), Duration::from_secs(10)));
            #[cfg(target_os = "linux")]
            super::calls::look_for_hang(limit, |call| super::crash::end_of_hang(call, &in_words(limit)));
        };
        if let Err(error) = thread::Builder::new().name("watchdog".into()).spawn(look) {
            tracing::debug!("no watchdog: {error}");
        }
    });
}

fn limit(variable: Option<&str>) -> Duration {
    let Some(text) = variable else { return USUAL };
    let Ok(seconds) = text.parse() else {
        tracing::warn!("{TIMEOUT_VARIABLE}: `{}` is not a number of seconds", text.escape_debug());
        return USUAL;
    };
    Duration::from_secs(seconds)
}

fn in_words(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds.is_multiple_of(60) => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    }
}
