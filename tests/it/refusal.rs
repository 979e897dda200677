//! Where io_uring is denied, ringway says by what and what to change, and exits with 1.
//!
//! Comes in: the program below a real seccomp filter, or with no memory to lock. Goes out: its last
//! words. The sysctl and old kernels concern the whole machine; `ring::diagnose` tests those.

use crate::support::{BINARY, ringway, run};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

/// Refuses `calls` with `errno`, as a container's profile does.
fn below_a_filter(calls: &[libc::c_long], errno: i32) -> Output {
    let mut command = ringway();
    command.args(["--port", "0", "--upstream", "http://127.0.0.1:9"]);
    let program = filter(calls, errno);
    // SAFETY: between fork and exec only two system calls are made, on memory that was there.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || install(&program));
    }
    run(command)
}

/// Loads the number of the call, compares it with each, and answers.
fn filter(calls: &[libc::c_long], errno: i32) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, value: u32, jump_true: usize| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: u8::try_from(jump_true).unwrap(),
        jf: 0,
        k: value,
    };
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        let number = u32::try_from(*call).unwrap();
        // Over the calls that are left and the permission, to the refusal.
        let jump = calls.len() - index;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, jump));
    }
    let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    program.push(instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, refusal, 0));
    program
}

#[allow(unsafe_code)]
fn install(program: &[libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call, which copies it.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[track_caller]
fn expect_refusal(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

const FLAG: &str = "--security-opt seccomp=docker/seccomp.json";

const CALLS: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

#[test]
fn a_profile_without_io_uring_is_named_with_the_flag_to_add() {
    // As Docker and containerd refuse, and as Podman does.
    for errno in [libc::EPERM, libc::ENOSYS] {
        let output = below_a_filter(&CALLS, errno);
        expect_refusal(
            &output,
            &["seccomp filter (io_uring_setup, io_uring_enter, io_uring_register)", FLAG],
        );
    }
}

#[test]
fn a_profile_that_forgot_a_call_is_told_which() {
    for (call, name) in [
        (libc::SYS_io_uring_setup, "(io_uring_setup)"),
        (libc::SYS_io_uring_enter, "(io_uring_enter)"),
        (libc::SYS_io_uring_register, "(io_uring_register)"),
    ] {
        expect_refusal(&below_a_filter(&[call], libc::EPERM), &[name, FLAG]);
    }
}

#[test]
fn no_lockable_memory_at_all_is_named_with_its_limit() {
    // Root may lock all it wants, so the program runs as nobody.
    let mut launcher = "ulimit -l 0 && exec ".to_owned();
    if nix::unistd::geteuid().is_root() {
        launcher += "setpriv --reuid=65534 --regid=65534 --clear-groups ";
    }
    let shell = |program: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{launcher}{program}")]);
        command
    };
    if !shell(&format!("test -x {BINARY}")).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: setpriv(1) is missing, or nobody may not start {BINARY}");
        return;
    }
    let output = run(shell(&format!("{BINARY} --port 0 --upstream http://127.0.0.1:9")));
    expect_refusal(&output, &["RLIMIT_MEMLOCK is 0 bytes", "--ulimit memlock=-1:-1"]);
}
