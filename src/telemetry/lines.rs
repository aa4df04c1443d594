//! The way of log lines to stderr: over a bounded queue and a thread of its own.
//!
//! Invariant: who logs never waits for who reads. A pipe that nobody empties, or a file on a disk that is busy with the log of
//! records, would otherwise hold up the shard or the control plane in the middle of its work. What finds the queue full is
//! dropped and counted.

use std::{
    io::{self, Write},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at most.
const QUEUE: usize = 4096;
/// Bytes that are written at once at most, unless a line is longer.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// How long the end waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
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
    pub(super) fn start(out: impl Write + Send + 'static) -> Self {
        let (queue, lines) = bounded(QUEUE);
        let started = thread::Builder::new().name("log".into()).spawn(move || write(&lines, out));
        if let Err(error) = started {
            // With nobody to read it, there is nobody to tell.
            let _ = writeln!(io::stderr(), "ttdust: there will be no log: {error}");
        }
        Self { queue, dropped: AtomicU64::new(0) }
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

/// One call is one line: the subscriber formats an event whole before it writes it.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static Lines {
    type Writer = &'static Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Writes what comes, as much at once as is there.
fn write(lines: &Receiver<Message>, mut out: impl Write) {
    let mut text = Vec::new();
    let mut flushed = Vec::new();
    while let Ok(first) = lines.recv() {
        for message in std::iter::once(first).chain(lines.try_iter()) {
            match message {
                Message::Line(line) => text.extend_from_slice(&line),
                Message::Flush(done) => flushed.push(done),
            }
            if text.len() >= WRITE_BYTES_MAX {
                break;
            }
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

    use super::*;

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
        let lines = Lines::start(Gate { entered, leave, written: Arc::clone(&written) });
        (&lines).write_all(b"first\n").expect("never fails");
        has_entered.recv().expect("the thread is stuck in a write");
        for _ in 0..QUEUE + 7 {
            (&lines).write_all(b"more\n").expect("never fails");
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
        let lines = Lines::start(Memory(Arc::clone(&written)));
        for n in 0..100 {
            writeln!(&lines, "{n}").expect("never fails");
        }
        lines.flush();
        assert!(written.lock().expect("not poisoned").ends_with(b"99\n"));
    }
}
