//! What handlers answer when all went well: each kind says in the document what status and headers it has.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;
use ttdust_shards::memory::{Held, Patience, held_bytes};

use super::{
    AsItIs,
    operation::{Answers, Described},
    problem::Problem,
};

/// A failure of the server itself, of which each operation is capable that can fail at all.
const ANY_FAILURE: [StatusCode; 3] =
    [StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE];

impl<A: Answers> Answers for Result<A, Problem> {
    fn describe(to: &mut Described) {
        A::describe(to);
        to.fails(&ANY_FAILURE);
    }
}

impl<T: JsonSchema> Answers for Json<T> {
    fn describe(to: &mut Described) {
        to.answer::<T>(StatusCode::OK, &[]);
    }
}

/// Created, and where.
#[derive(Debug)]
pub(super) struct Created<T> {
    pub(super) location: String,
    pub(super) body: T,
}

impl<T: JsonSchema> Answers for Created<T> {
    fn describe(to: &mut Described) {
        to.answer::<T>(StatusCode::CREATED, &["Location"]);
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, [(header::LOCATION, self.location)], Json(self.body)).into_response()
    }
}

/// Created, with a secret in it.
#[derive(Debug)]
pub(super) struct CreatedSecret<T>(pub(super) T);

impl<T: JsonSchema> Answers for CreatedSecret<T> {
    fn describe(to: &mut Described) {
        to.answer::<T>(StatusCode::CREATED, &["Cache-Control"]);
    }
}

impl<T: Serialize> IntoResponse for CreatedSecret<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(self.0)).into_response()
    }
}

/// Begun, and not yet at its end.
#[derive(Debug)]
pub(super) struct Accepted<T>(pub(super) T);

impl<T: JsonSchema> Answers for Accepted<T> {
    fn describe(to: &mut Described) {
        to.answer::<T>(StatusCode::ACCEPTED, &[]);
    }
}

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, Json(self.0)).into_response()
    }
}

/// Done; there is nothing to say.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoContent;

impl Answers for NoContent {
    fn describe(to: &mut Described) {
        to.answer_of(StatusCode::NO_CONTENT, &[], &serde_json::Value::Null);
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

/// An answer with the version of its object, as an ETag.
#[derive(Debug)]
pub(super) struct Versioned<A> {
    pub(super) version: i64,
    pub(super) answer: A,
}

impl<A: Answers> Answers for Versioned<A> {
    fn describe(to: &mut Described) {
        A::describe(to);
        to.header_of_answers("ETag");
    }
}

impl<A: IntoResponse> IntoResponse for Versioned<A> {
    fn into_response(self) -> Response {
        let mut response = self.answer.into_response();
        let etag = HeaderValue::try_from(format!("\"{}\"", self.version)).expect("a number in quotes");
        response.headers_mut().insert(header::ETAG, etag);
        response
    }
}

/// The one or the other.
#[derive(Debug)]
pub(super) enum Either<A, B> {
    /// The one.
    One(A),
    /// The other.
    Other(B),
}

impl<A: Answers, B: Answers> Answers for Either<A, B> {
    fn describe(to: &mut Described) {
        A::describe(to);
        B::describe(to);
    }
}

impl<A: IntoResponse, B: IntoResponse> IntoResponse for Either<A, B> {
    fn into_response(self) -> Response {
        match self {
            Self::One(answer) => answer.into_response(),
            Self::Other(answer) => answer.into_response(),
        }
    }
}

/// JSON that is written already, of the form of a `T`.
#[derive(Debug)]
pub(super) struct Written<T> {
    text: Bytes,
    /// For the connection, which ends a client that does not take it.
    patience: Patience,
    form: std::marker::PhantomData<T>,
}

impl<T> Written<T> {
    /// This text, which holds memory of queries until the client has taken it.
    pub(super) fn new(text: Vec<u8>, held: Held) -> Self {
        let patience = held.patience();
        Self { text: held_bytes(text, held), patience, form: std::marker::PhantomData }
    }
}

impl<T: JsonSchema> Answers for Written<T> {
    fn describe(to: &mut Described) {
        to.answer::<T>(StatusCode::OK, &[]);
    }
}

impl<T> IntoResponse for Written<T> {
    fn into_response(self) -> Response {
        let mut response = json(self.text);
        response.extensions_mut().insert(self.patience);
        response
    }
}

/// The same body with 200 or 503: not a problem, the state of the parts is the answer.
#[derive(Debug)]
pub(super) struct UpOrDown<T> {
    pub(super) up: bool,
    pub(super) body: T,
}

impl<T: JsonSchema> Answers for UpOrDown<T> {
    fn describe(to: &mut Described) {
        to.answer::<T>(StatusCode::OK, &[]);
        to.answer::<T>(StatusCode::SERVICE_UNAVAILABLE, &[]);
    }
}

impl<T: Serialize> IntoResponse for UpOrDown<T> {
    fn into_response(self) -> Response {
        let status = if self.up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut response = (status, Json(self.body)).into_response();
        response.extensions_mut().insert(AsItIs);
        response
    }
}

/// A body of JSON as it is.
pub(super) fn json(text: impl Into<axum::body::Body>) -> Response {
    const JSON: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([JSON], text.into()).into_response()
}
