//! How far it has come, on a line of the terminal that is written over and over.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{delivery::Delivery, input::Input};
use crate::cli::text::{count, plain, size};

const EACH: Duration = Duration::from_millis(100);
const BAR_WIDTH: u64 = 24;

/// The line, if standard error is a terminal.
pub(super) struct Progress {
    shown: bool,
    began: Instant,
    next: tokio::time::Instant,
    records: u64,
    read: Arc<AtomicU64>,
    total: Option<u64>,
}

impl Progress {
    pub(super) fn new(input: &Input) -> Self {
        Self {
            shown: io::stderr().is_terminal(),
            began: Instant::now(),
            next: tokio::time::Instant::now() + EACH,
            records: 0,
            read: Arc::clone(&input.read),
            total: input.total,
        }
    }

    /// So many records are done.
    pub(super) fn sent(&mut self, records: u64) {
        self.records = records;
    }

    /// Writes the line now and then; where there is none, this never ends.
    pub(super) async fn tick(&mut self, delivery: &Delivery<'_>) {
        if !self.shown {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.next).await;
        self.next = tokio::time::Instant::now() + EACH;
        let seconds = self.began.elapsed().as_secs_f64();
        let line = line(self.records, seconds, self.read.load(Ordering::Relaxed), self.total);
        let line = match delivery.waits_for() {
            Some(why) => format!("{line}  waiting: {}", plain(&why)),
            None => line,
        };
        // A terminal's width is not worth asking for: what is longer than most is cut.
        let line: String = line.chars().take(110).collect();
        let _ = write!(io::stderr(), "\r\u{1b}[K{line}");
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

fn line(records: u64, seconds: f64, read: u64, total: Option<u64>) -> String {
    let rate = (records as f64 / seconds.max(0.001)) as u64;
    let done = format!("{} records  {}/s  {}", count(records), count(rate), size(read));
    let Some(total) = total.filter(|&total| total > 0) else { return done };
    let read = read.min(total);
    let filled = (read * BAR_WIDTH / total) as usize;
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(BAR_WIDTH as usize - filled));
    format!("[{bar}] {:3}%  {done}", read * 100 / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_up() {
        assert_eq!(line(1000, 2.0, 2048, None), "1,000 records  500/s  2.0 KiB");
        let half = line(1000, 2.0, 512, Some(1024));
        assert!(half.starts_with("[############------------]  50%"), "{half}");
        let over = line(1, 1.0, 2048, Some(1024));
        assert!(over.contains("100%"), "a file that grew: {over}");
        assert!(!line(0, 0.0, 0, Some(0)).contains('['), "nothing of nothing");
    }
}
