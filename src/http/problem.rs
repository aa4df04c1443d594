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
};

use crate::{
    calendar::TimeError,
    control::{ControlError, FieldError},
    query::QueryParameterError,
};

/// An answer that is no success. Written out by the outermost layer, which knows the request's id.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    pub(super) detail: String,
    errors: Vec<FieldError>,
    pub(super) retry_after_seconds: Option<u32>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after_seconds: None }
    }

    /// For an answer of the web framework itself.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let code = if status.is_server_error() { "INTERNAL" } else { "INVALID_ARGUMENT" };
        Self::new(status, code, status.canonical_reason().unwrap_or("the request failed"))
    }

    pub(super) fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        ControlError::field(pointer, detail).into()
    }

    pub(super) fn not_available(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED", detail)
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
            ControlError::AlreadyExists(_) | ControlError::Conflict(_) | ControlError::Incompatible { .. } => {
                StatusCode::CONFLICT
            }
            ControlError::Invalid { .. } => StatusCode::BAD_REQUEST,
            ControlError::Stale(_) => StatusCode::PRECONDITION_FAILED,
            ControlError::NotAvailable(_) => StatusCode::NOT_IMPLEMENTED,
            ControlError::Overloaded | ControlError::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            ControlError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ControlError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut problem = Self::new(status, error.code(), error.to_string());
        if matches!(error, ControlError::Overloaded | ControlError::Unavailable(_)) {
            problem.retry_after_seconds = Some(1);
        }
        if let ControlError::RateLimited(over) = &error {
            problem.retry_after_seconds = Some(whole_seconds(over.retry_after));
        }
        problem.errors = match error {
            ControlError::Invalid { fields, .. } => fields,
            ControlError::Incompatible { violations, .. } => violations
                .into_iter()
                .map(|v| FieldError { pointer: format!("/definition{}", v.pointer), detail: v.reason })
                .collect(),
            _ => Vec::new(),
        };
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
    fn what_may_work_later_says_when_to_try_again() {
        assert_eq!(Problem::from(ControlError::Overloaded).retry_after_seconds, Some(1));
        assert_eq!(Problem::from(ControlError::Internal(String::new())).retry_after_seconds, None);
    }
}
