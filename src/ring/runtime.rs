//! The runtime of a worker: a ring with the flags that pay, and a diagnosis where there is none.
//!
//! COOP_TASKRUN and SINGLE_ISSUER spare interrupts and locks (16 % of the CPU at 64 connections),
//! SUBMIT_ALL keeps one bad entry from holding the others back. DEFER_TASKRUN hangs in
//! tokio-uring's loop, which parks in epoll. Older kernels refuse a flag with EINVAL and then get
//! fewer; a low RLIMIT_MEMLOCK refuses the queues with ENOMEM and then gets smaller ones.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio_uring::Runtime;

const ENTRIES: u32 = 256;
const ENTRIES_MIN: u32 = 32;
/// Completion entries per submission entry: idle connections complete in bursts.
const COMPLETION_FACTOR: u32 = 16;
/// A ring that was closed just now is un-charged from RLIMIT_MEMLOCK asynchronously.
const MEMORY_RETRIES: u32 = 5;

/// Opens a ring and a runtime on the calling thread, which must be the one that uses it.
pub fn open() -> io::Result<Runtime> {
    let mut entries = ENTRIES;
    let mut flags = 0_usize;
    let mut retries = 0;
    loop {
        let mut ring = tokio_uring::uring_builder();
        ring.setup_cqsize(entries * COMPLETION_FACTOR);
        // From the best set of flags to the barest.
        if flags == 0 {
            ring.setup_single_issuer();
        }
        if flags <= 1 {
            ring.setup_coop_taskrun();
        }
        if flags <= 2 {
            ring.setup_submit_all();
        }
        match Runtime::new(tokio_uring::builder().entries(entries).uring_builder(&ring)) {
            Ok(runtime) => return Ok(runtime),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL) if flags < 3 => flags += 1,
                Some(libc::ENOMEM) if retries < MEMORY_RETRIES => {
                    retries += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Some(libc::ENOMEM) if entries > ENTRIES_MIN => entries /= 2,
                _ => return Err(error),
            },
        }
    }
}

/// Opens a ring and closes it again: the error says why io_uring cannot be used here.
pub fn probe() -> Result<(), String> {
    std::thread::spawn(|| open().map(drop))
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
        .map_err(|error| diagnose(&error))
}

/// One line with cause and cure for an error of io_uring_setup(2).
pub fn diagnose(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "io_uring is not available (ENOSYS): this kernel was built without \
             it or is too old, a sandbox such as gVisor has none, or a seccomp profile such as \
             Podman's hides it. Run on Linux 6.1 or later, with a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register"
            .to_owned(),
        Some(libc::EPERM | libc::EACCES) => diagnose_permission(),
        Some(libc::ENOMEM) => {
            let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
            format!(
                "io_uring could not lock memory for its queues (ENOMEM): RLIMIT_MEMLOCK is {limit} \
                 bytes for the whole user. Raise it (`ulimit -l unlimited`, docker `--ulimit \
                 memlock=-1:-1`, systemd `LimitMEMLOCK=infinity`) or grant CAP_IPC_LOCK"
            )
        }
        Some(libc::EINVAL) => "io_uring refused every set of flags (EINVAL): the kernel is too \
             old. Run on Linux 6.1 or later"
            .to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => format!(
            "io_uring could not open its descriptor ({error}): too many files are open. Raise \
             `ulimit -n`"
        ),
        _ => format!("io_uring could not be set up: {error}"),
    }
}

fn diagnose_permission() -> String {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match disabled.trim() {
        "2" => "io_uring is switched off on this machine (kernel.io_uring_disabled = 2). Run \
             `sysctl kernel.io_uring_disabled=0`"
            .to_owned(),
        "1" if !has_seccomp_filter() => "io_uring is kept for privileged users on this machine \
             (kernel.io_uring_disabled = 1). Run `sysctl kernel.io_uring_disabled=0`, or join the \
             group in kernel.io_uring_group"
            .to_owned(),
        _ if has_seccomp_filter() => "io_uring is blocked by a seccomp filter (EPERM): Docker 25+ \
             and containerd 2+ do so by default. Run the container with a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register (`docker run --security-opt \
             seccomp=FILE`; `seccomp=unconfined` shows whether that is it)"
            .to_owned(),
        _ => "io_uring is not permitted here (EPERM): a security module or sandbox forbids \
             io_uring_setup"
            .to_owned(),
    }
}

fn has_seccomp_filter() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().any(|line| line.starts_with("Seccomp:") && line.trim_end().ends_with('2'))
    })
}

/// Ends everything that is still pending on the worker's ring when it stops.
///
/// The runtime is not dropped: tokio-uring frees the buffers of pending operations before it
/// cancels them. Its memory goes back with the process, or stays as one ring per stopped worker.
pub fn leave(runtime: Runtime) {
    std::mem::forget(runtime);
}
