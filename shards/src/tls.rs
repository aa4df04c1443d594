//! TLS as both ports speak it: the server's side of a handshake over any byte stream, how it ended, and whom the client's
//! certificate names.
//!
//! Knows no file and no runtime: a [`ServerConfig`] comes in ready, and the caller keeps to the time limits that stand here.

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::{Error, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio_rustls::TlsAcceptor;
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The first byte of every TLS connection; neither HTTP/1.1 nor HTTP/2 begins with it.
pub const FIRST_BYTE: u8 = 0x16;
/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a refused client may take to read why.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Read ahead from the socket: rustls asks for 4 KiB at a time, and each would be a system call. One record fits, whatever
/// its size; no more, since every connection has one of these.
const READ_AHEAD_BYTES: usize = 17 << 10;
/// What a client that was refused may still send before it is cut off.
const LINGER_BYTES: u64 = 64 << 10;
/// The longest name in a certificate that is taken.
const NAME_BYTES_MAX: usize = 1024;

/// A connection past its handshake.
pub type TlsStream<S> = tokio_rustls::server::TlsStream<BufReader<S>>;

/// What a peer's name is. A name means something only together with this: a CA may give out one kind and not another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// A URI, such as a SPIFFE id.
    Uri,
    /// A DNS name.
    Dns,
    /// An e-mail address.
    Email,
}

impl NameKind {
    /// What a name is that was written down without its kind. Neither a DNS name nor a plain e-mail address has a colon, every
    /// URI has one; no DNS name has an @.
    #[must_use]
    pub fn of_text(name: &str) -> Self {
        if name.contains(':') {
            Self::Uri
        } else if name.contains('@') {
            Self::Email
        } else {
            Self::Dns
        }
    }
}

/// Whom a client's certificate names; the chain behind it was verified in the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// What `name` is.
    pub kind: NameKind,
    /// The name as the certificate spells it: printable ASCII, 1 to 1024 bytes.
    pub name: Arc<str>,
}

impl PeerIdentity {
    /// The peer of this name, which is of the kind that it looks like.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { kind: NameKind::of_text(name), name: name.into() }
    }

    /// The first URI among the certificate's subject alternative names, else the first DNS name, else the first e-mail
    /// address. The subject's common name is not looked at. `None`: no such name, or one that is not printable ASCII of
    /// bounded length; another name does not take its place.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let (_, SubjectAltName(names)) = certificate.tbs_certificate().get_extension().ok()??;
        let first = |kind| {
            names.iter().find_map(|name| match (kind, name) {
                (NameKind::Uri, GeneralName::UniformResourceIdentifier(text))
                | (NameKind::Dns, GeneralName::DnsName(text))
                | (NameKind::Email, GeneralName::Rfc822Name(text)) => Some((kind, text.as_str())),
                _ => None,
            })
        };
        let (kind, name) = first(NameKind::Uri).or_else(|| first(NameKind::Dns)).or_else(|| first(NameKind::Email))?;
        let usable = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        usable.then(|| Self { kind, name: name.into() })
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// How the start of a connection ended, as far as TLS goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// It succeeded.
    Ok,
    /// The client speaks plain text to a port with TLS.
    PlainText,
    /// The client speaks TLS to a port without.
    Unexpected,
    /// The client's certificate is missing or not valid.
    Certificate,
    /// It took too long.
    Timeout,
    /// The client went away.
    Abandoned,
    /// Anything else: no common version or protocol, or the client does not trust this server.
    Failed,
}

impl HandshakeOutcome {
    /// All of them, each at the index that [`Self::index`] tells.
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::PlainText, Self::Unexpected, Self::Certificate, Self::Timeout, Self::Abandoned, Self::Failed];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// As a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PlainText => "plain_text",
            Self::Unexpected => "unexpected",
            Self::Certificate => "certificate",
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
            Self::Failed => "failed",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )) => Self::PlainText,
            Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Self::Certificate,
            Some(_) => Self::Failed,
            None => Self::Abandoned,
        }
    }
}

/// A handshake that failed. The client was told why, if it speaks TLS.
#[derive(Debug)]
pub struct Refused<S> {
    /// How.
    pub outcome: HandshakeOutcome,
    /// Why, for the log.
    pub reason: io::Error,
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Refused<S> {
    /// Reads on until the client closes or has sent enough: closing over unread bytes resets the connection, and the
    /// client would lose the alert that tells it what is wrong. For at most [`LINGER_TIMEOUT`].
    pub async fn linger(mut self) {
        // The client may be gone: then nobody is owed anything.
        if self.stream.shutdown().await.is_ok() {
            let _ = tokio::io::copy(&mut self.stream.take(LINGER_BYTES), &mut tokio::io::sink()).await;
        }
    }
}

/// Does the server's part of a handshake, for at most [`HANDSHAKE_TIMEOUT`]; the peer is `None` where the client showed no certificate, or one without a name.
///
/// # Errors
/// It failed; the stream comes back for [`Refused::linger`].
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    stream: S,
) -> Result<(TlsStream<S>, Option<PeerIdentity>), Refused<S>> {
    let buffered = BufReader::with_capacity(READ_AHEAD_BYTES, stream);
    match TlsAcceptor::from(config).accept(buffered).into_fallible().await {
        Ok(stream) => {
            let chain = stream.get_ref().1.peer_certificates();
            let peer = chain.and_then(|chain| PeerIdentity::of_certificate(chain.first()?));
            Ok((stream, peer))
        }
        Err((reason, stream)) => Err(Refused { outcome: HandshakeOutcome::of(&reason), reason, stream }),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn named(names: &[SanType]) -> Option<(NameKind, String)> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "common");
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        PeerIdentity::of_certificate(certificate.der()).map(|peer| (peer.kind, peer.name.to_string()))
    }

    #[test]
    fn a_uri_comes_before_a_dns_name_before_an_address_and_the_common_name_is_none() {
        let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
        let dns = |text: &str| SanType::DnsName(text.try_into().expect("ASCII"));
        let email = || SanType::Rfc822Name("a@tests".try_into().expect("ASCII"));
        let ip = || SanType::IpAddress([127, 0, 0, 1].into());
        let all = [ip(), email(), dns("a.tests"), uri("spiffe://tests/a"), uri("spiffe://tests/b")];
        assert_eq!(named(&all), Some((NameKind::Uri, "spiffe://tests/a".into())));
        assert_eq!(named(&all[..3]), Some((NameKind::Dns, "a.tests".into())));
        assert_eq!(named(&all[..2]), Some((NameKind::Email, "a@tests".into())));
        assert_eq!(named(&all[..1]), None);
        assert_eq!(named(&[]), None);
        // No other name stands in for one that cannot be used.
        for bad in ["", "two words", "line\nbreak", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(named(&[uri(bad), dns("a.tests")]), None, "{bad:?}");
        }
        assert_eq!(PeerIdentity::of_certificate(b"no certificate"), None);
    }

    #[test]
    fn a_name_that_is_written_down_is_of_the_kind_that_it_looks_like() {
        for (name, kind) in [
            ("spiffe://tests/a", NameKind::Uri),
            ("urn:tests:a", NameKind::Uri),
            ("https://a@tests/", NameKind::Uri),
            ("a@tests", NameKind::Email),
            ("a.tests", NameKind::Dns),
            ("edge", NameKind::Dns),
        ] {
            assert_eq!(PeerIdentity::named(name), PeerIdentity { kind, name: name.into() });
        }
    }

    #[test]
    fn every_outcome_stands_at_its_index_under_a_name_of_its_own() {
        for (at, outcome) in HandshakeOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), at);
            let same = HandshakeOutcome::ALL.into_iter().filter(|other| other.name() == outcome.name()).count();
            assert_eq!(same, 1, "{}", outcome.name());
        }
    }
}
