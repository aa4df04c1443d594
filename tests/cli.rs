//! The command line's client against a real server: what it prints, how it ends, which server and key it takes, and that what it
//! says on a mistake helps.

#[path = "server/certificates.rs"]
mod certificates;
#[path = "cli/client.rs"]
mod client;
#[path = "cli/door.rs"]
mod door;
#[path = "cli/pipelines.rs"]
mod pipelines;
#[path = "server/process.rs"]
mod process;
#[path = "cli/records.rs"]
mod records;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use client::{Client, Ended};
use process::{Server, wait_for};
use serde_json::{Value, json};

const SETTINGS: &[(&str, &str)] = &[("wal.quota_bytes", "256MiB"), ("shards.count", "1")];

fn start(dir: &Path, more: &[(&str, &str)]) -> Server {
    Server::start(dir, &[SETTINGS, more].concat())
}

/// The schema and the stream of most tests.
fn furnish(client: &Client) {
    let definition = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    client.with_input(&["schema", "create", "clicks", "-", "--namespace", "web"], &definition.to_string()).ok();
    client.run(&["stream", "create", "clicks", "--schema", "web/clicks", "--key-field", "n"]).ok();
}

#[test]
fn schemas_go_by_name_and_their_versions_are_judged() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let client = Client::new(&server.http);
    let definition = json!({"type": "object", "properties": {"n": {"type": "integer"}}}).to_string();
    let created = client.with_input(
        &["schema", "create", "clicks", "-", "--namespace", "web", "--compatibility", "backward", "-o", "json"],
        &definition,
    );
    let created = created.json();
    assert_eq!((&created["namespace"], &created["compatibility_mode"]), (&json!("web"), &json!("BACKWARD")));

    let listed = client.run(&["schema", "list"]).ok();
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines[0], "ID\tNAMESPACE\tNAME\tVERSIONS\tCOMPATIBILITY\tUPDATED", "a pipe gets tabs");
    assert!(lines[1].contains("\tweb\tclicks\t1\tBACKWARD\t"), "{listed}");
    let definition = client.run(&["schema", "get", "web/clicks", "--definition"]).json();
    assert_eq!(definition["properties"]["n"]["type"], "integer");

    let file = dir.path().join("next.json");
    fs::write(&file, json!({"type": "object", "properties": {"n": {"type": "string"}}}).to_string()).expect("written");
    let file = file.to_str().expect("UTF-8");
    let judged = client.run(&["schema", "add", "clicks", file, "--dry-run"]).fails(1);
    assert!(
        judged.out.contains("it would be refused (BACKWARD)") && judged.out.contains("/properties/n"),
        "{judged:?}"
    );
    let refused = client.run(&["schema", "add", "clicks", file]).fails(1);
    assert!(refused.err.contains("INCOMPATIBLE_SCHEMA"), "{refused:?}");
    client.run(&["schema", "change", "clicks", "--compatibility", "none"]).ok();
    client.run(&["schema", "add", "clicks", file]).ok();
    client.run(&["schema", "retire", "clicks", "1"]).ok();
    let versions = client.run(&["schema", "versions", "clicks", "-o", "json"]).json_lines();
    let retired: Vec<_> = versions.iter().map(|version| version["retired_at"].is_string()).collect();
    assert_eq!(retired, [true, false]);

    // A key that comes twice reaches the judge as it stands.
    let twice = client.with_input(&["schema", "create", "twice", "-"], "{\"type\": \"object\", \"type\": \"string\"}");
    assert!(twice.fails(1).err.contains("/definition"));
    client.with_input(&["schema", "create", "clicks", "-", "--namespace", "app"], "{}").ok();
    let which = client.run(&["schema", "get", "clicks"]).fails(2);
    assert!(which.err.contains("web/clicks") && which.err.contains("app/clicks"), "{which:?}");
    let none = client.run(&["schema", "get", "none"]).fails(4);
    assert!(none.err.contains("ttdust schema list"), "{none:?}");
    assert!(client.with_input(&["schema", "create", "x", "-"], "{").fails(2).err.contains("no JSON"));
}

#[test]
fn streams_are_created_changed_paused_and_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let client = Client::new(&server.http);
    furnish(&client);
    let stream = client.run(&["stream", "get", "clicks", "-o", "json"]).json();
    assert_eq!((&stream["key_fields"], &stream["retention_policy"]), (&json!(["n"]), &Value::Null));
    let change = ["stream", "change", "clicks", "--retention-bytes", "2GiB", "--label", "team=web"];
    let changed = client.run(&change).ok();
    assert!(changed.contains("kept\t2.0 GiB\n") && changed.contains("labels\tteam=web\n"), "{changed}");
    client.run(&["stream", "change", "clicks", "--keep-forever"]).ok();
    let both = client.run(&["stream", "change", "clicks", "--keep-forever", "--retention-days", "1"]).fails(2);
    assert!(both.err.contains("--retention-days"), "{both:?}");
    assert!(client.run(&["stream", "change", "clicks"]).fails(2).err.contains("--description"));

    client.run(&["stream", "pause", "clicks"]).ok();
    assert!(client.run(&["stream", "list", "--status", "paused"]).ok().contains("clicks"));
    client.run(&["stream", "resume", "clicks"]).ok();
    // As many as need several pages.
    let schema = stream["schema_id"].as_str().expect("an id");
    for n in 0..3 {
        client.run(&["stream", "create", &format!("more-{n}"), "--schema", schema]).ok();
    }
    let names =
        |ended: Ended| -> Vec<Value> { ended.json_lines().into_iter().map(|stream| stream["name"].clone()).collect() };
    let all = names(client.run(&["stream", "list", "-o", "json"]));
    assert_eq!(all, ["clicks", "more-0", "more-1", "more-2"]);
    assert_eq!(names(client.run(&["stream", "list", "--prefix", "more", "--limit", "2", "-o", "json"])), all[1..3]);

    let asked = client.run(&["stream", "delete", "clicks"]).fails(2);
    assert!(asked.err.contains("--yes"), "nobody is there to say yes: {asked:?}");
    client.run(&["stream", "delete", "clicks", "--yes", "--wait"]).ok();
    let gone = client.run(&["stream", "get", "clicks"]).fails(4);
    assert!(gone.err.contains("NOT_FOUND") && gone.err.contains("ttdust stream list"), "{gone:?}");
    let audit = client.run(&["audit", "--since", "1h", "-o", "json"]).json_lines();
    assert!(audit.iter().any(|entry| entry["action"] == "stream.delete"), "{audit:?}");
}

#[test]
fn keys_come_from_files_variables_and_profiles_and_are_not_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[("auth.mode", "keys"), ("rate.auth_failures_per_minute", "0")]);
    let admin = server.admin_key();
    let mut client = Client::new(&server.http);
    let refused = client.run(&["stream", "list"]).fails(4);
    assert!(refused.err.contains("UNAUTHENTICATED") && refused.err.contains("ttdust profile set"), "{refused:?}");
    assert!(client.run(&["health"]).ok().contains("catalog"), "health needs no key");

    client.variable("TTDUST_API_KEY", &admin);
    let reader = dir.path().join("reader.key");
    let reader = reader.to_str().expect("UTF-8");
    let created = client.run(&["key", "create", "--role", "reader", "--stream", "web.*", "--to-file", reader]).ok();
    assert!(!created.contains("ttd_live_"), "{created}");
    assert_eq!(fs::metadata(reader).expect("a file").permissions().mode() & 0o777, 0o600);
    let secret = fs::read_to_string(reader).expect("a file");
    assert!(secret.starts_with("ttd_live_"));
    let again = client.run(&["key", "create", "--role", "reader", "--stream", "*", "--to-file", reader]).fails(2);
    assert!(again.err.contains("exists"), "a key that cannot be kept is not made: {again:?}");
    let shown = client.run(&["key", "create", "--role", "admin", "-o", "json"]).json();
    assert!(shown["api_key"].as_str().is_some_and(|key| key.starts_with("ttd_live_")));

    // A flag comes before the variable.
    client.run(&["stream", "list", "--api-key-file", reader]).ok();
    let forbidden = client.run(&["key", "list", "--api-key-file", reader]).fails(4);
    assert!(forbidden.err.contains("PERMISSION_DENIED"), "{forbidden:?}");
    let keys = client.run(&["key", "list", "-o", "json"]).json_lines();
    assert_eq!(keys.len(), 3, "{keys:?}");
    let of_reader = keys.iter().find(|key| key["role"] == "reader").expect("listed");
    client.run(&["key", "delete", of_reader["key_id"].as_str().expect("an id")]).ok();
    wait_for("the end of the key", || {
        let ended = client.run(&["stream", "list", "--api-key-file", reader]);
        (ended.status == Some(4) && ended.err.contains(reader)).then_some(())
    });

    // A profile has its key for its own endpoint alone.
    client.clear_variables();
    client.with_input(&["profile", "set", "here", "--endpoint", &server.http, "--api-key-file", "-"], &admin).ok();
    client.run(&["stream", "list"]).ok();
    let listed = client.run(&["profile", "list"]).ok();
    assert!(listed.contains("here") && !listed.contains("ttd_live_"), "{listed}");
    let other = client.run(&["stream", "list", "--endpoint", &server.http.replace("127.0.0.1", "localhost")]).fails(4);
    assert!(other.err.contains("give a key"), "{other:?}");
    client.run(&["profile", "use", "there"]).fails(2);
    client.run(&["profile", "remove", "here"]).ok();
    assert!(client.run(&["stream", "list", "--profile", "here"]).fails(2).err.contains("ttdust profile set"));
}

#[test]
fn what_goes_wrong_is_told_with_its_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let client = Client::new(&server.http);
    for (arguments, status, part) in [
        (&["stream", "list", "--endpoint", "ftp://x"][..], 2, "such as http://"),
        (&["stream", "list", "--endpoint", "127.0.0.1:1"], 3, "ttdust serve"),
        (&["stream", "list", "--endpoint", &server.grpc], 3, "not that of gRPC"),
        (&["stream", "list", "--endpoint", &format!("https://{}", server.http)], 3, "http:// rather than https://"),
        (&["stream", "list", "--endpoint", &format!("{}/nowhere", server.http)], 4, "NOT_FOUND"),
        (&["stream", "create", "Clicks", "--schema", "sch_x"], 1, "schema_id"),
        (&["stream", "list", "--api-key-file", "/nowhere"], 2, "/nowhere"),
        (&["query", "clicks", "--start", "yesterday"], 2, "RFC 3339"),
        (&["query", "clicks"], 4, "ttdust stream list"),
        (&["settings", "set", "log.level"], 2, "KEY=VALUE"),
        (&["settings", "set", "wal.quota_bytes=1GiB"], 1, "wal.quota_bytes"),
        (&["strem"], 2, "stream"),
    ] {
        let ended = client.run(arguments).fails(status);
        assert!(ended.err.contains(part) && ended.out.is_empty(), "{arguments:?}: {ended:?}");
    }
    let changed = client.run(&["settings", "set", "log.level=debug"]).ok();
    assert!(changed.contains("log.level\tdebug\tflag\ttrue"), "{changed}");
    assert!(client.run(&["settings", "list", "log."]).ok().lines().count() == 3);
    let http = server.http.clone();
    server.kill();
    let gone = Client::new(&http).run(&["health"]).fails(3);
    assert!(gone.err.contains("cannot connect"), "{gone:?}");
}

#[test]
fn tls_is_by_the_ca_and_the_client_s_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = certificates::Authority::new("tests");
    let files = certificates::Files::write(dir.path(), &authority.server(), &authority);
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (cert, key, ca) = (path(&files.cert), path(&files.key), path(&files.ca));
    let settings = [("tls.cert_path", cert.as_str()), ("tls.key_path", &key), ("tls.client_ca_path", &ca)];
    let server = start(dir.path(), &settings);
    let client = Client::new(&format!("https://{}", server.http));
    let own = authority.client(vec![rcgen::SanType::DnsName("tests".try_into().expect("ASCII"))]);
    let (own_cert, own_key) = (dir.path().join("own.pem"), dir.path().join("own.key"));
    fs::write(&own_cert, &own.cert_pem).expect("written");
    certificates::private(&own_key, &own.key_pem);
    let (own_cert, own_key) = (path(&own_cert), path(&own_key));

    let known = ["health", "--ca", &ca, "--cert", &own_cert, "--cert-key", &own_key];
    assert!(client.run(&known).ok().contains("catalog"));
    let untrusted = client.run(&["health"]).fails(3);
    assert!(untrusted.err.contains("--ca FILE"), "{untrusted:?}");
    let nobody = client.run(&["health", "--ca", &ca]).fails(3);
    assert!(nobody.err.contains("--cert-key"), "{nobody:?}");
    assert!(client.run(&["health", "--ca", &ca, "--cert", &own_cert]).fails(2).err.contains("--cert-key"));
    // A profile holds them as well.
    let set = ["profile", "set", "tls", "--endpoint", &format!("https://{}", server.http)];
    client.run(&[&set[..], &known[1..]].concat()).ok();
    let client = client.without_endpoint();
    client.run(&["health"]).ok();
}
