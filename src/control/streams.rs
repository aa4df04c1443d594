//! Streams.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time;
use ttdust_shards::{
    access::Principal,
    buffer::StreamFigures,
    dead_letters::SUFFIX,
    ids::{SchemaId, ShardId, StreamId},
    snapshot::{StreamEntry, StreamState},
};

use super::{Actor, Control, ControlError, dead_letters, names};
use crate::{
    calendar::now_unix_micros,
    catalog::{CatalogError, FileTotals, Page, Retention, Stream, StreamChange, StreamFilter, StreamStatus},
    objects::prefix_of,
};

/// Between tries to remove a stream's data.
const DELETION_PAUSE_MIN: Duration = Duration::from_millis(500);
const DELETION_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a flush by demand is waited for. It goes on after that.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(20);
const KEY_FIELDS: usize = 16;
const KEY_FIELD_BYTES: usize = 256;
/// Streams that are read from the catalog at once while a page is filled with those that its reader may use.
const SCAN_PAGE: u32 = 500;

/// A stream to create.
#[derive(Debug, Clone)]
pub struct NewStream {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// The schema of its records.
    pub schema: SchemaId,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Retention>,
    /// How its files are parted: see `check_partition_config`.
    pub partition_config: Option<serde_json::Value>,
    /// Fields that records can be looked up by.
    pub key_fields: Vec<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// For how many days its dead letters are kept; `None`: it has none.
    pub dead_letters_days: Option<u32>,
}

/// How a stream stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamStatistics {
    /// The shard that owns it.
    pub shard: ShardId,
    /// What its shard says; `None` when that is too busy to tell.
    pub figures: Option<StreamFigures>,
    /// The last sequence number in a committed file.
    pub flushed_through: i64,
    /// Its committed files.
    pub totals: FileTotals,
}

/// A part of the list of streams.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamPage {
    /// In the order of their ids.
    pub streams: Vec<Stream>,
    /// What the next part comes after; `None`: this is the last.
    pub next: Option<String>,
}

impl Control {
    /// Creates a stream; it takes records once this is answered.
    ///
    /// # Errors
    /// `Invalid`, `AlreadyExists`, or `NotFound`: the schema.
    pub async fn create_stream(&self, actor: &Actor, new: NewStream) -> Result<Stream, ControlError> {
        check(&new)?;
        let now = now_unix_micros();
        let stream = Stream {
            id: StreamId::generate(),
            name: new.name,
            description: new.description,
            schema: new.schema,
            status: StreamStatus::Active,
            key_fields: new.key_fields,
            labels: new.labels,
            retention: new.retention,
            partition_config: new.partition_config,
            version: 1,
            pipelines: Default::default(),
            dead_letters: None,
            flushed_through: 0,
            created_at: now,
            updated_at: now,
        };
        let _changing = self.changing().await?;
        let id = stream.id.to_string();
        let created = self.parts.catalog.create_stream(stream.clone(), actor.did("stream.create", "stream", &id)).await;
        let given = match (&created, new.dead_letters_days) {
            (Ok(()), Some(days)) => Some(self.give_dead_letters(actor, stream.clone(), days).await),
            _ => None,
        };
        self.published(created).await?;
        let stream = given.transpose()?.unwrap_or(stream);
        Ok(created_by(actor, stream))
    }

    pub(super) async fn activate(&self, id: StreamId, actor: &Actor) -> Result<Stream, ControlError> {
        let active = StreamChange { status: Some(StreamStatus::Active), ..StreamChange::default() };
        let audit = actor.did("stream.activate", "stream", &id.to_string());
        Ok(self.parts.catalog.change_stream(id, active, now_unix_micros(), audit).await?)
    }

    /// A stream.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn stream(&self, id: StreamId) -> Result<Stream, ControlError> {
        Ok(self.parts.catalog.stream(id).await?)
    }

    /// How a stream stands.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn statistics(&self, stream: &Stream) -> Result<StreamStatistics, ControlError> {
        let shard = self.parts.publisher.home_of(stream);
        let figures = self.parts.link.figures(shard, stream.id).await;
        let totals = self.parts.catalog.file_totals(stream.id).await?;
        Ok(StreamStatistics { shard, figures, flushed_through: stream.flushed_through, totals })
    }

    /// Writes the records of a stream that are there now to files, and answers up to which one when these are committed. Dead
    /// letters that its pipeline makes of them are on stable storage by then.
    ///
    /// # Errors
    /// `Conflict`: it is being deleted; `Unavailable`: it takes long, or its shard has ended.
    pub async fn flush_stream(&self, actor: &Actor, stream: &StreamEntry) -> Result<i64, ControlError> {
        if stream.state == StreamState::Deleting {
            return Err(ControlError::Conflict("the stream is being deleted".into()));
        }
        let flushed = time::timeout(FLUSH_TIMEOUT, self.parts.link.flush(stream.home, stream.id)).await;
        let (id, Actor { caller, trace_id }) = (stream.id, actor);
        match flushed {
            Ok(Ok(through)) => {
                tracing::info!(stream = %id, through, actor = %caller.id, request_id = trace_id, "stream flushed by demand");
                Ok(through)
            }
            Ok(Err(gone)) => Err(ControlError::Unavailable(gone.to_string())),
            Err(_) => Err(ControlError::Unavailable(format!(
                "not all is in files after {} s: the flush goes on, and the log tells what is in its way",
                FLUSH_TIMEOUT.as_secs()
            ))),
        }
    }

    /// The streams that `caller` may use, in the order of their ids. Whoever is confined to streams learns nothing of the others,
    /// not even from where a page ends: the catalog is read on until the page is full.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn streams(
        &self,
        caller: &Principal,
        filter: StreamFilter,
        page: Page,
    ) -> Result<StreamPage, ControlError> {
        // One more tells whether there is a next page.
        let wanted = page.limit as usize;
        let limit = if caller.role.is_confined() { SCAN_PAGE.max(page.limit + 1) } else { page.limit + 1 };
        let (mut streams, mut after) = (Vec::new(), page.after);
        loop {
            let read = self.parts.catalog.streams(filter.clone(), Page { after, limit }).await?;
            let last = read.last().filter(|_| read.len() == limit as usize).map(|stream| stream.id.to_string());
            streams.extend(read.into_iter().filter(|stream| caller.sees(stream.id, &stream.name)));
            match last {
                Some(last) if streams.len() <= wanted => after = last,
                _ => break,
            }
        }
        let more = streams.len() > wanted;
        streams.truncate(wanted);
        let next = streams.last().filter(|_| more).map(|stream| stream.id.to_string());
        Ok(StreamPage { streams, next })
    }

    /// Changes a stream; every shard runs on the change once this is answered.
    ///
    /// # Errors
    /// `Invalid`, `NotFound`, `Stale`, or `Conflict`: it is being deleted.
    pub async fn change_stream(
        &self,
        actor: &Actor,
        id: StreamId,
        change: StreamChange,
        dead_letters_days: Option<u32>,
    ) -> Result<Stream, ControlError> {
        check_dead_letters(dead_letters_days)?;
        if let Some(description) = &change.description {
            names::description("/description", description)?;
        }
        if let Some(Some(retention)) = &change.retention {
            check_retention(retention)?;
        }
        if let Some(labels) = &change.labels {
            names::labels("/labels", labels)?;
        }
        let _changing = self.changing().await?;
        let audit = actor.did("stream.change", "stream", &id.to_string());
        let changed = self.parts.catalog.change_stream(id, change, now_unix_micros(), audit).await;
        let given = match (&changed, dead_letters_days) {
            (Ok(stream), Some(days)) => Some(self.give_dead_letters(actor, stream.clone(), days).await),
            _ => None,
        };
        let stream = self.published(changed).await?;
        let stream = given.transpose()?.unwrap_or(stream);
        let (status, Actor { caller, trace_id }) = (stream.status.name(), actor);
        tracing::info!(stream = %id, version = stream.version, status, actor = %caller.id, request_id = trace_id, "stream changed");
        Ok(stream)
    }

    /// Begins to delete a stream and answers it as it is then: from here on no shard takes or answers anything of it, and no
    /// flush of it is committed. Its data is removed in the background; if that is cut short, the next start goes on with it.
    ///
    /// # Errors
    /// `NotFound` or `Stale`.
    pub async fn delete_stream(
        self: &Arc<Self>,
        actor: &Actor,
        id: StreamId,
        if_version: Option<i64>,
    ) -> Result<Stream, ControlError> {
        let changing = self.changing().await?;
        self.check_no_letters(&self.parts.catalog.stream(id).await?)?;
        let mark = StreamChange { status: Some(StreamStatus::Deleting), if_version, ..StreamChange::default() };
        let audit = actor.did("stream.delete", "stream", &id.to_string());
        let marked = self.parts.catalog.change_stream(id, mark, now_unix_micros(), audit).await;
        let stream = self.published(marked).await?;
        drop(changing);
        let Actor { caller, trace_id } = actor;
        tracing::info!(stream = %id, name = %stream.name, actor = %caller.id, request_id = trace_id, "stream deletion begun");
        self.end_deletion(id);
        Ok(stream)
    }

    /// Removes the data of a stream that is being deleted, in the background, trying again until it is done.
    pub(super) fn end_deletion(self: &Arc<Self>, id: StreamId) {
        let control = Arc::clone(self);
        tokio::spawn(async move {
            let mut pause = DELETION_PAUSE_MIN;
            while let Err(error) = control.remove_data(id).await {
                tracing::warn!(stream = %id, %error, "a stream's data cannot be removed yet");
                time::sleep(pause).await;
                pause = (pause * 2).min(DELETION_PAUSE_MAX);
            }
            tracing::info!(stream = %id, "stream deleted");
        });
    }

    async fn remove_data(&self, id: StreamId) -> Result<(), ControlError> {
        self.parts.objects.remove_prefix(&prefix_of(id)).await?;
        let _changing = self.changing().await?;
        let audit = Actor::system().did("stream.end_deletion", "stream", &id.to_string());
        match self.parts.catalog.end_deletion(id, now_unix_micros(), audit).await {
            // An earlier try did it, and could not say so.
            Ok(()) | Err(CatalogError::NotFound(_)) => self.publish().await,
            Err(error) => Err(error.into()),
        }
    }
}

fn created_by(actor: &Actor, stream: Stream) -> Stream {
    let Actor { caller, trace_id } = actor;
    tracing::info!(stream = %stream.id, name = %stream.name, actor = %caller.id, request_id = trace_id, "stream created");
    stream
}

fn check_dead_letters(days: Option<u32>) -> Result<(), ControlError> {
    match days {
        Some(0) => Err(ControlError::field("/dlq/retention_days", "at least 1")),
        _ => Ok(()),
    }
}

fn check(new: &NewStream) -> Result<(), ControlError> {
    names::name("/name", &new.name)?;
    dead_letters::check_name(&new.name)?;
    check_dead_letters(new.dead_letters_days)?;
    if new.dead_letters_days.is_some() {
        names::name("/name", &format!("{}{SUFFIX}", new.name))?;
    }
    names::description("/description", &new.description)?;
    names::labels("/labels", &new.labels)?;
    if let Some(retention) = &new.retention {
        check_retention(retention)?;
    }
    let fits = |field: &String| !field.is_empty() && field.len() <= KEY_FIELD_BYTES && !field.contains('\0');
    let twice = new.key_fields.iter().enumerate().any(|(at, field)| new.key_fields[..at].contains(field));
    if new.key_fields.len() > KEY_FIELDS || twice || !new.key_fields.iter().all(fits) {
        let detail = format!("at most {KEY_FIELDS} different names of 1 to {KEY_FIELD_BYTES} bytes, without U+0000");
        return Err(ControlError::field("/key_fields", detail));
    }
    new.partition_config.as_ref().map_or(Ok(()), check_partition_config)
}

/// Files lie by the hour in which their records came in. Who asks for anything else is told so, rather than believe to have it.
fn check_partition_config(config: &serde_json::Value) -> Result<(), ControlError> {
    let refused = |path: &str, detail: &str| Err(ControlError::field(path, detail));
    let settings = match config {
        serde_json::Value::Null => return Ok(()),
        serde_json::Value::Object(settings) => settings,
        _ => return refused("/partition_config", "an object: {\"granularity\": \"hour\"}"),
    };
    for (name, value) in settings {
        let path = format!("/partition_config/{}", name.replace('~', "~0").replace('/', "~1"));
        match name.as_str() {
            "granularity" if value == "hour" => {}
            "granularity" => return refused(&path, "\"hour\" is the only one"),
            _ => return refused(&path, "no such setting: there is \"granularity\""),
        }
    }
    Ok(())
}

fn check_retention(retention: &Retention) -> Result<(), ControlError> {
    match retention {
        Retention::Time { retention_days: 1.. } => Ok(()),
        Retention::Time { .. } => Err(ControlError::field("/retention_policy/retention_days", "at least 1")),
        // The catalog's integers are signed.
        Retention::Size { max_bytes } if (1..=i64::MAX as u64).contains(max_bytes) => Ok(()),
        Retention::Size { .. } => Err(ControlError::field("/retention_policy/max_bytes", "at least 1 and below 2^63")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewStream {
        NewStream {
            name: "clicks".into(),
            description: String::new(),
            schema: SchemaId::generate(),
            retention: Some(Retention::Time { retention_days: 1 }),
            partition_config: Some(serde_json::json!({})),
            key_fields: vec!["id".into()],
            labels: BTreeMap::new(),
            dead_letters_days: None,
        }
    }

    fn parted(config: serde_json::Value) -> NewStream {
        NewStream { partition_config: Some(config), ..new() }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_its_field() {
        assert_eq!(check(&new()), Ok(()));
        assert_eq!(check(&parted(serde_json::json!({"granularity": "hour"}))), Ok(()));
        let bad = [
            ("/name", NewStream { name: "A".into(), ..new() }),
            ("/name", NewStream { name: "a.dlq".into(), ..new() }),
            ("/dlq/retention_days", NewStream { dead_letters_days: Some(0), ..new() }),
            ("/name", NewStream { name: "a".repeat(126), dead_letters_days: Some(1), ..new() }),
            ("/key_fields", NewStream { key_fields: vec!["a".into(), "a".into()], ..new() }),
            ("/key_fields", NewStream { key_fields: vec![String::new()], ..new() }),
            ("/key_fields", NewStream { key_fields: vec!["a\0".into()], ..new() }),
            ("/partition_config", parted(serde_json::json!([]))),
            ("/partition_config/granularity", parted(serde_json::json!({"granularity": "day"}))),
            ("/partition_config/a~1b", parted(serde_json::json!({"granularity": "hour", "a/b": 1}))),
            (
                "/retention_policy/retention_days",
                NewStream { retention: Some(Retention::Time { retention_days: 0 }), ..new() },
            ),
            ("/retention_policy/max_bytes", NewStream { retention: Some(Retention::Size { max_bytes: 0 }), ..new() }),
        ];
        for (pointer, stream) in bad {
            let Err(ControlError::Invalid { fields, .. }) = check(&stream) else { panic!("{pointer} is at fault") };
            assert_eq!(fields[0].pointer, pointer);
        }
    }
}
