//! Loads that have a name: those of `perf/run-targets.sh`, which takes them from here.

use std::ffi::OsString;

/// A load's shape, and what it is good for.
#[derive(Debug)]
pub struct Scenario {
    /// What `load --scenario` takes.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// Flags of `load`; those on the command line come before them.
    pub flags: &'static [&'static str],
}

const fn scenario(name: &'static str, flags: &'static [&'static str], about: &'static str) -> Scenario {
    Scenario { name, about, flags }
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "append100",
        &["--method", "append", "--batch", "100", "--connections", "4", "--in-flight", "16"],
        "as many records as can be: 100 a request, closed loop",
    ),
    scenario(
        "append16",
        &["--method", "append", "--batch", "16", "--connections", "4", "--in-flight", "4"],
        "small requests and few of them at a time: the latency of an ack under some load",
    ),
    scenario(
        "stream",
        &["--method", "ingest-stream", "--connections", "8", "--in-flight", "64"],
        "one record a message: what a record costs when nothing is shared with others",
    ),
    scenario(
        "ingest",
        &["--method", "ingest", "--connections", "1", "--in-flight", "1"],
        "one call at a time: the shortest time that a durable ack takes",
    ),
    scenario(
        "flush",
        &["--method", "append", "--batch", "100", "--rate", "300000"],
        "an open loop at 300,000 records/s: what flushes, merges or an outage do to latency",
    ),
    scenario(
        "import",
        &["--method", "append", "--batch", "100", "--rate", "50000"],
        "an open loop at 50,000 records/s: the steady load beside an import or queries",
    ),
    scenario(
        "keys",
        &["--method", "append", "--batch", "100", "--connections", "4", "--in-flight", "16", "--keys"],
        "append100 with an idempotency key a record: beside append100 it tells what keys cost",
    ),
    scenario(
        "memory",
        &["--method", "append", "--batch", "100", "--connections", "4", "--in-flight", "16", "--duration", "60s"],
        "append100 for a minute: with --server-pid it tells the server's memory under full load",
    ),
    scenario(
        "sustained",
        &["--method", "append", "--batch", "100", "--connections", "4", "--in-flight", "16", "--duration", "10m"],
        "append100 for ten minutes, flushes and merges included",
    ),
];

/// The names, for the command line.
#[must_use]
pub fn names() -> Vec<&'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name).collect()
}

/// The command line with a scenario's flags put in front of the others, which so come before them.
#[must_use]
pub fn expanded(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.into_iter().collect();
    if args.get(1).is_none_or(|command| command != "load") {
        return args;
    }
    let text = |at: usize| args.get(at).and_then(|arg| arg.to_str());
    let named = (2..args.len()).find_map(|at| match text(at)? {
        "--scenario" => text(at + 1),
        other => other.strip_prefix("--scenario="),
    });
    // One that there is not is refused where the command line is read.
    let flags = SCENARIOS.iter().find(|scenario| Some(scenario.name) == named).map_or(&[][..], |found| found.flags);
    args.splice(2..2, flags.iter().map(OsString::from));
    args
}

/// The list, for people.
#[must_use]
pub fn list() -> String {
    let widest = names().iter().map(|name| name.len()).max().unwrap_or(0);
    let line = |scenario: &Scenario| {
        format!("{:widest$}  {}\n{:widest$}  {}\n", scenario.name, scenario.about, "", scenario.flags.join(" "))
    };
    SCENARIOS.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::load::args::{LoadArgs, Method};

    #[derive(clap::Parser)]
    enum Command {
        Load(Box<LoadArgs>),
    }

    fn load(flags: &str) -> Result<LoadArgs, clap::Error> {
        let args = ["ttdust-bench", "load"].into_iter().chain(flags.split_whitespace()).map(OsString::from);
        Command::try_parse_from(expanded(args)).map(|Command::Load(args)| *args)
    }

    #[test]
    fn each_scenario_is_a_load_that_flags_can_change() {
        for scenario in SCENARIOS {
            let args =
                load(&format!("--scenario {} --duration 3s --connections 9", scenario.name)).expect("good flags");
            assert_eq!(args.scenario.as_deref(), Some(scenario.name));
            assert_eq!(
                (args.duration.as_secs(), args.connections),
                (3, 9),
                "{}: what is given comes first",
                scenario.name
            );
            assert!(list().contains(scenario.about));
        }
        let args = load("--batch 7 --scenario=append16").expect("good flags");
        assert_eq!((args.batch, args.in_flight, args.method), (7, 4, Method::Append));
        let notes = load("--note a=b --scenario keys --note c=d=e --note a=f").expect("good flags").notes;
        assert_eq!(
            notes.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>(),
            ["a:b", "c:d=e", "a:f"]
        );
        assert_eq!(load("--scenario stream").expect("good flags").in_flight, 64);
        let told = load("--scenario nothing").expect_err("there is none").to_string();
        assert!(told.contains("append100"), "{told}");
    }

    #[test]
    fn other_commands_are_left_alone() {
        for line in
            [&["ttdust-bench"][..], &["ttdust-bench", "micro", "--scenario", "keys"], &["x", "load", "--scenario"]]
        {
            let args: Vec<_> = line.iter().map(OsString::from).collect();
            assert_eq!(expanded(args.clone()), args);
        }
    }

    #[test]
    fn the_targets_are_run_with_loads_of_this_list() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../perf/run-targets.sh");
        let script = std::fs::read_to_string(script).expect("the script");
        let named: Vec<_> =
            script.split("--scenario ").skip(1).filter_map(|rest| rest.split([' ', ')', '\n']).next()).collect();
        assert!(named.len() >= 10, "{named:?}");
        for name in named {
            assert!(names().contains(&name), "{name}");
        }
        assert!(!script.contains("--in-flight "), "a shape that has no name");
    }
}
