//! What `/proc` tells of a running server. Not its command line nor its environment: they may hold secrets.

use std::{fs, io};

use rustix::process::Pid;

use super::Part;

/// Files of `/proc/PID` that are taken as they are.
const FILES: &[&str] = &["status", "limits", "sched"];

pub(super) fn parts(pid: Pid) -> Vec<Part> {
    let file = |name: &&str| Part {
        name: format!("process/{name}"),
        content: fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|error| error.to_string()),
    };
    let mut parts: Vec<_> = FILES.iter().map(file).collect();
    let content = threads(pid).map_err(|error| error.to_string());
    parts.push(Part { name: "process/threads.txt".to_owned(), content });
    parts
}

/// Each thread's id, name and what it waits for in the kernel, a line each.
fn threads(pid: Pid) -> io::Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        // A thread may end meanwhile, and where it waits may be nobody's business.
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_else(|_| "?".to_owned());
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.push(format!("{id}\t{}\t{}\n", read("comm").trim(), read("wchan").trim()));
    }
    lines.sort();
    Ok(format!("thread\tname\twaits in\n{}", lines.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_s_threads_are_listed_by_name() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let run = move || {
            begun.send(()).expect("it is waited for");
            wait.recv()
        };
        let thread = std::thread::Builder::new().name("of-a-test".into()).spawn(run).expect("a thread");
        // A thread takes its name by itself, first of all.
        has_begun.recv().expect("it runs");
        let shown = threads(rustix::process::getpid()).expect("our own");
        assert!(shown.lines().any(|line| line.split('\t').nth(1) == Some("of-a-test")), "{shown}");
        drop(end);
        assert!(thread.join().expect("joined").is_err());
    }
}
