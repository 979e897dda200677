//! Files of the kernel, below a directory that tests can put in place of `/`.
//!
//! In go paths such as `proc/sys/net/core/somaxconn`; out come short texts and numbers, or nothing
//! where the kernel does not tell: a container hides some of them. Nothing is ever written.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A machine with 10,000 sockets has tables of this order; what is beyond is not read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where `proc` and `sys` are.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// The machine's own.
    pub(crate) fn system() -> Self {
        Self(PathBuf::from("/"))
    }

    #[cfg(test)]
    pub(super) fn within(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A whole file, without the white space around it.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.0.join(path)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A setting of sysctl(8), by the name that it has there.
    pub(super) fn sysctl(&self, name: &str) -> Option<u64> {
        self.number(&format!("proc/sys/{}", name.replace('.', "/")))
    }

    /// What stands behind `name` in a file with one `name: value` to a line.
    pub(super) fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.text(path)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    /// The names in a folder; none where it cannot be read.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// What a symbolic link says.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        fs::read_link(self.0.join(path)).ok()?.into_os_string().into_string().ok()
    }
}
