//! A few ordinary threads for work that blocks or takes long: queries, schema compilation.
//!
//! The queue is bounded; what does not fit is refused. A panic in a job fails that job alone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;
use ttdust_shards::threads::{Turns, give_way, pin, take};

use crate::traces;

type Job = Box<dyn FnOnce() + Send>;

/// Why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// The queue is full; try again.
    #[error("too many jobs wait for a worker; try again")]
    Overloaded,
    /// The job panicked.
    #[error("the job failed inside the server; the log says where")]
    Panicked,
}

/// The threads; they end with the last handle.
#[derive(Debug, Clone)]
pub struct Workers {
    queue: Sender<Job>,
}

impl Workers {
    /// Starts `threads` workers, called `name`, on `cores`, with a queue of `waiting` jobs.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(name: &str, threads: usize, waiting: usize, cores: &[usize]) -> std::io::Result<Self> {
        Self::start_at(0, name, threads, waiting, cores)
    }

    /// The same, at a lower priority, by this much on the scale of `nice`.
    ///
    /// # Errors
    /// As there.
    pub fn start_at(nice: i32, name: &str, threads: usize, waiting: usize, cores: &[usize]) -> std::io::Result<Self> {
        let (queue, jobs) = bounded::<Job>(waiting);
        for n in 0..threads {
            let (jobs, cores) = (jobs.clone(), cores.to_vec());
            thread::Builder::new().name(format!("{name}-{n}")).spawn(move || work(&jobs, &cores, nice))?;
        }
        Ok(Self { queue })
    }

    /// Runs `job` on a worker.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, WorkerError> {
        let (answer, wait) = oneshot::channel();
        let job = traces::carried_over(job);
        let job: Job = Box::new(move || {
            // A caller that gave up is no fault.
            let _ = answer.send(job());
        });
        self.queue.try_send(job).map_err(|_| WorkerError::Overloaded)?;
        wait.await.map_err(|_| WorkerError::Panicked)
    }
}

fn work(jobs: &Receiver<Job>, cores: &[usize], nice: i32) {
    if nice > 0 {
        give_way(nice, Turns::Steady)
    } else {
        // Somebody waits for what it computes.
        take(Turns::Brief)
    }
    if let Err(error) = pin(cores) {
        tracing::warn!(?cores, %error, "a worker is not pinned");
    }
    for job in jobs {
        // The job owns all that it touches, so nothing half-changed is left behind.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a worker's job panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn jobs_run_and_a_panic_fails_one_alone() {
        let workers = Workers::start("test", 1, 4, &[]).expect("started");
        run(async {
            assert_eq!(workers.run(|| panic!("on purpose")).await, Err::<(), _>(WorkerError::Panicked));
            assert_eq!(workers.run(|| 7).await, Ok(7));
        });
    }

    #[test]
    fn a_full_queue_refuses() {
        let workers = Workers::start("test", 1, 1, &[]).expect("started");
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (started, running) = std::sync::mpsc::channel();
        run(async {
            let busy = workers.run(move || {
                started.send(()).expect("awaited");
                let _ = held.recv();
            });
            let mut busy = Box::pin(busy);
            assert!(futures_util::poll!(&mut busy).is_pending());
            running.recv().expect("the worker runs it");
            let mut waiting = Box::pin(workers.run(|| 1));
            assert!(futures_util::poll!(&mut waiting).is_pending());
            assert_eq!(workers.run(|| 2).await, Err(WorkerError::Overloaded));
            drop(hold);
            assert_eq!(busy.await, Ok(()));
            assert_eq!(waiting.await, Ok(1));
        });
    }
}
