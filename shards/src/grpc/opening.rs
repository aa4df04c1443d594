//! How a connection begins: with TLS a handshake, without it one look at the first byte. Both are bounded in time and end
//! early in a drain; what is refused is counted and logged here.

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use compio_runtime::time;
use futures_util::future::{self, Either};
use rustls::ServerConfig;

use super::transport::Transport;
use crate::{
    reactor::{Bell, Reactor},
    tls::{self, FIRST_BYTE, HANDSHAKE_TIMEOUT, HandshakeOutcome, LINGER_TIMEOUT, PeerIdentity, TlsStream},
};

/// Waits for `future` until `bound` is over or the shard drains.
async fn within<F: Future>(reactor: &Reactor, bell: &Rc<Bell>, bound: Duration, future: F) -> Option<F::Output> {
    let drains = future::poll_fn(|cx| match bell.poll_rung(cx) {
        _ if reactor.is_draining() => std::task::Poll::Ready(()),
        // Rung for nothing: once more, so that the task is woken by the next.
        std::task::Poll::Ready(()) => bell.poll_rung(cx),
        std::task::Poll::Pending => std::task::Poll::Pending,
    });
    let bounded = time::timeout(bound, future);
    futures_util::pin_mut!(drains, bounded);
    match future::select(bounded, drains).await {
        Either::Left((done, _)) => done.ok(),
        Either::Right(((), _)) => None,
    }
}

/// The connection with TLS on it, and whom the client's certificate names. `None`: it was refused.
pub async fn secure(
    reactor: &Reactor,
    bell: &Rc<Bell>,
    config: Arc<ServerConfig>,
    transport: Transport,
) -> Option<(TlsStream<Transport>, Option<PeerIdentity>)> {
    let ended = within(reactor, bell, HANDSHAKE_TIMEOUT, tls::accept(config, transport)).await;
    let outcome = match &ended {
        Some(Ok(_)) => HandshakeOutcome::Ok,
        Some(Err(refused)) => refused.outcome,
        None if reactor.is_draining() => HandshakeOutcome::Abandoned,
        None => HandshakeOutcome::Timeout,
    };
    reactor.count_handshake(outcome);
    match ended? {
        Ok((stream, peer)) => {
            tracing::debug!(shard = %reactor.id, peer = peer.as_ref().map(tracing::field::display), "TLS connection");
            Some((stream, peer))
        }
        Err(refused) => {
            tracing::debug!(shard = %reactor.id, outcome = outcome.name(), reason = %refused.reason, "TLS refused");
            let _ = within(reactor, bell, LINGER_TIMEOUT, refused.linger()).await;
            None
        }
    }
}

/// The connection, once its first byte is there. `None`: the client is gone, silent, or speaks TLS.
pub async fn plain(reactor: &Reactor, bell: &Rc<Bell>, bound: Duration, mut transport: Transport) -> Option<Transport> {
    match within(reactor, bell, bound, transport.first_byte()).await {
        Some(Ok(Some(FIRST_BYTE))) => {
            reactor.count_handshake(HandshakeOutcome::Unexpected);
            let message = "a client speaks TLS, but this port is plain text: set tls.cert_path and tls.key_path";
            tracing::debug!(shard = %reactor.id, "{message}");
            None
        }
        Some(Ok(Some(_))) => Some(transport),
        Some(Ok(None)) => None,
        Some(Err(error)) => {
            tracing::debug!(%error, "connection lost before it began");
            None
        }
        None => {
            tracing::debug!("no HTTP/2 preface in time");
            None
        }
    }
}
