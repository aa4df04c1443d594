//! A door between a server and a Postgres that other tests use too: open, frozen like a stopped process, or closed like none. It
//! may ask for a password, which the Postgres behind it does not.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

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

/// The password that lets in; `None`: none is asked for.
type Wanted = Arc<Mutex<Option<String>>>;

/// The door.
pub struct Gate {
    door: watch::Sender<Door>,
    password: Wanted,
    /// Where it stands on 127.0.0.1.
    pub port: u16,
}

impl Gate {
    /// An open door to the Postgres whose socket this is.
    pub fn new((dir, port): (PathBuf, u16)) -> Self {
        let (door, changes) = watch::channel(Door::Open);
        let password = Wanted::default();
        let wanted = Arc::clone(&password);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let socket = dir.join(format!(".s.PGSQL.{port}"));
        // Ends when the door is dropped.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                stand(listener, address, (socket, wanted), changes).await
            });
        });
        Self { door, password, port: address.port() }
    }

    /// Lets those in alone, from now on, who have this password.
    pub fn ask_for(&self, password: &str) {
        *self.password.lock().expect("whole") = Some(password.to_owned());
    }

    /// Opens, freezes or closes it.
    pub fn set(&self, door: Door) {
        self.door.send_replace(door);
    }
}

async fn stand(first: TcpListener, address: SocketAddr, behind: (PathBuf, Wanted), mut door: watch::Receiver<Door>) {
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
                    tokio::spawn(pass(client, behind.clone(), door.clone()));
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
async fn pass(mut client: TcpStream, (socket, wanted): (PathBuf, Wanted), mut door: watch::Receiver<Door>) {
    let closed = {
        let mut door = door.clone();
        async move {
            // No door any more: as good as a closed one.
            let _ = door.wait_for(|door| *door == Door::Closed).await;
        }
    };
    let through = async {
        door.wait_for(|door| *door == Door::Open).await.ok()?;
        let wanted = wanted.lock().expect("whole").clone();
        let startup = match wanted {
            Some(wanted) => admit(&mut client, &wanted).await.ok()??,
            None => Vec::new(),
        };
        let mut server = UnixStream::connect(socket).await.ok()?;
        server.write_all(&startup).await.ok()?;
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

/// Asks for a password, and gives what the client began with if it is the right one.
async fn admit(client: &mut TcpStream, wanted: &str) -> std::io::Result<Option<Vec<u8>>> {
    async fn rest(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
        let mut message = client.read_u32().await?.to_be_bytes().to_vec();
        let length = u32::from_be_bytes([message[0], message[1], message[2], message[3]]) as usize;
        message.resize(length, 0);
        client.read_exact(&mut message[4..]).await?;
        Ok(message)
    }
    let startup = rest(client).await?;
    // AuthenticationCleartextPassword.
    client.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    assert_eq!(client.read_u8().await?, b'p', "a password");
    if rest(client).await?[4..] == [wanted.as_bytes(), b"\0"].concat() {
        return Ok(Some(startup));
    }
    let fields = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0";
    client.write_all(&[b"E", &(4 + fields.len() as u32).to_be_bytes()[..], fields].concat()).await?;
    Ok(None)
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
