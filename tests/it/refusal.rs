//! Where io_uring is denied, ringway serves without it and says by what, or where it is demanded
//! says what to change and exits with 1.
//!
//! Comes in: the program below a real seccomp filter, or with no memory to lock. Goes out: answers,
//! and one warning; or its last words. The sysctl and old kernels concern the whole machine;
//! `ring::diagnose` tests those.

use crate::support::{BINARY, GET, Home, OK, Origin, Proxy, Setup, ringway, run};
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

/// Refuses `calls` with `errno`, as a container's profile does.
fn below_a_filter(calls: &[libc::c_long], errno: i32) -> Output {
    let mut command = ringway();
    command.args(["--port", "0", "--upstream", "http://127.0.0.1:9"]);
    command.args(["--set", "server.driver=io_uring"]);
    run(filtered(command, calls, errno))
}

fn filtered(mut command: Command, calls: &[libc::c_long], errno: i32) -> Command {
    let program = filter(calls, errno);
    // SAFETY: between fork and exec only two system calls are made, on memory that was there.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || install(&program));
    }
    command
}

/// A proxy that nobody has told anything about drivers.
fn undecided(home: &Home, origin: &Origin) -> std::path::PathBuf {
    let setup = Setup::to(origin).driven_by("auto").set("server.workers", 2);
    home.write("ringway.toml", &setup.text())
}

/// It answers by epoll, and says why in one line that holds all `words`.
#[track_caller]
fn expect_service(proxy: &Proxy, words: &[&str]) {
    let mut client = proxy.send(GET);
    for _ in 0..2 {
        assert_eq!(client.read_response().body, b"ok");
        client.send(GET);
    }
    client.read_response();
    let warnings: Vec<_> =
        proxy.log_lines().into_iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for word in words.iter().chain(&["epoll serves", "two more system calls"]) {
        assert!(warnings[0].contains(word), "{word:?} is not in {warnings:?}");
    }
    proxy.wait_for_log(&["worker", "index=1", "driver=\"epoll\""]);
    let health: serde_json::Value = serde_json::from_str(&proxy.admin("GET", "/health")).unwrap();
    assert_eq!(health["driver"], "epoll", "{health}");
    let metrics = proxy.admin("GET", "/metrics");
    let line = "ringway_driver_info{worker=\"1\",driver=\"epoll\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    // Chunks are as many as ever, and none of them is locked.
    proxy.wait_for_log(&["worker", "chunks=8", "is_registered=false"]);
    let status = std::fs::read_to_string(proxy.file_of_process("status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("VmPin:\t       0 kB")), "{status}");
}

/// As Docker and containerd refuse, as Podman and gVisor do, and where a profile forgot a call.
#[test]
fn a_profile_without_io_uring_serves_by_epoll_and_says_why() {
    let origin = Origin::answering(OK);
    for (calls, errno) in [
        (&CALLS[..], libc::EPERM),
        (&CALLS[..], libc::ENOSYS),
        (&CALLS[..1], libc::EPERM),
        (&CALLS[1..2], libc::EPERM),
        (&CALLS[2..], libc::ENOSYS),
    ] {
        let home = Home::new();
        let mut command = ringway();
        command.arg("--config").arg(undecided(&home, &origin)).current_dir(home.path());
        let proxy = Proxy::spawn(filtered(command, calls, errno), home, 1);
        expect_service(&proxy, &["seccomp filter (io_uring_", FLAG]);
    }
}

#[test]
fn without_lockable_memory_epoll_serves_and_says_why() {
    let Some(launcher) = unprivileged(NO_MEMORY) else { return };
    let origin = Origin::answering(OK);
    let launcher = format!("{launcher} \"$0\" \"$@\"");
    let setup = Setup::to(&origin).driven_by("auto").set("server.workers", 2);
    let proxy = setup.launched_by(&launcher).start();
    expect_service(&proxy, &["RLIMIT_MEMLOCK is 0 bytes", "--ulimit memlock=-1:-1"]);
}

#[test]
fn where_io_uring_may_be_used_it_is_and_nobody_is_warned() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).driven_by("auto").start();
    proxy.get();
    proxy.wait_for_log(&["worker", "driver=\"io_uring\""]);
    assert!(!proxy.log_lines().iter().any(|line| line.contains("WARN")), "{:?}", proxy.log_lines());
    let health = proxy.admin("GET", "/health");
    assert!(health.contains("\"driver\":\"io_uring\""), "{health}");
    let epoll = Setup::to(&origin).driven_by("epoll").start();
    epoll.get();
    assert!(epoll.admin("GET", "/health").contains("\"driver\":\"epoll\""));
    assert!(!epoll.log_lines().iter().any(|line| line.contains("WARN")), "{:?}", epoll.log_lines());
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

/// The beginning of a shell's line that runs a program below a limit of the shell's.
fn unprivileged(limit: &str) -> Option<String> {
    // Root may lock all it wants, so the program runs as nobody.
    let mut launcher = format!("{limit} exec ");
    if nix::unistd::geteuid().is_root() {
        launcher += "setpriv --reuid=65534 --regid=65534 --clear-groups ";
    }
    let shell = Command::new("sh").args(["-c", &format!("{launcher}test -x {BINARY}")]).status();
    let works = shell.is_ok_and(|status| status.success());
    if !works {
        eprintln!("skipped: setpriv(1) is missing, or nobody may not start {BINARY}");
    }
    works.then_some(launcher)
}

const NO_MEMORY: &str = "ulimit -l 0 &&";

/// Rings that were opened before stay what they are.
#[test]
fn a_worker_for_whose_ring_no_memory_is_left_waits_by_epoll() {
    let Some(launcher) = unprivileged("") else { return };
    let origin = Origin::answering(OK);
    let with = |workers: usize| {
        let setup = Setup::to(&origin).driven_by("auto").set("server.workers", workers);
        setup.launched_by(&format!("{launcher} \"$0\" \"$@\""))
    };
    let proxy = with(1).start();
    proxy.wait_for_log(&["worker", "index=0", "driver=\"io_uring\""]);
    let process = proxy.file_of_process("");
    let lowered = Command::new("prlimit")
        .arg("--pid")
        .arg(process.file_name().unwrap())
        .arg("--memlock=0:0")
        .status();
    if !lowered.is_ok_and(|status| status.success()) {
        eprintln!("skipped: prlimit(1) is missing");
        return;
    }
    std::fs::write(proxy.home().join("ringway.toml"), with(2).text()).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["worker", "index=1", "driver=\"epoll\""]);
    proxy.wait_for_log(&["WARN", "RLIMIT_MEMLOCK is 0 bytes", "epoll serves"]);
    proxy.wait_for_log(&[" reloaded "]);
    for _ in 0..8 {
        proxy.get().expect_body("ok");
    }
    let metrics = proxy.admin("GET", "/metrics");
    for (worker, driver) in [(0, "io_uring"), (1, "epoll")] {
        let line = format!("ringway_driver_info{{worker=\"{worker}\",driver=\"{driver}\"}} 1\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert!(proxy.admin("GET", "/health").contains("\"driver\":\"epoll\""));
}

#[test]
fn no_lockable_memory_at_all_is_named_with_its_limit() {
    let Some(launcher) = unprivileged(NO_MEMORY) else { return };
    let arguments = "--port 0 --upstream http://127.0.0.1:9 --set server.driver=io_uring";
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{launcher}{BINARY} {arguments}")]);
    expect_refusal(&run(command), &["RLIMIT_MEMLOCK is 0 bytes", "--ulimit memlock=-1:-1"]);
}
