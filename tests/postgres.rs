//! A server whose catalog is in Postgres, while Postgres is frozen or gone: records are acked, nothing is lost, changes are
//! refused, and once it is back everything goes on by itself (DURABILITY 21).

#[path = "server/certificates.rs"]
mod certificates;
#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/gate.rs"]
mod gate;
#[path = "server/postgres.rs"]
mod postgres;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{fs, path::Path};

use bytes::Bytes;
use gate::{Door, Gate};
use postgres::Database;
use process::{Server, wait_for};
use producer::{Producer, block_on};
use serde_json::{Value, json};
use ttdust::{
    catalog::{AuditEntry, Catalog, CatalogPlace, Page, PgFigures, StreamChange, StreamStatus},
    config::PgOptions,
};

/// A server's directory, and a Postgres behind a door.
struct Site {
    dir: tempfile::TempDir,
    gate: Gate,
    database: Database,
}

impl Site {
    fn new() -> Self {
        let database = Database::fresh();
        let gate = Gate::new(database.socket());
        Self { dir: tempfile::tempdir().expect("a directory"), gate, database }
    }

    fn settings(&self) -> Vec<(String, String)> {
        let options = self.database.options();
        let port = self.gate.port.to_string();
        [
            ("pg.host", "127.0.0.1"),
            ("pg.port", &port),
            ("pg.database", &options.database),
            ("pg.user", &options.user),
            ("pg.tls", "disable"),
            ("pg.statement_timeout_ms", "2000"),
            ("pg.connect_timeout_ms", "4000"),
            ("shards.count", "1"),
            ("wal.quota_bytes", "256MiB"),
            ("buffer.flush_interval_ms", "50"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn spawn(&self, more: &[(&str, &str)]) -> Server {
        let settings = self.settings();
        let settings = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        Server::spawn(self.dir.path(), &settings.chain(more.iter().copied()).collect::<Vec<_>>())
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[(&str, &str)]) -> Server {
        let mut server = self.spawn(more);
        server.wait_until_ready();
        server
    }

    /// Another user of the same catalog.
    async fn elsewhere(&self) -> Catalog {
        let options = Box::new(self.database.options());
        let place = CatalogPlace::Postgres { options, mirror: self.dir.path().join("elsewhere.sqlite") };
        Catalog::open(&place, PgFigures::default()).await.expect("the catalog")
    }
}

fn batch(from: usize) -> Vec<Bytes> {
    (from..from + 10).map(|n| Bytes::from(json!({"n": n, "filler": "x".repeat(100)}).to_string())).collect()
}

async fn append(producer: &mut Producer, batches: usize) {
    for _ in 0..batches {
        producer.append(batch(producer.acked.len())).await.expect("acked");
    }
}

fn ready(server: &Server) -> (u16, Value) {
    rest::call(&server.http, "GET", "/health/ready", "")
}

fn flushed_through(server: &Server, stream: &str) -> Option<i64> {
    let (status, body) = rest::call(&server.http, "GET", &format!("/api/v1/streams/{stream}"), "");
    (status == 200).then(|| body["statistics"]["flushed_through"].as_i64().expect("a number"))
}

/// Waits until every acked row is in a committed file.
fn wait_until_flushed(server: &Server, stream: &str, producer: &Producer) {
    let all = producer.acked.len() as i64;
    wait_for("the last flush", || flushed_through(server, stream).filter(|&through| through == all));
}

/// A change is refused as one that may be tried again.
fn check_refused(server: &Server) {
    let body = json!({"name": "late", "schema_id": "sch_018f4e3c-0000-7000-8000-000000000000"}).to_string();
    let (status, head, problem) = rest::call_with(&server.http, "POST", "/api/v1/streams", &[], &body);
    assert_eq!((status, problem["code"].as_str()), (503, Some("UNAVAILABLE")), "{problem}");
    assert!(head.to_lowercase().contains("retry-after: "), "{head}");
}

/// Each row is in one file: the files follow each other without gap or overlap.
async fn check_files(catalog: &Catalog, stream: &str, rows: usize) {
    let files = catalog.files_in(stream.parse().expect("an id"), 0, i64::MAX).await.expect("files");
    let mut next = 1;
    for file in &files {
        assert_eq!(file.first_sequence, next, "{files:?}");
        next = file.last_sequence + 1;
    }
    assert_eq!(next, rows as i64 + 1);
}

#[test]
fn acks_go_on_while_postgres_is_frozen_or_gone_and_nothing_is_lost() {
    let site = Site::new();
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        append(&mut producer, 20).await;
        wait_until_flushed(&server, &stream, &producer);
        // From now on which files there are is known here.
        let read = producer.read_all().await;
        producer.check(&read);
        for door in [Door::Frozen, Door::Closed] {
            site.gate.set(door);
            append(&mut producer, 20).await;
            check_refused(&server);
            let (status, health) = ready(&server);
            assert_eq!((status, health["components"]["catalog"]["status"].as_str()), (200, Some("down")), "{health}");
            // The pool knows by now: a refusal takes no time.
            let asked = std::time::Instant::now();
            check_refused(&server);
            // What needs no catalog can be changed: limits, certificates, keys of tokens.
            let limit = json!({"settings": {"rate.admin_per_second": "1000"}}).to_string();
            let (status, changed) = rest::call(&server.http, "PATCH", "/api/v1/config", &limit);
            assert_eq!(status, 200, "{changed}");
            assert!(asked.elapsed().as_secs() < 2, "no call waits for a server that is down: {:?}", asked.elapsed());
            append(&mut producer, 20).await;
            let read = producer.read_all().await;
            producer.check(&read);
            site.gate.set(Door::Open);
            wait_until_flushed(&server, &stream, &producer);
            let read = producer.read_all().await;
            producer.check(&read);
            let (status, health) = ready(&server);
            assert_eq!((status, health["components"]["catalog"]["status"].as_str()), (200, Some("ok")), "{health}");
        }
        check_files(&site.elsewhere().await, &stream, producer.acked.len()).await;
    });
    rest::create_stream(&server.http, "views", &json!({"type": "object"}));
    assert!(server.stop().success());
}

#[test]
fn a_server_starts_without_postgres_and_goes_on_once_it_is_back() {
    let site = Site::new();
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        append(&mut producer, 20).await;
        wait_until_flushed(&server, &stream, &producer);
        // A flush is under way when everything ends.
        append(&mut producer, 20).await;
        site.gate.set(Door::Frozen);
        append(&mut producer, 20).await;
        producer.acked
    });
    server.kill();
    site.gate.set(Door::Closed);
    let server = site.start();
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        append(&mut producer, 20).await;
        check_refused(&server);
        // Which files there are was not asked for before.
        let records = format!("/api/v1/streams/{stream}/records");
        let (status, head, problem) = rest::call_with(&server.http, "GET", &records, &[], "");
        assert_eq!((status, problem["code"].as_str()), (503, Some("UNAVAILABLE")), "{problem}");
        assert!(head.contains("retry-after: "), "{head}");
        assert!(server.log().contains("starting from its mirror"));
        site.gate.set(Door::Open);
        wait_until_flushed(&server, &stream, &producer);
        append(&mut producer, 20).await;
        wait_until_flushed(&server, &stream, &producer);
        let read = producer.read_all().await;
        producer.check(&read);
        check_files(&site.elsewhere().await, &stream, producer.acked.len()).await;
    });
    rest::create_stream(&server.http, "views", &json!({"type": "object"}));
    assert!(server.stop().success());
}

/// The files of a mirror.
fn copy_mirror(from: &Path, to: &Path) {
    for name in ["catalog-mirror.sqlite", "catalog-mirror.sqlite-wal"] {
        let (from, to) = (from.join(name), to.join(name));
        match fs::copy(&from, &to) {
            Ok(_) => {}
            // After a clean stop there is no log.
            Err(_) => drop(fs::remove_file(&to)),
        }
    }
    let _ = fs::remove_file(to.join("catalog-mirror.sqlite-shm"));
}

/// Waits until the mirror knows of the commit: its note comes after the commit, which others see at once.
fn wait_until_noted(data: &Path, through: usize) {
    let mirror = rusqlite::Connection::open(data.join("catalog-mirror.sqlite")).expect("the mirror");
    let noted = || mirror.query_row("SELECT max(flushed_through) FROM streams", [], |row| row.get::<_, i64>(0));
    wait_for("the note in the mirror", || (noted().ok()? >= through as i64).then_some(()));
}

#[test]
fn what_was_committed_just_before_a_crash_is_taken_over() {
    let site = Site::new();
    let (data, kept) = (site.dir.path().join("data"), tempfile::tempdir().expect("a directory"));
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        append(&mut producer, 20).await;
        wait_until_flushed(&server, &stream, &producer);
        producer.acked
    });
    wait_until_noted(&data, acked.len());
    server.kill();
    copy_mirror(&data, kept.path());
    let server = site.start();
    let acked = block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        append(&mut producer, 20).await;
        wait_until_flushed(&server, &stream, &producer);
        producer.acked
    });
    server.kill();
    // As if the crash had come between the commits and their notes in the mirror; the log still holds the rows.
    copy_mirror(kept.path(), &data);
    site.gate.set(Door::Closed);
    let server = site.start();
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        append(&mut producer, 20).await;
        site.gate.set(Door::Open);
        wait_until_flushed(&server, &stream, &producer);
        let read = producer.read_all().await;
        producer.check(&read);
        check_files(&site.elsewhere().await, &stream, producer.acked.len()).await;
    });
    let log = server.log();
    assert!(log.contains("\"streams_ahead\":1") || log.contains("streams_ahead=1"), "{log}");
    assert!(server.stop().success());
}

#[test]
fn a_first_start_needs_postgres_and_says_so() {
    let site = Site::new();
    site.gate.set(Door::Closed);
    let mut server = site.spawn(&[]);
    assert!(!server.wait().success());
    assert!(server.log().contains("a first start needs Postgres"), "{}", server.log());
}

#[test]
fn a_catalog_has_one_node_at_a_time() {
    let (site, other) = (Site::new(), tempfile::tempdir().expect("a directory"));
    let first = site.start();
    let settings = site.settings();
    let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let mut second = Server::spawn(other.path(), &settings);
    assert!(!second.wait().success(), "{}", second.log());
    let (log, dir) = (second.log(), site.dir.path().display().to_string());
    assert!(log.contains("is the catalog of another node") && log.contains(&dir), "{log}");
    // However the first one ends, the next one is let in.
    first.kill();
    let next = Server::start(other.path(), &settings);
    assert!(next.stop().success());
}

#[test]
fn without_an_admin_key_a_server_starts_from_the_mirror_and_makes_one_once_postgres_is_back() {
    let (site, keys) = (Site::new(), [("auth.mode", "keys")]);
    let server = site.start_with(&keys);
    let shown = |server: &Server| -> Vec<String> {
        server.log().split_whitespace().filter(|word| word.starts_with("ttd_live_")).map(str::to_owned).collect()
    };
    let lets_in = |server: &Server, key: &str| {
        rest::call_with(&server.http, "GET", "/api/v1/config", &[("x-api-key", key)], "").0
    };
    let first = shown(&server).pop().expect("a bootstrap key");
    assert_eq!(lets_in(&server, &first), 200);
    block_on(async {
        let catalog = site.elsewhere().await;
        let key = catalog.keys(Page { after: String::new(), limit: 1 }).await.expect("keys").pop().expect("a key");
        catalog.delete_key(key.id.clone(), AuditEntry::system("x", "api_key", &key.id)).await.expect("deleted");
    });
    wait_for("the end of the key, in the mirror too", || (lets_in(&server, &first) == 401).then_some(()));
    server.kill();
    site.gate.set(Door::Closed);
    let server = site.start_with(&keys);
    assert_eq!(shown(&server).len(), 1, "none that the catalog does not know: {}", server.log());
    site.gate.set(Door::Open);
    let second = wait_for("another key", || shown(&server).get(1).cloned());
    wait_for("its being let in", || (lets_in(&server, &second) == 200).then_some(()));
    assert!(server.stop().success());
}

#[test]
fn what_another_changes_is_in_force_here_soon() {
    let site = Site::new();
    let server = site.start();
    let stream = rest::create_stream(&server.http, "clicks", &json!({"type": "object"}));
    block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        append(&mut producer, 1).await;
        let catalog = site.elsewhere().await;
        let pause = StreamChange { status: Some(StreamStatus::Paused), ..StreamChange::default() };
        let line = AuditEntry::system("stream.change", "stream", &stream);
        catalog.change_stream(stream.parse().expect("an id"), pause, 1, line).await.expect("paused");
        let end = std::time::Instant::now() + process::DEADLINE;
        while producer.append(batch(producer.acked.len())).await.is_ok() {
            assert!(std::time::Instant::now() < end, "the server never heard of it");
        }
    });
    assert!(server.stop().success());
}

#[test]
fn an_encrypted_connection_is_to_a_server_that_the_ca_vouches_for() {
    let (dir, ca) = (tempfile::tempdir().expect("a directory"), Database::ca());
    let start = |name: &str, database: &Database, host: &str, ca: &Path| {
        let (home, options) = (dir.path().join(name), database.options());
        fs::create_dir(&home).expect("a directory");
        let (port, ca) = (options.port.to_string(), ca.to_str().expect("UTF-8"));
        let to =
            [("pg.host", host), ("pg.port", &port), ("pg.database", &options.database), ("pg.user", &options.user)];
        Server::spawn(&home, &[&to[..], &[("pg.tls", "require"), ("pg.ca_path", ca)]].concat())
    };
    for host in ["localhost", "127.0.0.1"] {
        let database = Database::fresh();
        let mut server = start(host, &database, host, &ca);
        server.wait_until_ready();
        let schema = json!({"name": "over-tls", "definition": {}}).to_string();
        assert_eq!(rest::call(&server.http, "POST", "/api/v1/schemas", &schema).0, 201);
        // The test's own connections have no address: they come by the socket.
        let connections = |of: &str| {
            format!(
                "SELECT 1 / (SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE {of} \
                 AND datname = current_database() AND client_addr IS NOT NULL)"
            )
        };
        block_on(async {
            database.execute(&connections("ssl")).await.expect("an encrypted connection");
            database.execute(&connections("NOT ssl")).await.expect_err("and no other: a division by zero");
        });
        server.stop();
    }
    let other = dir.path().join("other.pem");
    fs::write(&other, certificates::Authority::new("another").pem).expect("a file");
    let mut refused = start("refused", &Database::fresh(), "localhost", &other);
    assert!(!refused.wait().success());
    assert!(refused.log().contains("certificate"), "{}", refused.log());
}

#[test]
fn the_password_comes_from_a_file_that_is_read_again() {
    let site = Site::new();
    let path = site.dir.path().join("password");
    let file = ("pg.password_path", path.to_str().expect("a path of ours"));
    site.gate.ask_for("one s3cret");
    let mut refused = site.spawn(&[file]);
    assert!(!refused.wait().success());
    assert!(refused.log().contains("pg.password_path"), "{}", refused.log());
    fs::write(&path, "one s3cret\n").expect("a file");
    let server = site.start_with(&[file]);
    site.gate.ask_for("other s3cret");
    site.gate.set(Door::Closed);
    let postgres = |wanted: &str| {
        wait_for("word of Postgres", || {
            let (_, answer) = rest::call(&server.http, "GET", "/health/ready", "");
            answer["components"]["catalog"].to_string().contains(wanted).then_some(())
        });
    };
    postgres(r#""status":"down""#);
    site.gate.set(Door::Open);
    postgres("password authentication failed");
    let hangup = || server.signal(rustix::process::Signal::HUP);
    fs::write(&path, "two\nlines\n").expect("a file");
    hangup();
    wait_for("the refusal", || server.log().contains("reload refused").then_some(()));
    fs::write(&path, "other s3cret\n").expect("a file");
    hangup();
    postgres(r#""status":"ok""#);
    assert!(!server.log().contains("s3cret"), "{}", server.log());
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_server_that_allows_fewer_connections_than_the_pool_is_not_down() {
    let (database, dir) = (Database::fresh(), tempfile::tempdir().expect("a directory"));
    let role = format!("few_{}", uuid::Uuid::new_v4().simple());
    let options = PgOptions { user: role.clone(), pool_size: 8, ..database.options() };
    let owner = database.options().user;
    block_on(async {
        database.execute(&format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 2")).await.expect("a role");
        database.execute(&format!("ALTER DATABASE {} OWNER TO {role}", options.database)).await.expect("its owner");
        let place = CatalogPlace::Postgres { options: Box::new(options), mirror: dir.path().join("mirror.sqlite") };
        let catalog = Catalog::open(&place, PgFigures::default()).await.expect("the catalog");
        let calls = futures_util::future::join_all((0..64).map(|_| catalog.cluster_id())).await;
        let failed: Vec<_> = calls.into_iter().filter_map(Result::err).collect();
        assert_eq!(failed, [], "each waits for a connection that is there");
        drop(catalog);
        database.execute(&format!("REASSIGN OWNED BY {role} TO {owner}")).await.expect("done");
        database.execute(&format!("DROP ROLE {role}")).await.expect("gone");
    });
}

#[test]
fn a_replay_goes_on_over_a_crash_and_a_version_that_breaks_a_pipeline_is_refused_here_too() {
    let site = Site::new();
    let server = site.start();
    let definition = |names: &[&str]| {
        let members: serde_json::Map<_, _> =
            names.iter().map(|&name| (name.into(), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": members, "additionalProperties": false})
    };
    rest::create_stream(&server.http, "events", &definition(&["n"]));
    let call = |server: &Server, method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        rest::call(&server.http, method, path, &body)
    };
    let done = |server: &Server, method: &str, path: &str, body: Value| {
        let (status, answer) = call(server, method, path, body);
        assert!((200..300).contains(&status), "{answer}");
        answer
    };
    let stream = done(&server, "PATCH", "/api/v1/streams/events", json!({"dlq": {}}));
    let steps = |on_error: &str| json!([{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": on_error}]);
    let new = json!({"stream_id": "events", "steps": steps("dlq")});
    let pipeline = done(&server, "POST", "/api/v1/pipelines", new);
    let of_pipeline = format!("/api/v1/pipelines/{}", pipeline["id"].as_str().expect("an id"));
    let versions = format!("/api/v1/schemas/{}/versions", stream["schema_id"].as_str().expect("an id"));
    let (status, refused) = call(&server, "POST", &versions, json!({"definition": definition(&["m"])}));
    assert_eq!((status, &refused["code"]), (409, &json!("BREAKS_PIPELINE")), "{refused}");
    let records: Vec<Value> = ["1", "x", "3", "y"].map(|n| json!({"n": n})).into();
    done(&server, "POST", "/api/v1/streams/events/records", json!(records));
    let rows = |server: &Server, stream: &str| {
        let page = done(server, "GET", &format!("/api/v1/streams/{stream}/records"), Value::Null);
        page["records"].as_array().expect("a list").len()
    };
    wait_for("dead letters", || (rows(&server, "events.dlq") == 2).then_some(()));
    done(&server, "PATCH", &of_pipeline, json!({"steps": steps("null")}));
    done(&server, "PATCH", "/api/v1/streams/events", json!({"status": "paused"}));
    let job = done(&server, "POST", "/api/v1/streams/events/dlq/replay", json!({}));
    let of_job = format!("/api/v1/jobs/{}", job["id"].as_str().expect("an id"));
    let waits = |server: &Server| done(server, "GET", &of_job, Value::Null)["waits_for"].is_string();
    wait_for("the replay to wait", || waits(&server).then_some(()));
    server.kill();
    let server = site.start();
    wait_for("the replay to wait again", || waits(&server).then_some(()));
    done(&server, "PATCH", "/api/v1/streams/events", json!({"status": "active"}));
    let ended = wait_for("the end of the replay", || {
        let job = done(&server, "GET", &of_job, Value::Null);
        (job["status"] == "completed").then_some(job)
    });
    assert_eq!((&ended["replay"]["replayed"], &ended["replay"]["duplicates"]), (&json!(2), &json!(0)), "{ended}");
    assert_eq!(rows(&server, "events"), 4);
    assert!(server.stop().success(), "a clean stop");
}
