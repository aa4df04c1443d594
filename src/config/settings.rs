//! The table of all settings.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ttdust_shards::{access::Role, config::IoChoice};

use super::{
    parse,
    secrets::{self, RedisUrl},
};

/// Before an address is read.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What was asked of authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthChoice {
    /// Off where both addresses are loopback ones, keys otherwise.
    Auto,
    /// Off.
    Off,
    /// API keys.
    Keys,
}

/// What is asked of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nothing: none is asked for.
    None,
    /// One that is shown must be valid.
    Optional,
    /// A valid one must be shown.
    Required,
}

/// Whether connections to Postgres are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgTls {
    /// Never.
    Disable,
    /// If the server can; without `pg.ca_path`, to a server of any certificate.
    Prefer,
    /// Always, and only to a server whose certificate `pg.ca_path` vouches for.
    Require,
}

/// What a start does when the log holds records of a stream that the catalog does not know and that was not deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownStreamsPolicy {
    /// It is refused: the catalog may be the wrong one.
    Refuse,
    /// The records are given up.
    Discard,
}

/// A text that no output may show.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub(super) String);

impl Secret {
    /// A text that is not to be shown.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever has to hand it on.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A stream that is kept on a shard of choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The stream's name or id.
    pub stream: String,
    /// The shard.
    pub shard: u16,
}

/// Who holds a client certificate of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateHolder {
    /// The subject alternative name.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The streams of a writer or reader: ids, names or patterns of names.
    pub streams: Vec<String>,
}

/// What imports may read: all that lies under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportRoot {
    /// A directory.
    Directory(PathBuf),
    /// Objects of a bucket whose keys begin so.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What the keys begin with; empty, or ending with a slash.
        prefix: String,
    },
}

/// Every setting, parsed but not yet checked against the others.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // Each field is the row of the table with its name.
pub struct Settings {
    pub bind_address: SocketAddr,
    pub grpc_address: SocketAddr,
    pub data_dir: PathBuf,
    pub shutdown_timeout: Duration,
    pub allow_open: bool,
    pub log_level: String,
    pub log_format: LogFormat,
    pub auth_mode: AuthChoice,
    pub auth_certificates: Vec<CertificateHolder>,
    pub jwt_public_key_path: Option<PathBuf>,
    pub jwt_jwks_path: Option<PathBuf>,
    pub jwt_issuer: String,
    pub jwt_audience: String,
    pub tls_cert_path: Option<PathBuf>,
    pub tls_key_path: Option<PathBuf>,
    pub tls_client_ca_path: Option<PathBuf>,
    pub tls_client_auth: Option<ClientAuth>,
    pub control_cores: Vec<usize>,
    pub shard_cores: Vec<usize>,
    pub shard_count: u16,
    pub shard_io: IoChoice,
    pub pins: Vec<Pin>,
    pub wal_directory: Option<PathBuf>,
    pub wal_segment_bytes: u64,
    pub wal_quota_bytes: u64,
    pub wal_frame_bytes: u64,
    pub wal_unknown_streams: UnknownStreamsPolicy,
    pub wal_segments_ahead: usize,
    pub buffer_memory_bytes: u64,
    pub buffer_freeze_bytes: u64,
    pub buffer_flush_interval: Duration,
    pub tail_memory_bytes: u64,
    pub dedup_keys_max: u64,
    pub dedup_window: Duration,
    pub limit_message_bytes: u64,
    pub limit_record_bytes: u64,
    pub limit_records_per_request: usize,
    pub limit_key_bytes: u64,
    pub limit_metadata_bytes: u64,
    pub limit_connections: usize,
    pub limit_connections_per_address: usize,
    pub limit_tails: usize,
    pub limit_requests_in_flight: usize,
    pub limit_http_body_bytes: u64,
    pub limit_http_connections: usize,
    pub limit_http_connections_per_address: usize,
    pub query_workers: usize,
    pub query_queue: usize,
    pub query_timeout: Duration,
    pub query_cache_bytes: u64,
    pub import_roots: Vec<ImportRoot>,
    pub import_jobs: usize,
    pub query_shared_cache: Duration,
    pub query_memory_bytes: u64,
    pub query_memory_total_bytes: u64,
    pub s3: S3Settings,
    pub upkeep: UpkeepSettings,
    pub pg_host: String,
    pub pg_port: u16,
    pub pg_database: String,
    pub pg_user: String,
    pub pg_password: Secret,
    pub pg_password_path: Option<PathBuf>,
    pub pg_tls: PgTls,
    pub pg_ca_path: Option<PathBuf>,
    pub pg_pool_size: usize,
    pub pg_statement_timeout: Duration,
    pub pg_connect_timeout: Duration,
    pub rate_ingest_records: u64,
    pub rate_ingest_bytes: u64,
    pub rate_queries: u64,
    pub rate_admin: u64,
    pub rate_auth_failures: u64,
    pub redis_url: Option<RedisUrl>,
    pub redis_timeout: Duration,
    pub otlp: OtlpSettings,
}

/// Where traces go, and of what.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // As above.
pub struct OtlpSettings {
    pub endpoint: String,
    pub headers: Secret,
    pub ca_path: Option<PathBuf>,
    pub timeout: Duration,
    pub sample_ratio: f64,
    pub max_traced_per_second: u32,
    pub service_name: String,
}

/// Where objects lie, if not in a local directory.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // As above.
pub struct S3Settings {
    pub endpoint: String,
    pub bucket: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: Secret,
    pub credentials_path: Option<PathBuf>,
    pub prefix: String,
    pub path_style: bool,
    pub ca_path: Option<PathBuf>,
    pub timeout: Duration,
    pub multipart_bytes: u64,
}

/// How the files and the log are looked after.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // As above.
pub struct UpkeepSettings {
    pub interval: Duration,
    pub compaction_enabled: bool,
    pub compaction_target_bytes: u64,
    pub compaction_files_min: usize,
    pub compaction_age_min: Duration,
    pub compaction_grace: Duration,
    pub retention_interval: Duration,
    pub orphans_interval: Duration,
    pub orphans_grace: Duration,
    pub archive: bool,
    pub archive_node: String,
    pub archive_kept: Duration,
}

impl Settings {
    /// Values that [`super::load`] overwrites one and all: the table has a default for each.
    pub(super) fn blank() -> Self {
        Self {
            bind_address: NOWHERE,
            grpc_address: NOWHERE,
            data_dir: PathBuf::new(),
            shutdown_timeout: Duration::ZERO,
            allow_open: false,
            log_level: String::new(),
            log_format: LogFormat::Json,
            auth_mode: AuthChoice::Auto,
            auth_certificates: Vec::new(),
            jwt_public_key_path: None,
            jwt_jwks_path: None,
            jwt_issuer: String::new(),
            jwt_audience: String::new(),
            tls_cert_path: None,
            tls_key_path: None,
            tls_client_ca_path: None,
            tls_client_auth: None,
            control_cores: Vec::new(),
            shard_cores: Vec::new(),
            shard_count: 0,
            shard_io: IoChoice::Auto,
            pins: Vec::new(),
            wal_directory: None,
            wal_segment_bytes: 0,
            wal_quota_bytes: 0,
            wal_frame_bytes: 0,
            wal_unknown_streams: UnknownStreamsPolicy::Refuse,
            wal_segments_ahead: 0,
            buffer_memory_bytes: 0,
            buffer_freeze_bytes: 0,
            buffer_flush_interval: Duration::ZERO,
            tail_memory_bytes: 0,
            dedup_keys_max: 0,
            dedup_window: Duration::ZERO,
            limit_message_bytes: 0,
            limit_record_bytes: 0,
            limit_records_per_request: 0,
            limit_key_bytes: 0,
            limit_metadata_bytes: 0,
            limit_connections: 0,
            limit_connections_per_address: 0,
            limit_tails: 0,
            limit_requests_in_flight: 0,
            limit_http_body_bytes: 0,
            limit_http_connections: 0,
            limit_http_connections_per_address: 0,
            query_workers: 0,
            query_queue: 0,
            query_timeout: Duration::ZERO,
            query_cache_bytes: 0,
            import_roots: Vec::new(),
            import_jobs: 0,
            query_shared_cache: Duration::ZERO,
            query_memory_bytes: 0,
            query_memory_total_bytes: 0,
            s3: S3Settings::default(),
            upkeep: UpkeepSettings::default(),
            pg_host: String::new(),
            pg_port: 0,
            pg_database: String::new(),
            pg_user: String::new(),
            pg_password: Secret::default(),
            pg_password_path: None,
            pg_tls: PgTls::Disable,
            pg_ca_path: None,
            pg_pool_size: 0,
            pg_statement_timeout: Duration::ZERO,
            pg_connect_timeout: Duration::ZERO,
            rate_ingest_records: 0,
            rate_ingest_bytes: 0,
            rate_queries: 0,
            rate_admin: 0,
            rate_auth_failures: 0,
            redis_url: None,
            redis_timeout: Duration::ZERO,
            otlp: OtlpSettings::default(),
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Its dotted key in the file.
    pub key: &'static str,
    /// The text that its default is written as; empty: none, or worked out at start.
    pub default: &'static str,
    /// What it means, in one line.
    pub meaning: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    pub(super) set: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Setting {
    /// Its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        variable_of(self.key)
    }

    /// A value of it as it may be shown: of a secret only whether there is one, of a URL all but the password.
    #[must_use]
    pub fn shown(&self, value: &str) -> String {
        match self.key {
            _ if self.secret && !value.is_empty() => secrets::HIDDEN.to_owned(),
            "redis.url" => secrets::without_password(value),
            _ => value.to_owned(),
        }
    }
}

pub(super) fn variable_of(key: &str) -> String {
    format!("TTDUST_{}", key.replace('.', "_").to_uppercase())
}

fn put<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a 64-bit target")
}

macro_rules! setting {
    ($key:literal, $default:literal, $($field:ident).+, $text:ident => $parse:expr, $meaning:literal) => {
        setting!($key, $default, $($field).+, $text => $parse, $meaning, secret: false)
    };
    ($key:literal, $default:literal, $($field:ident).+, $text:ident => $parse:expr, $meaning:literal, secret: $secret:literal) => {
        Setting { key: $key, default: $default, meaning: $meaning, secret: $secret, set: |s, $text| put(&mut s.$($field).+, $parse) }
    };
}

const IO: &[(&str, IoChoice)] = &[("auto", IoChoice::Auto), ("uring", IoChoice::Uring), ("epoll", IoChoice::Epoll)];
const AUTH: &[(&str, AuthChoice)] = &[("auto", AuthChoice::Auto), ("off", AuthChoice::Off), ("keys", AuthChoice::Keys)];
const CLIENT_AUTH: &[(&str, Option<ClientAuth>)] = &[
    ("", None),
    ("none", Some(ClientAuth::None)),
    ("optional", Some(ClientAuth::Optional)),
    ("required", Some(ClientAuth::Required)),
];
const FORMATS: &[(&str, LogFormat)] = &[("json", LogFormat::Json), ("text", LogFormat::Text)];
const PG_TLS: &[(&str, PgTls)] = &[("disable", PgTls::Disable), ("prefer", PgTls::Prefer), ("require", PgTls::Require)];
const UNKNOWN_STREAMS: &[(&str, UnknownStreamsPolicy)] =
    &[("refuse", UnknownStreamsPolicy::Refuse), ("discard", UnknownStreamsPolicy::Discard)];
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// Milliseconds.
const DAY: u64 = 86_400_000;
/// Counts of a window stay far below what a script of Redis counts exactly (2^53).
const RATE_MAX: u64 = 1_000_000_000_000;

/// The settings that a running server takes over by SIGHUP or PATCH /api/v1/config.
pub const RELOADABLE: &[&str] = &[
    "log.level",
    "auth.certificates",
    "jwt.public_key_path",
    "jwt.jwks_path",
    "jwt.issuer",
    "jwt.audience",
    "rate.ingest_records_per_second",
    "rate.ingest_bytes_per_second",
    "rate.queries_per_second",
    "rate.admin_per_second",
    "rate.auth_failures_per_minute",
];

/// All settings, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    setting!("bind_address", "0.0.0.0:8080", bind_address, t => parse::address(t), "where REST listens"),
    setting!("grpc_address", "0.0.0.0:50051", grpc_address, t => parse::address(t), "where gRPC listens, on every shard"),
    setting!("data_dir", "./ttdust-data", data_dir, t => parse::path(t), "holds the log, the catalog and the objects"),
    setting!("shutdown_timeout", "30", shutdown_timeout, t => parse::seconds(t), "seconds that a clean stop may take"),
    setting!("allow_open", "false", allow_open, t => parse::flag(t), "allow authentication off on an address that is no loopback one"),
    setting!("log.level", "info", log_level, t => level(t), "error, warn, info, debug, trace, or a filter such as `info,shards::wal=debug`, by the components that lines name"),
    setting!("log.format", "json", log_format, t => parse::choice(t, FORMATS), "json or text"),
    setting!("auth.mode", "auto", auth_mode, t => parse::choice(t, AUTH), "off, keys, or auto: off if both addresses are loopback ones"),
    setting!("auth.certificates", "", auth_certificates, t => parse::certificates(t), "who holds a client certificate: name=role, or name=role:stream+stream for a writer or reader, separated by commas; a name with a colon is a URI, one with an @ an e-mail address, any other a DNS name"),
    setting!("jwt.public_key_path", "", jwt_public_key_path, t => parse::path_or_none(t), "an RSA public key (PEM) that tokens of the admin plane are signed by; re-read on SIGHUP"),
    setting!("jwt.jwks_path", "", jwt_jwks_path, t => parse::path_or_none(t), "a JSON Web Key Set with such keys, for rotation; re-read on SIGHUP"),
    setting!("jwt.issuer", "", jwt_issuer, t => Ok(t.to_owned()), "what a token's `iss` must be"),
    setting!("jwt.audience", "ttdust", jwt_audience, t => Ok(t.to_owned()), "what a token's `aud` must be or hold"),
    setting!("tls.cert_path", "", tls_cert_path, t => parse::path_or_none(t), "PEM file of the server's certificate and its chain, its own first: TLS on both ports, with tls.key_path; read again on SIGHUP"),
    setting!("tls.key_path", "", tls_key_path, t => parse::path_or_none(t), "PEM file of the certificate's private key; read again on SIGHUP"),
    setting!("tls.client_ca_path", "", tls_client_ca_path, t => parse::path_or_none(t), "PEM file of the CAs whose client certificates are taken: mutual TLS, by TLS 1.3 alone; read again on SIGHUP"),
    setting!("tls.client_auth", "", tls_client_auth, t => parse::choice(t, CLIENT_AUTH), "none, optional or required: what is asked of client certificates; default: required with tls.client_ca_path, none without"),
    setting!("control.cores", "", control_cores, t => parse::cores(t), "cores of the control plane; default: the first usable one"),
    setting!("shards.cores", "", shard_cores, t => parse::cores(t), "one shard on each of these cores; default: every usable core that control does not have"),
    setting!("shards.count", "0", shard_count, t => parse::number(t, 0, 256), "how many shards, spread over the usable cores; 0: one a core"),
    setting!("shards.io", "auto", shard_io, t => parse::choice(t, IO), "uring, epoll, or auto: uring where a probe shows that it works"),
    setting!("shards.pin", "", pins, t => parse::pins(t), "streams kept on a shard of choice: [[shards.pin]] in the file, clicks=2,orders=1 elsewhere"),
    setting!("wal.directory", "", wal_directory, t => parse::path_or_none(t), "where the log lies; default: wal under data_dir"),
    setting!("wal.segment_bytes", "128MiB", wal_segment_bytes, t => parse::bytes(t, 64 << 10, 4 * GIB), "one segment file; a multiple of 4096; made smaller to fit the quota if not set"),
    setting!("wal.quota_bytes", "6GiB", wal_quota_bytes, t => parse::bytes(t, 1 << 20, 64 * TIB), "the log of all shards together"),
    setting!("wal.frame_bytes", "1MiB", wal_frame_bytes, t => parse::bytes(t, 16 << 10, 16 << 20), "a group commit is closed at this size"),
    setting!("wal.unknown_streams", "refuse", wal_unknown_streams, t => parse::choice(t, UNKNOWN_STREAMS), "refuse or discard: what a start does when the log holds records of a stream that the catalog does not know and that was not deleted"),
    setting!("wal.segments_ahead", "2", wal_segments_ahead, t => parse::number(t, 1, 10_000), "segments kept prepared on each shard; more than 2 are made at the start and kept by recycling, for bursts"),
    setting!("wal.archive", "false", upkeep.archive, t => parse::flag(t), "copy each full segment to the object store before the log lets go of it"),
    setting!("wal.archive_node", "node", upkeep.archive_node, t => node_name(t), "under which name; nodes that share a store need different ones"),
    setting!("wal.archive_days", "7", upkeep.archive_kept, t => parse::number(t, 1, 3650).map(|days: u64| Duration::from_secs(days * 86_400)), "how long such copies are kept"),
    setting!("buffer.memory_bytes", "128MiB", buffer_memory_bytes, t => parse::bytes(t, 1 << 20, TIB), "rows in memory, of all shards together; older ones are read back from the log, and memory that is used again soon costs less than new memory"),
    setting!("buffer.freeze_bytes", "128MiB", buffer_freeze_bytes, t => parse::bytes(t, 4 << 10, 4 * GIB), "a stream's rows become files at this size"),
    setting!("buffer.flush_interval_ms", "60000", buffer_flush_interval, t => parse::number(t, 10, 86_400_000).map(Duration::from_millis), "a stream's rows become files at this age"),
    setting!("tail.memory_bytes", "128MiB", tail_memory_bytes, t => parse::bytes(t, 1 << 20, TIB), "what may wait for the readers of tails, of all shards together, and as much as a shard's part for those over REST; past it those that take nothing are ended"),
    setting!("dedup.keys_max", "1000000000", dedup_keys_max, t => parse::number(t, 1000, 100_000_000_000), "idempotency keys remembered, of all shards together: 32 bytes of disk and 20 to 100 bits of memory each; at this number records with keys are refused"),
    setting!("dedup.window_hours", "24", dedup_window, t => parse::number(t, 1, 720).map(|h: u64| Duration::from_secs(h * 3600)), "how long an idempotency key is remembered at least; time while the server is down does not count"),
    setting!("limits.message_bytes", "4MiB", limit_message_bytes, t => parse::bytes(t, 1 << 10, 8 << 20), "one gRPC message, after decompression"),
    setting!("limits.record_bytes", "1MiB", limit_record_bytes, t => parse::bytes(t, 1 << 10, 8 << 20), "one record"),
    setting!("limits.records_per_request", "10000", limit_records_per_request, t => parse::number(t, 1, 500_000), "records in one Append request"),
    setting!("limits.key_bytes", "256", limit_key_bytes, t => parse::bytes(t, 16, 4096), "one idempotency key"),
    setting!("limits.metadata_bytes", "8KiB", limit_metadata_bytes, t => parse::bytes(t, 0, 1 << 20), "metadata of one request"),
    setting!("limits.connections", "4096", limit_connections, t => parse::number(t, 1, 1_000_000), "open gRPC connections a shard"),
    setting!("limits.grpc_connections_per_address", "1024", limit_connections_per_address, t => parse::number(t, 1, 1_000_000), "open gRPC connections a shard of one address (IPv6: of one /64); more for a proxy that many come through"),
    setting!("limits.tails", "4096", limit_tails, t => parse::number(t, 0, 1_000_000), "tails that are read at a time, a shard and over REST"),
    setting!("limits.requests_in_flight", "1024", limit_requests_in_flight, t => parse::number(t, 1, 1_000_000), "unanswered requests a call"),
    setting!("limits.http_body_bytes", "2MiB", limit_http_body_bytes, t => parse::bytes(t, 1 << 10, 64 << 20), "one REST request body"),
    setting!("limits.http_connections", "1024", limit_http_connections, t => parse::number(t, 1, 100_000), "open REST connections"),
    setting!("limits.http_connections_per_address", "256", limit_http_connections_per_address, t => parse::number(t, 1, 100_000), "open REST connections of one address (IPv6: of one /64); more for a proxy that many come through"),
    setting!("query.workers", "2", query_workers, t => parse::number(t, 1, 256), "threads that run queries and compile schemas, on the control cores"),
    setting!("query.queue", "64", query_queue, t => parse::number(t, 1, 65_536), "queries that wait for a worker before more are refused"),
    setting!("query.timeout_ms", "10000", query_timeout, t => parse::number(t, 1, 3_600_000).map(Duration::from_millis), "a query that takes longer fails"),
    setting!("query.cache_bytes", "128MiB", query_cache_bytes, t => parse::bytes(t, 0, 1 << 40), "memory for parts of files that queries read: footers, key indexes, and pages of objects elsewhere"),
    setting!("import.roots", "", import_roots, t => parse::import_roots(t), "what imports may read, separated by commas: directories (/data/in) and parts of buckets (s3://bucket/prefix/); nothing: imports are off"),
    setting!("import.jobs", "1", import_jobs, t => parse::number(t, 1, 16), "imports that run at a time, each on a thread of low priority on the control cores"),
    setting!("query.shared_cache_seconds", "3600", query_shared_cache, t => parse::number(t, 0, 2_592_000).map(Duration::from_secs), "how long parts of files that lie in S3 are kept in the Redis of redis.url too; 0: not at all"),
    setting!("query.memory_bytes", "96MiB", query_memory_bytes, t => parse::bytes(t, 1 << 20, TIB), "what one query may hold at a time, of rows that it decodes and of its answer; an answer that comes to it ends early, and its cursor goes on"),
    setting!("query.memory_total_bytes", "256MiB", query_memory_total_bytes, t => parse::bytes(t, 1 << 20, TIB), "what all queries may hold, with answers that are being sent; past it more are refused"),
    setting!("upkeep.interval_ms", "30000", upkeep.interval, t => milliseconds(t, 10, DAY), "between looks at what there is to merge, to remove and to write manifests of"),
    setting!("compaction.enabled", "true", upkeep.compaction_enabled, t => parse::flag(t), "whether small files become larger ones"),
    setting!("compaction.target_bytes", "128MiB", upkeep.compaction_target_bytes, t => parse::bytes(t, 64 << 10, GIB), "how large a merged file is to be, about; files of half as much are left as they are"),
    setting!("compaction.min_files", "8", upkeep.compaction_files_min, t => parse::number(t, 2, 256), "how many files make a merge in an hour that goes on; when it is over, two do"),
    setting!("compaction.min_age_ms", "120000", upkeep.compaction_age_min, t => milliseconds(t, 0, DAY), "how old a file's newest row must be before it is merged"),
    setting!("compaction.grace_ms", "900000", upkeep.compaction_grace, t => milliseconds(t, 0, 30 * DAY), "how long the object of a file that was merged or is past its retention stays: more than the longest query and tail"),
    setting!("retention.interval_ms", "300000", upkeep.retention_interval, t => milliseconds(t, 10, DAY), "between looks at what is past its retention"),
    setting!("orphans.interval_ms", "21600000", upkeep.orphans_interval, t => milliseconds(t, 10, 30 * DAY), "between looks at all objects for those that no list names"),
    setting!("orphans.grace_ms", "86400000", upkeep.orphans_grace, t => milliseconds(t, 0, 365 * DAY), "how old such an object must be before it is removed: more than the longest flush"),
    setting!("pg.host", "", pg_host, t => Ok(t.to_owned()), "the Postgres (15 or newer) that holds the catalog: a name, an address, or the directory of its socket; not set: SQLite under data_dir"),
    setting!("pg.port", "5432", pg_port, t => parse::number(t, 1, u16::MAX), "its port"),
    setting!("pg.database", "ttdust", pg_database, t => Ok(t.to_owned()), "the database"),
    setting!("pg.user", "ttdust", pg_user, t => Ok(t.to_owned()), "who to log in as"),
    setting!("pg.password", "", pg_password, t => Ok(Secret(t.to_owned())), "with which password; never shown", secret: true),
    setting!("pg.password_path", "", pg_password_path, t => parse::path_or_none(t), "a file with the password instead, one line; read again on SIGHUP"),
    setting!("pg.tls", "prefer", pg_tls, t => parse::choice(t, PG_TLS), "disable, prefer, or require: only to a server whose certificate pg.ca_path vouches for"),
    setting!("pg.ca_path", "", pg_ca_path, t => parse::path_or_none(t), "PEM certificates that vouch for the server's; without it, prefer takes any certificate"),
    setting!("pg.pool_size", "8", pg_pool_size, t => parse::number(t, 1, 1000), "open connections to Postgres at most"),
    setting!("pg.statement_timeout_ms", "10000", pg_statement_timeout, t => parse::number(t, 10, 3_600_000).map(Duration::from_millis), "a catalog call that takes longer fails"),
    setting!("pg.connect_timeout_ms", "3000", pg_connect_timeout, t => parse::number(t, 10, 600_000).map(Duration::from_millis), "a connection that takes longer to open fails"),
    setting!("s3.endpoint", "", s3.endpoint, t => parse::endpoint(t), "http:// or https:// URL of the S3 store that holds the files; not set: a directory under data_dir"),
    setting!("s3.bucket", "ttdust-data", s3.bucket, t => parse::bucket(t), "its bucket, which must exist"),
    setting!("s3.region", "us-east-1", s3.region, t => Ok(t.to_owned()), "its region"),
    setting!("s3.access_key", "", s3.access_key, t => Ok(t.to_owned()), "who to be to the store"),
    setting!("s3.secret_key", "", s3.secret_key, t => Ok(Secret(t.to_owned())), "with which secret key; never shown", secret: true),
    setting!("s3.credentials_path", "", s3.credentials_path, t => parse::path_or_none(t), "a file with both instead: profile [default] of an AWS file, or two lines, access key and secret key; read again on SIGHUP"),
    setting!("s3.prefix", "", s3.prefix, t => parse::s3_prefix(t), "what every key in the bucket begins with, such as `prod/events`"),
    setting!("s3.path_style", "true", s3.path_style, t => parse::flag(t), "the bucket is the path's first part; false: the host's"),
    setting!("s3.ca_path", "", s3.ca_path, t => parse::path_or_none(t), "PEM certificates that vouch for the store's; default: those that the system trusts"),
    setting!("s3.timeout_ms", "5000", s3.timeout, t => parse::number(t, 10, 600_000).map(Duration::from_millis), "one request to the store may take so long, and a second more for each MiB that it carries"),
    setting!("s3.multipart_bytes", "16MiB", s3.multipart_bytes, t => parse::bytes(t, 5 << 20, GIB), "longer files are sent in parts of this size; four parts may be in memory"),
    setting!("rate.ingest_records_per_second", "0", rate_ingest_records, t => parse::number(t, 0, RATE_MAX), "records that a client may send a second; 0: no limit"),
    setting!("rate.ingest_bytes_per_second", "0", rate_ingest_bytes, t => parse::bytes(t, 0, RATE_MAX), "bytes of requests with records that a client may send a second; 0: no limit"),
    setting!("rate.queries_per_second", "0", rate_queries, t => parse::number(t, 0, RATE_MAX), "queries of a client a second, by gRPC and REST; 0: no limit"),
    setting!("rate.admin_per_second", "0", rate_admin, t => parse::number(t, 0, RATE_MAX), "other REST calls and AdminService calls of a client a second; 0: no limit"),
    setting!("rate.auth_failures_per_minute", "60", rate_auth_failures, t => parse::number(t, 0, 10_000), "wrong credentials from one address a minute before no token from there is looked at, and what is wrong is told to wait; good API keys and certificates are let in all the same; 0: no limit"),
    setting!("redis.url", "", redis_url, t => parse::redis_url(t), "redis://[user:password@]host[:port][/database]: the limits of all nodes that share it hold together, and it keeps parts of files that lie in S3; default: each node's own limits"),
    setting!("redis.timeout_ms", "50", redis_timeout, t => parse::number(t, 1, 10_000).map(Duration::from_millis), "a node whose Redis takes longer to answer does without it until it is back; no record waits for it, and no query for longer"),
    setting!("otlp.endpoint", "", otlp.endpoint, t => parse::endpoint(t), "http:// or https:// URL of an OpenTelemetry collector that takes OTLP over HTTP, such as http://127.0.0.1:4318: traces are sent there; also by the variable OTEL_EXPORTER_OTLP_ENDPOINT; not set: nothing is traced"),
    setting!("otlp.headers", "", otlp.headers, t => parse::headers(t).map(|_| Secret(t.to_owned())), "headers for it, name=value separated by commas; never shown", secret: true),
    setting!("otlp.ca_path", "", otlp.ca_path, t => parse::path_or_none(t), "PEM certificates that vouch for the collector's; default: those that the system trusts"),
    setting!("otlp.timeout_ms", "10000", otlp.timeout, t => parse::number(t, 10, 600_000).map(Duration::from_millis), "one request to the collector may take so long"),
    setting!("otlp.sample_ratio", "0.01", otlp.sample_ratio, t => parse::ratio(t), "which part of requests is traced whose callers do not say by traceparent whether they are, from 0 to 1; above 0 flushes, merges and jobs are traced too"),
    setting!("otlp.max_traced_per_second", "100", otlp.max_traced_per_second, t => parse::number(t, 1, 100_000), "requests traced a second at most, on each shard and over REST, whoever asks for it"),
    setting!("otlp.service_name", "ttdust", otlp.service_name, t => service_name(t), "what traces call this server: service.name"),
];

fn service_name(text: &str) -> Result<String, String> {
    match (1..=255).contains(&text.len()) && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("want 1 to 255 bytes of text".to_owned()),
    }
}

fn milliseconds(text: &str, least: u64, most: u64) -> Result<Duration, String> {
    parse::number(text, least, most).map(Duration::from_millis)
}

fn node_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match (1..=63).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("want 1 to 63 small letters, digits and -".to_owned()),
    }
}

fn level(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|e| {
        format!("{e}: want error, warn, info, debug, trace, or a filter by component such as info,shards::wal=debug")
    })
}

impl Settings {
    /// The limits of every client.
    #[must_use]
    pub fn rate_limits(&self) -> ttdust_shards::rate::RateLimits {
        ttdust_shards::rate::RateLimits {
            ingest_records_per_second: self.rate_ingest_records,
            ingest_bytes_per_second: self.rate_ingest_bytes,
            queries_per_second: self.rate_queries,
            admin_per_second: self.rate_admin,
            auth_failures_per_minute: self.rate_auth_failures,
        }
    }

    /// The folder of all shards' logs.
    #[must_use]
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_directory.clone().unwrap_or_else(|| self.data_dir.join("wal"))
    }

    /// The bounds that the shards are told.
    #[must_use]
    pub fn shard_limits(&self) -> ttdust_shards::config::Limits {
        ttdust_shards::config::Limits {
            message_bytes: usize_of(self.limit_message_bytes),
            record_bytes: usize_of(self.limit_record_bytes),
            records_per_request: self.limit_records_per_request,
            key_bytes: usize_of(self.limit_key_bytes),
            metadata_bytes: usize_of(self.limit_metadata_bytes),
            connections: self.limit_connections,
            connections_per_address: self.limit_connections_per_address,
            tails: self.limit_tails,
            requests_in_flight: self.limit_requests_in_flight,
            ..ttdust_shards::config::Limits::default()
        }
    }
}
