//! A door to a server that comes back on another port: clients go through it to the one that is there now.

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// The door.
pub struct Door {
    /// Where clients knock.
    pub address: String,
    behind: Arc<Mutex<String>>,
}

impl Door {
    /// A door to the server at this address. It stands until the test's end.
    pub fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let door = Self {
            address: listener.local_addr().expect("an address").to_string(),
            behind: Arc::new(Mutex::new(address.to_owned())),
        };
        let behind = Arc::clone(&door.behind);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let address = behind.lock().expect("no panic holds it").clone();
                // With nobody behind it, it is shut in the client's face.
                if let Ok(server) = TcpStream::connect(address) {
                    pass(client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
                    pass(server, client);
                }
            }
        });
        door
    }

    /// From now on it leads there.
    pub fn lead_to(&self, address: &str) {
        *self.behind.lock().expect("no panic holds it") = address.to_owned();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        // However it ends, the other end is told.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}
