//! The files of `deploy/`, read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::python;

/// The top of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the source tree.
pub fn text(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder of the source tree, as paths in it, sorted.
pub fn below(folder: &str) -> Vec<String> {
    let mut waiting = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            // What deploy/secrets.sh draws is nobody's business.
            let entries = fs::read_dir(path).expect("a listing").map(|entry| entry.expect("an entry").path());
            waiting.extend(entries.filter(|path| !path.ends_with("deploy/secrets")));
        } else {
            found.push(path.strip_prefix(root()).expect("below").to_str().expect("UTF-8").to_owned());
        }
    }
    found.sort();
    found
}

/// Those of them with this ending.
pub fn with_ending(folder: &str, ending: &str) -> Vec<String> {
    let found: Vec<_> = below(folder).into_iter().filter(|path| path.ends_with(ending)).collect();
    assert!(!found.is_empty(), "{folder} has no file that ends with {ending}");
    found
}

/// The documents of YAML files.
pub fn yaml_files(paths: &[String]) -> Vec<Vec<Value>> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| root().join(path)).collect();
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let output = python::run("yaml_to_json.py", &paths);
    assert!(output.status.success(), "{}", python::said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The only document of a YAML file.
pub fn yaml(path: &str) -> Value {
    let mut documents = yaml_files(&[path.to_owned()]).remove(0);
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

/// Whether a program is there, and what it is.
pub fn is_there(program: &[&str]) -> bool {
    let output = Command::new(program[0]).args(&program[1..]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs a program to its end, which must be a good one.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: `make test` installs it"));
    assert!(output.status.success(), "{command:?}: {}", python::said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The elements of a list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// A text.
pub fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
