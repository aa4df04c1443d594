//! What `deploy/` says is true of the server: settings, metrics, probes, alerts, commands; and those who read its files take them.

#[path = "deploy/files.rs"]
mod files;
#[path = "server/process.rs"]
mod process;
#[path = "deploy/promql.rs"]
mod promql;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    process::Command,
};

use files::{below, is_there, list, root, run, string, text, with_ending, yaml, yaml_files};
use process::{Server, wait_for};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ttdust::{
    config::{Config, PgPassword, SETTINGS, Setting, Sources, load},
    metrics::metrics,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ttdust");
const ALERTS: &str = "deploy/prometheus/alerts.yaml";
const RUNBOOK: &str = "deploy/RUNBOOK.md";
const MANIFESTS: &str = "deploy/kubernetes";
const UNIT: &str = "deploy/systemd/ttdust.service";

/// The configuration of a server that is given this file and these variables, on a machine of four cores.
fn configured<'a>(file: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Config {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ttdust.toml");
    fs::write(&path, file).expect("written");
    let environment = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let sources = Sources { file: Some(path), environment, flags: Vec::new() };
    let loaded = load(&sources).unwrap_or_else(|error| panic!("{error}"));
    Config::resolve(loaded, &[0, 1, 2, 3]).unwrap_or_else(|error| panic!("{error}"))
}

fn variables(map: &Value) -> impl Iterator<Item = (&str, &str)> {
    map.as_object().expect("a map").iter().map(|(name, value)| (name.as_str(), string(value)))
}

fn seconds(text: &str) -> u64 {
    text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{text} is no number of seconds"))
}

#[test]
fn every_file_can_be_read() {
    for folder in ["deploy", ".github"] {
        let paths = with_ending(folder, if folder == "deploy" { ".yaml" } else { ".yml" });
        assert!(yaml_files(&paths).iter().all(|documents| !documents.is_empty()), "{paths:?}");
    }
    for path in with_ending("deploy", ".json") {
        let read: Result<Value, _> = serde_json::from_str(&text(&path));
        assert!(read.is_ok(), "{path}: {read:?}");
    }
    let map = text("deploy/README.md") + &text("README.md");
    for path in below("deploy").iter().filter(|path| path.matches('/').count() == 1 && !path.ends_with("README.md")) {
        assert!(map.contains(path.as_str()), "no README tells of {path}");
    }
}

#[test]
fn variables_that_are_named_are_of_the_server_or_its_client() {
    let clients = ["TTDUST_ENDPOINT", "TTDUST_API_KEY", "TTDUST_PROFILE"];
    let known: BTreeSet<_> = SETTINGS.iter().map(Setting::variable).chain(clients.map(str::to_owned)).collect();
    let mut named = 0;
    for path in below("deploy") {
        let text = text(&path);
        for (at, _) in text.match_indices("TTDUST_") {
            let name = &text[at..];
            let end = name.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
            let name = &name[..end.unwrap_or(name.len())];
            assert!(known.contains(name), "{path} names {name}, which is no setting");
            named += 1;
        }
    }
    assert!(named > 10, "the search works");
}

/// Pairs of a unit's file, in order.
fn unit() -> Vec<(String, String)> {
    let text = text(UNIT);
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn systemd_takes_the_unit_and_the_server_what_is_in_it() {
    let unit = unit();
    let value = |key: &str| {
        let mut values = unit.iter().filter(|(k, _)| k == key).map(|(_, value)| value.as_str());
        values.next().unwrap_or_else(|| panic!("{UNIT} has no {key}"))
    };
    let (name, data_dir) = value("Environment").split_once('=').expect("a variable");
    let example = text("deploy/systemd/ttdust.toml");
    // As it is, and with all that it only shows.
    let is_shown = |rest: &str| rest.starts_with('[') || rest.contains(" = ");
    let shown = example.lines().map(|line| line.strip_prefix('#').filter(|rest| is_shown(rest)).unwrap_or(line));
    let shown = shown.collect::<Vec<_>>().join("\n");
    assert_ne!(shown, example.trim_end());
    for file in [example.as_str(), &shown] {
        let config = configured(file, [(name, data_dir)]);
        assert_eq!(config.settings().data_dir, Path::new("%S").join(value("StateDirectory")));
        assert!(seconds(value("TimeoutStopSec")) > config.settings().shutdown_timeout.as_secs() + 10);
    }
    assert_eq!((value("Type"), seconds(value("WatchdogSec")) >= 10), ("notify", true));

    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ttdust.service");
    fs::write(&path, text(UNIT).replace("/usr/local/bin/ttdust", PROGRAM)).expect("written");
    let verify = |path: &Path| {
        let checked = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output();
        python::said(&checked.expect("systemd-analyze is installed"))
    };
    let said = verify(&path);
    assert!(!said.contains("ttdust.service"), "{said}");
    run(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=20"]).arg(&path));
    // What it does not know it only tells of.
    fs::write(&path, text(UNIT).replace("WatchdogSec", "WatchdogSecs")).expect("written");
    assert!(verify(&path).contains("WatchdogSecs"));
}

#[test]
fn systemd_leaves_io_uring_to_the_server() {
    let set = |name: &str| -> BTreeSet<String> {
        let listed = run(Command::new("systemd-analyze").args(["syscall-filter", name]));
        listed.lines().skip(1).map(|line| line.trim().to_owned()).collect()
    };
    let mut calls = BTreeSet::new();
    for (_, filter) in unit().iter().filter(|(key, _)| key == "SystemCallFilter") {
        let (taken_away, names) = filter.strip_prefix('~').map_or((false, filter.as_str()), |names| (true, names));
        let mut waiting: Vec<_> = names.split(' ').map(str::to_owned).collect();
        while let Some(name) = waiting.pop() {
            match (name.starts_with('@'), taken_away) {
                (true, _) => waiting.extend(set(&name)),
                (false, true) => _ = calls.remove(&name),
                (false, false) => _ = calls.insert(name),
            }
        }
    }
    let needed = ["io_uring_setup", "io_uring_enter", "io_uring_register", "sched_setaffinity", "sched_setattr"];
    for call in needed.into_iter().chain(["setpriority", "fdatasync", "pwritev2", "accept4", "eventfd2"]) {
        assert!(calls.contains(call), "{call} is refused");
    }
    assert!(!calls.contains("mount") && !calls.contains("setuid") && !calls.contains("ptrace"), "{calls:?}");
}

/// What stands behind each `instruction` of the Dockerfile.
fn dockerfile(instruction: &str) -> Vec<String> {
    let text = text("deploy/Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(' '));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn the_image_has_what_it_builds_from_and_its_checks_are_commands() {
    let manifest = text("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a version");
    let bases = dockerfile("FROM");
    assert_eq!(bases[0], format!("rust:{}-bookworm AS build", version.trim_matches('"')));
    assert!(bases[1].ends_with(":nonroot"), "{bases:?}");
    assert_eq!(dockerfile("VOLUME"), [dockerfile("ENV")[0].strip_prefix("TTDUST_DATA_DIR=").expect("the directory")]);
    let defaults = configured("", []);
    let ports = [defaults.settings().bind_address, defaults.settings().grpc_address].map(|a| a.port().to_string());
    assert_eq!(dockerfile("EXPOSE"), [ports.join(" ")]);

    let check = dockerfile("HEALTHCHECK").remove(0);
    let command = check.split_once("CMD ").expect("a command").1;
    let command: Vec<String> = serde_json::from_str(command).expect("a list");
    assert_eq!(command[0], "ttdust");
    // Nobody listens on this port: the command is well formed, and says that no server answers.
    let refused = Command::new(PROGRAM).args(&command[1..]).env("TTDUST_ENDPOINT", "http://127.0.0.1:1").output();
    assert_eq!(refused.expect("run").status.code(), Some(3));

    let ignored = text(".dockerignore");
    let sent: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).expect("members");
    let members: Vec<String> = serde_json::from_str(members).expect("a list");
    for path in members.iter().map(String::as_str).chain(["Cargo.toml", "Cargo.lock", ".cargo", "src"]) {
        assert!(sent.contains(&path), "{path} is not sent to the build");
    }
    assert!(sent.iter().all(|path| root().join(path).exists()), "{sent:?}");
    let mut included = 0;
    for source in members.iter().map(String::as_str).chain(["src"]).flat_map(below).filter(|p| p.ends_with(".rs")) {
        let text = text(&source);
        for rest in text.split("include_") {
            let Some(path) = rest.strip_prefix("str!(\"").or_else(|| rest.strip_prefix("bytes!(\"")) else { continue };
            let path = path.split('"').next().expect("a path");
            let path = resolved(Path::new(&source).parent().expect("a folder"), path);
            assert!(sent.iter().any(|sent| path.starts_with(sent)), "{source} includes {}", path.display());
            included += 1;
        }
    }
    assert!(included > 5, "the search works");
}

/// A path as seen from a folder, without `..`.
fn resolved(folder: &Path, path: &str) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => _ = whole.pop(),
            part => whole.push(part),
        }
    }
    whole
}

/// The profile of `deploy/seccomp` without what it adds.
fn profile_of_docker() -> String {
    const ADDED: &str = "\t\t{\n\t\t\t\"comment\": \"All that TTDust adds to the default profile of Docker.\",\n\t\t\t\"names\": \
                         [\n\t\t\t\t\"io_uring_enter\",\n\t\t\t\t\"io_uring_register\",\n\t\t\t\t\"io_uring_setup\"\n\t\t\t],\n\
                         \t\t\t\"action\": \"SCMP_ACT_ALLOW\"\n\t\t},\n";
    text("deploy/seccomp/ttdust.json").replacen(ADDED, "", 1)
}

#[test]
fn seccomp_is_the_default_of_docker_and_io_uring() {
    let default = profile_of_docker();
    assert!(!default.contains("io_uring"));
    let digest: String = Sha256::digest(default.trim_end()).iter().map(|byte| format!("{byte:02x}")).collect();
    // Of the file that the generator names.
    assert!(text("deploy/seccomp/generate.py").contains(&format!("\"{digest}\"")), "{digest}");
}

#[test]
fn under_the_seccomp_profile_the_server_does_its_work_on_io_uring() {
    let dir = tempfile::tempdir().expect("a directory");
    let (interpreter, script) = (python::interpreter(), python::script("under_seccomp.py"));
    let settings = [("shards.io", "uring"), ("wal.quota_bytes", "256MiB"), ("buffer.flush_interval_ms", "50")];
    let start_under = |profile: &Path| {
        let wrapper = [interpreter.as_path(), &script, profile].map(|path| path.to_str().expect("UTF-8"));
        Server::spawn_under(&wrapper, dir.path(), &settings)
    };
    let default = dir.path().join("default.json");
    fs::write(&default, profile_of_docker()).expect("written");
    let mut refused = start_under(&default);
    assert!(!refused.wait().success());
    assert!(refused.log().contains("io_uring_setup: Operation not permitted"), "{}", refused.log());

    let mut server = start_under(&root().join("deploy/seccomp/ttdust.json"));
    server.wait_until_ready();
    let stream = rest::create_stream(&server.http, "events", &json!({"type": "object"}));
    let path = format!("/api/v1/streams/{stream}");
    let (status, answer) = rest::call(&server.http, "POST", &format!("{path}/records"), r#"[{"n": 1}, {"n": 2}]"#);
    assert_eq!(status, 200, "{answer}");
    wait_for("the flush", || {
        let (_, body) = rest::call(&server.http, "GET", &path, "");
        (body["statistics"]["flushed_through"] == 2).then_some(())
    });
    let (_, read) = rest::call(&server.http, "GET", &format!("{path}/records?limit=3"), "");
    assert_eq!(list(&read["records"]).len(), 2, "{read}");
    assert!(server.stop().success(), "a clean stop");
}

/// Folder and names of the secrets that `deploy/secrets.sh` draws.
fn drawn_secrets() -> (tempfile::TempDir, BTreeSet<String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("secrets.sh");
    fs::copy(root().join("deploy/secrets.sh"), &script).expect("copied");
    run(&mut Command::new(&script));
    let again = Command::new(&script).output().expect("run");
    assert!(!again.status.success(), "what is there stays");
    let names = fs::read_dir(dir.path().join("secrets")).expect("a listing");
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    (dir, names)
}

#[test]
fn compose_runs_the_server_with_settings_that_it_takes() {
    let compose = yaml("deploy/compose.yaml");
    let server = &compose["services"]["ttdust"];
    let (dir, drawn) = drawn_secrets();
    let folder = dir.path().join("secrets");
    let secret = |name: &str| fs::read_to_string(folder.join(name)).expect("a secret");
    let config = configured(&secret("ttdust.toml"), variables(&server["environment"]));
    let (postgres, s3) = (config.postgres.as_ref().expect("Postgres"), config.s3.as_ref().expect("S3"));
    let password = |text: &str| matches!(&postgres.password, PgPassword::Text(known) if known.reveal() == text);
    assert!(password(&secret("postgres_password")));
    assert_eq!(
        format!("ttdust\n{}\n", secret("s3.env").rsplit('=').next().expect("a key").trim()),
        secret("s3_credentials")
    );
    assert!(server["environment"].to_string().contains("/run/secrets/s3_credentials"));
    assert!(seconds(string(&server["stop_grace_period"])) > config.settings().shutdown_timeout.as_secs() + 10);
    let make_bucket = compose["services"]["bucket"]["command"].to_string();
    assert!(make_bucket.contains(&format!("s3/{}", s3.bucket)), "{make_bucket}");
    let uses = |url: &str| compose["services"].get(url.split(['/', ':']).nth(3).expect("a host")).is_some();
    assert!(uses(&config.otlp.as_ref().expect("traces").endpoint));
    assert!(uses(&s3.endpoint) && uses(config.settings().redis_url.as_ref().expect("Redis").secret()));
    assert!(compose["services"].get(&postgres.host).is_some());

    // Others may pass by nothing but the folder, and no secret is in the environment.
    assert_eq!(fs::metadata(&folder).expect("a folder").permissions().mode() & 0o777, 0o700);
    for (name, secret) in compose["secrets"].as_object().expect("secrets") {
        assert_eq!(string(&secret["file"]), format!("secrets/{name}"));
    }
    let files: BTreeSet<_> = compose["secrets"].as_object().expect("secrets").keys().cloned().collect();
    assert_eq!(files, drawn);
    for (name, service) in compose["services"].as_object().expect("services") {
        let image = string(&service["image"]);
        assert!(image.rsplit_once(':').is_some_and(|(_, tag)| tag.contains(|c: char| c.is_ascii_digit())), "{image}");
        for (variable, value) in service.get("environment").into_iter().flat_map(variables) {
            let is_secret = ["PASSWORD", "SECRET", "KEY"].iter().any(|word| variable.contains(word));
            assert!(!is_secret || value.starts_with("/run/secrets/"), "{name}: {variable}");
        }
        // The image has its own check, and what is done is not checked.
        let checked = service.get("healthcheck").is_some() || name == "ttdust" || name == "bucket";
        assert!(checked, "{name} has no check");
    }
}

#[test]
fn compose_takes_the_file_and_would_refuse_another() {
    let program: &[&str] =
        if is_there(&["docker", "compose", "version"]) { &["docker", "compose"] } else { &["docker-compose"] };
    let config = |folder: &Path| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(["--file", "compose.yaml", "config", "--quiet"]).current_dir(folder);
        command
    };
    run(&mut config(&root().join("deploy")));
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("compose.yaml"), "services: {a: {image: b, colour: red}}").expect("written");
    assert!(!config(dir.path()).output().expect("run").status.success());
}

/// The manifests that Kubernetes itself knows, by kind and name.
fn manifests() -> BTreeMap<String, Value> {
    let paths = with_ending(MANIFESTS, ".yaml");
    let known =
        |document: &Value| string(&document["apiVersion"]).matches('.').count() == 0 || document["kind"] == "Ingress";
    let documents = yaml_files(&paths).into_iter().flatten().filter(known);
    let named = |d: Value| (format!("{} {}", string(&d["kind"]), string(&d["metadata"]["name"])), d);
    documents.map(named).collect()
}

#[test]
fn kubernetes_knows_every_field_of_the_manifests() {
    let unknown = ["kustomization.yaml", "monitor.yaml"];
    let mut paths: Vec<_> = with_ending(MANIFESTS, ".yaml").iter().map(|path| root().join(path)).collect();
    paths.retain(|path| !unknown.iter().any(|name| path.ends_with(name)));
    let count = manifests().len().to_string();
    for version in ["1.30", "1.34"] {
        let mut arguments = vec![Path::new(version)];
        arguments.extend(paths.iter().map(PathBuf::as_path));
        let checked = python::run("check_kubernetes.py", &arguments);
        assert!(checked.status.success(), "{}", python::said(&checked));
        assert_eq!(String::from_utf8_lossy(&checked.stdout).trim(), count);
    }
    let mut resources: BTreeSet<_> =
        list(&yaml("deploy/kubernetes/kustomization.yaml")["resources"]).iter().map(|r| string(r).to_owned()).collect();
    resources.extend(["kustomization.yaml", "monitor.yaml", "secret.example.yaml"].map(str::to_owned));
    let files = with_ending(MANIFESTS, ".yaml");
    let files: BTreeSet<_> = files.iter().map(|path| path.rsplit('/').next().expect("a name").to_owned()).collect();
    assert_eq!(resources, files, "each is applied, or told of as one that is not");
}

#[test]
fn kubernetes_runs_the_server_with_settings_that_it_takes() {
    let manifests = manifests();
    let set = &manifests["StatefulSet ttdust"]["spec"];
    let pod = &set["template"]["spec"];
    let server = &pod["containers"][0];
    let (settings, secret) = (&manifests["ConfigMap ttdust"]["data"], &manifests["Secret ttdust"]["stringData"]);
    let config = configured(string(&secret["ttdust.toml"]), variables(settings));
    // Kubernetes would add variables of its own, which the server refuses.
    assert_eq!(pod["enableServiceLinks"], json!(false));
    assert!(
        pod["terminationGracePeriodSeconds"].as_u64().expect("a number")
            > config.settings().shutdown_timeout.as_secs() + 10
    );

    // Class Guaranteed, with whole cores: one for the control plane, and one a shard.
    let (requests, limits) = (&server["resources"]["requests"], &server["resources"]["limits"]);
    assert_eq!(requests, limits);
    assert_eq!(string(&limits["cpu"]).parse(), Ok(config.engine.shard_cores.len() + 1));

    // Where the probes look and where secrets lie.
    let openapi: Value = serde_json::from_str(&run(Command::new(PROGRAM).arg("openapi"))).expect("JSON");
    for (probe, path) in
        [("startupProbe", "/health/live"), ("livenessProbe", "/health/live"), ("readinessProbe", "/health/ready")]
    {
        assert_eq!(
            (&server[probe]["httpGet"]["path"], &server[probe]["httpGet"]["port"]),
            (&json!(path), &json!("http"))
        );
        assert!(openapi["paths"].get(path).is_some(), "{path}");
    }
    assert!(
        openapi["paths"].get(string(&yaml("deploy/kubernetes/monitor.yaml")["spec"]["endpoints"][0]["path"])).is_some()
    );
    let mounts: BTreeMap<_, _> =
        list(&server["volumeMounts"]).iter().map(|m| (string(&m["name"]), string(&m["mountPath"]))).collect();
    assert_eq!(server["args"], json!(["serve", "--config", format!("{}/ttdust.toml", mounts["secret"])]));
    let credentials =
        string(&settings["TTDUST_S3_CREDENTIALS_PATH"]).strip_prefix(mounts["secret"]).expect("in the secret");
    assert!(secret.get(credentials.trim_start_matches('/')).is_some());
    assert_eq!(mounts["data"], dockerfile("VOLUME")[0]);
    let profile = string(&pod["securityContext"]["seccompProfile"]["localhostProfile"]);
    assert!(root().join("deploy/seccomp").join(profile).exists());
    let user = pod["securityContext"]["runAsUser"].to_string();
    assert_eq!(dockerfile("USER"), [format!("{user}:{user}")]);

    // What selects the pod, and by which names its ports go.
    let label = json!({"app.kubernetes.io/name": "ttdust"});
    assert_eq!((&set["template"]["metadata"]["labels"], &set["selector"]["matchLabels"]), (&label, &label));
    assert_eq!(manifests["PodDisruptionBudget ttdust"]["spec"]["selector"]["matchLabels"], label);
    let ports: BTreeMap<_, _> =
        list(&server["ports"]).iter().map(|p| (string(&p["name"]), p["containerPort"].clone())).collect();
    for service in ["Service ttdust", "Service ttdust-headless"] {
        let spec = &manifests[service]["spec"];
        assert_eq!(spec["selector"], label);
        for port in list(&spec["ports"]) {
            assert_eq!(ports.get(string(&port["targetPort"])), Some(&port["port"]), "{service}");
        }
    }
    assert_eq!(set["serviceName"], json!("ttdust-headless"));
    assert_eq!(ports["http"], json!(config.settings().bind_address.port()));
    assert_eq!(ports["grpc"], json!(config.settings().grpc_address.port()));
}

/// What is wrong with the names in an expression.
fn wrong_names(expression: &str) -> Vec<String> {
    let known = metrics();
    let mut wrong = Vec::new();
    let mut allowed: BTreeSet<String> = BTreeSet::new();
    let named = promql::named(expression);
    for (name, labels) in named.metrics {
        let is = |metric: &&ttdust::metrics::MetricInfo| match metric.kind {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(metric.name)),
            _ => metric.name == name,
        };
        let own = match known.iter().find(is) {
            Some(metric) => metric.labels,
            None if name == "up" => "",
            None => {
                wrong.push(format!("{name} is no metric"));
                continue;
            }
        };
        // Prometheus sets job and instance itself.
        let own = own.split(',').filter(|label| !label.is_empty()).map(str::to_owned);
        let mut of_this: BTreeSet<_> = own.chain(["job".to_owned(), "instance".to_owned()]).collect();
        of_this.extend(name.ends_with("_bucket").then(|| "le".to_owned()));
        wrong.extend(labels.difference(&of_this).map(|label| format!("{name} has no label {label}")));
        allowed.extend(of_this);
    }
    wrong.extend(named.grouped.difference(&allowed).map(|label| format!("nothing has the label {label}")));
    wrong
}

fn alerts() -> Vec<Value> {
    let groups = yaml(ALERTS);
    list(&groups["groups"]).iter().flat_map(|group| list(&group["rules"]).to_vec()).collect()
}

/// Expressions of dashboards by where they stand, with Grafana's variables filled in.
fn dashboard_expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in with_ending("deploy/grafana/dashboards", ".json") {
        let dashboard: Value = serde_json::from_str(&text(&path)).expect("JSON");
        for panel in list(&dashboard["panels"]) {
            assert!(!list(&panel["targets"]).is_empty(), "{path}: {panel}");
            for target in list(&panel["targets"]) {
                let expression = string(&target["expr"]).replace("$__rate_interval", "1m").replace("$instance", ".*");
                found.push((format!("{path}: {}", panel["title"]), expression));
            }
        }
        let instances = string(&dashboard["templating"]["list"][0]["query"]["query"]);
        let metric = instances.strip_prefix("label_values(").and_then(|rest| rest.split(',').next()).expect("a metric");
        found.push((path, metric.to_owned()));
    }
    found
}

#[test]
fn alerts_and_dashboards_name_what_metrics_have() {
    for (wrong, why) in [
        ("rate(ttdust_wal_bytes[5m])", "ttdust_wal_bytes is no metric"),
        ("ttdust_wal_flush_latency_seconds > 1", "ttdust_wal_flush_latency_seconds is no metric"),
        (r#"ttdust_wal_used_bytes{stream="a"}"#, "ttdust_wal_used_bytes has no label stream"),
        ("sum by (job) (ttdust_upkeep_failures_total{job=\"a\"}) + sum by (pool) (up)", "nothing has the label pool"),
    ] {
        assert_eq!(wrong_names(wrong), [why]);
    }
    let alerts = alerts();
    let alerts = alerts.iter().map(|alert| (string(&alert["alert"]).to_owned(), string(&alert["expr"]).to_owned()));
    let dashboards = dashboard_expressions();
    assert!(dashboards.len() > 50, "the search works");
    for (place, expression) in alerts.chain(dashboards) {
        assert_eq!(wrong_names(&expression), Vec::<String>::new(), "{place}: {expression}");
        assert!(!promql::named(&expression).metrics.is_empty(), "{place}");
    }
}

#[test]
fn dashboards_are_as_their_program_writes_them() {
    let dir = tempfile::tempdir().expect("a directory");
    run(Command::new(python::interpreter()).arg("-B").arg(root().join("deploy/grafana/dashboards.py")).arg(dir.path()));
    let kept = with_ending("deploy/grafana/dashboards", ".json");
    assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), kept.len());
    for path in kept {
        let written = fs::read_to_string(dir.path().join(path.rsplit('/').next().expect("a name"))).expect("written");
        assert!(written == text(&path), "{path} is not current: run deploy/grafana/dashboards.py");
    }
    let source = yaml("deploy/grafana/provisioning/datasources/prometheus.yaml");
    for path in with_ending("deploy/grafana/dashboards", ".json") {
        let dashboard: Value = serde_json::from_str(&text(&path)).expect("JSON");
        for panel in list(&dashboard["panels"]) {
            assert_eq!(panel["datasource"]["uid"], source["datasources"][0]["uid"]);
        }
    }
    // Prometheus reads every expression.
    let rule = |(_, expression): (String, String)| json!({"record": "any", "expr": expression});
    let rules: Vec<_> = dashboard_expressions().into_iter().map(rule).collect();
    let path = dir.path().join("rules.yaml");
    let groups = |rules: Value| json!({"groups": [{"name": "dashboards", "rules": rules}]}).to_string();
    fs::write(&path, groups(json!(rules))).expect("written");
    run(Command::new("promtool").args(["check", "rules"]).arg(&path));
    fs::write(&path, groups(json!([{"record": "any", "expr": "sum by ("}]))).expect("written");
    assert!(!Command::new("promtool").args(["check", "rules"]).arg(&path).output().expect("run").status.success());
}

#[test]
fn every_alert_is_shown_to_fire_and_to_keep_quiet() {
    let tests = yaml("deploy/prometheus/alerts.test.yaml");
    let tests: BTreeMap<_, _> = list(&tests["tests"]).iter().map(|test| (string(&test["name"]), test)).collect();
    let alerts = alerts();
    assert_eq!(tests.len(), alerts.len());
    for alert in &alerts {
        let name = string(&alert["alert"]);
        let test = tests.get(name).unwrap_or_else(|| panic!("{name} has no test"));
        let looks = list(&test["promql_expr_test"]);
        let fires = |look: &&Value| {
            assert_eq!(look["expr"], r#"count by (alertname) (ALERTS{alertstate="firing"})"#, "{name}");
            look["exp_samples"].to_string().contains(&format!(r#"alertname=\"{name}\""#))
        };
        let minute = |look: &Value| string(&look["eval_time"]).trim_end_matches('m').parse::<u32>().expect("minutes");
        let quiet = looks.iter().find(|look| !fires(look)).unwrap_or_else(|| panic!("{name} never keeps quiet"));
        let firing = looks.iter().find(fires).unwrap_or_else(|| panic!("{name} never fires"));
        assert_eq!(minute(quiet) + 1, minute(firing), "{name}: the minute before");
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["test", "rules", "alerts.test.yaml"]).current_dir(root().join("deploy/prometheus"));
    run(&mut promtool);
    run(Command::new("promtool")
        .args(["check", "config", "--syntax-only", "prometheus.yaml"])
        .current_dir(root().join("deploy/prometheus")));
    let scrapes = yaml("deploy/prometheus/prometheus.yaml");
    assert_eq!(scrapes["scrape_configs"][0]["job_name"], "ttdust", "alerts go by it");
}

#[test]
fn every_alert_has_its_entry_and_every_entry_its_alert() {
    let runbook = text(RUNBOOK);
    let entries: Vec<(&str, &str)> =
        runbook.split("\n## ").skip(1).map(|entry| entry.split_once('\n').expect("more than a heading")).collect();
    let alerts = alerts();
    let names: Vec<_> = alerts.iter().map(|alert| string(&alert["alert"])).collect();
    assert_eq!(names, entries.iter().map(|(heading, _)| *heading).collect::<Vec<_>>());
    assert!(names.len() >= 10);
    let mut severities = BTreeSet::new();
    for alert in &alerts {
        let (name, notes) = (string(&alert["alert"]), &alert["annotations"]);
        assert_eq!(string(&notes["runbook"]), format!("{RUNBOOK}#{}", name.to_lowercase()));
        assert!(string(&notes["summary"]).len() > 10, "{name}");
        severities.insert(string(&alert["labels"]["severity"]));
    }
    assert_eq!(severities, BTreeSet::from(["critical", "info", "warning"]));
    for (heading, entry) in &entries {
        for part in ["**Meaning**: ", "**Look**:\n```sh\n", "\n```\n**Do**: "] {
            assert_eq!(entry.matches(part).count(), 1, "{heading} has no {part:?}");
        }
        for link in entry.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(names.iter().any(|name| name.to_lowercase() == link), "{heading} points to {link}");
        }
    }
}

/// What a text has between backticks and, line by line, in blocks of code.
fn code_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 1 {
            found.extend(part.lines().skip(1).map(|line| line.trim().to_owned()));
        } else {
            found.extend(part.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")));
        }
    }
    found
}

#[test]
fn commands_settings_and_metrics_that_are_told_of_exist() {
    let (mut commands, mut settings, mut shown) = (0, 0, 0);
    for path in [RUNBOOK, "deploy/README.md"] {
        for code in code_of(&text(path)) {
            if let Some(command) = code.strip_prefix("ttdust ") {
                check_command(command.split_whitespace().take_while(|word| !word.starts_with(['-', '#'])).collect());
                commands += 1;
            }
            let word = code.split([' ', '=']).next().expect("a word");
            let is_key = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b));
            // The kernel's own look the same.
            if word.contains('.') && is_key && !word.starts_with(['.', '/']) && !word.starts_with("kernel.") {
                assert!(SETTINGS.iter().any(|setting| setting.key == word), "{path}: {word} is no setting");
                settings += 1;
            }
            if word.starts_with("ttdust_") {
                assert_eq!(wrong_names(word), Vec::<String>::new(), "{path}");
                shown += 1;
            }
        }
    }
    assert!(commands > 10 && settings > 10 && shown > 0, "the search works: {commands} {settings} {shown}");
}

fn check_command(words: Vec<&str>) {
    let help = |words: &[&str]| run(Command::new(PROGRAM).arg("help").args(words));
    if help(&words[..1]).contains("\nCommands:") && words.len() > 1 {
        help(&words[..2]);
    }
}
