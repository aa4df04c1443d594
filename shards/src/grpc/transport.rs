//! A socket as h2 wants it: `recv` and `writev` without waiting, and the driver's readiness when there is nothing to do.

use std::{
    io,
    net::TcpStream,
    pin::Pin,
    task::{Context, Poll, ready},
};

use compio_runtime::fd::PollFd;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connected socket on a shard's runtime.
#[derive(Debug)]
pub struct Transport {
    socket: PollFd<TcpStream>,
    /// The last read was short, so the socket is drained: wait before the next read instead of trying.
    drained: bool,
    /// When the bytes last written or the wait for room began; for the write stall check.
    blocked: bool,
}

impl Transport {
    /// Wraps a socket and makes it non-blocking, without Nagle's delay.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket: PollFd::new(socket)?, drained: false, blocked: false })
    }
}

impl Transport {
    /// The first byte that the peer sends, left in the socket; `None`: it closed instead.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        loop {
            match rustix::net::recv(&*self.socket, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Ok((_, n)) => return Ok((n > 0).then_some(byte[0])),
                Err(rustix::io::Errno::AGAIN) => self.socket.read_ready().await?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.drained {
                ready!(self.socket.poll_read_ready(cx))?;
                self.drained = false;
            }
            let room = buf.remaining();
            #[allow(
                unsafe_code,
                reason = "hands out memory that is not initialised, to a function that takes just that"
            )]
            // SAFETY: rustix only writes to the slice, so nothing is de-initialised.
            let spare = unsafe { buf.unfilled_mut() };
            match rustix::net::recv(&*self.socket, spare, RecvFlags::DONTWAIT) {
                Ok((_, n)) => {
                    self.drained = n < room && n > 0;
                    #[allow(unsafe_code, reason = "avoids zeroing each read buffer before the kernel fills it")]
                    // SAFETY: the kernel has just written the first `n` bytes of the unfilled part.
                    unsafe {
                        buf.assume_init(n);
                    }
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::AGAIN) => self.drained = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.blocked {
                ready!(self.socket.poll_write_ready(cx))?;
                self.blocked = false;
            }
            match rustix::io::writev(&*self.socket, data) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(rustix::io::Errno::AGAIN) => self.blocked = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.socket.shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}
