//! What the process may do once it runs: as whom, and what it can never do again.
//!
//! In goes `server.user` with its kin, before there is a second thread; out comes an identity that
//! is taken on when everything has been bound and before a worker starts, or a refusal that names
//! all that reload, renewal, upgrade and the reopening of logs would lack as that user, each with
//! its cure. Rights that are given up are not had again by this process nor by one that takes over.

mod account;
mod confine;
pub(crate) mod exposed;
mod needs;
pub(crate) mod trial;

use std::path::Path;

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::unistd::{Gid, Group, Uid, User, chown, getegid, geteuid, setresuid};

use self::account::switch;
pub(crate) use self::confine::{Confined, confined, inherit, told};
use self::needs::Needs;
use self::trial::Trial;
use crate::config::{Config, ServerConfig};

/// Whom the process is to be.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    uid: Uid,
    gid: Gid,
    /// Whose further groups it gets; a number has none.
    name: Option<String>,
    shown: String,
}

/// Gives up what can be given up before anything is open, and finds out who to become then. To be
/// called before there is a second thread: what is forbidden here is forbidden to all that follow.
pub(crate) fn prepare(
    config: &Config,
    source: Option<&Path>,
    program: &Path,
) -> Result<Option<Identity>, String> {
    let server = &config.server;
    let identity = wanted(server)?;
    let needs = Needs::of(config, source, program);
    if let Some(identity) = &identity {
        let (uid, gid) = (identity.uid.as_raw(), identity.gid.as_raw());
        Trial::new(uid, gid, identity.name.as_deref(), &needs).run(program, &identity.shown)?;
        // Of the user it would be what the limit says, of which the rings of later workers are.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    }
    if !server.user.is_empty() || server.landlock || server.seccomp {
        let failed = |error| format!("no_new_privs cannot be set: {error}");
        prctl::set_no_new_privs().map_err(failed)?;
    }
    confine::confine(server, &needs)?;
    Ok(identity)
}

/// `None`: nobody else than it is already.
fn wanted(server: &ServerConfig) -> Result<Option<Identity>, String> {
    if server.user.is_empty() {
        return Ok(None);
    }
    let identity = resolve(&server.user, &server.group)?;
    if geteuid() == identity.uid && getegid() == identity.gid {
        return Ok(None);
    }
    if !geteuid().is_root() {
        return Err(format!(
            "server.user = {:?} cannot be taken on by the user {}: start as root, or leave it out \
             and let the service manager choose the user (User= of systemd, --user of docker)",
            server.user,
            geteuid()
        ));
    }
    Ok(Some(identity))
}

fn resolve(user: &str, group: &str) -> Result<Identity, String> {
    let no_user = || {
        format!(
            "server.user = {user:?}: there is no such user: make one (useradd --system {user}), or \
             write a number, with server.group"
        )
    };
    let found = match user.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
        Err(_) => Some(User::from_name(user).ok().flatten().ok_or_else(no_user)?),
    };
    let uid = found.as_ref().map(|it| it.uid).or(user.parse().ok().map(Uid::from_raw));
    let uid = uid.ok_or_else(no_user)?;
    let gid = match group {
        "" => found.as_ref().map(|it| it.gid).ok_or_else(|| {
            format!("server.user = {user:?} is no user with a group: set server.group")
        })?,
        group => {
            if let Ok(gid) = group.parse::<u32>() {
                Gid::from_raw(gid)
            } else {
                let found = Group::from_name(group).ok().flatten();
                found
                    .ok_or_else(|| format!("server.group = {group:?}: there is no such group"))?
                    .gid
            }
        }
    };
    if uid.is_root() {
        return Err("server.user is root, which has every right: leave it out".to_owned());
    }
    Ok(Identity { uid, gid, name: found.map(|it| it.name), shown: user.to_owned() })
}

impl Identity {
    /// Gives the file of a socket that root has bound to whom it is for.
    pub(crate) fn own(&self, path: &Path) {
        if let Err(error) = chown(path, Some(self.uid), Some(self.gid)) {
            tracing::warn!("{} stays root's: {error}", path.display());
        }
    }

    /// Becomes that user, for good and in all threads. What has been opened stays open.
    pub(crate) fn take_on(&self) -> Result<(), String> {
        let failed = |what: &'static str| {
            move |error| {
                format!(
                    "server.user: {what}: {error}; start as root with CAP_SETUID and CAP_SETGID"
                )
            }
        };
        switch(self.uid, self.gid, self.name.as_deref())
            .map_err(failed("the user cannot be taken on"))?;
        if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
            return Err(
                "server.user: root could be had again, so that nothing was given up".to_owned()
            );
        }
        // A process that was another one's hides its own /proc from itself.
        let _ = prctl::set_dumpable(true);
        tracing::info!(
            user = self.shown,
            uid = self.uid.as_raw(),
            gid = self.gid.as_raw(),
            "root's rights are given up, with all capabilities"
        );
        Ok(())
    }
}
