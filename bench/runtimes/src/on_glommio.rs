//! glommio: its own sockets through the adapter of `tokio-util`, the log as a `DmaFile`.

use std::{
    io,
    os::fd::{FromRawFd as _, IntoRawFd as _},
    rc::Rc,
};

use glommio::{
    LocalExecutorBuilder, Placement,
    io::{DmaBuffer, DmaFile, OpenOptions},
    net::TcpListener,
};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use crate::{
    Job,
    frame::FRAME_BYTES,
    log::{Disk, Log},
    service::{Task, serve},
};

struct DmaFrame(DmaBuffer);

impl AsMut<[u8]> for DmaFrame {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

struct LogFile(DmaFile);

impl Disk for LogFile {
    type Frame = DmaFrame;

    fn frame(&self) -> DmaFrame {
        DmaFrame(self.0.alloc_dma_buffer(FRAME_BYTES))
    }

    /// The buffer is gone afterwards: that is glommio's way, and the next one costs an allocation.
    async fn write(&self, mut frame: DmaFrame, len: usize, offset: u64) -> io::Result<DmaFrame> {
        frame.0.trim_to_size(len);
        match self.0.write_at(frame.0, offset).await {
            Ok(n) if n == len => Ok(self.frame()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Serves until the log fails.
pub fn run(job: Job) -> io::Result<()> {
    let executor = LocalExecutorBuilder::new(Placement::Fixed(job.core)).make().map_err(io::Error::from)?;
    executor.run(async move {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_DSYNC);
        let file = options.dma_open(&job.path).await.map_err(io::Error::from)?;
        let log = Log::new(LogFile(file), job.bytes);
        let commit = glommio::spawn_local(Rc::clone(&log).commit());
        glommio::spawn_local(accept(job.listener, log)).detach();
        Err(commit.await)
    })
}

async fn accept(listener: std::net::TcpListener, log: Rc<Log<LogFile>>) -> io::Result<()> {
    #[allow(unsafe_code, reason = "the only way to a listener that is there already")]
    // SAFETY: the descriptor is a listening socket, and ours alone from here on.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    loop {
        let socket = listener.accept().await.map_err(io::Error::from)?;
        socket.set_nodelay(true).map_err(io::Error::from)?;
        glommio::spawn_local(serve(socket.compat(), Rc::clone(&log), spawn)).detach();
    }
}

fn spawn(task: Task) {
    glommio::spawn_local(task).detach();
}
