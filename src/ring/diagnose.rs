//! Why io_uring cannot be used here, and what to change: one line with cause and cure.
//!
//! In: the error of io_uring_setup(2), and what can be read about this process and this kernel.
//! Out: text that names a seccomp filter, the sysctl, the kernel's version or RLIMIT_MEMLOCK, with
//! the flag to add. It never opens a ring.
//!
//! A filter and the sysctl both answer EPERM to io_uring_setup. What tells them apart are the other
//! two calls: for a descriptor that is not open the kernel answers EBADF to anybody, and any other
//! answer is a filter's.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit};

/// What ringway is written for. Older kernels may do: they are tried, and refuse by themselves.
const KERNEL_WANTED: &str = "Linux 6.1 or later";

/// The first kernel with io_uring.
const KERNEL_FIRST: (u32, u32) = (5, 1);

/// A descriptor that no process has open: it is above any limit on open files.
const NO_DESCRIPTOR: libc::c_int = libc::c_int::MAX;

const MEMLOCK_CURE: &str = "docker `--ulimit memlock=-1:-1`, systemd `LimitMEMLOCK=infinity`, a \
     shell `ulimit -l unlimited`";

/// One line with cause and cure for an error of io_uring_setup(2).
pub(crate) fn diagnose(error: &io::Error) -> String {
    Facts::read(error.raw_os_error()).diagnose(error)
}

/// The same for a filter that lets io_uring_setup pass but not the calls that use the ring.
pub(super) fn blocked_calls() -> Option<String> {
    let facts = Facts::read(None);
    (!facts.blocked.is_empty()).then(|| facts.name_filter())
}

/// What is known about this process and the kernel that it runs on.
#[derive(Clone, Debug)]
struct Facts {
    errno: Option<i32>,
    /// Of io_uring_enter and io_uring_register, those that do not reach the kernel.
    blocked: Vec<&'static str>,
    has_filter: bool,
    /// `kernel.io_uring_disabled`, which Linux has had since 6.6.
    disabled: Option<u32>,
    /// What uname(2) calls the release, such as `6.1.0-18-amd64`.
    release: String,
    memlock_bytes: u64,
}

impl Facts {
    fn read(errno: Option<i32>) -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let is_filter =
            |line: &str| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2");
        Self {
            errno,
            blocked: blocked(),
            has_filter: text("/proc/self/status").lines().any(is_filter),
            disabled: text("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            release: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            memlock_bytes: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
        }
    }

    fn diagnose(&self, error: &io::Error) -> String {
        match self.errno {
            Some(libc::EPERM | libc::EACCES) => self.diagnose_permission(),
            Some(libc::ENOSYS) => self.diagnose_absence(),
            Some(libc::ENOMEM) => format!(
                "io_uring could not lock memory for its queues (ENOMEM): RLIMIT_MEMLOCK is {} \
                 bytes, for everything that this user runs. Raise it ({MEMLOCK_CURE}) or grant \
                 CAP_IPC_LOCK",
                self.memlock_bytes
            ),
            Some(libc::EINVAL) => format!(
                "io_uring refused every set of flags (EINVAL): this kernel ({}) is too old. Run on \
                 {KERNEL_WANTED}",
                self.release
            ),
            Some(libc::EMFILE | libc::ENFILE) => format!(
                "io_uring could not open its descriptor ({error}): too many files are open. Raise \
                 the limit (docker `--ulimit nofile=65536:65536`, systemd `LimitNOFILE=65536`, a \
                 shell `ulimit -n 65536`)"
            ),
            _ => format!("io_uring could not be set up: {error}"),
        }
    }

    fn diagnose_permission(&self) -> String {
        match (self.disabled, self.blocked.is_empty()) {
            (Some(1 | 2), true) => self.name_sysctl(),
            // Two locks on one door: who opens the first only comes back with the second.
            (Some(1 | 2), false) => format!("{}. And {}", self.name_filter(), self.name_sysctl()),
            _ if self.has_filter => self.name_filter(),
            _ => "io_uring is not permitted here (EPERM), by neither a seccomp filter nor \
                  kernel.io_uring_disabled: a security module such as SELinux forbids it, and its \
                  log says which rule"
                .to_owned(),
        }
    }

    fn diagnose_absence(&self) -> String {
        if version(&self.release).is_some_and(|version| version < KERNEL_FIRST) {
            format!(
                "io_uring is not available (ENOSYS): this kernel calls itself {}, which is too \
                 old, or is the sandbox gVisor. Run on {KERNEL_WANTED}, or with `--runtime runc`",
                self.release
            )
        } else if self.has_filter {
            self.name_filter()
        } else {
            format!(
                "io_uring is not available (ENOSYS): this kernel ({}) was built without \
                 CONFIG_IO_URING, or a sandbox hides it. Run on {KERNEL_WANTED} that has it",
                self.release
            )
        }
    }

    fn name_filter(&self) -> String {
        let mut calls = self.blocked.clone();
        if self.errno.is_some() {
            calls.insert(0, "io_uring_setup");
        }
        format!(
            "io_uring is blocked by a seccomp filter ({}), as Docker 25+, containerd 2+ and Podman \
             do by default. Allow it: docker and podman `--security-opt \
             seccomp=docker/seccomp.json`, Kubernetes a seccompProfile of type Localhost \
             (docker/kubernetes), systemd `SystemCallFilter=@system-service @aio`",
            calls.join(", ")
        )
    }

    fn name_sysctl(&self) -> String {
        let (value, whom) = match self.disabled {
            Some(1) => (1, "kept for privileged users and kernel.io_uring_group"),
            _ => (2, "switched off"),
        };
        format!(
            "io_uring is {whom} on this machine (kernel.io_uring_disabled = {value}). Run `sysctl \
             -w kernel.io_uring_disabled=0` on the host"
        )
    }
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The calls that a filter answers in the kernel's place.
fn blocked() -> Vec<&'static str> {
    let calls = [
        (libc::SYS_io_uring_enter, "io_uring_enter"),
        (libc::SYS_io_uring_register, "io_uring_register"),
    ];
    calls.into_iter().filter(|(number, _)| !reaches_kernel(*number)).map(|(_, name)| name).collect()
}

fn reaches_kernel(call: libc::c_long) -> bool {
    // SAFETY: the descriptor is not open, so that the kernel refuses the call before it looks at
    // the arguments; all of them are 0, which is no pointer that it could follow.
    let result = unsafe { libc::syscall(call, NO_DESCRIPTOR, 0, 0, 0, 0, 0) };
    result != -1 || io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: [&str; 2] = ["io_uring_enter", "io_uring_register"];

    /// An unfettered process on a current kernel.
    fn facts(errno: i32) -> Facts {
        Facts {
            errno: Some(errno),
            blocked: Vec::new(),
            has_filter: false,
            disabled: Some(0),
            release: "6.1.0-18-amd64".to_owned(),
            memlock_bytes: 65_536,
        }
    }

    #[track_caller]
    fn expect(facts: Facts, words: &[&str], others: &[&str]) {
        let errno = facts.errno.unwrap();
        let text = facts.diagnose(&io::Error::from_raw_os_error(errno));
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        for other in others {
            assert!(!text.contains(other), "{other:?} is in {text:?}");
        }
        assert!(!text.contains('\n') && !text.contains("  "), "{text:?}");
    }

    const FILTER: &str = "--security-opt seccomp=docker/seccomp.json";
    const SYSCTL: &str = "sysctl -w kernel.io_uring_disabled=0";

    #[test]
    fn a_filter_is_told_from_the_sysctl_whatever_else_is_set() {
        let docker = Facts { blocked: USUAL.to_vec(), has_filter: true, ..facts(libc::EPERM) };
        expect(docker.clone(), &[FILTER, "(io_uring_setup, io_uring_enter"], &[SYSCTL]);
        // Nearly every container has a filter; one that lets the calls pass is not to blame.
        let container = Facts { has_filter: true, ..facts(libc::EPERM) };
        for value in [1, 2] {
            let switched_off = Facts { disabled: Some(value), ..container.clone() };
            expect(switched_off, &[SYSCTL, &format!("= {value})")], &[FILTER]);
            expect(Facts { disabled: Some(value), ..docker.clone() }, &[FILTER, SYSCTL], &[]);
        }
        expect(container, &[FILTER, "(io_uring_setup)"], &[SYSCTL]);
    }

    #[test]
    fn without_filter_and_sysctl_it_is_a_security_module() {
        expect(facts(libc::EPERM), &["security module"], &[FILTER, SYSCTL]);
        expect(facts(libc::EACCES), &["security module"], &[FILTER, SYSCTL]);
        // Kernels before 6.6 have no such sysctl.
        expect(Facts { disabled: None, ..facts(libc::EPERM) }, &["security module"], &[SYSCTL]);
    }

    #[test]
    fn an_absent_call_is_an_old_kernel_a_filter_or_a_kernel_without_it() {
        let podman = Facts { blocked: USUAL.to_vec(), has_filter: true, ..facts(libc::ENOSYS) };
        expect(podman.clone(), &[FILTER], &["too old"]);
        let old = Facts { release: "4.19.0-26-amd64".to_owned(), ..podman };
        expect(old, &["too old", "4.19.0-26-amd64", "6.1 or later"], &[FILTER]);
        let bare = Facts { blocked: USUAL.to_vec(), ..facts(libc::ENOSYS) };
        expect(bare, &["CONFIG_IO_URING", "6.1.0-18-amd64"], &[FILTER, "too old"]);
    }

    #[test]
    fn limits_and_flags_name_their_number_and_cure() {
        let memlock = ["65536 bytes", "--ulimit memlock=-1:-1", "LimitMEMLOCK=infinity"];
        expect(facts(libc::ENOMEM), &memlock, &[FILTER]);
        expect(facts(libc::EINVAL), &["too old", "6.1.0-18-amd64", "6.1 or later"], &[FILTER]);
        expect(facts(libc::EMFILE), &["--ulimit nofile=65536:65536"], &["memlock"]);
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("4.4.0"), Some((4, 4)));
        assert_eq!(version(""), None);
        assert_eq!(version("next-20260101"), None);
    }

    #[test]
    fn the_calls_reach_the_kernel_that_the_tests_run_on() {
        assert_eq!(blocked(), Vec::<&str>::new());
    }
}
