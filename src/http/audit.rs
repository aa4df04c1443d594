//! `/api/v1/audit-log`.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ttdust_shards::access::Action;

use super::{
    Shared,
    extract::{Caller, PAGE_MAX, Parameters, next_token, page},
    operation::Route,
    problem::{Problem, no_time},
};
use crate::{
    calendar::{parse_time, rfc3339},
    catalog::{AuditEntry as Entry, AuditFilter},
};

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/api/v1/audit-log", "listAuditLog", "List changes, the newest first", list)]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListAudit {
    /// Changes of the object with this id.
    object_id: Option<String>,
    /// Changes by this caller.
    actor: Option<String>,
    /// Changes at or after this time: RFC 3339, or Unix microseconds.
    since: Option<String>,
    /// Entries of a page.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    page_size: Option<u32>,
    /// The next_page_token of the page before.
    page_token: Option<String>,
}

/// Who did what to which object.
#[derive(Serialize, JsonSchema)]
struct AuditEntry {
    id: String,
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// The caller's id: `key_…`, `jwt:…`, `cert:…`, `open` or `system`.
    actor: String,
    role: String,
    /// What was done, such as `stream.create`.
    action: String,
    /// `schema`, `stream` or `api_key`.
    object_kind: String,
    object_id: String,
    /// The id of the request; empty: the server did it by itself.
    trace_id: String,
    /// The object before; null: it was not there.
    before: Option<Value>,
    /// The object after; null: it is not there any more.
    after: Option<Value>,
}

#[derive(Serialize, JsonSchema)]
struct AuditPage {
    entries: Vec<AuditEntry>,
    next_page_token: Option<String>,
}

impl From<Entry> for AuditEntry {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            at: rfc3339(entry.at),
            actor: entry.actor,
            role: entry.role,
            action: entry.action,
            object_kind: entry.object_kind,
            object_id: entry.object_id,
            trace_id: entry.trace_id,
            before: entry.before,
            after: entry.after,
        }
    }
}

async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListAudit>,
) -> Result<Json<AuditPage>, Problem> {
    caller.require(Action::ReadAudit)?;
    let page = page(asked.page_size, asked.page_token)?;
    let since = asked.since.as_deref().map(parse_time).transpose().map_err(no_time("since"))?;
    let filter = AuditFilter { object_id: asked.object_id, actor: asked.actor, since };
    let entries = app.control.audit(filter, page.clone()).await?;
    let next_page_token = next_token(&entries, &page, |entry| entry.id.clone());
    Ok(Json(AuditPage { entries: entries.into_iter().map(AuditEntry::from).collect(), next_page_token }))
}
