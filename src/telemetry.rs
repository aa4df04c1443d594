//! Log lines on stderr: one JSON object each, or text for people.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};

/// Starts logging as the settings say. A second call in a process changes nothing.
pub fn start(settings: &Settings) {
    // The settings' parser has tried the filter already.
    let filter = EnvFilter::try_new(&settings.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    let started = match settings.log_format {
        LogFormat::Json => logging.json().flatten_event(true).try_init(),
        LogFormat::Text => logging.with_ansi(false).try_init(),
    };
    // It fails only when the process, a test's, has a logger already.
    drop(started);
}
