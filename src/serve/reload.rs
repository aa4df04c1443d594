//! SIGHUP: what may change while the server runs is read again, all of it or nothing.
//!
//! Everything is prepared first, and the first thing that is wrong ends it there: what is in force stays. Applying what was
//! prepared cannot fail. Reloads follow one another.

use std::{io, sync::Arc};

use rustls::ServerConfig;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use ttdust_shards::message::ToShard;

use crate::{
    access::tokens::TokenKeyError,
    calendar::now_unix_micros,
    catalog::{Catalog, FreshPassword, PasswordError},
    config::{Config, ConfigError, Loaded, TlsFiles},
    control::{Control, ControlError, Reload},
    link::ShardLink,
    metrics::ControlMetrics,
    objects::{CredentialsError, FreshCredentials, Objects},
    publish::Checks,
    telemetry::Level,
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
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The credentials of the object store.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The password of the catalog's Postgres.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The keys of tokens.
    #[error(transparent)]
    Tokens(#[from] TokenKeyError),
    /// The server is at its end.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The thread that read the files is gone.
    #[error("the files were not read: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl From<ReloadError> for ControlError {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Config(_) | ReloadError::Tokens(_) => Self::field("/settings", error.to_string()),
            // Whoever changes settings cannot help it.
            ReloadError::Tls(_) | ReloadError::Credentials(_) | ReloadError::Password(_) => {
                Self::Conflict(error.to_string())
            }
            ReloadError::Control(error) => error,
            ReloadError::Thread(_) => Self::Internal(error.to_string()),
        }
    }
}

/// Knows where everything that is reloaded goes.
pub(super) struct Reloader {
    pub(super) config: Arc<Config>,
    pub(super) control: Arc<Control>,
    pub(super) objects: Objects,
    pub(super) catalog: Catalog,
    pub(super) level: Level,
    pub(super) link: ShardLink,
    pub(super) metrics: Arc<ControlMetrics>,
    /// The REST port's certificates; `None`: there is no TLS.
    pub(super) rest_tls: Option<watch::Sender<Arc<ServerConfig>>>,
}

/// Everything new, checked.
struct Prepared {
    /// `None`: there is no TLS.
    tls: Option<Identity>,
    settings: Arc<Loaded>,
    checks: Checks,
    /// `None`: objects lie in a directory.
    credentials: Option<FreshCredentials>,
    /// `None`: the catalog is in SQLite.
    password: Option<FreshPassword>,
}

impl Reloader {
    /// Reloads at each signal and each request, for as long as the server runs.
    pub(super) async fn run(self, mut signals: Signal, mut asked: mpsc::Receiver<Reload>) {
        loop {
            tokio::select! {
                Some(()) = signals.recv() => drop(self.reload(Vec::new()).await),
                Some(Reload { changes, answer }) = asked.recv() => {
                    // Whoever asked may be gone; it is done all the same.
                    let _ = answer.send(self.reload(changes).await);
                }
                else => return,
            }
        }
    }

    /// Reads everything again, with `changes` before all else, and puts it in force, or tells and logs why not.
    async fn reload(&self, changes: Vec<(String, String)>) -> Result<Arc<Loaded>, ControlError> {
        let outcome = match self.prepare(changes).await {
            Ok(prepared) => self.apply(prepared).await,
            Err(error) => Err(error),
        };
        self.metrics.reload_done(if outcome.is_ok() { "ok" } else { "refused" });
        match &outcome {
            Ok(_) => tracing::info!("reloaded"),
            Err(error) => tracing::error!(%error, "reload refused: all stays as it was"),
        }
        outcome.map_err(ControlError::from)
    }

    async fn prepare(&self, changes: Vec<(String, String)>) -> Result<Prepared, ReloadError> {
        let current = self.control.settings();
        let (objects, catalog) = (self.objects.clone(), self.catalog.clone());
        let (settings, checks, credentials, password) = tokio::task::spawn_blocking(move || {
            let newer = current.again(&changes)?;
            let (settings, left) = current.with_reloadable(&newer)?;
            if !left.is_empty() {
                tracing::warn!(keys = ?left, "these settings were changed too, and need a restart");
            }
            let checks = Checks::load(&settings.settings)?;
            let (credentials, password) = (objects.fresh_credentials()?, catalog.fresh_password()?);
            Ok::<_, ReloadError>((Arc::new(settings), checks, credentials, password))
        })
        .await??;
        let tls = match &self.config.tls {
            None => None,
            Some(files) => Some(load_tls(files.clone()).await??),
        };
        Ok(Prepared { tls, settings, checks, credentials, password })
    }

    /// Only the first step can fail, at the end of the server, and changes nothing then.
    async fn apply(&self, prepared: Prepared) -> Result<Arc<Loaded>, ReloadError> {
        self.control.set_checks(prepared.checks, prepared.settings.settings.rate_limits()).await?;
        if let Some(credentials) = prepared.credentials {
            self.objects.use_credentials(credentials);
        }
        if let Some(password) = prepared.password {
            self.catalog.use_password(password);
        }
        self.level.set(&prepared.settings.settings.log_level);
        self.control.set_settings(Arc::clone(&prepared.settings));
        if let (Some(identity), Some(rest)) = (prepared.tls, &self.rest_tls) {
            report(&identity, &self.metrics);
            rest.send_replace(identity.rest);
            for shard in self.link.shards() {
                // A shard that has ended takes no connections.
                let _ = self.link.deliver(shard, ToShard::Tls(Arc::clone(&identity.grpc))).await;
            }
        }
        Ok(prepared.settings)
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
