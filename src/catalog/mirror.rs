//! What the shards need to go on without Postgres, in a file of this node: what was last read from there to be published, and
//! where the files of each stream end.
//!
//! Invariants: a stream is in the mirror before a shard takes records of it, or a start without Postgres would take its rows
//! for those of a deleted one; a flush is in the mirror before its rows leave the log, or such a start would find a gap.

use std::path::Path;

use ttdust_shards::ids::StreamId;

use super::{CatalogError, Changes, Everything, Result, embedded::Embedded};

/// A handle, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Mirror(Embedded);

impl Mirror {
    /// Opens the file at `path`, or makes it. Blocking.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Embedded::open(path).map(Self).map_err(|error| {
            CatalogError::Corrupt(format!(
                "its mirror {}: {error}; if Postgres can be reached, remove the file, and it is made anew",
                path.display()
            ))
        })
    }

    /// Keeps what was read from Postgres.
    pub(super) async fn save(&self, everything: Everything) -> Result<()> {
        self.0.replace(everything).await.map_err(of_mirror)
    }

    /// Keeps what changed in Postgres since generation `from`. `false`: it holds another generation, and nothing was done.
    pub(super) async fn advance(&self, from: i64, changes: Changes) -> Result<bool> {
        self.0.advance(from, changes).await.map_err(of_mirror)
    }

    /// Keeps where the files of a stream end.
    pub(super) async fn flushed(&self, stream: StreamId, through: i64) -> Result<()> {
        self.0.flushed(stream, through).await.map_err(of_mirror)
    }

    /// What was kept last; `None`: nothing ever was.
    pub(super) async fn load(&self) -> Result<Option<Everything>> {
        self.0.copied().await.map_err(of_mirror)
    }
}

fn of_mirror(error: CatalogError) -> CatalogError {
    match error {
        CatalogError::Unavailable(reason) => CatalogError::Unavailable(format!("its mirror on this node: {reason}")),
        other => other,
    }
}
