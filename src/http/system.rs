//! Configuration, health and metrics.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use ttdust_shards::access::Action;

use super::{
    Shared,
    answer::UpOrDown,
    extract::{AskedFormat, Caller},
    operation::{Answers, Described, Route},
    problem::Problem,
};
use crate::{config::SETTINGS, control::Component, metrics::TextFormat};

pub(super) fn routes_of_config() -> Vec<Route> {
    vec![Route::get("/api/v1/config", "getConfig", "Read all settings and where each comes from", config)]
}

pub(super) fn routes_of_probes() -> Vec<Route> {
    vec![
        Route::get("/health/live", "getLiveness", "Ask whether the server runs", live),
        Route::get("/health/ready", "getReadiness", "Ask whether the server can do its work, part by part", ready),
        Route::get("/metrics", "getMetrics", "Scrape metrics, as Prometheus or OpenMetrics text", metrics),
    ]
}

/// What is in force, by key. No setting of this version is a secret.
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
}

async fn config(State(app): State<Shared>, Caller(caller): Caller) -> Result<Json<Settings>, Problem> {
    caller.require(Action::ReadConfig)?;
    let values = app.control.config().loaded.values.iter();
    let settings = SETTINGS
        .iter()
        .zip(values)
        .map(|(setting, (value, origin))| (setting.key, Setting { value: value.to_string(), source: origin.name() }));
    Ok(Json(Settings { settings: settings.collect() }))
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
    let readiness = app.control.readiness().await;
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
