//! One request to the store, from its parts to an answer that somebody can use: signed, sent, judged, and tried again.
//!
//! What the store cannot do now is tried again a few times, with growing random pauses, and counts for the breaker; what it
//! will not do is told at once. Every try has a time limit. URLs hold the signature and are never shown: messages name the
//! operation and the object.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header::HOST};
use http_body_util::Full;
use rusty_s3::{Bucket, Credentials};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use url::{Position, Url};

use super::{
    breaker::Breaker,
    figures::{Outcome, S3Figures},
};
use crate::{
    objects::ObjectError,
    outgoing::{Answer, Connections, NoAnswer},
    traces,
};

/// Requests under way at once.
const REQUESTS: usize = 24;
/// Tries of one call.
const TRIES: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A request may take longer by a second for each of so many bytes that it carries.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// Beyond so many bytes no more time is given.
const CARRIED_MAX: u64 = 256 << 20;
/// A body that is no object: a listing, an error.
pub(super) const TEXT_BYTES_MAX: u64 = 4 << 20;
/// How long a signature holds; clocks may differ by less.
const SIGNED_SECONDS: u64 = 900;

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Get,
    Head,
    Delete,
    List,
    CreateUpload,
    PutPart,
    CompleteUpload,
    AbortUpload,
}

impl Operation {
    pub(super) const ALL: [Self; 9] = [
        Self::Put,
        Self::Get,
        Self::Head,
        Self::Delete,
        Self::List,
        Self::CreateUpload,
        Self::PutPart,
        Self::CompleteUpload,
        Self::AbortUpload,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::CreateUpload => "create_upload",
            Self::PutPart => "put_part",
            Self::CompleteUpload => "complete_upload",
            Self::AbortUpload => "abort_upload",
        }
    }

    /// As the signer and as the connection name it.
    fn method(self) -> (rusty_s3::Method, Method) {
        match self {
            Self::Put | Self::PutPart => (rusty_s3::Method::Put, Method::PUT),
            Self::Get | Self::List => (rusty_s3::Method::Get, Method::GET),
            Self::Head => (rusty_s3::Method::Head, Method::HEAD),
            Self::Delete | Self::AbortUpload => (rusty_s3::Method::Delete, Method::DELETE),
            Self::CreateUpload | Self::CompleteUpload => (rusty_s3::Method::Post, Method::POST),
        }
    }
}

/// A request's parts. Names of headers are in lower case; those that begin with `x-amz-` are signed.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    /// The object's key as our callers name it; empty: the bucket.
    pub(super) key: &'a str,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// Bytes of an answer's body at most.
    pub(super) limit: u64,
}

impl<'a> Call<'a> {
    pub(super) fn new(operation: Operation, key: &'a str) -> Self {
        Self { operation, key, query: Vec::new(), headers: Vec::new(), body: Bytes::new(), limit: TEXT_BYTES_MAX }
    }

    /// What messages call it.
    fn what(&self) -> String {
        if self.key.is_empty() {
            format!("S3 {} of the bucket", self.operation.name())
        } else {
            format!("S3 {} of {}", self.operation.name(), self.key)
        }
    }

    pub(super) fn denied(&self, reason: impl Into<String>) -> ObjectError {
        ObjectError::Denied { what: self.what(), reason: reason.into() }
    }

    pub(super) fn unavailable(&self, reason: impl Into<String>) -> ObjectError {
        ObjectError::Unavailable { what: self.what(), reason: reason.into() }
    }
}

/// Why a try gave nothing.
enum Failure {
    /// Another try may succeed.
    Passing(Outcome, String),
    /// It would end the same way.
    Lasting(Outcome, ObjectError),
}

/// Sends requests to one bucket.
#[derive(Debug)]
pub(super) struct Requests {
    bucket: Bucket,
    /// What every key of ours begins with in the bucket: empty, or ending with a slash.
    prefix: String,
    host: HeaderValue,
    credentials: RwLock<Arc<Credentials>>,
    connections: Connections,
    breaker: Breaker,
    permits: Semaphore,
    timeout: Duration,
    figures: S3Figures,
}

impl Requests {
    pub(super) fn new(
        bucket: Bucket,
        prefix: String,
        credentials: Credentials,
        connections: Connections,
        timeout: Duration,
        figures: S3Figures,
    ) -> Self {
        let url = bucket.object_url("");
        let host = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]).expect("a URL's host");
        Self {
            bucket,
            prefix,
            host,
            credentials: RwLock::new(Arc::new(credentials)),
            connections,
            breaker: Breaker::new(figures.breaker_open.clone()),
            permits: Semaphore::new(REQUESTS),
            timeout,
            figures,
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }

    /// How long a call may take, with all its tries.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        self.timeout_of(bytes) * TRIES + PAUSE_MAX * TRIES
    }

    fn timeout_of(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs(bytes / BYTES_PER_SECOND)
    }

    /// Tries until there is an answer: a success, or 404, 412, 416 or 501, which mean something to the caller.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Answer, ObjectError> {
        let mut span = traces::call(|| format!("S3 {}", call.operation.name()));
        if span.is_traced() {
            span.note("server.address", self.host.to_str().unwrap_or_default().to_owned());
            span.note("http.request.method", call.operation.method().1.to_string());
            span.note("aws.s3.key", call.key.to_owned());
        }
        let answered = self.call_with_patience(call).await;
        match &answered {
            Ok(answer) => span.note("http.response.status_code", answer.status.as_u16()),
            Err(error) => span.fail(error),
        }
        answered
    }

    async fn call_with_patience(&self, call: &Call<'_>) -> Result<Answer, ObjectError> {
        let carried = call.body.len() as u64 + if call.operation == Operation::Get { call.limit } else { 0 };
        let each = self.timeout_of(carried.min(CARRIED_MAX));
        let end = Instant::now() + each * TRIES;
        let _permit = self.permits.acquire().await.expect("it is never closed");
        let mut tries = 0;
        loop {
            let leave = self.breaker.admit().map_err(|reason| call.unavailable(reason))?;
            let start = Instant::now();
            let outcome = match timeout(each, self.once(call)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::Passing(Outcome::Timeout, format!("no answer in {} ms", each.as_millis()))),
            };
            let named = match &outcome {
                Ok(answer) => outcome_of(answer.status),
                Err(Failure::Passing(outcome, _) | Failure::Lasting(outcome, _)) => *outcome,
            };
            self.figures.request_done(call.operation, named, start.elapsed());
            let reason = match outcome {
                Ok(answer) => {
                    leave.succeeded();
                    return Ok(answer);
                }
                Err(Failure::Lasting(_, error)) => {
                    leave.succeeded();
                    return Err(error);
                }
                Err(Failure::Passing(Outcome::Conflict, reason)) => {
                    leave.succeeded();
                    reason
                }
                Err(Failure::Passing(_, reason)) => {
                    leave.failed(&reason);
                    reason
                }
            };
            tries += 1;
            let pause = pause_after(tries);
            if tries == TRIES || Instant::now() + pause >= end {
                return Err(call.unavailable(reason));
            }
            tracing::debug!(what = %call.what(), %reason, tries, "a request to the object store is tried again");
            sleep(pause).await;
        }
    }

    async fn once(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let url = self.signed(call);
        self.figures.sent(call.body.len());
        let answer = match self.connections.send(|| self.request(call, &url), call.limit).await {
            Ok(answer) => answer,
            Err(NoAnswer::Connection(reason)) => return Err(Failure::Passing(Outcome::Connection, reason)),
            Err(NoAnswer::TooLong(bytes)) if call.operation == Operation::Get => {
                let error = ObjectError::TooLong { key: call.key.to_owned(), bytes, limit: call.limit };
                return Err(Failure::Lasting(Outcome::Ok, error));
            }
            Err(NoAnswer::TooLong(bytes)) => {
                let reason = format!("an answer of {bytes} bytes is not what S3 gives");
                return Err(Failure::Lasting(Outcome::Failed, call.denied(reason)));
            }
        };
        self.figures.received(answer.body.len());
        judge(call, answer)
    }

    fn signed(&self, call: &Call<'_>) -> Url {
        let credentials = Arc::clone(&self.credentials.read().unwrap_or_else(PoisonError::into_inner));
        let url = if call.key.is_empty() {
            self.bucket.base_url().clone()
        } else {
            self.bucket.object_url(&format!("{}{}", self.prefix, call.key))
        };
        let mut query: Vec<_> = call.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        query.sort_unstable();
        let amz = call.headers.iter().filter(|(name, _)| name.starts_with("x-amz-"));
        let mut headers: Vec<_> = amz.map(|(name, value)| (*name, value.as_str())).collect();
        headers.sort_unstable();
        rusty_s3::signing::sign(
            &jiff::Timestamp::now(),
            call.operation.method().0,
            url,
            credentials.key(),
            credentials.secret(),
            credentials.token(),
            self.bucket.region(),
            SIGNED_SECONDS,
            query.into_iter(),
            headers.into_iter(),
        )
    }

    fn request(&self, call: &Call<'_>, url: &Url) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.operation.method().1;
        *request.uri_mut() = url[Position::BeforePath..Position::AfterQuery].parse().expect("a URL's path is one");
        let mut headers = HeaderMap::with_capacity(call.headers.len() + 2);
        headers.insert(HOST, self.host.clone());
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value).expect("values of ours are text");
            headers.insert(HeaderName::from_static(name), value);
        }
        if call.body.is_empty() && matches!(call.operation.method().1, Method::PUT | Method::POST) {
            headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *request.headers_mut() = headers;
        request
    }
}

/// Full jitter: anything up to a bound that doubles.
fn pause_after(tries: u32) -> Duration {
    let bound = (PAUSE_MIN * 2_u32.saturating_pow(tries)).min(PAUSE_MAX);
    let part = f64::from(u32::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().expect("16 bytes")));
    bound.mul_f64(part / f64::from(u32::MAX))
}

fn outcome_of(status: StatusCode) -> Outcome {
    match status.as_u16() {
        404 => Outcome::NotFound,
        412 => Outcome::Conflict,
        416 | 501 => Outcome::Denied,
        _ => Outcome::Ok,
    }
}

/// Whether an answer is one for the caller.
fn judge(call: &Call<'_>, answer: Answer) -> Result<Answer, Failure> {
    let status = answer.status.as_u16();
    let code = if (200..300).contains(&status) && call.operation != Operation::CompleteUpload {
        String::new()
    } else {
        error_code(&answer.body)
    };
    let passing = |outcome, why: &str| Err(Failure::Passing(outcome, format!("{status} {code}: {why}")));
    let denied = |why: &str| {
        let reason = format!("{status} {code}: {why}");
        Err(Failure::Lasting(Outcome::Denied, call.denied(reason)))
    };
    match (status, code.as_str()) {
        // Completion may take so long that its failure comes after the 200.
        (200, "") => Ok(answer),
        (200, "SlowDown" | "InternalError" | "ServiceUnavailable") => passing(Outcome::Failed, "the store failed"),
        (200, _) => denied("the upload could not be completed"),
        (201..=299 | 412 | 416 | 501, _) => Ok(answer),
        (404, "NoSuchBucket") => denied("the bucket does not exist: create it, or set s3.bucket"),
        (404, _) => Ok(answer),
        (400, "RequestTimeout" | "IncompleteBody" | "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch") => {
            passing(Outcome::Failed, "the request did not arrive whole")
        }
        (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") | (403, "ExpiredToken" | "InvalidToken") => {
            denied("the session token is over: put a new one in the file of s3.credentials_path and send SIGHUP")
        }
        (409, _) => passing(Outcome::Conflict, "the store is about to change the object"),
        (429, _) | (503, "SlowDown") => passing(Outcome::Throttled, "the store asks for fewer requests"),
        (408 | 500..=599, _) => passing(Outcome::Failed, "the store failed"),
        (403, "RequestTimeTooSkewed") => denied("this machine's clock and the store's differ: set it"),
        (403, _) | (401, _) => denied(
            "the store does not take these credentials, or not for this bucket: check s3.access_key and s3.secret_key (or the \
             file of s3.credentials_path), s3.region and the bucket's policy",
        ),
        (300..=399, _) => denied("the bucket is elsewhere: check s3.endpoint and s3.region"),
        _ => denied("the store does not take the request: check s3.endpoint, s3.region and s3.path_style"),
    }
}

/// The code in an error's body. Only what a code is made of is taken: nothing else of the body is ever shown.
fn error_code(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(16 << 10)]);
    let code = text.split_once("<Error").and_then(|(_, rest)| rest.split_once("<Code>"));
    let code = code.and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    code.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(operation: Operation, status: u16, body: &str) -> Result<Answer, Failure> {
        let answer = Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        judge(&Call::new(operation, "s/a"), answer)
    }

    fn error(code: &str) -> String {
        format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m</Message></Error>")
    }

    #[test]
    fn answers_are_judged() {
        for (status, code) in
            [(200, ""), (204, ""), (206, ""), (404, "NoSuchKey"), (404, ""), (412, ""), (416, ""), (501, "")]
        {
            assert!(judged(Operation::Get, status, &error(code)).is_ok(), "{status} {code}");
        }
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (503, ""),
            (429, ""),
            (409, "ConditionalRequestConflict"),
            (400, "BadDigest"),
            (400, "RequestTimeout"),
        ] {
            assert!(
                matches!(judged(Operation::Put, status, &error(code)), Err(Failure::Passing(..))),
                "{status} {code}"
            );
        }
        for (status, code) in [
            (403, "SignatureDoesNotMatch"),
            (403, ""),
            (404, "NoSuchBucket"),
            (301, "PermanentRedirect"),
            (400, "ExpiredToken"),
            (405, ""),
        ] {
            let Err(Failure::Lasting(_, error)) = judged(Operation::Put, status, &error(code)) else {
                panic!("{status}")
            };
            let text = error.to_string();
            assert!(text.contains(code) && text.contains("s/a"), "{text}");
        }
    }

    #[test]
    fn a_completion_may_fail_after_its_200() {
        let done = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
        assert!(judged(Operation::CompleteUpload, 200, done).is_ok());
        let failed = judged(Operation::CompleteUpload, 200, &error("InternalError"));
        assert!(matches!(failed, Err(Failure::Passing(..))));
        let failed = judged(Operation::CompleteUpload, 200, &error("InvalidPart"));
        assert!(matches!(failed, Err(Failure::Lasting(..))));
    }

    #[test]
    fn nothing_but_a_code_is_taken_from_a_body() {
        let body =
            "<Error><Code>Signature<DoesNotMatch?X-Amz-Signature=1</Code><StringToSign>s3cret</StringToSign></Error>";
        assert_eq!(error_code(body.as_bytes()), "SignatureDoesNotMatchXAmzSignature1");
        let body = "<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        let Err(Failure::Lasting(_, error)) = judged(Operation::Put, 403, body) else { panic!("it is refused") };
        let text = error.to_string();
        assert!(text.contains("InvalidAccessKeyId") && !text.contains("AKIA"), "{text}");
        assert_eq!(error_code(b"<html>no</html>"), "");
        assert_eq!(error_code(&[0xff; 20_000]), "");
    }

    #[test]
    fn pauses_are_bounded() {
        for tries in 0..40 {
            assert!(pause_after(tries) <= PAUSE_MAX);
        }
    }
}
