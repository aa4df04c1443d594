//! `ttdust audit`.

use clap::Args;

use super::{
    failure::Outcome,
    output::{Column, column, column_of},
    session::Session,
    text::{parse_moment, time},
};

/// Which changes to show; the newest come first.
#[derive(Args)]
pub struct Audit {
    /// Those of the object with this id.
    #[arg(long, value_name = "ID")]
    object: Option<String>,
    /// Those by this caller: key_…, jwt:…, cert:…, open or system.
    #[arg(long, value_name = "CALLER")]
    actor: Option<String>,
    /// Those at or after this time: RFC 3339, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
    since: Option<i64>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

const LIST: &[Column] = &[
    column_of("AT", "/at", time),
    column("ACTOR", "/actor"),
    column("ROLE", "/role"),
    column("ACTION", "/action"),
    column("OBJECT", "/object_id"),
    column("REQUEST", "/trace_id"),
];

/// Shows them.
pub(super) async fn run(audit: Audit, session: &mut Session) -> Outcome {
    let since = audit.since.map(|micros| micros.to_string());
    let filters = [("object_id", audit.object), ("actor", audit.actor), ("since", since)];
    let query: Vec<_> = filters.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let entries = session.api.list("/api/v1/audit-log", &query, "entries", audit.limit).await?;
    session.output.list(&entries, LIST)
}
