//! Signals while a new process gets ready: whenever they come, nobody is left over who serves
//! nobody, nobody who serves is ended, and no request is lost.
//!
//! Comes in: the program behind a link of the test's own, so that what takes its place may be slow,
//! mute or broken. Goes out: what clients get, which processes there are, and whether the port is
//! free.

use crate::support::h2::{GOAWAY, H2Client, get as get_stream};
use crate::support::{
    BINARY, Client, DEADLINE, Expected, GET, Home, OK, Origin, Proxy, Setup, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A proxy whose program can be exchanged.
struct Life {
    proxy: Proxy,
    program: PathBuf,
}

impl Life {
    fn start(setup: &Setup) -> Self {
        Self::start_with(setup, |_, _| {})
    }

    fn start_with(setup: &Setup, prepare: impl Fn(&mut Command, &Home)) -> Self {
        let home = Home::new();
        let program = home.path().join("ringway");
        fs::hard_link(BINARY, &program).unwrap();
        let config = home.write("ringway.toml", &setup.text());
        let mut command = Command::new(&program);
        command.arg("--config").arg(config).current_dir(home.path());
        prepare(&mut command, &home);
        let proxy = Proxy::spawn(command, home, 1);
        Self { proxy, program }
    }

    /// What the next process runs in place of the program.
    fn exchange(&self, script: &str) {
        let next = self.proxy.home().join("next");
        let script = format!("#!/bin/sh\nreal={BINARY}\n{script}\n");
        fs::write(&next, script).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(next, &self.program).unwrap();
    }

    /// The processes that were started from this one's folder, itself included.
    fn processes(&self) -> Vec<Pid> {
        processes(self.proxy.home())
    }

    /// The new process, once there is one.
    fn successor(&self, own: Pid) -> Pid {
        let mut found = None;
        wait_until("a new process", || {
            found = self.processes().into_iter().find(|pid| *pid != own);
            found.is_some()
        });
        found.unwrap()
    }

    fn own(&self) -> Pid {
        let pids = self.processes();
        assert_eq!(pids.len(), 1, "{pids:?}");
        pids[0]
    }

    #[track_caller]
    fn expect_nothing_left(&self) {
        wait_until("the end of every process", || self.processes().is_empty());
        let address = self.proxy.address();
        TcpListener::bind(address).expect("the port is free");
    }
}

fn processes(home: &Path) -> Vec<Pid> {
    // With what ends its name: that of another one may begin with it.
    let home = format!("{}/", home.to_str().unwrap());
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        // That of a process that has ended, and was not waited for, is empty.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(&home).then_some(Pid::from_raw(pid))
    });
    pids.collect()
}

/// One request after another on one connection until the proxy closes it; what was lost.
fn ask_until_told(mut client: Client) -> Option<String> {
    for answered in 0.. {
        client.send(GET);
        match client.read_message(Expected::Response) {
            Some(response) if response.is_whole() && response.status() == 200 => {
                if response.list("Connection").contains(&"close") {
                    return None;
                }
            }
            Some(response) => return Some(response.to_string()),
            None => return Some(format!("nothing after {answered} answers")),
        }
    }
    None
}

/// Pseudo-random, and the same each time.
fn moments(count: u64, max_ms: u64) -> impl Iterator<Item = Duration> {
    (0..count).map(move |i| Duration::from_micros(i.wrapping_mul(7_919_777) % (max_ms * 1_000)))
}

/// The successor went on without a socket that listened, for as long as the machine did.
#[test]
fn a_stop_at_any_moment_of_an_upgrade_ends_all_or_leaves_one_that_serves() {
    let origin = Origin::answering(OK);
    let mut taken_over = 0;
    for (round, moment) in moments(24, 240).enumerate() {
        let workers = 1 + round % 2;
        let mut life = Life::start(&Setup::to(&origin).set("server.workers", workers));
        let address = life.proxy.address();
        let own = life.own();
        let clients: Vec<_> = (0..3).map(|_| Client::connect(address)).collect();
        let clients: Vec<_> =
            clients.into_iter().map(|client| thread::spawn(|| ask_until_told(client))).collect();
        life.proxy.signal(Signal::SIGUSR2);
        thread::sleep(moment);
        let signal = if round % 3 == 0 { Signal::SIGINT } else { Signal::SIGTERM };
        life.proxy.signal(signal);
        let is_taken_over = || {
            let lines = life.proxy.log_lines();
            lines.iter().any(|line| line.contains("a new process has taken over"))
        };
        wait_until("the first process has ended", || !life.processes().contains(&own));
        if is_taken_over() {
            taken_over += 1;
            Client::connect(address).send(GET).expect_status(200);
            for pid in life.processes() {
                kill(pid, Signal::SIGTERM).unwrap();
            }
        }
        for client in clients {
            assert_eq!(client.join().unwrap(), None, "at {moment:?}");
        }
        life.proxy.expect_orderly_end();
        life.expect_nothing_left();
    }
    assert!(taken_over < 24, "no stop came early enough");
}

#[test]
fn a_stop_ends_a_new_process_in_whatever_it_is() {
    let origin = Origin::answering(OK);
    for script in [
        // It has not begun, says nothing, hears nothing, or closes its end of the socket.
        "sleep 0.2; exec $real \"$@\"",
        "exec sh -c 'while :; do sleep 0.1; done' \"$0\" \"$@\"",
        "trap '' TERM INT; while :; do sleep 0.1; done",
        "kill -STOP $$; exec $real \"$@\"",
    ] {
        let mut life = Life::start(&Setup::to(&origin));
        let own = life.own();
        life.exchange(script);
        life.proxy.signal(Signal::SIGUSR2);
        life.successor(own);
        let mut client = life.proxy.send(GET);
        client.expect_status(200);
        let began = Instant::now();
        life.proxy.signal(Signal::SIGTERM);
        life.proxy.expect_orderly_end();
        assert!(began.elapsed() < Duration::from_secs(10), "{script}: {:?}", began.elapsed());
        life.expect_nothing_left();
    }
}

#[test]
fn streams_are_served_where_they_began_and_new_connections_by_the_new_process() {
    let (origin, is_open) = Origin::held();
    let mut life = Life::start(&Setup::to(&origin));
    let (own, address) = (life.own(), life.proxy.address());
    let mut client = H2Client::connect(address);
    client.send(get_stream(1, "/")).send(get_stream(3, "/"));
    origin.wait_for("both", |seen| seen.requests.len() == 2);
    life.proxy.signal(Signal::SIGUSR2);
    for last in [0x7fff_ffff, 3] {
        let goaway = client.find("GOAWAY", |frame| frame.kind == GOAWAY);
        assert_eq!((goaway.number(0), goaway.number(4)), (last, 0));
    }
    let mut next = H2Client::connect(address);
    next.send(get_stream(1, "/"));
    origin.wait_for("the third", |seen| seen.requests.len() == 3);
    is_open.open();
    for stream in [1, 3] {
        client.read_answer(stream).expect_status(200).expect_body("ok");
    }
    client.expect_end();
    next.read_answer(1).expect_status(200).expect_body("ok");
    wait_until("the first process has ended", || !life.processes().contains(&own));
    next.get(3, "/").expect_status(200);
    for pid in life.processes() {
        kill(pid, Signal::SIGTERM).unwrap();
    }
    next.expect_end();
    life.proxy.expect_orderly_end();
    life.expect_nothing_left();
}

#[test]
fn a_new_process_that_dies_changes_nothing() {
    let origin = Origin::answering(OK);
    let life = Life::start(&Setup::to(&origin).set("admin.address", "unix:admin.sock"));
    let own = life.own();
    let mut client = life.proxy.send(GET);
    client.expect_status(200);
    for (before, script) in [
        "exit 0",
        "kill -KILL $$",
        // Somebody else has its end of the socket and keeps it open.
        "sleep 1 & exit 3",
        "exec $real --set server.prot=1 \"$@\"",
        // Found out after the admin API's socket has been taken over.
        "exec $real --set forward.enabled=true --set forward.users_file=none \"$@\"",
    ]
    .into_iter()
    .enumerate()
    {
        life.exchange(script);
        life.proxy.signal(Signal::SIGUSR2);
        let count = || {
            let lines = life.proxy.log_lines();
            lines.iter().filter(|line| line.contains("no upgrade, this process goes on")).count()
        };
        wait_until(script, || count() == before + 1);
        client.send(GET).expect_status(200);
        life.proxy.get().expect_status(200);
        let mut socket = UnixStream::connect(life.proxy.home().join("admin.sock")).unwrap();
        socket.write_all(b"GET /ready HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.0 200"), "{script}: {text}");
    }
    assert_eq!(life.own(), own);
}

#[test]
fn what_is_asked_for_during_an_upgrade_is_done_by_whoever_serves() {
    let (first, second) = (Origin::answering(OK), Origin::answering(OK));
    let mut life = Life::start(&Setup::to(&first));
    let own = life.own();
    life.exchange("sleep 0.5; exec $real \"$@\"");
    life.proxy.signal(Signal::SIGUSR2);
    let successor = life.successor(own);
    let more = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let next = Setup::to(&second).listen(&[&more.to_string()]);
    fs::write(life.proxy.home().join("ringway.toml"), next.text()).unwrap();
    life.proxy.signal(Signal::SIGHUP);
    life.proxy.signal(Signal::SIGUSR1);
    life.proxy.signal(Signal::SIGUSR2);
    life.proxy.wait_for_log(&["a new process is being started already"]);
    life.proxy.wait_for_log(&["a new process has taken over", &format!("pid={successor}")]);
    life.proxy.wait_for_log(&["reloaded", "generation=2 ", "SIGHUP"]);
    life.proxy.expect_orderly_end();
    assert_eq!(life.own(), successor);
    Client::connect(more).send(GET).expect_status(200);
    life.proxy.get().expect_status(200);
    wait_until("both have opened their logs anew", || {
        let lines = life.proxy.log_lines();
        lines.iter().filter(|line| line.contains("log files opened anew")).count() == 2
    });
    kill(successor, Signal::SIGTERM).unwrap();
    life.expect_nothing_left();
}

#[test]
fn a_reload_that_waits_for_an_upgrade_is_done_where_that_fails() {
    let (first, second) = (Origin::answering(OK), Origin::answering(OK));
    let life = Life::start(&Setup::to(&first));
    let own = life.own();
    life.exchange("sleep 0.3; exit 1");
    life.proxy.signal(Signal::SIGUSR2);
    life.successor(own);
    fs::write(life.proxy.home().join("ringway.toml"), Setup::to(&second).text()).unwrap();
    life.proxy.signal(Signal::SIGHUP);
    life.proxy.wait_for_log(&["reloaded", "generation=2 "]);
    life.proxy.get().expect_status(200);
    assert_eq!(second.seen().requests.len(), 1);
}

#[test]
fn a_process_that_is_killed_during_an_upgrade_is_succeeded() {
    let origin = Origin::answering(OK);
    let mut life = Life::start(&Setup::to(&origin));
    let own = life.own();
    life.exchange("sleep 1; exec $real \"$@\"");
    life.proxy.signal(Signal::SIGUSR2);
    let successor = life.successor(own);
    // The sockets are sent right behind its start, and nothing tells when: half a second is wide.
    thread::park_timeout(Duration::from_millis(500));
    life.proxy.signal(Signal::SIGKILL);
    life.proxy.wait_for_end();
    life.proxy.get().expect_status(200);
    life.proxy.wait_for_log(&["the old process cannot be told that this one is ready"]);
    kill(successor, Signal::SIGTERM).unwrap();
    life.expect_nothing_left();
}

/// Its drain shut down the sockets of both.
#[test]
fn a_new_process_that_is_told_to_stop_before_it_takes_over_leaves_the_old_one_serving() {
    let origin = Origin::answering(OK);
    let life = Life::start(&Setup::to(&origin).set("admin.address", "unix:admin.sock"));
    let own = life.own();
    // It cannot begin without an answer, which a process that is stopped before does not give. What
    // it begins with is sent right behind its start, and nothing tells when: a second is wide.
    life.exchange("sleep 1; kill -STOP $PPID; exec $real \"$@\"");
    life.proxy.signal(Signal::SIGUSR2);
    let successor = life.successor(own);
    let hears = |pid: Pid| {
        // Until it runs a program of its own it has the handlers of the one that forked it.
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
        let caught = caught.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        program == Path::new(BINARY) && caught >> (Signal::SIGTERM as u32 - 1) & 1 == 1
    };
    wait_until("the new process hears signals", || hears(successor));
    kill(successor, Signal::SIGTERM).unwrap();
    kill(own, Signal::SIGCONT).unwrap();
    life.proxy.wait_for_log(&["no upgrade, this process goes on"]);
    life.proxy.get().expect_status(200);
    assert!(life.proxy.home().join("admin.sock").exists());
    assert_eq!(life.own(), own);
}

#[test]
fn a_service_manager_hears_of_a_stop_and_not_of_a_successor_that_never_was() {
    let origin = Origin::answering(OK);
    let manager = std::cell::OnceCell::new();
    let mut life = Life::start_with(&Setup::to(&origin), |command, home| {
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        manager.set(socket).unwrap();
        command.env("NOTIFY_SOCKET", path);
    });
    let own = life.own();
    life.exchange("exec sh -c 'while :; do sleep 0.1; done' \"$0\" \"$@\"");
    life.proxy.signal(Signal::SIGUSR2);
    life.successor(own);
    life.proxy.signal(Signal::SIGTERM);
    life.proxy.expect_orderly_end();
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "STOPPING=1\n") {
        let mut datagram = [0; 4096];
        let count = manager.get().unwrap().recv(&mut datagram).unwrap();
        heard.push(String::from_utf8_lossy(&datagram[..count]).into_owned());
    }
    assert!(heard.contains(&"READY=1\n".to_owned()), "{heard:?}");
    assert!(!heard.iter().any(|text| text.contains("MAINPID")), "{heard:?}");
}

/// What it was given while it got ready was lost, and what came to it stayed counted.
#[test]
fn a_worker_that_cannot_start_costs_nobody_his_connection() {
    let origin = Origin::answering(OK);
    let with = |workers: usize| Setup::to(&origin).set("server.workers", workers);
    let mut refused = 0;
    // From no descriptor for another worker to enough of them.
    for spare in 1..12 {
        let proxy = with(1).start();
        let mut clients: Vec<_> = (0..8).map(|_| proxy.send(GET)).collect();
        for client in &mut clients {
            client.expect_status(200);
        }
        let limit = proxy.open_files() + spare;
        let limit = format!("--nofile={limit}:{limit}");
        let process = proxy.file_of_process("");
        let pid = process.file_name().unwrap();
        let lowered = Command::new("prlimit").arg("--pid").arg(pid).arg(&limit).status();
        assert!(lowered.unwrap().success());
        let count = |text: &str| proxy.log_lines().iter().filter(|l| l.contains(text)).count();
        fs::write(proxy.home().join("ringway.toml"), with(2).text()).unwrap();
        proxy.signal(Signal::SIGHUP);
        let stays = || count("configuration in use stays");
        wait_until("a decision", || count(" reloaded ") + stays() > 0);
        refused += count("configuration in use stays: worker 1: ");
        for client in &mut clients {
            client.send(GET).expect_status(200);
        }
        proxy.stop();
    }
    assert!(refused > 0, "every worker could start");
}
