//! Manifests: what the catalog says of a stream's files, beside the files, so that the list can be made again without it.
//!
//! For each hour with files there is `{stream}/{yyyy}/{mm}/{dd}/{hh}/manifest.json`: all of the hour's files, in order. For each
//! stream there is `{stream}/checkpoint.json`: who it is, the first and the last sequence number that its files hold, and what
//! they come to. An hour's files change in one step of the catalog, which notes in the same step that the manifest is owed; so a
//! manifest is behind the catalog for a pass or two, never for good, and after a crash as well. Nothing that acks a record waits
//! for one.
//!
//! Readers of the format: `format` is 1; times are Unix µs; fields that they do not know they pass by.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

use crate::{
    calendar::now_unix_micros,
    catalog::{Catalog, CatalogError, ManifestDebt, StoredFile, StreamHour, StreamStatus},
    metrics::ControlMetrics,
    objects::{ObjectError, Objects, checkpoint_key_of, manifest_key_of},
};

/// The version of the format, of both.
pub const FORMAT: u32 = 1;
const DEBTS_A_PAGE: u32 = 200;
/// Manifests that one pass writes at most.
const WRITTEN_A_PASS: usize = 2000;

/// Why a pass was not done to its end. What it did stays done.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The catalog does not answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The object store does not.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The files of an hour of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// The stream.
    pub stream_id: String,
    /// Hours since the Unix epoch.
    pub hour: i64,
    /// When it was written.
    pub written_at: i64,
    /// Its files, in order.
    pub files: Vec<ManifestFile>,
}

/// A file as a manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its key in the object store.
    pub key: String,
    /// Its first sequence number.
    pub first_sequence: i64,
    /// Its last sequence number.
    pub last_sequence: i64,
    /// Its rows.
    pub rows: u64,
    /// The time of its first row.
    pub min_timestamp: i64,
    /// The time of its last row.
    pub max_timestamp: i64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of the whole file.
    pub crc32c: u32,
    /// 0: written by a flush; more: merged.
    pub level: u32,
}

/// A stream and what its files come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// 1.
    pub format: u32,
    /// The stream.
    pub stream_id: String,
    /// Its name.
    pub name: String,
    /// The schema of its records.
    pub schema_id: String,
    /// Fields that records can be looked up by.
    pub key_fields: Vec<String>,
    /// When it was written.
    pub written_at: i64,
    /// The first sequence number that a file holds; `None`: none does.
    pub first_sequence: Option<i64>,
    /// The last sequence number that ever was in a file.
    pub flushed_through: i64,
    /// How many files there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
}

impl Manifest {
    /// Of these files.
    #[must_use]
    pub fn new(of: StreamHour, files: &[StoredFile], written_at: i64) -> Self {
        let file = |file: &StoredFile| ManifestFile {
            key: file.key.clone(),
            first_sequence: file.first_sequence,
            last_sequence: file.last_sequence,
            rows: file.rows(),
            min_timestamp: file.min_timestamp,
            max_timestamp: file.max_timestamp,
            bytes: file.bytes,
            crc32c: file.checksum,
            level: file.level,
        };
        let files = files.iter().map(file).collect();
        Self { format: FORMAT, stream_id: of.stream.to_string(), hour: of.hour.0, written_at, files }
    }

    /// The files, as the catalog has them.
    #[must_use]
    pub fn stored(&self) -> Vec<StoredFile> {
        let file = |file: &ManifestFile| StoredFile {
            key: file.key.clone(),
            hour: PartitionHour(self.hour),
            first_sequence: file.first_sequence,
            last_sequence: file.last_sequence,
            min_timestamp: file.min_timestamp,
            max_timestamp: file.max_timestamp,
            bytes: file.bytes,
            checksum: file.crc32c,
            level: file.level,
        };
        self.files.iter().map(file).collect()
    }
}

/// Writes what is owed.
#[derive(Debug)]
pub struct ManifestWriter {
    /// What files there are.
    pub catalog: Catalog,
    /// Where manifests go.
    pub objects: Objects,
    /// Where it is counted.
    pub metrics: Arc<ControlMetrics>,
}

impl ManifestWriter {
    /// Writes the manifests that are owed, and the checkpoints of their streams; says whether there may be more.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub async fn pass(&self) -> Result<bool, ManifestError> {
        for _ in 0..WRITTEN_A_PASS / DEBTS_A_PAGE as usize {
            let debts = self.catalog.manifests_due(DEBTS_A_PAGE).await?;
            let last_page = debts.len() < DEBTS_A_PAGE as usize;
            for debts in debts.chunk_by(|a, b| a.of.stream == b.of.stream) {
                // Before the debts are paid: a crash between leaves them, and all is written once more.
                self.write_of_stream(debts[0].of.stream, debts).await?;
            }
            for debt in &debts {
                self.catalog.manifest_written(*debt).await?;
            }
            self.metrics.upkeep().manifests_written(debts.len() as u64);
            if last_page {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn write_of_stream(&self, stream: StreamId, debts: &[ManifestDebt]) -> Result<(), ManifestError> {
        if self.is_going(stream).await? {
            return Ok(());
        }
        for debt in debts {
            self.write(*debt).await?;
        }
        self.write_checkpoint(stream).await?;
        if self.is_going(stream).await? {
            // What was written may have come after the removal of all that the stream had.
            for debt in debts {
                self.objects.remove(&manifest_key_of(stream, debt.of.hour)).await?;
            }
            self.objects.remove(&checkpoint_key_of(stream)).await?;
        }
        Ok(())
    }

    /// Whether the stream's whole folder goes or is gone.
    async fn is_going(&self, stream: StreamId) -> Result<bool, ManifestError> {
        let status = self.catalog.stream(stream).await?.status;
        Ok(matches!(status, StreamStatus::Deleting | StreamStatus::Deleted))
    }

    async fn write(&self, debt: ManifestDebt) -> Result<(), ManifestError> {
        let key = manifest_key_of(debt.of.stream, debt.of.hour);
        let files = self.catalog.files_of_hour(debt.of).await?;
        if files.is_empty() {
            return Ok(self.objects.remove(&key).await?);
        }
        let manifest = Manifest::new(debt.of, &files, now_unix_micros());
        Ok(self.objects.put_bytes(&key, json(&manifest)).await?)
    }

    async fn write_checkpoint(&self, id: StreamId) -> Result<(), ManifestError> {
        let stream = self.catalog.stream(id).await?;
        let first = self.catalog.files_after(id, 0, 1).await?;
        let totals = self.catalog.file_totals(id).await?;
        let checkpoint = Checkpoint {
            format: FORMAT,
            stream_id: id.to_string(),
            name: stream.name,
            schema_id: stream.schema.to_string(),
            key_fields: stream.key_fields,
            written_at: now_unix_micros(),
            first_sequence: first.first().map(|file| file.first_sequence),
            flushed_through: stream.flushed_through,
            files: totals.files,
            bytes: totals.bytes,
            rows: totals.rows,
        };
        Ok(self.objects.put_bytes(&checkpoint_key_of(id), json(&checkpoint)).await?)
    }
}

fn json(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec_pretty(value).expect("numbers, texts and lists always serialise");
    text.push(b'\n');
    text.into()
}
