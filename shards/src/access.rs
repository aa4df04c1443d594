//! Who calls, and what that caller may do: the one place where a credential is checked, for gRPC and REST alike.
//!
//! What a role may do is one table ([`Role::may`]), default deny. An API key is `ttd_live_<uuid>_<64 hex digits>`: the UUID
//! finds it, 256 random bits prove it, and only the SHA-256 of the whole text is known here. A stream that a caller may not
//! use is told apart from one that is missing nowhere: callers of this module answer both alike.

pub mod failures;

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

use crate::{
    ids::StreamId,
    rate::{Category, RateLimited},
    tls::PeerIdentity,
};
use failures::AuthFailures;

/// What every API key begins with.
pub const KEY_PREFIX: &str = "ttd_live_";
/// How exactly the time of a key's last use is known, in µs.
const USE_RESOLUTION_MICROS: i64 = 1_000_000;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything.
    Admin,
    /// Read all configuration and health; pause, resume and flush streams; replay dead letters.
    Operator,
    /// Schemas and pipelines; read streams.
    SchemaAdmin,
    /// Ingest.
    Writer,
    /// Query.
    Reader,
}

/// What a caller wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ingest records.
    WriteRecords,
    /// Query and tail records.
    ReadRecords,
    /// Register schemas and versions, change and retire them.
    ChangeSchemas,
    /// List schemas.
    ListSchemas,
    /// Read a schema and its versions.
    ReadSchema,
    /// Create and delete streams, change what they are.
    ChangeStreams,
    /// Pause and resume streams.
    PauseStreams,
    /// Have the records of streams written to files now.
    FlushStreams,
    /// Read streams.
    ReadStreams,
    /// Create, change and end pipelines.
    ChangePipelines,
    /// Read pipelines, and try steps.
    ReadPipelines,
    /// Put dead letters back into their streams.
    ReplayDeadLetters,
    /// Create, list and delete keys.
    ManageKeys,
    /// Read the configuration.
    ReadConfig,
    /// Change the configuration of the running server.
    ChangeConfig,
    /// Read the audit log.
    ReadAudit,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Admin, Self::Operator, Self::SchemaAdmin, Self::Writer, Self::Reader];

    /// Its name in the catalog, in tokens and in REST.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::SchemaAdmin => "schema_admin",
            Self::Writer => "writer",
            Self::Reader => "reader",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether the role may do `action`: the whole table.
    #[must_use]
    pub const fn may(self, action: Action) -> bool {
        use Action::{
            ChangePipelines, ChangeSchemas, FlushStreams, ListSchemas, PauseStreams, ReadConfig, ReadPipelines,
            ReadRecords, ReadSchema, ReadStreams, ReplayDeadLetters, WriteRecords,
        };
        match self {
            Self::Admin => true,
            Self::Operator => matches!(
                action,
                ReadConfig
                    | ReadStreams
                    | ReadSchema
                    | ListSchemas
                    | ReadPipelines
                    | PauseStreams
                    | FlushStreams
                    | ReplayDeadLetters
            ),
            Self::SchemaAdmin => matches!(
                action,
                ChangeSchemas | ReadSchema | ListSchemas | ReadStreams | ChangePipelines | ReadPipelines
            ),
            Self::Writer => matches!(action, WriteRecords | ReadSchema | ReadStreams),
            Self::Reader => matches!(action, ReadRecords | ReadSchema | ReadStreams),
        }
    }

    /// Whether the role is confined to the streams that its holder is permitted.
    #[must_use]
    pub const fn is_confined(self) -> bool {
        matches!(self, Self::Writer | Self::Reader)
    }
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 16] = [
        Self::WriteRecords,
        Self::ReadRecords,
        Self::ChangeSchemas,
        Self::ListSchemas,
        Self::ReadSchema,
        Self::ChangeStreams,
        Self::PauseStreams,
        Self::FlushStreams,
        Self::ReadStreams,
        Self::ChangePipelines,
        Self::ReadPipelines,
        Self::ReplayDeadLetters,
        Self::ManageKeys,
        Self::ReadConfig,
        Self::ChangeConfig,
        Self::ReadAudit,
    ];

    /// What it is, for a message: "may not …".
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::WriteRecords => "ingest records",
            Self::ReadRecords => "query records",
            Self::ChangeSchemas => "change schemas",
            Self::ListSchemas => "list schemas",
            Self::ReadSchema => "read schemas",
            Self::ChangeStreams => "change streams",
            Self::PauseStreams => "pause or resume streams",
            Self::FlushStreams => "flush streams",
            Self::ReadStreams => "read streams",
            Self::ChangePipelines => "change pipelines",
            Self::ReadPipelines => "read pipelines",
            Self::ReplayDeadLetters => "replay dead letters",
            Self::ManageKeys => "manage API keys",
            Self::ReadConfig => "read the configuration",
            Self::ChangeConfig => "change the configuration",
            Self::ReadAudit => "read the audit log",
        }
    }
}

/// The streams that a confined caller may use: ids, names, and patterns of names in which `*` stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamPermissions(Arc<[String]>);

impl StreamPermissions {
    /// These and no others.
    #[must_use]
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns.into())
    }

    /// Whether the stream is among them.
    #[must_use]
    pub fn allow(&self, id: StreamId, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name) || pattern.parse() == Ok(id))
    }
}

/// Whether `name` is of `pattern`, in which each `*` stands for any text, none included. Linear in practice: a name is short.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    // Each middle piece is taken where it first occurs, which leaves the most for those behind it.
    while let Some((piece, after)) = rest.split_once('*') {
        let Some(at) = name.find(piece) else { return false };
        name = &name[at + piece.len()..];
        rest = after;
    }
    name.len() >= rest.len() && name.ends_with(rest)
}

/// An API key as it is checked.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// SHA-256 of the whole key text.
    pub sha256: [u8; 32],
    /// What its holder may do.
    pub role: Role,
    /// Where, if the role is confined.
    pub streams: StreamPermissions,
    /// When it ends, Unix µs; `None`: never.
    pub expires_unix_micros: Option<i64>,
    /// When it was last used, Unix µs, to the second; 0: never. Shared by all snapshots that hold the key.
    pub last_used: Arc<AtomicI64>,
}

/// Checks a token (not an API key) against its keys and the clock, and says whose it is.
pub type TokenCheck = dyn Fn(&str) -> Result<Principal, Unauthenticated> + Send + Sync;

/// All that a credential is checked against.
#[derive(Clone, Default)]
pub struct Credentials {
    /// API keys, by the UUID in their text.
    pub keys: HashMap<String, KeyEntry>,
    /// For bearer tokens that are no API keys; `None`: none are taken.
    pub tokens: Option<Arc<TokenCheck>>,
    /// Who holds a client certificate of this name, which is of this kind.
    pub certificates: Arc<HashMap<PeerIdentity, (Role, StreamPermissions)>>,
    /// Who failed lately. Shared by all snapshots.
    pub failures: Arc<AuthFailures>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// Who may call.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Anyone: development on a loopback address.
    #[default]
    Open,
    /// Holders of a credential.
    Checked(Credentials),
}

/// By what a principal is known, and so how it can lose its right while a call goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    Open,
    Key { uuid: String },
    Token { ends_unix_micros: i64, checked: Option<CheckedToken> },
    Certificate(PeerIdentity),
}

/// A token, and what it was found good by: when that changes, it must be found good again.
#[derive(Clone)]
struct CheckedToken {
    text: Arc<str>,
    by: Arc<TokenCheck>,
}

impl fmt::Debug for CheckedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckedToken(..)")
    }
}

impl PartialEq for CheckedToken {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && is_same(&self.by, &other.by)
    }
}

impl Eq for CheckedToken {}

/// Whether the two are one. The address alone tells: both are held, so neither can have taken the place of the other.
fn is_same(one: &Arc<TokenCheck>, other: &Arc<TokenCheck>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

/// A caller that showed who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `key_<uuid>`, `jwt:<subject>`, `cert:<name>`, or `open`: for logs and limits.
    pub id: Arc<str>,
    /// What it may do.
    pub role: Role,
    streams: StreamPermissions,
    proof: Proof,
}

/// No credential, or one that is unknown, wrong, revoked or past its end: all the same to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("send a valid credential: authorization: Bearer <API key or token>, or x-api-key: <API key>")]
pub struct Unauthenticated;

/// Why a caller is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotLetIn {
    /// Its credential is not good.
    #[error(transparent)]
    Unauthenticated(#[from] Unauthenticated),
    /// Too many credentials from its address were not good: this one is not either, or was not looked at.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
}

/// The role does not permit the action, on any stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role {} may not {}", role.name(), action.phrase())]
pub struct Forbidden {
    /// The caller's.
    pub role: Role,
    /// What was tried.
    pub action: Action,
}

impl Principal {
    /// Anyone, where access is open.
    #[must_use]
    pub fn open() -> Self {
        Self { id: "open".into(), role: Role::Admin, streams: StreamPermissions::default(), proof: Proof::Open }
    }

    /// The server itself, for what it does unasked.
    #[must_use]
    pub fn of_the_server() -> Self {
        Self { id: "system".into(), ..Self::open() }
    }

    /// The subject of a token that ends at `ends_unix_micros`.
    #[must_use]
    pub fn of_token(subject: &str, role: Role, streams: StreamPermissions, ends_unix_micros: i64) -> Self {
        Self {
            id: format!("jwt:{subject}").into(),
            role,
            streams,
            proof: Proof::Token { ends_unix_micros, checked: None },
        }
    }

    /// Whether its role permits `action`.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn require(&self, action: Action) -> Result<(), Forbidden> {
        let role = self.role;
        if role.may(action) { Ok(()) } else { Err(Forbidden { role, action }) }
    }

    /// Whether the stream is one that it may use. If not, the stream does not exist as far as it is told.
    #[must_use]
    pub fn sees(&self, id: StreamId, name: &str) -> bool {
        !self.role.is_confined() || self.streams.allow(id, name)
    }
}

impl Access {
    /// Finds out who calls from the address `peer`, by the credential in `headers` or else by the name in a checked client
    /// certificate. Whoever shows nothing is refused, but not counted as one who tries.
    ///
    /// Over the limit of failures of its address, a good API key or certificate is let in all the same: others behind the same
    /// address must not be able to lock its holder out. To look at one costs next to nothing, and nobody guesses 256 random
    /// bits. A token is not looked at then: its signature costs far more than it costs to send one.
    ///
    /// # Errors
    /// [`NotLetIn`]. A wrong credential is not made good by a certificate.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&PeerIdentity>,
        peer: IpAddr,
        now: i64,
    ) -> Result<Principal, NotLetIn> {
        let Self::Checked(credentials) = self else { return Ok(Principal::open()) };
        let shown = presented(headers);
        if matches!(shown, Presented::Nothing) && certificate.is_none() {
            return Err(Unauthenticated.into());
        }
        let over = credentials.failures.over(peer, now).map(|(limit, retry_after)| RateLimited {
            category: Category::AuthFailures,
            limit,
            retry_after,
        });
        match (over, credentials.check(&shown, certificate, now, over.is_some())) {
            (_, Ok(caller)) => Ok(caller),
            (Some(over), Err(_)) => Err(over.into()),
            (None, Err(wrong)) => {
                credentials.failures.count(peer, now);
                Err(wrong.into())
            }
        }
    }

    /// The same caller under this catalog, which may be newer than the one that it showed its credential to.
    ///
    /// # Errors
    /// [`Unauthenticated`]: the credential was revoked or has ended.
    pub fn renew(&self, principal: &Principal, now: i64) -> Result<Principal, Unauthenticated> {
        let Self::Checked(credentials) = self else { return Ok(Principal::open()) };
        match &principal.proof {
            Proof::Open => Err(Unauthenticated),
            Proof::Key { uuid } => {
                let entry = credentials.keys.get(uuid).filter(|entry| entry.lives(now)).ok_or(Unauthenticated)?;
                Ok(Principal { role: entry.role, streams: entry.streams.clone(), ..principal.clone() })
            }
            Proof::Token { ends_unix_micros, checked: Some(checked) } if now < *ends_unix_micros => {
                let tokens = credentials.tokens.as_ref().ok_or(Unauthenticated)?;
                // Other keys, or another issuer: what the old ones vouched for is not good for that.
                if is_same(tokens, &checked.by) { Ok(principal.clone()) } else { credentials.token(&checked.text) }
            }
            Proof::Token { .. } => Err(Unauthenticated),
            Proof::Certificate(name) => credentials.certificate(name),
        }
    }
}

impl KeyEntry {
    fn lives(&self, now: i64) -> bool {
        self.expires_unix_micros.is_none_or(|end| now < end)
    }
}

impl Credentials {
    /// Checks what was shown; with `cheaply`, no token is looked at.
    fn check(
        &self,
        shown: &Presented<'_>,
        certificate: Option<&PeerIdentity>,
        now: i64,
        cheaply: bool,
    ) -> Result<Principal, Unauthenticated> {
        match shown {
            Presented::Text(text) if text.starts_with(KEY_PREFIX) => self.key(text, now),
            Presented::Text(_) if cheaply => Err(Unauthenticated),
            Presented::Text(token) => self.token(token),
            Presented::Nothing => self.certificate(certificate.ok_or(Unauthenticated)?),
            Presented::Unreadable => Err(Unauthenticated),
        }
    }

    fn token(&self, text: &str) -> Result<Principal, Unauthenticated> {
        let by = self.tokens.as_ref().ok_or(Unauthenticated)?;
        let mut caller = by(text)?;
        if let Proof::Token { checked, .. } = &mut caller.proof {
            *checked = Some(CheckedToken { text: text.into(), by: Arc::clone(by) });
        }
        Ok(caller)
    }

    fn key(&self, text: &str, now: i64) -> Result<Principal, Unauthenticated> {
        let uuid = text.strip_prefix(KEY_PREFIX).and_then(|rest| rest.split_once('_')).ok_or(Unauthenticated)?.0;
        let entry = self.keys.get(uuid).ok_or(Unauthenticated)?;
        if !same(&digest(text), &entry.sha256) || !entry.lives(now) {
            return Err(Unauthenticated);
        }
        // Most calls of a busy key only read: its line is not passed between the cores.
        if now - entry.last_used.load(Relaxed) >= USE_RESOLUTION_MICROS {
            entry.last_used.store(now, Relaxed);
        }
        Ok(Principal {
            id: format!("key_{uuid}").into(),
            role: entry.role,
            streams: entry.streams.clone(),
            proof: Proof::Key { uuid: uuid.to_owned() },
        })
    }

    fn certificate(&self, name: &PeerIdentity) -> Result<Principal, Unauthenticated> {
        let (role, streams) = self.certificates.get(name).ok_or(Unauthenticated)?;
        Ok(Principal {
            id: format!("cert:{name}").into(),
            role: *role,
            streams: streams.clone(),
            proof: Proof::Certificate(name.clone()),
        })
    }
}

/// SHA-256 of a key's whole text, which is all that is stored of it.
#[must_use]
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Compares in a time that does not depend on where the two differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

enum Presented<'a> {
    Nothing,
    Text(&'a str),
    Unreadable,
}

fn presented(headers: &HeaderMap) -> Presented<'_> {
    let (value, scheme) = match (headers.get(header::AUTHORIZATION), headers.get("x-api-key")) {
        (Some(value), _) => (value, "bearer"),
        (None, Some(value)) => (value, ""),
        (None, None) => return Presented::Nothing,
    };
    let Ok(text) = value.to_str() else { return Presented::Unreadable };
    match text.split_once(' ') {
        _ if scheme.is_empty() => Presented::Text(text.trim()),
        Some((given, text)) if given.eq_ignore_ascii_case(scheme) => Presented::Text(text.trim()),
        _ => Presented::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::NameKind;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const UUID: &str = "0198c5a0-0000-7000-8000-000000000001";

    fn key(secret: &str) -> String {
        format!("{KEY_PREFIX}{UUID}_{secret}")
    }

    fn access(role: Role, streams: &[&str], expires: Option<i64>) -> Access {
        let entry = KeyEntry {
            sha256: digest(&key("s3cret")),
            role,
            streams: StreamPermissions::new(streams.iter().map(|&s| s.to_owned()).collect()),
            expires_unix_micros: expires,
            last_used: Arc::default(),
        };
        Access::Checked(Credentials { keys: [(UUID.to_owned(), entry)].into(), ..Credentials::default() })
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(header::HeaderName::from_static(name), value.parse().expect("a header value"))].into_iter().collect()
    }

    #[test]
    fn only_the_whole_key_before_its_end_is_let_in_by_either_header() {
        let access = access(Role::Reader, &["*"], Some(100));
        for headers in [
            headers("authorization", &format!("Bearer {}", key("s3cret"))),
            headers("authorization", &format!("bearer {}", key("s3cret"))),
            headers("x-api-key", &key("s3cret")),
        ] {
            let caller = access.authenticate(&headers, None, PEER, 99).expect("let in");
            assert_eq!((&*caller.id, caller.role), (format!("key_{UUID}").as_str(), Role::Reader));
            assert!(access.authenticate(&headers, None, PEER, 100).is_err(), "it ends at its end");
        }
        for wrong in ["", "ttd_live_", "ttd_live_x_y", &key("s3creT"), &key(""), "a.b.c"] {
            for headers in [headers("x-api-key", wrong), headers("authorization", &format!("Bearer {wrong}"))] {
                assert_eq!(access.authenticate(&headers, None, PEER, 1), Err(Unauthenticated.into()), "{wrong:?}");
            }
        }
        let basic = headers("authorization", &format!("Basic {}", key("s3cret")));
        assert!(access.authenticate(&basic, None, PEER, 1).is_err());
        assert!(access.authenticate(&HeaderMap::new(), None, PEER, 1).is_err());
    }

    #[test]
    fn a_key_that_is_gone_or_over_is_not_renewed_and_a_changed_role_counts() {
        let good = headers("x-api-key", &key("s3cret"));
        let caller = access(Role::Admin, &[], None).authenticate(&good, None, PEER, 1).expect("let in");
        let renewed = access(Role::Writer, &["a"], Some(5)).renew(&caller, 4).expect("still there");
        assert_eq!(renewed.role, Role::Writer);
        assert!(access(Role::Writer, &[], Some(5)).renew(&caller, 5).is_err());
        assert!(Access::Checked(Credentials::default()).renew(&caller, 1).is_err());
        assert!(Access::Checked(Credentials::default()).renew(&Principal::open(), 1).is_err(), "no longer open");
    }

    /// Takes this token and no other.
    fn tokens(good: &'static str) -> Arc<TokenCheck> {
        Arc::new(move |text| match text {
            _ if text == good => Ok(Principal::of_token("ana", Role::Writer, StreamPermissions::default(), 100)),
            _ => Err(Unauthenticated),
        })
    }

    #[test]
    fn a_token_is_good_only_as_long_as_the_keys_in_force_vouch_for_it() {
        let under = |tokens| Access::Checked(Credentials { tokens, ..Credentials::default() });
        let keys = tokens("a.b.c");
        let access = under(Some(Arc::clone(&keys)));
        let caller = access.authenticate(&headers("authorization", "Bearer a.b.c"), None, PEER, 1).expect("let in");
        assert_eq!(access.renew(&caller, 99), Ok(caller.clone()), "the same keys");
        assert!(access.renew(&caller, 100).is_err(), "it is over");
        let rotated = under(Some(tokens("a.b.c")));
        let renewed = rotated.renew(&caller, 99).expect("other keys vouch for it too");
        assert_eq!(renewed.id, caller.id);
        assert_eq!(rotated.renew(&renewed, 99), Ok(renewed), "and are not asked again");
        assert!(under(Some(tokens("another"))).renew(&caller, 2).is_err(), "its key was taken away");
        assert!(under(None).renew(&caller, 2).is_err(), "no token is taken any more");
    }

    #[test]
    fn over_the_limit_of_failures_what_is_good_is_let_in_and_no_token_is_looked_at() {
        let Access::Checked(mut credentials) = access(Role::Admin, &[], None) else { unreachable!() };
        credentials.tokens = Some(tokens("good.token"));
        credentials.certificates = Arc::new([(PeerIdentity::named("edge"), (Role::Writer, Default::default()))].into());
        credentials.failures.set_limit(2);
        let access = Access::Checked(credentials);
        let (good, bad) = (headers("x-api-key", &key("s3cret")), headers("x-api-key", &key("wrong")));
        let token = headers("authorization", "Bearer good.token");
        assert!(access.authenticate(&token, None, PEER, 1).is_ok());
        for _ in 0..3 {
            assert_eq!(access.authenticate(&HeaderMap::new(), None, PEER, 1), Err(Unauthenticated.into()));
        }
        for _ in 0..2 {
            assert!(access.authenticate(&good, None, PEER, 1).is_ok());
            assert_eq!(access.authenticate(&bad, None, PEER, 1), Err(Unauthenticated.into()));
        }
        for refused in [&bad, &token, &headers("authorization", "Basic x")] {
            let Err(NotLetIn::RateLimited(over)) = access.authenticate(refused, None, PEER, 1) else {
                panic!("{refused:?} is let in, or refused for good")
            };
            assert_eq!((over.category, over.limit), (Category::AuthFailures, 2));
        }
        assert!(access.authenticate(&good, None, PEER, 1).is_ok(), "nobody can lock a key's holder out");
        assert!(access.authenticate(&HeaderMap::new(), Some(&PeerIdentity::named("edge")), PEER, 1).is_ok());
        assert!(access.authenticate(&token, None, IpAddr::from([192, 0, 2, 1]), 1).is_ok(), "another address");
    }

    #[test]
    fn the_last_use_is_known_to_the_second() {
        let access = access(Role::Admin, &[], None);
        let Access::Checked(credentials) = &access else { unreachable!() };
        let used = Arc::clone(&credentials.keys[UUID].last_used);
        for (now, known) in [(5_000_000, 5_000_000), (5_900_000, 5_000_000), (6_000_000, 6_000_000)] {
            access.authenticate(&headers("x-api-key", &key("s3cret")), None, PEER, now).expect("let in");
            assert_eq!(used.load(Relaxed), known);
        }
    }

    #[test]
    fn a_certificate_counts_only_without_another_credential() {
        let certificates = HashMap::from([(PeerIdentity::named("edge"), (Role::Writer, StreamPermissions::default()))]);
        let (edge, other) = (PeerIdentity::named("edge"), PeerIdentity::named("other"));
        let access = Access::Checked(Credentials { certificates: certificates.into(), ..Credentials::default() });
        let caller = access.authenticate(&HeaderMap::new(), Some(&edge), PEER, 1).expect("let in");
        assert_eq!((&*caller.id, caller.role), ("cert:edge", Role::Writer));
        assert!(access.authenticate(&HeaderMap::new(), Some(&other), PEER, 1).is_err());
        assert!(access.authenticate(&headers("x-api-key", "wrong"), Some(&edge), PEER, 1).is_err());
        // A CA may give out e-mail addresses and URIs to anyone, and DNS names to few: the kind counts.
        for kind in [NameKind::Uri, NameKind::Email] {
            let of_that_text = PeerIdentity { kind, ..edge.clone() };
            assert!(access.authenticate(&HeaderMap::new(), Some(&of_that_text), PEER, 1).is_err(), "{kind:?}");
        }
        assert!(Access::Checked(Credentials::default()).renew(&caller, 1).is_err());
    }

    #[test]
    fn patterns_of_names() {
        for (pattern, name, whether) in [
            ("*", "clicks", true),
            ("clicks", "clicks", true),
            ("clicks", "clicks2", false),
            ("web.*", "web.clicks", true),
            ("web.*", "app.web.clicks", false),
            ("*.eu", "clicks.eu", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-c-b-b-c", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(matches(pattern, name), whether, "{pattern} {name}");
        }
        let id = StreamId::generate();
        let permissions = StreamPermissions::new(vec![id.to_string()]);
        assert!(permissions.allow(id, "clicks") && !permissions.allow(StreamId::generate(), "clicks"));
    }

    /// The contract's table, written out once more: every role × every action.
    #[test]
    fn roles_may_do_what_the_contract_says_and_no_more() {
        use Action::{
            ChangeConfig, ChangePipelines, ChangeSchemas, ChangeStreams, FlushStreams, ListSchemas, ManageKeys,
            PauseStreams, ReadAudit, ReadConfig, ReadPipelines, ReadRecords, ReadSchema, ReadStreams,
            ReplayDeadLetters, WriteRecords,
        };
        let table = [
            (WriteRecords, "A--W-"),
            (ReadRecords, "A---R"),
            (ChangeSchemas, "A-S--"),
            (ListSchemas, "AOS--"),
            (ReadSchema, "AOSWR"),
            (ChangeStreams, "A----"),
            (PauseStreams, "AO---"),
            (FlushStreams, "AO---"),
            (ReadStreams, "AOSWR"),
            (ChangePipelines, "A-S--"),
            (ReadPipelines, "AOS--"),
            (ReplayDeadLetters, "AO---"),
            (ManageKeys, "A----"),
            (ReadConfig, "AO---"),
            (ChangeConfig, "A----"),
            (ReadAudit, "A----"),
        ];
        assert_eq!(table.len(), Action::ALL.len());
        for (action, row) in table {
            for (role, mark) in Role::ALL.into_iter().zip(row.chars()) {
                assert_eq!(role.may(action), mark != '-', "{role:?} {action:?}");
            }
        }
        assert!(Role::ALL.into_iter().all(|role| Role::of_name(role.name()) == Some(role)));
        assert_eq!(Role::of_name("root"), None);
    }

    #[test]
    fn only_writers_and_readers_are_confined_to_their_streams() {
        let caller = |role| Principal::of_token("t", role, StreamPermissions::new(vec!["a".into()]), 10);
        let id = StreamId::generate();
        assert!(caller(Role::Writer).sees(id, "a") && !caller(Role::Writer).sees(id, "b"));
        assert!(!caller(Role::Reader).sees(id, "b"));
        for role in [Role::Admin, Role::Operator, Role::SchemaAdmin] {
            assert!(caller(role).sees(id, "b"));
        }
    }
}
