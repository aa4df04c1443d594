//! The whole configuration: read once from file, environment and flags, resolved once, then passed down as plain values.
//!
//! Every setting is a row of one table ([`SETTINGS`]): the parser, `config reference`, `config show` and `GET /api/v1/config`
//! all go by it. Precedence: flag over environment over file over default. A variable's name is `TTDUST_` and the key in
//! upper case with `_` for `.`. What is unknown is an error; nothing is silently ignored. This is the only module that reads
//! the environment.

mod client;
mod manager;
mod near;
mod parse;
mod reference;
mod resolve;
mod secrets;
mod settings;

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

pub use client::{API_KEY_VARIABLE, ClientEnvironment, ENDPOINT_VARIABLE, PROFILE_VARIABLE};
pub use manager::ServiceManager;
pub use reference::{reference, show};
pub use resolve::{
    AuthMode, Config, OtlpOptions, PgOptions, PgPassword, S3Credentials, S3Options, TlsFiles, usable_cores,
};
pub use secrets::{RedisUrl, SECRET_BYTES_MAX, read_secret};
pub use settings::{
    AuthChoice, CertificateHolder, ClientAuth, ImportRoot, LogFormat, PgTls, Pin, RELOADABLE, SETTINGS, Secret,
    Setting, Settings, UnknownStreamsPolicy, UpkeepSettings,
};

/// The one variable of OpenTelemetry's that is read: where the collector is. What is traced is for our own settings to say.
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Where a setting's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// The file given with `--config`.
    File,
    /// A `TTDUST_*` variable.
    Environment,
    /// The command line.
    Flag,
}

impl Origin {
    /// As text, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or is no TOML.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No such setting.
    #[error("{origin} sets {name}, which is no setting{near}; `ttdust config reference` lists them all")]
    Unknown {
        /// Where it is set.
        origin: &'static str,
        /// The key or variable.
        name: String,
        /// `; did you mean a or b?`, or nothing.
        near: String,
    },
    /// A value that cannot be used.
    #[error("{name} = {value:?} (from {origin}): {reason}")]
    Value {
        /// The key or variable.
        name: String,
        /// Its value.
        value: String,
        /// Where it is set.
        origin: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Conflict(String),
}

/// Everything that settings are read from; secrets are among it, and never shown.
#[derive(Clone, Default)]
pub struct Sources {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Key and value of each flag, in order; the last wins.
    pub flags: Vec<(String, String)>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Sources {
    /// The process's environment, with this file and these flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        Self { file, environment: std::env::vars_os().collect(), flags }
    }
}

/// The settings with where each comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values, parsed.
    pub settings: Settings,
    /// Text and origin of each row of [`SETTINGS`], in its order; of a secret, only whether there is one.
    pub values: Vec<(String, Origin)>,
    /// Where they were read from, to be read again.
    pub sources: Sources,
}

impl Loaded {
    /// Reads the same sources again, with `changes` before all of them. The environment is the one of the start.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn again(&self, changes: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut sources = self.sources.clone();
        // The last of a key wins: the ones before it would only grow in number.
        sources.flags.retain(|(key, _)| changes.iter().all(|(changed, _)| changed != key));
        sources.flags.extend_from_slice(changes);
        load(&sources)
    }

    /// The same as this, but for the settings that need no restart, which are as in `newer`; and the keys that differ all the
    /// same.
    ///
    /// # Errors
    /// The settings do not go together then: a start with them would be refused.
    pub fn with_reloadable(&self, newer: &Self) -> Result<(Self, Vec<&'static str>), ConfigError> {
        let mut merged = Self { sources: newer.sources.clone(), ..self.clone() };
        let mut left = Vec::new();
        for (at, setting) in SETTINGS.iter().enumerate() {
            if self.values[at].0 == newer.values[at].0 {
                continue;
            }
            if !RELOADABLE.contains(&setting.key) {
                left.push(setting.key);
                continue;
            }
            merged.values[at] = newer.values[at].clone();
            let set = (setting.set)(&mut merged.settings, &newer.values[at].0);
            assert!(set.is_ok(), "it was parsed before: {set:?}");
        }
        resolve::check_tokens(&merged.settings)?;
        Ok((merged, left))
    }

    /// Whether someone set `key`, rather than leaving it to its default.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        let at = SETTINGS.iter().position(|s| s.key == key).expect("callers name keys of the table");
        self.values[at].1 != Origin::Default
    }
}

/// Reads all sources.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut chosen: BTreeMap<&'static str, (String, Origin, String)> = BTreeMap::new();
    for (key, value) in file_entries(sources)? {
        let setting = by_key(&key, "the file")?;
        chosen.insert(setting.key, (value, Origin::File, key));
    }
    for (variable, value) in environment_entries(sources)? {
        let setting = by_variable(&variable)?;
        chosen.insert(setting.key, (value, Origin::Environment, variable));
    }
    for (key, value) in &sources.flags {
        let setting = by_key(key, "a flag")?;
        chosen.insert(setting.key, (value.clone(), Origin::Flag, key.clone()));
    }
    let mut settings = Settings::blank();
    let mut values = Vec::with_capacity(SETTINGS.len());
    for setting in SETTINGS {
        let (value, origin, name) =
            chosen.remove(setting.key).unwrap_or_else(|| (setting.default.into(), Origin::Default, setting.key.into()));
        let parsed = (setting.set)(&mut settings, &value);
        let shown = setting.shown(&value);
        if let Err(reason) = parsed {
            return Err(ConfigError::Value { name, value: shown, origin: origin.name(), reason });
        }
        values.push((shown, origin));
    }
    Ok(Loaded { settings, values, sources: sources.clone() })
}

fn file_entries(sources: &Sources) -> Result<Vec<(String, String)>, ConfigError> {
    let Some(path) = &sources.file else {
        return Ok(Vec::new());
    };
    let error = |reason: String| ConfigError::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    let table = text.parse::<toml::Table>().map_err(|e| error(no_toml(&text, &e)))?;
    parse::flatten(&table).map_err(error)
}

/// What is wrong and where. Not the line itself, which the error would show as well: it may hold a password.
fn no_toml(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    format!("line {line}, column {column}: {}", error.message())
}

fn environment_entries(sources: &Sources) -> Result<Vec<(String, String)>, ConfigError> {
    let mut entries = Vec::new();
    for (name, value) in &sources.environment {
        let name = name.to_string_lossy();
        let is_ours = name.starts_with("TTDUST_") || name == OTLP_ENDPOINT && !value.is_empty();
        if !is_ours || client::CLIENT_VARIABLES.contains(&&*name) {
            continue;
        }
        let text = value.to_str().ok_or_else(|| ConfigError::Value {
            name: name.to_string(),
            // Of a secret not even a part is shown, and a name that is misspelt may mean one.
            value: "…".into(),
            origin: Origin::Environment.name(),
            reason: "not UTF-8".into(),
        })?;
        entries.push((name.into_owned(), text.to_owned()));
    }
    // The environment has no order of its own: the same mistakes must give the same message, and our own variable comes after
    // the one that all programs have.
    entries.sort();
    Ok(entries)
}

fn by_key(key: &str, origin: &'static str) -> Result<&'static Setting, ConfigError> {
    if let Some(setting) = SETTINGS.iter().find(|s| s.key == key) {
        return Ok(setting);
    }
    let near = near::suggestion(key, SETTINGS.iter().map(|s| s.key.to_owned()));
    Err(ConfigError::Unknown { origin, name: key.into(), near })
}

fn by_variable(variable: &str) -> Result<&'static Setting, ConfigError> {
    if let Some(setting) = SETTINGS.iter().find(|s| s.variable() == variable) {
        return Ok(setting);
    }
    if variable == OTLP_ENDPOINT {
        return by_key("otlp.endpoint", "the environment");
    }
    let near = near::suggestion(variable, SETTINGS.iter().map(Setting::variable));
    Err(ConfigError::Unknown { origin: "the environment", name: variable.into(), near })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("ttdust.toml");
        std::fs::write(&path, file).expect("a file in it");
        load(&Sources {
            file: Some(path),
            environment: environment.iter().map(|(n, v)| (n.into(), v.into())).collect(),
            flags: flags.iter().map(|&(n, v)| (n.into(), v.into())).collect(),
        })
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "bind_address = \"127.0.0.1:1\"\ngrpc_address = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"\n";
        let environment = [("TTDUST_BIND_ADDRESS", "127.0.0.1:2"), ("TTDUST_GRPC_ADDRESS", "127.0.0.1:2")];
        let loaded = from(file, &environment, &[("bind_address", "127.0.0.1:3")]).expect("valid");
        assert_eq!(loaded.settings.bind_address.port(), 3);
        assert_eq!(loaded.settings.grpc_address.port(), 2);
        assert_eq!(loaded.settings.log_level, "warn");
        assert_eq!(loaded.settings.shutdown_timeout.as_secs(), 30);
        assert!(loaded.is_set("log.level") && !loaded.is_set("data_dir"));
    }

    #[test]
    fn every_default_is_valid_and_every_variable_is_unique() {
        let loaded = load(&Sources::default()).expect("defaults");
        assert_eq!(loaded.values.len(), SETTINGS.len());
        let mut variables: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), SETTINGS.len());
    }

    #[test]
    fn tables_arrays_and_sizes_are_read_from_a_file() {
        let file = "[control]\ncores = [0]\n[shards]\ncores = [1, 2]\nio = \"epoll\"\n[[shards.pin]]\nstream = \"clicks\"\n\
                    shard = 1\n[wal]\nquota_bytes = \"64MiB\"\nsegment_bytes = 4194304\n";
        let settings = from(file, &[], &[]).expect("valid").settings;
        assert_eq!(settings.control_cores, [0]);
        assert_eq!(settings.shard_cores, [1, 2]);
        assert_eq!(settings.pins, [Pin { stream: "clicks".into(), shard: 1 }]);
        assert_eq!((settings.wal_quota_bytes, settings.wal_segment_bytes), (64 << 20, 4 << 20));
    }

    #[test]
    fn the_unknown_is_refused_with_near_names() {
        let error = from("bind_adress = \"x\"", &[], &[]).expect_err("unknown").to_string();
        assert!(error.contains("bind_address"), "{error}");
        let error = from("", &[("TTDUST_WAL_DIRECTRY", "/x")], &[]).expect_err("unknown").to_string();
        assert!(error.contains("TTDUST_WAL_DIRECTORY"), "{error}");
        let error = from("[wal]\nzzz = 1", &[], &[]).expect_err("unknown").to_string();
        assert!(error.contains("wal.zzz") && !error.contains("did you mean"), "{error}");
        assert!(matches!(from("", &[], &[("nope", "1")]), Err(ConfigError::Unknown { .. })));
    }

    #[test]
    fn variables_of_clients_are_passed_by() {
        let of_clients = [("TTDUST_ENDPOINT", "http://dust"), ("TTDUST_API_KEY", "k"), ("TTDUST_PROFILE", "p")];
        assert_eq!(from("", &of_clients, &[]).expect("valid").values, load(&Sources::default()).expect("valid").values);
    }

    #[test]
    fn the_collector_may_be_named_as_for_all_programs() {
        let otel = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        let endpoint = |environment: &[_]| from("", environment, &[]).expect("valid").settings.otlp.endpoint;
        assert_eq!(endpoint(&[otel]), "http://localhost:4318");
        assert_eq!(endpoint(&[otel, ("TTDUST_OTLP_ENDPOINT", "http://ours:4318")]), "http://ours:4318");
        assert_eq!(endpoint(&[(otel.0, "")]), "");
        let error = from("", &[(otel.0, "localhost")], &[]).expect_err("no URL").to_string();
        assert!(error.contains(otel.0), "{error}");
        assert_eq!(from("[otlp]\nsample_ratio = 0.5\n", &[], &[]).expect("valid").settings.otlp.sample_ratio, 0.5);
    }

    #[test]
    fn a_secret_is_used_and_never_shown() {
        let loaded = from("", &[("TTDUST_PG_PASSWORD", "s3cret")], &[("pg.host", "db")]).expect("valid");
        assert_eq!(loaded.settings.pg_password.reveal(), "s3cret");
        assert!(!format!("{loaded:?}").contains("s3cret"));
        let shown = show(&loaded);
        assert!(!shown.contains("s3cret") && shown.contains("# pg.password"), "{shown}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_of_without_its_text() {
        for file in ["[pg]\npassword = s3cret\n", "[pg]\npassword = \"s3cret\n", "redis.url = redis://u:s3cret@h"] {
            let error = from(file, &[], &[]).expect_err("no TOML");
            assert!(matches!(error, ConfigError::File { .. }));
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("s3cret") && shown.contains("line "), "{shown}");
        }
        let error = from("[pg]\nhost = \"db\"\npassword = s3cret\n", &[], &[]).expect_err("no TOML").to_string();
        assert!(error.contains("line 3, column 12"), "{error}");
    }

    #[test]
    fn a_variable_that_is_not_utf8_is_not_shown() {
        use std::os::unix::ffi::OsStringExt as _;
        for name in ["TTDUST_PG_PASSWORD", "TTDUST_PG_PASSWRD"] {
            let value = OsString::from_vec(b"s3cret\xff".to_vec());
            let sources = Sources { environment: vec![(name.into(), value)], ..Sources::default() };
            let error = load(&sources).expect_err("not UTF-8").to_string();
            assert!(error.contains(name) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_is_changed_again_and_again_does_not_grow() {
        let flags = [("log.level", "warn"), ("pg.host", "db")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut loaded = load(&Sources { flags: flags.into(), ..Sources::default() }).expect("valid");
        for level in ["info", "debug", "trace"] {
            loaded = loaded.again(&[("log.level".into(), level.into())]).expect("valid");
        }
        assert_eq!(loaded.settings.log_level, "trace");
        assert_eq!(
            loaded.sources.flags,
            [("pg.host", "db"), ("log.level", "trace")].map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn what_the_next_start_would_refuse_is_not_reloaded() {
        let loaded = load(&Sources::default()).expect("valid");
        let change = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let key = change("jwt.public_key_path", "key.pem");
        let newer = loaded.again(std::slice::from_ref(&key)).expect("each is valid by itself");
        let error = loaded.with_reloadable(&newer).expect_err("whose tokens?").to_string();
        assert!(error.contains("jwt.issuer"), "{error}");
        let newer = loaded.again(&[key, change("jwt.issuer", "https://id.example")]).expect("valid");
        assert!(loaded.with_reloadable(&newer).is_ok());
    }

    #[test]
    fn a_bad_value_names_its_place_and_what_is_wanted() {
        let error = from("[wal]\nquota_bytes = \"64 parsecs\"", &[], &[]).expect_err("bad").to_string();
        assert!(error.contains("wal.quota_bytes") && error.contains("MiB"), "{error}");
        assert!(matches!(from("[[shards.pin]]\nstream = \"a\"", &[], &[]), Err(ConfigError::File { .. })));
        assert!(matches!(from("a = 2026-01-01", &[], &[]), Err(ConfigError::File { .. })));
    }
}
