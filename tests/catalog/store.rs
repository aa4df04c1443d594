//! Where a catalog of a test lies, and the objects that tests put into it.

use ttdust::catalog::{
    AuditEntry, Catalog, CatalogError, CatalogPlace, Judged, Page, PgFigures, Retention, Schema, SchemaVersion, Stream,
    StreamStatus, canonical_fingerprint,
};
use ttdust_shards::ids::{SchemaId, StreamId};

use crate::postgres::Database;

/// An empty catalog of its own, gone with the test.
pub enum Place {
    /// A file.
    Sqlite(tempfile::TempDir),
    /// A database of a real server, and a directory for the mirrors.
    Postgres(Database, tempfile::TempDir),
}

impl Place {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn postgres() -> Self {
        Self::Postgres(Database::fresh(), tempfile::tempdir().expect("a temporary directory"))
    }

    /// What a configuration would say of it.
    pub fn place(&self) -> CatalogPlace {
        match self {
            Self::Sqlite(dir) => CatalogPlace::Embedded(dir.path().join("catalog.sqlite")),
            Self::Postgres(database, dir) => CatalogPlace::Postgres {
                options: Box::new(database.options()),
                // Each handle is another node.
                mirror: dir.path().join(uuid::Uuid::new_v4().to_string()),
            },
        }
    }

    /// A handle of its own, as another process would have it.
    pub async fn open(&self) -> Catalog {
        Catalog::open(&self.place(), PgFigures::default()).await.expect("a catalog")
    }

    /// Runs SQL on it, behind the catalog's back.
    pub async fn execute(&self, sql: &str) -> Result<(), String> {
        match self {
            Self::Sqlite(dir) => {
                let connection = rusqlite::Connection::open(dir.path().join("catalog.sqlite")).expect("the file");
                connection.execute_batch(sql).map_err(|error| error.to_string())
            }
            Self::Postgres(database, _) => database.execute(sql).await.map_err(|error| format!("{error:?}")),
        }
    }
}

pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

pub fn all() -> Page {
    Page { after: String::new(), limit: 1000 }
}

pub fn line(action: &str) -> AuditEntry {
    AuditEntry::system(action, "test", "object")
}

pub fn schema(name: &str) -> (Schema, SchemaVersion) {
    let id = SchemaId::generate();
    let schema = Schema {
        id,
        namespace: "default".into(),
        name: name.into(),
        description: "of events".into(),
        compatibility_mode: "NONE".into(),
        policy: "strict".into(),
        version: 1,
        created_at: 1,
        updated_at: 1,
        latest_version: 1,
    };
    (schema, version(id, 1))
}

/// Each number has a definition of its own.
pub fn version(schema: SchemaId, number: u32) -> SchemaVersion {
    let definition = format!(r#"{{"title": "{number}", "type": "object"}}"#);
    let fingerprint = canonical_fingerprint(&definition).expect("JSON");
    SchemaVersion { schema, version: number, definition, fingerprint, created_at: number.into(), retired_at: None }
}

pub fn stream(name: &str, schema: SchemaId) -> Stream {
    Stream {
        id: StreamId::generate(),
        name: name.into(),
        description: "d".into(),
        schema,
        status: StreamStatus::Active,
        key_fields: vec!["id".into()],
        labels: [("team".to_owned(), "a".to_owned())].into(),
        retention: Some(Retention::Time { retention_days: 7 }),
        partition_config: Some(serde_json::json!({"granularity": "hour"})),
        version: 1,
        pipelines: Default::default(),
        dead_letters: None,
        flushed_through: 0,
        created_at: 1,
        updated_at: 1,
    }
}

/// Of a version that was held against its schema, at this version of it, and nothing else.
pub fn judged(schema: i64) -> Judged {
    Judged { schema, generation: None }
}

/// Adds a version that fits the schema as it is now.
pub async fn add(catalog: &Catalog, version: SchemaVersion, action: &str) -> Result<Schema, CatalogError> {
    let schema = catalog.schema(version.schema).await?.version;
    catalog.add_version(version, judged(schema), line(action)).await
}

pub async fn with_schema(catalog: &Catalog) -> SchemaId {
    let (schema, version) = schema("events");
    let id = schema.id;
    catalog.create_schema(schema, version, line("schema.create")).await.expect("created");
    id
}

pub async fn with_stream(catalog: &Catalog) -> Stream {
    let stream = stream("clicks", with_schema(catalog).await);
    catalog.create_stream(stream.clone(), line("stream.create")).await.expect("created");
    stream
}
