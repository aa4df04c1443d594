//! Profiles: where servers are and the keys for them, by name, in a file that only its owner reads.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    connection::{Place, endpoint},
    failure::{Failure, Outcome},
    keyfile,
    output::{Form, Output, column, note},
};
use crate::config::ClientEnvironment;

/// What may be done with profiles.
#[derive(Subcommand)]
pub enum ProfileCommand {
    /// Save where a server is and how to reach it; what is not given stays as it was.
    Set(SetProfile),
    /// List the profiles; no key is shown.
    List {
        /// table, or json: one object a line.
        #[arg(short, long, value_enum, default_value_t = Form::Table, value_name = "FORM")]
        output: Form,
    },
    /// Use a profile where none is named.
    Use {
        /// Its name.
        name: String,
    },
    /// Forget a profile.
    Remove {
        /// Its name.
        name: String,
    },
}

/// A profile, as the command line gives it.
#[derive(Args)]
pub struct SetProfile {
    /// Its name.
    name: String,
    /// The address of REST, such as https://dust.example:8080.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The file that holds the API key or token, alone; -: read it from standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "no_api_key")]
    api_key_file: Option<PathBuf>,
    /// Forget the key.
    #[arg(long)]
    no_api_key: bool,
    /// The CAs that vouch for the server, as PEM; default: the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate to show, as PEM.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long = "cert-key", value_name = "FILE")]
    key: Option<PathBuf>,
}

/// A server and how to reach it.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<PathBuf>,
}

/// The file of all profiles.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Profiles {
    /// The one that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    profiles: BTreeMap<String, Profile>,
}

impl Profile {
    /// Whether its key is for the server at `place`: it is shown to no other.
    pub(super) fn is_of(&self, place: &Place) -> bool {
        let own = self.endpoint.as_deref().and_then(|own| endpoint(own).ok());
        own.is_some() && own == endpoint(&place.endpoint).ok()
    }
}

impl Profiles {
    fn path(environment: &ClientEnvironment) -> Option<PathBuf> {
        environment.config_home.as_ref().map(|home| home.join("ttdust/config.toml"))
    }

    /// Reads the file; there need not be one.
    pub(super) fn read(environment: &ClientEnvironment) -> Result<Self, Failure> {
        let Some(path) = Self::path(environment) else { return Ok(Self::default()) };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::file(&path, &error)),
        };
        let mode = fs::metadata(&path).map_err(|error| Failure::file(&path, &error))?.mode();
        // Not the error's own text, which shows the line: a key may stand in it.
        let profiles: Self = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
            let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
            Failure::usage(format!("{}, line {line}: {}", path.display(), error.message()))
        })?;
        if mode & 0o077 != 0 && profiles.profiles.values().any(|profile| profile.api_key.is_some()) {
            let path = path.display();
            return Err(Failure::usage(format!("{path} holds keys and is open to others: chmod 600 {path}")));
        }
        Ok(profiles)
    }

    /// Puts the file in the place of the one before, whole.
    fn write(&self, environment: &ClientEnvironment) -> Result<PathBuf, Failure> {
        let path = Self::path(environment)
            .ok_or_else(|| Failure::usage("there is no place for profiles: set HOME or XDG_CONFIG_HOME"))?;
        let folder = path.parent().expect("it lies in a folder");
        let failed = |error: &std::io::Error| Failure::file(&path, error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| failed(&e))?;
        // A temporary file has mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(&e))?;
        // A path may be no UTF-8.
        let text = toml::to_string(self).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(|e| failed(&e))?;
        file.persist(&path).map_err(|e| failed(&e.error))?;
        Ok(path)
    }

    /// The profile of this name, or the one in use; none: there is none.
    pub(super) fn chosen(&self, named: Option<&str>) -> Result<Option<(&str, &Profile)>, Failure> {
        let Some(name) = named.or(self.current.as_deref()) else { return Ok(None) };
        let found = self.profiles.get_key_value(name).ok_or_else(|| self.unknown(name))?;
        Ok(Some((found.0, found.1)))
    }

    fn unknown(&self, name: &str) -> Failure {
        let names = self.profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "there is none yet".to_owned() } else { format!("there are {names}") };
        Failure::usage(format!("no profile has the name {name:?}: {names}; `ttdust profile set` makes one"))
    }
}

/// Does what `command` says.
pub(super) fn run(command: ProfileCommand, environment: &ClientEnvironment) -> Outcome {
    let mut profiles = Profiles::read(environment)?;
    match command {
        ProfileCommand::List { output } => return list(&profiles, output, environment),
        ProfileCommand::Set(given) => {
            let name = given.name.clone();
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(Failure::usage("a profile's name is a text on one line"));
            }
            let profile = profiles.profiles.entry(name.clone()).or_default();
            given.put_into(profile)?;
            if profile.endpoint.is_none() {
                return Err(Failure::usage("a new profile needs an endpoint: give --endpoint URL"));
            }
            profiles.current.get_or_insert(name);
        }
        ProfileCommand::Use { name } => {
            if !profiles.profiles.contains_key(&name) {
                return Err(profiles.unknown(&name));
            }
            profiles.current = Some(name);
        }
        ProfileCommand::Remove { name } => {
            profiles.profiles.remove(&name).ok_or_else(|| profiles.unknown(&name))?;
            profiles.current = profiles.current.filter(|current| *current != name);
        }
    }
    let path = profiles.write(environment)?;
    let used = profiles.current.map_or_else(|| "no profile".to_owned(), |name| format!("profile {name:?}"));
    note(&format!("saved in {}; {used} is in use", path.display()));
    Ok(())
}

impl SetProfile {
    fn put_into(self, profile: &mut Profile) -> Outcome {
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Failure::file(path, &error));
        if let Some(text) = &self.endpoint {
            let url = endpoint(text)?;
            if profile.endpoint.as_deref().is_some_and(|old| endpoint(old).ok().as_ref() != Some(&url))
                && self.api_key_file.is_none()
                && profile.api_key.take().is_some()
            {
                note("the key was for the other endpoint, and is forgotten: give the new one's with --api-key-file");
            }
            profile.endpoint = Some(url.as_str().trim_end_matches('/').to_owned());
        }
        if let Some(path) = &self.api_key_file {
            profile.api_key = Some(keyfile::read(path)?);
        }
        if self.no_api_key {
            profile.api_key = None;
        }
        for (given, place) in
            [(&self.ca, &mut profile.ca), (&self.cert, &mut profile.cert), (&self.key, &mut profile.key)]
        {
            if let Some(path) = given {
                *place = Some(absolute(path)?);
            }
        }
        Ok(())
    }
}

fn list(profiles: &Profiles, form: Form, environment: &ClientEnvironment) -> Outcome {
    let rows = profiles.profiles.iter().map(|(name, profile)| {
        let row = json!({
            "name": name,
            "endpoint": profile.endpoint,
            "has_api_key": profile.api_key.is_some(),
            "in_use": profiles.current.as_ref() == Some(name),
        });
        RawValue::from_string(row.to_string()).expect("it is JSON")
    });
    let columns = [
        column("NAME", "/name"),
        column("ENDPOINT", "/endpoint"),
        column("KEY", "/has_api_key"),
        column("IN USE", "/in_use"),
    ];
    Output::new(form, environment.no_color).list(&rows.collect::<Vec<_>>(), &columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dir: &Path) -> ClientEnvironment {
        ClientEnvironment { config_home: Some(dir.to_owned()), ..ClientEnvironment::default() }
    }

    fn set(name: &str, url: Option<&str>, key: Option<&Path>) -> ProfileCommand {
        ProfileCommand::Set(SetProfile {
            name: name.into(),
            endpoint: url.map(str::to_owned),
            api_key_file: key.map(Path::to_owned),
            no_api_key: false,
            ca: None,
            cert: None,
            key: None,
        })
    }

    #[test]
    fn profiles_are_kept_chosen_and_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let environment = at(dir.path());
        let key = dir.path().join("key");
        fs::write(&key, "ttd_live_1\n").expect("written");
        assert!(run(set("a", None, None), &environment).is_err(), "where is it?");
        run(set("a", Some("dust:1"), Some(&key)), &environment).expect("saved");
        run(set("b", Some("https://other"), None), &environment).expect("saved");
        let path = dir.path().join("ttdust/config.toml");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
        let profiles = Profiles::read(&environment).expect("read");
        let (name, profile) = profiles.chosen(None).expect("known").expect("the first is in use");
        assert_eq!((name, profile.endpoint.as_deref()), ("a", Some("http://dust:1")));
        assert_eq!(profile.api_key.as_deref(), Some("ttd_live_1"));
        assert!(profiles.chosen(Some("c")).is_err_and(|failure| failure.told().contains("a, b")));

        run(ProfileCommand::Use { name: "b".into() }, &environment).expect("used");
        run(ProfileCommand::Remove { name: "b".into() }, &environment).expect("removed");
        let profiles = Profiles::read(&environment).expect("read");
        assert!(profiles.chosen(None).expect("none is in use").is_none());
        assert!(run(ProfileCommand::Remove { name: "b".into() }, &environment).is_err());
    }

    #[test]
    fn a_key_is_for_its_own_endpoint_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let environment = at(dir.path());
        let key = dir.path().join("key");
        fs::write(&key, "ttd_live_1").expect("written");
        run(set("a", Some("https://dust"), Some(&key)), &environment).expect("saved");
        let profiles = Profiles::read(&environment).expect("read");
        let (_, profile) = profiles.chosen(None).expect("known").expect("in use");
        let place = |endpoint: &str| Place { endpoint: endpoint.into(), ..Place::default() };
        assert!(profile.is_of(&place("https://dust/")));
        assert!(!profile.is_of(&place("http://dust")) && !profile.is_of(&place("https://dust.evil.example")));
        run(set("a", Some("https://dust.evil.example"), None), &environment).expect("saved");
        let profiles = Profiles::read(&environment).expect("read");
        assert!(profiles.profiles["a"].api_key.is_none());
    }

    #[test]
    fn a_file_that_is_open_or_wrong_is_told_of_without_its_text() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let environment = at(dir.path());
        let path = dir.path().join("ttdust/config.toml");
        fs::create_dir(dir.path().join("ttdust")).expect("created");
        for (text, part) in [
            ("[profiles.a]\napi_key = \"s3cret\"\n", "chmod 600"),
            ("[profiles.a]\napi_key = s3cret\n", "line 2"),
            ("[profiles.a]\napi_kye = \"s3cret\"\n", "api_kye"),
        ] {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
            let told = Profiles::read(&environment).err().expect("refused").told();
            assert!(told.contains(part) && !told.contains("s3cret"), "{told}");
        }
    }
}
