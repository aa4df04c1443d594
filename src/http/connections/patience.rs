//! A stream whose other side must take what is written: once nothing of it was taken for a while, writing fails. The while is
//! shorter for an answer whose memory other queries need.
//!
//! Without it, a client that asks and never reads holds a connection, and what was made for it, for ever: no other time limit
//! runs while an answer waits to be sent.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use ttdust_shards::memory::Patience;

/// How often a client that takes nothing is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The answer that a connection sends now, if it holds memory of queries. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<Option<Patience>>>);

impl UnderWay {
    /// The next answer is sent from now on.
    pub(super) fn set(&self, patience: Option<Patience>) {
        *self.lock() = patience;
    }

    /// The client took `bytes` more; whether it is to be ended.
    fn took(&self, bytes: usize) -> io::Result<()> {
        let mut answer = self.lock();
        let Some(patience) = &mut *answer else { return Ok(()) };
        if !patience.has_cause() {
            *answer = None;
            return Ok(());
        }
        let now = std::time::Instant::now();
        if bytes > 0 {
            patience.took(bytes, now);
        }
        patience.is_over(now).map_or(Ok(()), |reason| Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Patience>> {
        // Nothing can panic while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the file's comment. Reading is as it was.
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    answer: UnderWay,
    /// Runs from the moment that a write had to wait, until one went on: since when, and when to look.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Patient<S> {
    /// Writing to `stream` fails after it had to wait for `limit`, or for as long as what is sent may take.
    pub(super) fn new(stream: S, limit: Duration, answer: UnderWay) -> Self {
        Self { stream, limit, answer, waits: None }
    }

    /// What becomes of an attempt to write that ended so.
    fn judge_write(&mut self, cx: &mut Context<'_>, attempt: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = attempt {
            self.answer.took(bytes)?;
        }
        self.judge(cx, attempt)
    }

    /// What becomes of an attempt that ended so.
    fn judge<T>(&mut self, cx: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.waits = None;
            return attempt;
        }
        let look = LOOK.min(self.limit);
        let (since, timer) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(look))));
        loop {
            ready!(timer.as_mut().poll(cx));
            if since.elapsed() >= self.limit {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer");
                return Poll::Ready(Err(error));
            }
            self.answer.took(0)?;
            timer.as_mut().reset(Instant::now() + look);
        }
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
        self.judge_write(cx, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge_write(cx, attempt)
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
    use ttdust_shards::memory::{Held, Meter, Pool};

    use super::*;

    #[tokio::test]
    async fn the_time_runs_only_while_nothing_is_taken() {
        let (mut client, server) = duplex(16);
        let mut server = Patient::new(server, Duration::from_secs(3600), UnderWay::default());
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
        let mut server = Patient::new(server, Duration::from_millis(1), UnderWay::default());
        let error = server.write_all(&[7; 160]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }

    #[tokio::test]
    async fn an_answer_whose_memory_is_wanted_is_given_up_soon() {
        let pool = Pool::new(100);
        let meter = || Meter::new(Arc::clone(&pool), 80);
        let mut taken = meter().nothing();
        taken.more(80).expect("room");
        let held = Held::from(taken);
        let (client, server) = duplex(16);
        let answer = UnderWay::default();
        answer.set(Some(held.patience()));
        let mut server = Patient::new(server, Duration::from_secs(3600), answer.clone());
        let writing = async move { server.write_all(&[7; 160]).await };
        // Somebody else asks again and again, and is refused.
        let refused = async {
            for _ in 0..1500 {
                assert!(meter().nothing().more(40).is_err());
                sleep(Duration::from_millis(20)).await;
            }
        };
        let error = tokio::select! {
            written = writing => written.expect_err("nobody reads"),
            () = refused => panic!("it is held for 30 s"),
        };
        assert!(error.to_string().contains("memory for queries is short"), "{error}");
        // What holds nothing any more has all the time.
        drop(held);
        assert!(answer.took(0).is_ok());
        drop(client);
    }
}
