//! What all commands that call a server share: which one, with which key, and how its answers are shown.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::{
    api::{Api, Credential},
    connection::Place,
    failure::Failure,
    keyfile,
    output::{Form, Output},
    profiles::{Profile, Profiles},
    text::parse_duration,
};
use crate::config::{API_KEY_VARIABLE, ClientEnvironment, Secret};

const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:8080";
const HEADING: &str = "Server and output";
/// No definition of a schema or a pipeline that a server takes is as long.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Options of every command that calls a server.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// The address of REST; default: TTDUST_ENDPOINT, else the profile's, else http://127.0.0.1:8080.
    #[arg(long, global = true, value_name = "URL", help_heading = HEADING)]
    endpoint: Option<String>,
    /// The profile to use; default: TTDUST_PROFILE, else the one in use.
    #[arg(long, global = true, value_name = "NAME", help_heading = HEADING)]
    profile: Option<String>,
    /// The file that holds the API key or token, alone; -: read it from standard input; default: TTDUST_API_KEY, else the
    /// profile's.
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    api_key_file: Option<PathBuf>,
    /// The CAs that vouch for the server, as PEM; default: the profile's, else the system's.
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    ca: Option<PathBuf>,
    /// A client certificate to show, as PEM.
    #[arg(id = "client_cert", long = "cert", global = true, value_name = "FILE", help_heading = HEADING)]
    cert: Option<PathBuf>,
    /// Its private key.
    #[arg(id = "client_key", long = "cert-key", global = true, value_name = "FILE", help_heading = HEADING)]
    key: Option<PathBuf>,
    /// The longest that an answer may take.
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = parse_duration,
        help_heading = HEADING)]
    timeout: Duration,
    /// table, or json: the server's own JSON, one object a line where there are several.
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Table, value_name = "FORM",
        hide_possible_values = true, help_heading = HEADING)]
    output: Form,
    /// Plain text on terminals too, as NO_COLOR has it.
    #[arg(long, global = true, help_heading = HEADING)]
    no_color: bool,
}

/// A command's server and its output.
pub(super) struct Session {
    pub(super) api: Api,
    pub(super) output: Output,
}

impl Session {
    pub(super) fn open(options: Options, environment: &ClientEnvironment) -> Result<Self, Failure> {
        let profiles = Profiles::read(environment)?;
        let named = options.profile.as_deref().or(environment.profile.as_deref());
        let chosen = profiles.chosen(named)?;
        let place = place(&options, environment, chosen.map(|(_, profile)| profile));
        let credential = credential(&options, environment, chosen, &place)?;
        let api = Api::new(&place, credential, options.timeout)?;
        Ok(Self { api, output: Output::new(options.output, options.no_color || environment.no_color) })
    }
}

/// Flags come before variables, and these before the profile, unless a flag names it.
fn place(options: &Options, environment: &ClientEnvironment, profile: Option<&Profile>) -> Place {
    let own = profile.and_then(|profile| profile.endpoint.clone());
    let variable = environment.endpoint.clone();
    let (first, second) = if options.profile.is_some() { (own, variable) } else { (variable, own) };
    let endpoint = options.endpoint.clone().or(first).or(second).unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
    let mut place = Place { endpoint, ca: options.ca.clone(), cert: options.cert.clone(), key: options.key.clone() };
    // What a profile says of its server is of no use with another.
    if let Some(profile) = profile.filter(|profile| profile.is_of(&place)) {
        place.ca = place.ca.or_else(|| profile.ca.clone());
        if place.cert.is_none() && place.key.is_none() {
            (place.cert, place.key) = (profile.cert.clone(), profile.key.clone());
        }
    }
    place
}

fn credential(
    options: &Options,
    environment: &ClientEnvironment,
    chosen: Option<(&str, &Profile)>,
    place: &Place,
) -> Result<Option<Credential>, Failure> {
    if let Some(path) = &options.api_key_file {
        let origin = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        return Ok(Some(Credential { secret: Secret::new(keyfile::read(path)?), origin }));
    }
    let of_variable = || {
        let secret = environment.api_key.clone()?;
        Some(Credential { secret, origin: API_KEY_VARIABLE.to_owned() })
    };
    let of_profile = || {
        let (name, profile) = chosen.filter(|(_, profile)| profile.is_of(place))?;
        Some(Credential { secret: Secret::new(profile.api_key.clone()?), origin: format!("profile {name:?}") })
    };
    Ok(if options.profile.is_some() { of_profile().or_else(of_variable) } else { of_variable().or_else(of_profile) })
}

/// The text of a file, or, for `-`, of standard input.
pub(super) fn read_text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(INPUT_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::file(path, &error))?;
    Ok(text)
}

/// Asks whoever sits at the terminal; elsewhere only `yes` is an answer.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!("{question} Say so with --yes")));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|error| Failure::usage(format!("no answer: {error}")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::Interrupted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            endpoint: Some("https://own".into()),
            api_key: Some("own key".into()),
            ca: Some("own.pem".into()),
            ..Profile::default()
        }
    }

    fn environment(endpoint: Option<&str>, key: Option<&str>) -> ClientEnvironment {
        ClientEnvironment {
            endpoint: endpoint.map(str::to_owned),
            api_key: key.map(|key| Secret::new(key.to_owned())),
            ..ClientEnvironment::default()
        }
    }

    /// Endpoint and key that come out.
    fn chosen(options: &Options, environment: &ClientEnvironment) -> (String, Option<String>) {
        let profile = profile();
        let place = place(options, environment, Some(&profile));
        let credential = credential(options, environment, Some(("own", &profile)), &place).expect("no file");
        (place.endpoint, credential.map(|credential| credential.secret.reveal().to_owned()))
    }

    #[test]
    fn flags_come_before_variables_and_these_before_the_profile() {
        let flag = |endpoint: Option<&str>, profile: Option<&str>| Options {
            endpoint: endpoint.map(str::to_owned),
            profile: profile.map(str::to_owned),
            ..Options::default()
        };
        let text = |endpoint: &str, key: Option<&str>| (endpoint.to_owned(), key.map(str::to_owned));
        let (none, both) = (environment(None, None), environment(Some("https://var"), Some("var key")));
        assert_eq!(chosen(&flag(None, None), &none), text("https://own", Some("own key")));
        assert_eq!(chosen(&flag(None, None), &both), text("https://var", Some("var key")));
        assert_eq!(chosen(&flag(Some("https://flag"), None), &both), text("https://flag", Some("var key")));
        assert_eq!(chosen(&flag(None, Some("own")), &both), text("https://own", Some("own key")));
    }

    #[test]
    fn a_profile_s_key_and_certificates_go_to_its_server_alone() {
        let options = Options { endpoint: Some("https://other".into()), ..Options::default() };
        assert_eq!(chosen(&options, &environment(None, None)), ("https://other".to_owned(), None));
        assert!(place(&options, &environment(None, None), Some(&profile())).ca.is_none());
        let same = Options { endpoint: Some("https://own/".into()), ..Options::default() };
        assert!(place(&same, &environment(None, None), Some(&profile())).ca.is_some());
    }
}
