//! The log: to standard error by verbosity, and in full to a file if one is asked for.

use std::{
    fmt::Debug,
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
};

use serde_json::{Map, Value};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::filter_fn,
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use super::{LOGGED, Verbosity, screen};

/// What is logged where.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// What goes to standard error.
    pub verbosity: Verbosity,
    /// Whether it goes there as lines of JSON.
    pub json: bool,
    /// A file to which everything down to debug messages is added.
    pub file: Option<PathBuf>,
}

impl LogSettings {
    /// The most detailed [`LogLevel`](qhost_plugin_api::abi::LogLevel) that is of use to anyone.
    #[must_use]
    pub fn level(&self) -> u32 {
        let screen = match self.verbosity {
            Verbosity::Quiet => 1,
            Verbosity::Normal => 2,
            Verbosity::Verbose => 3,
            Verbosity::Debug => 4,
        };
        if self.file.is_some() { screen.max(4) } else { screen }
    }

    /// Whether a message goes to standard error; what is shown there in another way does not.
    fn shows(&self, message: &Metadata<'_>) -> bool {
        let most = match self.verbosity {
            Verbosity::Quiet => LevelFilter::ERROR,
            Verbosity::Normal => LevelFilter::WARN,
            Verbosity::Verbose => LevelFilter::INFO,
            Verbosity::Debug => LevelFilter::DEBUG,
        };
        message.target() != LOGGED && *message.level() <= most
    }
}

/// Starts logging for this process.
///
/// # Errors
/// Fails when the log file cannot be opened.
pub fn start_logging(settings: &LogSettings) -> io::Result<()> {
    let file =
        settings.file.as_ref().map(|path| OpenOptions::new().append(true).create(true).open(path)).transpose()?;
    let file = file.map(|file| {
        let lines = tracing_subscriber::fmt::layer().with_writer(Arc::new(file)).with_ansi(false);
        lines.with_filter(LevelFilter::DEBUG)
    });
    let shown = {
        let settings = settings.clone();
        move || filter_fn(move |message| settings.shows(message))
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let words = tracing_subscriber::fmt::layer().with_writer(AboveBars).with_ansi(colour).without_time();
    let words = (!settings.json).then(|| words.with_target(false).with_filter(shown.clone()()));
    let json = settings.json.then(|| JsonLines.with_filter(shown()));
    // Fails only if logging was started already, in which case there is nothing to do.
    let _ = Registry::default().with(words).with(json).with(file).try_init();
    Ok(())
}

/// Writes each message as a line of JSON, like the progress that it stands between.
struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let Fields(mut line) = fields;
        line.insert("event".into(), "log".into());
        line.insert("level".into(), event.metadata().level().as_str().to_ascii_lowercase().into());
        screen::eprint_line(&Value::Object(line).to_string());
    }
}

/// The fields of a message; `message` is its text.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }
}

/// Writes each message above the progress bars.
#[derive(Debug, Clone, Copy)]
struct AboveBars;

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Message;

    fn make_writer(&'a self) -> Message {
        Message(Vec::new())
    }
}

/// One message, written when it is complete.
struct Message(Vec<u8>);

impl Write for Message {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        screen::BARS.suspend(|| {
            // A standard error that nobody reads is no reason to stop.
            let _ = io::stderr().write_all(&self.0);
        });
    }
}
