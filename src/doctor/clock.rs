//! Whether the wall clock can be right, and whether something keeps it so.

use super::Check;
use crate::calendar::{now_unix_micros, parse_time, rfc3339};

const NAME: &str = "clock";
/// No machine that runs this program is from before.
const EARLIEST: &str = "2024-01-01T00:00:00Z";
const REMEDY: &str = "run chrony, systemd-timesyncd or another NTP client on the machine";

pub(super) fn check() -> Check {
    let now = now_unix_micros();
    let time = rfc3339(now);
    if parse_time(EARLIEST).is_ok_and(|earliest| now < earliest) {
        let remedy = "set the clock: times of records, files and certificates go by it";
        return Check::failed(NAME, format!("it is {time} by it"), remedy);
    }
    match state() {
        Ok((false, error_micros)) => {
            Check::ok(NAME, format!("it is {time}, synchronised; the error is {} ms at most", error_micros / 1000))
        }
        Ok((true, _)) => Check::warning(NAME, format!("it is {time}, and nothing synchronises it"), REMEDY),
        Err(error) => {
            Check::warning(NAME, format!("it is {time}; whether it is synchronised cannot be told: {error}"), REMEDY)
        }
    }
}

/// Whether the kernel takes the clock for unsynchronised, and its largest error in µs.
#[allow(unsafe_code, reason = "no safe crate has this call")]
fn state() -> std::io::Result<(bool, i64)> {
    // SAFETY: the structure is plain integers, for which zero is a value; its `modes` of zero asks for no change.
    let mut state = unsafe { std::mem::zeroed::<libc::timex>() };
    // SAFETY: the kernel writes the structure, which lives through the call, and reads nothing else.
    let outcome = unsafe { libc::adjtimex(&raw mut state) };
    if outcome < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let unsynchronised = outcome == libc::TIME_ERROR || state.status & libc::STA_UNSYNC != 0;
    Ok((unsynchronised, state.maxerror))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_this_machine_is_read() {
        let (_, error_micros) = state().expect("any process may ask");
        assert!(error_micros >= 0);
        assert!(check().found.contains("it is 20"), "{:?}", check());
    }
}
