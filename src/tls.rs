//! The certificates of both ports: read from their files, checked, and made into what a handshake needs.
//!
//! A set of files is taken whole or not at all. Sessions are not resumed, so that each connection shows its certificate anew
//! and a CA that was taken out lets nobody in any more.

mod outgoing;

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use x509_cert::{Certificate, der::Decode as _};

use crate::{calendar::rfc3339, config::TlsFiles};

pub use outgoing::{Own, client_config};

/// No file of certificates is as large.
const FILE_BYTES_MAX: u64 = 1 << 20;
const SECOND: i64 = 1_000_000;
/// Less time than this, and less than a third of the whole, is worth a warning.
const SOON_MICROS: i64 = 14 * 24 * 3600 * SECOND;

/// What both ports show and ask for, ready for handshakes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// For gRPC: `h2`.
    pub grpc: Arc<ServerConfig>,
    /// For REST: `http/1.1`.
    pub rest: Arc<ServerConfig>,
    /// When the server's certificate ends, Unix µs.
    pub not_after_unix_micros: i64,
    /// What an operator should look into, in whole sentences; it works all the same.
    pub warnings: Vec<String>,
}

/// Why a set of files is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The key is another certificate's.
    #[error(
        "{key} is not the private key of the first certificate in {cert}: the server's own certificate comes first, those of \
         its CAs after it"
    )]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        cert: PathBuf,
    },
    /// The certificate is over or has not begun.
    #[error("{path}: the certificate is valid from {from} to {to} only, and it is {now}: put a new one in its place")]
    NotNow {
        /// The file.
        path: PathBuf,
        /// Its begin.
        from: String,
        /// Its end.
        to: String,
        /// The time of the check.
        now: String,
    },
}

fn content(path: &Path, reason: impl Into<String>) -> TlsError {
    TlsError::Content { path: path.to_owned(), reason: reason.into() }
}

/// Reads and checks `files` as of `now`, Unix µs. Blocking.
///
/// # Errors
/// See [`TlsError`].
pub fn load(files: &TlsFiles, now: i64) -> Result<Identity, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert)?;
    let mut warnings = Vec::new();
    let not_after_unix_micros = check_times(&files.cert, &chain[0], now, &mut warnings)?;
    for (at, der) in chain.iter().enumerate().skip(1) {
        if let Err(error) = check_times(&files.cert, der, now, &mut Vec::new()) {
            warnings.push(format!("certificate {} of the chain is of no use to clients: {error}", at + 1));
        }
    }
    let key = private_key(&files.key, &mut warnings)?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| {
        let reason = format!("the private key cannot be used: {error}; want RSA, ECDSA (P-256, P-384) or Ed25519");
        content(&files.key, reason)
    })?;
    let own = CertifiedKey::new(chain, key);
    match own.keys_match() {
        // Some keys do not tell their public half; the ones that are taken here do.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(TlsError::KeyMismatch { key: files.key.clone(), cert: files.cert.clone() });
        }
        Err(error) => return Err(content(&files.cert, format!("the first certificate cannot be used: {error}"))),
    }
    let own = Arc::new(SingleCertAndKey::from(own));
    let clients = match &files.clients {
        None => None,
        Some((path, required)) => Some(client_verifier(path, *required, now, &provider, &mut warnings)?),
    };
    let config = |protocol: &[u8]| Arc::new(server_config(&provider, clients.clone(), Arc::clone(&own), protocol));
    Ok(Identity { grpc: config(b"h2"), rest: config(b"http/1.1"), not_after_unix_micros, warnings })
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    own: Arc<SingleCertAndKey>,
    protocol: &[u8],
) -> ServerConfig {
    // By TLS 1.2 a client's certificate would cross the network in the open.
    let versions = if clients.is_some() { &[&TLS13][..] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .expect("the provider has cipher suites for both versions");
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(own);
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn read(path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let at = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(at)?;
    let mode = file.metadata().map_err(at)?.mode();
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(content(
            path,
            format!("more than {FILE_BYTES_MAX} bytes: this is no file of certificates or keys"),
        ));
    }
    Ok((bytes, mode))
}

/// The certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (bytes, _) = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| content(path, format!("this is no PEM: {error}")))?;
    if found.is_empty() {
        return Err(content(path, "there is no PEM section `BEGIN CERTIFICATE` in it"));
    }
    for (at, der) in found.iter().enumerate() {
        if let Err(error) = Certificate::from_der(der) {
            return Err(content(path, format!("certificate {} of {} cannot be read: {error}", at + 1, found.len())));
        }
    }
    Ok(found)
}

/// The end of a certificate that is valid now.
fn check_times(path: &Path, der: &[u8], now: i64, warnings: &mut Vec<String>) -> Result<i64, TlsError> {
    let certificate = Certificate::from_der(der).expect("it was read before");
    let validity = certificate.tbs_certificate().validity();
    let micros = |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_micros()).unwrap_or(i64::MAX);
    let (from, to) = (micros(validity.not_before), micros(validity.not_after));
    if now < from || now > to {
        let (from, to, now) = (rfc3339(from), rfc3339(to), rfc3339(now));
        return Err(TlsError::NotNow { path: path.to_owned(), from, to, now });
    }
    let left = to - now;
    if left < SOON_MICROS && left < (to - from) / 3 {
        let hours = left / (3600 * SECOND);
        let end = rfc3339(to);
        warnings.push(format!(
            "{}: the certificate ends in {hours} hours, at {end}: put a new one in its place and send SIGHUP",
            path.display()
        ));
    }
    Ok(to)
}

fn private_key(path: &Path, warnings: &mut Vec<String>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (bytes, mode) = read(path)?;
    if mode & 0o077 != 0 {
        let (path, mode) = (path.display(), mode & 0o777);
        warnings.push(format!("{path}: the private key's mode is {mode:o}, open to others: chmod 600 {path}"));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            content(path, "there is no PEM section `BEGIN PRIVATE KEY` in it (an encrypted key cannot be used)")
        }
        other => content(path, format!("this is no PEM: {other}")),
    })
}

/// The CAs of a PEM file, for a client to trust. A system's file may hold some that cannot be used: those are left out.
///
/// # Errors
/// The file cannot be read or holds none.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let (bytes, _) = read(path)?;
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(&bytes) {
        let der = der.map_err(|error| content(path, format!("this is no PEM: {error}")))?;
        // Counted below: one that is usable has to be left.
        let _ = roots.add(der);
    }
    if roots.is_empty() {
        return Err(content(path, "there is no CA in it that can be used"));
    }
    Ok(roots)
}

fn client_verifier(
    path: &Path,
    required: bool,
    now: i64,
    provider: &Arc<CryptoProvider>,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for (at, der) in certificates(path)?.into_iter().enumerate() {
        if let Err(error) = check_times(path, &der, now, &mut Vec::new()) {
            warnings.push(format!("CA {} is trusted although its time is not now: {error}", at + 1));
        }
        let unusable = |error| content(path, format!("certificate {} cannot be used as a CA: {error}", at + 1));
        roots.add(der).map_err(unusable)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| content(path, format!("these CAs cannot be used: {error}")))
}
