//! Tells the service manager (`sd_notify(3)`) when the server is ready, that it is alive, and when it stops.
//!
//! A sign of life is sent only after every shard has handled a message since the one before: when the control runtime or a
//! shard stands still, no sign comes, and the manager ends the process as a crash would, which loses nothing that was acked.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use tokio::time;

use crate::{config::ServiceManager, link::ShardLink};

/// Signs of life in the time after which the manager gives up: a busy machine may lose some of them.
const SIGNS: u32 = 6;
/// A manager that takes no message for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The line to the manager; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Manager(Option<Arc<ServiceManager>>);

impl Manager {
    /// The line to `manager`; `None`: there is nobody to tell.
    pub(super) fn new(manager: Option<ServiceManager>) -> Self {
        Self(manager.map(Arc::new))
    }

    /// The server takes requests.
    pub(super) async fn ready(&self) {
        self.tell("READY=1").await;
    }

    /// The server drains.
    pub(super) async fn stopping(&self) {
        self.tell("STOPPING=1").await;
    }

    /// Sends signs of life for as long as the server runs, if the manager wants them.
    pub(super) async fn keep_telling(self, link: ShardLink) {
        let Some(watchdog) = self.0.as_ref().and_then(|manager| manager.watchdog) else { return };
        let mut ticks = time::interval(watchdog / SIGNS);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Each shard for as long as it takes: one that stands still holds up the sign of them all.
            for shard in link.shards() {
                link.heard(shard).await;
            }
            self.tell("WATCHDOG=1").await;
        }
    }

    /// Sends what `state` says. A manager that cannot be told does by itself what it does about silence.
    async fn tell(&self, state: &str) {
        let Some(manager) = &self.0 else { return };
        let sent = time::timeout(PATIENCE, send(manager, state)).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            tracing::warn!(state, %error, "the service manager was not told");
        }
    }
}

/// By a socket of its own each time: the manager may have made its end anew.
async fn send(manager: &ServiceManager, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    match manager.socket.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(&manager.socket)?,
    }
    socket.set_nonblocking(true)?;
    tokio::net::UnixDatagram::from_std(socket)?.send(state.as_bytes()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tell(socket: &str, state: &str) -> io::Result<()> {
        send(&ServiceManager { socket: socket.into(), watchdog: None }, state).await
    }

    #[tokio::test]
    async fn a_socket_has_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("a socket");
        let name = format!("ttdust-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("a socket");
        for (at, socket) in [(path.to_str().expect("UTF-8").to_owned(), by_path), (format!("@{name}"), by_name)] {
            tell(&at, "READY=1").await.expect("sent");
            let mut told = [0; 64];
            let length = socket.recv(&mut told).expect("received");
            assert_eq!(&told[..length], b"READY=1", "{at}");
        }
        assert!(tell("/nowhere/at/all", "READY=1").await.is_err());
    }
}
