//! TLS of the connections that this program makes to others.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, crypto::ring};

use super::{TlsError, certificates, content, private_key, roots};

/// Where systems keep the certificates that their programs trust.
const SYSTEM_ROOTS: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A certificate that this program shows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// The file of the certificate, and those of its CAs after it.
    pub cert: &'a Path,
    /// The file of its key.
    pub key: &'a Path,
}

/// How to connect: trusting the CAs in the file `ca`, or those of the system, for the lack of which there is `remedy`.
///
/// # Errors
/// A file cannot be read or does not hold what it should.
pub fn client_config(ca: Option<&Path>, own: Option<Own<'_>>, remedy: &str) -> Result<ClientConfig, TlsError> {
    let missing = || TlsError::Content {
        path: PathBuf::from(SYSTEM_ROOTS[0]),
        reason: format!("the system has no certificates to trust: {remedy}"),
    };
    let system = || SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
    let path = ca.or_else(system).ok_or_else(missing)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots(path)?);
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some(Own { cert, key }) => {
            // That others can read the key is warned of where a server starts; here nobody would read the warning.
            let pair = (certificates(cert)?, private_key(key, &mut Vec::new())?);
            builder
                .with_client_auth_cert(pair.0, pair.1)
                .map_err(|error| content(cert, format!("it does not go with the key {}: {error}", key.display())))
        }
    }
}
