//! Which objects an import reads, in which order; settled once, so that every run of it reads the same.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use ttdust_shards::parquet::source::{FileSource, OpenSource};

use super::{input::Broken, spec::Place};
use crate::{
    config::ImportRoot,
    objects::{ForeignObjects, LIST_MAX, ObjectEntry, ObjectError},
};

/// Objects of one import.
const OBJECTS_MAX: usize = 10_000;
/// Folders inside each other.
const DEPTH_MAX: usize = 16;

/// An object, as it was when it was listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    /// Its path or key, as messages show it.
    pub(super) name: String,
    /// Its length.
    pub(super) bytes: u64,
    /// What tells it from another in its place: when it was changed.
    pub(super) mark: String,
}

/// The objects of a place on this machine. Blocking.
pub(super) fn list(place: &Place, roots: &[ImportRoot]) -> Result<Vec<Object>, Broken> {
    let mut found = match place {
        Place::Local { path, is_folder } => {
            let path = resolved(path, roots)?;
            let mut found = Vec::new();
            match *is_folder {
                true => folder(&path, roots, 0, &mut found)?,
                false => found.push(local(&path)?),
            }
            found
        }
        Place::S3 { .. } => unreachable!("a bucket is asked by `list_bucket`"),
    };
    found.sort_by(|a, b| a.name.cmp(&b.name));
    not_empty(found)
}

fn not_empty(found: Vec<Object>) -> Result<Vec<Object>, Broken> {
    if found.is_empty() { Err(Broken("there is no object under source_uri".to_owned())) } else { Ok(found) }
}

/// The objects of a bucket: the one of this key, or all whose keys begin so.
pub(super) async fn list_bucket(
    objects: &ForeignObjects,
    key: &str,
    is_folder: bool,
) -> Result<Vec<Object>, ObjectError> {
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = objects.list(key, after.as_deref(), LIST_MAX).await?;
        after = page.last().map(|entry| entry.key.clone());
        let is_last = page.len() < LIST_MAX || !is_folder;
        // What other tools put beside their data, and folders that some of them make.
        let is_data =
            |key: &str| !key.rsplit('/').next().is_none_or(|name| name.is_empty() || name.starts_with(['.', '_']));
        let wanted = |entry: &ObjectEntry| if is_folder { is_data(&entry.key) } else { entry.key == key };
        found.extend(page.into_iter().filter(wanted).map(|entry| Object {
            name: entry.key,
            bytes: entry.bytes,
            mark: entry.modified_unix_micros.to_string(),
        }));
        if is_last || found.len() > OBJECTS_MAX {
            return Ok(found);
        }
    }
}

/// What was listed, if it can be imported.
pub(super) fn checked(found: Vec<Object>) -> Result<Vec<Object>, Broken> {
    if found.len() > OBJECTS_MAX {
        return Err(Broken(format!("more than {OBJECTS_MAX} objects: import them in parts")));
    }
    not_empty(found)
}

/// Where a path leads, links followed, if that is under a root.
fn resolved(path: &Path, roots: &[ImportRoot]) -> Result<PathBuf, Broken> {
    let real = fs::canonicalize(path).map_err(|error| told(path, &error))?;
    let is_under = |root: &ImportRoot| match root {
        ImportRoot::Directory(root) => fs::canonicalize(root).is_ok_and(|root| real.starts_with(root)),
        ImportRoot::Bucket { .. } => false,
    };
    if roots.iter().any(is_under) {
        Ok(real)
    } else {
        Err(Broken(format!("{} is a link that leads out of import.roots", path.display())))
    }
}

fn told(path: &Path, error: &io::Error) -> Broken {
    Broken(format!("{}: {error}", path.display()))
}

fn folder(path: &Path, roots: &[ImportRoot], depth: usize, found: &mut Vec<Object>) -> Result<(), Broken> {
    if depth > DEPTH_MAX {
        return Err(Broken(format!("{}: more than {DEPTH_MAX} folders inside each other", path.display())));
    }
    for entry in fs::read_dir(path).map_err(|error| told(path, &error))? {
        let entry = entry.map_err(|error| told(path, &error))?;
        // What other tools put beside their data.
        if entry.file_name().to_string_lossy().starts_with(['.', '_']) {
            continue;
        }
        let inner = resolved(&entry.path(), roots)?;
        let metadata = fs::metadata(&inner).map_err(|error| told(&inner, &error))?;
        if metadata.is_dir() {
            folder(&inner, roots, depth + 1, found)?;
        } else if metadata.is_file() {
            found.push(local(&inner)?);
        }
        if found.len() > OBJECTS_MAX {
            return Err(Broken(format!("more than {OBJECTS_MAX} objects: import them in parts")));
        }
    }
    Ok(())
}

/// A file as it is now.
fn local(path: &Path) -> Result<Object, Broken> {
    let metadata = fs::metadata(path).map_err(|error| told(path, &error))?;
    if !metadata.is_file() {
        return Err(Broken(format!("{} is no file; put a slash after the name of a folder", path.display())));
    }
    let name = path.to_str().ok_or_else(|| Broken(format!("{}: its name is not UTF-8", path.display())))?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mark = changed.map_or(0, |time| time.as_nanos()).to_string();
    Ok(Object { name: name.to_owned(), bytes: metadata.len(), mark })
}

impl Object {
    /// The object, if it is still what it was; of a bucket that was looked at before. Blocking.
    pub(super) fn open(&self, bucket: Option<&ForeignObjects>) -> Result<OpenSource, Broken> {
        if let Some(bucket) = bucket {
            return Ok(bucket.source(&self.name, self.bytes).open()?);
        }
        let path = PathBuf::from(&self.name);
        if local(&path)? != *self {
            return Err(Broken(format!("{} was changed since the import began: import it anew", self.name)));
        }
        FileSource::from(path.clone()).open().map_err(|error| told(&path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_a_folder_are_listed_in_the_order_of_their_names_and_no_link_leads_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("in");
        fs::create_dir_all(root.join("b")).expect("made");
        for name in ["c.jsonl", "b/a.jsonl", "_SUCCESS", ".hidden", "a.jsonl"] {
            fs::write(root.join(name), name).expect("written");
        }
        let outside = dir.path().join("secret");
        fs::write(&outside, "x").expect("written");
        let roots = [ImportRoot::Directory(root.clone())];
        let place = |path: PathBuf, is_folder| Place::Local { path, is_folder };
        let names = |listed: Vec<Object>| -> Vec<String> {
            let real = fs::canonicalize(&root).expect("it is there");
            let of =
                |object: Object| object.name.strip_prefix(real.to_str().expect("UTF-8")).expect("under it").to_owned();
            listed.into_iter().map(of).collect()
        };
        let listed = list(&place(root.clone(), true), &roots).expect("listed");
        assert_eq!(names(listed.clone()), ["/a.jsonl", "/b/a.jsonl", "/c.jsonl"]);
        assert_eq!(names(list(&place(root.join("a.jsonl"), false), &roots).expect("listed")), ["/a.jsonl"]);
        assert!(list(&place(root.join("b"), false), &roots).is_err(), "a folder is no file");
        assert!(list(&place(root.join("none"), false), &roots).is_err());
        std::os::unix::fs::symlink(&outside, root.join("link")).expect("linked");
        for path in [root.join("link"), root.clone()] {
            let is_folder = path == root;
            let broken = list(&place(path, is_folder), &roots).expect_err("a link that leads out");
            assert!(broken.0.contains("leads out"), "{broken}");
        }
        listed[0].open(None).expect("as it was");
        fs::write(root.join("a.jsonl"), "another").expect("written");
        assert!(listed[0].open(None).expect_err("another").0.contains("was changed"));
    }
}
