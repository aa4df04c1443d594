//! The accept loop: bounded connections, HTTP/1.1 with keep-alive, header and idle timeouts, a graceful end.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time,
};

use crate::metrics::ControlMetrics;

/// From the connection or the last answer to the end of the next request's head: so it bounds slow heads and idle
/// connections alike.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
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
}

/// Serves until `stop` turns true, then ends each connection after the request that it is in.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Arc<ControlMetrics>,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (router, stop, open) = (router.clone(), stop.clone(), metrics.http_connection());
                tokio::spawn(async move {
                    connection(stream, router, stop).await;
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

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, slot))
}

async fn connection(stream: TcpStream, router: Router, mut stop: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
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
