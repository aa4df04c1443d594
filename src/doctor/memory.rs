//! The memory and the processor time that the system grants against what the configuration needs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Check, Subject};
use crate::config::Settings;

const MEMORY: &str = "memory";
const CPU: &str = "cpu_quota";
/// The program itself, connections, frames under way and indexes.
const BASE_BYTES: u64 = 256 << 20;
const CGROUPS: &str = "/sys/fs/cgroup";

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let groups = groups(Path::new(CGROUPS), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let shards = subject.config.as_ref().map_or(1, |config| config.engine.shard_cores.len());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
    vec![memory(&subject.loaded.settings, &groups, machine), cpu(&groups, shards)]
}

/// The control group of this process and those above it, of cgroup v2; the innermost first.
fn groups(root: &Path, own: &str) -> Vec<PathBuf> {
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    root.join(path).ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned).collect()
}

/// What the settings let be held in memory, in bytes, for people too.
fn needs(settings: &Settings) -> (u64, String) {
    let parts = [
        ("buffer.memory_bytes", settings.buffer_memory_bytes),
        ("tail.memory_bytes", settings.tail_memory_bytes),
        ("query.cache_bytes", settings.query_cache_bytes),
        ("query.memory_total_bytes", settings.query_memory_total_bytes),
    ];
    let shown: Vec<_> = parts.iter().map(|(key, bytes)| format!("{key} {}", size(*bytes))).collect();
    let sum = parts.iter().fold(BASE_BYTES, |sum, (_, bytes)| sum.saturating_add(*bytes));
    (sum, format!("{} ({} and {} for the rest)", size(sum), shown.join(", "), size(BASE_BYTES)))
}

fn memory(settings: &Settings, groups: &[PathBuf], machine: Option<u64>) -> Check {
    let limit = |dir: &Path| fs::read_to_string(dir.join("memory.max")).ok()?.trim().parse::<u64>().ok();
    let group = groups.iter().filter_map(|dir| Some((limit(dir)?, dir))).min_by_key(|(bytes, _)| *bytes);
    let (granted, by) = match (group, machine) {
        (Some((bytes, dir)), machine) if machine.is_none_or(|all| bytes < all) => {
            (bytes, format!("memory.max of {}", dir.display()))
        }
        (_, Some(all)) => (all, "all of the machine's, with no lower memory.max".to_owned()),
        (_, None) => {
            return Check::warning(MEMORY, "how much memory there is cannot be told", "look at /proc/meminfo");
        }
    };
    let (needed, parts) = needs(settings);
    let found = format!("{} ({by}); the settings let {parts} be used", size(granted));
    if granted < needed {
        let remedy = "raise the limit (systemd MemoryMax, docker --memory), or lower these settings";
        return Check::warning(MEMORY, found, remedy);
    }
    Check::ok(MEMORY, found)
}

fn cpu(groups: &[PathBuf], shards: usize) -> Check {
    let limit = |dir: &PathBuf| quota(&fs::read_to_string(dir.join("cpu.max")).ok()?);
    let Some(least) = groups.iter().filter_map(limit).min_by(f64::total_cmp) else {
        return Check::ok(CPU, "no cpu.max limits this process");
    };
    let found = format!("cpu.max grants {least:.2} cores to {shards} shards and control");
    if least < shards as f64 {
        let remedy = "raise the quota (systemd CPUQuota, docker --cpus) or lower shards.count: a shard that is held up holds up its acks";
        return Check::warning(CPU, found, remedy);
    }
    Check::ok(CPU, found)
}

/// `200000 100000` are two cores; `max 100000` is no limit.
fn quota(text: &str) -> Option<f64> {
    let (granted, period) = text.trim().split_once(' ')?;
    Some(granted.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes, in MiB: what limits are set in.
pub(super) fn size(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Sources, load},
        doctor::Verdict,
    };

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).expect("folders");
        let groups = groups(root.path(), "5:cpu:/x\n0::/a/b\n");
        assert_eq!(groups, [inner.clone(), root.path().join("a"), root.path().to_owned()]);
        let settings = load(&Sources::default()).expect("defaults").settings;
        let verdict = |machine| memory(&settings, &groups, Some(machine)).verdict;
        assert_eq!(verdict(64 << 30), Verdict::Ok);
        assert_eq!(verdict(512 << 20), Verdict::Warning);
        fs::write(inner.join("memory.max"), "max\n").expect("written");
        fs::write(root.path().join("a/memory.max"), "536870912\n").expect("written");
        let check = memory(&settings, &groups, Some(64 << 30));
        assert!(check.verdict == Verdict::Warning && check.found.starts_with("512 MiB"), "{check:?}");

        assert_eq!(cpu(&groups, 1).verdict, Verdict::Ok);
        fs::write(inner.join("cpu.max"), "150000 100000\n").expect("written");
        fs::write(root.path().join("a/cpu.max"), "max 100000\n").expect("written");
        assert_eq!(cpu(&groups, 1).verdict, Verdict::Ok);
        assert_eq!(cpu(&groups, 2).verdict, Verdict::Warning);
    }

    #[test]
    fn without_cgroup_v2_the_machine_is_the_limit() {
        assert!(groups(Path::new("/nowhere"), "4:memory:/a\n").is_empty());
        assert_eq!(machine_bytes("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert_eq!(quota("max 100000"), None);
    }
}
