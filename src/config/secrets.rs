//! Values with a password in them: never shown whole, neither by `Debug` nor in a message.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// What stands for a password.
pub(super) const HIDDEN: &str = "***";

/// No file or line with a secret is as long.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The text of a file with a secret. Blocking.
///
/// # Errors
/// The system's; it is no text.
pub fn read_secret(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Where a Redis is, and how to be let in.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The whole URL, to connect with.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

/// A URL without its password. Of text that is no URL, all before the last `@` counts as one.
pub(super) fn without_password(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else { return url.to_owned() };
    let (scheme, rest) =
        before.split_once("://").map_or((String::new(), before), |(s, rest)| (format!("{s}://"), rest));
    match rest.split_once(':') {
        Some((user, _)) if !scheme.is_empty() => format!("{scheme}{user}:{HIDDEN}@{host}"),
        _ => format!("{scheme}{HIDDEN}@{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("redis://cache:6379/1", "redis://cache:6379/1"),
            ("redis://:s3cret@cache", "redis://:***@cache"),
            ("redis://user:s3:c@ret@cache:1", "redis://user:***@cache:1"),
            ("redis://s3cret@cache", "redis://***@cache"),
            ("user:s3cret@cache", "***@cache"),
        ] {
            assert_eq!(without_password(url), shown);
            assert_eq!(format!("{:?}", RedisUrl::new(url)), shown);
        }
    }
}
