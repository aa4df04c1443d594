//! What becomes of the records of one request with many: which of them are good, and the answer. For `Append`, and for those
//! outside of the shards who submit records, so that all are told the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use ttdust_proto::ingestion::{
    AppendResponse, DuplicateSequence, IngestError, OnInvalid, RowError, Status as RecordStatus,
};

use super::status::{Code, Status};
use crate::{
    config::Limits,
    dead_letters,
    dedup::writers::WriterRefused,
    message::{Committed, Outcome, Refusal},
    schema::CompiledSchema,
    snapshot::{StreamEntry, StreamState},
    transform::encode_metadata,
    validate::{Invalid, RECORD_TOO_LARGE, Validator},
};

/// Bad records that an answer describes; the others are only counted.
pub const ROW_ERRORS_MAX: usize = 100;
/// Bytes of dead letters after which a submission of them ends.
const LETTERS_BYTES: usize = 1 << 20;

/// A record that did not pass, and that is to be a dead letter.
#[derive(Debug)]
struct Refused {
    /// Its index in the request.
    index: u32,
    invalid: Box<Invalid>,
    /// As it came.
    payload: Bytes,
}

/// Dead letters of one submission.
#[derive(Debug, Default)]
pub struct Letters {
    /// Their records.
    pub payloads: Vec<Bytes>,
    /// The key of each, by which the same that is sent again makes no second one; empty: it has none.
    pub keys: Vec<Bytes>,
}

/// By what records that are sent again are known.
#[derive(Debug)]
pub enum KnownBy<'a, K> {
    /// Idempotency keys: none, or one a record of the request (empty: no key).
    Keys(&'a [K]),
    /// Numbers of this writer, from this one on.
    Numbers(&'a [u8], u64),
}

/// Says whether a record is good.
pub trait Checks {
    /// Whether it is.
    ///
    /// # Errors
    /// Why it is not.
    fn check(&mut self, payload: &[u8]) -> Result<(), Box<Invalid>>;

    /// The same without the reasons, which cost many times as much.
    fn accepts(&mut self, payload: &[u8]) -> bool;
}

/// A record's size, then JSON, then the schema.
#[derive(Debug)]
pub struct Checker<'a> {
    /// Does the work.
    pub validator: &'a mut Validator,
    /// What records must look like.
    pub schema: &'a CompiledSchema,
    /// The longest record, in bytes.
    pub record_bytes: usize,
}

impl Checks for Checker<'_> {
    fn check(&mut self, payload: &[u8]) -> Result<(), Box<Invalid>> {
        let limit = self.record_bytes;
        if payload.len() > limit {
            let message = format!("the record has {} bytes, over the limit of {limit}", payload.len());
            return Err(Box::new(Invalid { code: RECORD_TOO_LARGE, message, field_errors: Vec::new() }));
        }
        self.validator.check(self.schema, payload)
    }

    fn accepts(&mut self, payload: &[u8]) -> bool {
        payload.len() <= self.record_bytes && self.validator.accepts(self.schema, payload)
    }
}

/// Whether a stream takes records.
///
/// # Errors
/// Why it does not.
pub fn takes_records(stream: &StreamEntry) -> Result<(), Status> {
    if stream.is_dead_letters() {
        let message =
            "the stream holds dead letters, which only the server puts there: send records to the stream itself";
        return Err(Status::new(Code::FailedPrecondition, "DEAD_LETTERS_STREAM", message));
    }
    match stream.state {
        StreamState::Active => Ok(()),
        StreamState::Paused => Err(Status::stream_paused()),
        StreamState::Deleting => {
            let message = "the stream is being deleted";
            Err(Status::new(Code::FailedPrecondition, "STREAM_DELETING", message))
        }
    }
}

/// Whether an idempotency key is short enough.
///
/// # Errors
/// It is not.
pub fn check_key(limits: &Limits, key: &str) -> Result<(), Status> {
    let limit = limits.key_bytes;
    if key.len() <= limit {
        return Ok(());
    }
    let message = format!("an idempotency key has {} bytes, over the limit of {limit}", key.len());
    Err(Status::new(Code::InvalidArgument, "KEY_TOO_LONG", message))
}

/// A request's metadata, encoded; empty: none.
///
/// # Errors
/// It is over its limit.
pub fn metadata(limits: &Limits, metadata: &BTreeMap<String, String>) -> Result<Bytes, Status> {
    if metadata.is_empty() {
        return Ok(Bytes::new());
    }
    let limit = limits.metadata_bytes;
    let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > limit {
        let message = format!("the metadata has {size} bytes, over the limit of {limit}");
        return Err(Status::new(Code::InvalidArgument, "METADATA_TOO_LARGE", message));
    }
    Ok(encode_metadata(metadata).into())
}

/// The records of a request, as they are sorted out and answered.
#[derive(Debug)]
pub struct Rows {
    schema_version: u32,
    records: u32,
    rejected: u32,
    row_errors: Vec<RowError>,
    /// Index in the request of each submitted record; empty: all, in order.
    taken: Vec<u32>,
    /// Those that are to be dead letters.
    dead: Vec<Refused>,
    /// How many of these are in each submission of dead letters.
    letter_counts: Vec<usize>,
    /// They are a writer's, so that what is told of them goes by their index in the request.
    are_writers: bool,
}

impl Rows {
    /// So many, for a stream; `are_writers`: of a writer that numbers them.
    #[must_use]
    pub fn new(stream: &StreamEntry, records: usize, are_writers: bool) -> Self {
        Self {
            schema_version: stream.schema.version,
            records: records as u32,
            rejected: 0,
            row_errors: Vec::new(),
            taken: Vec::new(),
            dead: Vec::new(),
            letter_counts: Vec::new(),
            are_writers,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Index in the request of each record that is submitted.
    #[must_use]
    pub fn taken(&self) -> Vec<u32> {
        if self.rejected == 0 { (0..self.records).collect() } else { self.taken.clone() }
    }

    /// Whether bad ones among them reject all.
    #[must_use]
    pub fn are_refused(&self, on_invalid: OnInvalid) -> bool {
        self.rejected > 0 && on_invalid == OnInvalid::Atomic
    }

    /// Leaves the good ones in `payloads`, and their keys, if there are any, in `keys`.
    pub fn sort_out<K: Default>(
        &mut self,
        on_invalid: OnInvalid,
        payloads: &mut Vec<Bytes>,
        keys: &mut Vec<K>,
        checks: &mut impl Checks,
    ) {
        let mut bad = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            if self.row_errors.len() == ROW_ERRORS_MAX && on_invalid != OnInvalid::Dlq {
                // The others are only counted, or not even that: an explanation costs many times what a check does.
                if on_invalid == OnInvalid::Atomic {
                    break;
                }
                if !checks.accepts(payload) {
                    bad.push(index as u32);
                }
            } else if let Err(invalid) = checks.check(payload) {
                bad.push(index as u32);
                if self.row_errors.len() < ROW_ERRORS_MAX {
                    let error = Some(Status::invalid_record(&invalid).to_error());
                    self.row_errors.push(RowError { index: index as u32, error });
                }
                if on_invalid == OnInvalid::Dlq {
                    self.dead.push(Refused { index: index as u32, invalid, payload: payload.clone() });
                }
            }
        }
        if bad.is_empty() {
            return;
        }
        if on_invalid == OnInvalid::Atomic {
            self.rejected = self.records;
            payloads.clear();
            keys.clear();
            return;
        }
        self.rejected = bad.len() as u32;
        self.taken = (0..self.records).filter(|index| bad.binary_search(index).is_err()).collect();
        *payloads = self.taken.iter().map(|&index| payloads[index as usize].clone()).collect();
        if !keys.is_empty() {
            *keys = self.taken.iter().map(|&index| std::mem::take(&mut keys[index as usize])).collect();
        }
    }

    /// The dead letters of those that did not pass, if the request asks for such, in submissions of a bounded size: records of
    /// `stream` that have this encoded metadata.
    #[must_use]
    pub fn letters<K: AsRef<[u8]>>(
        &mut self,
        stream: &StreamEntry,
        known_by: KnownBy<'_, K>,
        metadata: &[u8],
    ) -> Vec<Letters> {
        let key = |index: u32| match known_by {
            KnownBy::Numbers(writer, first) => dead_letters::key_of_number(stream.id, writer, first + u64::from(index)),
            KnownBy::Keys(keys) => match keys.get(index as usize).map(AsRef::as_ref) {
                None | Some([]) => Bytes::new(),
                Some(key) => dead_letters::key_of_key(stream.id, key),
            },
        };
        let (mut all, mut letters, mut bytes) = (Vec::new(), Letters::default(), 0);
        for refused in &self.dead {
            let Refused { index, invalid, payload } = refused;
            let letter = dead_letters::of_schema(stream.id, self.schema_version, invalid, payload, metadata);
            bytes += letter.len();
            letters.payloads.push(letter);
            letters.keys.push(key(*index));
            // A letter is longer than its record: what is one entry of the log must not become one that is too large.
            if bytes >= LETTERS_BYTES {
                all.push(std::mem::take(&mut letters));
                bytes = 0;
            }
        }
        if !letters.payloads.is_empty() {
            all.push(letters);
        }
        self.letter_counts = all.iter().map(|letters| letters.payloads.len()).collect();
        all
    }

    /// As [`Rows::answer`], when it is known what became of the dead letters too, in the order of [`Rows::letters`]. Where some
    /// were refused, the answer says so and what was taken all the same.
    ///
    /// # Errors
    /// As there; of what was taken nothing is true then but what the error says.
    pub fn answer_with_letters(
        &mut self,
        outcome: Outcome,
        letters: impl IntoIterator<Item = Outcome>,
    ) -> Result<AppendResponse, Status> {
        let letters: Vec<Outcome> = letters.into_iter().collect();
        let Outcome::Committed(committed) = &outcome else { return self.answer(outcome) };
        if letters.contains(&Outcome::Unknown) {
            return Err(Status::outcome_unknown());
        }
        let refusal = letters.iter().find_map(|outcome| match outcome {
            Outcome::Refused(refusal) => Some(*refusal),
            Outcome::Committed(_) | Outcome::Unknown => None,
        });
        if let Some(refusal) = refusal
            && !letters.iter().chain([&outcome]).any(Outcome::may_stand)
        {
            return self.answer(Outcome::Refused(refusal));
        }
        let (dead, missing) = self.count_letters(committed, &letters);
        let mut answer = self.answer(outcome)?;
        answer.rejected = answer.rejected.saturating_sub(dead);
        answer.dead_lettered = dead;
        if dead > 0 && answer.status() == RecordStatus::ValidationError && answer.rejected == 0 {
            answer.set_status(RecordStatus::Ok);
            answer.error = None;
        }
        if let Some(status) = refusal.map(Status::refused) {
            let message = format!(
                "{} records were taken, and of {missing} bad ones no dead letter was: send the request again with the same \
                 idempotency keys or numbers, or else the bad ones alone",
                answer.accepted + answer.duplicates
            );
            let status = Status { message, ..status };
            let (error, retry_after_millis) = in_stream(&status);
            answer.error = Some(error);
            answer.retry_after_millis = status.retry_after.map(|_| retry_after_millis);
        }
        Ok(answer)
    }

    /// How many records became dead letters, and how many should have and did not.
    fn count_letters(&self, committed: &Committed, letters: &[Outcome]) -> (u32, u32) {
        let is_duplicate =
            |index: u32| self.are_writers && committed.duplicates.binary_search_by_key(&index, |&(at, _)| at).is_ok();
        let (mut counts, mut rest) = ([0, 0], self.dead.as_slice());
        for (outcome, &count) in letters.iter().zip(&self.letter_counts) {
            let (of_it, others) = rest.split_at(count);
            let new = of_it.iter().filter(|refused| !is_duplicate(refused.index)).count() as u32;
            counts[usize::from(!matches!(outcome, Outcome::Committed(_)))] += new;
            rest = others;
        }
        (counts[0], counts[1])
    }

    /// The answer when it is known what became of them.
    ///
    /// # Errors
    /// What is no answer to this request alone: the end of the call.
    pub fn answer(&mut self, outcome: Outcome) -> Result<AppendResponse, Status> {
        match outcome {
            Outcome::Unknown => Err(Status::outcome_unknown()),
            Outcome::Refused(refusal @ Refusal::Writer(WriterRefused::Gap(_))) => Ok(AppendResponse {
                status: RecordStatus::ValidationError.into(),
                retry_after_millis: None,
                ..self.refused(&Status::refused(refusal))
            }),
            Outcome::Refused(refusal) => {
                let status = Status::refused(refusal);
                if status.code == Code::ResourceExhausted { Ok(self.refused(&status)) } else { Err(status) }
            }
            Outcome::Committed(mut committed) => Ok(self.committed(&mut committed)),
        }
    }

    /// The answer when nothing was admitted: the whole request can be sent again.
    pub fn refused(&mut self, status: &Status) -> AppendResponse {
        let (error, retry_after_millis) = in_stream(status);
        AppendResponse {
            rejected: self.records,
            row_errors: std::mem::take(&mut self.row_errors),
            status: RecordStatus::RateLimited.into(),
            schema_version: self.schema_version as i32,
            retry_after_millis: Some(retry_after_millis),
            error: Some(error),
            ..AppendResponse::default()
        }
    }

    fn committed(&mut self, committed: &mut Committed) -> AppendResponse {
        if self.are_writers {
            self.settle_rejected(committed);
        }
        let duplicates = committed.duplicates.len() as u32;
        let status = match committed.accepted {
            0 if self.rejected > 0 && duplicates == 0 => RecordStatus::ValidationError,
            0 if duplicates > 0 => RecordStatus::Duplicate,
            _ => RecordStatus::Ok,
        };
        let error = (status == RecordStatus::ValidationError).then(|| IngestError {
            code: "INVALID_RECORDS".to_owned(),
            message: format!("{} of {} records rejected: see row_errors", self.rejected, self.records),
            field_errors: Vec::new(),
        });
        let duplicate_sequences = committed
            .duplicates
            .iter()
            .filter(|(_, seen)| seen.sequence > 0)
            .map(|&(at, seen)| DuplicateSequence { index: self.index_of(at), sequence_number: seen.sequence })
            .collect();
        let last_sequence = match committed.accepted {
            0 => 0,
            accepted => committed.first_sequence + i64::from(accepted) - 1,
        };
        AppendResponse {
            first_sequence: committed.first_sequence,
            last_sequence,
            timestamp_unix_micros: match committed.duplicates.first() {
                Some((_, original)) if committed.accepted == 0 => original.timestamp_unix_micros,
                _ => committed.timestamp_unix_micros,
            },
            accepted: committed.accepted,
            duplicates,
            rejected: self.rejected,
            dead_lettered: 0,
            row_errors: std::mem::take(&mut self.row_errors),
            status: status.into(),
            schema_version: self.schema_version as i32,
            retry_after_millis: None,
            error,
            duplicate_sequences,
        }
    }

    /// Of a writer's request, what was said of a record when its number was taken stands, whatever its schema says now. Where
    /// that is forgotten, it is said of a record that is refused now that it was then.
    fn settle_rejected(&mut self, committed: &mut Committed) {
        let is_bad = |index| self.rejected > 0 && self.taken.binary_search(&index).is_err();
        committed.duplicates.retain(|&(index, original)| original.sequence > 0 || !is_bad(index));
        self.rejected = self.records - committed.accepted - committed.duplicates.len() as u32;
        let is_duplicate = |index| committed.duplicates.binary_search_by_key(&index, |&(at, _)| at).is_ok();
        self.row_errors.retain(|error| !is_duplicate(error.index));
        for &index in &committed.rejected {
            let told = self.row_errors.iter().any(|error| error.index == index);
            if !told && self.row_errors.len() < ROW_ERRORS_MAX {
                let code = "WRITER_SEQUENCE_REJECTED".to_owned();
                let message =
                    "this number's record was rejected when it was first sent: send it under a new one".to_owned();
                let error = Some(IngestError { code, message, field_errors: Vec::new() });
                self.row_errors.push(RowError { index, error });
            }
        }
        self.row_errors.sort_by_key(|error| error.index);
    }

    /// The index in the request of the record that was submitted as number `submitted`.
    fn index_of(&self, submitted: u32) -> u32 {
        if self.are_writers || self.taken.is_empty() { submitted } else { self.taken[submitted as usize] }
    }
}

/// A status as an answer inside a stream, and its retry time in milliseconds, rounded up.
#[must_use]
pub fn in_stream(status: &Status) -> (IngestError, u32) {
    let millis = status.retry_after.map_or(0, |after| after.as_micros().div_ceil(1000));
    (status.to_error(), u32::try_from(millis).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        dedup::Seen,
        ids::{SchemaId, ShardId, StreamId},
    };

    fn stream() -> StreamEntry {
        let definition = r#"{"type": "object", "required": ["n"]}"#;
        let schema = CompiledSchema::compile(SchemaId::generate(), 3, definition).expect("a schema");
        StreamEntry {
            id: StreamId::generate(),
            name: "s".into(),
            state: StreamState::Active,
            schema: Arc::new(schema),
            key_fields: Arc::default(),
            pipelines: Arc::default(),
            dead_letters: None,
            home: ShardId(0),
        }
    }

    fn sorted(stream: &StreamEntry, on_invalid: OnInvalid) -> (Rows, Vec<Bytes>, Vec<Bytes>) {
        let of = |texts: &[&'static str]| texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        let mut payloads: Vec<Bytes> = of(&[r#"{"n":0}"#, "{}", r#"{"n":2}"#, "nonsense", r#"{"n":4}"#]);
        let mut keys: Vec<Bytes> = of(&["a", "b", "c", "d", "e"]);
        let mut validator = Validator::default();
        let mut checker = Checker { validator: &mut validator, schema: &stream.schema, record_bytes: 100 };
        let mut rows = Rows::new(stream, payloads.len(), false);
        rows.sort_out(on_invalid, &mut payloads, &mut keys, &mut checker);
        (rows, payloads, keys)
    }

    #[test]
    fn the_good_go_on_with_their_keys_and_the_answer_goes_by_the_indexes_of_the_request() {
        let stream = stream();
        let (mut rows, payloads, keys) = sorted(&stream, OnInvalid::Skip);
        assert_eq!((payloads.len(), rows.taken()), (3, vec![0, 2, 4]));
        assert_eq!(keys, ["a", "c", "e"]);
        let seen = Seen { sequence: 7, timestamp_unix_micros: 1 };
        let committed =
            Committed { first_sequence: 10, accepted: 2, duplicates: vec![(1, seen)], ..Committed::nothing() };
        let answer = rows.answer(Outcome::Committed(committed)).expect("an answer");
        assert_eq!((answer.accepted, answer.duplicates, answer.rejected), (2, 1, 2));
        assert_eq!((answer.first_sequence, answer.last_sequence, answer.schema_version), (10, 11, 3));
        assert_eq!(answer.duplicate_sequences, [DuplicateSequence { index: 2, sequence_number: 7 }]);
        let errors = answer.row_errors.iter().map(|e| (e.index, e.error.as_ref().expect("one").code.as_str()));
        assert_eq!(errors.collect::<Vec<_>>(), [(1, "SCHEMA_VIOLATION"), (3, "NOT_JSON")]);
    }

    #[test]
    fn one_bad_record_rejects_all_where_all_or_nothing_is_asked_for() {
        let stream = stream();
        let (mut rows, payloads, keys) = sorted(&stream, OnInvalid::Atomic);
        assert!(rows.are_refused(OnInvalid::Atomic) && payloads.is_empty() && keys.is_empty());
        let answer = rows.answer(Outcome::Committed(Committed::nothing())).expect("an answer");
        assert_eq!((answer.accepted, answer.rejected, answer.status()), (0, 5, RecordStatus::ValidationError));
    }

    #[test]
    fn what_is_refused_makes_letters_with_the_keys_of_its_records() {
        let stream = stream();
        let (mut rows, ..) = sorted(&stream, OnInvalid::Dlq);
        let mut of = |known_by: KnownBy<'_, &str>| {
            let letters = rows.letters(&stream, known_by, b"");
            assert_eq!(letters.len(), 1);
            assert_eq!(letters[0].payloads.len(), 2);
            let key = |key: &Bytes| String::from_utf8(key.to_vec()).expect("text");
            letters[0].keys.iter().map(key).collect::<Vec<_>>()
        };
        let key = |of: &str| format!("key/{}/{of}", stream.id);
        assert_eq!(of(KnownBy::Keys(&["a", "b", "c", "d", "e"])), [key("b"), key("d")]);
        assert_eq!(of(KnownBy::Keys(&["a", "", "c", "d", "e"])), ["".to_owned(), key("d")]);
        assert_eq!(of(KnownBy::Keys(&[])), ["", ""]);
        let number = |number: u64| format!("writer/{}/{number}/w", stream.id);
        assert_eq!(of(KnownBy::Numbers(b"w", 10)), [number(11), number(13)]);
        let (mut skipped, ..) = sorted(&stream, OnInvalid::Skip);
        assert!(skipped.letters(&stream, KnownBy::Keys::<&str>(&[]), b"").is_empty(), "nobody asked for them");
    }

    #[test]
    fn of_dead_letters_that_are_refused_it_is_told_and_so_is_what_was_taken() {
        let stream = stream();
        let taken = |accepted| Outcome::Committed(Committed { first_sequence: 1, accepted, ..Committed::nothing() });
        let later = std::time::Duration::from_secs(1);
        let of = |good, letters: Vec<Outcome>| {
            let mut payloads: Vec<Bytes> =
                [r#"{"n":0}"#, "{}", r#"{"n":2}"#].map(|text: &'static str| Bytes::from_static(text.as_bytes())).into();
            // Letters so long that they are two submissions.
            payloads.push(format!("\"{}\"", "x".repeat(LETTERS_BYTES)).into());
            payloads.swap(1, 3);
            let mut validator = Validator::default();
            let mut checker = Checker { validator: &mut validator, schema: &stream.schema, record_bytes: 4 << 20 };
            let mut rows = Rows::new(&stream, payloads.len(), false);
            rows.sort_out(OnInvalid::Dlq, &mut payloads, &mut Vec::<Bytes>::new(), &mut checker);
            assert_eq!(rows.letters(&stream, KnownBy::Keys::<&str>(&[]), b"").len(), 2);
            rows.answer_with_letters(good, letters)
        };
        let counts = |answer: &AppendResponse| (answer.accepted, answer.rejected, answer.dead_lettered);
        let whole = of(taken(2), vec![taken(1), taken(1)]).expect("an answer");
        assert_eq!((counts(&whole), whole.error), ((2, 0, 2), None));
        for (refusal, code, retry) in [
            (Refusal::LogFull(later), "LOG_FULL", Some(1000)),
            (Refusal::QueueFull(later), "BACKPRESSURE", Some(1000)),
            (Refusal::Poisoned, "SHARD_STOPPED", None),
            (Refusal::NotHere, "STREAM_NOT_FOUND", None),
        ] {
            let refused = || Outcome::Refused(refusal);
            for (letters, rejected) in [(vec![refused(), refused()], 2), (vec![taken(1), refused()], 1)] {
                let answer = of(taken(2), letters).expect("an answer");
                assert_eq!((counts(&answer), answer.status()), ((2, rejected, 2 - rejected), RecordStatus::Ok));
                assert_eq!((answer.first_sequence, answer.row_errors.len()), (1, 2));
                let error = answer.error.expect("one");
                assert_eq!((error.code.as_str(), answer.retry_after_millis), (code, retry));
                assert!(
                    error.message.contains("2 records were taken") && !error.message.contains("nothing"),
                    "{error:?}"
                );
            }
            let only_letters = of(taken(0), vec![taken(1), refused()]).expect("an answer");
            assert_eq!((counts(&only_letters), only_letters.error.expect("one").code), ((0, 1, 1), code.to_owned()));
        }
        let nothing = of(taken(0), vec![Outcome::Refused(Refusal::LogFull(later)); 2]).expect_err("nothing was taken");
        assert_eq!(nothing.reason, "LOG_FULL");
        let nothing = of(taken(0), vec![Outcome::Refused(Refusal::QueueFull(later)); 2]).expect("nothing was taken");
        assert_eq!((nothing.status(), nothing.rejected), (RecordStatus::RateLimited, 4));
        let unknown = of(taken(2), vec![taken(1), Outcome::Unknown]).expect_err("nobody knows");
        assert_eq!(unknown.reason, "OUTCOME_UNKNOWN");
    }

    #[test]
    fn what_can_be_tried_again_is_an_answer_and_the_rest_ends_the_call() {
        let stream = stream();
        let later = Refusal::Backpressure(std::time::Duration::from_micros(1500));
        let (mut rows, ..) = sorted(&stream, OnInvalid::Skip);
        let answer = rows.answer(Outcome::Refused(later)).expect("an answer");
        assert_eq!((answer.rejected, answer.retry_after_millis), (5, Some(2)));
        assert_eq!(rows.answer(Outcome::Refused(Refusal::Paused)).expect_err("an end").reason, "STREAM_PAUSED");
        assert_eq!(rows.answer(Outcome::Unknown).expect_err("an end").reason, "OUTCOME_UNKNOWN");
    }
}
