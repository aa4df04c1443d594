//! Log lines on stderr: one JSON object each, or text for people. The level can be changed while the process runs.
//!
//! A line says which part of the program it is from (`component`: `server::…` and `shards::…`, by module), and `log.level` takes
//! the same names: `info,shards::wal=debug`. What is logged for a request that is traced has its `trace_id`.

mod form;
mod lines;
mod repeats;

use std::sync::OnceLock;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt as _},
    reload,
};

use crate::config::{LogFormat, Settings};
use lines::Lines;

/// The process has one stderr.
static STDERR: OnceLock<Lines> = OnceLock::new();

/// Changes what is logged from now on.
#[derive(Debug)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs by `filter`, a text that the settings' parser has tried.
    pub fn set(&self, filter: &str) {
        // It fails only when the process, a test's, has another logger.
        let _ = self.0.reload(filter_of(filter));
    }
}

fn filter_of(text: &str) -> EnvFilter {
    // The settings' parser has tried it already.
    EnvFilter::try_new(form::with_crates_names(text)).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Starts logging as the settings say. A second call in a process changes nothing.
pub fn start(settings: &Settings) -> Level {
    let format = settings.log_format;
    let (filter, handle) = reload::Layer::new(filter_of(&settings.log_level));
    let lines = STDERR.get_or_init(|| Lines::start(std::io::stderr(), format));
    let logging = tracing_subscriber::registry().with(filter).with(Printer { format, lines });
    // It fails only when the process, a test's, has a logger already.
    let _ = tracing::subscriber::set_global_default(logging);
    Level(handle)
}

/// Writes each event as a line.
struct Printer {
    format: LogFormat,
    lines: &'static Lines,
}

impl<S: Subscriber> Layer<S> for Printer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.lines.add(event.metadata(), form::line(self.format, event));
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
