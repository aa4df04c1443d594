//! Configuration, health and metrics.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use ttdust_shards::access::Action;

use super::{
    Answer, Shared,
    extract::{Acting, Caller, JsonBody},
    problem::Problem,
    to_the_end,
};
use crate::{
    config::{Loaded, Origin, RELOADABLE, SETTINGS, Setting},
    metrics::TextFormat,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeConfig {
    settings: BTreeMap<String, Value>,
}

/// What is in force, by key.
fn settings_json(loaded: &Loaded) -> Value {
    let row = |(setting, (value, origin)): (&Setting, &(String, Origin))| {
        let reloadable = RELOADABLE.contains(&setting.key);
        (setting.key.to_owned(), json!({"value": value, "source": origin.name(), "reloadable": reloadable}))
    };
    json!({"settings": SETTINGS.iter().zip(&loaded.values).map(row).collect::<Map<_, _>>()})
}

pub(super) async fn config(State(app): State<Shared>, Caller(caller): Caller) -> Answer {
    caller.require(Action::ReadConfig)?;
    Ok(Json(settings_json(&app.control.settings())).into_response())
}

/// Changes settings until the next start: texts, numbers and flags, as the file has them.
pub(super) async fn change_config(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<ChangeConfig>,
) -> Answer {
    actor.caller.require(Action::ChangeConfig)?;
    let mut changes = Vec::new();
    for (key, value) in body.settings {
        let text = match value {
            Value::String(text) => text,
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => {
                return Err(Problem::invalid(&format!("/settings/{key}"), "a text, a number, true or false is wanted"));
            }
        };
        changes.push((key, text));
    }
    let loaded = to_the_end(async move { app.control.change_settings(&actor, changes).await }).await?;
    Ok(Json(settings_json(&loaded)).into_response())
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
