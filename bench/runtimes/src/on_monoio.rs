//! monoio: sockets by its `poll-io`, the log by its file.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt as _, rc::Rc};

use monoio::{
    IoUringDriver, RuntimeBuilder,
    buf::IoBuf,
    fs::File,
    io::IntoPollIo as _,
    net::{TcpListener, TcpStream},
};

use crate::{
    Job,
    frame::{Filled, Frame},
    log::{Disk, Log},
    service::{Task, serve},
};

#[allow(unsafe_code, reason = "the trait is unsafe")]
// SAFETY: the memory is on the heap and stays where it is while `Filled` moves; `len` bytes of it are initialised.
unsafe impl IoBuf for Filled {
    fn read_ptr(&self) -> *const u8 {
        self.as_ref().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len
    }
}

struct LogFile(File);

impl Disk for LogFile {
    type Frame = Frame;

    fn frame(&self) -> Frame {
        Frame::default()
    }

    async fn write(&self, frame: Frame, len: usize, offset: u64) -> io::Result<Frame> {
        let (written, filled) = self.0.write_at(Filled { frame, len }, offset).await;
        match written? {
            n if n == len => Ok(filled.frame),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Serves until the log fails.
pub fn run(job: Job) -> io::Result<()> {
    let mut ring = io_uring_of_monoio::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(1024).uring_builder(ring).build()?;
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&job.path)?;
    runtime.block_on(async move {
        let log = Log::new(LogFile(File::from_std(file)?), job.bytes);
        let commit = monoio::spawn(Rc::clone(&log).commit());
        monoio::spawn(accept(job.listener, log));
        Err(commit.await)
    })
}

async fn accept(listener: std::net::TcpListener, log: Rc<Log<LogFile>>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (socket, _): (TcpStream, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        monoio::spawn(serve(socket.into_poll_io()?, Rc::clone(&log), spawn));
    }
}

fn spawn(task: Task) {
    monoio::spawn(task);
}
