//! One run of an import, on a thread that may block: rows are read, checked, sent, and counted once their fate is known.
//!
//! Requests are settled in the order in which they were sent, so what the progress says is always a beginning of the objects. A
//! request that is refused for now is sent again with all that came after it, which its numbers have had refused too.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use bytes::Bytes;
use ttdust_proto::ingestion::{AppendResponse, OnInvalid};
use ttdust_shards::{ids::StreamId, rows::takes_records, snapshot::StreamEntry, status::Status};

use super::{
    Format, ImportParts, Progress, Row, Rows, Spec, SpecError,
    input::Broken,
    listing::Object,
    opening::{self, Form},
    pace::Pace,
    resting::Patience,
    spec::Options,
};
use crate::{
    catalog::Job,
    objects::ForeignObjects,
    producer::{Checked, Numbers, Producer, Records, Sent, Source, pause},
};

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// All objects are read.
    Done,
    /// It was called off.
    Cancelled,
    /// It cannot go on, and so neither can the job.
    Failed(String),
    /// The next run goes on, soon.
    Later,
    /// It waits for this, and gives its place to others meanwhile; the next run goes on.
    Waits(String),
}

/// See the file's comment.
#[derive(Debug)]
pub(super) struct Run {
    producer: Arc<Producer>,
    stream: StreamId,
    writer: Bytes,
    format: Format,
    options: Options,
    objects: Vec<Object>,
    /// The bucket that they are in; `None`: they are on this machine.
    bucket: Option<ForeignObjects>,
}

/// A request that is under way, and what it takes to send it again.
#[derive(Debug)]
struct Request {
    payloads: Vec<Bytes>,
    /// The line of each.
    lines: Vec<u64>,
    /// Rows of the object, from the request before on, that are no records; they are counted with it.
    bad: Vec<Row>,
    first: u64,
    sent: Sent,
    at: Instant,
}

/// What a run works on: what is under way, and who looks on.
struct Way<'r> {
    progress: &'r Mutex<Progress>,
    is_over: &'r dyn Fn() -> bool,
    requests: VecDeque<Request>,
    pace: Pace,
    patience: Patience,
    epoch: u64,
    /// The number of the next record that is sent.
    next: u64,
}

impl Run {
    pub(super) fn new(
        parts: &ImportParts,
        job: &Job,
        spec: &Spec,
        (objects, bucket): (Vec<Object>, Option<ForeignObjects>),
    ) -> Result<Self, SpecError> {
        Ok(Self {
            producer: Arc::clone(&parts.producer),
            stream: job.stream,
            writer: Bytes::from(job.id.clone()),
            format: spec.format,
            options: spec.options()?,
            objects,
            bucket,
        })
    }

    /// Goes on from where `progress` says, until all is read or `is_over`.
    pub(super) fn to_the_end(&self, progress: &Mutex<Progress>, is_over: &dyn Fn() -> bool) -> End {
        let begun = progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pace = Pace::new(self.producer.sent_by_clients());
        let mut way = Way {
            progress,
            is_over,
            requests: VecDeque::new(),
            pace,
            patience: Patience::default(),
            epoch: begun.runs,
            next: begun.numbers,
        };
        let mut rows = begun.rows;
        for object in &self.objects[begun.objects_done.min(self.objects.len())..] {
            if let Err(end) = self.read(object, std::mem::take(&mut rows), &mut way) {
                return end;
            }
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.objects_done += 1;
            progress.rows = 0;
        }
        End::Done
    }

    /// Reads an object after its first `done` rows, to its end.
    fn read(&self, object: &Object, mut done: u64, way: &mut Way<'_>) -> Result<(), End> {
        let broken = |broken: Broken| End::Failed(format!("{}: {broken}", object.name));
        let mut reader = self.open(object).map_err(broken)?;
        loop {
            let next = reader.next();
            // What came before a fault is settled first, so that it is told how far the import came.
            let mut rows = match next {
                Ok(rows) if rows.is_empty() => return self.settle_all(object, way),
                Ok(rows) => rows,
                Err(fault) => {
                    self.settle_all(object, way)?;
                    return Err(broken(fault));
                }
            };
            let skipped = usize::try_from(done).unwrap_or(usize::MAX).min(rows.len());
            drop(rows.drain(..skipped));
            done -= skipped as u64;
            let mut rows = rows.into_iter().peekable();
            while rows.peek().is_some() {
                if (way.is_over)() {
                    self.settle_all(object, way)?;
                    return Err(End::Cancelled);
                }
                let window = way.pace.window(Instant::now(), || self.producer.sent_by_clients());
                while way.requests.len() >= window.requests {
                    self.settle_first(object, way)?;
                }
                let part: Vec<Row> = rows.by_ref().take(window.records).collect();
                self.send(part, way)?;
            }
        }
    }

    fn open(&self, object: &Object) -> Result<Box<dyn Rows>, Broken> {
        let source = object.open(self.bucket.as_ref())?;
        let stream = self.producer.stream(self.stream).map_err(|status| Broken(status.message))?;
        let form = Form { definition: &stream.schema.definition, bytes_max: self.producer.limits().record_bytes };
        opening::open(source, Path::new(&object.name), (self.format, &self.options), form)
    }

    fn send(&self, rows: Vec<Row>, way: &mut Way<'_>) -> Result<(), End> {
        let (mut payloads, mut lines, mut bad) =
            (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match row.payload {
                Ok(payload) => {
                    payloads.push(payload);
                    lines.push(row.line);
                }
                Err(_) => bad.push(row),
            }
        }
        let first = way.next;
        way.next += payloads.len() as u64;
        let sent = self.submit(&payloads, first, way)?;
        way.requests.push_back(Request { payloads, lines, bad, first, sent, at: Instant::now() });
        Ok(())
    }

    fn submit(&self, payloads: &[Bytes], first: u64, way: &Way<'_>) -> Result<Sent, End> {
        let stream = self.stream(way)?;
        let records = Records {
            payloads: payloads.to_vec(),
            on_invalid: OnInvalid::Skip,
            // A request of no records would take no number: it need not be a writer's.
            numbers: (!payloads.is_empty()).then(|| Numbers { writer: self.writer.clone(), epoch: way.epoch, first }),
            ..Records::default()
        };
        Ok(self.producer.send(Checked::of(&stream, None, self.producer.limits(), records)))
    }

    /// The stream, if it takes records. What is under way when it does not is sent again by the next run, whose numbers are the same.
    fn stream(&self, way: &Way<'_>) -> Result<Arc<StreamEntry>, End> {
        let stream = self.producer.stream(self.stream).map_err(|status| End::Failed(status.message))?;
        match takes_records(&stream) {
            Ok(()) => {
                way.wait_for(None);
                Ok(stream)
            }
            Err(status) if status.reason == "STREAM_PAUSED" => Err(End::Waits(status.message)),
            Err(status) => Err(End::Failed(status.message)),
        }
    }

    fn settle_all(&self, object: &Object, way: &mut Way<'_>) -> Result<(), End> {
        while !way.requests.is_empty() {
            self.settle_first(object, way)?;
        }
        Ok(())
    }

    /// Waits for what becomes of the oldest request, and counts it.
    fn settle_first(&self, object: &Object, way: &mut Way<'_>) -> Result<(), End> {
        while let Some(request) = way.requests.pop_front() {
            let Request { payloads, lines, bad, first, sent, at } = request;
            let answer = sent.wait();
            self.producer.count(Source::Import, payloads.len() as u32, &answer);
            let status = match answer {
                Ok(answer) => {
                    self.count(object, way, &answer, &lines, bad)?;
                    way.patience.renew();
                    way.pace.give_way(at.elapsed(), || self.producer.sent_by_clients());
                    return Ok(());
                }
                Err(status) => status,
            };
            match status.reason {
                // Another run of the job is at work, or this server is at its end.
                "WRITER_FENCED" => return Err(End::Later),
                _ if is_for_later(&status) => return Err(End::Later),
                "TOO_MANY_WRITERS" => {
                    return Err(End::Failed(format!("{}: an import is one of them", status.message)));
                }
                "STREAM_PAUSED" => return Err(End::Waits(status.message)),
                _ if pause(&status).is_some() => {
                    self.send_again(Again { payloads, lines, bad, first }, &status, way)?;
                }
                _ => return Err(End::Failed(status.message)),
            }
        }
        Ok(())
    }

    /// Sends a request again that was refused for now, and all that were sent after it.
    fn send_again(&self, refused: Again, status: &Status, way: &mut Way<'_>) -> Result<(), End> {
        let mut all = vec![refused];
        for request in std::mem::take(&mut way.requests) {
            let Request { payloads, lines, bad, first, sent, .. } = request;
            // Whatever it says: what was taken of it is known as a duplicate when it comes again.
            drop(sent.wait());
            all.push(Again { payloads, lines, bad, first });
        }
        way.wait_for(Some(status.message.clone()));
        if (way.is_over)() {
            return Err(End::Cancelled);
        }
        if way.patience.is_over(Instant::now()) {
            return Err(End::Waits(status.message.clone()));
        }
        thread::sleep(pause(status).unwrap_or_default());
        for Again { payloads, lines, bad, first } in all {
            let sent = self.submit(&payloads, first, way)?;
            way.requests.push_back(Request { payloads, lines, bad, first, sent, at: Instant::now() });
        }
        Ok(())
    }

    fn count(
        &self,
        object: &Object,
        way: &Way<'_>,
        answer: &AppendResponse,
        lines: &[u64],
        bad: Vec<Row>,
    ) -> Result<(), End> {
        let mut progress = way.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = (lines.len() + bad.len()) as u64;
        progress.rows += rows;
        progress.processed += rows;
        progress.numbers += lines.len() as u64;
        // Those that an earlier run of the job had sent are its own.
        progress.succeeded += u64::from(answer.accepted) + u64::from(answer.duplicates);
        let failed = progress.failed + u64::from(answer.rejected) + bad.len() as u64;
        let mut faults: Vec<(u64, String, String)> = Vec::new();
        for row in &answer.row_errors {
            let Some(error) = &row.error else { continue };
            let line = lines.get(row.index as usize).copied().unwrap_or(0);
            match error.field_errors.first() {
                Some(field) => faults.push((line, field.message.clone(), field.path.clone())),
                None => faults.push((line, error.message.clone(), String::new())),
            }
        }
        faults
            .extend(bad.into_iter().filter_map(|row| row.payload.err().map(|bad| (row.line, bad.message, bad.field))));
        faults.sort_by_key(|(line, ..)| *line);
        faults.iter().for_each(|(line, message, field)| progress.fault(&object.name, *line, message, field));
        // Of many in one request not all are told.
        progress.failed = failed;
        match self.options.failed_max {
            Some(most) if progress.failed > most => {
                Err(End::Failed(format!("more than {most} rows are bad (options.max_failed)")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether nothing more comes of a run that was answered so, while the next may go on: this server is at its end, or a part of it.
pub(super) fn is_for_later(status: &Status) -> bool {
    matches!(status.reason, "DRAINING" | "SHARD_STOPPED" | "OUTCOME_UNKNOWN")
}

/// A request that is to be sent again.
struct Again {
    payloads: Vec<Bytes>,
    lines: Vec<u64>,
    bad: Vec<Row>,
    first: u64,
}

impl Way<'_> {
    fn wait_for(&self, what: Option<String>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.waits_for != what {
            progress.waits_for = what;
        }
    }
}
