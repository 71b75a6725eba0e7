//! The log: to standard error by verbosity, and in full to a file if one is asked for.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::Path,
    sync::Arc,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, fmt, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use super::{Verbosity, screen};

/// What is logged where.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings<'a> {
    /// What goes to standard error.
    pub verbosity: Verbosity,
    /// A file that gets everything down to debug messages.
    pub file: Option<&'a Path>,
}

impl LogSettings<'_> {
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
}

/// Starts logging for this process.
///
/// # Errors
/// Fails when the log file cannot be made.
pub fn start_logging(settings: LogSettings<'_>) -> io::Result<()> {
    let filter = match settings.verbosity {
        Verbosity::Quiet => LevelFilter::ERROR,
        Verbosity::Normal => LevelFilter::WARN,
        Verbosity::Verbose => LevelFilter::INFO,
        Verbosity::Debug => LevelFilter::DEBUG,
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let screen = fmt::layer().with_writer(AboveBars).with_ansi(colour).without_time().with_target(false);
    let file = settings.file.map(File::create).transpose()?;
    let file =
        file.map(|file| fmt::layer().with_writer(Arc::new(file)).with_ansi(false).with_filter(LevelFilter::DEBUG));
    // Fails only if logging was started already, in which case there is nothing to do.
    let _ = Registry::default().with(screen.with_filter(filter)).with(file).try_init();
    Ok(())
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
