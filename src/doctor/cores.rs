//! The cores that are configured against those that this process may use, and what they share.

use std::fs;

use super::{Check, Subject};

const NAME: &str = "cores";

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let settings = &subject.loaded.settings;
    let usable = list(&subject.usable);
    let mut checks = Vec::new();
    for (key, cores) in [("shards.cores", &settings.shard_cores), ("control.cores", &settings.control_cores)] {
        let outside: Vec<_> = cores.iter().copied().filter(|core| !subject.usable.contains(core)).collect();
        if !outside.is_empty() {
            let found = format!("{key} names {}, but this process may only use {usable}", list(&outside));
            let remedy =
                format!("name cores of {usable}, or widen the cpuset (systemd AllowedCPUs, docker --cpuset-cpus)");
            checks.push(Check::failed(NAME, found, remedy));
        }
    }
    let Some(config) = subject.config.as_ref().filter(|_| checks.is_empty()) else { return checks };
    let shards: Vec<_> = config.engine.shard_cores.iter().flatten().copied().collect();
    vec![sharing(&shards, &config.control_cores, &usable, &siblings)]
}

/// Whether shards have cores of their own.
fn sharing(shards: &[usize], control: &[usize], usable: &str, siblings: &dyn Fn(usize) -> Vec<usize>) -> Check {
    let found = format!("may use {usable}; shards on {}, control on {}", list(shards), list(control));
    for (at, &core) in shards.iter().enumerate() {
        if shards[..at].contains(&core) {
            let remedy = "give each shard a core: lower shards.count or name shards.cores";
            return Check::warning(NAME, format!("{found}: two shards share core {core}"), remedy);
        }
        let threads = siblings(core);
        if let Some(other) = shards[..at].iter().find(|other| threads.contains(other)) {
            let found = format!("{found}: {other} and {core} are threads of one physical core, and both have a shard");
            return Check::warning(NAME, found, "name one thread of each physical core in shards.cores");
        }
    }
    match shards.iter().find(|core| control.contains(core)) {
        Some(core) => {
            let remedy = "give the server one core more than it has shards, or lower shards.count";
            Check::warning(NAME, format!("{found}: core {core} has both"), remedy)
        }
        None => Check::ok(NAME, found),
    }
}

/// The threads of the physical core that `core` is one of.
fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    fs::read_to_string(path).map(|text| parse_list(&text)).unwrap_or_default()
}

/// Reads `0,4-6` as the kernel writes it.
fn parse_list(text: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    text.split(',').filter_map(part).flatten().collect()
}

/// The same the other way round.
fn list(cores: &[usize]) -> String {
    let mut sorted = cores.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|one, next| one + 1 == *next).map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    format!("cores {}", runs.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        assert_eq!(parse_list("0,4-6\n"), [0, 4, 5, 6]);
        assert!(parse_list("").is_empty() && parse_list("x").is_empty());
        assert_eq!(list(&[5, 0, 4, 6, 9]), "cores 0,4-6,9");
    }

    #[test]
    fn shards_that_share_are_told_of() {
        let paired = |core: usize| vec![core / 2 * 2, core / 2 * 2 + 1];
        let verdict = |shards: &[usize], control: &[usize]| sharing(shards, control, "cores 0-7", &paired);
        assert_eq!(verdict(&[2, 4], &[0]).verdict, Verdict::Ok);
        for (shards, control, part) in [
            (&[2, 2][..], &[0][..], "share core 2"),
            (&[2, 3], &[0], "2 and 3 are threads"),
            (&[0], &[0], "core 0 has both"),
        ] {
            let check = verdict(shards, control);
            assert!(check.verdict == Verdict::Warning && check.found.contains(part), "{check:?}");
        }
    }
}
