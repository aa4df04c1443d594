//! What the kernel counted: CPU time of a server with all its processes, and of this thread; and where this thread runs.

use std::{fs, io, time::Instant};

use rustix::thread::CpuSet;

/// CPU time used in the window.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// By the server's processes, in µs; `None`: not watched.
    pub server_us: Option<u64>,
    /// The server's memory in RAM at the window's end, in bytes, pages that its processes share counted for each.
    pub server_rss_bytes: Option<u64>,
    /// By this thread, in µs.
    pub load_us: u64,
    /// How long the window was, in µs.
    pub window_us: u64,
}

/// Runs this thread on `core`.
///
/// # Errors
/// There is no such core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::other(format!("there is no core {core}")));
    }
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores)
        .map_err(|error| io::Error::other(format!("cannot run on core {core}: {error}")))
}

/// Looks at both ends of the window.
///
/// # Errors
/// The server is not there.
pub async fn watch(server: Option<u32>, from: Instant, to: Instant) -> io::Result<Used> {
    tokio::time::sleep_until(from.into()).await;
    let (began, load, before) = (Instant::now(), this_thread_us(), server.map(cpu_us).transpose()?);
    tokio::time::sleep_until(to.into()).await;
    let after = server.map(cpu_us).transpose()?;
    Ok(Used {
        server_us: after.zip(before).map(|(after, before)| after.saturating_sub(before)),
        server_rss_bytes: server.map(rss_bytes),
        load_us: this_thread_us() - load,
        window_us: began.elapsed().as_micros() as u64,
    })
}

fn this_thread_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// User and system time of a process, of the children that it waited for, and of all that descend from it, in µs.
fn cpu_us(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|error| io::Error::other(format!("cannot look at process {pid} of --server-pid: {error}")))?;
    let ticks = ticks(&stat).ok_or_else(|| io::Error::other("/proc holds what it should not"))?;
    let own = ticks * 1_000_000 / rustix::param::clock_ticks_per_second();
    // A child may end while we look; what it used then counts for its parent.
    Ok(own + children(pid).into_iter().filter_map(|child| cpu_us(child).ok()).sum::<u64>())
}

fn rss_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    (kib << 10) + children(pid).into_iter().map(rss_bytes).sum::<u64>()
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn ticks(stat: &str) -> Option<u64> {
    // The name is in parentheses and may hold spaces and parentheses itself.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    fields.get(11..15)?.iter().map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_with_its_children() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 3 4 20 0 1 0 1 2 3";
        assert_eq!(ticks(stat), Some(307));
        assert_eq!(ticks("7 (a"), None);
        assert!(cpu_us(std::process::id()).is_ok());
        assert!(rss_bytes(std::process::id()) > 0);
    }
}
