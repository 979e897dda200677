//! What tells one content of a file from another, without reading either.
//!
//! In goes a path; out comes a value that is another one when the file has been written, or when
//! another file has taken its place, be it behind a link. Nothing is opened.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Two that are equal stand for the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where there is no such file, or none that this process can see.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        let changed = (file.mtime(), file.mtime_nsec());
        Some(Self { inode: file.ino(), bytes: file.len(), changed })
    }
}
