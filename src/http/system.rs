//! Configuration, health and metrics.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ttdust_shards::access::Action;

use super::{
    Shared,
    answer::UpOrDown,
    extract::{Acting, AskedFormat, Caller, JsonBody},
    operation::{Answers, Described, Route},
    problem::Problem,
    to_the_end,
};
use crate::{
    config::{self, Loaded, Origin, RELOADABLE, SETTINGS},
    control::Component,
    metrics::TextFormat,
};

const CONFIG: &str = "/api/v1/config";

pub(super) fn routes_of_config() -> Vec<Route> {
    vec![
        Route::get(CONFIG, "getConfig", "Read all settings and where each comes from", config),
        Route::new(Method::PATCH, CONFIG, "changeConfig", "Change settings until the next start: all or none", change)
            .fails(&[StatusCode::CONFLICT]),
    ]
}

pub(super) fn routes_of_probes() -> Vec<Route> {
    vec![
        Route::get("/health/live", "getLiveness", "Ask whether the server runs", live),
        Route::get("/health/ready", "getReadiness", "Ask whether the server can do its work, part by part", ready),
        Route::get("/metrics", "getMetrics", "Scrape metrics, as Prometheus or OpenMetrics text", metrics),
    ]
}

/// Texts, numbers and flags, as the file has them, by key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangeConfig {
    #[schemars(extend("additionalProperties" = {"type": ["string", "number", "boolean"]}))]
    settings: BTreeMap<String, Value>,
}

/// What is in force, by key; of a secret, only whether there is one.
#[derive(Serialize, JsonSchema)]
struct Settings {
    settings: BTreeMap<&'static str, Setting>,
}

#[derive(Serialize, JsonSchema)]
struct Setting {
    /// As it would stand in the file.
    value: String,
    /// Where it comes from.
    source: &'static str,
    /// Whether a running server takes a change of it over.
    reloadable: bool,
}

impl From<&Loaded> for Settings {
    fn from(loaded: &Loaded) -> Self {
        let row = |(setting, (value, origin)): (&config::Setting, &(String, Origin))| {
            let (value, source, reloadable) = (value.clone(), origin.name(), RELOADABLE.contains(&setting.key));
            (setting.key, Setting { value, source, reloadable })
        };
        Self { settings: SETTINGS.iter().zip(&loaded.values).map(row).collect() }
    }
}

async fn config(State(app): State<Shared>, Caller(caller): Caller) -> Result<Json<Settings>, Problem> {
    caller.require(Action::ReadConfig)?;
    Ok(Json(app.control.settings().as_ref().into()))
}

async fn change(
    State(app): State<Shared>,
    Acting(actor): Acting,
    JsonBody(body): JsonBody<ChangeConfig>,
) -> Result<Json<Settings>, Problem> {
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
    Ok(Json(loaded.as_ref().into()))
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Health {
    Ok,
    Down,
}

impl Health {
    fn of(up: bool) -> Self {
        if up { Self::Ok } else { Self::Down }
    }
}

#[derive(Serialize, JsonSchema)]
struct Liveness {
    status: Health,
}

async fn live() -> Json<Liveness> {
    Json(Liveness { status: Health::Ok })
}

/// How the server and its parts stand.
#[derive(Serialize, JsonSchema)]
struct Readiness {
    status: Health,
    components: BTreeMap<String, Part>,
}

#[derive(Serialize, JsonSchema)]
struct Part {
    status: Health,
    /// How long it took to answer.
    latency_ms: f64,
    /// For people; empty: nothing to say.
    detail: String,
}

impl From<Component> for Part {
    fn from(part: Component) -> Self {
        Self { status: Health::of(part.up), latency_ms: part.latency_ms, detail: part.detail }
    }
}

async fn ready(State(app): State<Shared>) -> UpOrDown<Readiness> {
    let readiness = Box::pin(app.control.readiness()).await;
    let components = readiness.components.into_iter().map(|(name, part)| (name, part.into())).collect();
    UpOrDown { up: readiness.ready, body: Readiness { status: Health::of(readiness.ready), components } }
}

/// Metrics in one of the text formats.
struct MetricsText(TextFormat, String);

impl Answers for MetricsText {
    fn describe(to: &mut Described) {
        let formats = [TextFormat::Prometheus, TextFormat::OpenMetrics];
        let content = formats.map(|format| (format.content_type().to_owned(), json!({"schema": {"type": "string"}})));
        to.answer_of(StatusCode::OK, &[], &serde_json::Map::from_iter(content).into());
    }
}

impl IntoResponse for MetricsText {
    fn into_response(self) -> Response {
        ([("content-type", self.0.content_type())], self.1).into_response()
    }
}

async fn metrics(State(app): State<Shared>, AskedFormat(format): AskedFormat) -> MetricsText {
    MetricsText(format, app.exposition.text(format))
}
