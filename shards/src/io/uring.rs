//! The one hot disk operation: the durable write of a frame, from a shard's runtime.
//!
//! On io_uring it is one submission (with a second for the sync where a file's writes are not durable in themselves); on the
//! epoll backend it runs on a helper thread, so that the reactor never blocks. Neither future may be dropped before it ends.

use std::{
    future::{self, Future as _},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use compio_buf::BufResult;
use compio_driver::{DriverType, OpCode, ProactorBuilder, op};
use compio_runtime::{Runtime, RuntimeBuilder};

use crate::{
    io::{BLOCK_BYTES, Disk, DiskFile},
    wal::WriteOp,
};

/// Submission queue entries of a shard's ring.
const RING_ENTRIES: u32 = 1024;
/// Events of other threads that can wait for a shard's executor; the sender spins when they are full.
const WAKE_QUEUE: usize = 4096;

/// What to do where [`probe`] is refused.
pub const REMEDY: &str = "allow io_uring (kernel.io_uring_disabled = 0, a seccomp profile that permits io_uring_setup, \
                          io_uring_enter and io_uring_register, and enough locked memory: ulimit -l)";

/// A file as the driver wants it.
struct WriteFd(Arc<dyn DiskFile>);

impl AsFd for WriteFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.write_fd().expect("a shard's log is on the real disk")
    }
}

/// Builds a shard's runtime on the calling thread, which must be the one that runs it.
///
/// # Errors
/// The ring or the poller cannot be made.
pub fn build_runtime(driver: DriverType) -> io::Result<Runtime> {
    let mut proactor = ProactorBuilder::new();
    proactor.driver_type(driver).capacity(RING_ENTRIES).thread_pool_limit(4);
    if driver.is_iouring() {
        // Without the flag for task work, completions can wait for ever behind a busy run queue.
        proactor.single_issuer(true).defer_taskrun(true).taskrun_flag(true);
    }
    RuntimeBuilder::new().with_proactor(proactor).sync_queue_size(WAKE_QUEUE).build()
}

/// Writes a frame so that it is on stable storage when this returns `Ok`. A short write is a failure.
///
/// # Errors
/// The outcome is unknown: the caller must not write again.
pub async fn write_durable(driver: DriverType, write: &WriteOp) -> io::Result<()> {
    let file = Arc::clone(&write.segment.file);
    let (data, offset) = (write.data.clone(), write.offset);
    if !driver.is_iouring() {
        return compio_runtime::spawn_blocking(move || file.write_durable(&data, offset))
            .await
            .map_err(|_| io::Error::other("the log writer's thread ended"))?;
    }
    let len = data.len();
    let durable = file.writes_are_durable();
    let BufResult(written, _) = submit_now(op::WriteAt::new(WriteFd(Arc::clone(&file)), offset, data)).await;
    match written? {
        n if n == len => {}
        n => return Err(io::Error::new(io::ErrorKind::WriteZero, format!("short write: {n} of {len} bytes"))),
    }
    if !durable {
        compio_runtime::submit(op::Sync::new(WriteFd(file), true)).await.0?;
    }
    Ok(())
}

/// Runs an operation that the kernel gets at once: the driver by itself submits only after the tasks that are ready had their
/// turn, and the disk would idle for that long between two frames.
async fn submit_now<T: OpCode + 'static>(operation: T) -> BufResult<usize, T> {
    let mut submitted = std::pin::pin!(compio_runtime::submit(operation));
    let mut queued = false;
    future::poll_fn(|cx| {
        let polled = submitted.as_mut().poll(cx);
        if !std::mem::replace(&mut queued, true) {
            // What `flush` took up of wake-ups from other threads has to be told again, or the driver might sleep on them.
            Runtime::with_current(|runtime| {
                if runtime.flush() {
                    runtime.waker().wake();
                }
            });
        }
        polled
    })
    .await
}

/// Whether io_uring works here as a shard will use it: a ring of full size, a durable write to a file in `dir`, a timer.
/// Blocking; runs on a thread of its own, since a ring belongs to one thread.
///
/// # Errors
/// What was refused, for people.
pub fn probe(disk: &dyn Disk, dir: &Path) -> Result<(), String> {
    let path = dir.join("io-probe.tmp");
    let remove = || match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("cannot remove {path:?}: {error}")),
        _ => Ok(()),
    };
    remove()?;
    let file = disk.create(&path, BLOCK_BYTES as u64).map_err(|error| format!("cannot write {path:?}: {error}"))?;
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| probe_ring(file, &path)).join().unwrap_or_else(|_| Err("the probe panicked".to_owned()))
    });
    remove()?;
    outcome
}

fn probe_ring(file: Arc<dyn DiskFile>, path: &Path) -> Result<(), String> {
    let runtime = build_runtime(DriverType::IoUring).map_err(|error| format!("io_uring_setup: {error}"))?;
    let segment = Arc::new(crate::wal::segment::Segment {
        id: 0,
        epoch: None,
        path: path.to_owned(),
        file,
        bytes: BLOCK_BYTES as u64,
    });
    let mut block = bytes::BytesMut::zeroed(2 * BLOCK_BYTES);
    let misaligned = block.as_ptr().align_offset(BLOCK_BYTES);
    let data = block.split_off(misaligned).split_to(BLOCK_BYTES).freeze();
    let write = WriteOp { lsn: crate::wal::Lsn(0), segment, offset: 0, data };
    runtime.block_on(async {
        let write = write_durable(DriverType::IoUring, &write);
        match compio_runtime::time::timeout(Duration::from_secs(10), write).await {
            Ok(result) => result.map_err(|error| format!("io_uring write: {error}")),
            Err(_) => Err("an io_uring write did not end within 10 s".to_owned()),
        }
    })
}
