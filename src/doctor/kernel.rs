//! The kernel's version, io_uring by the server's own probe, and the limits of the process.

use std::{fs, path::Path};

use rustix::process::{Resource, getrlimit};
use ttdust_shards::{
    config::IoChoice,
    io::{real::RealDisk, uring},
};

use super::{Check, Subject};

const VERSION: &str = "kernel";
const URING: &str = "io_uring";
const MEMLOCK: &str = "memlock";
const NOFILE: &str = "open_files";
/// The ring that a shard makes needs it (`IORING_SETUP_DEFER_TASKRUN`).
const RING: (u32, u32) = (6, 1);
/// The scheduler takes slices of threads from here on.
const SLICES: (u32, u32) = (6, 12);
/// From here on rings do not count as locked memory.
const RINGS_NOT_LOCKED: (u32, u32) = (5, 12);
/// What a shard's ring takes, with room to spare.
const RING_BYTES: u64 = 1 << 20;
/// Open files other than connections: segments, files that are read, pools.
const FILES_BASE: u64 = 512;

/// Major and minor version of the running kernel; none: it is written in another way.
fn running() -> (String, Option<(u32, u32)>) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let parsed = parse(&release);
    (release, parsed)
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn version() -> Check {
    let (release, version) = running();
    judged(&release, version)
}

fn judged(release: &str, version: Option<(u32, u32)>) -> Check {
    const REMEDY: &str = "run Linux 6.12 or newer, if acks are to be as quick as they can be";
    match version {
        None => Check::warning(VERSION, format!("Linux {release}: no version is known in it"), REMEDY),
        Some(version) if version < RING => {
            let found = format!("Linux {release}: io_uring lacks what shards use of it, and threads take no slices");
            Check::warning(VERSION, found, REMEDY)
        }
        Some(version) if version < SLICES => {
            let found = format!("Linux {release} has io_uring, but its scheduler takes no slices of threads");
            Check::warning(VERSION, found, REMEDY)
        }
        Some(_) => Check::ok(VERSION, format!("Linux {release} has io_uring and slices of threads")),
    }
}

/// Whether io_uring works as a shard will use it, with a file in `dir`.
pub(super) fn uring(choice: IoChoice, dir: Option<&Path>) -> Check {
    if choice == IoChoice::Epoll {
        return Check::ok(URING, "not used: shards.io = epoll");
    }
    let Some(dir) = dir else {
        return Check::warning(URING, "not probed: there is no folder to write in", "see to data_dir first");
    };
    let Err(reason) = uring::probe(&RealDisk::default(), dir) else {
        return Check::ok(URING, "the probe of the server's start passed");
    };
    let (cause, remedy) = cause();
    if choice == IoChoice::Uring {
        let found = format!("{reason}; {cause}; shards.io = uring refuses the start");
        return Check::failed(URING, found, format!("{remedy}, or set shards.io = auto"));
    }
    Check::warning(URING, format!("{reason}; {cause}; the server runs on epoll, which is slower"), remedy)
}

/// What is known of why it is refused, and what to do.
fn cause() -> (String, String) {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let disabled = disabled.trim();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let seccomp = field(&status, "Seccomp:").unwrap_or("unknown");
    let memlock = shown(getrlimit(Resource::Memlock).current);
    let cause = format!(
        "kernel.io_uring_disabled = {}, seccomp {}, locked memory {memlock}",
        if disabled.is_empty() { "unknown" } else { disabled },
        match seccomp {
            "0" => "off",
            "2" => "filter on",
            other => other,
        }
    );
    let remedy = match (disabled, seccomp) {
        ("1" | "2", _) => "sysctl kernel.io_uring_disabled=0",
        (_, "2") => "let the container's seccomp profile permit io_uring_setup, io_uring_enter and io_uring_register",
        _ => uring::REMEDY,
    };
    (cause, remedy.to_owned())
}

/// A field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

pub(super) fn limits(subject: &Subject) -> Vec<Check> {
    let shards = subject.config.as_ref().map_or(1, |config| config.engine.shard_cores.len()) as u64;
    let settings = &subject.loaded.settings;
    let connections = shards * settings.limit_connections as u64 + settings.limit_http_connections as u64;
    let version = running().1.unwrap_or_default();
    vec![
        memlock(getrlimit(Resource::Memlock).current, version, shards),
        open_files(getrlimit(Resource::Nofile).current, connections),
    ]
}

fn memlock(limit: Option<u64>, version: (u32, u32), shards: u64) -> Check {
    let found = format!("{} bytes", shown(limit));
    if version >= RINGS_NOT_LOCKED {
        return Check::ok(MEMLOCK, format!("{found}; io_uring needs none of it on this kernel"));
    }
    let needed = shards * RING_BYTES;
    if limit.is_none_or(|limit| limit >= needed) {
        return Check::ok(MEMLOCK, found);
    }
    let remedy = format!("raise it to {needed} (systemd LimitMEMLOCK, docker --ulimit memlock, ulimit -l)");
    Check::warning(MEMLOCK, format!("{found}: less than the rings of {shards} shards take"), remedy)
}

fn open_files(limit: Option<u64>, connections: u64) -> Check {
    let needed = connections + FILES_BASE;
    let found = format!("{} open files; {connections} connections are allowed", shown(limit));
    if limit.is_none_or(|limit| limit >= needed) {
        return Check::ok(NOFILE, found);
    }
    let remedy = format!(
        "raise it to {needed} (systemd LimitNOFILE, docker --ulimit nofile, ulimit -n), or lower limits.connections and \
         limits.http_connections"
    );
    Check::warning(NOFILE, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn kernels_are_told_apart() {
        for (release, version) in
            [("6.18.44-fc", Some((6, 18))), ("6.1", Some((6, 1))), ("6.12-rc1", Some((6, 12))), ("x", None)]
        {
            assert_eq!(parse(release), version, "{release}");
        }
        let verdict = |version| judged("it", version).verdict;
        assert_eq!(verdict(Some((6, 12))), Verdict::Ok);
        for version in [Some((6, 11)), Some((5, 15)), None] {
            assert_eq!(verdict(version), Verdict::Warning, "{version:?}");
        }
    }

    #[test]
    fn limits_are_held_against_what_is_needed() {
        assert_eq!(memlock(Some(64 << 10), (6, 1), 64).verdict, Verdict::Ok);
        assert_eq!(memlock(Some(64 << 10), (5, 4), 1).verdict, Verdict::Warning);
        assert_eq!(memlock(None, (5, 4), 64).verdict, Verdict::Ok);
        assert_eq!(open_files(Some(1024), 5120).verdict, Verdict::Warning);
        assert_eq!(open_files(Some(1 << 20), 5120).verdict, Verdict::Ok);
        assert_eq!(open_files(None, 5120).verdict, Verdict::Ok);
    }

    #[test]
    fn a_field_is_the_whole_name() {
        assert_eq!(field("Seccomp:\t2\nSeccomp_filters:\t1\n", "Seccomp:"), Some("2"));
    }
}
