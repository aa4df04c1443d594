//! The log: requests gather in one frame while the frame before is being written, and are acked when theirs is on disk.
//!
//! Written round and round over one file of zeros, and never read: what is measured is the way in.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::{
    frame::{BLOCK_BYTES, FRAME_BYTES},
    service::Answers,
};

/// Before a frame's entries: its length, its checksum, the number of its first record.
const HEADER_BYTES: usize = 16;

/// Durable writes, as a runtime does them.
pub trait Disk: 'static {
    /// A frame of [`FRAME_BYTES`].
    type Frame: AsMut<[u8]> + 'static;

    /// Memory for a frame.
    fn frame(&self) -> Self::Frame;

    /// Writes the first `len` bytes to `offset`; they are on stable storage when this is done. Gives back a frame to be filled.
    ///
    /// # Errors
    /// The outcome is unknown.
    fn write(&self, frame: Self::Frame, len: usize, offset: u64) -> impl Future<Output = io::Result<Self::Frame>>;
}

/// An ack to be, of one request.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// The number of the first record.
    pub first: i64,
    /// How many.
    pub count: u32,
}

struct Open<F> {
    frame: F,
    used: usize,
    next: i64,
    first: i64,
    waiting: Vec<(Rc<Answers>, Ack)>,
    /// The other frame, while it is not on its way to disk.
    spare: Option<F>,
    committer: Option<Waker>,
}

/// See the module's comment.
pub struct Log<D: Disk> {
    disk: D,
    bytes: u64,
    open: RefCell<Open<D::Frame>>,
}

impl<D: Disk> Log<D> {
    /// A log of `bytes` on `disk`.
    pub fn new(disk: D, bytes: u64) -> Rc<Self> {
        let (frame, spare) = (disk.frame(), Some(disk.frame()));
        let open = Open { frame, used: HEADER_BYTES, next: 1, first: 1, waiting: Vec::new(), spare, committer: None };
        Rc::new(Self { disk, bytes, open: RefCell::new(open) })
    }

    /// Takes the records of a request, which `answers` hears of once they are on disk. False: the frame is full.
    pub fn append(&self, answers: &Rc<Answers>, payloads: &[Bytes]) -> bool {
        let open = &mut *self.open.borrow_mut();
        let need: usize = 4 + payloads.iter().map(|payload| 4 + payload.len()).sum::<usize>();
        if open.used + need > FRAME_BYTES {
            return false;
        }
        let mut rest = &mut open.frame.as_mut()[open.used..open.used + need];
        put(&mut rest, &(payloads.len() as u32).to_le_bytes());
        for payload in payloads {
            put(&mut rest, &(payload.len() as u32).to_le_bytes());
            put(&mut rest, payload);
        }
        open.used += need;
        let ack = Ack { first: open.next, count: payloads.len() as u32 };
        open.next += i64::from(ack.count);
        open.waiting.push((Rc::clone(answers), ack));
        if let Some(committer) = open.committer.take() {
            committer.wake();
        }
        true
    }

    /// Writes frame after frame; ends only by a failure.
    pub async fn commit(self: Rc<Self>) -> io::Error {
        let mut offset = 0;
        let mut acked = Vec::new();
        loop {
            let (frame, len) = std::future::poll_fn(|cx| self.poll_frame(cx, &mut acked)).await;
            if offset + len as u64 > self.bytes {
                offset = 0;
            }
            match self.disk.write(frame, len, offset).await {
                Ok(frame) => self.open.borrow_mut().spare = Some(frame),
                Err(error) => return error,
            }
            offset += len as u64;
            for (answers, ack) in acked.drain(..) {
                answers.put(ack);
            }
        }
    }

    /// The open frame, sealed, once something is in it; the spare one takes its place.
    fn poll_frame(&self, cx: &mut Context<'_>, acked: &mut Vec<(Rc<Answers>, Ack)>) -> Poll<(D::Frame, usize)> {
        let open = &mut *self.open.borrow_mut();
        if open.waiting.is_empty() {
            open.committer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let spare = open.spare.take().expect("one frame is written at a time");
        let mut frame = std::mem::replace(&mut open.frame, spare);
        let len = open.used.next_multiple_of(BLOCK_BYTES);
        let bytes = &mut frame.as_mut()[..len];
        bytes[open.used..].fill(0);
        bytes[..4].copy_from_slice(&(open.used as u32).to_le_bytes());
        bytes[8..HEADER_BYTES].copy_from_slice(&open.first.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[8..open.used]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        std::mem::swap(&mut open.waiting, acked);
        (open.used, open.first) = (HEADER_BYTES, open.next);
        Poll::Ready((frame, len))
    }
}

fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let (into, after) = std::mem::take(rest).split_at_mut(bytes.len());
    into.copy_from_slice(bytes);
    *rest = after;
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, pin::pin};

    use super::*;
    use crate::frame::Frame;

    /// A disk whose writes end when they are told to.
    #[derive(Clone, Default)]
    struct Slow {
        written: Rc<RefCell<Vec<(usize, u64)>>>,
        lets: Rc<Cell<usize>>,
    }

    impl Disk for Slow {
        type Frame = Frame;

        fn frame(&self) -> Frame {
            Frame::default()
        }

        async fn write(&self, frame: Frame, len: usize, offset: u64) -> io::Result<Frame> {
            self.written.borrow_mut().push((len, offset));
            std::future::poll_fn(|_| match self.lets.get().checked_sub(1) {
                Some(left) => {
                    self.lets.set(left);
                    Poll::Ready(())
                }
                None => Poll::Pending,
            })
            .await;
            Ok(frame)
        }
    }

    #[test]
    fn an_ack_waits_for_the_write_and_what_comes_meanwhile_goes_together() {
        let disk = Slow::default();
        let log = Log::new(disk.clone(), 2 * BLOCK_BYTES as u64);
        let answers = Rc::new(Answers::default());
        let mut commit = pin!(Rc::clone(&log).commit());
        let mut cx = Context::from_waker(Waker::noop());
        let record = Bytes::from_static(b"{}");
        let mut turn = |lets, count: usize| {
            for _ in 0..count {
                assert!(answers.append(&log, &[record.clone(), record.clone()]));
            }
            disk.lets.set(lets);
            assert!(commit.as_mut().poll(&mut cx).is_pending());
            answers.open()
        };
        assert_eq!(turn(0, 1), 1, "not acked before the write ended");
        assert_eq!(turn(0, 2), 3);
        assert_eq!(turn(1, 0), 2, "the first is acked, and the two go out");
        assert_eq!(turn(2, 0), 0);
        assert_eq!(turn(1, 1), 0);
        let block = BLOCK_BYTES as u64;
        // The third begins anew, where the file ends.
        assert_eq!(*disk.written.borrow(), [(BLOCK_BYTES, 0), (BLOCK_BYTES, block), (BLOCK_BYTES, 0)]);
    }
}
