//! How calls end: why, for programs, and after how long the same may be asked again.

use std::{error::Error as _, fmt, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};

use crate::rpc;

/// Where nobody says how long.
pub const PAUSE: Duration = Duration::from_secs(1);

/// The end of a call that was no success.
#[derive(Debug)]
pub struct Ended {
    /// `ErrorInfo.reason`; empty: the connection broke.
    reason: String,
    /// After how long it may be made again; `None`: it may not.
    pub wait: Option<Duration>,
    code: Code,
    message: String,
}

impl Ended {
    /// What a status says.
    pub fn of(status: &Status) -> Self {
        let (mut reason, mut wait) = (String::new(), None);
        // The server's own bytes: what cannot be read of them says nothing.
        let details = rpc::Status::decode(status.details()).unwrap_or_default().details;
        for detail in details {
            match detail.type_url.rsplit('/').next() {
                Some("google.rpc.ErrorInfo") => {
                    reason = rpc::ErrorInfo::decode(&*detail.value).unwrap_or_default().reason;
                }
                Some("google.rpc.RetryInfo") => {
                    let delay = rpc::RetryInfo::decode(&*detail.value).unwrap_or_default().retry_delay;
                    wait = Some(delay.and_then(|delay| delay.try_into().ok()).unwrap_or(PAUSE));
                }
                _ => {}
            }
        }
        // tonic made the status itself, of an error of the connection.
        let is_broken = reason.is_empty() && (status.source().is_some() || status.code() == Code::Unavailable);
        let is_unknown = ["OUTCOME_UNKNOWN", "SHARD_STOPPED", "CONNECTION_LOST"].contains(&reason.as_str());
        // Nobody knows what was taken; keys make it safe to send the same again.
        if is_broken || is_unknown {
            wait = wait.or(Some(PAUSE));
        }
        Self { reason, wait, code: status.code(), message: status.message().to_owned() }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.code, self.reason, self.message)
    }
}
