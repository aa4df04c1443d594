//! Streams of dead letters: made with the stream that they are of or later, under a schema of the server's own.

use std::collections::BTreeMap;

use ttdust_shards::{
    dead_letters::{DEFINITION, SUFFIX},
    ids::{SchemaId, StreamId},
};

use super::{Actor, Control, ControlError};
use crate::{
    calendar::now_unix_micros,
    catalog::{
        CatalogError, Page, Retention, Schema, SchemaFilter, SchemaVersion, Stream, StreamChange, StreamFilter,
        StreamStatus, canonical_fingerprint,
    },
};

/// Where the server's own schemas are.
const NAMESPACE: &str = "ttdust";
const SCHEMA_NAME: &str = "dead-letter";
/// Names the stream that dead letters are of, for people.
const LABEL: &str = "ttdust.dead_letters_of";
/// How long dead letters are kept where nobody says otherwise.
pub const RETENTION_DAYS: u32 = 7;

/// A name that a client may give a stream.
///
/// # Errors
/// It is one for dead letters.
pub(super) fn check_name(name: &str) -> Result<(), ControlError> {
    if name.ends_with(SUFFIX) {
        let detail = format!("names that end with {SUFFIX} are for the dead letters of streams: give the stream a dlq");
        return Err(ControlError::field("/name", detail));
    }
    Ok(())
}

impl Control {
    /// Gives a stream dead letters that are kept so many days, or changes how long they are kept; the stream as it is then. For
    /// whoever has the right to change; nothing is published.
    pub(super) async fn give_dead_letters(
        &self,
        actor: &Actor,
        stream: Stream,
        retention_days: u32,
    ) -> Result<Stream, ControlError> {
        if stream.name.ends_with(SUFFIX) {
            return Err(ControlError::field("/dlq", "dead letters have none of their own"));
        }
        let retention = Retention::Time { retention_days };
        let now = now_unix_micros();
        if let Some(id) = stream.dead_letters {
            let change = StreamChange { retention: Some(Some(retention)), ..StreamChange::default() };
            let audit = actor.did("stream.change", "stream", &id.to_string());
            self.parts.catalog.change_stream(id, change, now, audit).await?;
            return Ok(stream);
        }
        let name = format!("{}{SUFFIX}", stream.name);
        super::names::name("/name", &name)?;
        let letters = self.letters_of(actor, &stream, name, retention).await?;
        let change = StreamChange { dead_letters: Some(letters), ..StreamChange::default() };
        let audit = actor.did("stream.change", "stream", &stream.id.to_string());
        Ok(self.parts.catalog.change_stream(stream.id, change, now, audit).await?)
    }

    /// The stream of this name, new or left by an earlier try.
    async fn letters_of(
        &self,
        actor: &Actor,
        of: &Stream,
        name: String,
        retention: Retention,
    ) -> Result<StreamId, ControlError> {
        let now = now_unix_micros();
        let letters = Stream {
            id: StreamId::generate(),
            name: name.clone(),
            description: format!("Dead letters of {}.", of.name),
            schema: self.schema_of_letters(actor).await?,
            status: StreamStatus::Active,
            key_fields: Vec::new(),
            labels: BTreeMap::from([(LABEL.to_owned(), of.id.to_string())]),
            retention: Some(retention),
            partition_config: None,
            version: 1,
            pipelines: Default::default(),
            dead_letters: None,
            flushed_through: 0,
            created_at: now,
            updated_at: now,
        };
        let id = letters.id;
        let audit = actor.did("stream.create", "stream", &id.to_string());
        match self.parts.catalog.create_stream(letters, audit).await {
            Ok(()) => Ok(id),
            Err(taken @ CatalogError::AlreadyExists(_)) => {
                let filter = StreamFilter { name_prefix: Some(name.clone()), ..StreamFilter::default() };
                let found = self.parts.catalog.streams(filter, Page { after: String::new(), limit: 100 }).await?;
                let is_left = |found: &&Stream| found.name == name && found.status == StreamStatus::Active;
                found.iter().find(is_left).map(|found| found.id).ok_or_else(|| taken.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn schema_of_letters(&self, actor: &Actor) -> Result<SchemaId, ControlError> {
        let catalog = &self.parts.catalog;
        let (namespace, name) = (Some(NAMESPACE.to_owned()), Some(SCHEMA_NAME.to_owned()));
        let filter = SchemaFilter { namespace, name, ..SchemaFilter::default() };
        let found = catalog.schemas(filter, Page { after: String::new(), limit: 1 }).await?;
        if let Some(known) = found.first() {
            return Ok(known.id);
        }
        let (id, now) = (SchemaId::generate(), now_unix_micros());
        let fingerprint = canonical_fingerprint(DEFINITION)
            .map_err(|error| ControlError::Internal(format!("the schema of dead letters is no JSON: {error}")))?;
        let schema = Schema {
            id,
            namespace: NAMESPACE.to_owned(),
            name: SCHEMA_NAME.to_owned(),
            description: "What is kept of a record that was not taken. The server's own.".to_owned(),
            compatibility_mode: "none".to_owned(),
            policy: "strict".to_owned(),
            version: 1,
            created_at: now,
            updated_at: now,
            latest_version: 1,
        };
        let definition = DEFINITION.to_owned();
        let first =
            SchemaVersion { schema: id, version: 1, definition, fingerprint, created_at: now, retired_at: None };
        catalog.create_schema(schema, first, actor.did("schema.create", "schema", &id.to_string())).await?;
        Ok(id)
    }

    /// Whether the stream may be deleted.
    ///
    /// # Errors
    /// It is the dead letters of a stream that is there.
    pub(super) fn check_no_letters(&self, stream: &Stream) -> Result<(), ControlError> {
        let current = self.parts.publisher.current();
        let of = stream.name.strip_suffix(SUFFIX).and_then(|name| current.resolve(name));
        match of.filter(|of| of.dead_letters == Some(stream.id)) {
            Some(of) => Err(ControlError::Conflict(format!(
                "{} holds the dead letters of {}: delete that stream first",
                stream.name, of.name
            ))),
            None => Ok(()),
        }
    }
}
