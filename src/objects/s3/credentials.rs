//! Who we are to the store: two texts, and a third for temporary ones, from the settings or from a file that is read again on
//! SIGHUP. Never shown.

use std::path::PathBuf;

use rusty_s3::Credentials;

use crate::config::{S3Credentials, read_secret};

const PROFILE: &str = "default";

/// Why there are no credentials. Says nothing of what the file holds.
#[derive(Debug, thiserror::Error)]
#[error("s3.credentials_path {path}: {reason}")]
pub struct CredentialsError {
    path: PathBuf,
    reason: String,
}

/// Credentials that were read and are not in use yet.
pub struct FreshCredentials(pub(super) Credentials);

impl std::fmt::Debug for FreshCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FreshCredentials(..)")
    }
}

/// Reads them. Blocking.
pub(super) fn read(from: &S3Credentials) -> Result<FreshCredentials, CredentialsError> {
    match from {
        S3Credentials::Keys { access_key, secret_key } => {
            Ok(FreshCredentials(Credentials::new(access_key.as_str(), secret_key.reveal())))
        }
        S3Credentials::File(path) => {
            let error = |reason: String| CredentialsError { path: path.clone(), reason };
            let text = read_secret(path).map_err(|e| error(e.to_string()))?;
            parse(&text).map(FreshCredentials).map_err(|reason| error(reason.into()))
        }
    }
}

/// The profile `default` of an AWS file, or two lines: access key and secret key; a third is a session token.
fn parse(text: &str) -> Result<Credentials, &'static str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    if lines.clone().any(|line| line.starts_with('[')) {
        return parse_profile(lines);
    }
    match lines.collect::<Vec<_>>()[..] {
        [key, secret] if !key.contains('=') => Ok(Credentials::new(key, secret)),
        [key, secret, token] if !key.contains('=') => Ok(Credentials::new_with_token(key, secret, token)),
        _ => Err("want an AWS file with a profile [default], or two lines: the access key and the secret key"),
    }
}

fn parse_profile<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Credentials, &'static str> {
    let (mut key, mut secret, mut token, mut ours) = (None, None, None, false);
    for line in lines {
        if let Some(profile) = line.strip_prefix('[') {
            ours = profile.trim_end_matches(']').trim() == PROFILE;
        } else if ours && let Some((name, value)) = line.split_once('=') {
            match name.trim() {
                "aws_access_key_id" => key = Some(value.trim()),
                "aws_secret_access_key" => secret = Some(value.trim()),
                "aws_session_token" => token = Some(value.trim()),
                _ => {}
            }
        }
    }
    match (key, secret, token) {
        (Some(key), Some(secret), None) => Ok(Credentials::new(key, secret)),
        (Some(key), Some(secret), Some(token)) => Ok(Credentials::new_with_token(key, secret, token)),
        _ => Err("its profile [default] lacks aws_access_key_id or aws_secret_access_key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<(String, String, Option<String>)> {
        let found = parse(text).ok()?;
        Some((found.key().to_owned(), found.secret().to_owned(), found.token().map(str::to_owned)))
    }

    #[test]
    fn both_kinds_of_files_are_read() {
        let plain = Some(("AK".into(), "s/e+c=".into(), None));
        let token = Some(("AK".into(), "s/e+c=".into(), Some("t==".into())));
        assert_eq!(parts("AK\ns/e+c=\n"), plain);
        assert_eq!(parts("# ours\n AK \r\n\ns/e+c=\n"), plain);
        assert_eq!(parts("AK\ns/e+c=\nt=="), token);
        let profiles = "[other]\naws_access_key_id = X\naws_secret_access_key = Y\n[default]\nregion = r\n\
                        aws_access_key_id=AK\naws_secret_access_key = s/e+c=\n";
        assert_eq!(parts(profiles), plain);
        assert_eq!(parts(&format!("{profiles}aws_session_token = t==\n[last]\naws_access_key_id = Z")), token);
        for bad in
            ["", "AK", "a\nb\nc\nd", "[default]\naws_access_key_id = AK", "[other]\nx = 1", "key = AK\nsecret = s"]
        {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_message_shows_nothing_of_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "s3cret").expect("written");
        let from = S3Credentials::File(file.path().to_owned());
        let error = read(&from).expect_err("no credentials").to_string();
        assert!(error.contains("two lines") && !error.contains("s3cret"), "{error}");
    }
}
