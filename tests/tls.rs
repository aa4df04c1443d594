//! TLS on both ports of a real server: who is let in and who is not, what is negotiated, and new certificates while it runs.

#[path = "server/certificates.rs"]
mod certificates;
#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream as Blocking,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Instant,
};

use axum::Extension;
use bytes::Bytes;
use certificates::{Authority, Files, Issued, private, unix_seconds};
use client::Client;
use process::{DEADLINE, Server, wait_for};
use producer::{Producer, block_on};
use rcgen::SanType;
use rustls::{
    AlertDescription, ClientConfig, Error, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use ttdust::{
    config::TlsFiles,
    http::{self, ConnectionLimits},
    tls::{TlsError, load},
};
use ttdust_shards::tls::PeerIdentity;

const SPIFFE: &str = "spiffe://tests/producer";

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// A server with TLS and settings as `more`.
fn start(dir: &Path, files: &Files, more: &[(&str, &str)]) -> Server {
    let own = [
        ("shards.count", "1"),
        ("wal.quota_bytes", "256MiB"),
        ("tls.cert_path", files.cert.to_str().expect("UTF-8")),
        ("tls.key_path", files.key.to_str().expect("UTF-8")),
        ("log.level", "info,ttdust=debug,ttdust_shards=debug"),
    ];
    Server::start(dir, &[&own[..], more].concat())
}

fn start_mutual(dir: &Path, files: &Files, client_auth: &str, io: &str) -> Server {
    let ca = files.ca.to_str().expect("UTF-8");
    let more = [("tls.client_ca_path", ca), ("tls.client_auth", client_auth), ("shards.io", io)];
    start(dir, files, &more)
}

async fn try_connect(address: &str, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::clone(config)).connect(name, TcpStream::connect(address).await?).await
}

async fn connect(address: &str, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    try_connect(address, config).await.expect("a handshake")
}

/// The alert with which a server refuses, in the handshake or, as TLS 1.3 has it for certificates, right after it.
async fn alert(address: &str, config: &Arc<ClientConfig>) -> AlertDescription {
    let refused = match try_connect(address, config).await {
        Err(error) => error,
        Ok(mut stream) => stream.read(&mut [0; 64]).await.expect_err("refused"),
    };
    match refused.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {refused:?}"),
    }
}

/// Sends a GET and reads the answer's head, on a connection that stays open.
async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let n = stream.read_buf(&mut answer).await.expect("an answer");
        assert!(n > 0, "closed: {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

async fn grpc_client(server: &Server, config: &Arc<ClientConfig>) -> Client {
    let stream = connect(&server.grpc, config).await;
    Client::over(stream).await.expect("HTTP/2")
}

/// Runs curl against REST.
fn curl(server: &Server, arguments: &[&str], path: &str) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60"]).args(arguments);
    command.arg(format!("https://{}{path}", server.http)).output().expect("curl: `make test` installs it")
}

/// The same, for what must succeed.
#[track_caller]
fn curl_json(server: &Server, arguments: &[&str], path: &str) -> Value {
    let output = curl(server, arguments, path);
    assert!(output.status.success(), "{}", python::said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| String::from_utf8_lossy(&output.stdout).into())
}

fn create_stream(server: &Server, name: &str, trust: &[&str], definition: &Value) {
    let schema = json!({"name": name, "namespace": "tests", "compatibility_mode": "none", "definition": definition});
    let json = ["--json", &schema.to_string()];
    let schema = curl_json(server, &[trust, &json].concat(), "/api/v1/schemas");
    let stream = json!({"name": name, "schema_id": schema["id"]}).to_string();
    let stream = curl_json(server, &[trust, &["--json", &stream]].concat(), "/api/v1/streams");
    assert!(stream["id"].is_string(), "{stream}");
}

fn metric(server: &Server, trust: &[&str], name: &str) -> i64 {
    let text = curl_json(server, trust, "/metrics");
    let text = text.as_str().expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

fn handshakes(server: &Server, trust: &[&str], port: &str, outcome: &str) -> i64 {
    metric(server, trust, &format!("ttdust_tls_handshakes_total{{port=\"{port}\",outcome=\"{outcome}\"}}"))
}

fn hang_up(server: &Server) {
    server.signal(rustix::process::Signal::HUP);
}

#[test]
fn curl_and_grpcio_work_over_tls_and_trust_only_the_ca() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let server = start(dir.path(), &files, &[]);
    let trust = ["--cacert", files.ca.to_str().expect("UTF-8")];
    assert_eq!(curl_json(&server, &trust, "/health/live")["status"], "ok", "{}", server.log());
    let untrusted = curl(&server, &[], "/health/live");
    assert_eq!(untrusted.status.code(), Some(60), "{}", python::said(&untrusted));

    let definition: Value = serde_json::from_str(include_str!("data/flights.schema.json")).expect("JSON");
    create_stream(&server, "flights", &trust, &definition);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.jsonl.gz");
    let (address, acked) = (Path::new(&server.grpc), dir.path().join("acked.ndjson"));
    let produced = python::run("produce.py", &[address, Path::new("flights"), &sample, &acked, &files.ca]);
    assert!(produced.status.success(), "{}", python::said(&produced));
    assert!(handshakes(&server, &trust, "grpc", "ok") >= 2);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn with_client_certificates_required_only_their_holders_are_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, other) = (Authority::new("ours"), Authority::new("another"));
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let server = start_mutual(dir.path(), &files, "required", "epoll");
    let names = || vec![SanType::DnsName("producer.tests".try_into().expect("ASCII")), uri(SPIFFE)];
    let (known, unknown) = (ca.client(names()), other.client(names()));
    let both = [&TLS13, &TLS12];
    let cases = [
        ("none", ca.client_config(None, &["h2", "http/1.1"], &both), AlertDescription::CertificateRequired),
        ("another CA's", ca.client_config(Some(&unknown), &["h2", "http/1.1"], &both), AlertDescription::UnknownCA),
        // A server's certificate is none for clients.
        (
            "a server's",
            ca.client_config(Some(&ca.server()), &["h2", "http/1.1"], &both),
            AlertDescription::UnsupportedCertificate,
        ),
        ("TLS 1.2", ca.client_config(Some(&known), &["h2", "http/1.1"], &[&TLS12]), AlertDescription::ProtocolVersion),
    ];
    for (name, config, expected) in &cases {
        for address in [&server.grpc, &server.http] {
            assert_eq!(block_on(alert(address, config)), *expected, "{name} to {address}");
        }
    }
    let (cert, key) = (dir.path().join("client.pem"), dir.path().join("client.key"));
    fs::write(&cert, &known.cert_pem).expect("a file");
    private(&key, &known.key_pem);
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (ca_file, cert_file, key_file) = (text(&files.ca), text(&cert), text(&key));
    let trust = ["--cacert", &ca_file, "--cert", &cert_file, "--key", &key_file];
    assert!(!curl(&server, &trust[..2], "/health/live").status.success());
    assert!(!curl(&server, &[&trust[..], &["--tls-max", "1.2"]].concat(), "/health/live").status.success());

    let definition: Value = serde_json::from_str(include_str!("data/flights.schema.json")).expect("JSON");
    create_stream(&server, "flights", &trust, &definition);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.jsonl.gz");
    let (address, acked) = (Path::new(&server.grpc), dir.path().join("acked.ndjson"));
    let common = [address, Path::new("flights"), &sample, &acked, &files.ca];
    let without = python::run("produce.py", &common);
    assert!(!without.status.success() && python::said(&without).contains("UNAVAILABLE"), "{}", python::said(&without));
    let produced = python::run("produce.py", &[&common[..], &[&cert, &key]].concat());
    assert!(produced.status.success(), "{}", python::said(&produced));

    for port in ["grpc", "http"] {
        assert!(handshakes(&server, &trust, port, "certificate") >= 3, "{port}");
        assert!(handshakes(&server, &trust, port, "failed") >= 1, "{port}");
        assert!(handshakes(&server, &trust, port, "ok") >= 1, "{port}");
    }
    // The name is there on both: the URI before the DNS name.
    let log = server.log();
    let named = |component: &str| {
        let line = log.lines().find(|line| line.contains("TLS connection") && line.contains(component));
        line.is_some_and(|line| line.contains(SPIFFE))
    };
    assert!(named("\"shards::grpc") && named("\"server::http"), "{log}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn an_optional_client_certificate_may_be_missing_but_not_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, other) = (Authority::new("ours"), Authority::new("another"));
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let server = start_mutual(dir.path(), &files, "optional", "auto");
    let wrong = other.client(vec![uri(SPIFFE)]);
    block_on(async {
        let without = ca.client_config(None, &[], &[&TLS13]);
        assert!(get(&mut connect(&server.http, &without).await, "/health/live").await.starts_with("HTTP/1.1 200"));
        grpc_client(&server, &without).await;
        let config = ca.client_config(Some(&wrong), &[], &[&TLS13]);
        assert_eq!(alert(&server.http, &config).await, AlertDescription::UnknownCA);
        assert_eq!(alert(&server.grpc, &config).await, AlertDescription::UnknownCA);
        let old = ca.client_config(None, &[], &[&TLS12]);
        assert_eq!(alert(&server.http, &old).await, AlertDescription::ProtocolVersion);
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_rest_handler_finds_the_name_in_the_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let Files { cert, key, ca: ca_file } = Files::write(dir.path(), &ca.server(), &ca);
    let files = TlsFiles { cert, key, clients: Some((ca_file, false)) };
    let identity = load(&files, unix_seconds().cast_signed() * 1_000_000).expect("good files");
    let own = ca.client(vec![uri(SPIFFE)]);
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let name =
            async |peer: Option<Extension<PeerIdentity>>| [("x-peer", peer.map_or("none".into(), |p| p.to_string()))];
        let router = axum::Router::new().route("/", axum::routing::get(name));
        let (_config, config) = watch::channel(identity.rest);
        let (_running, stop) = watch::channel(false);
        tokio::spawn(http::serve(
            listener,
            router,
            Arc::default(),
            ConnectionLimits { connections: 8, per_address: 8 },
            Some(config),
            stop,
        ));
        for (own, expected) in [(Some(&own), SPIFFE), (None, "none")] {
            let mut stream = connect(&address, &ca.client_config(own, &[], &[&TLS13])).await;
            let answer = get(&mut stream, "/").await;
            assert!(answer.contains(&format!("x-peer: {expected}\r\n")), "{answer}");
        }
    });
}

#[test]
fn each_port_names_its_protocol() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let server = start(dir.path(), &files, &[]);
    block_on(async {
        // Address, protocols offered, the one chosen.
        type Case<'a> = (&'a str, &'a [&'a str], Option<&'a [u8]>);
        let cases: [Case; 4] = [
            (&server.grpc, &["http/1.1", "h2"], Some(b"h2")),
            (&server.http, &["h2", "http/1.1"], Some(b"http/1.1")),
            (&server.grpc, &[], None),
            (&server.http, &[], None),
        ];
        for versions in [[&TLS13], [&TLS12]] {
            for (address, offered, chosen) in cases {
                let stream = connect(address, &ca.client_config(None, offered, &versions)).await;
                assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?} to {address}");
            }
            for (address, offered) in [(&server.grpc, "http/1.1"), (&server.http, "h2")] {
                let refused = alert(address, &ca.client_config(None, &[offered], &versions)).await;
                assert_eq!(refused, AlertDescription::NoApplicationProtocol, "{offered} to {address}");
            }
        }
        let both = connect(&server.grpc, &ca.client_config(None, &["h2"], &[&TLS13, &TLS12])).await;
        assert_eq!(both.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    });
    assert!(server.stop().success(), "a clean stop");
}

/// The certificates that new connections to both ports are shown.
async fn shown(server: &Server, config: &Arc<ClientConfig>) -> [CertificateDer<'static>; 2] {
    let own =
        |stream: TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().expect("a chain")[0].clone().into_owned();
    [own(connect(&server.grpc, config).await), own(connect(&server.http, config).await)]
}

#[test]
fn a_new_certificate_is_taken_up_by_new_connections_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let (first, second) = (ca.server(), ca.server_valid(unix_seconds() - 3600, unix_seconds() + 300 * 24 * 3600));
    let files = Files::write(dir.path(), &first, &ca);
    let server = start(dir.path(), &files, &[("shards.count", "2")]);
    let trust = ["--cacert", files.ca.to_str().expect("UTF-8")];
    create_stream(&server, "events", &trust, &json!({"type": "object"}));
    let config = ca.client_config(None, &[], &[&TLS13]);
    block_on(async {
        let mut producer = Producer::over(grpc_client(&server, &config).await, "events");
        let mut rest = connect(&server.http, &config).await;
        producer.append(vec![Bytes::from_static(b"{}")]).await.expect("taken");
        assert!(get(&mut rest, "/health/live").await.starts_with("HTTP/1.1 200"));
        assert_eq!(shown(&server, &config).await, [first.cert.clone(), first.cert.clone()]);

        files.replace(&second);
        hang_up(&server);
        wait_for("the reload", || (metric(&server, &trust, "ttdust_reloads_total{result=\"ok\"}") == 1).then_some(()));
        // The shards are told one after another, each connection is some shard's.
        let wanted = [second.cert.clone(), second.cert.clone()];
        let end = Instant::now() + DEADLINE;
        let mut in_a_row = 0;
        while in_a_row < 20 {
            in_a_row = if shown(&server, &config).await == wanted { in_a_row + 1 } else { 0 };
            assert!(Instant::now() < end, "the new certificate did not come");
        }
        let ends = metric(&server, &trust, "ttdust_tls_certificate_not_after_timestamp_seconds");
        assert!(ends.abs_diff(unix_seconds().cast_signed() + 300 * 24 * 3600) < 3600, "{ends}");

        producer.append(vec![Bytes::from_static(b"{}"); 2]).await.expect("taken");
        assert!(get(&mut rest, "/health/live").await.starts_with("HTTP/1.1 200"));
        let read = producer.read_all().await;
        producer.check(&read);
    });
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_bad_file_is_refused_and_the_old_certificate_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let first = ca.server();
    let files = Files::write(dir.path(), &first, &ca);
    let server = start(dir.path(), &files, &[]);
    let trust = ["--cacert", files.ca.to_str().expect("UTF-8")];
    let config = ca.client_config(None, &[], &[&TLS13]);
    let over = ca.server_valid(unix_seconds() - 7200, unix_seconds() - 3600);
    let cut = first.cert_pem[..first.cert_pem.len() / 2].to_owned();
    let cases: [(&str, &str, &str); 4] = [
        (&over.cert_pem, &over.key_pem, "put a new one in its place"),
        (&ca.server().cert_pem, &first.key_pem, "is not the private key of the first certificate"),
        (&cut, &first.key_pem, "this is no PEM"),
        (&first.cert_pem, "no key", "BEGIN PRIVATE KEY"),
    ];
    for (refusals, (cert, key, reason)) in (1..).zip(cases) {
        fs::write(&files.cert, cert).expect("a file");
        fs::write(&files.key, key).expect("a file");
        hang_up(&server);
        wait_for("the refusal", || {
            (metric(&server, &trust, "ttdust_reloads_total{result=\"refused\"}") == refusals).then_some(())
        });
        let log = server.log();
        let line = log.lines().rfind(|line| line.contains("reload refused")).expect("a line");
        assert!(line.contains("\"level\":\"ERROR\"") && line.contains(reason), "{line}");
        assert_eq!(block_on(shown(&server, &config)), [first.cert.clone(), first.cert.clone()]);
    }
    // A change of settings reads the files too. That they are bad is no fault of the request.
    let change = ["--request", "PATCH", "--json", r#"{"settings": {"log.level": "info"}}"#];
    let problem = curl_json(&server, &[&trust[..], &change].concat(), "/api/v1/config");
    assert_eq!((&problem["status"], &problem["code"]), (&json!(409), &json!("FAILED_PRECONDITION")), "{problem}");
    assert_eq!(metric(&server, &trust, "ttdust_reloads_total{result=\"ok\"}"), 0);
    assert!(server.stop().success(), "a clean stop");
}

/// Sends `bytes` and returns what the server answers until it closes.
fn until_closed(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut socket = Blocking::connect(address).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    // The server may close before it has read all of it.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("not closed"),
        // Reset: closed all the same.
        _ => answer,
    }
}

#[test]
fn plain_text_to_tls_and_tls_to_plain_text_end_cleanly() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let server = start(dir.path(), &files, &[]);
    let trust = ["--cacert", files.ca.to_str().expect("UTF-8")];
    for address in [&server.grpc, &server.http] {
        for bytes in [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let answer = until_closed(address, bytes);
            // At most an alert.
            assert!(answer.len() <= 7 && answer.first().is_none_or(|&byte| byte == 0x15), "{answer:?}");
        }
    }
    for port in ["grpc", "http"] {
        assert_eq!(handshakes(&server, &trust, port, "plain_text"), 2, "{port}");
    }
    assert_eq!(server.log().matches("TLS refused").count(), 4);
    assert!(server.stop().success(), "a clean stop");

    let dir = tempfile::tempdir().expect("a directory");
    let level = ("log.level", "info,ttdust=debug,ttdust_shards=debug");
    let server = Server::start(dir.path(), &[("shards.count", "1"), ("wal.quota_bytes", "256MiB"), level]);
    let config = ca.client_config(None, &[], &[&TLS13]);
    for address in [&server.grpc, &server.http] {
        assert!(block_on(try_connect(address, &config)).is_err());
    }
    let (_, metrics) = rest::call(&server.http, "GET", "/metrics", "");
    let metrics = metrics.as_str().expect("text");
    for port in ["grpc", "http"] {
        let line = format!("ttdust_tls_handshakes_total{{port=\"{port}\",outcome=\"unexpected\"}} 1");
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
    assert_eq!(server.log().matches("speaks TLS, but this port is plain text").count(), 2, "{}", server.log());
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn silent_clients_are_cut_off_and_hinder_nobody() {
    const SILENT: usize = 50;
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let server = start(dir.path(), &files, &[]);
    let trust = ["--cacert", files.ca.to_str().expect("UTF-8")];
    create_stream(&server, "events", &trust, &json!({"type": "object"}));
    let config = ca.client_config(None, &["h2"], &[&TLS13]);
    // Nothing, and the begin of a handshake that never goes on.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let silent: Vec<_> = [&server.grpc, &server.http]
        .into_iter()
        .flat_map(|address| (0..SILENT).map(move |n| (address, n)))
        .map(|(address, n)| {
            let mut socket = Blocking::connect(address).expect("connected");
            socket.write_all(if n % 2 == 0 { &[] } else { &hello }).expect("sent");
            socket
        })
        .collect();
    block_on(async {
        // Accepted after the silent ones, and served while they are there.
        let mut producer = Producer::over(grpc_client(&server, &config).await, "events");
        producer.append(vec![Bytes::from_static(b"{}")]).await.expect("taken");
    });
    assert!(curl(&server, &trust, "/health/live").status.success());
    for mut socket in silent {
        socket.set_read_timeout(Some(DEADLINE)).expect("set");
        match socket.read(&mut [0; 16]) {
            Ok(n) => assert_eq!(n, 0, "a silent client is told nothing"),
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "not closed"),
        }
    }
    for port in ["grpc", "http"] {
        // Counted once the socket is closed.
        wait_for("the count", || (handshakes(&server, &trust, port, "timeout") == SILENT as i64).then_some(()));
    }
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_start_and_a_check_refuse_bad_files_and_say_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
        command.args(arguments).arg("--data-dir").arg(dir.path().join("data"));
        command.arg("--set").arg(format!("tls.cert_path={}", files.cert.display()));
        command.arg("--set").arg(format!("tls.key_path={}", files.key.display()));
        command.output().expect("the program runs")
    };
    let good = run(&["config", "check"]);
    assert!(good.status.success() && good.stderr.is_empty(), "{}", python::said(&good));
    fs::set_permissions(&files.key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("open to all");
    let open = run(&["config", "check"]);
    assert!(open.status.success() && python::said(&open).contains("chmod 600"), "{}", python::said(&open));
    files.replace(&ca.server_valid(unix_seconds() - 7200, unix_seconds() - 3600));
    for arguments in [&["config", "check"][..], &["serve", "--bind-address", "127.0.0.1:0"]] {
        let over = run(arguments);
        let said = python::said(&over);
        assert!(!over.status.success() && said.contains("put a new one in its place"), "{said}");
    }
}

#[test]
fn files_are_checked_before_they_are_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let good = ca.server();
    let files = Files::write(dir.path(), &good, &ca);
    let now = unix_seconds().cast_signed() * 1_000_000;
    let mut config =
        TlsFiles { cert: files.cert.clone(), key: files.key.clone(), clients: Some((files.ca.clone(), true)) };
    let identity = load(&config, now).expect("good files");
    assert_eq!(identity.warnings, Vec::<String>::new());

    let year = 365 * 24 * 3600 * 1_000_000;
    for time in [now - year, now + year] {
        assert!(matches!(load(&config, time), Err(TlsError::NotNow { .. })), "{time}");
    }
    // Twelve days before its end, of a year.
    let soon = load(&config, identity.not_after_unix_micros - 12 * 24 * 3600 * 1_000_000).expect("still good");
    assert!(matches!(&soon.warnings[..], [warning] if warning.contains("ends in 288 hours")), "{:?}", soon.warnings);

    // What is over in the chain or among the CAs is worth a warning; clients may do without it.
    let over = ca.server_valid(unix_seconds() - 7200, unix_seconds() - 3600);
    fs::write(&files.cert, format!("{}{}", good.cert_pem, over.cert_pem)).expect("a file");
    fs::write(&files.ca, format!("{}{}", ca.pem, over.cert_pem)).expect("a file");
    let warned = load(&config, now).expect("the server's own is good").warnings;
    assert!(warned.len() == 2 && warned[0].starts_with("certificate 2 of the chain"), "{warned:?}");
    assert!(warned[1].starts_with("CA 2 is trusted although"), "{warned:?}");

    config.clients = Some((files.key.clone(), true));
    assert!(matches!(load(&config, now), Err(TlsError::Content { .. })), "a key is no CA");
    config.clients = Some((dir.path().join("nowhere"), true));
    assert!(matches!(load(&config, now), Err(TlsError::Read { .. })));
    config.clients = None;
    let written = |cert: &str, key: &str| {
        fs::write(&files.cert, cert).expect("a file");
        private(&files.key, key);
        load(&config, now).expect_err("refused").to_string()
    };
    let reversed = format!("{}{}", ca.pem, good.cert_pem);
    assert!(written(&reversed, &good.key_pem).contains("the server's own certificate comes first"));
    let Issued { cert_pem, .. } = &good;
    let broken = cert_pem.replacen('M', "A", 1);
    assert!(written(&broken, &good.key_pem).contains("certificate 1 of 1 cannot be read"));
    assert!(written("", &good.key_pem).contains("BEGIN CERTIFICATE"));
    assert!(written(&"x".repeat((1 << 20) + 1), &good.key_pem).contains("bytes"));
}

#[test]
fn the_name_in_a_client_certificate_is_a_credential_on_both_ports() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("ours");
    let files = Files::write(dir.path(), &ca.server(), &ca);
    let holders = format!("{SPIFFE}=admin,reader.tests=reader:other");
    let ca_file = files.ca.to_str().expect("UTF-8");
    let more = [("auth.mode", "keys"), ("auth.certificates", &*holders), ("tls.client_ca_path", ca_file)];
    let server = start(dir.path(), &files, &more);
    let issue = |name: SanType, file: &str| {
        let issued = ca.client(vec![name]);
        let (cert, key) = (dir.path().join(format!("{file}.pem")), dir.path().join(format!("{file}.key")));
        fs::write(&cert, &issued.cert_pem).expect("a file");
        private(&key, &issued.key_pem);
        (cert, key)
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().expect("ASCII"));
    let (admin, reader) = (issue(uri(SPIFFE), "admin"), issue(dns("reader.tests"), "reader"));
    let unknown = issue(dns("nobody.tests"), "nobody");
    let asked = |(cert, key): &(PathBuf, PathBuf), path: &str| {
        let identity =
            ["--cacert", ca_file, "--cert", cert.to_str().expect("UTF-8"), "--key", key.to_str().expect("UTF-8")];
        curl_json(&server, &identity, path)
    };
    assert!(asked(&admin, "/api/v1/api-keys")["api_keys"].is_array());
    assert_eq!(asked(&reader, "/api/v1/api-keys")["code"], "PERMISSION_DENIED");
    assert_eq!(asked(&unknown, "/api/v1/api-keys")["code"], "UNAUTHENTICATED");

    let identity =
        ["--cacert", ca_file, "--cert", admin.0.to_str().expect("UTF-8"), "--key", admin.1.to_str().expect("UTF-8")];
    let definition: Value = serde_json::from_str(include_str!("data/flights.schema.json")).expect("JSON");
    create_stream(&server, "flights", &identity, &definition);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.jsonl.gz");
    let (address, acked) = (Path::new(&server.grpc), dir.path().join("acked.ndjson"));
    let produce = |(cert, key): &(PathBuf, PathBuf)| {
        python::run("produce.py", &[address, Path::new("flights"), &sample, &acked, &files.ca, cert, key])
    };
    let refused = produce(&unknown);
    assert!(
        !refused.status.success() && python::said(&refused).contains("UNAUTHENTICATED"),
        "{}",
        python::said(&refused)
    );
    let refused = produce(&reader);
    assert!(
        !refused.status.success() && python::said(&refused).contains("PERMISSION_DENIED"),
        "{}",
        python::said(&refused)
    );
    let produced = produce(&admin);
    assert!(produced.status.success(), "{}", python::said(&produced));
}
