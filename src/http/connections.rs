//! The accept loop: bounded connections, in all and of each address, TLS or plain text, HTTP/1.1 with keep-alive, time limits
//! for a client that does not send and for one that does not read, a graceful end.

mod patience;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time,
};
use ttdust_shards::{
    peers::{Peers, Seat},
    tls::{self, FIRST_BYTE, HANDSHAKE_TIMEOUT, HandshakeOutcome, LINGER_TIMEOUT, PeerIdentity},
};

use self::patience::{Patient, UnderWay};
use super::extract::PeerAddress;
use crate::metrics::ControlMetrics;

/// From the connection or the last answer to the end of the next request's head: so it bounds slow heads and idle
/// connections alike.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take none of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES: usize = 64 << 10;
/// With all descriptors in use, accepting at once again would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long an open connection may go on after the end was called.
const GRACE: Duration = Duration::from_secs(5);

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Open at the same time; more wait to be accepted.
    pub connections: usize,
    /// Of one address; more are refused.
    pub per_address: usize,
}

/// How connections are secured that come now; what it holds may change. `None`: plain text, for good.
pub type Tls = Option<watch::Receiver<Arc<ServerConfig>>>;

/// Serves until `stop` turns true, then ends each connection after the request that it is in.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Arc<ControlMetrics>,
    limits: ConnectionLimits,
    tls: Tls,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let peers = Peers::new(limits.per_address);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots, &peers, &metrics) => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, address, slot)) => {
                let (router, mut stop, open) = (router.clone(), stop.clone(), metrics.http_connection());
                let (tls, metrics) = (tls.as_ref().map(|tls| Arc::clone(&tls.borrow())), Arc::clone(&metrics));
                tokio::spawn(async move {
                    let answer = UnderWay::default();
                    match tls {
                        Some(config) => {
                            let stream = Patient::new(stream, STALL_TIMEOUT, answer.clone());
                            if let Some((stream, peer)) = secure(stream, config, &metrics, &mut stop).await {
                                connection(stream, (address, peer), router, answer, stop).await;
                            }
                        }
                        None if speaks_tls(&stream, &metrics, &mut stop).await => {}
                        None => {
                            let stream = Patient::new(stream, STALL_TIMEOUT, answer.clone());
                            connection(stream, (address, None), router, answer, stop).await;
                        }
                    }
                    drop((slot, open));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a REST connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    // Past the grace, what is left is cut off by the end of the process.
    let _ = time::timeout(GRACE, slots.acquire_many(all)).await;
}

/// The next connection that may stay.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    peers: &Arc<Peers>,
    metrics: &ControlMetrics,
) -> io::Result<(TcpStream, IpAddr, (OwnedSemaphorePermit, Seat))> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        let (stream, address) = listener.accept().await?;
        let Some(seat) = peers.enter(address.ip()) else {
            metrics.http_connection_refused();
            tracing::debug!(%address, "REST connection refused: its address has as many as it may");
            continue;
        };
        stream.set_nodelay(true)?;
        return Ok((stream, address.ip(), (slot, seat)));
    }
}

/// The connection with TLS on it, and whom the client's certificate names. `None`: it was refused.
async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
    metrics: &ControlMetrics,
    stop: &mut watch::Receiver<bool>,
) -> Option<(tls::TlsStream<S>, Option<PeerIdentity>)> {
    let ended = tokio::select! {
        ended = time::timeout(HANDSHAKE_TIMEOUT, tls::accept(config, stream)) => ended,
        () = stopped(stop) => return None,
    };
    let outcome = match &ended {
        Ok(Ok(_)) => HandshakeOutcome::Ok,
        Ok(Err(refused)) => refused.outcome,
        Err(_) => HandshakeOutcome::Timeout,
    };
    metrics.tls_handshake(outcome);
    match ended.ok()? {
        Ok((stream, peer)) => {
            tracing::debug!(peer = peer.as_ref().map(tracing::field::display), "TLS connection");
            Some((stream, peer))
        }
        Err(refused) => {
            tracing::debug!(outcome = outcome.name(), reason = %refused.reason, "TLS refused");
            // Past its time, the client is cut off.
            let _ = time::timeout(LINGER_TIMEOUT, refused.linger()).await;
            None
        }
    }
}

/// Whether the client begins with TLS, on a port that has none. One that sends nothing is left to HTTP's own time limit.
async fn speaks_tls(stream: &TcpStream, metrics: &ControlMetrics, stop: &mut watch::Receiver<bool>) -> bool {
    let mut first = [0];
    let seen = tokio::select! {
        seen = time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)) => seen,
        () = stopped(stop) => return false,
    };
    if !matches!(seen, Ok(Ok(1))) || first[0] != FIRST_BYTE {
        return false;
    }
    metrics.tls_handshake(HandshakeOutcome::Unexpected);
    tracing::debug!("a client speaks TLS, but this port is plain text: set tls.cert_path and tls.key_path");
    true
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    (address, peer): (IpAddr, Option<PeerIdentity>),
    router: Router,
    answer: UnderWay,
    mut stop: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(PeerAddress(address));
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        let (answering, answer) = (router.call(request), answer.clone());
        async move {
            answering.await.map(|mut response| {
                answer.set(response.extensions_mut().remove());
                response
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a REST connection ended badly");
    }
}

/// Waits for the end to be called; a lost caller counts as one.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_client_that_asks_and_does_not_read_is_cut_off() {
        let router = Router::new().route("/", axum::routing::get(|| async { "x".repeat(1 << 20) }));
        let (mut client, server) = tokio::io::duplex(4096);
        let (_stop, stopped) = watch::channel(false);
        let address = IpAddr::from([127, 0, 0, 1]);
        let answer = UnderWay::default();
        let server = Patient::new(server, Duration::from_millis(50), answer.clone());
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        // It ends although the client is there and takes nothing: otherwise this waits for ever.
        connection(server, (address, None), router, answer, stopped).await;
        drop(client);
    }
}
