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

    /// Keeps what changed in Postgres since generation `from`. `false`: nothing was done, for it holds another generation, or
    /// something that the changes do not fit to; [`Self::save`] sets it right.
    pub(super) async fn advance(&self, from: i64, changes: Changes) -> Result<bool> {
        match self.0.advance(from, changes).await {
            Err(error @ CatalogError::Unavailable(_)) => Err(of_mirror(error)),
            Err(error) => {
                tracing::warn!(%error, "changes of the catalog do not fit to its mirror on this node: it is made anew");
                Ok(false)
            }
            done => done,
        }
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

#[cfg(test)]
mod tests {
    use ttdust_shards::ids::SchemaId;

    use super::*;
    use crate::catalog::{SchemaVersion, Stream, StreamStatus};

    fn stream(schema: SchemaId) -> Stream {
        Stream {
            id: StreamId::generate(),
            name: "clicks".into(),
            description: String::new(),
            schema,
            status: StreamStatus::Active,
            key_fields: vec![],
            labels: [].into(),
            retention: None,
            partition_config: None,
            version: 1,
            pipelines: Default::default(),
            dead_letters: None,
            flushed_through: 0,
            created_at: 1,
            updated_at: 1,
        }
    }

    #[test]
    fn a_mirror_that_changes_do_not_fit_to_is_made_anew() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mirror = Mirror::open(&dir.path().join("mirror.sqlite")).expect("a mirror");
        let schema = SchemaId::generate();
        let (old, new) = (stream(schema), stream(schema));
        let (definition, fingerprint) = ("{}".to_owned(), [0; 32]);
        let version = SchemaVersion { schema, version: 1, definition, fingerprint, created_at: 1, retired_at: None };
        let everything = |generation, stream: &Stream| Everything {
            generation,
            streams: vec![stream.clone()],
            schemas: vec![version.clone()],
            keys: vec![],
        };
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
            mirror.save(everything(1, &old)).await.expect("saved");
            // Two streams of one name: nobody has told the mirror that the first one is gone.
            let changes = Changes { generation: 2, streams: vec![new.clone()], ..Changes::default() };
            assert_eq!(mirror.advance(1, changes.clone()).await, Ok(false));
            assert_eq!(
                mirror.load().await.expect("read").expect("a copy").streams,
                vec![old.clone()],
                "nothing was done"
            );
            mirror.save(everything(2, &new)).await.expect("saved");
            assert_eq!(mirror.load().await.expect("read").expect("a copy").streams, [new]);
            let gone = Changes {
                generation: 3,
                streams: vec![old.clone()],
                streams_gone: changes.streams.iter().map(|s| s.id).collect(),
                ..Changes::default()
            };
            assert_eq!(mirror.advance(2, gone).await, Ok(true), "a name is free once its stream is gone");
            assert_eq!(mirror.load().await.expect("read").expect("a copy").streams, [old]);
        });
    }
}
