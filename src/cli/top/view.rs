//! What is shown of a look: lines of a screen for people, tables for scripts.

use std::time::Duration;

use super::{
    figures::ShardFigures,
    keys::Key,
    poll::{Frame, StreamFigures},
    screen::{Line, Look},
};
use crate::cli::{
    output::cut,
    text::{count, plain},
};

/// What there is to show.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The last look that came through.
    pub(super) frame: Option<Frame>,
    /// For how long the server has been away, and why.
    pub(super) away: Option<(Duration, String)>,
}

/// What is asked for by a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Quit,
    Interrupt,
    Draw,
}

/// An order of the rows, highest first; none: as they are.
struct Sort {
    name: &'static str,
    shards: Option<fn(&ShardFigures) -> f64>,
    streams: Option<fn(&StreamFigures) -> f64>,
}

const SORTS: [Sort; 6] = [
    Sort { name: "usual", shards: None, streams: None },
    Sort {
        name: "records/s",
        shards: Some(|shard| shard.records_per_second.unwrap_or(0.0)),
        streams: Some(|stream| stream.minute_records_per_second.unwrap_or(0.0)),
    },
    Sort {
        name: "MB/s",
        shards: Some(|shard| shard.mb_per_second.unwrap_or(0.0)),
        streams: Some(|stream| stream.minute_mb_per_second.unwrap_or(0.0)),
    },
    Sort {
        name: "unflushed",
        shards: Some(|shard| shard.unflushed_records as f64),
        streams: Some(|stream| stream.unflushed_records.unwrap_or(0) as f64),
    },
    Sort { name: "ack p99", shards: Some(|shard| shard.ack_p99_ms.unwrap_or(0.0)), streams: None },
    Sort { name: "errors/s", shards: Some(|shard| shard.errors_per_second.unwrap_or(0.0)), streams: None },
];

/// How the user wants to see it.
#[derive(Debug, Default)]
pub(super) struct View {
    sort: usize,
    /// Rows of the body that are above the screen.
    above: usize,
    /// Rows of the body that there was room for.
    room: usize,
    pub(super) paused: bool,
}

impl View {
    /// Takes a key; none: it means nothing here.
    pub(super) fn press(&mut self, key: Key) -> Option<Act> {
        let page = self.room.max(1);
        match key {
            Key::Char('q' | 'Q') => return Some(Act::Quit),
            // Ctrl-C: the terminal makes no signal of it.
            Key::Char('\u{3}') => return Some(Act::Interrupt),
            Key::Char('s') | Key::Right => self.sort = (self.sort + 1) % SORTS.len(),
            Key::Left => self.sort = (self.sort + SORTS.len() - 1) % SORTS.len(),
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Up => self.above = self.above.saturating_sub(1),
            Key::PageUp => self.above = self.above.saturating_sub(page),
            Key::Home => self.above = 0,
            // The next drawing knows where the end is.
            Key::Down => self.above = self.above.saturating_add(1),
            Key::PageDown => self.above = self.above.saturating_add(page),
            Key::End => self.above = usize::MAX,
            Key::Char(_) => return None,
        }
        Some(Act::Draw)
    }

    /// The screen, of so many columns and lines.
    pub(super) fn lines(&mut self, shown: &Shown, columns: usize, height: usize) -> Vec<Line> {
        let mut lines = head(shown, self.paused);
        let body = shown.frame.as_ref().map_or_else(Vec::new, |frame| self.body(frame));
        self.room = height.saturating_sub(lines.len() + 1);
        self.above = self.above.min(body.len().saturating_sub(self.room));
        let below = body.len().saturating_sub(self.above + self.room);
        lines.extend(body.into_iter().skip(self.above).take(self.room));
        let more = if below > 0 { format!("  {below} more below") } else { String::new() };
        let foot = format!(" q quit  s sort: {}  p pause  ↑↓ scroll{more}", SORTS[self.sort].name);
        while lines.len() + 1 < height {
            lines.push(line(String::new(), Look::Plain));
        }
        lines.truncate(height.saturating_sub(1));
        lines.push(line(foot, Look::Reverse));
        for line in &mut lines {
            line.text = cut(&line.text, columns);
            if line.look == Look::Reverse {
                line.text = format!("{:columns$}", line.text);
            }
        }
        lines
    }

    fn body(&self, frame: &Frame) -> Vec<Line> {
        let sort = &SORTS[self.sort];
        let mut shards: Vec<_> = frame.shards.iter().collect();
        if let Some(by) = sort.shards {
            shards.sort_by(|one, other| by(other).total_cmp(&by(one)));
        }
        let mut streams: Vec<_> = frame.streams.iter().collect();
        if let Some(by) = sort.streams {
            streams.sort_by(|one, other| by(other).total_cmp(&by(one)));
        }
        let mut body = vec![line(String::new(), Look::Plain)];
        body.extend(aligned(&SHARD_TITLES, shards.into_iter().map(shard_cells).collect()));
        if frame.streams_known.is_some() {
            body.push(line(String::new(), Look::Plain));
            body.extend(aligned(&STREAM_TITLES, streams.into_iter().map(stream_cells).collect()));
            let (seen, known) = (frame.streams.len(), frame.streams_known.unwrap_or(0));
            if seen < known {
                let more = format!("{seen} of {known} streams looked at so far; --streams asks after more at a time");
                body.push(line(more, Look::Plain));
            }
        }
        body
    }
}

const SHARD_TITLES: [&str; 11] =
    ["SHARD", "RECORDS/S", "MB/S", "P50 MS", "P99 MS", "BUSY", "QUEUE", "BUFFER", "WAL", "LAG", "ERR/S"];
const STREAM_TITLES: [&str; 8] = ["STREAM", "SHARD", "RECORDS/S", "1 MIN", "MB/S", "UNFLUSHED", "LAG", "FILES"];

fn shard_cells(shard: &ShardFigures) -> Vec<String> {
    vec![
        shard.shard.map_or_else(|| "all".to_owned(), |number| number.to_string()),
        rate(shard.records_per_second),
        decimal(shard.mb_per_second),
        millis(shard.ack_p50_ms),
        millis(shard.ack_p99_ms),
        format!("{:.0}%", shard.busy * 100.0),
        count(shard.queue_depth),
        short(shard.buffer_bytes),
        of_quota(shard),
        span(shard.flush_lag_seconds),
        decimal(shard.errors_per_second),
    ]
}

fn stream_cells(stream: &StreamFigures) -> Vec<String> {
    vec![
        plain(&stream.stream),
        stream.shard.map_or_else(|| "-".to_owned(), |shard| shard.to_string()),
        rate(stream.records_per_second),
        rate(stream.minute_records_per_second),
        decimal(stream.minute_mb_per_second),
        stream.unflushed_records.map_or_else(|| "-".to_owned(), count),
        span(stream.flush_lag_seconds),
        count(stream.files),
    ]
}

fn of_quota(shard: &ShardFigures) -> String {
    let used = short(shard.wal_used_bytes);
    shard.wal_quota_bytes.map_or_else(|| used.clone(), |quota| format!("{used}/{}", short(quota)))
}

fn line(text: String, look: Look) -> Line {
    Line { text, look }
}

/// Titles and rows; the first column is a name, the others are numbers.
fn aligned(titles: &[&str], rows: Vec<Vec<String>>) -> Vec<Line> {
    let mut widths: Vec<_> = titles.iter().map(|title| title.len()).collect();
    for row in &rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(cell.chars().count());
        }
    }
    let put = |cells: Vec<&str>| {
        let padded =
            cells.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| {
                if at == 0 { format!("{cell:width$}") } else { format!(" {cell:>width$}") }
            });
        padded.collect::<String>()
    };
    let head = line(put(titles.to_vec()), Look::Bold);
    let rows = rows.iter().map(|row| line(put(row.iter().map(String::as_str).collect()), Look::Plain));
    std::iter::once(head).chain(rows).collect()
}

/// What stands above the rows.
fn head(shown: &Shown, paused: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    let pause = if paused { "  PAUSED" } else { "" };
    match &shown.frame {
        None => lines.push(line(format!(" ttdust top{pause}"), Look::Reverse)),
        Some(frame) => {
            let clock = frame.time.get(11..19).unwrap_or(&frame.time);
            let status = if shown.away.is_some() { "AWAY" } else { frame.status.as_str() };
            let first = format!(
                " ttdust {}  {}  {}  I/O {}  {clock} UTC{pause}",
                plain(&frame.version),
                plain(&frame.endpoint),
                plain(status),
                plain(&frame.io_backend)
            );
            lines.push(line(first, Look::Reverse));
            lines.extend(totals(frame));
        }
    }
    if let Some((since, why)) = &shown.away {
        let from = if shown.frame.is_some() { "; what is below is from before" } else { "" };
        let text = format!("no answer for {}: {}{from}", span(Some(since.as_secs_f64())), plain(why));
        lines.push(line(text, Look::Alert));
    }
    if let Some(frame) = shown.frame.as_ref().filter(|_| shown.away.is_none()) {
        let down = frame.down.iter().map(|(part, why)| format!("{part} is down: {why}"));
        lines.extend(down.chain(frame.notes.iter().cloned()).map(|text| line(plain(&text), Look::Alert)));
    } else if shown.away.is_none() {
        lines.push(line("waiting for the first answer".to_owned(), Look::Plain));
    }
    lines
}

fn totals(frame: &Frame) -> [Line; 2] {
    let (total, process) = (&frame.total, &frame.process);
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), count);
    let first = format!(
        "{} records/s  {} MB/s  ack p50 {} p99 {} ms  {} errors/s",
        rate(total.records_per_second),
        decimal(total.mb_per_second),
        millis(total.ack_p50_ms),
        millis(total.ack_p99_ms),
        decimal(total.errors_per_second)
    );
    let second = format!(
        "{} unflushed  log {}  memory {}  {} cores busy  {} gRPC, {} REST connections  {} tails",
        count(total.unflushed_records),
        of_quota(total),
        process.resident_bytes.map_or_else(|| "-".to_owned(), short),
        process.cores_busy.map_or_else(|| "-".to_owned(), |cores| format!("{cores:.2}")),
        known(process.grpc_connections),
        known(process.http_connections),
        known(process.tails)
    );
    [line(first, Look::Plain), line(second, Look::Plain)]
}

/// Titles and rows for scripts: whole numbers and no units; `-`: not known.
pub(super) fn tables(frame: &Frame) -> [(Vec<String>, Vec<Vec<String>>); 2] {
    let titles = |titles: &[&str]| titles.iter().map(|&title| title.to_owned()).collect();
    let shards = "SHARD,RECORDS/S,MB/S,ACK P50 MS,ACK P99 MS,BUSY,QUEUE,BUFFER BYTES,WAL BYTES,WAL QUOTA,UNFLUSHED,LAG S,ERRORS/S";
    let streams = "STREAM,SHARD,RECORDS/S,1 MIN RECORDS/S,1 MIN MB/S,BUFFER BYTES,UNFLUSHED,LAG S,FILES";
    let rows = frame.shards.iter().chain([&frame.total]).map(shard_numbers).collect();
    let of_streams = frame.streams.iter().map(stream_numbers).collect();
    [
        (titles(&shards.split(',').collect::<Vec<_>>()), rows),
        (titles(&streams.split(',').collect::<Vec<_>>()), of_streams),
    ]
}

fn float(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.3}"))
}

fn integer(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn shard_numbers(shard: &ShardFigures) -> Vec<String> {
    vec![
        shard.shard.map_or_else(|| "all".to_owned(), |number| number.to_string()),
        float(shard.records_per_second),
        float(shard.mb_per_second),
        float(shard.ack_p50_ms),
        float(shard.ack_p99_ms),
        float(Some(shard.busy)),
        shard.queue_depth.to_string(),
        shard.buffer_bytes.to_string(),
        shard.wal_used_bytes.to_string(),
        integer(shard.wal_quota_bytes),
        shard.unflushed_records.to_string(),
        float(shard.flush_lag_seconds),
        float(shard.errors_per_second),
    ]
}

fn stream_numbers(stream: &StreamFigures) -> Vec<String> {
    vec![
        plain(&stream.stream),
        stream.shard.map_or_else(|| "-".to_owned(), |shard| shard.to_string()),
        float(stream.records_per_second),
        float(stream.minute_records_per_second),
        float(stream.minute_mb_per_second),
        integer(stream.buffered_bytes),
        integer(stream.unflushed_records),
        float(stream.flush_lag_seconds),
        stream.files.to_string(),
    ]
}

fn rate(rate: Option<f64>) -> String {
    match rate {
        Some(rate) if rate >= 100.0 => count(rate.round() as u64),
        other => decimal(other),
    }
}

fn decimal(number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(number) => format!("{number:.1}"),
    }
}

fn millis(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.2}"),
        Some(ms) if ms < 100.0 => format!("{ms:.1}"),
        Some(ms) => format!("{ms:.0}"),
    }
}

/// A length of time in at most four characters or so.
fn span(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 10.0 => format!("{seconds:.1}s"),
        Some(seconds) if seconds < 600.0 => format!("{seconds:.0}s"),
        Some(seconds) if seconds < 36_000.0 => format!("{:.0}m", seconds / 60.0),
        Some(seconds) => format!("{:.0}h", seconds / 3600.0),
    }
}

/// Bytes in at most five characters.
fn short(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["", "K", "M", "G", "T"] {
        if amount < 1000.0 || unit == "T" {
            return if unit.is_empty() || amount >= 10.0 {
                format!("{amount:.0}{unit}")
            } else {
                format!("{amount:.1}{unit}")
            };
        }
        amount /= 1024.0;
    }
    unreachable!("the last unit takes all")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(shards: u32) -> Frame {
        let shard = |number: u32| ShardFigures {
            shard: Some(number),
            records_per_second: Some(1_000_000.4 * f64::from(number)),
            mb_per_second: Some(318.0),
            ack_p50_ms: Some(4.123),
            ack_p99_ms: Some(12.0),
            busy: 0.97,
            queue_depth: 3,
            buffer_bytes: 40 << 20,
            wal_used_bytes: 5 << 28,
            wal_quota_bytes: Some(6 << 30),
            unflushed_records: u64::from(shards - number),
            flush_lag_seconds: None,
            errors_per_second: Some(0.0),
        };
        let stream = |name: &str, minute| StreamFigures {
            stream: name.to_owned(),
            minute_records_per_second: Some(minute),
            ..StreamFigures::default()
        };
        Frame {
            time: "2026-11-30T12:34:56.000000Z".into(),
            endpoint: "http://dust".into(),
            version: "0.1.0".into(),
            status: "ok".into(),
            io_backend: "uring".into(),
            shards: (0..shards).map(shard).collect(),
            streams: vec![stream("one", 1.0), stream("two\u{1b}[31m", 2.0)],
            streams_known: Some(3),
            ..Frame::default()
        }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.trim_end()).collect()
    }

    fn shown(shards: u32) -> Shown {
        Shown { frame: Some(frame(shards)), away: None }
    }

    #[test]
    fn a_screen_has_head_shards_streams_and_foot() {
        let lines = View::default().lines(&shown(2), 80, 24);
        let texts = texts(&lines);
        assert_eq!(lines.len(), 24);
        assert!(lines.iter().all(|line| line.text.chars().count() <= 80));
        assert_eq!(texts[0], " ttdust 0.1.0  http://dust  ok  I/O uring  12:34:56 UTC");
        let row = texts.iter().find(|text| text.starts_with("1 ")).expect("shard 1");
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["1", "1,000,000", "318.0", "4.12", "12.0", "97%", "3", "40M", "1.2G/6.0G", "-", "0"]
        );
        assert!(
            texts.iter().any(|text| text.starts_with("two\\u{1b}[31m")),
            "nothing commands the terminal: {texts:#?}"
        );
        assert!(texts.iter().any(|text| text.contains("2 of 3 streams")));
        assert!(texts[23].starts_with(" q quit"));
    }

    #[test]
    fn rows_scroll_and_no_screen_is_too_small() {
        let (mut view, shown) = (View::default(), shown(50));
        let first = |view: &mut View| {
            let lines = view.lines(&shown, 80, 12);
            assert_eq!(lines.len(), 12);
            (texts(&lines)[4].to_owned(), texts(&lines)[11].to_owned())
        };
        assert!(first(&mut view).0.starts_with("SHARD"));
        view.press(Key::Down);
        view.press(Key::Down);
        assert!(first(&mut view).0.starts_with("1 "));
        view.press(Key::PageDown);
        assert!(first(&mut view).0.starts_with("9 "));
        view.press(Key::End);
        assert!(!first(&mut view).1.contains("more below"));
        view.press(Key::Up);
        assert!(first(&mut view).1.contains("1 more below"), "the end is where the last row is");
        view.press(Key::Home);
        assert!(first(&mut view).0.starts_with("SHARD"));
        for (columns, height) in [(1, 1), (10, 2), (3, 5)] {
            let lines = view.lines(&shown, columns, height);
            assert_eq!(lines.len(), height);
            assert!(lines.iter().all(|line| line.text.chars().count() <= columns));
        }
    }

    #[test]
    fn keys_sort_pause_and_quit() {
        let (mut view, shown) = (View::default(), shown(3));
        let order = |view: &mut View| -> String {
            let lines = view.lines(&shown, 100, 30);
            let is_shard = |text: &&str| text.split_whitespace().count() == SHARD_TITLES.len() && text.contains('%');
            texts(&lines).into_iter().filter(is_shard).map(|text| &text[..1]).collect()
        };
        assert_eq!(order(&mut view), "012");
        assert_eq!(view.press(Key::Char('s')), Some(Act::Draw));
        assert_eq!(order(&mut view), "210", "by records/s");
        view.press(Key::Left);
        assert_eq!(order(&mut view), "012");
        for _ in 0..3 {
            view.press(Key::Right);
        }
        assert_eq!(order(&mut view), "012", "by unflushed");
        view.press(Key::Char('p'));
        assert!(texts(&view.lines(&shown, 100, 30))[0].ends_with("PAUSED"));
        assert_eq!(view.press(Key::Char('x')), None);
        assert_eq!(view.press(Key::Char('q')), Some(Act::Quit));
        assert_eq!(view.press(Key::Char('\u{3}')), Some(Act::Interrupt));
    }

    #[test]
    fn a_server_that_is_away_or_not_well_is_told_of() {
        let away = Some((Duration::from_secs(12), "cannot connect".to_owned()));
        let text = |shown: &Shown| texts(&View::default().lines(shown, 200, 30)).join("\n");
        let nothing_yet = text(&Shown { frame: None, away: away.clone() });
        assert!(nothing_yet.contains("no answer for 12s: cannot connect\n"), "{nothing_yet}");
        let gone = text(&Shown { frame: Some(frame(1)), away });
        assert!(gone.contains("AWAY") && gone.contains("from before") && gone.contains("uring"), "{gone}");
        assert!(text(&Shown::default()).contains("waiting"));
        let mut ill = frame(1);
        ill.status = "down".into();
        ill.down.insert("catalog".into(), "Postgres is away".into());
        ill.notes.push("streams are not shown: no".into());
        let ill = text(&Shown { frame: Some(ill), away: None });
        assert!(ill.contains("catalog is down: Postgres is away") && ill.contains("streams are not shown"), "{ill}");
    }

    #[test]
    fn scripts_get_whole_numbers() {
        let [(titles, rows), (of_streams, streams)] = tables(&frame(2));
        assert!(
            rows.iter().all(|row| row.len() == titles.len()) && streams.iter().all(|row| row.len() == of_streams.len())
        );
        assert_eq!(rows[1][1..4], ["1000000.400", "318.000", "4.123"]);
        assert_eq!((rows[2][0].as_str(), rows[2][1].as_str(), rows[1][8].as_str()), ("all", "-", "1342177280"));
    }

    #[test]
    fn figures_are_short() {
        for (bytes, text) in
            [(0, "0"), (999, "999"), (1000, "1.0K"), (40 << 20, "40M"), (6 << 30, "6.0G"), (u64::MAX, "16777216T")]
        {
            assert_eq!(short(bytes), text);
        }
        assert_eq!(
            (span(Some(0.04)), span(Some(59.6)), span(Some(7200.0)), span(Some(360_000.0))),
            ("0.0s".into(), "60s".into(), "120m".into(), "100h".into())
        );
        assert_eq!((rate(Some(99.94)), rate(Some(1234.5)), rate(None)), ("99.9".into(), "1,235".into(), "-".into()));
    }
}
