//! A connection before its load begins: blocking, with a bound on every wait.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// See the module's comment.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// The server is not there.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .map_err(|error| io::Error::other(format!("cannot connect to {address}: {error}")))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, held: Vec::new() })
    }

    /// Sends.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads until `parse` makes something of the beginning of what came, and takes as much away as it says.
    ///
    /// # Errors
    /// The connection broke, or what `parse` says.
    pub fn read<T>(&mut self, mut parse: impl FnMut(&[u8]) -> io::Result<Option<(T, usize)>>) -> io::Result<T> {
        loop {
            if let Some((value, used)) = parse(&self.held)? {
                self.held.drain(..used);
                return Ok(value);
            }
            let mut part = [0; 16 << 10];
            match self.stream.read(&mut part)? {
                0 => return Err(io::Error::other("the server closed the connection")),
                n => self.held.extend_from_slice(&part[..n]),
            }
        }
    }

    /// The socket, non-blocking, and what was read and not taken.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn into_parts(self) -> io::Result<(TcpStream, Vec<u8>)> {
        self.stream.set_nonblocking(true)?;
        Ok((self.stream, self.held))
    }
}
