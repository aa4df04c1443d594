//! What a handler takes from a request, each failure as a problem.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    Json,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::json;
use ttdust_shards::{
    access::{Access, NotLetIn, Principal},
    tls::PeerIdentity,
};

use super::{
    BODY_TIMEOUT, RequestId, Shared,
    operation::{Described, Takes},
    problem::Problem,
    rates::Limited,
};
use crate::{calendar::now_unix_micros, catalog::Page, control::Actor, metrics::TextFormat};

const PAGE_DEFAULT: u32 = 50;
/// The longest page, in entries.
pub(super) const PAGE_MAX: u32 = 500;

/// Who calls, within its limits.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let access = app.control.current();
        let certificate = parts.extensions.get::<PeerIdentity>();
        // Requests that came over no connection are the tests' own.
        let peer = parts.extensions.get::<PeerAddress>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0);
        let caller = access.access.authenticate(&parts.headers, certificate, peer, now_unix_micros());
        if matches!(access.access, Access::Checked(_)) {
            app.metrics.auth_attempt(if caller.is_ok() { "ok" } else { "refused" });
        }
        if let Err(NotLetIn::RateLimited(over)) = &caller {
            app.metrics.rate_limited(over.category);
        }
        let caller = caller?;
        Limited::of(parts).admit(app, parts, &caller).await?;
        Ok(Self(caller))
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) IpAddr);

impl Takes for Caller {
    fn describe(to: &mut Described) {
        to.secured();
        to.fails(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    }
}

/// Who changes something, and in which request.
pub(super) struct Acting(pub(super) Actor);

impl FromRequestParts<Shared> for Acting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let Caller(caller) = Caller::from_request_parts(parts, app).await?;
        let trace_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        Ok(Self(Actor { caller, trace_id }))
    }
}

impl Takes for Acting {
    fn describe(to: &mut Described) {
        Caller::describe(to);
    }
}

/// The `{id}` of the path.
pub(super) struct Id(pub(super) String);

impl FromRequestParts<Shared> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(id)) => without_nul("id", &id).map(|()| Self(id)),
            Err(rejection) => Err(Problem::invalid("id", rejection.body_text())),
        }
    }
}

impl Takes for Id {
    fn describe(to: &mut Described) {
        let about = "The id of the object; a stream goes by its name as well.";
        to.parameter("path", "id", about, &json!({"type": "string", "minLength": 1}));
        to.fails(&[StatusCode::NOT_FOUND]);
    }
}

/// No text of the catalog holds U+0000, and Postgres does not even look for it.
fn without_nul(parameter: &str, text: &str) -> Result<(), Problem> {
    if text.contains('\0') { Err(no_nul(parameter)) } else { Ok(()) }
}

fn no_nul(parameter: &str) -> Problem {
    Problem::invalid(parameter, "holds the character U+0000, which nothing here does")
}

/// The `{id}` and the `{number}` of the path.
pub(super) struct IdAndNumber(pub(super) String, pub(super) u32);

impl FromRequestParts<Shared> for IdAndNumber {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        match Path::<(String, u32)>::from_request_parts(parts, app).await {
            Ok(Path((id, number))) => without_nul("id", &id).map(|()| Self(id, number)),
            Err(rejection) => Err(Problem::invalid("number", rejection.body_text())),
        }
    }
}

impl Takes for IdAndNumber {
    fn describe(to: &mut Described) {
        Id::describe(to);
        let schema = json!({"type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX});
        to.parameter("path", "number", "The number of the version.", &schema);
    }
}

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "send the body as JSON, with content-type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT", detail));
        }
        let bytes = whole_body(request.into_body(), app.body_limit).await?;
        let Json(value) = Json::from_bytes(&bytes).map_err(|rejection| Problem::invalid("", rejection.body_text()))?;
        Ok(Self(value))
    }
}

impl<T: JsonSchema> Takes for JsonBody<T> {
    fn describe(to: &mut Described) {
        to.body::<T>();
        to.fails(&[StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE]);
    }
}

/// A body of at most `limit` bytes, in time.
pub(super) async fn whole_body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    whole_body_within(body, limit, "limits.http_body_bytes").await
}

/// The same, by the limit that is set by this key.
pub(super) async fn whole_body_within(body: Body, limit: usize, key: &str) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(body_problem(&error, limit, key)),
        Err(_) => {
            let detail = format!("the body did not arrive in {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "DEADLINE_EXCEEDED", detail))
        }
    }
}

fn body_problem(error: &axum::Error, limit: usize, key: &str) -> Problem {
    use std::error::Error as _;
    if error.source().is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
        let detail = format!("the body is over the limit of {limit} bytes ({key})");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "RESOURCE_EXHAUSTED", detail);
    }
    Problem::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", format!("the body cannot be read: {error}"))
}

/// Whether the body says that it is JSON. One that says nothing may be a web page's, which could send it unasked.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let kind = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The parameters after `?`.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        // Nothing else is decoded to U+0000.
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(no_nul("query"));
        }
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::invalid("query", rejection.body_text())),
        }
    }
}

impl<T: JsonSchema> Takes for Parameters<T> {
    const QUERY: bool = true;

    fn describe(to: &mut Described) {
        to.query::<T>();
    }
}

/// The part of a list that is asked for.
pub(super) fn page(size: Option<u32>, token: Option<String>) -> Result<Page, Problem> {
    let limit = size.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid("page_size", format!("page_size is a number from 1 to {PAGE_MAX}")));
    }
    Ok(Page { after: token.unwrap_or_default(), limit })
}

/// The token of the next part, if this one is full.
pub(super) fn next_token<T>(entries: &[T], page: &Page, id: impl FnOnce(&T) -> String) -> Option<String> {
    (entries.len() == page.limit as usize).then(|| entries.last().map(id)).flatten()
}

/// The object version that `If-Match` asks for; `None`: any.
pub(super) struct IfMatch(pub(super) Option<i64>);

impl FromRequestParts<Shared> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        if_match(&parts.headers).map(Self)
    }
}

impl Takes for IfMatch {
    fn describe(to: &mut Described) {
        let about = "The ETag of the object as it was read: a change of another version is refused. Missing or *: any.";
        to.parameter("header", "If-Match", about, &json!({"type": "string"}));
        to.fails(&[StatusCode::PRECONDITION_FAILED]);
    }
}

/// The text format that a scraper asks for.
pub(super) struct AskedFormat(pub(super) TextFormat);

impl FromRequestParts<Shared> for AskedFormat {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Self::Rejection> {
        let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        Ok(Self(TextFormat::asked_for(accept)))
    }
}

impl Takes for AskedFormat {
    // OpenAPI has it that a parameter of the name Accept is ignored: the media types of the answer say it.
    fn describe(_: &mut Described) {}
}

fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("").trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
    let unknown = || {
        let detail = "if-match holds no ETag of ours: send the one that GET answered";
        Problem::new(StatusCode::PRECONDITION_FAILED, "VERSION_MISMATCH", detail)
    };
    version.map(Some).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        [(header::HeaderName::from_static(name), header::HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn only_json_is_taken() {
        assert!(!is_json(&HeaderMap::new()));
        assert!(is_json(&headers("content-type", "application/json; charset=utf-8")));
        assert!(is_json(&headers("content-type", "application/merge-patch+json")));
        assert!(!is_json(&headers("content-type", "application/x-www-form-urlencoded")));
    }

    #[test]
    fn versions_come_from_if_match() {
        assert!(matches!(if_match(&HeaderMap::new()), Ok(None)));
        assert!(matches!(if_match(&headers("if-match", "*")), Ok(None)));
        assert!(matches!(if_match(&headers("if-match", "\"7\"")), Ok(Some(7))));
        assert!(if_match(&headers("if-match", "7")).is_err());
    }

    #[test]
    fn pages_are_bounded_and_end() {
        assert!(page(Some(0), None).is_err() && page(Some(501), None).is_err());
        let asked = page(Some(2), Some("a".into())).expect("valid");
        assert_eq!(next_token(&["b", "c"], &asked, |s| (*s).to_string()), Some("c".into()));
        assert_eq!(next_token(&["b"], &asked, |s| (*s).to_string()), None);
    }
}
