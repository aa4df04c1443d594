//! What the kernel counted: CPU and memory of the server, CPU of our own threads.

use std::{collections::BTreeMap, fs, io};

use serde::Serialize;

/// A process at one moment.
#[derive(Debug, Clone, Default)]
pub struct ProcessSample {
    /// User and system time of all its threads, ended ones too, in µs (in steps of a clock tick).
    pub cpu_us: u64,
    /// Memory in RAM, in bytes.
    pub rss_bytes: u64,
    /// By id: name, and what it used.
    pub threads: BTreeMap<u32, (String, ThreadTime)>,
}

/// What a thread used, in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// Time on a core.
    pub cpu_ns: u64,
    /// Time ready to run while others had the core. 0 where the kernel does not count it.
    pub waiting_ns: u64,
}

impl ThreadTime {
    /// What was used since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            waiting_ns: self.waiting_ns.saturating_sub(before.waiting_ns),
        }
    }

    fn parse(schedstat: &str) -> Self {
        let mut numbers = schedstat.split_whitespace().map(|number| number.parse().unwrap_or(0));
        Self { cpu_ns: numbers.next().unwrap_or(0), waiting_ns: numbers.next().unwrap_or(0) }
    }
}

/// A machine, as its kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The model of its cores.
    pub cpu: String,
    /// How many there are.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
}

/// This machine.
#[must_use]
pub fn machine() -> Machine {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = text("/proc/cpuinfo");
    let models: Vec<_> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, name)| name)
        .collect();
    Machine {
        cpu: models.first().map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned()),
        cores: cpus.lines().filter(|line| line.starts_with("processor")).count(),
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

/// Looks at process `pid`.
///
/// # Errors
/// It is not there, or not ours to look at.
pub fn sample(pid: u32) -> io::Result<ProcessSample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "/proc holds what it should not");
    let cpu_us = cpu_us(&stat, rustix::param::clock_ticks_per_second()).ok_or_else(odd)?;
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // A thread may end while we look.
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        let Ok(times) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        threads.insert(id, (name.trim_end().to_owned(), ThreadTime::parse(&times)));
    }
    Ok(ProcessSample { cpu_us, rss_bytes: rss_bytes(&status).ok_or_else(odd)?, threads })
}

/// Memory in RAM of process `pid`, in bytes; `None`: it is gone.
#[must_use]
pub fn rss(pid: u32) -> Option<u64> {
    rss_bytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn cpu_us(stat: &str, ticks_per_second: u64) -> Option<u64> {
    // The name is in parentheses and may hold spaces and parentheses itself.
    let after = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 1_000_000 / ticks_per_second.max(1))
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// What the calling thread used.
#[must_use]
pub fn this_thread() -> ThreadTime {
    let waiting_ns =
        fs::read_to_string("/proc/thread-self/schedstat").map_or(0, |times| ThreadTime::parse(&times).waiting_ns);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    ThreadTime { cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64, waiting_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 1 2 3";
        assert_eq!(cpu_us(stat, 100), Some(3_000_000));
        assert_eq!(cpu_us("7 (a", 100), None);
        assert_eq!(rss_bytes("VmHWM:\t9 kB\nVmRSS:\t   12 kB\n"), Some(12 << 10));
    }

    #[test]
    fn this_process_has_memory_and_a_thread() {
        let sample = sample(std::process::id()).expect("ours");
        assert!(sample.rss_bytes > 0);
        assert!(!sample.threads.is_empty());
        assert!(this_thread().cpu_ns > 0);
        let times = ThreadTime::parse("30 20 7\n");
        assert_eq!(times.since(ThreadTime { cpu_ns: 10, waiting_ns: 30 }), ThreadTime { cpu_ns: 20, waiting_ns: 0 });
    }
}
