//! Unix sockets on both sides: clients that come by one, origins that listen on one.
//!
//! Comes in: scripted bytes, and real programs (curl, nginx) where they are installed. Goes out:
//! what a connection of TCP would have had, files that come and go with their owner, and nothing
//! said of a client that has no address.

use crate::support::{
    Arrival, Client, DEADLINE, Daemon, Expected, GET, Home, Message, OK, Origin, Proxy, Setup,
    Wire, installed, logged, pattern, ringway, run, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Paths of sockets, in a folder that goes with the test.
struct Folder(Home);

impl Folder {
    fn new() -> Self {
        Self(Home::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn address(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

fn wire(stream: UnixStream) -> Wire {
    Wire::new(OwnedFd::from(stream).into(), |_| ())
}

/// An origin at `path` that runs `script` with each connection; the requests' heads come out.
fn origin(
    path: &Path,
    script: impl Fn(&mut Wire, Message) + Send + Clone + 'static,
) -> Receiver<Message> {
    let listener = UnixListener::bind(path).expect("a new socket");
    let (sender, heads) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (script, sender) = (script.clone(), sender.clone());
            thread::spawn(move || {
                let mut peer = wire(stream.expect("a connection"));
                while let Some(head) = peer.read_head() {
                    let _ = sender.send(head.clone());
                    script(&mut peer, head);
                }
            });
        }
    });
    heads
}

fn ok(peer: &mut Wire, _: Message) {
    peer.send(OK);
}

/// A listener at `address` and nowhere else.
fn at(address: &str, origin: &str) -> Setup {
    Setup::to_url(origin).set("server.host", "").set("server.listen", [address])
}

fn both(folder: &Folder) -> Setup {
    at(&folder.address("http"), &folder.address("app")).set("log.access", true)
}

fn reload(proxy: &Proxy, setup: &Setup, generation: u32) {
    fs::write(proxy.home().join("ringway.toml"), setup.text()).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded", &format!("generation={generation} ")]);
}

#[test]
fn a_connection_is_kept_on_both_sides_and_nothing_is_claimed_of_the_client() {
    let folder = Folder::new();
    let heads = origin(&folder.path("app"), ok);
    let proxy = both(&folder).start();
    let mut client = Client::connect_unix(&folder.path("http"));
    for _ in 0..3 {
        client.send(GET).expect_status(200);
    }
    client.send("GET / HTTP/1.0\r\n\r\n").expect_status(200);
    for head in heads.iter().take(3) {
        head.expect_field("Host", "test").expect_field("X-Forwarded-For", "unix:");
        head.expect_field("Forwarded", "for=unknown;proto=http;host=\"test\"");
    }
    // Without a Host of its own it gets the one of this machine, and no path.
    heads.recv().unwrap().expect_field("Host", "localhost");
    let line = proxy.wait_for_log(&["client=unix", "status=200"]);
    assert_eq!(logged(&line, "origin"), folder.address("app"), "{line}");
}

#[test]
fn bodies_of_every_kind_pass_whole_both_ways() {
    const BYTES: usize = 20_000_000;
    let folder = Folder::new();
    let body = pattern(BYTES);
    let _heads = origin(&folder.path("app"), |peer, head| match head.method() {
        "GET" => {
            let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
            peer.send(length);
            peer.send(pattern(BYTES));
        }
        _ if head.field("Content-Length").is_some() => {
            peer.expect_stream(&pattern(BYTES));
            peer.send(OK);
        }
        _ => {
            let mut request = head;
            peer.read_body(&mut request, Expected::Request);
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in request.body.chunks(100_000) {
                peer.send(format!("{:x}\r\n", piece.len()));
                peer.send(piece);
                peer.send("\r\n");
            }
            peer.send("0\r\n\r\n");
        }
    });
    let _proxy = both(&folder).start();
    let mut client = Client::connect_unix(&folder.path("http"));
    client.send(GET).read_response().expect_body(&body);
    // One that does not read for a while has the bytes wait in the kernel, and be peeked at.
    client.send(GET);
    assert!(!client.is_quiet_for(Duration::from_millis(300)));
    client.read_response().expect_body(&body);
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"));
    client.send(&body).expect_status(200);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("f4240\r\n").send(&body[..1_000_000]).send("\r\n0\r\n\r\n");
    client.read_response().expect_body(&body[..1_000_000]);
}

#[test]
fn an_upgrade_is_a_tunnel_that_ends_by_halves() {
    let folder = Folder::new();
    let path = folder.path("app");
    let listener = UnixListener::bind(path).unwrap();
    let _proxy = both(&folder).start();
    let mut client = Client::connect_unix(&folder.path("http"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let mut far = wire(listener.accept().unwrap().0);
    far.read_head().unwrap().expect_field("Upgrade", "websocket");
    far.send("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.read_head().unwrap().expect_status(101);
    let bytes = pattern(3_000_000);
    thread::scope(|scope| {
        let mut sender = client.another_handle();
        scope.spawn(|| far.expect_stream(&bytes));
        sender.send(&bytes);
    });
    client.half_close();
    far.expect_end(Arrival::End);
    far.send("the last");
    drop(far);
    client.expect_stream(b"the last");
    client.expect_orderly_close();
}

#[test]
fn an_answer_that_the_origin_cuts_is_cut_for_the_client() {
    let folder = Folder::new();
    let listener = UnixListener::bind(folder.path("app")).unwrap();
    let _proxy = both(&folder).start();
    for head in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf"] {
        let mut client = Client::connect_unix(&folder.path("http"));
        client.send(GET);
        let mut far = wire(listener.accept().unwrap().0);
        far.read_head().unwrap();
        far.send(format!("HTTP/1.1 200 OK\r\n{head}"));
        drop(far);
        client.read_cut_response();
    }
}

#[test]
fn a_client_that_goes_away_ends_its_exchange() {
    let folder = Folder::new();
    let listener = UnixListener::bind(folder.path("app")).unwrap();
    let _proxy = both(&folder).start();
    let mut client = Client::connect_unix(&folder.path("http"));
    client.send(GET);
    let mut far = wire(listener.accept().unwrap().0);
    far.read_head().unwrap();
    drop(client);
    let (rest, _) = far.read_to_end();
    assert_eq!(rest, b"");
}

#[test]
fn who_comes_by_a_unix_socket_is_in_no_network_but_may_be_named() {
    let folder = Folder::new();
    let heads = origin(&folder.path("app"), ok);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    let ask = |setup: Setup, status: u16| {
        let proxy = setup.start();
        let mut client = Client::connect_unix(&folder.path("http"));
        client.send(request).expect_status(status);
        drop(client);
        proxy.stop();
    };
    ask(both(&folder).set("server.trusted_proxies", ["0.0.0.0/0", "::/0"]), 200);
    heads.recv().unwrap().expect_field("X-Forwarded-For", "unix:");
    ask(both(&folder).set("server.trusted_proxies", ["unix"]), 200);
    heads.recv().unwrap().expect_field("X-Forwarded-For", "192.0.2.1, unix:");
    ask(both(&folder).set("hooks.allow", ["0.0.0.0/0", "::/0"]), 403);
    ask(both(&folder).set("hooks.allow", ["unix"]), 200);
    ask(both(&folder).set("hooks.deny", ["0.0.0.0/0", "::/0"]), 200);
    ask(both(&folder).set("hooks.deny", ["unix"]), 403);
}

#[test]
fn the_file_has_its_mode_and_goes_with_its_owner() {
    let folder = Folder::new();
    let path = folder.path("http");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let server = Origin::answering(OK);
    let proxy = at(&folder.address("http"), &server.url()).start();
    assert_eq!(mode(), 0o660);
    let table = format!("listen = [{{ address = {:?}, mode = \"0606\" }}]", folder.address("http"));
    let text = Setup::to(&server).set("server.host", "").text();
    fs::write(proxy.home().join("ringway.toml"), format!("server.{table}\n{text}")).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded", "generation=2 "]);
    assert_eq!(mode(), 0o606);
    proxy.stop();
    assert!(!path.exists());
}

#[test]
fn only_the_socket_of_a_dead_process_is_replaced() {
    let folder = Folder::new();
    let path = folder.path("http");
    let server = Origin::answering(OK);
    let setup = || at(&folder.address("http"), &server.url());
    drop(UnixListener::bind(&path).unwrap());
    let proxy = setup().start();
    Client::connect_unix(&path).send(GET).expect_status(200);
    let said = |setup: Setup| {
        let output = setup.run();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text + &String::from_utf8_lossy(&output.stdout)
    };
    let text = said(setup());
    assert!(text.contains("another process listens there (`ss -lxp`"), "{text}");
    Client::connect_unix(&path).send(GET).expect_status(200);
    proxy.stop();
    fs::write(&path, "precious").unwrap();
    let text = said(setup());
    assert!(text.contains("a file that is no socket") && text.contains("remove it"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let text = said(at(&folder.address("none/http"), &server.url()));
    assert!(text.contains("its folder does not exist; create it"), "{text}");
    // A live one whose queue is full is alive.
    let full = folder.path("full");
    let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    busy.bind(&SockAddr::unix(&full).unwrap()).unwrap();
    busy.listen(0).unwrap();
    let _waiting = UnixStream::connect(&full).unwrap();
    let text = said(at(&folder.address("full"), &server.url()));
    assert!(text.contains("another process listens there"), "{text}");
}

#[test]
fn an_abstract_name_is_listened_on_and_connected_to() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("ringway-test-{}", std::process::id());
    let app = format!("{name}-app");
    let bind = std::os::unix::net::SocketAddr::from_abstract_name(&app).unwrap();
    let listener = UnixListener::bind_addr(&bind).unwrap();
    let _proxy = at(&format!("unix:@{name}"), &format!("unix:@{app}")).start();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let mut client = wire(UnixStream::connect_addr(&address).unwrap());
    client.send(GET);
    let mut far = wire(listener.accept().unwrap().0);
    far.read_head().unwrap();
    far.send(OK);
    client.read_head().unwrap().expect_status(200);
}

#[test]
fn a_reload_adds_and_removes_listeners_without_harm_to_who_is_served() {
    let folder = Folder::new();
    let server = Origin::answering(OK);
    let tcp = || Setup::to(&server);
    let proxy = tcp().start();
    let mut other = proxy.send(GET);
    other.expect_status(200);
    reload(&proxy, &tcp().set("server.listen", [folder.address("a")]), 2);
    let mut client = Client::connect_unix(&folder.path("a"));
    client.send(GET).expect_status(200);
    reload(&proxy, &tcp().set("server.listen", [folder.address("b")]), 3);
    assert!(!folder.path("a").exists());
    client.send(GET).expect_status(200);
    Client::connect_unix(&folder.path("b")).send(GET).expect_status(200);
    reload(&proxy, &at(&folder.address("b"), &server.url()), 4);
    other.send(GET).expect_status(200);
    Client::connect_unix(&folder.path("b")).send(GET).expect_status(200);
    reload(&proxy, &tcp(), 5);
    assert!(!folder.path("b").exists());
}

/// Ends the process that has taken over, and waits for that.
struct Last(Pid);

impl Drop for Last {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGTERM);
        let is_over = || {
            let status = fs::read_to_string(format!("/proc/{}/stat", self.0));
            status.map_or(true, |stat| stat.contains(") Z "))
        };
        wait_until("the last process has ended", is_over);
    }
}

#[test]
fn an_upgrade_hands_the_socket_and_its_file_over() {
    let folder = Folder::new();
    let path = folder.path("http");
    let server = Origin::answering(OK);
    let mut proxy = at(&folder.address("http"), &server.url()).start();
    let mut client = Client::connect_unix(&path);
    client.send(GET).expect_status(200);
    proxy.signal(Signal::SIGUSR2);
    let line = proxy.wait_for_log(&["a new process has taken over"]);
    let last = Last(Pid::from_raw(logged(&line, "pid").parse().unwrap()));
    drop(client);
    proxy.expect_orderly_end();
    Client::connect_unix(&path).send(GET).expect_status(200);
    drop(last);
    assert!(!path.exists());
}

#[test]
fn an_upgrade_that_fails_leaves_the_file_where_it_is() {
    let folder = Folder::new();
    let path = folder.path("http");
    let server = Origin::answering(OK);
    let proxy = at(&folder.address("http"), &server.url()).start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let both = [folder.address("http"), taken.local_addr().unwrap().to_string()];
    let setup = Setup::to(&server).set("server.host", "").set("server.listen", both);
    fs::write(proxy.home().join("ringway.toml"), setup.text()).unwrap();
    proxy.signal(Signal::SIGUSR2);
    proxy.wait_for_log(&["no upgrade, this process goes on"]);
    Client::connect_unix(&path).send(GET).expect_status(200);
}

#[test]
fn a_socket_that_a_service_manager_has_opened_is_used_and_left() {
    let folder = Folder::new();
    let path = folder.path("http");
    let server = Origin::answering(OK);
    let listener = UnixListener::bind(&path).unwrap();
    let home = Home::new();
    let setup = at(&folder.address("http"), &server.url());
    let config = home.write("ringway.toml", &setup.text());
    let mut command = Command::new("sh");
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0";
    command.args(["-c", script, env!("CARGO_BIN_EXE_ringway"), "--config"]).arg(config);
    command.current_dir(home.path());
    let proxy = Proxy::spawn_with_input(command, home, 1, OwnedFd::from(listener).into());
    Client::connect_unix(&path).send(GET).expect_status(200);
    proxy.stop();
    assert!(path.exists());
}

#[test]
fn a_drain_serves_what_is_under_way() {
    let folder = Folder::new();
    let listener = UnixListener::bind(folder.path("app")).unwrap();
    let mut proxy = both(&folder).start();
    let mut client = Client::connect_unix(&folder.path("http"));
    client.send(GET);
    let mut far = wire(listener.accept().unwrap().0);
    far.read_head().unwrap();
    proxy.signal(Signal::SIGTERM);
    wait_until("the file is gone", || !folder.path("http").exists());
    far.send(OK);
    client.read_response().expect_status(200).expect_field("Connection", "close");
    client.expect_orderly_close();
    proxy.expect_orderly_end();
}

#[test]
fn an_origin_whose_queue_is_full_is_waited_for() {
    let folder = Folder::new();
    let path = folder.path("app");
    let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    busy.listen(0).unwrap();
    let first = UnixStream::connect(&path).unwrap();
    let _proxy = both(&folder).start();
    let mut client = Client::connect_unix(&folder.path("http"));
    client.send(GET);
    assert!(client.is_quiet_for(Duration::from_millis(200)));
    drop((busy.accept().unwrap(), first));
    let far = OwnedFd::from(busy.accept().unwrap().0);
    let mut far = Wire::new(far.into(), |_| ());
    far.read_head().unwrap();
    far.send(OK);
    client.expect_status(200);
    drop(far);
    // Nor is it waited for longer than for any other.
    let _second = UnixStream::connect(&path).unwrap();
    let hasty = Setup::to_url(&folder.address("app")).set("timeouts.connect", "200ms").start();
    hasty.send(GET).expect_status(504);
}

#[test]
fn what_keeps_an_origin_from_being_reached_is_named() {
    let folder = Folder::new();
    let proxy = Setup::to_url(&folder.address("app")).start();
    proxy.send(GET).expect_status(502);
    let line = proxy.wait_for_log(&["cannot connect", "start the origin, or correct the path"]);
    assert!(line.contains(&folder.address("app")), "{line}");
    // It is there again without a reload; a file that nobody listens at is refused.
    drop(UnixListener::bind(folder.path("app")).unwrap());
    let refused = proxy.get();
    refused.expect_status(502);
    refused.expect_field("Proxy-Status", "ringway; error=connection_refused");
    fs::remove_file(folder.path("app")).unwrap();
    let _heads = origin(&folder.path("app"), ok);
    wait_until("the origin is tried again", || proxy.get().status() == 200);
}

#[test]
fn origins_of_both_kinds_share_an_upstream_and_are_opened_ahead() {
    let folder = Folder::new();
    let heads = origin(&folder.path("app"), ok);
    let server = Origin::answering(OK);
    let setup = Setup::new().set("pool.prewarm", 2);
    let proxy = setup.upstream("app", &[&folder.address("app"), &server.url()], "").start();
    for _ in 0..4 {
        proxy.get().expect_status(200);
    }
    assert_eq!(heads.iter().take(2).count(), 2);
    server.wait_for("its half", |seen| seen.requests.len() == 2);
}

#[test]
fn a_change_is_not_asked_for_by_a_unix_socket_without_a_token() {
    let folder = Folder::new();
    let server = Origin::answering(OK);
    let setup = at(&folder.address("http"), &server.url());
    let _proxy = setup.set("admin.on_data_port", "all").start();
    let mut client = Client::connect_unix(&folder.path("http"));
    let health = client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    health.expect_status(200);
    client.send("POST /admin/cleanup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    client.expect_status(403);
}

/// A proxy in front may pass the whole world on by its socket, without a word of it.
#[test]
fn who_comes_by_a_unix_socket_is_not_local() {
    let folder = Folder::new();
    let server = Origin::answering(OK);
    let _proxy = at(&folder.address("http"), &server.url()).start();
    let mut client = Client::connect_unix(&folder.path("http"));
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.read_message(Expected::Response).expect("an answer").expect_body("ok");
    server.wait_for("the question", |seen| seen.requests.len() == 1);
}

#[test]
fn commands_know_unix_sockets() {
    let folder = Folder::new();
    let setup = || both(&folder).set("admin.on_data_port", "all");
    let text = setup().set("admin.address", "127.0.0.1:0").text();
    let config = folder.0.write("ringway.toml", &text);
    let say = |arguments: &[&str]| -> String {
        let mut command = ringway();
        command.arg("--config").arg(&config).args(arguments).current_dir(folder.0.path());
        let output = run(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text + &String::from_utf8_lossy(&output.stderr)
    };
    let said = say(&["check"]);
    assert!(said.contains("there is no such file now"), "{said}");
    assert!(!folder.path("http").exists());
    let said = say(&["doctor"]);
    assert!(said.contains("unix_sockets") && said.contains("no such file now"), "{said}");
    let _heads = origin(&folder.path("app"), ok);
    let said = say(&["check"]);
    assert!(!said.contains("no such file"), "{said}");
    let listener = folder.address("http");
    let said = say(&["explain", "GET", "/x", "--client", "unix", "--listener", &listener]);
    let app = folder.address("app");
    for part in [&*listener, &*app, "X-Forwarded-For: unix:", "for=unknown", "Host: localhost"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let said = say(&["dump-config"]);
    assert!(said.contains(&listener) && said.contains(&app), "{said}");
    let _proxy = setup().start();
    let said = say(&["check"]);
    assert!(said.contains("another process listens there"), "{said}");
    let said = say(&["health", "--url", &listener]);
    assert!(said.contains("\"status\""), "{said}");
}

#[test]
fn curl_and_nginx_are_at_either_end() {
    let (Some(curl), Some(nginx)) = (installed("curl"), installed("nginx")) else { return };
    let folder = Folder::new();
    let home = folder.0.path().display();
    fs::create_dir(folder.path("www")).unwrap();
    fs::write(folder.path("www/1m"), pattern(1 << 20)).unwrap();
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let config = folder.0.write(
        "nginx.conf",
        &format!(
            "daemon off; {user} worker_processes 1; pid {home}/pid; error_log stderr;
             events {{ worker_connections 512; }}
             http {{
                 access_log off; root {home}/www;
                 client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
                 fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi;
                 scgi_temp_path {home}/scgi;
                 server {{ listen unix:{home}/app; }}
                 server {{
                     listen unix:{home}/front;
                     location / {{
                         proxy_pass http://unix:{home}/http:; proxy_http_version 1.1;
                         proxy_set_header Connection \"\"; proxy_set_header Host a;
                     }}
                 }}
             }}"
        ),
    );
    let mut command = Command::new(nginx);
    command.arg("-p").arg(folder.0.path()).arg("-c").arg(config);
    let _nginx = Daemon::start(command, || UnixStream::connect(folder.path("app")).is_ok());
    let proxy = both(&folder).start();
    for socket in ["http", "front"] {
        let mut command = Command::new(&curl);
        let seconds = DEADLINE.as_secs().to_string();
        command.args(["-sS", "--fail", "--max-time", &seconds, "--unix-socket"]);
        command.arg(folder.path(socket)).current_dir(folder.0.path());
        command.args(["-o", "first", "http://a/1m", "-o", "second", "http://a/1m"]);
        let output = run(command);
        assert!(output.status.success(), "{output:?}");
        for file in ["first", "second"] {
            assert!(fs::read(folder.path(file)).unwrap() == pattern(1 << 20), "{socket} {file}");
        }
    }
    proxy.stop();
}
