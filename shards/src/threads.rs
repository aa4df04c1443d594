//! Where a thread runs, and how it shares its core with others.
//!
//! Invariant: a thread inherits all of this from the one that started it, so whoever starts a thread for heavy work sets it.

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};

/// The shortest slice that Linux's scheduler takes (kernel/sched/syscalls.c: 100 µs to 100 ms).
const PROMPT_SLICE_NANOS: u64 = 100_000;
/// Well below the system's own, which is about 3 ms, and well above that of those who may cut it short.
const BRIEF_SLICE_NANOS: u64 = 500_000;
/// And the longest.
const LONG_SLICE_NANOS: u64 = 100_000_000;

/// How long a thread that gives way works before it offers its core to others.
const WORK_MAX: Duration = Duration::from_micros(200);

thread_local! {
    /// When this thread last offered its core; `None`: it does not give way.
    static OFFERED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// How a thread takes its turns on a core that others want too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// Short ones, which come soon after it wakes up: for threads that answer somebody.
    Prompt,
    /// Short ones too, which the prompt cut shorter: for threads that compute an answer.
    Brief,
    /// The system's default.
    Steady,
    /// Long ones, which anyone who wakes up cuts short: for threads that work through something for nobody who waits.
    Long,
}

/// Pins the calling thread, and all threads that it starts later, to `cores`. Empty: no change.
///
/// # Errors
/// A core is not there, or not in the process's cpuset.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Leaves the core to whoever else wants it, and from now on at each [`offer`]: `nice` is from 0 to 19, added to nothing. At
/// worst the thread runs as everyone does, which is logged.
pub fn give_way(nice: i32, turns: Turns) {
    take(turns);
    OFFERED.set(Some(Instant::now()));
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::warn!(nice, %error, "a background thread runs at the priority of all others");
    }
}

/// Between two small pieces of work: lets whoever waits for the core have it, if this thread gives way and has worked for a
/// while. Returns whether it did.
///
/// Few kernels end a turn at the microsecond it is over (`HRTICK`); most do at the next tick, 1 to 10 ms away. Whoever gets a turn
/// by fairness, however small its share, therefore has all of that time, while a thread that answers somebody stands ready.
pub fn offer() -> bool {
    let is_time = OFFERED.get().is_some_and(|last| last.elapsed() >= WORK_MAX);
    if is_time {
        std::thread::yield_now();
        OFFERED.set(Some(Instant::now()));
    }
    is_time
}

/// Sets how the calling thread, and all threads that it starts later, take their turns. A thread's share of its core stays the
/// same. Linux before 6.12 pays no attention to it, and where the system forbids it nothing changes: that is slower, not wrong.
///
/// The scheduler (EEVDF: Stoica and Abdel-Wahab, 1995) runs next whoever's deadline is nearest, and the deadline is a slice
/// away: one who asks for a little at a time gets it soon, and cuts short whoever asks for more. The kernel's own workers, which
/// finish a durable write, ask for the default.
pub fn take(turns: Turns) {
    let slice_nanos = match turns {
        Turns::Prompt => PROMPT_SLICE_NANOS,
        Turns::Brief => BRIEF_SLICE_NANOS,
        Turns::Steady => 0,
        Turns::Long => LONG_SLICE_NANOS,
    };
    if let Err(error) = set_slice(slice_nanos) {
        tracing::debug!(?turns, %error, "the scheduler does not take a slice for a thread");
    }
}

/// Sets the calling thread's slice; 0: the system's own. Policy and priority stay what they are.
fn set_slice(nanos: u64) -> io::Result<()> {
    let mut attributes = attributes()?;
    attributes.sched_runtime = nanos;
    // SAFETY: the kernel reads `attributes`, whose size it is told in it, and changes the calling thread alone.
    #[allow(unsafe_code, reason = "no safe crate has this call")]
    let failed = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The calling thread's attributes.
fn attributes() -> io::Result<libc::sched_attr> {
    let bytes = size_of::<libc::sched_attr>();
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `bytes` bytes, which is how long `attributes` is.
    #[allow(unsafe_code, reason = "no safe crate has this call")]
    let failed = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, bytes, 0) };
    if failed == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's release as (major, minor).
    fn release() -> (u32, u32) {
        let system = rustix::system::uname();
        let text = system.release().to_string_lossy();
        let mut numbers = text.split('.').map(|part| part.parse().expect("a number"));
        (numbers.next().expect("major"), numbers.next().expect("minor"))
    }

    #[test]
    fn a_slice_is_set_inherited_and_taken_back() {
        let slice = || attributes().expect("attributes").sched_runtime;
        take(Turns::Prompt);
        if release() >= (6, 12) {
            assert_eq!(slice(), PROMPT_SLICE_NANOS);
            assert_eq!(std::thread::spawn(slice).join().expect("joined"), PROMPT_SLICE_NANOS);
        }
        take(Turns::Steady);
        assert_ne!(slice(), PROMPT_SLICE_NANOS);
    }

    #[test]
    fn whoever_gives_way_is_nicer_and_takes_long_turns() {
        take(Turns::Prompt);
        give_way(7, Turns::Long);
        let now = attributes().expect("attributes");
        assert_eq!(now.sched_nice, 7);
        if release() >= (6, 12) {
            assert_eq!(now.sched_runtime, LONG_SLICE_NANOS);
        }
    }

    #[test]
    fn only_who_gives_way_offers_its_core_and_not_too_often() {
        std::thread::spawn(|| {
            let begun = Instant::now();
            while begun.elapsed() < 2 * WORK_MAX {
                assert!(!offer(), "it gives way to nobody");
            }
            give_way(1, Turns::Steady);
            let begun = Instant::now();
            let mut calls = 0u128;
            for _ in 0..5 {
                while !offer() {
                    calls += 1;
                    assert!(begun.elapsed() < Duration::from_secs(30), "it never offers its core");
                }
            }
            assert!(begun.elapsed() >= 4 * WORK_MAX, "five offers after {calls} calls in {:?}", begun.elapsed());
        })
        .join()
        .expect("joined");
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        assert!(pin(&[1023]).is_err());
        assert!(pin(&[]).is_ok());
    }
}
