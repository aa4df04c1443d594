//! HTTP connections to the server: one request at a time each, used again, with TLS where the endpoint asks for it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use super::failure::Failure;
use crate::{
    outgoing::{open, with_causes},
    tls::{Own, client_config},
};

/// Long enough for a far server that is busy with handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server is and how it is reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) endpoint: String,
    /// The CAs that vouch for it; none: the system's.
    pub(super) ca: Option<PathBuf>,
    /// The client's certificate.
    pub(super) cert: Option<PathBuf>,
    /// The key of it.
    pub(super) key: Option<PathBuf>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It was not sent.
    NotSent(Failure),
    /// It was sent, at least in part: what it asks for may have been done.
    Broken(String),
}

impl NoAnswer {
    /// As the end of a command.
    pub(super) fn into_failure(self, place: &str) -> Failure {
        match self {
            Self::NotSent(failure) => failure,
            // By TLS 1.3 a certificate is refused once the handshake is over.
            Self::Broken(why) if why.contains("alert") => Failure::Unreachable {
                what: format!("{place} does not let this client in: {why}"),
                remedy: "it asks for a client certificate of a CA that it knows: give one with --cert and --cert-key".to_owned(),
            },
            Self::Broken(why) => Failure::Unreachable {
                what: format!("the answer of {place} did not come: {why}"),
                remedy: "a change that was asked for may have been made: look before doing it again. If this goes on: is this \
                         the port of REST (8080, not that of gRPC), and http or https as the server has it?"
                    .to_owned(),
            },
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// The connections to one server.
pub(super) struct Connections {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Vec<Sender>>,
}

/// Reads an endpoint: `http://host:port`, `https://host/under/a/path`, `host:port`.
pub(super) fn endpoint(text: &str) -> Result<Url, Failure> {
    // What stands before an @ may be a password.
    let shown = if text.contains('@') { "…" } else { text };
    let wrong = |why: &str| {
        Failure::usage(format!(
            "the endpoint {shown:?} {why}: give the address of REST, such as http://127.0.0.1:8080 or https://dust.example"
        ))
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&whole).map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has more in it than host, port and path"));
    }
    Ok(url)
}

impl Connections {
    pub(super) fn new(place: &Place, url: &Url) -> Result<Self, Failure> {
        // Without its brackets an IPv6 address is what sockets and certificates take.
        let host = url.host_str().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().expect("http and https have one");
        let tls = if url.scheme() == "https" {
            let own = match (&place.cert, &place.key) {
                (None, None) => None,
                (Some(cert), Some(key)) => Some(Own { cert, key }),
                _ => return Err(Failure::usage("a client certificate is two files: give both --cert and --cert-key")),
            };
            let remedy = "give those that vouch for the server's with --ca";
            let config = client_config(place.ca.as_deref(), own, remedy).map_err(|e| Failure::usage(e.to_string()))?;
            let name = ServerName::try_from(host.clone())
                .map_err(|error| Failure::usage(format!("no server has a certificate for {host:?}: {error}")))?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else if place.ca.is_some() || place.cert.is_some() {
            let why = "certificates are for https, and the endpoint is http: give it as https://… or leave them out";
            return Err(Failure::usage(why));
        } else {
            None
        };
        Ok(Self { host, port, tls, idle: Mutex::default() })
    }

    /// Whether what is sent can be read on its way.
    pub(super) fn are_in_the_open(&self) -> bool {
        self.tls.is_none() && !matches!(self.host.as_str(), "localhost" | "::1") && !self.host.starts_with("127.")
    }

    /// Sends a request and returns the answer's head, its body to follow, and what to give back once that was read.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Sender), NoAnswer> {
        let mut sender = match self.kept().await {
            Some(sender) => sender,
            None => self.connect().await.map_err(NoAnswer::NotSent)?,
        };
        let response = sender.send_request(request).await.map_err(|error| NoAnswer::Broken(with_causes(&error)))?;
        Ok((response, sender))
    }

    /// A connection that waits for its next request, unless the server has closed it meanwhile.
    async fn kept(&self) -> Option<Sender> {
        loop {
            let mut sender = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, sender: Sender) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let address = format!("{}:{}", self.host, self.port);
        match timeout(CONNECT_TIMEOUT, open(&self.host, self.port, self.tls.as_ref())).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(Failure::Unreachable {
                what: format!("cannot connect to {address}: {error}"),
                remedy: remedy(&error).to_owned(),
            }),
            Err(_) => Err(Failure::Unreachable {
                what: format!("cannot connect to {address}: no answer in {} s", CONNECT_TIMEOUT.as_secs()),
                remedy: "is the address right, and does a firewall let you through?".to_owned(),
            }),
        }
    }
}

/// What to look at when no connection can be made.
fn remedy(error: &io::Error) -> &'static str {
    const ELSEWHERE: &str = "is the server running there? `ttdust serve` starts one here; --endpoint, TTDUST_ENDPOINT or a \
                             profile (`ttdust profile set`) say where another is";
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return match tls {
            rustls::Error::InvalidCertificate(_) => {
                "the server's certificate is not trusted here: give its CA with --ca FILE, and its address as the \
                 certificate has it"
            }
            rustls::Error::InvalidMessage(_) => "it does not speak TLS: is the endpoint http:// rather than https://?",
            rustls::Error::AlertReceived(_) => {
                "the server broke off the TLS handshake: it may ask for a client certificate (--cert and --cert-key), or this \
                 is the port of gRPC"
            }
            _ => "look at the certificates on both sides",
        };
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ELSEWHERE,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "it closed the connection: is the endpoint http:// rather than https://, and the port that of REST?"
        }
        _ => "is the address right? --endpoint, TTDUST_ENDPOINT or a profile (`ttdust profile list`) say it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_or_addresses() {
        for (text, url) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("localhost:8080", "http://localhost:8080/"),
            ("https://dust.example/under", "https://dust.example/under"),
            ("http://[::1]:8080", "http://[::1]:8080/"),
        ] {
            assert_eq!(endpoint(text).expect("an endpoint").as_str(), url);
        }
        for text in ["", "ftp://a", "http://", "http://a:b@c", "http://a?b", "http://a#b", "http://a:99999"] {
            let told = endpoint(text).expect_err("no endpoint").told();
            assert!(told.contains("such as http://"), "{told}");
        }
    }

    #[test]
    fn certificates_without_tls_are_told_of() {
        let url = endpoint("http://a").expect("an endpoint");
        let place = Place { ca: Some("ca.pem".into()), ..Place::default() };
        assert!(Connections::new(&place, &url).is_err_and(|failure| failure.told().contains("https")));
        let half = Place { cert: Some("c".into()), ..Place::default() };
        let url = endpoint("https://a").expect("an endpoint");
        assert!(Connections::new(&half, &url).is_err_and(|failure| failure.told().contains("--cert-key")));
    }

    #[test]
    fn what_crosses_a_network_is_in_the_open_without_tls() {
        for (text, open) in [("http://dust", true), ("localhost:1", false), ("127.0.0.1:1", false), ("[::1]:1", false)]
        {
            let url = endpoint(text).expect("an endpoint");
            assert_eq!(Connections::new(&Place::default(), &url).expect("plain").are_in_the_open(), open, "{text}");
        }
    }
}
