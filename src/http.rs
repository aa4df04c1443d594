//! REST: thin handlers over [`Control`]. Every answer that is no success is a problem+json with the request's id. And the console,
//! which uses nothing else.

mod answer;
mod audit;
mod connections;
mod extract;
mod idempotency;
mod ingest;
mod jobs;
mod keys;
mod openapi;
mod operation;
mod origin;
mod pipelines;
mod problem;
mod rates;
mod records;
mod reference;
mod replays;
mod schemas;
mod streams;
mod system;
mod tail;
mod ui;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode},
    middleware::{self, Next},
    response::Response,
};

use ttdust_shards::trace::{TraceId, w3c::Incoming};

use crate::{
    control::{Control, ControlError},
    metrics::{ControlMetrics, Exposition},
    producer::Producer,
    tails::Tails,
    traces::{self, Open, Traces},
};
use operation::Route;
use problem::Problem;

pub use connections::{ConnectionLimits, Tls, serve};
pub use idempotency::UnderWay;
pub use ingest::Batches;
pub use openapi::text as openapi;
pub use reference::markdown as openapi_markdown;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_ID: &str = "x-request-id";
/// What is told of a request's path.
const PATH_CHARS: usize = 256;

/// What the handlers work on.
#[derive(Debug)]
pub struct App {
    /// The control plane.
    pub control: Arc<Control>,
    /// What is counted.
    pub metrics: Arc<ControlMetrics>,
    /// What a scrape shows.
    pub exposition: Exposition,
    /// A request's body, in bytes.
    pub body_limit: usize,
    /// Whether only this machine can reach it.
    pub on_loopback: bool,
    /// Requests with an `Idempotency-Key`.
    pub under_way: UnderWay,
    /// Takes records.
    pub producer: Arc<Producer>,
    /// Memory for bodies with records.
    pub batches: Batches,
    /// Readers that follow streams.
    pub tails: Arc<Tails>,
    /// Tells of requests.
    pub traces: Traces,
}

/// The id of a request, for what is done in it.
#[derive(Debug, Clone)]
struct RequestId(String);

/// Marks an answer that goes out as it is, whatever its status.
#[derive(Debug, Clone, Copy)]
struct AsItIs;

type Shared = Arc<App>;

/// Operations that belong together.
struct Group {
    tag: &'static str,
    about: &'static str,
    routes: Vec<Route>,
}

/// All that is served, and by this list all that is documented.
fn routes() -> Vec<Group> {
    let group = |tag, about, routes| Group { tag, about, routes };
    vec![
        group("schemas", "What records must look like, version by version.", schemas::routes()),
        group("streams", "Where records go.", streams::routes()),
        group("pipelines", "What readers see of a stream's records.", pipelines::routes()),
        group("dead-letters", "What was not taken, once more.", replays::routes()),
        group(
            "records",
            "Writing records, reading them, and following them.",
            [ingest::routes(), records::routes(), tail::routes()].into_iter().flatten().collect(),
        ),
        group("jobs", "Imports of objects into streams, and replays of dead letters.", jobs::routes()),
        group("api-keys", "Credentials of programs.", keys::routes()),
        group("audit-log", "Who changed what.", audit::routes()),
        group("config", "What is in force.", system::routes_of_config()),
        group("health", "For whatever watches the server; no credential is needed.", system::routes_of_probes()),
        group("document", "This document; no credential is needed.", openapi::routes_of_document()),
    ]
}

/// The router of all routes.
pub fn router(app: Arc<App>) -> Router {
    let served = routes().into_iter().flat_map(|group| group.routes);
    ui::serve(served.fold(Router::new(), |router, route| route.serve(router)))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such path"))
        .method_not_allowed_fallback(async || {
            let detail = "this path does not take this method; the allow header names those it does";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail)
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), idempotency::once))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), origin::check))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), finish))
        .with_state(app)
}

/// Gives each request an id, counts it, and writes problems out.
async fn finish(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map(MatchedPath::as_str);
    let incoming = Incoming::of(request.headers());
    let mut span = trace(&app.traces, &incoming, method, route, request.uri().path());
    let id = request_id(request.headers().get(REQUEST_ID), span.trace().or(incoming.trace()));
    span.note("ttdust.request_id", &id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let limited = rates::Limited::default();
    request.extensions_mut().insert(limited.clone());
    let asked = request.method().clone();
    let mut response = span.scope(next.run(request)).await;
    if let Some(path) = &path {
        let status = response.status();
        let documented = !cfg!(debug_assertions)
            || ui::is_of(path.as_str())
            || openapi::is_documented(&asked, path.as_str(), status);
        assert!(documented, "{asked} {} answers {status}, which its route does not tell of", path.as_str());
    }
    let failed = response.status().is_client_error() || response.status().is_server_error();
    if failed && response.extensions().get::<AsItIs>().is_none() {
        response = span.scope(async { written_out(response, &id) }).await;
    }
    note_status(&mut span, response.status());
    drop(span);
    app.metrics.request_done(method, path.as_ref().map_or("none", MatchedPath::as_str), response.status().as_u16());
    limited.put_headers(response.headers_mut());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A span for a request, by the conventions for HTTP. Whoever watches the server is not traced.
fn trace(traces: &Traces, incoming: &Incoming, method: &'static str, route: Option<&str>, path: &str) -> Open {
    if path == "/metrics" || path.starts_with("/health/") {
        return Open::default();
    }
    let mut span = traces.request(incoming, || match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    });
    span.note("http.request.method", method);
    if span.is_traced() {
        span.note("url.path", path.chars().take(PATH_CHARS).collect::<String>());
        route.iter().for_each(|route| span.note("http.route", (*route).to_owned()));
    }
    span
}

fn note_status(span: &mut Open, status: StatusCode) {
    span.note("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.fail(status);
        span.note("error.type", i64::from(status.as_u16()).to_string());
    }
}

fn written_out(response: Response, id: &str) -> Response {
    let (mut parts, _) = response.into_parts();
    let problem = parts.extensions.remove::<Problem>().unwrap_or_else(|| Problem::of_status(parts.status));
    if parts.status.is_server_error() {
        tracing::error!(request_id = id, status = parts.status.as_u16(), detail = %problem.detail, "a request failed");
    }
    parts.headers.remove("content-length");
    parts.headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_seconds {
        parts.headers.insert("retry-after", HeaderValue::from(seconds));
    }
    if parts.status == StatusCode::UNAUTHORIZED {
        parts.headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
    }
    Response::from_parts(parts, Body::from(problem.json(id)))
}

/// The client's own id if it is a plain one, else that of its trace, else a new one.
fn request_id(given: Option<&HeaderValue>, trace: Option<TraceId>) -> String {
    let plain = |text: &&str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !text.is_empty() && text.len() <= 128 && text.bytes().all(inner)
    };
    let given = given.and_then(|value| value.to_str().ok()).filter(plain);
    let new = || trace.unwrap_or_else(TraceId::generate).to_string();
    given.map_or_else(new, str::to_owned)
}

/// A method as a label: clients may invent methods without end.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::PUT => "PUT",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Runs a change to its end, whether or not the client stays for the answer.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(traces::carried(change)).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(ControlError::Internal(error.to_string()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_request_id_is_kept_and_another_replaced() {
        let given = |text| HeaderValue::from_bytes(text).expect("a header value");
        let trace = Some(TraceId(0xab));
        assert_eq!(request_id(Some(&given(b"abc-1.2_x")), trace), "abc-1.2_x");
        for bad in [&b""[..], b"a b", b"\"", &[b'x'; 129], b"\xff"] {
            assert_eq!(request_id(Some(&given(bad)), None).len(), 32);
        }
        assert_eq!(request_id(None, None).len(), 32);
        assert_eq!(request_id(None, trace), "000000000000000000000000000000ab");
    }
}
