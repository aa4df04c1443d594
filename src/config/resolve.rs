//! Settings → what the parts are told: cores, shares of the totals, authentication. Each check says what to change.

use std::{path::PathBuf, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity};
use sha2::{Digest, Sha256};
use ttdust_shards::{
    config::{BufferConfig, DedupConfig, EngineConfig, WalConfig},
    trace::sampling::Sampling,
};

use super::{AuthChoice, ClientAuth, ConfigError, Loaded, PgTls, Secret, Settings, parse};

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Anyone.
    Off,
    /// Holders of an API key.
    Keys,
}

/// Where the certificates of both ports lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CAs of client certificates, and whether each client must have one. `None`: none are asked for.
    pub clients: Option<(PathBuf, bool)>,
}

/// With which password to log in to Postgres.
#[derive(Debug, Clone)]
pub enum PgPassword {
    /// By the settings; empty: none.
    Text(Secret),
    /// By what this file holds.
    File(PathBuf),
}

/// Where the catalog is, if it is in Postgres, and how to get there.
#[derive(Debug, Clone)]
pub struct PgOptions {
    /// A name, an address, or the directory of a socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// Who to log in as.
    pub user: String,
    /// With which password.
    pub password: PgPassword,
    /// Whether connections are encrypted.
    pub tls: PgTls,
    /// PEM certificates that vouch for the server's.
    pub ca_path: Option<PathBuf>,
    /// Open connections at most.
    pub pool_size: usize,
    /// What a call may take.
    pub statement_timeout: Duration,
    /// What opening a connection may take.
    pub connect_timeout: Duration,
}

impl PgOptions {
    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        format!("Postgres {}:{}/{}", self.host, self.port, self.database)
    }
}

/// Who we are to an S3 store.
#[derive(Debug, Clone)]
pub enum S3Credentials {
    /// By settings.
    Keys {
        /// The access key.
        access_key: String,
        /// The secret key.
        secret_key: Secret,
    },
    /// By what this file holds.
    File(PathBuf),
}

/// Where objects lie, if in S3, and how to get there.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// A URL.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The region.
    pub region: String,
    /// Who we are.
    pub credentials: S3Credentials,
    /// What keys begin with; empty, or without a slash at its ends.
    pub prefix: String,
    /// The bucket is the path's first part, not the host's.
    pub path_style: bool,
    /// PEM certificates that vouch for the store's; `None`: the system's.
    pub ca_path: Option<PathBuf>,
    /// What one request may take.
    pub timeout: Duration,
    /// Longer files are sent in parts of so many bytes.
    pub multipart_bytes: u64,
}

/// Where traces go, and of what.
#[derive(Debug, Clone)]
pub struct OtlpOptions {
    /// The collector's URL, without the path of traces.
    pub endpoint: String,
    /// For every request to it.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// PEM certificates that vouch for the collector's; `None`: the system's.
    pub ca_path: Option<PathBuf>,
    /// What one request may take.
    pub timeout: Duration,
    /// What is traced.
    pub sampling: Sampling,
    /// What this server is called.
    pub service_name: String,
}

/// The configuration that the server runs on.
#[derive(Debug, Clone)]
pub struct Config {
    /// The settings and their origins.
    pub loaded: Loaded,
    /// The cores of the control plane.
    pub control_cores: Vec<usize>,
    /// Who may call.
    pub auth: AuthMode,
    /// `None`: plain text on both ports.
    pub tls: Option<TlsFiles>,
    /// The Postgres of the catalog; `None`: it is in SQLite, at [`Config::catalog_path`].
    pub postgres: Option<PgOptions>,
    /// The S3 store of the objects; `None`: they are in the directory [`Config::objects_dir`].
    pub s3: Option<S3Options>,
    /// The collector of traces; `None`: nothing is traced.
    pub otlp: Option<OtlpOptions>,
    /// What the shards are told.
    pub engine: EngineConfig,
}

impl Config {
    /// Resolves settings for a process that may run on `usable` cores.
    ///
    /// # Errors
    /// The settings do not go together, or not with the machine.
    pub fn resolve(loaded: Loaded, usable: &[usize]) -> Result<Self, ConfigError> {
        let settings = &loaded.settings;
        let (control_cores, shard_cores) = place(settings, usable)?;
        let engine = EngineConfig {
            grpc_address: settings.grpc_address,
            io: settings.shard_io,
            wal_dir: settings.wal_dir(),
            staging_dir: settings.data_dir.join("staging"),
            limits: settings.shard_limits(),
            wal: wal_share(&loaded, shard_cores.len() as u64)?,
            buffer: buffer_share(&loaded, shard_cores.len() as u64)?,
            tail_memory_bytes: (settings.tail_memory_bytes / shard_cores.len() as u64) as usize,
            dedup: DedupConfig {
                window: settings.dedup_window,
                keys_max: (settings.dedup_keys_max / shard_cores.len() as u64).max(1),
                homes: homes(settings, shard_cores.len()),
                ..DedupConfig::default()
            },
            shard_cores: shard_cores.into_iter().map(Some).collect(),
            helper_cores: control_cores.clone(),
        };
        check_pins(settings, engine.shard_cores.len())?;
        check_tokens(settings)?;
        if engine.limits.record_bytes > engine.limits.message_bytes {
            return conflict(
                "limits.record_bytes is more than limits.message_bytes: no such record could be sent".into(),
            );
        }
        if settings.query_memory_bytes > settings.query_memory_total_bytes {
            return conflict(
                "query.memory_bytes is more than query.memory_total_bytes: no query could ever hold so much".into(),
            );
        }
        Ok(Self {
            control_cores,
            auth: authentication(settings)?,
            tls: tls_files(settings)?,
            postgres: postgres(&loaded)?,
            s3: s3(&loaded)?,
            otlp: otlp(&loaded)?,
            engine,
            loaded,
        })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.loaded.settings
    }

    /// The catalog's file.
    #[must_use]
    pub fn catalog_path(&self) -> PathBuf {
        self.settings().data_dir.join("catalog.sqlite")
    }

    /// The file of what this node needs of a catalog that is in Postgres.
    #[must_use]
    pub fn catalog_mirror_path(&self) -> PathBuf {
        self.settings().data_dir.join("catalog-mirror.sqlite")
    }

    /// The directory of the local objects.
    #[must_use]
    pub fn objects_dir(&self) -> PathBuf {
        self.settings().data_dir.join("objects")
    }
}

fn conflict<T>(message: String) -> Result<T, ConfigError> {
    Err(ConfigError::Conflict(message))
}

/// The cores that this process may run on (its cpuset and affinity), in order.
///
/// # Errors
/// The system does not tell.
pub fn usable_cores() -> Result<Vec<usize>, ConfigError> {
    let set = sched_getaffinity(None)
        .map_err(|e| ConfigError::Conflict(format!("cannot read which cores this process may use: {e}")))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// The cores of control, and the core of each shard.
fn place(settings: &Settings, usable: &[usize]) -> Result<(Vec<usize>, Vec<usize>), ConfigError> {
    assert!(!usable.is_empty(), "a running process has a core");
    check_cores("control.cores", &settings.control_cores, usable)?;
    check_cores("shards.cores", &settings.shard_cores, usable)?;
    let control = match settings.control_cores.as_slice() {
        [] => vec![default_control(settings, usable)],
        cores => cores.to_vec(),
    };
    let count = usize::from(settings.shard_count);
    if !settings.shard_cores.is_empty() {
        if count != 0 && count != settings.shard_cores.len() {
            return conflict(format!(
                "shards.count = {count} and shards.cores names {}: set one of them",
                settings.shard_cores.len()
            ));
        }
        return Ok((control, settings.shard_cores.clone()));
    }
    let mut free: Vec<_> = usable.iter().copied().filter(|core| !control.contains(core)).collect();
    if free.is_empty() {
        free = usable.to_vec();
        free.truncate(1);
    }
    let wanted = if count == 0 { free.len().min(256) } else { count };
    Ok((control, free.into_iter().cycle().take(wanted).collect()))
}

/// The first usable core that is given to no shard, or else the first.
fn default_control(settings: &Settings, usable: &[usize]) -> usize {
    usable.iter().copied().find(|core| !settings.shard_cores.contains(core)).unwrap_or(usable[0])
}

fn check_cores(key: &str, cores: &[usize], usable: &[usize]) -> Result<(), ConfigError> {
    for (at, core) in cores.iter().enumerate() {
        if !usable.contains(core) {
            return conflict(format!("{key} names core {core}, but this process may only use cores {usable:?}"));
        }
        if cores[..at].contains(core) {
            return conflict(format!("{key} names core {core} twice"));
        }
    }
    Ok(())
}

/// A number for which streams live on which shard: of how many shards there are, and what is pinned.
fn homes(settings: &Settings, shards: usize) -> u64 {
    let mut pins: Vec<_> = settings.pins.iter().map(|pin| format!("{}={}", pin.stream, pin.shard)).collect();
    pins.sort();
    let digest = Sha256::digest(format!("{shards} shards, {}", pins.join(",")));
    u64::from_le_bytes(*digest.first_chunk().expect("a digest is longer"))
}

fn check_pins(settings: &Settings, shards: usize) -> Result<(), ConfigError> {
    match settings.pins.iter().find(|pin| usize::from(pin.shard) >= shards) {
        None => Ok(()),
        Some(pin) => conflict(format!(
            "shards.pin puts {} on shard {}, but there are only shards 0 to {}",
            pin.stream,
            pin.shard,
            shards - 1
        )),
    }
}

pub(super) fn check_tokens(settings: &Settings) -> Result<(), ConfigError> {
    let keys = settings.jwt_public_key_path.is_some() || settings.jwt_jwks_path.is_some();
    if keys && (settings.jwt_issuer.is_empty() || settings.jwt_audience.is_empty()) {
        return conflict(
            "jwt keys are set, but not whose tokens they sign: set jwt.issuer and jwt.audience to what iss and aud must be"
                .into(),
        );
    }
    Ok(())
}

/// A shard's share of the log. It must hold some segments, and a segment must hold the largest request.
fn wal_share(loaded: &Loaded, shards: u64) -> Result<WalConfig, ConfigError> {
    /// Two being prepared, one being filled, one being released.
    const SEGMENTS_MIN: u64 = 4;
    const BLOCK: u64 = 4096;
    let settings = &loaded.settings;
    let share = settings.wal_quota_bytes / shards;
    let segment = if loaded.is_set("wal.segment_bytes") {
        settings.wal_segment_bytes
    } else {
        settings.wal_segment_bytes.min(share / 8 / BLOCK * BLOCK)
    };
    if !segment.is_multiple_of(BLOCK) {
        return conflict(format!("wal.segment_bytes = {segment} is no multiple of {BLOCK}"));
    }
    let least = settings.limit_message_bytes + settings.wal_frame_bytes + (64 << 10);
    if segment < least {
        return conflict(format!(
            "a log segment of {segment} bytes cannot hold the largest request and frame ({least} bytes): raise \
             wal.segment_bytes or wal.quota_bytes, or lower limits.message_bytes or wal.frame_bytes"
        ));
    }
    if share / segment < SEGMENTS_MIN {
        return conflict(format!(
            "wal.quota_bytes gives each of {shards} shards {share} bytes, less than {SEGMENTS_MIN} segments of {segment}: \
             raise it, or lower wal.segment_bytes"
        ));
    }
    Ok(WalConfig {
        segment_bytes: segment,
        quota_bytes: share / segment * segment,
        frame_bytes: settings.wal_frame_bytes as usize,
        segments_ahead: settings.wal_segments_ahead,
        archive: settings.upkeep.archive,
    })
}

/// A shard's share of the row buffer. A stream may freeze at more than the memory holds: rows past it are in the log alone.
fn buffer_share(loaded: &Loaded, shards: u64) -> Result<BufferConfig, ConfigError> {
    let settings = &loaded.settings;
    let memory = settings.buffer_memory_bytes / shards;
    Ok(BufferConfig {
        memory_bytes: memory as usize,
        freeze_bytes: settings.buffer_freeze_bytes as usize,
        freeze_age: settings.buffer_flush_interval,
    })
}

fn authentication(settings: &Settings) -> Result<AuthMode, ConfigError> {
    let open = [settings.bind_address, settings.grpc_address].into_iter().find(|a| !a.ip().is_loopback());
    match (settings.auth_mode, open) {
        (AuthChoice::Keys, _) | (AuthChoice::Auto, Some(_)) => Ok(AuthMode::Keys),
        (AuthChoice::Off, Some(address)) if !settings.allow_open => conflict(format!(
            "auth.mode = off would let anyone in who can reach {address}: bind to 127.0.0.1, set auth.mode = keys, or \
             say --allow-open"
        )),
        (AuthChoice::Off | AuthChoice::Auto, _) => Ok(AuthMode::Off),
    }
}

fn tls_files(settings: &Settings) -> Result<Option<TlsFiles>, ConfigError> {
    let clients = match (&settings.tls_client_ca_path, settings.tls_client_auth) {
        (None, None) | (_, Some(ClientAuth::None)) => None,
        (None, Some(_)) => {
            return conflict(
                "tls.client_auth asks for client certificates, but no CA says which ones are valid: set \
                 tls.client_ca_path, or tls.client_auth = none"
                    .into(),
            );
        }
        (Some(ca), asked) => Some((ca.clone(), asked != Some(ClientAuth::Optional))),
    };
    match (&settings.tls_cert_path, &settings.tls_key_path) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert: cert.clone(), key: key.clone(), clients })),
        (None, None) if settings.tls_client_ca_path.is_none() => Ok(None),
        (None, None) => conflict(
            "tls.client_ca_path is set, but without a certificate of its own the server has no TLS: set tls.cert_path and \
             tls.key_path too"
                .into(),
        ),
        (Some(_), None) => conflict("tls.cert_path is set without tls.key_path: set both or neither".into()),
        (None, Some(_)) => conflict("tls.key_path is set without tls.cert_path: set both or neither".into()),
    }
}

fn postgres(loaded: &Loaded) -> Result<Option<PgOptions>, ConfigError> {
    let settings = &loaded.settings;
    if settings.pg_host.is_empty() {
        return match set_without(loaded, "pg.", "pg.host") {
            None => Ok(None),
            Some(key) => conflict(format!(
                "{key} is set without pg.host, so the catalog would be in SQLite: set pg.host, or unset {key}"
            )),
        };
    }
    if settings.pg_tls == PgTls::Require && settings.pg_ca_path.is_none() {
        return conflict(
            "pg.tls = require needs the certificates that vouch for the server's: set pg.ca_path, or pg.tls = prefer"
                .into(),
        );
    }
    let password = match (&settings.pg_password_path, settings.pg_password.reveal().is_empty()) {
        (None, _) => PgPassword::Text(settings.pg_password.clone()),
        (Some(path), true) => PgPassword::File(path.clone()),
        (Some(_), false) => {
            return conflict("pg.password and pg.password_path are set: set the one or the other".into());
        }
    };
    Ok(Some(PgOptions {
        host: settings.pg_host.clone(),
        port: settings.pg_port,
        database: settings.pg_database.clone(),
        user: settings.pg_user.clone(),
        password,
        tls: settings.pg_tls,
        ca_path: settings.pg_ca_path.clone(),
        pool_size: settings.pg_pool_size,
        statement_timeout: settings.pg_statement_timeout,
        connect_timeout: settings.pg_connect_timeout,
    }))
}

/// A key of the part `prefix` that is set; `leading`, which is not, says whether the part is used at all.
fn set_without(loaded: &Loaded, prefix: &str, leading: &str) -> Option<&'static str> {
    let mut keys = super::SETTINGS.iter().map(|setting| setting.key).filter(|key| key.starts_with(prefix));
    keys.find(|&key| key != leading && loaded.is_set(key))
}

fn otlp(loaded: &Loaded) -> Result<Option<OtlpOptions>, ConfigError> {
    let settings = &loaded.settings.otlp;
    if settings.endpoint.is_empty() {
        return match set_without(loaded, "otlp.", "otlp.endpoint") {
            None => Ok(None),
            Some(key) => conflict(format!(
                "{key} is set without otlp.endpoint, so nothing would be traced: set otlp.endpoint, or unset {key}"
            )),
        };
    }
    if settings.ca_path.is_some() && !settings.endpoint.starts_with("https:") {
        return conflict(
            "otlp.ca_path is set, but otlp.endpoint is not encrypted: make it https://, or unset otlp.ca_path".into(),
        );
    }
    Ok(Some(OtlpOptions {
        endpoint: settings.endpoint.clone(),
        headers: parse::headers(settings.headers.reveal()).expect("it was parsed before"),
        ca_path: settings.ca_path.clone(),
        timeout: settings.timeout,
        sampling: Sampling { ratio: settings.sample_ratio, per_second: settings.max_traced_per_second },
        service_name: settings.service_name.clone(),
    }))
}

fn s3(loaded: &Loaded) -> Result<Option<S3Options>, ConfigError> {
    let settings = &loaded.settings;
    if settings.s3.endpoint.is_empty() {
        return match set_without(loaded, "s3.", "s3.endpoint") {
            None => Ok(None),
            Some(key) => conflict(format!(
                "{key} is set without s3.endpoint, so files would lie under data_dir: set s3.endpoint, or unset {key}"
            )),
        };
    }
    let (access, secret) = (&settings.s3.access_key, &settings.s3.secret_key);
    let credentials = match (&settings.s3.credentials_path, access.is_empty(), secret.reveal().is_empty()) {
        (Some(path), true, true) => S3Credentials::File(path.clone()),
        (None, false, false) => S3Credentials::Keys { access_key: access.clone(), secret_key: secret.clone() },
        (Some(_), ..) => return conflict("s3.credentials_path and keys are set: set the one or the other".into()),
        (None, ..) => {
            return conflict(
                "s3.endpoint is set without credentials: set s3.access_key and s3.secret_key, or s3.credentials_path"
                    .into(),
            );
        }
    };
    if settings.s3.ca_path.is_some() && !settings.s3.endpoint.starts_with("https:") {
        return conflict(
            "s3.ca_path is set, but s3.endpoint is not encrypted: make it https://, or unset s3.ca_path".into(),
        );
    }
    Ok(Some(S3Options {
        endpoint: settings.s3.endpoint.clone(),
        bucket: settings.s3.bucket.clone(),
        region: settings.s3.region.clone(),
        credentials,
        prefix: settings.s3.prefix.clone(),
        path_style: settings.s3.path_style,
        ca_path: settings.s3.ca_path.clone(),
        timeout: settings.s3.timeout,
        multipart_bytes: settings.s3.multipart_bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn resolve(flags: &[(&str, &str)], usable: &[usize]) -> Result<Config, ConfigError> {
        let flags = flags.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        Config::resolve(load(&Sources { flags, ..Sources::default() })?, usable)
    }

    fn shard_cores(config: &Config) -> Vec<usize> {
        config.engine.shard_cores.iter().flatten().copied().collect()
    }

    #[test]
    fn the_first_core_is_control_and_each_other_a_shard() {
        let config = resolve(&[], &[0, 1, 2, 3]).expect("valid");
        assert_eq!((config.control_cores.clone(), shard_cores(&config)), (vec![0], vec![1, 2, 3]));
        let config = resolve(&[], &[5]).expect("valid");
        assert_eq!((config.control_cores.clone(), shard_cores(&config)), (vec![5], vec![5]));
        let config = resolve(&[("shards.cores", "0")], &[0, 1]).expect("valid");
        assert_eq!((config.control_cores.clone(), shard_cores(&config)), (vec![1], vec![0]));
        let config = resolve(&[("shards.count", "3")], &[0, 1, 2]).expect("valid");
        assert_eq!(shard_cores(&config), [1, 2, 1]);
    }

    #[test]
    fn cores_outside_the_cpuset_twice_or_at_odds_are_refused() {
        for flags in [
            &[("shards.cores", "7")][..],
            &[("control.cores", "7")],
            &[("shards.cores", "1,1")],
            &[("shards.cores", "1"), ("shards.count", "2")],
            &[("shards.pin", "clicks=1")],
        ] {
            assert!(matches!(resolve(flags, &[0, 1]), Err(ConfigError::Conflict(_))), "{flags:?}");
        }
    }

    #[test]
    fn totals_are_split_and_defaults_shrink_to_fit() {
        let config =
            resolve(&[("wal.quota_bytes", "512MiB"), ("buffer.memory_bytes", "64MiB")], &[0, 1, 2]).expect("valid");
        assert_eq!(config.engine.wal.segment_bytes, 32 << 20);
        assert_eq!(config.engine.wal.quota_bytes, 256 << 20);
        assert_eq!(config.engine.buffer.memory_bytes, 32 << 20);
        for flags in [
            &[("wal.quota_bytes", "16MiB")][..],
            &[("wal.quota_bytes", "256MiB"), ("wal.segment_bytes", "128MiB")],
            &[("wal.segment_bytes", "100000000")],
            &[("limits.record_bytes", "8MiB")],
        ] {
            assert!(matches!(resolve(flags, &[0, 1]), Err(ConfigError::Conflict(_))), "{flags:?}");
        }
    }

    #[test]
    fn the_catalog_is_in_postgres_only_where_a_host_is_set() {
        let postgres = |flags: &[(&str, &str)]| resolve(flags, &[0]).map(|config| config.postgres);
        assert!(postgres(&[]).expect("valid").is_none());
        let options = postgres(&[("pg.host", "db"), ("pg.password", "x")]).expect("valid").expect("Postgres");
        assert_eq!((options.host.as_str(), options.port, options.tls), ("db", 5432, PgTls::Prefer));
        assert!(matches!(options.password, PgPassword::Text(text) if text.reveal() == "x"));
        let file = [("pg.host", "db"), ("pg.password_path", "/run/pg")];
        let options = postgres(&file).expect("valid").expect("Postgres");
        assert!(matches!(options.password, PgPassword::File(path) if path.as_os_str() == "/run/pg"));
        let both = postgres(&[&file[..], &[("pg.password", "s3cret")]].concat()).expect_err("one of them").to_string();
        assert!(both.contains("pg.password_path") && !both.contains("s3cret"), "{both}");
        assert!(matches!(postgres(&[("pg.password_path", "/run/pg")]), Err(ConfigError::Conflict(_))));
        assert!(matches!(postgres(&[("pg.user", "u")]), Err(ConfigError::Conflict(_))));
        assert!(matches!(postgres(&[("pg.host", "db"), ("pg.tls", "require")]), Err(ConfigError::Conflict(_))));
    }

    #[test]
    fn objects_are_in_s3_only_where_an_endpoint_is_set() {
        let s3 = |flags: &[(&str, &str)]| resolve(flags, &[0]).map(|config| config.s3);
        assert!(s3(&[]).expect("valid").is_none());
        let endpoint = ("s3.endpoint", "http://store:9000");
        let keys = [endpoint, ("s3.access_key", "a"), ("s3.secret_key", "s3cret")];
        let options = s3(&keys).expect("valid").expect("S3");
        assert_eq!((options.bucket.as_str(), options.path_style), ("ttdust-data", true));
        assert!(!format!("{options:?}").contains("s3cret"));
        let file = ("s3.credentials_path", "/run/s3");
        assert!(matches!(s3(&[endpoint, file]).expect("valid").expect("S3").credentials, S3Credentials::File(_)));
        let with = |more: &[(&'static str, &'static str)]| [&keys[..], more].concat();
        for flags in [&[endpoint][..], &keys[..2], &[file], &with(&[file]), &with(&[("s3.ca_path", "ca.pem")])] {
            assert!(matches!(s3(flags), Err(ConfigError::Conflict(_))), "{flags:?}");
        }
        for bad in ["store:9000", "ftp://store", "http://u:p@store", "http://store/?a=b", "https://"] {
            assert!(matches!(s3(&[("s3.endpoint", bad)]), Err(ConfigError::Value { .. })), "{bad}");
        }
        for (key, bad) in [("s3.bucket", "No"), ("s3.bucket", "a/b"), ("s3.prefix", "a//b"), ("s3.prefix", "/a")] {
            assert!(matches!(s3(&with(&[(key, bad)])), Err(ConfigError::Value { .. })), "{bad}");
        }
        let options = s3(&with(&[("s3.prefix", "a/b/")])).expect("valid").expect("S3");
        assert_eq!(options.prefix, "a/b");
    }

    #[test]
    fn rows_may_freeze_at_more_than_the_memory_holds() {
        let flags = [("buffer.memory_bytes", "8MiB"), ("buffer.freeze_bytes", "1GiB")];
        let buffer = resolve(&flags, &[0, 1]).expect("valid").engine.buffer;
        assert_eq!((buffer.memory_bytes, buffer.freeze_bytes), (8 << 20, 1 << 30));
    }

    #[test]
    fn authentication_is_off_only_on_loopback_or_by_demand() {
        let loopback = [("bind_address", "127.0.0.1:0"), ("grpc_address", "[::1]:0")];
        let auth = |flags: &[(&str, &str)]| resolve(flags, &[0]).map(|config| config.auth);
        assert_eq!(auth(&loopback), Ok(AuthMode::Off));
        assert_eq!(auth(&[]), Ok(AuthMode::Keys));
        assert_eq!(auth(&loopback[..1]), Ok(AuthMode::Keys));
        assert!(auth(&[("auth.mode", "off")]).is_err());
        assert_eq!(auth(&[("auth.mode", "off"), ("allow_open", "true")]), Ok(AuthMode::Off));
        assert_eq!(auth(&[loopback[0], loopback[1], ("auth.mode", "keys")]), Ok(AuthMode::Keys));
    }

    #[test]
    fn tls_is_whole_or_not_there() {
        let tls = |flags: &[(&str, &str)]| resolve(flags, &[0]).map(|config| config.tls);
        let own = [("tls.cert_path", "c.pem"), ("tls.key_path", "k.pem")];
        let files = |clients| Some(TlsFiles { cert: "c.pem".into(), key: "k.pem".into(), clients });
        assert_eq!(tls(&[]), Ok(None));
        assert_eq!(tls(&own), Ok(files(None)));
        let with = |more: &[(&'static str, &'static str)]| [&own[..], more].concat();
        let ca = ("tls.client_ca_path", "ca.pem");
        assert_eq!(tls(&with(&[ca])), Ok(files(Some(("ca.pem".into(), true)))));
        assert_eq!(tls(&with(&[ca, ("tls.client_auth", "optional")])), Ok(files(Some(("ca.pem".into(), false)))));
        assert_eq!(tls(&with(&[ca, ("tls.client_auth", "none")])), Ok(files(None)));
        for flags in [&own[..1], &own[1..], &[ca], &with(&[("tls.client_auth", "required")])] {
            assert!(matches!(tls(flags), Err(ConfigError::Conflict(_))), "{flags:?}");
        }
        assert!(matches!(tls(&[("tls.client_auth", "perhaps")]), Err(ConfigError::Value { .. })));
    }
}
