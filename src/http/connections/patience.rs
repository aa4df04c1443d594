//! A stream whose other side must take what is written: once nothing of it was taken for a while, writing fails.
//!
//! Without it, a client that asks and never reads holds a connection, and what was made for it, for ever: no other time limit
//! runs while an answer waits to be sent.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// See the file's comment. Reading is as it was.
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    /// Runs from the moment that a write had to wait, until one went on.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Writing to `stream` fails after it had to wait for `limit`.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waits: None }
    }

    /// What becomes of an attempt that ended so.
    fn judge<T>(&mut self, cx: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.waits = None;
            return attempt;
        }
        let limit = self.limit;
        ready!(self.waits.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, attempt)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, attempt)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn the_time_runs_only_while_nothing_is_taken() {
        let (mut client, server) = duplex(16);
        let mut server = Patient::new(server, Duration::from_secs(3600));
        server.write_all(&[7; 16]).await.expect("there is room");
        assert!(futures_util::poll!(std::pin::pin!(server.write_all(&[7; 16]))).is_pending());
        assert!(server.waits.is_some(), "it runs");
        client.read_exact(&mut [0; 8]).await.expect("bytes");
        server.write_all(&[7; 8]).await.expect("there is room again");
        assert!(server.waits.is_none(), "and begins anew with the next wait");
    }

    #[tokio::test]
    async fn a_write_of_which_nothing_is_taken_fails() {
        let (client, server) = duplex(16);
        let mut server = Patient::new(server, Duration::from_millis(1));
        let error = server.write_all(&[7; 160]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
