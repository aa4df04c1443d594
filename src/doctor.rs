//! `ttdust doctor`: whether this machine is fit for the server as it is configured. Each check has a verdict, what was found and,
//! where something is to be done, what.
//!
//! Nothing is changed and no lock is taken, so it works beside a running server. What it writes to measure the disk is in a folder
//! of its own that goes away again, also when it is broken off.

mod clock;
mod cores;
mod disk;
mod kernel;
mod memory;
mod network;
mod services;

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
};

use clap::ValueEnum;
use rustix::process::Pid;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Config, ConfigError, Loaded, usable_cores},
    data_dir,
};

/// How the program's exit statuses read, for its help.
pub const EXIT_STATUSES: &str = "\
Exit status:
  0    all is well, or there is something to look at
  1    something failed: the server would not start, or not keep what it promises
  2    the command line or the configuration cannot be read";

/// How a check ended, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is to be done.
    Ok,
    /// The server works, but worse than it could, or not as safely.
    Warning,
    /// The server does not start, or would lose what it promises to keep.
    Failed,
}

impl Verdict {
    /// The process's status for it.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        u8::from(self == Self::Failed)
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, for programs.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found, in one line.
    pub found: String,
    /// What to do, in one line; none where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn failed(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failed, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// The worst of the verdicts.
    pub status: Verdict,
    /// The process that runs on the data directory, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_pid: Option<i32>,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

/// The form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs: one object.
    Json,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The system does not let it begin.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// Nobody reads the report.
    #[error("cannot write the report: {0}")]
    Output(io::Error),
    /// By a signal.
    #[error("broken off")]
    BrokenOff,
}

/// What the checks are of.
struct Subject {
    loaded: Loaded,
    /// None: the settings do not go together.
    config: Option<Config>,
    /// Who runs on the data directory.
    holder: Option<Pid>,
    usable: Vec<usize>,
}

/// Makes all checks for a server of these settings. Blocking: some seconds, most of them for the disk.
///
/// # Errors
/// It cannot begin, or a signal broke it off.
pub fn examine(loaded: Loaded) -> Result<Report, DoctorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The runtime ends after its blocking tasks: whatever comes, these take away what they made.
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            report = all_checks(loaded) => report,
            _ = interrupt.recv() => Err(DoctorError::BrokenOff),
            _ = terminate.recv() => Err(DoctorError::BrokenOff),
        }
    })
}

/// Makes all checks and prints them; returns the worst verdict.
///
/// # Errors
/// As [`examine`], and nobody reads what is printed.
pub fn print(loaded: Loaded, form: Form) -> Result<Verdict, DoctorError> {
    let report = examine(loaded)?;
    let text = match form {
        Form::Text => report.text(),
        Form::Json => report.json(),
    };
    io::stdout().write_all(text.as_bytes()).map_err(DoctorError::Output)?;
    Ok(report.status)
}

async fn all_checks(loaded: Loaded) -> Result<Report, DoctorError> {
    let (subject, mut checks) = subject(loaded);
    let (subject, local) = tokio::task::spawn_blocking(move || {
        let checks = local_checks(&subject);
        (subject, checks)
    })
    .await
    .map_err(io::Error::other)?;
    checks.extend(local);
    if let Some(config) = &subject.config {
        checks.extend(services::check(config).await);
    }
    let status = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    let server_pid = subject.holder.map(|pid| pid.as_raw_nonzero().get());
    Ok(Report { version: env!("CARGO_PKG_VERSION"), status, server_pid, checks })
}

/// Everything that asks nobody else. Blocking.
fn local_checks(subject: &Subject) -> Vec<Check> {
    let mut checks = vec![server(subject), kernel::version()];
    checks.extend(disk::check(subject));
    checks.extend(kernel::limits(subject));
    checks.extend(cores::check(subject));
    checks.push(clock::check());
    checks.extend(memory::check(subject));
    checks.extend(network::check(subject));
    checks
}

/// Resolves the settings. Where only the cores are not there the rest can be looked at all the same.
fn subject(loaded: Loaded) -> (Subject, Vec<Check>) {
    const NAME: &str = "configuration";
    let holder = data_dir::holder(&loaded.settings.data_dir);
    let with = |config, usable| Subject { loaded: loaded.clone(), config, holder, usable };
    let failed = |error: &ConfigError| {
        Check::failed(
            NAME,
            error.to_string(),
            "change the settings that are named; `ttdust config reference` explains them",
        )
    };
    let usable = match usable_cores() {
        Ok(usable) => usable,
        Err(error) => return (with(None, Vec::new()), vec![failed(&error)]),
    };
    match Config::resolve(loaded.clone(), &usable) {
        Ok(config) => (with(Some(config), usable), vec![Check::ok(NAME, "the settings go together")]),
        Err(error) => {
            let named = loaded.settings.control_cores.iter().chain(&loaded.settings.shard_cores);
            let any: BTreeSet<_> = usable.iter().chain(named).copied().collect();
            let any: Vec<_> = any.into_iter().collect();
            match Config::resolve(loaded.clone(), &any) {
                // The check of the cores tells of it.
                Ok(config) => (with(Some(config), usable), vec![Check::ok(NAME, "the settings go together")]),
                Err(_) => (with(None, usable), vec![failed(&error)]),
            }
        }
    }
}

fn server(subject: &Subject) -> Check {
    let dir = subject.loaded.settings.data_dir.display();
    match subject.holder {
        Some(pid) => Check::ok("server", format!("process {pid} runs on {dir}; it shares what is measured here")),
        None => Check::ok("server", format!("none runs on {dir}")),
    }
}

impl Report {
    /// For people: a line a check, and one for its remedy.
    #[must_use]
    pub fn text(&self) -> String {
        let widest = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "WARNING",
                Verdict::Failed => "FAILED",
            };
            text.push_str(&format!("{verdict:7}  {:widest$}  {}\n", check.name, check.found));
            if let Some(remedy) = &check.remedy {
                text.push_str(&format!("{:7}  {:widest$}  -> {remedy}\n", "", ""));
            }
        }
        let count = |verdict| self.checks.iter().filter(|check| check.verdict == verdict).count();
        let (ok, warnings, failed) = (count(Verdict::Ok), count(Verdict::Warning), count(Verdict::Failed));
        text.push_str(&format!("{ok} ok, {warnings} to look at, {failed} failed\n"));
        text
    }

    /// For programs: one object on a line.
    ///
    /// # Panics
    /// Never: there is nothing in it that JSON does not hold.
    #[must_use]
    pub fn json(&self) -> String {
        format!("{}\n", serde_json::to_string(self).expect("strings and numbers"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_bad_as_its_worst_check_and_shows_each() {
        let checks = vec![Check::ok("a", "fine"), Check::warning("longer", "so so", "do this")];
        let report = Report { version: "1", status: Verdict::Warning, server_pid: None, checks };
        let text = report.text();
        assert_eq!(
            text,
            "ok       a       fine\nWARNING  longer  so so\n                 -> do this\n1 ok, 1 to look at, 0 failed\n"
        );
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["status"], "warning");
        assert_eq!(json["checks"][0], serde_json::json!({"name": "a", "verdict": "ok", "found": "fine"}));
        assert!(Verdict::Failed > Verdict::Warning && Verdict::Warning > Verdict::Ok);
    }
}
