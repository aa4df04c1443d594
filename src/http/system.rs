//! Configuration, health and metrics.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use ttdust_shards::access::Action;

use super::{Answer, Shared, extract::Caller};
use crate::{config::SETTINGS, metrics::TextFormat};

/// What is in force, by key, without passwords.
pub(super) async fn config(State(app): State<Shared>, Caller(caller): Caller) -> Answer {
    caller.require(Action::ReadConfig)?;
    let values = &app.control.config().loaded.values;
    let settings: Map<_, _> = SETTINGS
        .iter()
        .zip(values)
        .map(|(setting, (value, origin))| {
            (setting.key.to_owned(), json!({"value": setting.shown(value), "source": origin.name()}))
        })
        .collect();
    Ok(Json(json!({"settings": settings})).into_response())
}

pub(super) async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(super) async fn ready(State(app): State<Shared>) -> Response {
    let readiness = app.control.readiness().await;
    let name = |up| if up { "ok" } else { "down" };
    let components: Map<_, _> = readiness
        .components
        .into_iter()
        .map(|(part, c)| (part, json!({"status": name(c.up), "latency_ms": c.latency_ms, "detail": c.detail})))
        .collect();
    let body = json!({"status": name(readiness.ready), "components": components}).to_string();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, [("content-type", "application/json")], body).into_response();
    // Not a problem: the parts' states are the answer.
    response.extensions_mut().insert(super::AsItIs);
    response
}

pub(super) async fn metrics(State(app): State<Shared>, headers: HeaderMap) -> Response {
    let format = TextFormat::asked_for(headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()));
    ([("content-type", format.content_type())], app.exposition.text(format)).into_response()
}
