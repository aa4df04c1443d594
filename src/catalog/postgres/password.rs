//! With which password to log in: a text from the settings, or from a file that is read again on SIGHUP. Never shown.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use crate::config::{PgPassword, Secret, read_secret};

/// Why there is no password. Says nothing of what the file holds.
#[derive(Debug, thiserror::Error)]
#[error("pg.password_path {path}: {reason}")]
pub struct PasswordError {
    path: PathBuf,
    reason: String,
}

/// A password that was read and is not in use yet.
#[derive(Debug)]
pub struct FreshPassword(Secret);

/// The password that connections are opened with, for all who open some.
#[derive(Debug, Clone)]
pub(super) struct Password {
    from: PgPassword,
    now: Arc<RwLock<Secret>>,
}

impl Password {
    /// Reads it. Blocking.
    pub(super) fn read(from: &PgPassword) -> Result<Self, PasswordError> {
        let FreshPassword(now) = read(from)?;
        Ok(Self { from: from.clone(), now: Arc::new(RwLock::new(now)) })
    }

    /// As it is now where it comes from. Blocking.
    pub(super) fn fresh(&self) -> Result<FreshPassword, PasswordError> {
        read(&self.from)
    }

    /// Connections that are opened from now on use this one.
    pub(super) fn set(&self, fresh: FreshPassword) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = fresh.0;
    }

    /// Empty: none.
    pub(super) fn now(&self) -> Secret {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(from: &PgPassword) -> Result<FreshPassword, PasswordError> {
    match from {
        PgPassword::Text(text) => Ok(FreshPassword(text.clone())),
        PgPassword::File(path) => {
            let error = |reason: String| PasswordError { path: path.clone(), reason };
            let text = read_secret(path).map_err(|e| error(e.to_string()))?;
            let password = line_of(&text).map_err(|reason| error(reason.into()))?;
            Ok(FreshPassword(Secret::new(password.to_owned())))
        }
    }
}

/// The one line of a file, as it is but for its end.
fn line_of(text: &str) -> Result<&str, &'static str> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line.contains(['\n', '\r', '\0']) || line.is_empty() {
        true => Err("want one line: the password"),
        false => Ok(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_line_and_a_message_shows_nothing_of_it() {
        for (text, password) in [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), (" a b \r\n", " a b ")] {
            assert_eq!(line_of(text), Ok(password));
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        let from = PgPassword::File(file.path().to_owned());
        for bad in ["", "\n", "s3cret\nmore", "s3cret\n\n", "s3c\0ret"] {
            std::fs::write(file.path(), bad).expect("written");
            let error = read(&from).expect_err("no password").to_string();
            assert!(error.contains("pg.password_path") && error.contains("one line"), "{error}");
            assert!(!error.contains("s3c"), "{error}");
        }
    }

    #[test]
    fn one_that_is_read_again_is_used_only_once_it_is_set() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "one\n").expect("written");
        let password = Password::read(&PgPassword::File(file.path().to_owned())).expect("a password");
        std::fs::write(file.path(), "two\n").expect("written");
        let fresh = password.fresh().expect("another");
        assert_eq!((password.now().reveal(), format!("{fresh:?}").contains("two")), ("one", false));
        password.set(fresh);
        assert_eq!(password.now().reveal(), "two");
    }
}
