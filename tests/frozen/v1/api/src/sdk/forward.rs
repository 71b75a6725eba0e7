//! Sends the plugin's `tracing` events and `log` records to the host.
//!
//! A library has its own copies of both crates' globals, so without this its messages go nowhere.
//! Spans are not forwarded.

use std::{
    fmt::{self, Write},
    sync::OnceLock,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

use super::HostHandle;
use crate::abi::LogLevel;

static FORWARDER: OnceLock<Forwarder> = OnceLock::new();

#[derive(Clone)]
struct Forwarder {
    host: HostHandle,
    max: LogLevel,
}

/// Installs the forwarders of this library, once; messages above `max` are dropped at their source.
///
/// A host connects a plugin once in a process; the messages go to the first host for good.
pub(super) fn install(host: &HostHandle) {
    let max = LogLevel(host.facts().log_level);
    let forwarder = FORWARDER.get_or_init(|| Forwarder { host: host.clone(), max });
    // Both fail only if the plugin has installed its own, which is its right.
    let _ = tracing::subscriber::set_global_default(forwarder.clone());
    if log::set_logger(forwarder).is_ok() {
        log::set_max_level(match max.0 {
            0 => log::LevelFilter::Off,
            1 => log::LevelFilter::Error,
            2 => log::LevelFilter::Warn,
            3 => log::LevelFilter::Info,
            4 => log::LevelFilter::Debug,
            _ => log::LevelFilter::Trace,
        });
    }
}

fn from_tracing(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::ERROR,
        Level::WARN => LogLevel::WARN,
        Level::INFO => LogLevel::INFO,
        Level::DEBUG => LogLevel::DEBUG,
        Level::TRACE => LogLevel::TRACE,
    }
}

impl Subscriber for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && from_tracing(*metadata.level()) <= self.max
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.max.0 {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        self.host.log(from_tracing(*metadata.level()), metadata.target(), &text.join());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl log::Log for Forwarder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        LogLevel(metadata.level() as u32) <= self.max
    }

    fn log(&self, record: &log::Record<'_>) {
        if log::Log::enabled(self, record.metadata()) {
            self.host.log(LogLevel(record.level() as u32), record.target(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Collects an event's fields as `message key=value …`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn join(self) -> String {
        format!("{}{}", self.message, self.fields)
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn log_levels_have_the_numbers_of_the_border() {
        assert_eq!(log::Level::Error as u32, crate::abi::LogLevel::ERROR.0);
        assert_eq!(log::Level::Trace as u32, crate::abi::LogLevel::TRACE.0);
    }
}
