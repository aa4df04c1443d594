//! Certificate authorities of the tests' own, and what they issue, as PEM files and as a client takes them.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// A CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    der: CertificateDer<'static>,
}

/// A certificate with its key.
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: String,
    pub cert: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // A certificate with its issuer's name would pass for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A server's certificate for this machine, valid for a year around now.
    pub fn server(&self) -> Issued {
        let half_a_year = 180 * 24 * 3600;
        let now = unix_seconds();
        self.server_valid(now - half_a_year, now + half_a_year)
    }

    /// The same, valid between these times, in Unix seconds.
    pub fn server_valid(&self, from: u64, to: u64) -> Issued {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(from);
        params.not_after = epoch + Duration::from_secs(to);
        self.issue(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate with these names.
    pub fn client(&self, names: Vec<SanType>) -> Issued {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names = names;
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Issued {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            cert: cert.der().clone(),
            key: key.serialize_der(),
        }
    }

    /// How a client connects that trusts this CA, shows this certificate, offers these protocols by ALPN, and speaks these
    /// versions.
    pub fn client_config(
        &self,
        own: Option<&Issued>,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a CA");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.clone()).expect("a key");
                builder.with_client_auth_cert(vec![own.cert.clone()], key).expect("a pair")
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Now, in Unix seconds.
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The files of a server, in a directory.
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

impl Files {
    /// Files of `own`, and a CA's.
    pub fn write(dir: &Path, own: &Issued, ca: &Authority) -> Self {
        let at = |name: &str| dir.join(name);
        let files = Self { cert: at("server.pem"), key: at("server.key"), ca: at("ca.pem") };
        fs::write(&files.ca, &ca.pem).expect("a file");
        files.replace(own);
        files
    }

    /// Puts another certificate in the place of the one that is there.
    pub fn replace(&self, own: &Issued) {
        fs::write(&self.cert, &own.cert_pem).expect("a file");
        private(&self.key, &own.key_pem);
    }
}

/// Writes a file that only its owner reads.
pub fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its owner's");
}
