//! What a service manager tells a server in its environment: systemd, or what speaks its protocol (`sd_notify(3)`).

use std::{ffi::OsString, time::Duration};

/// Where to tell it how the server is, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceManager {
    /// The path of a datagram socket, or an abstract name behind an `@`.
    pub socket: OsString,
    /// How long it waits for a sign of life before it ends the server; `None`: for ever.
    pub watchdog: Option<Duration>,
}

impl ServiceManager {
    /// That of this process; `None`: nobody asks to be told.
    #[must_use]
    pub fn of_process() -> Option<Self> {
        Self::of(&|name| std::env::var_os(name), std::process::id())
    }

    fn of(variable: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Option<Self> {
        let socket = variable("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        // A process that was started by the one that is watched has its variables too.
        let is_mine = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.into());
        let micros = number("WATCHDOG_USEC").filter(|&micros| micros > 0 && is_mine);
        Some(Self { socket, watchdog: micros.map(Duration::from_micros) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<ServiceManager> {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into());
        ServiceManager::of(&value, 42)
    }

    #[test]
    fn a_manager_is_told_where_it_says_and_watches_the_process_that_it_names() {
        let socket = ("NOTIFY_SOCKET", "/run/notify");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("NOTIFY_SOCKET", ""), ("WATCHDOG_USEC", "1")]), None);
        let watchdog = |more: &[(&'static str, &'static str)]| of(&[&[socket], more].concat()).expect("told").watchdog;
        assert_eq!(watchdog(&[]), None);
        let second = ("WATCHDOG_USEC", "1000000");
        assert_eq!(watchdog(&[second]), Some(Duration::from_secs(1)));
        assert_eq!(watchdog(&[second, ("WATCHDOG_PID", "42")]), Some(Duration::from_secs(1)));
        for not_mine in ["43", "", "x"] {
            assert_eq!(watchdog(&[second, ("WATCHDOG_PID", not_mine)]), None);
        }
        for never in ["0", "", "-1", "x"] {
            assert_eq!(watchdog(&[("WATCHDOG_USEC", never)]), None);
        }
    }
}
