//! The one table of how calls end: gRPC code, machine-readable reason, and whether trying again can help.

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use ttdust_proto::{ingestion, rpc};

use crate::{
    access::{Forbidden, NotLetIn, Unauthenticated},
    dedup::writers::WriterRefused,
    memory::MemoryShort,
    message::{AdminFailure, FailureKind, QUERY_TIMEOUT_HINT, QueryFailure, Refusal},
    rate::RateLimited,
    validate::Invalid,
};

/// When an admin call that met a busy or missing part may come again.
const ADMIN_RETRY: Duration = Duration::from_secs(1);
/// When a query that found no worker or no catalog may come again.
const QUERY_RETRY: Duration = Duration::from_millis(100);

/// gRPC status codes that this server uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// The client gave up.
    Cancelled = 1,
    /// The request is at fault.
    InvalidArgument = 3,
    /// Time ran out.
    DeadlineExceeded = 4,
    /// No such thing, or not for this client.
    NotFound = 5,
    /// The name is taken.
    AlreadyExists = 6,
    /// Not allowed.
    PermissionDenied = 7,
    /// Over a limit.
    ResourceExhausted = 8,
    /// Right, but not in this state.
    FailedPrecondition = 9,
    /// No such method, or not in this version.
    Unimplemented = 12,
    /// A fault of the server.
    Internal = 13,
    /// Not now.
    Unavailable = 14,
    /// Who are you?
    Unauthenticated = 16,
}

/// How a call ends.
#[derive(Debug, Clone)]
pub struct Status {
    /// The gRPC code.
    pub code: Code,
    /// For programs; `ErrorInfo.reason`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Try again after this time.
    pub retry_after: Option<Duration>,
    /// Fields at fault: JSON Pointer and message.
    pub violations: Vec<(String, String)>,
}

impl Status {
    /// A good end.
    #[must_use]
    pub fn ok() -> Self {
        Self::new(Code::Ok, "", String::new())
    }

    /// An end with this code, reason and message.
    #[must_use]
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None, violations: Vec::new() }
    }

    /// No credential, or none that is good.
    #[must_use]
    pub fn unauthenticated(error: Unauthenticated) -> Self {
        Self::new(Code::Unauthenticated, "UNAUTHENTICATED", error.to_string())
    }

    /// The caller is not let in.
    #[must_use]
    pub fn not_let_in(error: NotLetIn) -> Self {
        match error {
            NotLetIn::Unauthenticated(error) => Self::unauthenticated(error),
            NotLetIn::RateLimited(over) => Self::rate_limited(over),
        }
    }

    /// The client is over a limit: nothing of the request was done.
    #[must_use]
    pub fn rate_limited(over: RateLimited) -> Self {
        let message = format!("{over}: nothing was done");
        Self { retry_after: Some(over.retry_after), ..Self::new(Code::ResourceExhausted, "RATE_LIMITED", message) }
    }

    /// The caller's role does not permit the call.
    #[must_use]
    pub fn forbidden(error: Forbidden) -> Self {
        Self::new(Code::PermissionDenied, "PERMISSION_DENIED", error.to_string())
    }

    /// No stream of that id or name, or none that this client may know of.
    #[must_use]
    pub fn unknown_stream(text: &str) -> Self {
        let shown: String = text.chars().take(128).collect();
        let message = format!("no stream {shown:?}: create it with POST /api/v1/streams, or check the id");
        Self::new(Code::NotFound, "STREAM_NOT_FOUND", message)
    }

    /// A query that has no answer.
    #[must_use]
    pub fn query(failure: QueryFailure) -> Self {
        let again = |status| Self { retry_after: Some(QUERY_RETRY), ..status };
        match failure {
            QueryFailure::Overloaded => {
                again(Self::new(Code::ResourceExhausted, "QUERIES_OVERLOADED", "too many queries wait: try again"))
            }
            QueryFailure::RateLimited(over) => Self::rate_limited(over),
            QueryFailure::Deleting => {
                Self::new(Code::FailedPrecondition, "STREAM_DELETING", "the stream is being deleted")
            }
            QueryFailure::TimedOut => Self::new(Code::DeadlineExceeded, "QUERY_TIMEOUT", QUERY_TIMEOUT_HINT),
            QueryFailure::Cancelled => Self::new(Code::Cancelled, "CANCELLED", "nobody waited for the answer"),
            QueryFailure::Unavailable(message) => again(Self::new(Code::Unavailable, "CATALOG_UNAVAILABLE", message)),
            QueryFailure::Memory(short @ MemoryShort::All) => {
                again(Self::new(Code::ResourceExhausted, "QUERY_MEMORY_FULL", short.to_string()))
            }
            QueryFailure::Memory(short) => Self::new(Code::ResourceExhausted, "QUERY_TOO_LARGE", short.to_string()),
            QueryFailure::StoreAway(message) => again(Self::new(Code::Unavailable, "OBJECTS_UNAVAILABLE", message)),
            QueryFailure::NoEventTime(message) => Self::new(Code::InvalidArgument, "NO_EVENT_TIME", message),
            QueryFailure::Internal(message) => Self::new(Code::Internal, "QUERY_FAILED", message),
        }
    }

    /// An admin call that was not done.
    #[must_use]
    pub fn admin(failure: AdminFailure) -> Self {
        let code = match failure.kind {
            FailureKind::NotFound => Code::NotFound,
            FailureKind::AlreadyExists => Code::AlreadyExists,
            FailureKind::Invalid => Code::InvalidArgument,
            FailureKind::Conflict => Code::FailedPrecondition,
            FailureKind::Forbidden => Code::PermissionDenied,
            FailureKind::NotAvailable => Code::Unimplemented,
            FailureKind::Overloaded | FailureKind::RateLimited(_) => Code::ResourceExhausted,
            FailureKind::Unavailable => Code::Unavailable,
            FailureKind::Internal => Code::Internal,
        };
        let retry_after = match failure.kind {
            FailureKind::Overloaded | FailureKind::Unavailable => Some(ADMIN_RETRY),
            FailureKind::RateLimited(over) => Some(over.retry_after),
            _ => None,
        };
        Self { retry_after, violations: failure.fields, ..Self::new(code, failure.reason, failure.message) }
    }

    /// The outcome of a write is not known.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        Self::new(
            Code::Unavailable,
            "OUTCOME_UNKNOWN",
            "a log write failed: the records may or may not survive; send them again with the same idempotency keys",
        )
    }

    /// The same end for a call of which requests that get no answer may have been taken: not all of it can just be sent again.
    #[must_use]
    pub fn in_doubt(self) -> Self {
        let unknown = Self::outcome_unknown();
        if self.reason == unknown.reason {
            return self;
        }
        let message = format!(
            "a request was refused ({}: {}), and what was sent after it may have been taken: send what was not answered again \
             with the same idempotency keys",
            self.reason, self.message
        );
        Self { message, retry_after: self.retry_after, ..unknown }
    }

    /// A message was awaited for too long, as `what` says: nothing of it was taken.
    #[must_use]
    pub fn message_stalled(what: impl std::fmt::Display) -> Self {
        let message = format!("{what}: nothing of it was taken, send it in a new call");
        Self::new(Code::DeadlineExceeded, "MESSAGE_STALLED", message)
    }

    /// There are answers, and the client took none of them for so long.
    #[must_use]
    pub fn answers_not_taken(seconds: u64) -> Self {
        let message = format!(
            "no answer was taken for {seconds} s: read answers while you send. What was not answered may have been taken: send it again \
             with the same idempotency keys"
        );
        Self { message, ..Self::outcome_unknown() }
    }

    /// The server is going away; nothing of the request was admitted.
    #[must_use]
    pub fn draining() -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(
                Code::Unavailable,
                "DRAINING",
                "the server is shutting down: nothing was admitted, try again elsewhere",
            )
        }
    }

    /// A message that is not what the method takes.
    #[must_use]
    pub fn bad_message(error: &prost::DecodeError) -> Self {
        Self::new(Code::InvalidArgument, "MALFORMED_MESSAGE", format!("the request message does not decode: {error}"))
    }

    /// A record that its schema, or JSON itself, refuses.
    #[must_use]
    pub fn invalid_record(invalid: &Invalid) -> Self {
        let violations = invalid.field_errors.iter().map(|e| (e.pointer.clone(), e.message.clone())).collect();
        Self { violations, ..Self::new(Code::InvalidArgument, invalid.code, invalid.message.clone()) }
    }

    /// A submission that was never admitted.
    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        let exhausted = |reason, message: &str, retry_after| Self {
            retry_after: Some(retry_after),
            ..Self::new(Code::ResourceExhausted, reason, message)
        };
        match refusal {
            Refusal::Backpressure(after) => {
                exhausted("BACKPRESSURE", "the log is filling faster than it is flushed: nothing was admitted", after)
            }
            Refusal::QueueFull(after) => {
                exhausted("BACKPRESSURE", "the stream's shard is busy: nothing was admitted", after)
            }
            Refusal::LogFull(after) => Self {
                retry_after: Some(after),
                ..Self::new(Code::Unavailable, "LOG_FULL", "the log or its disk is full: nothing was admitted")
            },
            Refusal::Draining => Self::draining(),
            Refusal::Poisoned => Self::new(
                Code::Unavailable,
                "SHARD_STOPPED",
                "an earlier log write failed and the shard stopped: nothing was admitted",
            ),
            Refusal::KeysFull(after) => exhausted(
                "IDEMPOTENCY_KEYS_FULL",
                "as many idempotency keys as may be are remembered: nothing was admitted; raise dedup.keys_max",
                after,
            ),
            Refusal::Writer(WriterRefused::Fenced(epoch)) => Self::new(
                Code::FailedPrecondition,
                "WRITER_FENCED",
                format!("the writer goes on with epoch {epoch}: nothing was admitted"),
            ),
            Refusal::Writer(WriterRefused::Gap(next)) => Self::new(
                Code::FailedPrecondition,
                "WRITER_SEQUENCE_GAP",
                format!("first_writer_sequence is past the next expected, {next}: nothing was admitted"),
            ),
            Refusal::Writer(WriterRefused::TooMany) => exhausted(
                "TOO_MANY_WRITERS",
                "the stream has as many writers as it may have: nothing was admitted; use known writer_ids",
                Duration::from_secs(60),
            ),
            Refusal::Paused => Self::stream_paused(),
            Refusal::NotHere => Self::new(Code::NotFound, "STREAM_NOT_FOUND", "the stream was deleted"),
        }
    }

    /// A fault of the server itself.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }

    /// The stream has no dead letters.
    #[must_use]
    pub fn dlq_missing() -> Self {
        let message = "the stream has no dead letters: give it some (PATCH it with a dlq), or use ATOMIC or SKIP";
        Self::new(Code::FailedPrecondition, "DLQ_MISSING", message)
    }

    /// The stream takes no records until it is resumed.
    #[must_use]
    pub fn stream_paused() -> Self {
        let message = "the stream is paused: resume it with PATCH /api/v1/streams/{id}";
        Self::new(Code::FailedPrecondition, "STREAM_PAUSED", message)
    }

    /// The same as an error inside an answer.
    #[must_use]
    pub fn to_error(&self) -> ingestion::IngestError {
        let mut message = self.message.clone();
        if let Some(after) = self.retry_after {
            let _ = write!(message, "; retry after {} ms", after.as_millis());
        }
        let field_errors = self
            .violations
            .iter()
            .map(|(path, message)| ingestion::FieldValidationError { path: path.clone(), message: message.clone() })
            .collect();
        ingestion::IngestError { code: self.reason.to_owned(), message, field_errors }
    }

    /// As trailers: `grpc-status`, `grpc-message`, `grpc-status-details-bin`.
    #[must_use]
    pub fn to_trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(3);
        trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(self.code as u16));
        if self.code == Code::Ok {
            return trailers;
        }
        if let Ok(message) = HeaderValue::from_str(&percent_encode(&self.message)) {
            trailers.insert(HeaderName::from_static("grpc-message"), message);
        }
        let details = base64(&self.details().encode_to_vec());
        if let Ok(details) = HeaderValue::from_str(&details) {
            trailers.insert(HeaderName::from_static("grpc-status-details-bin"), details);
        }
        trailers
    }

    fn details(&self) -> rpc::Status {
        let info = rpc::ErrorInfo { reason: self.reason.to_owned(), domain: "ttdust".to_owned(), ..Default::default() };
        let mut details = vec![any("google.rpc.ErrorInfo", info.encode_to_vec())];
        if !self.violations.is_empty() {
            let field_violations = self
                .violations
                .iter()
                .map(|(field, description)| rpc::bad_request::FieldViolation {
                    field: field.clone(),
                    description: description.clone(),
                })
                .collect();
            details.push(any("google.rpc.BadRequest", rpc::BadRequest { field_violations }.encode_to_vec()));
        }
        if let Some(after) = self.retry_after {
            let delay = prost_types::Duration { seconds: after.as_secs() as i64, nanos: after.subsec_nanos() as i32 };
            let retry = rpc::RetryInfo { retry_delay: Some(delay) };
            details.push(any("google.rpc.RetryInfo", retry.encode_to_vec()));
        }
        rpc::Status { code: self.code as i32, message: self.message.clone(), details }
    }
}

fn any(name: &str, value: Vec<u8>) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value }
}

/// As gRPC wants `grpc-message`: everything but printable ASCII, and the per cent sign, as `%XX`. At most 1 KiB of text.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes().take(1024) {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Base64 (RFC 4648) without padding, as gRPC wants binary metadata.
fn base64(data: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc_without_padding() {
        let table = [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("foobar", "Zm9vYmFy")];
        for (plain, text) in table {
            assert_eq!(base64(plain.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn a_refusal_that_can_be_retried_says_when_and_keeps_its_reason() {
        let status = Status::refused(Refusal::Backpressure(Duration::from_millis(1250)));
        assert_eq!(status.code, Code::ResourceExhausted);
        let details = status.details();
        let retry = details.details.iter().find(|d| d.type_url.ends_with("RetryInfo")).expect("a RetryInfo");
        let retry = rpc::RetryInfo::decode(&*retry.value).expect("decodes").retry_delay.expect("a delay");
        assert_eq!((retry.seconds, retry.nanos), (1, 250_000_000));
        assert!(status.to_error().message.ends_with("retry after 1250 ms"));
    }

    /// Every end that the table above makes by itself.
    fn ends() -> Vec<Status> {
        let after = Duration::from_millis(70);
        let over = RateLimited { category: crate::rate::Category::Query, limit: 1, retry_after: after };
        let refusals = [
            Refusal::Backpressure(after),
            Refusal::LogFull(after),
            Refusal::QueueFull(after),
            Refusal::Draining,
            Refusal::Poisoned,
            Refusal::KeysFull(after),
            Refusal::Writer(WriterRefused::Fenced(2)),
            Refusal::Writer(WriterRefused::Gap(3)),
            Refusal::Writer(WriterRefused::TooMany),
            Refusal::Paused,
            Refusal::NotHere,
        ];
        let queries = [
            QueryFailure::Overloaded,
            QueryFailure::RateLimited(over),
            QueryFailure::Deleting,
            QueryFailure::TimedOut,
            QueryFailure::Cancelled,
            QueryFailure::Unavailable(String::new()),
            QueryFailure::Memory(MemoryShort::All),
            QueryFailure::StoreAway(String::new()),
            QueryFailure::NoEventTime(String::new()),
            QueryFailure::Internal(String::new()),
        ];
        let others = [
            Status::outcome_unknown(),
            Status::message_stalled(""),
            Status::dlq_missing(),
            Status::internal(""),
            Status::unknown_stream(""),
        ];
        refusals.map(Status::refused).into_iter().chain(queries.map(Status::query)).chain(others).collect()
    }

    #[test]
    fn the_guide_says_of_each_end_whether_it_comes_with_a_time_to_try_again() {
        let guide = include_str!("../../../proto/README.md");
        for end in ends() {
            let code: String = format!("{:?}", end.code)
                .char_indices()
                .flat_map(|(at, c)| {
                    (at > 0 && c.is_uppercase()).then_some('_').into_iter().chain([c.to_ascii_uppercase()])
                })
                .collect();
            let (code, reason) = (format!("| `{code}` |"), format!("`{}`", end.reason));
            let row = guide.lines().find(|line| line.starts_with(&code) && line.contains(&reason));
            let row = row.unwrap_or_else(|| panic!("proto/README.md has no row of {code} {reason}"));
            assert_eq!(row.contains("RetryInfo"), end.retry_after.is_some(), "{reason}: {row}");
            assert_eq!(row.contains("**perhaps**"), ["OUTCOME_UNKNOWN", "CANCELLED", "INTERNAL"].contains(&end.reason));
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode("50% naïve\n"), "50%25 na%C3%AFve%0A");
    }
}
