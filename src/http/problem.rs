//! Errors as RFC 9457 problem+json: the one translation from the control plane's errors to REST.

use std::time::Duration;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use ttdust_shards::{
    access::{Forbidden, NotLetIn, Unauthenticated},
    rate::RateLimited,
    status::{Code, Status},
};

use crate::{
    calendar::TimeError,
    control::{ControlError, FieldError},
    query::QueryParameterError,
};

/// What a status means that is answered with a problem.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: u16,
    /// Its name in the document.
    pub(super) name: &'static str,
    /// The codes that it comes with.
    pub(super) codes: &'static [&'static str],
    /// Headers that it always has.
    pub(super) headers: &'static [&'static str],
    pub(super) about: &'static str,
}

const fn failure_of(
    status: u16,
    name: &'static str,
    codes: &'static [&'static str],
    headers: &'static [&'static str],
    about: &'static str,
) -> Failure {
    Failure { status, name, codes, headers, about }
}

/// Every status that is no success, with its codes: a problem of any other is an error in the server.
#[rustfmt::skip]
pub(super) const FAILURES: &[Failure] = &[
    failure_of(400, "BadRequest", &["INVALID_ARGUMENT", "KEY_TOO_LONG", "METADATA_TOO_LARGE"], &[],
        "A member, parameter or header is at fault; `errors` names it."),
    failure_of(401, "Unauthorized", &["UNAUTHENTICATED"], &["WWW-Authenticate"], "No valid credential was shown."),
    failure_of(403, "Forbidden", &["PERMISSION_DENIED"], &[], "The caller's role does not permit it; or access is open, and it may be a web page's request."),
    failure_of(404, "NotFound", &["NOT_FOUND", "STREAM_NOT_FOUND"], &[], "It does not exist, or not for this caller."),
    failure_of(405, "MethodNotAllowed", &["METHOD_NOT_ALLOWED"], &["Allow"], "The path does not take the method."),
    failure_of(408, "RequestTimeout", &["DEADLINE_EXCEEDED"], &[], "The body did not arrive in time."),
    failure_of(409, "Conflict",
        &["ALREADY_EXISTS", "FAILED_PRECONDITION", "IDEMPOTENCY_KEY_IN_USE", "INCOMPATIBLE_SCHEMA", "STREAM_PAUSED", "STREAM_DELETING",
            "DEAD_LETTERS_STREAM", "DLQ_MISSING", "BREAKS_PIPELINE"], &[],
        "It is not possible as things stand."),
    failure_of(412, "PreconditionFailed", &["VERSION_MISMATCH"], &[], "The object is not at the version of If-Match."),
    failure_of(413, "ContentTooLarge", &["RESOURCE_EXHAUSTED"], &[], "The body is over limits.http_body_bytes; or of records, over limits.message_bytes or limits.records_per_request."),
    failure_of(415, "UnsupportedMediaType", &["INVALID_ARGUMENT"], &[], "The body is not said to be of a type, or not compressed in a way, that the operation takes."),
    failure_of(422, "UnprocessableContent", &["IDEMPOTENCY_KEY_REUSED", "INVALID_RECORDS"], &[],
        "The Idempotency-Key came with another request before; or records are bad, and nothing was taken: `errors` names them."),
    failure_of(429, "TooManyRequests", &["RESOURCE_EXHAUSTED", "RATE_LIMITED", "BACKPRESSURE", "IDEMPOTENCY_KEYS_FULL", "CHECKERS_BUSY", "TOO_MANY_JOBS"], &["Retry-After"],
        "Too much at once."),
    failure_of(500, "InternalServerError", &["INTERNAL"], &[], "A fault in the server or its data; the log says more."),
    failure_of(501, "NotImplemented", &["UNIMPLEMENTED"], &[], "This version of the server cannot do it yet."),
    failure_of(503, "ServiceUnavailable", &["UNAVAILABLE", "LOG_FULL", "DRAINING", "SHARD_STOPPED", "OUTCOME_UNKNOWN"], &["Retry-After"],
        "A part that is needed does not answer. Of records only OUTCOME_UNKNOWN says that they may have been taken."),
    failure_of(504, "GatewayTimeout", &["QUERY_TIMEOUT"], &[], "It took longer than it may."),
];

/// What a status means.
///
/// # Panics
/// It is not in the table.
pub(super) fn failure(status: u16) -> &'static Failure {
    let known = FAILURES.iter().find(|failure| failure.status == status);
    known.unwrap_or_else(|| panic!("problem::FAILURES lacks the status {status}"))
}

/// An answer that is no success. Written out by the outermost layer, which knows the request's id.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    pub(super) detail: String,
    errors: Vec<FieldError>,
    pub(super) retry_after_seconds: Option<u32>,
    /// The server is going, and did nothing.
    draining: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(failure(status.as_u16()).codes.contains(&code), "problem::FAILURES lacks {status} {code}");
        let later = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: later.then_some(1),
            draining: false,
        }
    }

    /// For an answer of the web framework itself.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let known = FAILURES.iter().find(|failure| failure.status == status.as_u16());
        let code = known.map_or("INTERNAL", |failure| failure.codes[0]);
        Self::new(status, code, status.canonical_reason().unwrap_or("the request failed"))
    }

    pub(super) fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        ControlError::field(pointer, detail).into()
    }

    /// The same, with these fields at fault.
    pub(super) fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    /// Whether what was asked for may have been done all the same.
    pub(super) fn may_have_been_done(&self) -> bool {
        self.status.is_server_error() && self.status != StatusCode::NOT_IMPLEMENTED && !self.draining
    }

    pub(super) fn json(&self, trace_id: &str) -> String {
        let mut body = json!({
            "type": format!("urn:ttdust:error:{}", self.code.to_ascii_lowercase().replace('_', "-")),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "trace_id": trace_id,
        });
        if !self.errors.is_empty() {
            let errors = self.errors.iter().map(|e| json!({"pointer": e.pointer, "detail": e.detail}));
            body["errors"] = errors.collect();
        }
        body.to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::NotFound(_) => StatusCode::NOT_FOUND,
            ControlError::AlreadyExists(_)
            | ControlError::Conflict(_)
            | ControlError::Incompatible { .. }
            | ControlError::BreaksPipelines(_) => StatusCode::CONFLICT,
            ControlError::Invalid { .. } => StatusCode::BAD_REQUEST,
            ControlError::Stale(_) => StatusCode::PRECONDITION_FAILED,
            ControlError::NotAvailable(_) => StatusCode::NOT_IMPLEMENTED,
            ControlError::Overloaded
            | ControlError::NoMemory(_)
            | ControlError::TooManyJobs(_)
            | ControlError::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            ControlError::Unavailable(_) | ControlError::Draining => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            ControlError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut problem = Self::new(status, error.code(), error.to_string());
        problem.draining = error == ControlError::Draining;
        if let ControlError::RateLimited(over) = &error {
            problem.retry_after_seconds = Some(whole_seconds(over.retry_after));
        }
        problem.errors = match error {
            ControlError::Invalid { fields, .. } => fields,
            ControlError::Incompatible { violations, .. } => violations
                .into_iter()
                .map(|v| FieldError { pointer: format!("/definition{}", v.pointer), detail: v.reason })
                .collect(),
            ControlError::BreaksPipelines(faults) => faults
                .iter()
                .map(|fault| FieldError { pointer: "/definition".to_owned(), detail: fault.to_string() })
                .collect(),
            _ => Vec::new(),
        };
        problem
    }
}

/// The same end as a call of gRPC has.
impl From<Status> for Problem {
    fn from(end: Status) -> Self {
        let status = match end.code {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Ok | Code::Cancelled | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // Reasons that only gRPC has are told in REST's own words.
        let known = failure(status.as_u16()).codes;
        let code = match status {
            _ if known.contains(&end.reason) => end.reason,
            StatusCode::CONFLICT => "FAILED_PRECONDITION",
            _ => known[0],
        };
        let mut problem = Self::new(status, code, end.message);
        problem.draining = code == "DRAINING";
        if let Some(after) = end.retry_after {
            problem.retry_after_seconds = Some(whole_seconds(after).max(1));
        }
        let fields = end.violations.into_iter();
        problem.errors = fields.map(|(pointer, detail)| FieldError { pointer, detail }).collect();
        problem
    }
}

impl From<Unauthenticated> for Problem {
    fn from(error: Unauthenticated) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", error.to_string())
    }
}

impl From<RateLimited> for Problem {
    fn from(error: RateLimited) -> Self {
        ControlError::from(error).into()
    }
}

impl From<NotLetIn> for Problem {
    fn from(error: NotLetIn) -> Self {
        match error {
            NotLetIn::Unauthenticated(error) => error.into(),
            NotLetIn::RateLimited(error) => error.into(),
        }
    }
}

/// As HTTP counts them: rounded up.
pub(super) fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

impl From<Forbidden> for Problem {
    fn from(error: Forbidden) -> Self {
        Self::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", error.to_string())
    }
}

impl From<QueryParameterError> for Problem {
    fn from(error: QueryParameterError) -> Self {
        ControlError::from(error).into()
    }
}

/// The problem of a parameter that is no time.
pub(super) fn no_time(parameter: &'static str) -> impl FnOnce(TimeError) -> Problem {
    move |error| Problem::invalid(parameter, format!("{parameter}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_every_member_of_the_contract() {
        let problem = Problem::from(ControlError::field("/name", "too long"));
        let body: serde_json::Value = serde_json::from_str(&problem.json("t1")).expect("JSON");
        assert_eq!(
            body,
            json!({
                "type": "urn:ttdust:error:invalid-argument",
                "title": "Bad Request",
                "status": 400,
                "detail": "too long",
                "code": "INVALID_ARGUMENT",
                "trace_id": "t1",
                "errors": [{"pointer": "/name", "detail": "too long"}],
            })
        );
    }

    #[test]
    fn only_of_a_failed_server_nobody_knows_what_it_did() {
        let of = |error: ControlError| Problem::from(error).may_have_been_done();
        assert!(of(ControlError::Unavailable("it is saved, but".into())) && of(ControlError::Internal(String::new())));
        assert!(!of(ControlError::Draining) && !of(ControlError::Overloaded) && !of(ControlError::Stale(1)));
        assert!(!of(ControlError::NotAvailable(String::new())) && !of(ControlError::Conflict(String::new())));
    }

    #[test]
    fn what_may_work_later_says_when_to_try_again() {
        assert_eq!(Problem::from(ControlError::Overloaded).retry_after_seconds, Some(1));
        assert_eq!(Problem::from(ControlError::Internal(String::new())).retry_after_seconds, None);
    }
}
