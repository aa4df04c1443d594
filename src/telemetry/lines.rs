//! The way of log lines to stderr: over a bounded queue and a thread of its own.
//!
//! Invariant: who logs never waits for who reads. A pipe that nobody empties, or a file on a disk that is busy with the log of
//! records, would otherwise hold up the shard or the control plane in the middle of its work. What finds the queue full is
//! dropped and counted. What comes too often from one place is left out and counted too, here, where it costs no shard anything.

use std::{
    hash::{Hash, Hasher},
    io::{self, Write},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing::Metadata;

use super::{
    form::{is_detail, left_out},
    repeats::Repeats,
};
use crate::config::LogFormat;

/// Lines that wait at most.
const QUEUE: usize = 4096;
/// Bytes that are written at once at most, unless a line is longer.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// How long the end waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A place in the program that logs: they are told apart by where they are in memory.
#[derive(Debug, Clone, Copy)]
struct Place(&'static Metadata<'static>);

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self.0, state);
    }
}

enum Message {
    Line(Place, Vec<u8>),
    /// Answered once all that came before is written.
    Flush(Sender<()>),
}

/// The queue's end for those who log.
pub(super) struct Lines {
    queue: Sender<Message>,
    dropped: AtomicU64,
}

impl Lines {
    /// A queue, and a thread that writes its lines to `out` for as long as the process lives. Lines are lost if no thread can be
    /// started, which is told on `out`.
    pub(super) fn start(out: impl Write + Send + 'static, format: LogFormat) -> Self {
        let (queue, lines) = bounded(QUEUE);
        let started = thread::Builder::new().name("log".into()).spawn(move || write(&lines, out, format));
        if let Err(error) = started {
            // With nobody to read it, there is nobody to tell.
            let _ = writeln!(io::stderr(), "ttdust: there will be no log: {error}");
        }
        Self { queue, dropped: AtomicU64::new(0) }
    }

    /// Has a line written that comes from this place.
    pub(super) fn add(&self, from: &'static Metadata<'static>, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(Place(from), line)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Lines that found the queue full.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits until what was logged before is written, for a second at most.
    pub(super) fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.queue.send_timeout(Message::Flush(done), FLUSH_TIMEOUT).is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Writes what comes, as much at once as is there.
fn write(lines: &Receiver<Message>, mut out: impl Write, format: LogFormat) {
    let mut repeats = Repeats::new();
    let mut text = Vec::new();
    let mut flushed = Vec::new();
    loop {
        let next = match repeats.due_in(Instant::now()) {
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => lines.recv_timeout(due),
        };
        match next {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(first) => {
                for message in std::iter::once(first).chain(lines.try_iter()) {
                    match message {
                        Message::Line(from, line) => {
                            if is_detail(*from.0.level()) || repeats.lets(from, Instant::now()) {
                                text.extend_from_slice(&line);
                            }
                        }
                        Message::Flush(done) => flushed.push(done),
                    }
                    if text.len() >= WRITE_BYTES_MAX {
                        break;
                    }
                }
            }
        }
        for (from, lines) in repeats.left_out(Instant::now(), !flushed.is_empty()) {
            text.extend(left_out(format, from.0, lines));
        }
        // With nobody to read it, a line is no reason to end.
        let _ = out.write_all(&text);
        text.clear();
        flushed.drain(..).for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    };

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use super::*;

    /// The place that `log` logs from.
    fn place(log: impl Fn()) -> &'static Metadata<'static> {
        struct Keeper(Arc<Mutex<Option<&'static Metadata<'static>>>>);
        impl<S: tracing::Subscriber> Layer<S> for Keeper {
            fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
                *self.0.lock().expect("not poisoned") = Some(event.metadata());
            }
        }
        let kept = Arc::new(Mutex::new(None));
        let logging = tracing_subscriber::registry().with(Keeper(Arc::clone(&kept)));
        tracing::subscriber::with_default(logging, log);
        let place = *kept.lock().expect("not poisoned");
        place.expect("it logs")
    }

    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes a write only when it is let.
    struct Gate {
        entered: Sender<()>,
        leave: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.entered.send(()).expect("the test waits");
            self.leave.recv().expect("the test lets it go");
            self.written.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_and_what_does_not_fit_is_counted() {
        let ((entered, has_entered), (let_go, leave)) = (channel(), channel());
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start(Gate { entered, leave, written: Arc::clone(&written) }, LogFormat::Json);
        let place = place(|| tracing::debug!("details are never left out"));
        lines.add(place, b"first\n".to_vec());
        has_entered.recv().expect("the thread is stuck in a write");
        for _ in 0..QUEUE + 7 {
            lines.add(place, b"more\n".to_vec());
        }
        assert_eq!(lines.dropped(), 7);
        (0..2).for_each(|_| let_go.send(()).expect("the thread waits for it"));
        lines.flush();
        let written = written.lock().expect("not poisoned");
        assert_eq!(written.len(), 6 + 5 * QUEUE, "what was in the queue came, in one write");
        assert!(written.starts_with(b"first\nmore\n"));
    }

    #[test]
    fn a_flush_waits_for_what_was_logged_before() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start(Memory(Arc::clone(&written)), LogFormat::Json);
        let place = place(|| tracing::debug!("one"));
        for n in 0..100 {
            lines.add(place, format!("{n}\n").into_bytes());
        }
        lines.flush();
        assert!(written.lock().expect("not poisoned").ends_with(b"99\n"));
    }

    #[test]
    fn a_flood_from_one_place_is_cut_and_told_of_and_others_are_heard() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start(Memory(Arc::clone(&written)), LogFormat::Json);
        let (flood, other) = (place(|| tracing::error!("flood")), place(|| tracing::info!("other")));
        for _ in 0..1000 {
            lines.add(flood, b"flood\n".to_vec());
        }
        lines.add(other, b"other\n".to_vec());
        lines.flush();
        let written = String::from_utf8(written.lock().expect("not poisoned").clone()).expect("UTF-8");
        let seen = written.lines().filter(|line| *line == "flood").count() as u64;
        assert!(seen < 1000 && written.contains("other\n"), "{written}");
        // The flush may come in two parts, and so may the count.
        let told: u64 = written
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|line| line["lines"].as_u64())
            .sum();
        assert_eq!(seen + told, 1000, "{written}");
        assert!(written.contains(r#""level":"ERROR","component":"server::telemetry::lines::tests""#), "{written}");
    }
}
