//! `Idempotency-Key` on requests that create: the same request again gets the first answer again, and creates nothing.
//!
//! A key belongs to its caller. That a request was begun is in the catalog before anything of it is done, and its answer when it
//! is done, for a day: so it holds over a crash, on every node, and whether or not the client stays for the answer. Of answers
//! only successes are kept: a request of which nothing was done may be tried again as it is, and one of which nobody knows what
//! was done is not done again. An API key's text is never stored: the second answer lacks it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Shared,
    extract::{Caller, whole_body},
    operation::{API, Described},
    problem::Problem,
};
use crate::{calendar::now_unix_micros, catalog::RememberedRequest, traces};

pub(super) const KEY_HEADER: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const KEY_BYTES_MAX: usize = 256;
/// The longest answer that is looked at, in bytes: what creates answers with is far shorter.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Headers of an answer that are kept with it.
const KEPT_HEADERS: [HeaderName; 2] = [header::LOCATION, header::ETAG];
/// Members of an answer that are not kept.
const SECRET_MEMBERS: [&str; 1] = ["api_key"];

/// Requests under way on this node, by caller and key.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<HashSet<(String, String)>>>);

/// A request that is under way until this is dropped.
struct Entered(UnderWay, (String, String));

impl UnderWay {
    fn enter(&self, caller: &str, key: &str) -> Option<Entered> {
        let name = (caller.to_owned(), key.to_owned());
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        new.then(|| Entered(self.clone(), name))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// What it adds to the description of an operation that creates.
pub(super) fn describe(to: &mut Described) {
    let about = "Makes it safe to send the request again: one with the same key gets the first answer again, for a day, \
        without what is secret in it.";
    let schema =
        json!({"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX, "pattern": "^[!-~]([ -~]*[!-~])?$"});
    to.parameter("header", "Idempotency-Key", about, &schema);
    to.header_of_answers("Idempotent-Replayed");
    let body = [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE];
    to.fails(&[&body[..], &[StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY]].concat());
}

/// Runs a request, or answers it as before.
pub(super) async fn once(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // Records are taken once each, by the log's own memory of keys.
    let creates = request.method() == Method::POST && path.starts_with(API) && !path.ends_with("/records");
    if !creates || !request.headers().contains_key(KEY_HEADER) {
        return next.run(request).await;
    }
    answered(app, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answered(app: Shared, request: Request, next: Next) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let key = key_of(&parts.headers)?;
    let Caller(caller) = Caller::from_request_parts(&mut parts, &app).await?;
    let body = whole_body(body, app.body_limit).await?;
    let begun = RememberedRequest {
        caller: caller.id.to_string(),
        request_sha256: digest(&parts.method, parts.uri.path_and_query().map_or("", |p| p.as_str()), &body),
        status: RememberedRequest::BEGUN,
        body: uuid::Uuid::new_v4().to_string(),
        created_at: now_unix_micros(),
        key,
    };
    let entered = app.under_way.enter(&begun.caller, &begun.key).ok_or_else(|| {
        let detail = "a request with this Idempotency-Key is under way: wait for its answer";
        Problem::new(StatusCode::CONFLICT, "IDEMPOTENCY_KEY_IN_USE", detail)
    })?;
    let request = Request::from_parts(parts, Body::from(body));
    // On a task of its own: a client that goes away is the one that will ask again.
    let done = tokio::spawn(traces::carried(async move {
        let answer = done_once(&app, begun, request, next).await;
        drop(entered);
        answer
    }));
    done.await.map_err(|error| internal(&error))?
}

/// Does a request that no other has begun, or answers as that one was answered.
async fn done_once(app: &Shared, begun: RememberedRequest, request: Request, next: Next) -> Result<Response, Problem> {
    let known = app.control.begin_request(begun.clone()).await?;
    if known.request_sha256 != begun.request_sha256 {
        let detail = "this Idempotency-Key came with another request before: use a new key for a new request";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED", detail));
    }
    if known.status != RememberedRequest::BEGUN {
        return replay(&known);
    }
    if known != begun {
        let detail = "a request with this Idempotency-Key was begun, and how it ended is not known: look whether it was done, \
            and if it was not, send it with a new key";
        return Err(Problem::new(StatusCode::CONFLICT, "IDEMPOTENCY_KEY_IN_USE", detail));
    }
    let response = next.run(request).await;
    if !response.status().is_success() {
        let problem = response.extensions().get::<Problem>();
        let unknown = response.status().is_server_error() && problem.is_none_or(Problem::may_have_been_done);
        if !unknown && let Err(error) = app.control.forget_request(begun).await {
            tracing::warn!(%error, "a refused request keeps its Idempotency-Key: it needs a new one");
        }
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = to_bytes(body, ANSWER_BYTES_MAX).await.map_err(|e| internal(&e))?;
    let stored = kept(&head.headers, &body).to_string();
    let answered = RememberedRequest { status: head.status.as_u16(), body: stored, ..begun };
    if let Err(error) = app.control.answer_request(answered).await {
        // It is done, and the client is told so; a second try is told that the outcome is not known.
        tracing::warn!(%error, "the answer to a request with an Idempotency-Key is not kept");
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

/// The request's key.
pub(super) fn key_of(headers: &HeaderMap) -> Result<String, Problem> {
    let text = headers.get(KEY_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("");
    if text.is_empty() || text.len() > KEY_BYTES_MAX {
        let detail = format!("an Idempotency-Key is 1 to {KEY_BYTES_MAX} printable ASCII characters");
        return Err(Problem::invalid("Idempotency-Key", detail));
    }
    Ok(text.to_owned())
}

fn digest(method: &Method, path: &str, body: &[u8]) -> [u8; 32] {
    let hash = Sha256::new().chain_update(method.as_str()).chain_update([0]).chain_update(path).chain_update([0]);
    hash.chain_update(body).finalize().into()
}

/// An answer as it is stored: its headers of interest and its body, without secrets.
fn kept(headers: &HeaderMap, body: &Bytes) -> Value {
    let mut body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    if let Some(members) = body.as_object_mut() {
        SECRET_MEMBERS.iter().for_each(|secret| drop(members.remove(*secret)));
    }
    let text = |name: &HeaderName| Some((name.to_string(), json!(headers.get(name)?.to_str().ok()?)));
    let headers: serde_json::Map<_, _> = KEPT_HEADERS.iter().filter_map(text).collect();
    json!({"headers": headers, "body": body})
}

fn replay(known: &RememberedRequest) -> Result<Response, Problem> {
    let stored: Value = serde_json::from_str(&known.body).map_err(|e| internal(&e))?;
    let mut response = (
        StatusCode::from_u16(known.status).map_err(|e| internal(&e))?,
        [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (REPLAYED, "true".parse().expect("plain")),
        ],
        stored["body"].to_string(),
    )
        .into_response();
    for name in KEPT_HEADERS {
        if let Some(value) = stored["headers"][name.as_str()].as_str().and_then(|text| text.parse().ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn internal(error: &dyn std::fmt::Display) -> Problem {
    crate::control::ControlError::Internal(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_at_a_time_has_a_key_of_its_caller() {
        let under_way = UnderWay::default();
        let first = under_way.enter("a", "k").expect("free");
        assert!(under_way.enter("a", "k").is_none());
        assert!(under_way.enter("b", "k").is_some());
        drop(first);
        assert!(under_way.enter("a", "k").is_some());
    }

    #[test]
    fn what_is_kept_has_no_secret_and_gives_the_same_answer() {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_static("/x"))]);
        let body = Bytes::from_static(b"{\"key_id\":\"key_1\",\"api_key\":\"ttd_live_secret\"}");
        let stored = kept(&headers, &body).to_string();
        assert!(!stored.contains("secret"), "{stored}");
        let known = RememberedRequest {
            caller: "a".into(),
            key: "k".into(),
            request_sha256: [0; 32],
            status: 201,
            body: stored,
            created_at: 0,
        };
        let response = replay(&known).expect("an answer");
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()[header::LOCATION], "/x");
        assert_eq!(response.headers()[REPLAYED], "true");
    }

    #[test]
    fn a_request_is_told_by_method_path_and_body() {
        let of = |path: &str, body: &str| digest(&Method::POST, path, body.as_bytes());
        assert_eq!(of("/a", "b"), of("/a", "b"));
        assert_ne!(of("/a", "b"), of("/a", "c"));
        assert_ne!(of("/a", "b"), of("/ab", ""));
    }
}
