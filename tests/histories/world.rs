//! A server with one stream, and what is done to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use ttdust::{
    catalog::{Catalog, CatalogPlace, PgFigures, StoredFile},
    objects::FileName,
};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, OnInvalid, Status},
    path,
    query::{Order, StreamingReadRequest},
};

use super::{
    STREAM,
    client::Client,
    model::{Model, Random},
    process::{DEADLINE, Server, wait_for},
    reads::{KEY_FIELDS, KEYS, Reader, Times, assert_same, key_of, next_of},
    redis_server::Redis,
    rest,
    s3::{Fault, Store},
};

/// Where the files lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Disk,
    FailingStore,
}

const SETTINGS: [(&str, &str); 18] = [
    ("shards.count", "1"),
    ("wal.segment_bytes", "512KiB"),
    ("wal.quota_bytes", "64MiB"),
    ("wal.frame_bytes", "64KiB"),
    ("limits.message_bytes", "256KiB"),
    ("limits.record_bytes", "16KiB"),
    ("buffer.memory_bytes", "2MiB"),
    ("buffer.freeze_bytes", "256KiB"),
    ("buffer.flush_interval_ms", "150"),
    ("upkeep.interval_ms", "10"),
    ("compaction.min_age_ms", "0"),
    ("compaction.min_files", "4"),
    // So small that there is more than one file for retention to choose from.
    ("compaction.target_bytes", "64KiB"),
    ("compaction.grace_ms", "0"),
    ("retention.interval_ms", "10"),
    ("orphans.interval_ms", "50"),
    ("orphans.grace_ms", "0"),
    ("log.level", "debug"),
];

/// Types of members that later versions of the schema have.
const TYPES: [&str; 4] = ["boolean", "integer", "string", "number"];

/// The server and its model.
pub struct World {
    dir: tempfile::TempDir,
    store: Option<Store>,
    /// Keeps parts of files that lie in the store.
    _redis: Option<Redis>,
    settings: Vec<(&'static str, String)>,
    /// `None`: between two runs.
    server: Option<Server>,
    stream: String,
    schema: String,
    versions: usize,
    /// The stream's pipeline, if it has one.
    pipeline: Option<String>,
    model: Model,
    /// Ids that records have or had, and those of a stream that was deleted.
    ids: BTreeMap<i64, String>,
    gone: Vec<String>,
    random: Random,
}

impl World {
    pub fn new(place: Place, seed: u64) -> Self {
        println!("seed {seed}, {place:?}");
        let dir = tempfile::tempdir().expect("a directory");
        let store = (place == Place::FailingStore).then(Store::start);
        let mut settings: Vec<_> = SETTINGS.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        settings.extend(store.iter().flat_map(Store::settings));
        settings.extend(store.iter().map(|_| ("s3.timeout_ms", "300".to_owned())));
        let redis = store.is_some().then(Redis::start);
        settings.extend(redis.iter().map(|redis| ("redis.url", redis.url())));
        // Every second history reads all from the store, each time.
        settings.push(("query.cache_bytes", if seed.is_multiple_of(2) { "0" } else { "32MiB" }.to_owned()));
        let mut world = Self {
            dir,
            store,
            _redis: redis,
            settings,
            server: None,
            stream: String::new(),
            schema: String::new(),
            versions: 1,
            pipeline: None,
            model: Model::default(),
            ids: BTreeMap::new(),
            gone: Vec::new(),
            random: Random(seed),
        };
        world.start();
        let schema = json!({"name": "events", "namespace": "tests", "compatibility_mode": "none",
                            "definition": world.definition()});
        world.schema = world.call("POST", "/api/v1/schemas", &schema, 201)["id"].as_str().expect("an id").to_owned();
        world.create();
        world
    }

    fn start(&mut self) {
        let settings: Vec<_> = self.settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        self.server = Some(Server::start(self.dir.path(), &settings));
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value, wanted: u16) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = rest::call(&self.server().http, method, path, &text);
        assert_eq!(status, wanted, "{method} {path}: {answer}");
        answer
    }

    fn create(&mut self) {
        let stream = json!({"name": STREAM, "schema_id": self.schema, "key_fields": KEY_FIELDS});
        let created = wait_for("the name", || {
            let (status, answer) = rest::call(&self.server().http, "POST", "/api/v1/streams", &stream.to_string());
            assert!([201, 409].contains(&status), "{status} {answer}");
            (status == 201).then_some(answer)
        });
        self.stream = created["id"].as_str().expect("an id").to_owned();
    }

    /// The schema's newest version.
    fn definition(&self) -> Value {
        let mut properties = json!({
            "key": {"type": "string"}, "n": {"type": "integer"}, "flag": {"type": "boolean"},
            "deep": {"type": "object", "properties": {"id": {"type": "string"}}},
            "at": {"type": "integer"}, "then": {"type": "integer"},
        });
        for version in 1..self.versions {
            properties[format!("x{version}")] = json!({"type": TYPES[version % TYPES.len()]});
        }
        json!({"type": "object", "required": ["text"], "properties": properties})
    }

    fn record(&mut self) -> Bytes {
        let random = &mut self.random;
        let text: String = (0..random.below(500)).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
        let mut record = json!({"text": text});
        for field in ["key", "flag"].into_iter().filter(|_| !random.one_in(5)).collect::<Vec<_>>() {
            let key = key_of(field, random.below(KEYS));
            record[field] = if field == "flag" { json!(key == "true") } else { json!(key) };
        }
        if !random.one_in(6) {
            record["n"] = json!(random.below(KEYS) as i64 - 7);
        }
        if !random.one_in(6) {
            record["deep"] = json!({"id": key_of("/deep/id", random.below(KEYS))});
        }
        if !random.one_in(5) {
            record["at"] = json!(1_772_366_400_000_000 + random.below(1000) as i64);
        }
        if !random.one_in(5) {
            // About the time zero.
            record["then"] = json!(random.below(1000) as i64 - 500);
        }
        for version in 1..self.versions {
            if random.one_in(3) {
                let value = [json!(true), json!(version), json!("x"), json!(0.5)][version % TYPES.len()].clone();
                record[format!("x{version}")] = value;
            }
        }
        record.to_string().into()
    }

    /// Does something, and looks whether all is as it should be.
    pub async fn step(&mut self, step: usize) {
        self.disturb();
        let what = match self.random.below(27) {
            0..9 => "ingest",
            9..12 => "flush",
            12..15 => "merge",
            15..17 => "new version",
            17..19 => "retention",
            19..21 => "kill",
            21..23 => "stop",
            23..26 => "event time",
            _ => "deletion",
        };
        println!("step {step}: {what}, records {} to {}", self.model.first(), self.model.last);
        match what {
            "ingest" => self.ingest().await,
            "flush" => self.flush(),
            "merge" => self.merge(),
            "new version" => self.add_version(),
            "event time" => self.change_event_time(),
            "retention" => self.retain().await,
            "deletion" => self.delete().await,
            "kill" => {
                self.ingest().await;
                self.server.take().expect("it runs").kill();
                self.start();
            }
            _ => {
                let server = self.server.take().expect("it runs");
                assert!(server.stop_meanwhile().await.success(), "a clean stop");
                self.start();
            }
        }
        self.check(4).await;
    }

    /// The next few requests to the store go wrong.
    fn disturb(&mut self) {
        let Some(store) = &self.store else { return };
        for _ in 0..self.random.below(3) {
            let operation = *self.random.pick(&["put", "head", "get", "get", "delete", "list"]);
            let faults = [
                Fault::Refuse(500, "InternalError"),
                Fault::Refuse(503, "SlowDown"),
                Fault::Refuse(409, "ConditionalRequestConflict"),
                Fault::DoThenRefuse(500, "InternalError"),
                Fault::Drop,
                Fault::DoThenDrop,
                Fault::Hang,
                Fault::DoThenHang,
                Fault::Late(Duration::from_millis(100)),
            ];
            let times = 1 + self.random.below(2);
            store.fault(operation, times, self.random.pick(&faults).clone());
        }
    }

    async fn ingest(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            self.append().await;
        }
    }

    async fn append(&mut self) {
        let mut payloads: Vec<Bytes> = (0..1 + self.random.below(25)).map(|_| self.record()).collect();
        let accepted = payloads.clone();
        // What is refused takes no number.
        let refused = self.random.one_in(4);
        if refused {
            payloads.insert(self.random.below(payloads.len() + 1), Bytes::from_static(b"{\"text\": 1}").slice(..5));
        }
        let source = self.random.one_in(3).then(|| ("source".to_owned(), format!("s{}", self.random.below(3))));
        let metadata: BTreeMap<_, _> = source.into_iter().collect();
        let request = AppendRequest {
            stream_id: STREAM.to_owned(),
            payloads,
            metadata: metadata.clone(),
            on_invalid: OnInvalid::Skip.into(),
            ..AppendRequest::default()
        };
        let since = Instant::now();
        loop {
            let mut client = Client::connect(self.server().grpc.parse().expect("an address")).await;
            let mut call = client.call(path::APPEND).await;
            call.send(&request).await;
            call.finish();
            let answer: AppendResponse = call.receive().await.expect("an answer");
            if answer.status() == Status::RateLimited && since.elapsed() < DEADLINE {
                continue;
            }
            assert_eq!((answer.accepted as usize, answer.rejected), (accepted.len(), refused.into()), "{answer:?}");
            self.model.acked(answer.first_sequence, answer.timestamp_unix_micros, accepted, &metadata);
            return;
        }
    }

    fn flush(&self) {
        wait_for("the last flush", || {
            let stream = self.call("GET", &format!("/api/v1/streams/{}", self.stream), &Value::Null, 200);
            (stream["statistics"]["flushed_through"].as_i64() == Some(self.model.last)).then_some(())
        });
    }

    fn number(&self, sql: &str) -> i64 {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let catalog = Connection::open_with_flags(self.dir.path().join("data/catalog.sqlite"), flags);
        let catalog = catalog.expect("a catalog");
        catalog.busy_timeout(DEADLINE).expect("set");
        catalog.query_row(sql, [&self.stream], |row| row.get(0)).expect("a number")
    }

    /// All that is small is merged, and what was merged is removed.
    fn merge(&self) {
        self.flush();
        wait_for("the last merges and removals", || {
            let flushes = self.number("SELECT count(*) FROM files WHERE stream_id = ?1 AND level = 0");
            // Three at the end of each of two hours.
            let retired = self.number("SELECT count(*) FROM retired_files WHERE ?1 <> ''");
            (flushes < 7 && retired == 0).then_some(())
        });
    }

    fn add_version(&mut self) {
        if self.versions > 6 {
            return;
        }
        self.versions += 1;
        let version = json!({"definition": self.definition()});
        self.call("POST", &format!("/api/v1/schemas/{}/versions", self.schema), &version, 201);
    }

    /// Another field tells when events were, or none does. Records stay as they are.
    fn change_event_time(&mut self) {
        let field = *self.random.pick(&[Some("at"), Some("then"), None]);
        let steps = json!([{"type": "timestamp", "fields": [field], "formats": ["unix_us"], "target": "unix_us",
                            "event_time": true}]);
        let of_pipeline = |id: &str| format!("/api/v1/pipelines/{id}");
        match (self.pipeline.take(), field) {
            (None, None) => {}
            (None, Some(_)) => {
                let pipeline = json!({"stream_id": STREAM, "steps": steps});
                let created = self.call("POST", "/api/v1/pipelines", &pipeline, 201);
                self.pipeline = Some(created["id"].as_str().expect("an id").to_owned());
            }
            (Some(id), Some(_)) => {
                self.call("PATCH", &of_pipeline(&id), &json!({"steps": steps}), 200);
                self.pipeline = Some(id);
            }
            (Some(id), None) => drop(self.call("DELETE", &of_pipeline(&id), &Value::Null, 204)),
        }
        self.model.event_field = field;
    }

    /// By size, the older half goes.
    async fn retain(&mut self) {
        self.flush();
        let sizes = "SELECT coalesce(sum(bytes), 0) FROM files WHERE stream_id = ?1";
        let files = "SELECT count(*) FROM files WHERE stream_id = ?1";
        let most = self.number(sizes) / 2;
        if most == 0 {
            return;
        }
        let stream = format!("/api/v1/streams/{}", self.stream);
        self.call("PATCH", &stream, &json!({"retention_policy": {"type": "size", "max_bytes": most}}), 200);
        wait_for("room", || (self.number(sizes) <= most || self.number(files) == 1).then_some(()));
        self.call("PATCH", &stream, &json!({"retention_policy": null}), 200);
        // A pass may still be under way; a manifest of a later file is written after it.
        self.append().await;
        self.flush();
        let owed = "SELECT count(*) FROM manifest_debts WHERE ?1 <> ''";
        wait_for("the manifests", || (self.number(owed) == 0).then_some(()));
        let first = self.number("SELECT min(first_sequence) FROM files WHERE stream_id = ?1");
        assert!(first >= self.model.first(), "what was gone has not come back");
        self.model.dropped_before(first);
    }

    /// Another stream has the name afterwards.
    async fn delete(&mut self) {
        self.learn_ids().await;
        self.call("DELETE", &format!("/api/v1/streams/{}", self.stream), &Value::Null, 202);
        self.gone.extend(std::mem::take(&mut self.ids).into_values());
        (self.model, self.pipeline) = (Model::default(), None);
        self.create();
    }

    async fn reader(&self) -> Reader {
        Reader::connect(&self.server().grpc, &self.server().http, self.store.is_some()).await
    }

    async fn learn_ids(&mut self) {
        let ids = self.reader().await.ids().await;
        self.ids.extend(ids);
    }

    /// Asks so many queries of each kind.
    async fn check(&mut self, times: usize) {
        let mut reader = self.reader().await;
        for _ in 0..times {
            reader.check_range(&self.model, &mut self.random).await;
            reader.check_events(&self.model, &mut self.random).await;
            reader.check_key(&self.model, &mut self.random).await;
            reader.check_key(&self.model, &mut self.random).await;
            reader.check_ids(&self.model, &self.ids, &mut self.random).await;
        }
        if !self.gone.is_empty() {
            let id = self.random.pick(&self.gone).clone();
            reader.check_gone(&id).await;
        }
        reader.check_tail(&self.model, &mut self.random).await;
        if self.random.one_in(3) {
            self.check_what_comes_meanwhile(&mut reader).await;
        }
        if self.random.one_in(4) {
            self.learn_ids().await;
        }
    }

    /// Between two pages, and while a tail waits, records come in.
    async fn check_what_comes_meanwhile(&mut self, reader: &mut Reader) {
        let all = Times::ALL;
        let (first_up, up) = reader.page(all, 5, Order::Asc, None).await;
        let (first_down, down) = reader.page(all, 5, Order::Desc, None).await;
        let mut before = self.model.range(0, i64::MAX);
        let next = self.model.last + 1;
        let request = StreamingReadRequest { stream_id: STREAM.into(), start_sequence: Some(next), start_time: None };
        let mut tail = reader.open_tail(&request).await;
        self.append().await;
        let now = self.model.range(0, i64::MAX);
        for row in now.iter().filter(|row| row.sequence >= next) {
            assert_eq!(next_of(&mut tail).await.as_ref(), Ok(row), "what comes is told");
        }
        let limit = 40 + now.len() / 10;
        if let Some(cursor) = up {
            let rest = reader.pages(all, limit, Order::Asc, Some(cursor)).await;
            assert_same(&[first_up, rest].concat(), &now, "what came is at the end");
        }
        if let Some(cursor) = down {
            let rest = reader.pages(all, limit, Order::Desc, Some(cursor)).await;
            before.reverse();
            assert_same(&[first_down, rest].concat(), &before, "what came is before the first page");
        }
    }

    /// All is in files, and nothing else is there.
    pub async fn end(&mut self) {
        self.check(20).await;
        self.merge();
        self.check(10).await;
        self.flush();
        if let Some(store) = &self.store {
            store.clear_faults();
        }
        wait_for("the removal of what no list names", || {
            let files = self.number("SELECT count(*) FROM files WHERE stream_id = ?1");
            let owed = self.number("SELECT count(*) FROM manifest_debts WHERE ?1 <> ''");
            (self.objects().len() as i64 == files && owed == 0).then_some(())
        });
        let server = self.server.take().expect("it runs");
        assert!(server.stop_meanwhile().await.success(), "a clean stop");
    }

    /// Files that are there, and what they hold.
    fn objects(&self) -> BTreeMap<String, Bytes> {
        let is_file = |key: &str| key.ends_with(".parquet");
        match &self.store {
            Some(store) => {
                let state = store.state();
                let objects = state.objects.iter().filter(|(key, _)| is_file(key));
                objects.map(|(key, object)| (key.clone(), object.content.clone())).collect()
            }
            None => {
                let root = self.dir.path().join("data/objects");
                let read = |path: PathBuf| {
                    let key = path.strip_prefix(&root).expect("below").to_str().expect("ASCII").to_owned();
                    // What goes while it is looked at is gone.
                    fs::read(&path).ok().map(|content| (key, content.into()))
                };
                files_below(&root)
                    .into_iter()
                    .filter(|path| is_file(&path.to_string_lossy()))
                    .filter_map(read)
                    .collect()
            }
        }
    }

    /// Of a server that has ended: the catalog's files hold each record once, and each is what the catalog says.
    pub fn check_files(&self) {
        let (files, objects) = (self.listed(), self.objects());
        let mut next = self.model.first();
        for file in &files {
            assert_eq!(file.first_sequence, next, "{files:?}");
            next = file.last_sequence + 1;
            let content = objects.get(&file.key).expect("it is there");
            assert_eq!((content.len() as u64, crc32c::crc32c(content)), (file.bytes, file.checksum), "{file:?}");
            let name = FileName::parse(&file.key).expect("a file's key");
            assert_eq!((name.first_sequence, name.last_sequence), (file.first_sequence, file.last_sequence));
        }
        assert_eq!(next, self.model.last + 1, "{files:?}");
        let known: BTreeSet<_> = files.iter().map(|file| &file.key).collect();
        assert_eq!(objects.keys().collect::<BTreeSet<_>>(), known, "nothing else is there");
    }

    fn listed(&self) -> Vec<StoredFile> {
        let place = CatalogPlace::Embedded(self.dir.path().join("data/catalog.sqlite"));
        let stream = self.stream.parse().expect("an id");
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
            let catalog = Catalog::open(&place, PgFigures::default()).await.expect("the catalog");
            catalog.files_after(stream, 0, u32::MAX).await.expect("files")
        })
    }
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut waiting, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() { waiting.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}
