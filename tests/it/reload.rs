//! A configuration is exchanged for another one, and a process for another one, under way.
//!
//! What is checked is both sides: what clients get, which origin answers them, and that nobody is
//! refused, cut or answered by rules that are not in use any more.

use crate::support::{
    self, Arrival, Client, GET, Gate, Home, OK, Origin, Proxy, Setup, Target, is_of_http1, logged,
    ringway, run, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// An origin that says who it is.
fn named(name: &str) -> Origin {
    Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()))
}

/// Writes another configuration and has it read.
fn reload(proxy: &Proxy, setup: &Setup, generation: u32) {
    fs::write(proxy.home().join("ringway.toml"), setup.text()).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded", &format!("generation={generation} ")]);
}

/// The same for one that cannot be used; what was said.
fn reload_in_vain(proxy: &Proxy, text: &str) -> String {
    fs::write(proxy.home().join("ringway.toml"), text).unwrap();
    let before = proxy.log_lines().len();
    proxy.signal(Signal::SIGHUP);
    let mut said = None;
    wait_until("a refusal", || {
        let lines = proxy.log_lines();
        let refusal =
            lines[before..].iter().find(|line| line.contains("configuration in use stays"));
        said = refusal.cloned();
        said.is_some()
    });
    said.unwrap()
}

fn admin_address(proxy: &Proxy) -> SocketAddr {
    let line = proxy.wait_for_log(&["admin API", "address="]);
    logged(&line, "address").parse().unwrap()
}

/// Runs a command that asks the proxy for something.
fn ask(proxy: &Proxy, arguments: &[&str]) -> Output {
    let mut command = ringway();
    command.args(arguments).args(["--url", &format!("http://{}", admin_address(proxy))]);
    command.current_dir(proxy.home());
    run(command)
}

fn answer(proxy: &Proxy, request: &str) -> serde_json::Value {
    let mut client = Client::plain(admin_address(proxy));
    client.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    serde_json::from_str(&client.read_response().text()).unwrap()
}

#[test]
fn the_next_request_on_the_same_connection_follows_the_new_configuration() {
    let (first, second) = (named("first"), named("second"));
    let proxy = Setup::to(&first).start();
    let mut client = proxy.send(GET);
    client.read_response().expect_body("first");
    let mut rested = proxy.send(GET);
    rested.read_response().expect_body("first");
    reload(&proxy, &Setup::to(&second), 2);
    for client in [&mut client, &mut rested] {
        client.send(GET).read_response().expect_status(200).expect_body("second");
    }
    first.wait_for("the end of connections that nobody will use", |seen| seen.open() == 0);
    reload(&proxy, &Setup::to(&first), 3);
    client.send(GET).read_response().expect_body("first");
    assert_eq!(answer(&proxy, "GET /health")["config_generation"], 3);
}

/// A configuration that changed its mind faster than workers could leave was refused.
#[test]
fn a_worker_that_leaves_is_called_back_before_another_one_is_started() {
    if is_of_http1(
        "a client that is told by an answer that it was the last: http2/leaving.rs has GOAWAY",
    ) {
        return;
    }
    let (origin, gate) = Origin::held();
    let with = |workers: usize| Setup::to(&origin).set("server.workers", workers);
    let proxy = with(2).start();
    // Something that takes its time, on either worker.
    let mut clients: Vec<_> = (0..4).map(|_| proxy.send(GET)).collect();
    origin.wait_for("the requests", |seen| seen.requests.len() == 4);
    for generation in 2..22 {
        reload(&proxy, &with(1 + generation as usize % 2), generation);
    }
    reload(&proxy, &with(2), 22);
    let started = proxy.log_lines().iter().filter(|line| line.contains("INFO worker ")).count();
    assert_eq!(started, 2);
    gate.open();
    for client in &mut clients {
        client.read_response().expect_status(200);
        client.send(GET).read_response().expect_status(200).expect_no_field("Connection");
    }
    // Whoever was called back accepts again, and is given its share.
    let mut more: Vec<_> = (0..4).map(|_| proxy.send(GET)).collect();
    for client in &mut more {
        client.expect_status(200);
    }
    let connections = answer(&proxy, "GET /connections");
    let workers = connections["connections"].as_array().unwrap().iter().map(|c| &c["worker"]);
    let workers: Vec<_> = workers.collect();
    for index in 0..2 {
        assert_eq!(workers.iter().filter(|worker| **worker == index).count(), 4, "{workers:?}");
    }
}

#[test]
fn an_exchange_under_way_ends_as_it_began() {
    let is_open = Gate::default();
    let origin = Origin::start({
        let is_open = is_open.clone();
        move |mut peer| {
            while peer.next_request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
                is_open.wait();
                peer.send("world");
            }
        }
    });
    let other = named("other");
    let proxy = Setup::to(&origin).set("log.access", true).start();
    let mut client = proxy.send(GET);
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    reload(&proxy, &Setup::new().upstream("next", &[&other.url()], ""), 2);
    is_open.open();
    client.read_response().expect_status(200).expect_body("helloworld");
    // Its line has the name that its upstream had.
    proxy.wait_for_log(&["status=200", "upstream=origin"]);
    client.send(GET).read_response().expect_body("other");
    proxy.wait_for_log(&["status=200", "upstream=next"]);
}

/// It was kept for as long as one that may be used again.
#[test]
fn a_connection_that_comes_back_when_its_origin_is_gone_is_closed() {
    let (first, gate) = Origin::held();
    let second = named("second");
    let with = |origin: &Origin| Setup::to(origin).set("pool.idle_expiry", "10m");
    let proxy = with(&first).start();
    let mut client = proxy.send(GET);
    first.wait_for("the request", |seen| seen.requests.len() == 1);
    reload(&proxy, &with(&second), 2);
    gate.open();
    client.read_response().expect_status(200);
    first.wait_for("the end of a connection that nobody will use", |seen| seen.open() == 0);
}

#[test]
fn what_cannot_be_used_changes_nothing_and_is_explained() {
    let origin = named("still here");
    let proxy = Setup::to(&origin).start();
    let mut client = proxy.send(GET);
    client.expect_status(200);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let text = |setup: Setup| setup.text();
    let table = [
        ("server.prot = 1".to_owned(), "prot"),
        ("[[[".to_owned(), "ringway.toml"),
        (text(Setup::to(&origin).set("timeouts.read", "-1s")), "timeouts.read"),
        (text(Setup::to(&origin).route("", "/x", "nobody", "")), "nobody"),
        (text(Setup::to(&origin).listen(&[&taken])), "another process listens"),
        (text(Setup::to(&origin).set("server.workers", 60)), "server.workers = 60"),
        (text(Setup::forward().set("forward.users_file", "none")), "none"),
    ];
    for (text, cause) in table {
        let said = reload_in_vain(&proxy, &text);
        assert!(said.contains(cause), "{cause}: {said}");
        client.send(GET).read_response().expect_status(200).expect_body("still here");
    }
    fs::remove_file(proxy.home().join("ringway.toml")).unwrap();
    let output = ask(&proxy, &["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("HTTP 422") && said.contains("ringway.toml"), "{said}");
    assert_eq!(answer(&proxy, "GET /health")["config_generation"], 1);
    reload(&proxy, &Setup::to(&origin).set("timeouts.read", "7s"), 2);
}

#[test]
fn listeners_come_and_go_and_nobody_is_refused_who_was_let_in() {
    let origin = named("ok");
    let proxy = Setup::to(&origin).set("server.workers", 2).start();
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let (more, last) = (free(), free());
    reload(&proxy, &Setup::to(&origin).set("server.workers", 2).listen(&[&more.to_string()]), 2);
    let mut kept = Client::connect(more);
    kept.send(GET).read_response().expect_body("ok");
    proxy.get().expect_body("ok");
    let setup = Setup::to(&origin).set("server.workers", 2).listen(&[&last.to_string()]);
    reload(&proxy, &setup, 3);
    wait_until("the removed listener refuses", || TcpStream::connect(more).is_err());
    // Whoever came in by it stays.
    kept.send(GET).read_response().expect_body("ok");
    Client::connect(last).send(GET).read_response().expect_body("ok");
    proxy.get().expect_body("ok");
}

#[test]
fn workers_come_and_go_with_their_connections_served() {
    if is_of_http1(
        "a client that is told by an answer that it was the last: http2/leaving.rs has GOAWAY",
    ) {
        return;
    }
    let origin = named("ok");
    let with = |workers: usize| Setup::to(&origin).set("server.workers", workers);
    let proxy = with(1).start();
    let mut clients: Vec<_> = (0..8).map(|_| proxy.send(GET)).collect();
    for client in &mut clients {
        client.expect_status(200);
    }
    reload(&proxy, &with(2), 2);
    let mut more: Vec<_> = (0..8).map(|_| proxy.send(GET)).collect();
    for client in &mut more {
        client.expect_status(200);
    }
    assert_eq!(answer(&proxy, "GET /health")["workers"], 2);
    reload(&proxy, &with(1), 3);
    // Those of the worker that leaves are answered once more, and told that it was the last time.
    let mut closed = 0;
    for client in clients.iter_mut().chain(&mut more) {
        let response = client.send(GET).read_response();
        response.expect_status(200).expect_body("ok");
        if response.list("Connection").contains(&"close") {
            client.expect_orderly_close();
            closed += 1;
        } else {
            client.send(GET).expect_status(200);
        }
    }
    assert!((1..16).contains(&closed), "{closed} were closed");
    wait_until("one worker is left", || answer(&proxy, "GET /health")["workers"] == 1);
    for round in 4..10 {
        reload(&proxy, &with(1 + round as usize % 2), round);
        proxy.get().expect_body("ok");
    }
}

#[test]
fn limits_follow_upwards_and_downwards() {
    let (origin, is_open) = Origin::held();
    let with = |connections: usize| {
        let setup = Setup::to(&origin).set("pool.max_connections", connections);
        setup.set("pool.max_idle", 0).set("timeouts.pool", "200ms")
    };
    let proxy = with(3).start();
    let mut held: Vec<_> = (0..3).map(|_| proxy.send(GET)).collect();
    origin.wait_for("three", |seen| seen.requests.len() == 3);
    proxy.get().expect_status(504);
    reload(&proxy, &with(5), 2);
    held.extend((0..2).map(|_| proxy.send(GET)));
    origin.wait_for("five", |seen| seen.requests.len() == 5);
    proxy.get().expect_status(504);
    // Five are out: the two that are too many are taken back as they end.
    reload(&proxy, &with(2), 3);
    proxy.get().expect_status(504);
    is_open.open();
    for client in &mut held {
        client.expect_status(200);
    }
    assert_eq!(answer(&proxy, "GET /health")["pool"]["max"], 2);
    let clients: Vec<_> = (0..20).map(|_| proxy.send(GET)).collect();
    for mut client in clients {
        client.expect_status(200);
    }
}

#[test]
fn a_tunnel_goes_on_through_a_reload() {
    let target = Target::new();
    let proxy = Setup::forward().start();
    let mut client = proxy.tunnel(target.address());
    let mut far = target.accept();
    client.send("before");
    far.expect_stream(b"before");
    let closed = Setup::new().set("forward.enabled", false).set("server.workers", 2);
    reload(&proxy, &closed, 2);
    far.send("after");
    client.expect_stream(b"after");
    proxy.send(support::connect(target.address())).expect_status(501);
    reload(&proxy, &Setup::forward(), 3);
    let mut again = proxy.tunnel(target.address());
    let mut far_again = target.accept();
    again.send("x");
    far_again.expect_stream(b"x");
    client.half_close();
    far.expect_end(Arrival::End);
}

/// The kernel wakes one worker for a connection. Where that was the one that left just then, the
/// connection waited until the next one came.
#[test]
fn a_connection_that_comes_while_a_worker_leaves_is_taken() {
    let origin = named("ok");
    let one = || Setup::to(&origin).set("server.workers", 1);
    let proxy = one().start();
    for round in 0..40 {
        reload(&proxy, &one().set("server.workers", 2), 2 * round + 2);
        reload(&proxy, &one(), 2 * round + 3);
        proxy.get().expect_status(200);
    }
}

#[test]
fn passwords_are_read_again() {
    const ANN: &str = "ann:$2b$04$0IbiJ0FRYZIwyyDkkXxWEuE1JXBLDSPG0OtyMaVoaRYHWZzJV0RGa\n";
    let origin = named("ok");
    let setup = || Setup::forward().set("forward.users_file", "users");
    let proxy = setup().file("users", ANN).start();
    let request = format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address());
    proxy.send(&request).expect_status(407);
    reload(&proxy, &Setup::forward(), 2);
    proxy.send(&request).expect_status(200);
    reload(&proxy, &setup(), 3);
    proxy.send(&request).expect_status(407);
}

#[test]
fn what_needs_a_restart_is_said_and_the_rest_is_done() {
    let (first, second) = (named("first"), named("second"));
    let proxy = Setup::to(&first).start();
    let setup = Setup::to(&second).set("buffers.chunk_bytes", 131_072).set("log.access", true);
    reload(&proxy, &setup, 2);
    let said = proxy.wait_for_log(&["keep their values until a restart"]);
    assert!(said.contains("buffers.chunk_bytes") && said.contains("log.access"), "{said}");
    proxy.get().expect_body("second");
}

#[test]
fn an_earlier_configuration_can_be_put_in_use_again() {
    let (first, second) = (named("first"), named("second"));
    let proxy = Setup::to(&first).start();
    let output = ask(&proxy, &["rollback"]);
    assert_eq!(output.status.code(), Some(1));
    reload(&proxy, &Setup::to(&second), 2);
    proxy.get().expect_body("second");
    let output = ask(&proxy, &["rollback"]);
    assert!(output.status.success(), "{output:?}");
    proxy.get().expect_body("first");
    let output = ask(&proxy, &["rollback", "2"]);
    assert!(output.status.success(), "{output:?}");
    proxy.get().expect_body("second");
    let output = ask(&proxy, &["rollback", "77"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("there are 3, 2, 1"), "{said}");
    let list = answer(&proxy, "GET /admin/generations");
    let causes: Vec<_> =
        list["generations"].as_array().unwrap().iter().map(|past| past["cause"].clone()).collect();
    assert_eq!(causes, ["start", "SIGHUP", "rollback to 1", "rollback to 2"]);
    assert_eq!(list["current"], 4);
    for generation in 5..20 {
        reload(&proxy, &Setup::to(&first), generation);
    }
    let list = answer(&proxy, "GET /admin/generations");
    assert_eq!(list["generations"].as_array().unwrap().len(), 10);
}

#[test]
fn a_rollback_says_what_the_file_has_and_writes_it_where_it_is_told_to() {
    let (first, second) = (named("first"), named("second"));
    let proxy = Setup::to(&first).start();
    let file = proxy.home().join("ringway.toml");
    let earlier = fs::read_to_string(&file).unwrap();
    reload(&proxy, &Setup::to(&second), 2);
    let later = fs::read_to_string(&file).unwrap();
    let said = |arguments: &[&str]| {
        let output = ask(&proxy, arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = said(&["rollback"]);
    assert!(text.contains("ringway.toml still has the other configuration"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), later);
    // That one is in use: only the file is to be written.
    let text = said(&["rollback", "--save", "3"]);
    assert!(text.contains("written to ") && !text.contains("still has"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), earlier);
    let answer = said(&["rollback", "2", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["generation"], &answer["is_file_other"]), (&4.into(), &true.into()));
    assert!(answer["pid"].is_u64() && answer["config_file"].is_string(), "{answer}");
    proxy.get().expect_body("second");
}

#[test]
fn who_may_not_change_anything_cannot_reload() {
    let origin = named("ok");
    let proxy = Setup::to(&origin).set("admin.token", "0123456789abcdef0123456789abcdef").start();
    let post = |path: &str, fields: &str| {
        let mut client = Client::plain(admin_address(&proxy));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        client.read_response().status()
    };
    for path in ["/admin/reload", "/admin/rollback"] {
        assert_eq!(post(path, ""), 401);
        assert_eq!(post(path, "Authorization: Bearer wrong\r\n"), 401);
    }
    let right = "Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n";
    assert_eq!(post("/admin/reload", right), 200);
    // The command finds the token in the configuration.
    let config = proxy.home().join("ringway.toml");
    let output = ask(&proxy, &["--config", config.to_str().unwrap(), "reload"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(answer(&proxy, "GET /health")["config_generation"], 3);
}

#[test]
fn a_watched_file_is_read_when_it_changes() {
    let (first, second) = (named("first"), named("second"));
    let watched = |origin: &Origin| Setup::to(origin).set("server.watch_config", true);
    let proxy = watched(&first).start();
    fs::write(proxy.home().join("ringway.toml"), watched(&second).text()).unwrap();
    proxy.wait_for_log(&["reloaded", "generation=2 ", "file changed"]);
    proxy.get().expect_body("second");
    // As editors and Kubernetes do it: another file in its place.
    fs::write(proxy.home().join("next"), Setup::to(&first).text()).unwrap();
    fs::rename(proxy.home().join("next"), proxy.home().join("ringway.toml")).unwrap();
    proxy.wait_for_log(&["reloaded", "generation=3 "]);
    proxy.get().expect_body("first");
}

/// Clients that ask all the time, on connections that they keep and on new ones; every answer has
/// to be whole and right.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let answered = Arc::<AtomicUsize>::default();
        let threads = (0..12)
            .map(|number| {
                let (is_over, answered) = (is_over.clone(), answered.clone());
                thread::spawn(move || {
                    let mut client = Client::connect(address);
                    while !is_over.load(Ordering::Relaxed) {
                        let response = client.send(GET).read_response();
                        response.expect_status(200).expect_body("ok");
                        answered.fetch_add(1, Ordering::Relaxed);
                        let is_last = response.list("Connection").contains(&"close");
                        if is_last || number % 3 == 0 {
                            client = Client::connect(address);
                        }
                        if number % 4 == 1 {
                            // Long enough to rest.
                            thread::sleep(Duration::from_millis(1_200));
                        }
                    }
                })
            })
            .collect();
        Self { is_over, answered, threads }
    }

    /// Waits until some more have been answered.
    fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("the load goes on", || self.answered.load(Ordering::Relaxed) > before + 200);
    }

    #[track_caller]
    fn end(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("every request was answered");
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Ends the process that has taken over.
struct Last(Pid);

impl Drop for Last {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGTERM);
        // Not our child: it is gone when nothing answers to its number, or somebody waits for it.
        for _ in 0..200 {
            let status = fs::read_to_string(format!("/proc/{}/stat", self.0));
            if status.map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

#[test]
fn ten_reloads_and_three_upgrades_under_load_fail_no_request() {
    if is_of_http1(
        "a client that is told by an answer that it was the last: http2/leaving.rs has GOAWAY",
    ) {
        return;
    }
    let origin = Origin::answering(OK);
    let with = |workers: usize| {
        let setup = Setup::to(&origin).set("server.workers", workers);
        setup.set("server.drain_timeout", "20s").set("admin.on_data_port", false)
    };
    let mut proxy = with(2).start();
    let load = Load::start(proxy.address());
    for generation in 2..12 {
        reload(&proxy, &with(1 + generation as usize % 2), generation);
        load.go_on();
    }
    let mut last: Option<Last> = None;
    let mut known = 0;
    for _ in 0..3 {
        match &last {
            None => proxy.signal(Signal::SIGUSR2),
            Some(Last(pid)) => kill(*pid, Signal::SIGUSR2).unwrap(),
        }
        wait_until("another process has taken over", || {
            let lines = proxy.log_lines();
            let lines: Vec<_> =
                lines.iter().filter(|line| line.contains("a new process has taken over")).collect();
            if lines.len() > known {
                let pid = logged(lines[known], "pid").parse().unwrap();
                std::mem::forget(last.replace(Last(Pid::from_raw(pid))));
                known = lines.len();
                return true;
            }
            false
        });
        load.go_on();
    }
    let answered = load.end();
    assert!(answered > 2_000, "{answered} requests");
    proxy.expect_orderly_end();
    drop(last);
}

#[test]
fn a_new_process_that_cannot_start_changes_nothing() {
    let origin = named("ok");
    let proxy = Setup::to(&origin).start();
    let mut client = proxy.send(GET);
    client.expect_status(200);
    fs::write(proxy.home().join("ringway.toml"), "server.prot = 1").unwrap();
    proxy.signal(Signal::SIGUSR2);
    proxy.wait_for_log(&["no upgrade, this process goes on", "has ended"]);
    client.send(GET).expect_status(200);
    proxy.get().expect_body("ok");
    fs::write(proxy.home().join("ringway.toml"), Setup::to(&origin).text()).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded", "generation=2 "]);
}

#[test]
fn a_unix_socket_of_the_admin_api_goes_over_with_the_rest() {
    let origin = named("ok");
    let mut proxy = Setup::to(&origin).set("admin.address", "unix:admin.sock").start();
    proxy.signal(Signal::SIGUSR2);
    let line = proxy.wait_for_log(&["a new process has taken over"]);
    let last = Last(Pid::from_raw(logged(&line, "pid").parse().unwrap()));
    proxy.expect_orderly_end();
    let path = proxy.home().join("admin.sock");
    let mut socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
    socket.write_all(b"GET /ready HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut socket, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 200"), "{text}");
    Client::connect(proxy.address()).send(GET).read_response().expect_body("ok");
    drop(last);
    assert!(!path.exists());
}

#[test]
fn sockets_that_a_service_manager_has_opened_are_used() {
    let home = Home::new();
    let origin = named("ok");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let setup = Setup::to(&origin).set("server.port", address.port());
    let config = home.write("ringway.toml", &setup.text());
    let mut command = Command::new("sh");
    // Descriptor 3, as sd_listen_fds(3) has it.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0";
    command.args(["-c", script, env!("CARGO_BIN_EXE_ringway"), "--config"]).arg(config);
    command.current_dir(home.path());
    let proxy = support::Proxy::spawn_with_input(
        command,
        home,
        1,
        std::os::fd::OwnedFd::from(listener).into(),
    );
    assert_eq!(proxy.address(), address);
    proxy.get().expect_body("ok");
}
