//! tokio's single-threaded runtime for the sockets, and a ring of its own for the log, which is waited for as a descriptor.

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::OpenOptionsExt as _,
    },
    rc::Rc,
};

use io_uring::{IoUring, opcode, types::Fd};
use tokio::{io::unix::AsyncFd, net::TcpListener, task::LocalSet};

use crate::{
    Job,
    frame::{BLOCK_BYTES, Frame},
    log::{Disk, Log},
    service::{Task, serve},
};

struct Ring(RefCell<IoUring>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.borrow().as_raw_fd()
    }
}

struct LogFile {
    ring: AsyncFd<Ring>,
    file: File,
}

impl LogFile {
    fn submit(&self, frame: &Frame, len: usize, offset: u64) -> io::Result<()> {
        debug_assert!(len.is_multiple_of(BLOCK_BYTES));
        let write =
            opcode::Write::new(Fd(self.file.as_raw_fd()), frame.as_ref().as_ptr(), len as u32).offset(offset).build();
        let mut ring = self.ring.get_ref().0.borrow_mut();
        #[allow(unsafe_code, reason = "a ring is given addresses")]
        // SAFETY: the frame's memory stays where it is, and the frame is held, until the completion came: the future that
        // waits for it is only dropped with the process.
        let pushed = unsafe { ring.submission().push(&write) };
        pushed.map_err(io::Error::other)?;
        ring.submit().map(drop)
    }

    fn completed(&self) -> Option<i32> {
        self.ring.get_ref().0.borrow_mut().completion().next().map(|entry| entry.result())
    }
}

impl Disk for LogFile {
    type Frame = Frame;

    fn frame(&self) -> Frame {
        Frame::default()
    }

    async fn write(&self, frame: Frame, len: usize, offset: u64) -> io::Result<Frame> {
        self.submit(&frame, len, offset)?;
        let result = loop {
            if let Some(result) = self.completed() {
                break result;
            }
            let mut ready = self.ring.readable().await?;
            match self.completed() {
                Some(result) => break result,
                None => ready.clear_ready(),
            }
        };
        match usize::try_from(result) {
            Ok(n) if n == len => Ok(frame),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }
}

/// Serves until the log fails.
pub fn run(job: Job) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&job.path)?;
    job.listener.set_nonblocking(true)?;
    LocalSet::new().block_on(&runtime, async move {
        let ring = IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(64)?;
        #[allow(unsafe_code, reason = "a descriptor is watched for as long as it is open")]
        // SAFETY: the ring owns its descriptor, and lives as long as what watches it.
        let ring = unsafe { AsyncFd::register(Ring(RefCell::new(ring))) }?;
        let log = Log::new(LogFile { ring, file }, job.bytes);
        let commit = tokio::task::spawn_local(Rc::clone(&log).commit());
        tokio::task::spawn_local(accept(TcpListener::from_std(job.listener)?, log));
        Err(commit.await.unwrap_or_else(io::Error::other))
    })
}

async fn accept(listener: TcpListener, log: Rc<Log<LogFile>>) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::task::spawn_local(serve(socket, Rc::clone(&log), spawn));
    }
}

fn spawn(task: Task) {
    tokio::task::spawn_local(task);
}
