//! `/api/v1/audit-log`.

use axum::{Json, extract::State, response::IntoResponse};
use serde::Deserialize;
use serde_json::{Value, json};
use ttdust_shards::access::Action;

use super::{
    Answer, Shared,
    extract::{Caller, Parameters, next_token, page},
    problem::no_time,
};
use crate::{
    calendar::{parse_time, rfc3339},
    catalog::{AuditEntry, AuditFilter},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAudit {
    object_id: Option<String>,
    actor: Option<String>,
    since: Option<String>,
    page_size: Option<u32>,
    page_token: Option<String>,
}

fn entry_json(entry: &AuditEntry) -> Value {
    json!({
        "id": entry.id,
        "at": rfc3339(entry.at),
        "actor": entry.actor,
        "role": entry.role,
        "action": entry.action,
        "object_kind": entry.object_kind,
        "object_id": entry.object_id,
        "trace_id": entry.trace_id,
        "before": entry.before,
        "after": entry.after,
    })
}

pub(super) async fn list(
    State(app): State<Shared>,
    Caller(caller): Caller,
    Parameters(asked): Parameters<ListAudit>,
) -> Answer {
    caller.require(Action::ReadAudit)?;
    let page = page(asked.page_size, asked.page_token)?;
    let since = asked.since.as_deref().map(parse_time).transpose().map_err(no_time("since"))?;
    let filter = AuditFilter { object_id: asked.object_id, actor: asked.actor, since };
    let entries = app.control.audit(filter, page.clone()).await?;
    let next = next_token(&entries, &page, |entry| entry.id.clone());
    let entries: Vec<_> = entries.iter().map(entry_json).collect();
    Ok(Json(json!({"entries": entries, "next_page_token": next})).into_response())
}
