//! How a line of the log looks, and what the parts of the program are called in it.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Metadata,
    field::{Field, Visit},
};

use crate::{
    calendar::{now_unix_micros, rfc3339},
    config::LogFormat,
    traces,
};

/// Our crates, as they are called in the log and by the compiler.
const CRATES: [(&str, &str); 2] = [("shards", "ttdust_shards"), ("server", "ttdust")];
/// How the threads of shards are called, with the number of the shard after it.
const SHARD_THREAD: &str = "shard-";

/// A line of the log for an event that happens now, with its end.
pub(super) fn line(format: LogFormat, event: &Event<'_>) -> Vec<u8> {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let Fields { message, mut fields } = fields;
    if let Some((trace, span)) = traces::now() {
        fields.insert("trace_id".to_owned(), trace.to_string().into());
        fields.insert("span_id".to_owned(), span.to_string().into());
    }
    if !fields.contains_key("shard")
        && let Some(shard) = std::thread::current().name().and_then(|name| name.strip_prefix(SHARD_THREAD))
    {
        fields.insert("shard".to_owned(), shard.into());
    }
    written(format, event.metadata(), &message, fields)
}

/// The line that tells how many others were left out that came from the same place.
pub(super) fn left_out(format: LogFormat, place: &Metadata<'_>, lines: u64) -> Vec<u8> {
    let mut fields = Map::new();
    fields.insert("lines".to_owned(), lines.into());
    if let (Some(file), Some(number)) = (place.file(), place.line()) {
        fields.insert("of".to_owned(), format!("{file}:{number}").into());
    }
    written(format, place, "more lines of this kind were left out", fields)
}

fn written(format: LogFormat, from: &Metadata<'_>, message: &str, fields: Map<String, Value>) -> Vec<u8> {
    let (time, level, component) = (rfc3339(now_unix_micros()), from.level(), component(from.target()));
    let mut line = String::new();
    // Writing to a String cannot fail.
    match format {
        LogFormat::Json => {
            let text = |text: &str| Value::from(text).to_string();
            let _ = write!(line, r#"{{"timestamp":"{time}","level":"{level}","component":{}"#, text(&component));
            let _ = write!(line, r#","message":{}"#, text(message));
            for (name, value) in fields {
                let _ = write!(line, ",{}:{value}", text(&name));
            }
            line.push('}');
        }
        LogFormat::Text => {
            let _ = write!(line, "{time} {level:>5} {component}: {}", one_line(message));
            for (name, value) in fields {
                let _ = match value {
                    Value::String(text) if is_plain(&text) => write!(line, " {name}={text}"),
                    value => write!(line, " {name}={value}"),
                };
            }
        }
    }
    line.push('\n');
    line.into_bytes()
}

/// What people read without quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '='))
}

/// A message may hold what a client sent: it is to make no line of its own.
fn one_line(message: &str) -> Cow<'_, str> {
    match message.contains(char::is_control) {
        true => Cow::Owned(
            message.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect(),
        ),
        false => Cow::Borrowed(message),
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    fields: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.put(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(field, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

/// The part of the program that a line is from.
fn component(target: &str) -> Cow<'_, str> {
    for (name, of_compiler) in CRATES {
        if let Some(rest) = after(target, of_compiler) {
            return Cow::Owned(format!("{name}{rest}"));
        }
    }
    Cow::Borrowed(target)
}

/// A filter with the compiler's names of our crates in the place of ours.
pub(super) fn with_crates_names(filter: &str) -> String {
    let directives = filter.split(',').map(|directive| {
        let directive = directive.trim();
        for (name, of_compiler) in CRATES {
            if let Some(rest) = after(directive, name) {
                // A filter's targets are beginnings of names: the one crate's is one of the other's.
                let end = if rest.starts_with("::") { "" } else { "::" };
                return format!("{of_compiler}{end}{rest}");
            }
        }
        directive.to_owned()
    });
    directives.collect::<Vec<_>>().join(",")
}

/// What comes after the first part of a path of modules, if it is this.
fn after<'p>(path: &'p str, first: &str) -> Option<&'p str> {
    path.strip_prefix(first).filter(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Whether lines of this level are for those who asked for all that there is.
pub(super) fn is_detail(level: Level) -> bool {
    level > Level::INFO
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Subscriber;
    use tracing_subscriber::{
        EnvFilter, Layer,
        layer::{Context, SubscriberExt as _},
    };
    use ttdust_shards::trace::{sampling::Sampling, w3c::Incoming};

    use super::*;
    use crate::traces::{TraceFigures, Traces};

    struct Kept(LogFormat, Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let line = String::from_utf8(line(self.0, event)).expect("UTF-8");
            self.1.lock().expect("not poisoned").push(line);
        }
    }

    /// What `work` logs by this filter.
    fn logged(format: LogFormat, filter: &str, work: impl FnOnce()) -> Vec<String> {
        let kept = Arc::<Mutex<Vec<String>>>::default();
        let filter = EnvFilter::new(with_crates_names(filter));
        let logging = tracing_subscriber::registry().with(filter).with(Kept(format, Arc::clone(&kept)));
        tracing::subscriber::with_default(logging, work);
        std::mem::take(&mut kept.lock().expect("not poisoned"))
    }

    #[test]
    fn a_line_is_one_json_object_with_every_field_in_its_type() {
        let error = std::io::Error::other("a \"bad\"\nend");
        let lines = logged(LogFormat::Json, "info", || {
            tracing::warn!(stream = %"s-1", records = 7u64, less = -1, ok = true, %error, name = "n", "a line\nof two");
            tracing::info!(target: "ttdust_shards::wal", "plain");
        });
        let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(lines[0].matches('\n').count(), 1);
        assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"a line\nof two".into()));
        assert_eq!(line["component"], "server::telemetry::form::tests");
        assert_eq!((&line["records"], &line["less"], &line["ok"]), (&7.into(), &(-1).into(), &true.into()));
        assert_eq!((&line["stream"], &line["error"]), (&"s-1".into(), &"a \"bad\"\nend".into()));
        assert!(line["timestamp"].as_str().expect("a time").ends_with('Z') && line.get("trace_id").is_none(), "{line}");
        assert!(lines[1].contains(r#""component":"shards::wal","message":"plain""#), "{}", lines[1]);
    }

    #[test]
    fn a_line_for_people_is_one_line_too() {
        let lines = logged(LogFormat::Text, "info", || {
            tracing::error!(n = 1, text = "two words", word = "one", "what\nwas");
        });
        assert!(
            lines[0].ends_with("ERROR server::telemetry::form::tests: what\\nwas n=1 text=\"two words\" word=one\n"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_is_done_for_a_traced_request_says_so_and_the_rest_does_not() {
        let (traces, _, _spans) = Traces::start(Sampling { ratio: 1.0, per_second: 10 }, TraceFigures::default());
        let span = traces.request(&Incoming::Undecided, || "r".into());
        let id = span.trace().expect("traced").to_string();
        let lines = logged(LogFormat::Json, "info", || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(span.scope(async { tracing::info!("in it") }));
            tracing::info!("after it");
        });
        let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(line["trace_id"], id);
        assert_eq!(line["span_id"].as_str().map(str::len), Some(16));
        assert!(!lines[1].contains("trace_id"), "{}", lines[1]);
    }

    #[test]
    fn a_shards_thread_names_its_shard() {
        let lines = logged(LogFormat::Json, "info", || {
            let logging = tracing::dispatcher::get_default(Clone::clone);
            let work = move || tracing::dispatcher::with_default(&logging, || tracing::info!("here"));
            std::thread::Builder::new().name("shard-3".into()).spawn(work).expect("a thread").join().expect("it ends");
        });
        assert!(lines[0].contains(r#""shard":"3""#), "{lines:?}");
    }

    #[test]
    fn levels_are_set_by_the_names_that_lines_have() {
        let work = || {
            tracing::debug!(target: "ttdust_shards::wal::scan", "1");
            tracing::debug!(target: "ttdust_shards::grpc", "2");
            tracing::debug!(target: "ttdust::flush", "3");
            tracing::info!(target: "hyper", "4");
            tracing::info!(target: "ttdust::serve", "5");
        };
        let seen = |filter: &str| -> String {
            let message = |line: &String| serde_json::from_str::<Value>(line).expect("JSON")["message"].clone();
            logged(LogFormat::Json, filter, work)
                .iter()
                .map(|line| message(line).as_str().unwrap_or("").to_owned())
                .collect()
        };
        assert_eq!(seen("info"), "45");
        assert_eq!(seen("info,shards::wal=debug"), "145");
        assert_eq!(seen("warn, server::flush=debug"), "3");
        assert_eq!(seen("shards=debug,server=info"), "125");
        assert_eq!(seen("warn,server=debug"), "35");
        assert_eq!(seen("info,ttdust::flush=debug"), "345");
        assert_eq!(with_crates_names("info,serverless=debug"), "info,serverless=debug");
    }
}
