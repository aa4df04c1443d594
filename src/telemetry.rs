//! Log lines on stderr: one JSON object each, or text for people. The level can be changed while the process runs.

mod lines;

use std::{fmt, sync::OnceLock};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};
use lines::Lines;

/// The process has one stderr.
static STDERR: OnceLock<Lines> = OnceLock::new();

/// Changes what is logged from now on.
pub struct Level(Box<dyn Fn(EnvFilter) + Send + Sync>);

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Level")
    }
}

impl Level {
    /// Logs by `filter`, a text that the settings' parser has tried.
    pub fn set(&self, filter: &str) {
        (self.0)(filter_of(filter));
    }
}

fn filter_of(text: &str) -> EnvFilter {
    // The settings' parser has tried it already.
    EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Starts logging as the settings say. A second call in a process changes nothing.
pub fn start(settings: &Settings) -> Level {
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter_of(&settings.log_level))
        .with_writer(STDERR.get_or_init(|| Lines::start(std::io::stderr())))
        // To stderr, where else: with nobody to read that, each line would be a panic.
        .log_internal_errors(false)
        .with_target(true);
    // Starting and changing fail only when the process, a test's, has a logger already.
    match settings.log_format {
        LogFormat::Json => {
            let logging = logging.json().flatten_event(true).with_filter_reloading();
            let handle = logging.reload_handle();
            drop(logging.try_init());
            Level(Box::new(move |filter| drop(handle.reload(filter))))
        }
        LogFormat::Text => {
            let logging = logging.with_ansi(false).with_filter_reloading();
            let handle = logging.reload_handle();
            drop(logging.try_init());
            Level(Box::new(move |filter| drop(handle.reload(filter))))
        }
    }
}

/// Waits until what was logged is written, for a second or two at most: before the process ends.
pub fn flush() {
    STDERR.get().into_iter().for_each(Lines::flush);
}

/// Lines that were not written since the start, because whoever reads stderr was too slow.
#[must_use]
pub fn dropped_lines() -> u64 {
    STDERR.get().map_or(0, Lines::dropped)
}
