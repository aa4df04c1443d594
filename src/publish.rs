//! Makes the immutable catalog that everyone runs on, from what the catalog store holds, and keeps the one in force.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use ttdust_shards::{
    access::{Access, Credentials, Role, StreamPermissions, TokenCheck, failures::AuthFailures},
    ids::{SchemaId, ShardId, StreamId},
    rate::RateLimits,
    record::keys::KeyField,
    schema::{CompiledSchema, SchemaError},
    snapshot::{CatalogSnapshot, StreamEntry},
    tls::PeerIdentity,
};

use crate::{
    access::{
        self,
        tokens::{TokenKeyError, Tokens},
    },
    catalog::{ApiKey, Catalog, CatalogError, Changes, Everything, SchemaVersion, Stream},
    config::{AuthMode, CertificateHolder, Settings},
    link::Homes,
    workers::{WorkerError, Workers},
};

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A registered schema does not compile any more.
    #[error("version {version} of {schema} is in the catalog but cannot be used: {source}")]
    Schema {
        /// The schema.
        schema: SchemaId,
        /// Its version.
        version: u32,
        /// Why.
        #[source]
        source: SchemaError,
    },
    /// No worker could compile it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// How credentials other than API keys are checked.
#[derive(Clone, Default)]
pub struct Checks {
    /// One for as long as these checks are in force: by another one, every token is checked again.
    tokens: Option<Arc<TokenCheck>>,
    certificates: Arc<HashMap<PeerIdentity, (Role, StreamPermissions)>>,
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checks").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

impl Checks {
    /// As the settings say. Blocking: reads files.
    ///
    /// # Errors
    /// The keys of tokens cannot be used.
    pub fn load(settings: &Settings) -> Result<Self, TokenKeyError> {
        let holder = |holder: &CertificateHolder| {
            (PeerIdentity::named(&holder.name), (holder.role, StreamPermissions::new(holder.streams.clone())))
        };
        Ok(Self {
            tokens: Tokens::load(settings)?
                .map(|tokens| -> Arc<TokenCheck> { Arc::new(move |token| tokens.check(token)) }),
            certificates: Arc::new(settings.auth_certificates.iter().map(holder).collect()),
        })
    }
}

/// The snapshot in force, and the making of the next.
#[derive(Debug)]
pub struct Publisher {
    catalog: Catalog,
    workers: Workers,
    homes: Homes,
    auth: AuthMode,
    checks: RwLock<Checks>,
    rates: RwLock<RateLimits>,
    failures: Arc<AuthFailures>,
    last_uses: Mutex<HashMap<String, Arc<AtomicI64>>>,
    current: RwLock<Arc<CatalogSnapshot>>,
    generation: AtomicI64,
    keys: Mutex<BTreeMap<String, ApiKey>>,
    compiled: Mutex<HashMap<SchemaId, Arc<CompiledSchema>>>,
}

impl Publisher {
    /// With an empty snapshot in force.
    #[must_use]
    pub fn new(catalog: Catalog, workers: Workers, homes: Homes, auth: AuthMode, checks: Checks) -> Self {
        Self {
            catalog,
            workers,
            homes,
            auth,
            checks: RwLock::new(checks),
            rates: RwLock::default(),
            failures: Arc::default(),
            last_uses: Mutex::default(),
            current: RwLock::default(),
            generation: AtomicI64::new(0),
            keys: Mutex::default(),
            compiled: Mutex::default(),
        }
    }

    /// The next snapshots check credentials so.
    pub fn set_checks(&self, checks: Checks) {
        *self.checks.write().unwrap_or_else(PoisonError::into_inner) = checks;
    }

    /// The next snapshots have these limits; that of failed authentications is in force at once.
    pub fn set_rates(&self, rates: RateLimits) {
        self.failures.set_limit(rates.auth_failures_per_minute);
        *self.rates.write().unwrap_or_else(PoisonError::into_inner) = rates;
    }

    /// The home of a stream, be it in the snapshot or not.
    #[must_use]
    pub fn home_of(&self, stream: &Stream) -> ShardId {
        self.homes.of(stream.id, &stream.name)
    }

    /// Id and time (Unix µs) of the last use of every key that was used since the start.
    #[must_use]
    pub fn last_uses(&self) -> Vec<(String, i64)> {
        let uses = self.last_uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.iter().map(|(id, at)| (id.clone(), at.load(Relaxed))).filter(|(_, at)| *at > 0).collect()
    }

    /// The snapshot in force.
    #[must_use]
    pub fn current(&self) -> Arc<CatalogSnapshot> {
        // Nothing can panic while the lock is held.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The generation of the catalog that the snapshot in force is of.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.generation.load(Relaxed)
    }

    /// Reads the catalog and puts a new snapshot in force. Calls must not overlap.
    ///
    /// # Errors
    /// See [`PublishError`]; the old one stays in force.
    pub async fn advance(&self) -> Result<Arc<CatalogSnapshot>, PublishError> {
        if self.generation() > 0
            && let Some(changes) = self.catalog.changes_since(self.generation()).await?
        {
            return self.apply(&changes).await;
        }
        let everything = self.catalog.everything().await?;
        self.put_in_force(&everything).await
    }

    /// Puts a snapshot in force of what the current one is of, with the checks and limits that were set last. The catalog is not
    /// asked: they change while it is down, too. Calls must not overlap with other changes.
    pub fn republish(&self) -> Arc<CatalogSnapshot> {
        let access = self.access(&self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        let rates = *self.rates.read().unwrap_or_else(PoisonError::into_inner);
        let next = self.current().advanced(access, Vec::new(), &[]).with_rates(rates);
        self.set_current(next, self.generation())
    }

    /// The keys of the snapshot in force.
    #[must_use]
    pub fn keys(&self) -> Vec<ApiKey> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Puts a snapshot in force that has `changes` beside the current one. What it costs is what changed, not what there is,
    /// but for copying two maps.
    async fn apply(&self, changes: &Changes) -> Result<Arc<CatalogSnapshot>, PublishError> {
        let current = self.current();
        let mut schemas = HashMap::new();
        let mut newer = false;
        for version in &changes.schemas {
            let known = self.compiled_before(version.schema);
            newer |= known.is_some_and(|known| known.version != version.version);
            schemas.insert(version.schema, self.compiled(version).await?);
        }
        let mut entries = self.entries(&changes.streams, &schemas)?;
        if newer {
            // Every stream of a schema that has a newer version.
            let of_newer = |entry: &&Arc<StreamEntry>| schemas.contains_key(&entry.schema.id);
            let changed: HashSet<StreamId> = entries.iter().map(|entry| entry.id).collect();
            let others = current.streams().filter(of_newer).filter(|entry| !changed.contains(&entry.id));
            entries.extend(
                others.map(|entry| StreamEntry { schema: Arc::clone(&schemas[&entry.schema.id]), ..(**entry).clone() }),
            );
        }
        let access = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            changes.keys_gone.iter().for_each(|id| drop(keys.remove(id)));
            keys.extend(changes.keys.iter().map(|key| (key.id.clone(), key.clone())));
            self.access(&keys)
        };
        let rates = *self.rates.read().unwrap_or_else(PoisonError::into_inner);
        let next = current.advanced(access, entries, &changes.streams_gone).with_rates(rates);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.extend(schemas);
        if !changes.streams_gone.is_empty() {
            let used: HashSet<SchemaId> = next.streams().map(|stream| stream.schema.id).collect();
            compiled.retain(|id, _| used.contains(id));
        }
        drop(compiled);
        Ok(self.set_current(next, changes.generation))
    }

    fn set_current(&self, next: CatalogSnapshot, generation: i64) -> Arc<CatalogSnapshot> {
        let next = Arc::new(next);
        self.generation.store(generation, Relaxed);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        next
    }

    /// Puts a snapshot of `everything` in force. Calls must not overlap.
    ///
    /// # Errors
    /// See [`PublishError`]; the old one stays in force.
    pub async fn put_in_force(&self, everything: &Everything) -> Result<Arc<CatalogSnapshot>, PublishError> {
        let mut schemas = HashMap::new();
        for version in &everything.schemas {
            schemas.insert(version.schema, self.compiled(version).await?);
        }
        let version = self.current().version + 1;
        let rates = *self.rates.read().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries(&everything.streams, &schemas)?;
        let keys = everything.keys.iter().map(|key| (key.id.clone(), key.clone())).collect();
        let next = CatalogSnapshot::new(version, self.access(&keys), entries).with_rates(rates);
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
        *self.compiled.lock().unwrap_or_else(PoisonError::into_inner) = schemas;
        Ok(self.set_current(next, everything.generation))
    }

    fn compiled_before(&self, schema: SchemaId) -> Option<Arc<CompiledSchema>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).get(&schema).cloned()
    }

    async fn compiled(&self, version: &SchemaVersion) -> Result<Arc<CompiledSchema>, PublishError> {
        if let Some(known) = self.compiled_before(version.schema).filter(|known| known.version == version.version) {
            return Ok(known);
        }
        let (id, number, definition) = (version.schema, version.version, version.definition.clone());
        let compiled = self.workers.run(move || CompiledSchema::compile(id, number, &definition)).await?;
        compiled.map(Arc::new).map_err(|source| PublishError::Schema { schema: id, version: number, source })
    }

    fn access(&self, keys: &BTreeMap<String, ApiKey>) -> Access {
        match self.auth {
            AuthMode::Off => Access::Open,
            AuthMode::Keys => Access::Checked(self.credentials(keys)),
        }
    }

    fn credentials(&self, keys: &BTreeMap<String, ApiKey>) -> Credentials {
        let mut uses = self.last_uses.lock().unwrap_or_else(PoisonError::into_inner);
        // What was counted of a key that is still there goes on being counted.
        *uses = keys.values().map(|key| (key.id.clone(), uses.remove(&key.id).unwrap_or_default())).collect();
        let entry = |key: &ApiKey| (access::uuid_of(key).to_owned(), access::entry_of(key, Arc::clone(&uses[&key.id])));
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner).clone();
        Credentials {
            keys: keys.values().map(entry).collect(),
            tokens: checks.tokens,
            certificates: checks.certificates,
            failures: Arc::clone(&self.failures),
        }
    }

    fn entries(
        &self,
        streams: &[Stream],
        schemas: &HashMap<SchemaId, Arc<CompiledSchema>>,
    ) -> Result<Vec<StreamEntry>, CatalogError> {
        let entry = |stream: &Stream| {
            let schema = schemas
                .get(&stream.schema)
                .ok_or_else(|| CatalogError::Corrupt(format!("stream {} has no schema version", stream.id)))?;
            // The catalog leaves out those that the shards do not know.
            Ok(stream.status.for_shards().map(|state| StreamEntry {
                id: stream.id,
                name: stream.name.clone(),
                state,
                schema: Arc::clone(schema),
                key_fields: stream.key_fields.iter().map(|field| KeyField::new(field)).collect(),
                pipelines: Arc::new(stream.pipelines.for_shards()),
                dead_letters: stream.dead_letters,
                home: self.homes.of(stream.id, &stream.name),
            }))
        };
        streams.iter().filter_map(|stream| entry(stream).transpose()).collect()
    }
}
