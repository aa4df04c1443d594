//! Schemas and their versions.

use std::sync::Arc;

use serde_json::Value;
use ttdust_shards::{
    access::Principal,
    ids::{SchemaId, StreamId},
    schema::{CompiledSchema, SchemaError},
    snapshot::StreamEntry,
};

use super::{Actor, Control, ControlError, FieldError, PipelineFault, names};
use crate::{
    calendar::now_unix_micros,
    catalog::{Judged, Page, Schema, SchemaChange, SchemaFilter, SchemaVersion, canonical_fingerprint},
    compatibility::{self, Mode, Policy, Verdict},
};

/// Streams that an answer tells the first sequence number of.
const EFFECTIVE_MAX: usize = 100;
/// How often a version, of a schema or a pipeline, is judged anew because the catalog was changed meanwhile.
pub(super) const JUDGEMENTS_MAX: usize = 5;
/// Versions that one page reads from the catalog.
const HISTORY_PAGE: u32 = 500;
const DEFAULT_NAMESPACE: &str = "default";

/// A schema to register.
#[derive(Debug, Clone)]
pub struct NewSchema {
    /// What its name is unique in; `None`: `default`.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its first version, as JSON text.
    pub definition: String,
    /// How a new version must agree with those before it.
    pub mode: Mode,
    /// How members that an open object does not declare are seen in that.
    pub policy: Policy,
}

/// A version to add.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// The schema.
    pub schema: SchemaId,
    /// As JSON text.
    pub definition: String,
    /// Only check it.
    pub dry_run: bool,
}

/// What became of a [`NewVersion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddedVersion {
    /// It is in force.
    Added {
        /// The version.
        version: SchemaVersion,
        /// From which sequence number on each stream's records were all checked with it; at most 100 streams.
        effective_from: Vec<(StreamId, i64)>,
    },
    /// This definition is the version in force already.
    Known(SchemaVersion),
    /// What a dry run found.
    Judged {
        /// The schema, as it stays.
        schema: Schema,
        /// Whether it may follow the versions before it.
        verdict: Verdict,
        /// Steps of pipelines that it would break.
        faults: Vec<PipelineFault>,
    },
}

impl Control {
    /// Registers a schema with its first version.
    ///
    /// # Errors
    /// `Invalid`: a field is at fault or the definition does not compile. `AlreadyExists`.
    pub async fn create_schema(&self, actor: &Actor, new: NewSchema) -> Result<(Schema, SchemaVersion), ControlError> {
        names::name("/name", &new.name)?;
        let namespace = new.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into());
        names::name("/namespace", &namespace)?;
        names::description("/description", &new.description)?;
        let (id, created_at) = (SchemaId::generate(), now_unix_micros());
        self.compile(id, 1, new.definition.clone()).await?;
        let schema = Schema {
            id,
            namespace,
            name: new.name,
            description: new.description,
            compatibility_mode: new.mode.name().to_owned(),
            policy: policy_name(new.policy).to_owned(),
            version: 1,
            created_at,
            updated_at: created_at,
            latest_version: 1,
        };
        let version = new_version(id, 1, new.definition, created_at)?;
        let _changing = self.changing().await?;
        // No stream uses it yet, so there is nothing to publish.
        let audit = actor.did("schema.create", "schema", &id.to_string());
        self.parts.catalog.create_schema(schema.clone(), version.clone(), audit).await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(schema = %id, name = %schema.name, actor = %caller.id, request_id = trace_id, "schema created");
        Ok((schema, version))
    }

    /// Whether `caller` may know of a schema: one confined to streams knows those of its streams.
    #[must_use]
    pub fn sees_schema(&self, caller: &Principal, id: SchemaId) -> bool {
        let of_theirs = |s: &Arc<StreamEntry>| s.schema.id == id && caller.sees(s.id, &s.name);
        !caller.role.is_confined() || self.current().streams().any(of_theirs)
    }

    /// A schema.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn schema(&self, id: SchemaId) -> Result<Schema, ControlError> {
        Ok(self.parts.catalog.schema(id).await?)
    }

    /// A schema and its newest version.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn schema_and_newest(&self, id: SchemaId) -> Result<(Schema, SchemaVersion), ControlError> {
        let schema = self.parts.catalog.schema(id).await?;
        let newest = self.parts.catalog.versions(id, schema.latest_version - 1, 1).await?.pop();
        let newest = newest.ok_or_else(|| ControlError::Internal(format!("{id} has no version")))?;
        Ok((schema, newest))
    }

    /// Schemas, filtered by namespace and name.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn schemas(
        &self,
        namespace: Option<String>,
        name: Option<String>,
        page: Page,
    ) -> Result<Vec<Schema>, ControlError> {
        let filter = SchemaFilter { namespace, name, name_prefix: None };
        Ok(self.parts.catalog.schemas(filter, page).await?)
    }

    /// The versions of a schema after `after`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn versions(&self, id: SchemaId, after: u32, limit: u32) -> Result<Vec<SchemaVersion>, ControlError> {
        Ok(self.parts.catalog.versions(id, after, limit).await?)
    }

    /// One version of a schema.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn version(&self, id: SchemaId, number: u32) -> Result<SchemaVersion, ControlError> {
        Ok(self.parts.catalog.version(id, number).await?)
    }

    /// Changes how a schema is described and how its next versions must agree.
    ///
    /// # Errors
    /// `Invalid`, `NotFound` or `Stale`.
    pub async fn change_schema(
        &self,
        actor: &Actor,
        id: SchemaId,
        change: SchemaChange,
    ) -> Result<Schema, ControlError> {
        if let Some(description) = &change.description {
            names::description("/description", description)?;
        }
        let _changing = self.changing().await?;
        let audit = actor.did("schema.change", "schema", &id.to_string());
        let schema = self.parts.catalog.change_schema(id, change, now_unix_micros(), audit).await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(schema = %id, version = schema.version, actor = %caller.id, request_id = trace_id, "schema changed");
        Ok(schema)
    }

    /// Takes a version out of use, for good: new versions are not held against it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: it is the version that streams run on.
    pub async fn retire_version(
        &self,
        actor: &Actor,
        id: SchemaId,
        number: u32,
    ) -> Result<SchemaVersion, ControlError> {
        let _changing = self.changing().await?;
        let audit = actor.did("schema.retire_version", "schema", &id.to_string());
        let version = self.parts.catalog.retire_version(id, number, now_unix_micros(), audit).await?;
        let Actor { caller, trace_id } = actor;
        tracing::info!(schema = %id, version = number, actor = %caller.id, request_id = trace_id, "schema version retired");
        Ok(version)
    }

    /// Adds a version; records are checked against it once this is answered. The definition that they are checked against
    /// already is found, not added; one of an earlier version comes back as a new one.
    ///
    /// # Errors
    /// `Invalid`: it does not compile. `Incompatible`. `BreaksPipelines`. `NotFound`. `Conflict`: its schema is changed all the
    /// time.
    pub async fn add_version(&self, actor: &Actor, new: NewVersion) -> Result<AddedVersion, ControlError> {
        let schema = self.parts.catalog.schema(new.schema).await?;
        self.compile(new.schema, schema.latest_version + 1, new.definition.clone()).await?;
        for _ in 0..JUDGEMENTS_MAX {
            match self.try_to_add_version(actor, new.clone()).await {
                Err(ControlError::Stale(_)) => {}
                outcome => return outcome,
            }
        }
        Err(ControlError::Conflict(format!("{} was changed again and again meanwhile: try again", new.schema)))
    }

    /// Adds a version whose definition compiles. What takes long is done before other changes are held up; that nothing of it is
    /// out of date by then, the catalog sees to.
    ///
    /// # Errors
    /// `Incompatible`. `BreaksPipelines`. `NotFound`. `Stale`: the schema was changed meanwhile, by whatever node.
    async fn try_to_add_version(&self, actor: &Actor, new: NewVersion) -> Result<AddedVersion, ControlError> {
        let schema = self.parts.catalog.schema(new.schema).await?;
        let number = schema.latest_version + 1;
        let version = new_version(new.schema, number, new.definition, now_unix_micros())?;
        let known = self.parts.catalog.version_by_fingerprint(new.schema, version.fingerprint).await?;
        if let Some(known) = known.filter(|_| !new.dry_run)
            && self.is_newest_in_use(&known).await?
        {
            let _changing = self.changing().await?;
            self.catch_up().await?;
            return Ok(AddedVersion::Known(known));
        }
        let verdict = self.judge(&schema, &version.definition).await?;
        if new.dry_run {
            let changing = self.changing().await?;
            self.catch_up().await?;
            drop(changing);
            let faults = self.faults_under(new.schema, &version.definition).await?;
            return Ok(AddedVersion::Judged { schema, verdict, faults });
        }
        if !verdict.compatible {
            return Err(ControlError::Incompatible { mode: schema.compatibility_mode, violations: verdict.violations });
        }
        let audit = actor.did("schema.add_version", "schema", &new.schema.to_string());
        let changing = self.changing().await?;
        // What pipelines there are is in force from here on; that no stream is given another one until the version is added, the
        // catalog sees to.
        self.catch_up().await?;
        let judged = Judged { schema: schema.version, generation: Some(self.parts.publisher.generation()) };
        let faults = self.faults_under(new.schema, &version.definition).await?;
        if !faults.is_empty() {
            return Err(ControlError::BreaksPipelines(faults));
        }
        self.parts.catalog.add_version(version.clone(), judged, audit).await?;
        self.publish().await?;
        drop(changing);
        let (schema, Actor { caller, trace_id }) = (new.schema, actor);
        tracing::info!(%schema, version = number, actor = %caller.id, request_id = trace_id, "schema version added");
        Ok(AddedVersion::Added { version, effective_from: self.effective_from(new.schema).await })
    }

    /// Whether a version is the one that records are checked with: not retired, and all that came after it are.
    async fn is_newest_in_use(&self, version: &SchemaVersion) -> Result<bool, ControlError> {
        if version.retired_at.is_some() {
            return Ok(false);
        }
        let mut after = version.version;
        loop {
            let newer = self.parts.catalog.versions(version.schema, after, HISTORY_PAGE).await?;
            let Some(last) = newer.last() else { return Ok(true) };
            if newer.iter().any(|newer| newer.retired_at.is_none()) {
                return Ok(false);
            }
            after = last.version;
        }
    }

    /// Whether a definition may follow the versions that a schema has in use.
    async fn judge(&self, schema: &Schema, definition: &str) -> Result<Verdict, ControlError> {
        let mode = Mode::parse(&schema.compatibility_mode)
            .ok_or_else(|| ControlError::Internal(format!("{} has no compatibility mode of ours", schema.id)))?;
        let policy = policy_of(&schema.policy)
            .ok_or_else(|| ControlError::Internal(format!("{} has no compatibility policy of ours", schema.id)))?;
        let mut history = Vec::new();
        let mut after = 0;
        loop {
            let page = self.parts.catalog.versions(schema.id, after, HISTORY_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.version;
            history.extend(page.into_iter().filter(|version| version.retired_at.is_none()));
        }
        let definition = definition.to_owned();
        let judged = self.parts.workers.run(move || {
            let parse = |text: &str| serde_json::from_str::<Value>(text);
            let history: Vec<_> =
                history.iter().map(|v| Ok((v.version, parse(&v.definition)?))).collect::<Result<_, _>>()?;
            let history: Vec<_> = history.iter().map(|(number, value)| (*number, value)).collect();
            Ok(compatibility::check(mode, policy, &history, &parse(&definition)?))
        });
        judged.await?.map_err(|error: serde_json::Error| ControlError::Internal(error.to_string()))
    }

    /// For the streams of a schema, the sequence number from which on all records were checked with its newest version: every
    /// shard runs on it, and what was checked before has its number.
    async fn effective_from(&self, id: SchemaId) -> Vec<(StreamId, i64)> {
        let current = self.current();
        let mut streams: Vec<_> = current.streams().filter(|stream| stream.schema.id == id).collect();
        streams.sort_by_key(|stream| stream.id.to_string());
        let mut effective = Vec::new();
        for stream in streams.into_iter().take(EFFECTIVE_MAX) {
            // A shard that is too busy to tell leaves its streams out.
            if let Ok(snapshot) = self.parts.link.snapshot(stream.home, stream.id).await {
                effective.push((stream.id, snapshot.next_sequence));
            }
        }
        effective
    }

    async fn compile(&self, id: SchemaId, version: u32, definition: String) -> Result<(), ControlError> {
        let compiled =
            self.parts.workers.run(move || CompiledSchema::compile_new(id, version, &definition).map(drop)).await?;
        compiled.map_err(|error| unusable(&error))
    }
}

/// A version whose definition has been compiled.
fn new_version(
    schema: SchemaId,
    version: u32,
    definition: String,
    created_at: i64,
) -> Result<SchemaVersion, ControlError> {
    let fingerprint = canonical_fingerprint(&definition)
        .map_err(|error| ControlError::Internal(format!("a definition that compiles is no JSON: {error}")))?;
    Ok(SchemaVersion { schema, version, definition, fingerprint, created_at, retired_at: None })
}

fn unusable(error: &SchemaError) -> ControlError {
    ControlError::Invalid {
        detail: format!("the definition cannot be used: {}", error.message),
        fields: vec![FieldError { pointer: format!("/definition{}", error.pointer), detail: error.message.clone() }],
    }
}

/// The name of a policy in the catalog and in REST.
#[must_use]
pub fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Strict => "strict",
        Policy::Lenient => "lenient",
    }
}

/// The policy of this name, in any case.
#[must_use]
pub fn policy_of(name: &str) -> Option<Policy> {
    [Policy::Strict, Policy::Lenient].into_iter().find(|&policy| policy_name(policy).eq_ignore_ascii_case(name))
}
