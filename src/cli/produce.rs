//! `ttdust produce`: sends the records of files or of standard input, several requests under way, each record taken once.
//!
//! Each batch has an idempotency key of its own, so a request whose outcome is not known is sent again until it is. The keys are
//! made from the run's id and the batch's number: the same run over the same files, begun again, goes on where it broke off.

mod batches;
mod delivery;
mod input;
mod progress;
mod rejects;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{sleep_until, timeout};

use super::{
    failure::{Failure, Outcome},
    output::{Form, note},
    session::Session,
    text::{parse_duration, parse_size},
};
use batches::{Batch, Batcher};
use delivery::{Delivered, Delivery};
use input::Input;
use progress::Progress;
use rejects::Rejects;

/// How long what is under way may take once the user has broken it off.
const FAREWELL: Duration = Duration::from_secs(5);

/// What to send and how.
#[derive(Args)]
pub struct Produce {
    /// The stream's name or id.
    stream: String,
    /// Files with a JSON record a line, plain, gzip or zstd; -, or none: standard input.
    files: Vec<PathBuf>,
    /// What becomes of the good records of a batch with bad ones: skip (they are taken, and the bad ones told of), dlq (the same,
    /// and the bad ones become dead letters of the stream), or atomic (none is taken, and it ends there).
    #[arg(long, value_enum, default_value_t = OnInvalid::Skip, hide_possible_values = true)]
    on_invalid: OnInvalid,
    /// Write the records that were refused to this file, each with its place and the reasons, as JSON lines.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Records in a request, at most.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    batch_records: u32,
    /// Bytes in a request, at most.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_size)]
    batch_bytes: u64,
    /// How long a record from standard input waits for others to go with.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    linger: Duration,
    /// Requests under way.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    in_flight: u16,
    /// Keep the order of the records: one request at a time.
    #[arg(long, conflicts_with = "in_flight")]
    ordered: bool,
    /// How long to try a batch again while the server is busy or away.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    retry_for: Duration,
    /// This run's id: the same run again, with the same files and batches, takes no record twice. Default: a new one.
    #[arg(long, value_name = "ID", value_parser = run_id)]
    run_id: Option<String>,
    /// Metadata that is kept with each record; may be given again.
    #[arg(long = "metadata", value_name = "NAME=VALUE", value_parser = super::streams::label)]
    metadata: Vec<(String, String)>,
}

/// What becomes of the good records of a batch with bad ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnInvalid {
    /// They are taken.
    Skip,
    /// They are taken, and the bad ones are dead letters.
    Dlq,
    /// None is.
    Atomic,
}

fn run_id(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'));
    if text.is_empty() || text.len() > 128 || !plain {
        return Err("want up to 128 letters, digits and -_.:".to_owned());
    }
    Ok(text.to_owned())
}

/// How far a run has come.
#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    /// Taken now.
    accepted: u64,
    /// Taken by an earlier try.
    duplicates: u64,
    /// Refused.
    rejected: u64,
    /// Kept by the server as dead letters.
    dead_lettered: u64,
}

impl Totals {
    fn records(&self) -> u64 {
        self.accepted + self.duplicates + self.rejected + self.dead_lettered
    }

    fn add(&mut self, delivered: &Delivered) {
        self.accepted += delivered.accepted;
        self.duplicates += delivered.duplicates;
        self.rejected += delivered.rejected;
        self.dead_lettered += delivered.dead_lettered;
    }
}

/// Sends all that there is.
pub(super) async fn run(produce: Produce, session: &mut Session) -> Outcome {
    let began = Instant::now();
    let id = produce.run_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let input = input::start(produce.files.clone())?;
    let can_be_repeated = !input.is_live;
    let rejects = Rejects::create(produce.rejects.as_deref(), input.names.clone())?;
    let delivery = Delivery::new(&session.api, &produce, &id)?;
    let progress = Progress::new(&input);
    let mut run = Run { produce: &produce, delivery: &delivery, rejects, progress, totals: Totals::default() };
    let outcome = run.all(input).await;
    let Run { totals, rejects, mut progress, .. } = run;
    progress.end();
    let told = rejects.end();
    tell(session, &totals, began.elapsed())?;
    told?;
    match outcome {
        Ok(()) if totals.rejected > 0 => Err(Failure::Partly),
        Ok(()) => Ok(()),
        Err(failure) => {
            if can_be_repeated {
                note(&format!("to go on where it broke off: the same command with --run-id {id}"));
            }
            Err(failure)
        }
    }
}

/// A run under way.
struct Run<'a> {
    produce: &'a Produce,
    delivery: &'a Delivery<'a>,
    rejects: Rejects,
    progress: Progress,
    totals: Totals,
}

impl Run<'_> {
    /// Sends all of the input, or until it cannot go on. What is under way then is still waited for.
    async fn all(&mut self, mut input: Input) -> Outcome {
        let delivery = self.delivery;
        let at_once = if self.produce.ordered { 1 } else { usize::from(self.produce.in_flight) };
        // A run that is named must make the same batches again, so that no time is in them.
        let linger = (input.is_live && self.produce.run_id.is_none()).then_some(self.produce.linger);
        let bytes_max = usize::try_from(self.produce.batch_bytes).unwrap_or(usize::MAX);
        let mut batcher = Batcher::new(self.produce.batch_records as usize, bytes_max);
        let mut under_way = FuturesUnordered::new();
        let (mut at_end, mut due) = (false, None);
        let mut broken_off = std::pin::pin!(tokio::signal::ctrl_c());
        let outcome = loop {
            while under_way.len() < at_once
                && let Some(batch) = batcher.take()
            {
                under_way.push(delivery.deliver(batch));
            }
            if at_end && under_way.is_empty() {
                break Ok(());
            }
            let wake = due.filter(|_| batcher.is_filling());
            tokio::select! {
                piece = input.pieces.recv(), if !at_end && !batcher.has_ready() => match piece {
                    Some(Ok(piece)) => {
                        batcher.push(&piece);
                        due = due.filter(|_| batcher.is_filling() && !batcher.has_ready())
                            .or_else(|| Some(tokio::time::Instant::now() + linger?));
                    }
                    Some(Err(failure)) => break Err(failure),
                    None => {
                        at_end = true;
                        batcher.cut();
                    }
                },
                () = sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)), if wake.is_some() => {
                    batcher.cut();
                    due = None;
                }
                Some((batch, delivered)) = under_way.next(), if !under_way.is_empty() => {
                    if let Err(failure) = self.done(&batch, delivered).await {
                        break Err(failure);
                    }
                }
                () = self.progress.tick(delivery) => {}
                _ = &mut broken_off => break Err(Failure::Interrupted),
            }
        };
        if outcome.is_err() {
            delivery.no_more_tries();
            // Each of these may be taken or not: what is known of them belongs into the sum.
            let rest = async {
                while let Some((batch, delivered)) = under_way.next().await {
                    // The first failure is the one that is told.
                    let _ = self.done(&batch, delivered).await;
                }
            };
            let _ = timeout(FAREWELL, rest).await;
        }
        outcome
    }

    /// Counts a batch in, and tells of what was refused of it.
    async fn done(&mut self, batch: &Batch, delivered: Result<Delivered, Failure>) -> Outcome {
        let delivered = delivered?;
        self.totals.add(&delivered);
        self.progress.sent(self.totals.records());
        if delivered.bad() > 0 {
            let rows = if self.rejects.are_kept() {
                self.delivery.all_errors(batch, delivered).await
            } else {
                delivered.row_errors
            };
            self.rejects.add(batch, &rows)?;
        }
        Ok(())
    }
}

/// Tells how it went: on standard output for programs, on standard error for people.
fn tell(session: &mut Session, totals: &Totals, took: Duration) -> Outcome {
    use super::text::count;
    let seconds = took.as_secs_f64();
    if session.output.form == Form::Json {
        let summary = serde_json::json!({
            "records": totals.records(),
            "accepted": totals.accepted,
            "duplicates": totals.duplicates,
            "rejected": totals.rejected,
            "dead_lettered": totals.dead_lettered,
            "seconds": (seconds * 1000.0).round() / 1000.0,
        });
        session.output.json(&summary.to_string())?;
        return session.output.flush();
    }
    let rate = (totals.records() as f64 / seconds.max(0.001)) as u64;
    let noun = if totals.records() == 1 { "record" } else { "records" };
    let mut text = format!("{} {noun} in {seconds:.1} s ({} a second)", count(totals.records()), count(rate));
    for (number, what) in [
        (totals.duplicates, "taken before"),
        (totals.dead_lettered, "among the dead letters"),
        (totals.rejected, "refused"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {} of them {what}", count(number)));
        }
    }
    note(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_s_id_is_a_plain_word() {
        assert!(run_id("load-2026.11:a_b").is_ok());
        for text in ["", "a b", "a/b", "é", &"x".repeat(129)] {
            assert!(run_id(text).is_err(), "{text}");
        }
    }
}
