//! A door between a server and a Postgres that other tests use too: open, frozen like a stopped process, or closed like none.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{net::SocketAddr, path::PathBuf};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// How the door stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Everything passes.
    Open,
    /// Connections are taken and stay, and nothing passes: what `kill -STOP` makes of a server.
    Frozen,
    /// Connections are cut and refused.
    Closed,
}

/// The door.
pub struct Gate {
    door: watch::Sender<Door>,
    /// Where it stands on 127.0.0.1.
    pub port: u16,
}

impl Gate {
    /// An open door to the Postgres whose socket this is.
    pub fn new((dir, port): (PathBuf, u16)) -> Self {
        let (door, changes) = watch::channel(Door::Open);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let socket = dir.join(format!(".s.PGSQL.{port}"));
        // Ends when the door is dropped.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                stand(listener, address, socket, changes).await
            });
        });
        Self { door, port: address.port() }
    }

    /// Opens, freezes or closes it.
    pub fn set(&self, door: Door) {
        self.door.send_replace(door);
    }
}

async fn stand(first: TcpListener, address: SocketAddr, socket: PathBuf, mut door: watch::Receiver<Door>) {
    let mut listener = Some(first);
    loop {
        let taken = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            taken = taken => {
                if let Some((client, _)) = taken {
                    tokio::spawn(pass(client, socket.clone(), door.clone()));
                }
            }
            changed = door.changed() => {
                if changed.is_err() {
                    return;
                }
                let closed = *door.borrow_and_update() == Door::Closed;
                listener = match listener.take() {
                    _ if closed => None,
                    Some(listener) => Some(listener),
                    None => Some(TcpListener::bind(address).await.expect("the same port again")),
                };
            }
        }
    }
}

/// One connection, until either end or the closed door ends it.
async fn pass(client: TcpStream, socket: PathBuf, mut door: watch::Receiver<Door>) {
    let closed = {
        let mut door = door.clone();
        async move {
            // No door any more: as good as a closed one.
            let _ = door.wait_for(|door| *door == Door::Closed).await;
        }
    };
    let through = async {
        door.wait_for(|door| *door == Door::Open).await.ok()?;
        let server = UnixStream::connect(socket).await.ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            _ = copy(from_client, to_server, door.clone()) => {}
            _ = copy(from_server, to_client, door.clone()) => {}
        }
        Some(())
    };
    tokio::select! {
        _ = through => {}
        () = closed => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut door: watch::Receiver<Door>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 || door.wait_for(|door| *door == Door::Open).await.is_err() {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
