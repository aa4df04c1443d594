//! SIGHUP: what may change while the server runs is read again, all of it or nothing.
//!
//! Everything is prepared first, and the first thing that is wrong ends it there: what is in force stays. Applying what was
//! prepared cannot fail. Reloads follow one another.

use std::{io, sync::Arc};

use rustls::ServerConfig;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use ttdust_shards::message::ToShard;

use crate::{
    calendar::now_unix_micros,
    config::{Config, TlsFiles},
    link::ShardLink,
    metrics::ControlMetrics,
    tls::{self, Identity, TlsError},
};

/// SIGHUP. From here on it does not end the process.
pub(super) fn signals() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Why nothing was reloaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The thread that read the files is gone.
    #[error("the files were not read: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Knows where everything that is reloaded goes.
pub(super) struct Reloader {
    pub(super) config: Arc<Config>,
    pub(super) link: ShardLink,
    pub(super) metrics: Arc<ControlMetrics>,
    /// The REST port's certificates; `None`: there is no TLS.
    pub(super) rest_tls: Option<watch::Sender<Arc<ServerConfig>>>,
}

/// Everything new, checked.
struct Prepared {
    /// `None`: there is no TLS.
    tls: Option<Identity>,
}

impl Reloader {
    /// Reloads at each signal, for as long as the server runs.
    pub(super) async fn run(self, mut signals: Signal) {
        while signals.recv().await.is_some() {
            self.reload().await;
        }
    }

    /// Reads everything again and puts it in force, or logs why not.
    async fn reload(&self) {
        match self.prepare().await {
            Ok(prepared) => {
                self.apply(prepared).await;
                self.metrics.reload_done("ok");
                tracing::info!("reloaded");
            }
            Err(error) => {
                self.metrics.reload_done("refused");
                tracing::error!(%error, "reload refused: all stays as it was");
            }
        }
    }

    async fn prepare(&self) -> Result<Prepared, ReloadError> {
        let tls = match &self.config.tls {
            None => None,
            Some(files) => Some(load_tls(files.clone()).await??),
        };
        Ok(Prepared { tls })
    }

    async fn apply(&self, prepared: Prepared) {
        if let (Some(identity), Some(rest)) = (prepared.tls, &self.rest_tls) {
            report(&identity, &self.metrics);
            rest.send_replace(identity.rest);
            for shard in self.link.shards() {
                // A shard that has ended takes no connections.
                let _ = self.link.deliver(shard, ToShard::Tls(Arc::clone(&identity.grpc))).await;
            }
        }
    }
}

/// Reads the files on a thread that may block.
pub(super) async fn load_tls(files: TlsFiles) -> Result<Result<Identity, TlsError>, tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || tls::load(&files, now_unix_micros())).await
}

/// Says what is now in force.
pub(super) fn report(identity: &Identity, metrics: &ControlMetrics) {
    for warning in &identity.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(not_after = crate::calendar::rfc3339(identity.not_after_unix_micros), "TLS certificate in force");
    metrics.certificate_in_force(identity.not_after_unix_micros);
}
