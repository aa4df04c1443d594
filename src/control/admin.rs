//! `AdminService` of gRPC, and its calls for imports: the same operations as REST's, in its terms.

use std::sync::Arc;

use ttdust_proto::admin::{RetentionConfig, StreamConfig};
use ttdust_shards::{
    access::{Action, Forbidden},
    ids::SchemaId,
    message::{AdminFailure, AdminReply, AdminRequest, FailureKind},
    rate::Category,
};

use super::{Actor, Control, ControlError, NewStream, StreamPage, jobs::JobError};
use crate::catalog::{Page, Retention, Stream, StreamChange, StreamFilter};

const PAGE_DEFAULT: i32 = 50;
const PAGE_MAX: i32 = 500;

/// Why a call was not done.
enum Failure {
    Forbidden(Forbidden),
    Control(ControlError),
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Forbidden(error) => Self::Forbidden(error),
            JobError::Control(error) => Self::Control(error),
        }
    }
}

impl From<Forbidden> for Failure {
    fn from(error: Forbidden) -> Self {
        Self::Forbidden(error)
    }
}

impl Control {
    /// Does an admin call of gRPC.
    ///
    /// # Errors
    /// See [`AdminFailure`].
    pub async fn administer(self: &Arc<Self>, actor: Actor, request: AdminRequest) -> Result<AdminReply, AdminFailure> {
        self.decide(actor, request).await.map_err(|failure| match failure {
            Failure::Forbidden(error) => AdminFailure {
                kind: FailureKind::Forbidden,
                reason: "PERMISSION_DENIED",
                message: error.to_string(),
                fields: Vec::new(),
            },
            Failure::Control(error) => failed(error),
        })
    }

    async fn decide(self: &Arc<Self>, actor: Actor, request: AdminRequest) -> Result<AdminReply, Failure> {
        self.admit(Category::Admin, &actor.caller.id).await.map_err(ControlError::from)?;
        match request {
            AdminRequest::Create(config) => {
                actor.caller.require(Action::ChangeStreams)?;
                let stream = self.create_stream(&actor, new_stream(config)?).await?;
                Ok(AdminReply::Stream(config_of(stream)))
            }
            AdminRequest::Update(config) => {
                actor.caller.require(Action::ChangeStreams)?;
                let stream = self.stream(self.find_stream(&actor.caller, &config.stream_id).await?).await?;
                let same = |field: &str, given: &str, known: &str| {
                    let fixed = || ControlError::field(field, format!("cannot be changed from {known:?}"));
                    if given.is_empty() || given == known { Ok(()) } else { Err(fixed()) }
                };
                same("/config/name", &config.name, &stream.name)?;
                same("/config/schema_id", &config.schema_id, &stream.schema.to_string())?;
                let change = StreamChange {
                    description: Some(config.description),
                    labels: Some(config.labels.into_iter().collect()),
                    retention: config.retention.as_ref().map(retention).transpose()?,
                    ..StreamChange::default()
                };
                Ok(AdminReply::Stream(config_of(self.change_stream(&actor, stream.id, change, None).await?)))
            }
            AdminRequest::Get(text) => {
                actor.caller.require(Action::ReadStreams)?;
                let id = self.find_stream(&actor.caller, &text).await?;
                Ok(AdminReply::Stream(config_of(self.stream(id).await?)))
            }
            // A stream is deleted whatever it holds, forced or not.
            AdminRequest::Delete { stream, force: _ } => {
                actor.caller.require(Action::ChangeStreams)?;
                let id = self.find_stream(&actor.caller, &stream).await?;
                self.delete_stream(&actor, id, None).await?;
                Ok(AdminReply::Deleted)
            }
            AdminRequest::List { limit, cursor } => {
                actor.caller.require(Action::ReadStreams)?;
                let limit = limit.unwrap_or(PAGE_DEFAULT);
                if !(1..=PAGE_MAX).contains(&limit) {
                    return Err(ControlError::field("/limit", format!("want 1 to {PAGE_MAX}")).into());
                }
                let after = cursor.unwrap_or_default();
                if after.contains('\0') {
                    return Err(ControlError::field("/cursor", "holds U+0000, which no cursor of ours does").into());
                }
                let page = Page { after, limit: limit.unsigned_abs() };
                let StreamPage { streams, next } = self.streams(&actor.caller, StreamFilter::default(), page).await?;
                Ok(AdminReply::Streams(streams.into_iter().map(config_of).collect(), next))
            }
            AdminRequest::IngestBatch(request) => Ok(AdminReply::Job(self.ingest_batch(&actor, request).await?)),
            AdminRequest::GetBatchJob(id) => Ok(AdminReply::Job(self.batch_job(&actor.caller, &id).await?)),
        }
    }
}

fn new_stream(config: StreamConfig) -> Result<NewStream, ControlError> {
    if !config.stream_id.is_empty() {
        return Err(ControlError::field("/config/stream_id", "is given by the server: leave it empty"));
    }
    let schema: SchemaId =
        config.schema_id.parse().map_err(|error| ControlError::field("/config/schema_id", format!("{error}")))?;
    Ok(NewStream {
        name: config.name,
        description: config.description,
        schema,
        retention: config.retention.as_ref().map(retention).transpose()?.flatten(),
        partition_config: None,
        key_fields: Vec::new(),
        labels: config.labels.into_iter().collect(),
        dead_letters_days: None,
    })
}

/// 0 days: for ever, as a field that is not set has it on the wire.
fn retention(config: &RetentionConfig) -> Result<Option<Retention>, ControlError> {
    match u32::try_from(config.retention_days) {
        Ok(0) => Ok(None),
        Ok(retention_days) => Ok(Some(Retention::Time { retention_days })),
        Err(_) => Err(ControlError::field("/config/retention/retention_days", "want 0 (for ever) or more, below 2^32")),
    }
}

/// A retention by size has no field on the wire, and is not told.
fn config_of(stream: Stream) -> StreamConfig {
    let retention = match stream.retention {
        Some(Retention::Time { retention_days }) => Some(RetentionConfig { retention_days: retention_days.into() }),
        Some(Retention::Size { .. }) | None => None,
    };
    StreamConfig {
        stream_id: stream.id.to_string(),
        name: stream.name,
        description: stream.description,
        schema_id: stream.schema.to_string(),
        labels: stream.labels.into_iter().collect(),
        retention,
    }
}

fn failed(error: ControlError) -> AdminFailure {
    let kind = match &error {
        ControlError::NotFound(_) => FailureKind::NotFound,
        ControlError::AlreadyExists(_) => FailureKind::AlreadyExists,
        ControlError::Invalid { .. } => FailureKind::Invalid,
        ControlError::Stale(_)
        | ControlError::Conflict(_)
        | ControlError::Incompatible { .. }
        | ControlError::BreaksPipelines(_) => FailureKind::Conflict,
        ControlError::NotAvailable(_) => FailureKind::NotAvailable,
        ControlError::Overloaded | ControlError::NoMemory(_) | ControlError::TooManyJobs(_) => FailureKind::Overloaded,
        ControlError::RateLimited(over) => FailureKind::RateLimited(*over),
        ControlError::Unavailable(_) | ControlError::Draining | ControlError::TimedOut(_) => FailureKind::Unavailable,
        ControlError::Internal(_) => FailureKind::Internal,
    };
    let (reason, message) = (error.code(), error.to_string());
    let fields = match error {
        ControlError::Invalid { fields, .. } => fields.into_iter().map(|f| (f.pointer, f.detail)).collect(),
        _ => Vec::new(),
    };
    AdminFailure { kind, reason, message, fields }
}
