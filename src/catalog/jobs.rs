//! Jobs, as plain values. What is to be done and how far it came are texts of JSON here: their form is the importer's own.

use serde_json::Value;
use ttdust_shards::ids::StreamId;

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStatus {
    /// It waits for its turn: it has none yet, or gave it to others because it cannot go on now.
    Pending,
    /// It is at work, or will go on with the next start.
    Running,
    /// It came to its end.
    Completed,
    /// It could not.
    Failed,
    /// It was called off.
    Cancelled,
}

impl JobStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// Its name in the catalog and in REST.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing of the job changes any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// It reads objects into a stream.
    Import,
    /// It puts dead letters back into their stream.
    Replay,
}

impl JobKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Import, Self::Replay];
    /// The member of a job's spec that holds it. Where it is missing, the job is an import.
    const MEMBER: &str = "kind";

    /// Its name in the catalog and in REST.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Replay => "replay",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Says in the spec of a job, an object, that it is of this kind.
    pub fn mark(self, spec: &mut Value) {
        spec[Self::MEMBER] = self.name().into();
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id, `job_…`.
    pub id: String,
    /// The stream that it writes into.
    pub stream: StreamId,
    /// How it stands.
    pub status: JobStatus,
    /// What it is of.
    pub spec: Value,
    /// The objects that it reads, in order; null until they were listed.
    pub objects: Value,
    /// How far it came.
    pub progress: Value,
    /// Unix µs.
    pub created_at: i64,
    /// Unix µs; `None`: it has not ended.
    pub completed_at: Option<i64>,
}

impl Job {
    /// What it does.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        let name = self.spec.get(JobKind::MEMBER).and_then(Value::as_str);
        name.and_then(JobKind::of_name).unwrap_or(JobKind::Import)
    }

    /// What the audit log shows of it.
    pub(super) fn audited(&self) -> Value {
        serde_json::json!({"stream_id": self.stream.to_string(), "spec": self.spec})
    }
}

/// Which jobs a list shows; `None`: all.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Those of this stream.
    pub stream: Option<StreamId>,
    /// Those that stand so.
    pub status: Option<JobStatus>,
}

/// What is new of a job that has not ended.
#[derive(Debug, Clone)]
pub struct JobChange {
    /// The job.
    pub id: String,
    /// How it stands now.
    pub status: JobStatus,
    /// What it reads, where that was listed; `None`: as before.
    pub objects: Option<Value>,
    /// How far it came.
    pub progress: Value,
    /// Unix µs, if this is its end.
    pub completed_at: Option<i64>,
}
