//! HTTP connections to another server, kept open and used again, with TLS where its URL asks for it.
//!
//! A connection carries one request at a time; one whose answer was not read to its end is given up. That a kept connection was
//! closed meanwhile shows only when it is used: then the request goes out once more on a new one, which every request here
//! bears.

use std::{
    future::poll_fn,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::tls::{TlsError, client_config};

/// Connections that wait for their next request.
const IDLE_MAX: usize = 32;
/// Servers close a connection that is idle for longer; S3 after some 20 s.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// The body of a refusal.
const ERROR_BYTES_MAX: u64 = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, whole.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The connection could not be made or broke; for people.
    Connection(String),
    /// The answer has so many bytes, or at least as many, which is more than is taken.
    TooLong(u64),
}

/// Which settings a server is named by, for messages.
#[derive(Debug, Clone, Copy)]
pub struct NamedBy {
    /// The one of its URL.
    pub endpoint: &'static str,
    /// The one of the certificates that vouch for its.
    pub ca_path: &'static str,
}

/// The connections to one server.
pub struct Connections {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Vec<(SendRequest<Full<Bytes>>, Instant)>>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Connections {
    /// To a host; `tls`: encrypted, trusting the certificates at that path, or the system's.
    ///
    /// # Errors
    /// The certificates cannot be used, or no server has one for the host.
    pub fn new(host: &str, port: u16, tls: Option<Option<&Path>>, named_by: NamedBy) -> Result<Self, TlsError> {
        let tls = match tls {
            None => None,
            Some(ca) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|error| TlsError::Content {
                    path: PathBuf::from(named_by.endpoint),
                    reason: format!("no server has a certificate for {host:?}: {error}"),
                })?;
                Some((connector(ca, named_by)?, name))
            }
        };
        Ok(Self { host: host.to_owned(), port, tls, idle: Mutex::default() })
    }

    /// Sends what `request` makes, and reads the answer, whose body may have `limit` bytes.
    ///
    /// # Errors
    /// There is none, or it is too long.
    pub async fn send(&self, request: impl Fn() -> Request<Full<Bytes>>, limit: u64) -> Result<Answer, NoAnswer> {
        while let Some(mut kept) = self.kept() {
            if kept.ready().await.is_err() {
                continue;
            }
            // Whatever goes wrong before the answer may be the end of an idle connection.
            if let Ok(response) = kept.send_request(request()).await {
                return self.read(kept, response, limit).await;
            }
            break;
        }
        let mut new = self.connect().await?;
        let response = new.send_request(request()).await.map_err(|e| NoAnswer::Connection(with_causes(&e)))?;
        self.read(new, response, limit).await
    }

    async fn read(
        &self,
        connection: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
        limit: u64,
    ) -> Result<Answer, NoAnswer> {
        let (parts, mut incoming) = response.into_parts();
        // An error says more than a short object holds.
        let limit = if parts.status.is_success() { limit } else { limit.max(ERROR_BYTES_MAX) };
        // The answer to HEAD has the length of a body that does not follow.
        let told = incoming.size_hint().exact().unwrap_or(0);
        if told > limit {
            return Err(NoAnswer::TooLong(told));
        }
        let mut body = BytesMut::with_capacity(usize::try_from(told).unwrap_or(0));
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|e| NoAnswer::Connection(format!("the answer was cut: {}", with_causes(&e))))?;
            let Some(data) = frame.data_ref() else { continue };
            let sum = body.len() as u64 + data.len() as u64;
            if sum > limit {
                return Err(NoAnswer::TooLong(sum));
            }
            body.extend_from_slice(data);
        }
        self.keep(connection);
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.freeze() })
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (connection, since) = idle.pop()?;
            if since.elapsed() < IDLE_TIME && !connection.is_closed() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(connection, since)| since.elapsed() < IDLE_TIME && !connection.is_closed());
        if idle.len() < IDLE_MAX {
            idle.push((connection, Instant::now()));
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        let place = format!("{}:{}", self.host, self.port);
        match timeout(CONNECT_TIMEOUT, open(&self.host, self.port, self.tls.as_ref())).await {
            Ok(connected) => connected.map_err(|e| NoAnswer::Connection(format!("cannot connect to {place}: {e}"))),
            Err(_) => Err(NoAnswer::Connection(format!("cannot connect to {place}: no answer in {CONNECT_TIMEOUT:?}"))),
        }
    }
}

/// A new connection to a server, with TLS where there is somebody to ask for it.
///
/// # Errors
/// The system's, or those of TLS, which then are a [`rustls::Error`] inside.
pub async fn open(
    host: &str,
    port: u16,
    tls: Option<&(TlsConnector, ServerName<'static>)>,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    match tls {
        None => start(socket).await,
        Some((connector, name)) => start(connector.connect(name.clone(), socket).await?).await,
    }
}

async fn start(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<SendRequest<Full<Bytes>>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever waits for an answer hears of it.
        let _ = connection.await;
    });
    poll_fn(|context| sender.poll_ready(context)).await.map_err(io::Error::other)?;
    Ok(sender)
}

/// What went wrong, with its causes. No such error holds a URL or a header.
#[must_use]
pub fn with_causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn connector(ca: Option<&Path>, named_by: NamedBy) -> Result<TlsConnector, TlsError> {
    let config = client_config(ca, None, &format!("set {} to those that vouch for the server's", named_by.ca_path))?;
    Ok(TlsConnector::from(Arc::new(config)))
}
