//! Landlock and seccomp: what the process can no longer do even as who it is.
//!
//! In go the keys and what is needed of the file system; out come rules that the kernel keeps for
//! this process and all that come of it, or what stands in their way. Nothing that is needed to
//! serve, to reload what the configuration names now, to renew and to upgrade is taken away. A
//! process that takes over from one that has done so has these rules already, and adds none: the
//! kernel keeps sixteen rulesets of Landlock for a process and those that come of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};
use serde::{Deserialize, Serialize};

use super::needs::Needs;
use crate::config::ServerConfig;

/// Where libraries, names, time zones, authorities and the kernel's own figures are.
const SYSTEM: [&str; 11] = [
    "/bin",
    "/etc",
    "/lib",
    "/lib64",
    "/nix/store",
    "/opt",
    "/proc",
    "/run",
    "/sys",
    "/usr",
    "/var/run",
];

/// Calls that no proxy makes, whatever its configuration: they change the machine, other processes
/// or what a process is made of. To ask for one is an error (EPERM), and ends nothing.
const NEVER: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[libc::c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[libc::c_long] = &[];

/// What this process, or one that it comes of, has given up.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Confined {
    landlock: bool,
    seccomp: bool,
}

static CONFINED: Mutex<Confined> = Mutex::new(Confined { landlock: false, seccomp: false });

/// For a process that is to take over.
pub(crate) fn confined() -> Confined {
    *CONFINED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process that this one takes over from has given that up.
pub(crate) fn inherit(confined: Confined) {
    *CONFINED.lock().unwrap_or_else(PoisonError::into_inner) = confined;
}

/// What was done is for [`told`], once there is a log.
pub(super) fn confine(server: &ServerConfig, needs: &Needs) -> Result<(), String> {
    let mut done = confined();
    if server.landlock && !done.landlock {
        let cure = "set server.landlock = false, or use a kernel with Landlock in its lsm= list";
        landlock(needs).map_err(|error| format!("server.landlock: {error}; {cure}"))?;
        done.landlock = true;
    }
    if server.seccomp && !done.seccomp {
        let cure = "set server.seccomp = false, or use a kernel with seccomp filters";
        seccomp().map_err(|error| format!("server.seccomp: {error}; {cure}"))?;
        done.seccomp = true;
    }
    inherit(done);
    Ok(())
}

fn landlock(needs: &Needs) -> Result<(), String> {
    let abi = ABI::V3;
    let said = |error: landlock::RulesetError| error.to_string();
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(Ruleset::create)
        .map_err(said)?;
    let read = AccessFs::from_read(abi);
    let all = AccessFs::from_all(abi);
    let folder = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
    let system = SYSTEM.iter().map(PathBuf::from);
    let named = needs.read.iter().map(|(_, path)| folder(path));
    let program = std::iter::once(folder(&needs.program));
    let logs = needs.append.iter().map(|(_, path)| folder(path));
    let folders = needs.folders.iter().map(|(_, path)| path.clone());
    let rules = system.chain(named).chain(program).map(|path| (path, read));
    let rules =
        rules.chain(logs.chain(folders).chain([PathBuf::from("/dev")]).map(|path| (path, all)));
    for (path, access) in rules {
        // What is not there now is not there for anybody.
        let Ok(path) = PathFd::new(&path) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(path, access)).map_err(said)?;
    }
    let status = ruleset.restrict_self().map_err(said)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel does not have it".to_owned()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

fn seccomp() -> Result<(), String> {
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        NEVER.iter().chain(NEVER_HERE).map(|call| (*call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())?;
    apply_filter_all_threads(&filter).map_err(|error| error.to_string())
}

/// Says what the process has given up.
pub(crate) fn told(server: &ServerConfig) {
    if !server.user.is_empty() || server.landlock || server.seccomp {
        tracing::info!(
            no_new_privs = true,
            landlock = server.landlock,
            seccomp = server.seccomp,
            "rights that no process of this one can have again"
        );
    }
}
