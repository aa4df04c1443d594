//! compio, as the server uses it: its own shim over the sockets, one submission a commit.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    rc::Rc,
};

use compio_buf::{BufResult, IoBuf};
use compio_driver::{DriverType, ProactorBuilder, op};
use compio_runtime::{RuntimeBuilder, fd::PollFd};

use crate::{
    Job,
    frame::{Filled, Frame},
    log::{Disk, Log},
    service::{Task, serve},
};

// The very file that the server runs on.
#[allow(dead_code, reason = "the server uses more of it")]
#[path = "../../../shards/src/grpc/transport.rs"]
mod transport;

#[derive(Clone)]
struct LogFd(Rc<File>);

impl AsFd for LogFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl IoBuf for Filled {
    fn as_init(&self) -> &[u8] {
        self.as_ref()
    }
}

impl Disk for LogFd {
    type Frame = Frame;

    fn frame(&self) -> Frame {
        Frame::default()
    }

    async fn write(&self, frame: Frame, len: usize, offset: u64) -> io::Result<Frame> {
        let write = op::WriteAt::new(self.clone(), offset, Filled { frame, len });
        let BufResult(written, write) = compio_runtime::submit(write).await;
        let filled = compio_buf::IntoInner::into_inner(write);
        match written? {
            n if n == len => Ok(filled.frame),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Serves until the log fails.
pub fn run(job: Job) -> io::Result<()> {
    let mut proactor = ProactorBuilder::new();
    proactor.driver_type(DriverType::IoUring).capacity(1024);
    proactor.single_issuer(true).defer_taskrun(true).taskrun_flag(true);
    let runtime = RuntimeBuilder::new().with_proactor(proactor).sync_queue_size(4096).build()?;
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&job.path)?;
    runtime.block_on(async {
        let log = Log::new(LogFd(Rc::new(file)), job.bytes);
        // The root future is polled on every turn: what is busy is spawned.
        let commit = compio_runtime::spawn(Rc::clone(&log).commit());
        compio_runtime::spawn(accept(job.listener, log)).detach();
        Err(commit.await.unwrap_or_else(|_| io::Error::other("the commit loop panicked")))
    })
}

async fn accept(listener: std::net::TcpListener, log: Rc<Log<LogFd>>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = PollFd::new(listener)?;
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                let transport = transport::Transport::new(socket)?;
                compio_runtime::spawn(serve(transport, Rc::clone(&log), spawn)).detach();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.accept_ready().await?,
            Err(error) => return Err(error),
        }
    }
}

fn spawn(task: Task) {
    compio_runtime::spawn(task).detach();
}
