//! What the command line's client commands take from the environment.

use std::path::{Path, PathBuf};

use super::Secret;

/// Where the server is.
pub const ENDPOINT_VARIABLE: &str = "TTDUST_ENDPOINT";
/// The credential that is shown to it.
pub const API_KEY_VARIABLE: &str = "TTDUST_API_KEY";
/// Which profile is used.
pub const PROFILE_VARIABLE: &str = "TTDUST_PROFILE";

/// Variables of clients: a server that is started beside one passes them by.
pub(super) const CLIENT_VARIABLES: [&str; 3] = [ENDPOINT_VARIABLE, API_KEY_VARIABLE, PROFILE_VARIABLE];

/// The variables of a client's process. What is empty counts as not set.
#[derive(Debug, Clone, Default)]
pub struct ClientEnvironment {
    /// `TTDUST_ENDPOINT`.
    pub endpoint: Option<String>,
    /// `TTDUST_API_KEY`.
    pub api_key: Option<Secret>,
    /// `TTDUST_PROFILE`.
    pub profile: Option<String>,
    /// The folder of the user's settings, by `XDG_CONFIG_HOME` or `HOME`.
    pub config_home: Option<PathBuf>,
    /// Whether `NO_COLOR` is set or the terminal is a dumb one.
    pub no_color: bool,
}

impl ClientEnvironment {
    /// Of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let absolute = |text: String| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
        Self {
            endpoint: text(ENDPOINT_VARIABLE),
            api_key: text(API_KEY_VARIABLE).map(Secret::new),
            profile: text(PROFILE_VARIABLE),
            // The standard has it that a relative path is passed by.
            config_home: text("XDG_CONFIG_HOME")
                .and_then(absolute)
                .or_else(|| text("HOME").map(|home| Path::new(&home).join(".config"))),
            no_color: text("NO_COLOR").is_some() || text("TERM").is_some_and(|term| term == "dumb"),
        }
    }
}
