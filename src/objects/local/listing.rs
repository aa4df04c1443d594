//! A listing of a directory's files in the order of their keys, as a store that knows no directories gives it.
//!
//! A directory sorts as its name with a slash, so a walk in order of such names is in order of whole keys. Directories that
//! cannot hold a wanted key are not read; memory holds the names along one path.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{io_error, is_absent};
use crate::objects::{ObjectEntry, ObjectError};

/// See [`crate::objects::Objects::list`].
pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ObjectEntry>, ObjectError> {
    let mut walk = Walk { root, prefix, after, limit, found: Vec::new() };
    walk.directory("")?;
    Ok(walk.found)
}

struct Walk<'a> {
    root: &'a Path,
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    found: Vec<ObjectEntry>,
}

impl Walk<'_> {
    /// Takes what is wanted of the directory whose keys begin with `folder`, which is empty or ends with a slash. As deep as
    /// keys are: a few levels.
    fn directory(&mut self, folder: &str) -> Result<(), ObjectError> {
        let dir = self.root.join(folder);
        let failed = || io_error("cannot list", &dir);
        let entries = match fs::read_dir(&dir) {
            // It was removed since its parent was read.
            Err(error) if is_absent(&error) => return Ok(()),
            entries => entries.map_err(failed())?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let kind = entry.file_type().map_err(failed())?;
            let key = if kind.is_dir() { format!("{folder}{name}/") } else { format!("{folder}{name}") };
            if (kind.is_dir() && self.wants_folder(&key)) || (kind.is_file() && self.wants(&key)) {
                names.push(key);
            }
        }
        names.sort_unstable();
        for key in names {
            if self.found.len() == self.limit {
                return Ok(());
            }
            if key.ends_with('/') {
                self.directory(&key)?;
            } else {
                self.take(key)?;
            }
        }
        Ok(())
    }

    fn wants(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    /// Whether a key that begins with `folder` can be wanted.
    fn wants_folder(&self, folder: &str) -> bool {
        let on_the_way = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        on_the_way && self.after.is_none_or(|after| folder > after || after.starts_with(folder))
    }

    fn take(&mut self, key: String) -> Result<(), ObjectError> {
        let path = self.root.join(&key);
        let meta = match fs::metadata(&path) {
            // It was removed since its directory was read.
            Err(error) if is_absent(&error) => return Ok(()),
            meta => meta.map_err(io_error("cannot look at", &path))?,
        };
        let modified = meta.modified().map_err(io_error("cannot look at", &path))?;
        self.found.push(ObjectEntry { key, bytes: meta.len(), modified_unix_micros: micros(modified) });
        Ok(())
    }
}

fn micros(time: SystemTime) -> i64 {
    // A time before 1970 counts as 1970: as old as can be.
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
