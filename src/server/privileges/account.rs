//! Another user, taken on.
//!
//! In go a user, a group and the name that further groups go by; out comes a process that is that
//! user in all its threads, for good, or why it is not. Who that should be is not known here.

use std::ffi::CString;

use nix::unistd::{Gid, Uid, initgroups, setgroups, setresgid, setresuid};

/// Groups before the user: afterwards nobody would be let change them.
pub(super) fn switch(uid: Uid, gid: Gid, name: Option<&str>) -> nix::Result<()> {
    match name.and_then(|name| CString::new(name).ok()) {
        Some(name) => initgroups(&name, gid)?,
        None => setgroups(&[gid])?,
    }
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}
