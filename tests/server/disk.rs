//! A disk of a test's own, for which it must run as root.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A small disk of one's own.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounted at this directory, which is made; so large, as `mount` takes it.
    pub fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).expect("a directory");
        let options = format!("size={size}");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .output()
            .expect("`mount` is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "this test mounts a tmpfs, so it must run as root: {said}");
        Self(at.to_owned())
    }

    pub fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("it starts").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test leaves is killed after this.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
