//! What passes between ringway and a service manager: sockets that it opens, lines that it hears.
//!
//! Comes in: the variables and descriptors of systemd's protocols, given to a process of its own,
//! because they belong to a whole process. Goes out: the datagrams that a manager's socket gets,
//! and which sockets are taken over. The process is this test program again: `speaks` and `takes`
//! are its two parts, which hold without a manager too.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::{DEADLINE, Home};
use ringway::internals::server::inherited;
use ringway::internals::systemd;

/// Says everything that can be said. Without a service manager nobody hears it and nothing fails.
#[test]
#[ignore = "a part, which others run in a process of its own"]
fn speaks() {
    systemd::status("two\nlines\0");
    systemd::ready();
    systemd::reloading();
    systemd::main_pid(4711);
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        assert_eq!(systemd::watchdog_interval(), None);
    }
    if let Some(interval) = systemd::watchdog_interval() {
        systemd::status(&format!("every {} ms", interval.as_millis()));
        systemd::alive();
    }
    systemd::stopping();
}

/// Takes what there is to take, twice, and says what it was. It changes the environment.
#[test]
#[ignore = "a part, which others run in a process of its own"]
fn takes() {
    let line = match inherited::take() {
        Ok(sockets) => {
            assert!(inherited::take().unwrap().is_empty(), "a second time");
            assert_eq!(std::env::var_os("LISTEN_FDS"), None);
            let sockets: Vec<_> =
                sockets.iter().map(|it| format!("{}={}", it.name, it.address)).collect();
            format!("took [{}]", sockets.join(", "))
        }
        Err(error) => format!("refused: {error}"),
    };
    // The runner has begun a line of its own.
    eprintln!("\n{line}");
}

/// Runs one of the above in a process that a shell has prepared. `$0 "$@"` is that process.
fn part(name: &str, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(std::env::current_exe().unwrap());
    let name = format!("supervisor::{name}");
    command.args([&name, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn run(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    assert!(status.success() && text.contains("\nrunning 1 test\n"), "{text}");
    text.into_owned()
}

struct Manager {
    socket: UnixDatagram,
    home: Home,
}

impl Manager {
    fn new() -> Self {
        let home = Home::new();
        let socket = UnixDatagram::bind(home.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, home }
    }

    /// Runs `speaks` with this manager.
    fn hear(&self, script: &str) -> Vec<String> {
        let mut command = part("speaks", script);
        command.env("NOTIFY_SOCKET", self.home.path().join("notify"));
        run(command);
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "STOPPING=1\n") {
            let mut datagram = [0; 4096];
            let count = self.socket.recv(&mut datagram).unwrap();
            heard.push(String::from_utf8_lossy(&datagram[..count]).into_owned());
        }
        heard
    }
}

#[test]
fn a_service_manager_hears_of_start_reload_successor_and_end() {
    let before = monotonic_usec();
    let heard = Manager::new().hear("exec \"$0\" \"$@\"");
    assert_eq!(heard[0], "STATUS=two lines \n");
    assert_eq!(heard[1], "READY=1\n");
    // systemd takes a reload for failed that does not say when it began.
    let since = heard[2].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    let since: u128 = since.trim_end().parse().unwrap();
    assert!((before..=monotonic_usec()).contains(&since), "{since} after {before}");
    assert_eq!(heard[3..], ["MAINPID=4711\n", "STOPPING=1\n"]);
}

fn monotonic_usec() -> u128 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_micros()
}

#[test]
fn a_watchdog_gets_a_sign_of_life_twice_in_its_time() {
    for (variables, expected) in [
        ("WATCHDOG_USEC=30000000 WATCHDOG_PID=$$", Some("STATUS=every 15000 ms\n")),
        ("WATCHDOG_USEC=30000000", Some("STATUS=every 15000 ms\n")),
        // Half of a microsecond would be no time at all.
        ("WATCHDOG_USEC=1", Some("STATUS=every 10 ms\n")),
        // Another process is watched, or nobody is.
        ("WATCHDOG_USEC=30000000 WATCHDOG_PID=1", None),
        ("WATCHDOG_USEC=0", None),
        ("WATCHDOG_USEC=often", None),
    ] {
        let heard = Manager::new().hear(&format!("{variables} exec \"$0\" \"$@\""));
        let status = heard.iter().find(|line| line.starts_with("STATUS=every"));
        assert_eq!(status.map(String::as_str), expected, "{variables}");
        let is_alive = heard.iter().any(|line| line == "WATCHDOG=1\n");
        assert_eq!(is_alive, expected.is_some(), "{variables}");
    }
}

#[test]
fn without_a_manager_nothing_is_said_and_nothing_taken() {
    run(part("speaks", "exec \"$0\" \"$@\""));
    let none = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    assert_eq!(take(none(), none(), "unset LISTEN_FDS LISTEN_PID;"), "took []");
}

#[test]
fn a_manager_that_cannot_be_reached_stops_nothing() {
    let mut command = part("speaks", "exec \"$0\" \"$@\"");
    command.env("NOTIFY_SOCKET", "/nonexistent/notify");
    run(command);
}

/// Runs `takes` with `first` as descriptor 3 and `second` as 4, after `variables`.
fn take(first: impl Into<OwnedFd>, second: impl Into<OwnedFd>, variables: &str) -> String {
    let script = format!("exec 3<&0 4<&1 </dev/null >&2; {variables} exec \"$0\" \"$@\"");
    let mut command = part("takes", &script);
    command.stdin(first.into()).stdout(second.into());
    let text = run(command);
    let line = text.lines().find(|line| line.starts_with("took") || line.starts_with("refused"));
    line.unwrap_or_else(|| panic!("nothing said: {text}")).to_owned()
}

fn listener(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

#[test]
fn listening_sockets_are_taken_over_with_their_names() {
    let (http, other) = (listener("127.0.0.1:0"), listener("127.0.0.1:0"));
    let (first, second) = (http.local_addr().unwrap(), other.local_addr().unwrap());
    let again = || (http.try_clone().unwrap(), other.try_clone().unwrap());
    for (variables, expected) in [
        (
            "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=http:more",
            format!("http={first}, more={second}"),
        ),
        // Started by a process that was not asked for its own number.
        ("LISTEN_FDS=1", format!("unknown={first}")),
        ("LISTEN_FDS=2 LISTEN_PID=$$", format!("unknown={first}, unknown={second}")),
        ("LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=http", format!("http={first}")),
        ("LISTEN_FDS=0 LISTEN_PID=$$", String::new()),
        // What another process was given.
        ("LISTEN_FDS=2 LISTEN_PID=1", String::new()),
        ("LISTEN_PID=$$", String::new()),
    ] {
        let (first, second) = again();
        assert_eq!(take(first, second, variables), format!("took [{expected}]"), "{variables}");
    }
}

#[test]
fn a_listening_unix_socket_is_taken_over_too() {
    let home = Home::new();
    let path = home.path().join("stream");
    let local: OwnedFd = UnixListener::bind(&path).unwrap().into();
    let http = listener("127.0.0.1:0");
    let address = http.local_addr().unwrap();
    let line = take(http, local, "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=http:more");
    assert_eq!(line, format!("took [http={address}, more=unix:{}]", path.display()));
}

#[test]
fn what_is_no_listening_stream_socket_is_refused_with_descriptor_cause_and_cure() {
    let good = || listener("127.0.0.1:0");
    let variables = "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=http:odd";
    let datagrams: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let home = Home::new();
    let path = home.path().join("datagrams");
    let local: OwnedFd = UnixDatagram::bind(path).unwrap().into();
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let peer = good();
    let connected: OwnedFd =
        std::net::TcpStream::connect(peer.local_addr().unwrap()).unwrap().into();
    for (odd, cause) in [
        (datagrams, "not a valid tcp socket"),
        (local, "not a valid tcp socket"),
        (file, "not a socket"),
        (connected, "does not listen"),
    ] {
        let line = take(good(), odd, variables);
        for word in ["refused: file descriptor 4 (odd)", cause, "ListenStream=ADDRESS:PORT"] {
            assert!(line.contains(word), "{word:?} is not in {line:?}");
        }
    }
    let line = take(good(), good(), "LISTEN_FDS=lots LISTEN_PID=$$");
    assert!(line.contains("LISTEN_FDS is \"lots\""), "{line}");
}
