//! What the pool learns of its origins, and what it may have of them.
//!
//! Scripted origins keep connections for so long, or not at all, or serve one at a time; what
//! ringway has learnt is read from `/upstreams`. Servers that people run come last.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::real_servers::{Server, python};
use crate::support::{
    Blackhole, Client, GET, Gate, Origin, Peer, Proxy, Setup, Wire, installed, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What is known of the first target.
fn learnt(proxy: &Proxy) -> Value {
    let answer: Value = serde_json::from_str(&proxy.admin("GET", "/upstreams")).expect("JSON");
    answer["upstreams"][0]["targets"][0]["learnt"].clone()
}

/// Answers, and closes each connection that has been silent for `silence`.
fn closing_after(silence: Duration) -> Origin {
    Origin::start(move |mut peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
            if peer.is_quiet_for(silence) {
                return;
            }
        }
    })
}

/// Two requests at once, of which neither is answered before the other has come.
fn two_at_once(proxy: &Proxy, gate: &Gate, origin: &Origin, before: usize) {
    let mut clients = [proxy.send(GET), proxy.send(GET)];
    origin.wait_for("both", |seen| seen.requests.len() == before + 2);
    gate.open();
    expect_answers(&mut clients);
}

#[track_caller]
fn expect_answers(clients: &mut [Client]) {
    for client in clients {
        client.expect_status(200);
    }
}

#[track_caller]
fn expect_fault(client: &mut Client, status: u16, error: &str) {
    let response = client.read_response();
    assert_eq!(response.status(), status, "{response}");
    response.expect_field("Proxy-Status", &format!("ringway; error={error}"));
}

/// Answers once the gate is open.
fn gated() -> (Origin, Gate) {
    let gate = Gate::default();
    let origin = Origin::start({
        let gate = gate.clone();
        move |mut peer: Peer| {
            while peer.next_request().is_some() {
                gate.wait();
                peer.send(OK);
            }
        }
    });
    (origin, gate)
}

#[test]
fn an_idle_connection_is_closed_before_the_time_that_its_origin_names() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let seconds = &request.target()[1..];
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nKeep-Alive: timeout={seconds}, max=100\r\n\
                 Content-Length: 2\r\n\r\nok"
            ));
        }
    });
    let proxy = Proxy::to(&origin);
    let ask = |seconds: u32| {
        let request = format!("GET /{seconds} HTTP/1.1\r\nHost: test\r\n\r\n");
        proxy.send(request).expect_status(200);
    };
    ask(60);
    wait_until("heard", || learnt(&proxy)["closed_after_ms"] == 54_000);
    ask(2);
    let rests_since = Instant::now();
    wait_until("heard", || learnt(&proxy)["closed_after_ms"] == 1_800);
    let bound = &learnt(&proxy)["idle_timeout"];
    assert_eq!((&bound["ms"], &bound["from"]), (&2_000.into(), &"header".into()));
    assert!(bound["seconds_ago"].is_u64());
    origin.wait_for("the close", |seen| seen.open() == 0);
    assert!(rests_since.elapsed() >= Duration::from_millis(1_500), "{:?}", rests_since.elapsed());
    ask(2);
    assert_eq!(origin.seen().connections.len(), 2);
}

#[test]
fn an_answer_without_a_time_takes_the_one_before_back() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let field = if request.target() == "/" { "" } else { "Keep-Alive: timeout=5\r\n" };
            peer.send(format!("HTTP/1.1 200 OK\r\n{field}Content-Length: 2\r\n\r\nok"));
        }
    });
    let proxy = Proxy::to(&origin);
    proxy.send("GET /said HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(200);
    wait_until("heard", || learnt(&proxy)["closed_after_ms"] == 4_500);
    proxy.get().expect_status(200);
    wait_until("taken back", || learnt(&proxy)["closed_after_ms"].is_null());
}

#[test]
fn the_age_at_which_an_origin_closes_is_learnt_and_not_reached_again() {
    let origin = closing_after(Duration::from_millis(800));
    let proxy = Proxy::to(&origin);
    // Two closes that agree are enough. On a busy machine an origin is late now and then.
    for round in 1..=10 {
        proxy.get().expect_status(200);
        assert!(round > 2 || learnt(&proxy)["idle_timeout"] == Value::Null);
        origin.wait_for("its close", |seen| seen.connections.len() == round && seen.open() == 0);
        std::thread::sleep(Duration::from_millis(50));
        if learnt(&proxy)["idle_timeout"]["from"] == "closes" {
            break;
        }
    }
    wait_until("learnt", || learnt(&proxy)["idle_timeout"]["from"] == "closes");
    let bound = learnt(&proxy)["idle_timeout"]["ms"].as_u64().expect("milliseconds");
    assert!((700..1_500).contains(&bound), "{bound}");
    assert!(learnt(&proxy)["closed_after_ms"].as_u64().expect("milliseconds") < bound);
}

#[test]
fn a_restart_teaches_nothing() {
    let gates: Arc<[Gate; 2]> = Arc::default();
    let origin = Origin::start({
        let gates = gates.clone();
        move |mut peer| {
            if peer.next_request().is_some() {
                gates[0].wait();
                peer.send(OK);
                gates[1].wait();
            }
        }
    });
    let proxy = Proxy::to(&origin);
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.send(GET)).collect();
    origin.wait_for("all three", |seen| seen.requests.len() == 3);
    gates[0].open();
    expect_answers(&mut clients);
    gates[1].open();
    let is_noticed = || proxy.admin("GET", "/metrics").contains("ringway_pool_connections 0\n");
    wait_until("their ends are noticed", is_noticed);
    assert_eq!(learnt(&proxy)["idle_timeout"], Value::Null);
}

#[test]
fn who_ends_every_connection_keeps_none_until_one_is_kept() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/" {
                peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
                return;
            }
            peer.send(OK);
        }
    });
    let proxy = Proxy::to(&origin);
    for _ in 0..3 {
        proxy.get().expect_status(200);
    }
    wait_until("known", || learnt(&proxy)["keeps_connections"] == false);
    for _ in 0..2 {
        proxy.send("GET /kept HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(200);
    }
    wait_until("known", || learnt(&proxy)["keeps_connections"] == true);
    assert_eq!(learnt(&proxy)["serves_several"], false);
}

#[test]
fn spare_connections_are_kept_to_who_has_shown_that_it_keeps_and_serves_several() {
    for workers in [1, 2] {
        let (origin, gate) = gated();
        let setup = Setup::to(&origin).set("server.workers", workers);
        let proxy = setup.set("pool.prewarm", "auto").start();
        // As many as it takes for two of them to be in one worker.
        let mut before = 0;
        let started = Instant::now();
        while learnt(&proxy)["serves_several"] != true
            || learnt(&proxy)["keeps_connections"] != true
        {
            assert!(started.elapsed() < Duration::from_secs(60));
            assert!(origin.seen().connections.len() <= 4, "none is spare yet");
            two_at_once(&proxy, &gate, &origin, before);
            before += 2;
        }
        origin.wait_for("five", |seen| seen.open() == 5);
    }
}

#[test]
fn a_long_poll_costs_the_others_no_connections() {
    let gate = Gate::default();
    let quick = "GET /quick HTTP/1.1\r\nHost: test\r\n\r\n";
    let both = Origin::start({
        let gate = gate.clone();
        move |mut peer: Peer| {
            while let Some(request) = peer.next_request() {
                if request.target() == "/" {
                    gate.wait();
                }
                peer.send(OK);
            }
        }
    });
    let proxy = Proxy::to(&both);
    let mut long = proxy.send(GET);
    both.wait_for("the poll", |seen| seen.requests.len() == 1);
    // Longer than it takes to be taken for somebody who waits for what rests.
    long.expect_quiet_for(Duration::from_millis(400));
    for _ in 0..10 {
        proxy.send(quick).expect_status(200);
    }
    let opened = both.seen().connections.len();
    let open = both.seen().open();
    assert_eq!((opened, open), (2, 2));
    gate.open();
    long.expect_status(200);
}

#[test]
fn an_origin_that_ends_connections_gets_no_spare_ones() {
    let origin = Origin::answering_and_closing(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = Setup::to(&origin).set("pool.prewarm", "auto").start();
    for _ in 0..5 {
        let mut clients = [proxy.send(GET), proxy.send(GET)];
        expect_answers(&mut clients);
    }
    // Longer than it takes for a round of them to be opened.
    let open = || origin.seen().connections.len();
    let started = Instant::now();
    wait_until("a while", || started.elapsed() > Duration::from_millis(2_200) || open() > 10);
    assert_eq!(open(), 10);
}

/// A server of one thread that keeps a connection, and serves nobody else meanwhile.
fn one_at_a_time() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let mut wire = Wire::new(stream, |_| {});
            while wire.read_head().is_some() {
                wire.send(OK);
            }
        }
    });
    url
}

#[test]
fn nobody_waits_for_a_connection_that_rests_at_a_server_of_one_thread() {
    for workers in [1, 2] {
        let setup = Setup::to_url(&one_at_a_time()).set("server.workers", workers);
        let proxy = setup.set("pool.prewarm", "auto").start();
        let started = Instant::now();
        for _ in 0..5 {
            let mut clients: Vec<Client> = (0..3).map(|_| proxy.send(GET)).collect();
            expect_answers(&mut clients);
        }
        // Without it, each of them waits for pool.idle_expiry, which is 30 s.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(learnt(&proxy)["serves_several"], false);
    }
}

/// Requests that wait for a connection to the first upstream.
fn waiting(proxy: &Proxy) -> u64 {
    let answer: Value = serde_json::from_str(&proxy.admin("GET", "/upstreams")).expect("JSON");
    answer["upstreams"][0]["waiting"].as_u64().expect("a number")
}

fn limited(origins: &str, more: &str) -> Setup {
    let lines = format!("origins = [{origins}]\n{more}");
    Setup::new().upstream_lines("app", &lines).route("", "/", "app", "")
}

#[test]
fn an_origin_at_its_own_limit_is_passed_over_and_then_waited_for() {
    for workers in [1, 2] {
        let ((a, open_a), (b, open_b)) = (gated(), gated());
        let origins = format!(
            "{{ url = \"{}\", max_connections = 1 }}, {{ url = \"{}\", max_connections = 2 }}",
            a.url(),
            b.url()
        );
        let proxy = limited(&origins, "").set("server.workers", workers).start();
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.send(GET)).collect();
        a.wait_for("one", |seen| seen.requests.len() == 1);
        b.wait_for("two", |seen| seen.requests.len() == 2);
        wait_until("the last one waits", || waiting(&proxy) == 1);
        assert_eq!((a.seen().connections.len(), b.seen().connections.len()), (1, 2));
        open_a.open();
        open_b.open();
        expect_answers(&mut clients);
        // An origin hears of a close later than whoever closes.
        a.wait_for("one connection at most", |seen| seen.open() <= 1);
        b.wait_for("two connections at most", |seen| seen.open() <= 2);
    }
}

#[test]
fn more_requests_than_may_wait_are_refused_at_once() {
    let (origin, gate) = gated();
    let origins = format!("\"{}\"", origin.url());
    let proxy = limited(&origins, "max_connections = 1\nqueue = 1\n").start();
    let mut first = proxy.send(GET);
    origin.wait_for("the first", |seen| seen.requests.len() == 1);
    let mut second = proxy.send(GET);
    wait_until("it waits", || waiting(&proxy) == 1);
    let mut third = proxy.send(GET);
    expect_fault(&mut third, 503, "connection_limit_reached");
    gate.open();
    first.expect_status(200);
    second.expect_status(200);
}

#[test]
fn an_origin_and_an_upstream_have_no_more_idle_connections_than_they_may() {
    for (key, more) in [(", max_idle = 1", ""), ("", "max_idle = 1\n")] {
        let (origin, gate) = gated();
        let origins = format!("{{ url = \"{}\"{key} }}", origin.url());
        let proxy = limited(&origins, more).set("server.workers", 2).start();
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.send(GET)).collect();
        origin.wait_for("all four", |seen| seen.requests.len() == 4);
        gate.open();
        expect_answers(&mut clients);
        origin.wait_for("one is left", |seen| seen.open() == 1);
    }
}

#[test]
fn a_route_has_the_last_word_on_how_long_an_origin_may_take() {
    let origin = Origin::start(Peer::hold);
    let more = "timeouts = { read = \"300ms\" }";
    let setup = Setup::new().upstream("app", &[&origin.url()], more);
    let setup = setup.route("", "/", "app", "").route("", "/long", "app", "timeouts.read = \"1h\"");
    let proxy = setup.start();
    let mut long = proxy.send("GET /long HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.wait_for("the long one", |seen| !seen.bytes().is_empty());
    let mut client = proxy.send(GET);
    expect_fault(&mut client, 504, "http_response_timeout");
    // On the same connection: what holds for one request is not left over for the next.
    client.send("GET /long HTTP/1.1\r\nHost: test\r\n\r\n");
    client.expect_quiet_for(Duration::from_millis(600));
    long.expect_quiet_for(Duration::from_millis(100));
}

#[test]
fn an_upstream_says_how_long_connecting_to_it_may_take() {
    let blackhole = Blackhole::new();
    let more = "timeouts = { connect = \"300ms\" }";
    let setup = Setup::new().upstream("app", &[&blackhole.url()], more);
    let proxy = setup.route("", "/", "app", "").start();
    let started = Instant::now();
    expect_fault(&mut proxy.send(GET), 504, "connection_timeout");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[test]
fn an_upstream_says_what_a_wait_in_vain_is_answered_with() {
    let (origin, gate) = gated();
    let more = "max_connections = 1\ntimeouts = { pool = \"200ms\", pool_status = 503 }\n";
    let proxy = limited(&format!("\"{}\"", origin.url()), more).start();
    let mut first = proxy.send(GET);
    origin.wait_for("the first", |seen| seen.requests.len() == 1);
    expect_fault(&mut proxy.send(GET), 503, "connection_limit_reached");
    gate.open();
    first.expect_status(200);
}

const WSGI: &str = "
def wsgi(environ, start):
    start('200 OK', [('Content-Length', '2')])
    return [b'ok']
";
const ASGI: &str = "
async def asgi(scope, receive, send):
    fields = [(b'content-length', b'2')]
    await send({'type': 'http.response.start', 'status': 200, 'headers': fields})
    await send({'type': 'http.response.body', 'body': b'ok'})
";
const WSGIREF: &str = "
import sys, wsgiref.simple_server, app
wsgiref.simple_server.make_server('127.0.0.1', int(sys.argv[1]), app.wsgi).serve_forever()
";

/// One request after another, and some at once, with default settings.
#[track_caller]
fn expect_no_wait(name: &str, server: &Server) {
    let url = format!("http://{}", server.address);
    let setup = Setup::to_url(&url).set("server.workers", 2).set("pool.prewarm", "auto");
    let proxy = setup.start();
    let started = Instant::now();
    for _ in 0..3 {
        for _ in 0..10 {
            proxy.get().expect_status(200);
        }
        let mut clients: Vec<Client> = (0..10).map(|_| proxy.send(GET)).collect();
        expect_answers(&mut clients);
        // Spare connections would be opened meanwhile.
        let since = Instant::now();
        wait_until("a round of prewarming", || since.elapsed() > Duration::from_millis(1_100));
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{name}: {:?}", started.elapsed());
}

#[test]
fn nothing_waits_in_front_of_a_server_that_serves_one_at_a_time() {
    if let Some(python) = python() {
        let files = [("app.py", WSGI), ("wsgiref_.py", WSGIREF)];
        let gunicorn = ["-m", "gunicorn", "--bind=127.0.0.1:PORT", "-w", "2", "app:wsgi"];
        for (name, arguments) in
            [("gunicorn", &gunicorn[..]), ("wsgiref", &["wsgiref_.py", "PORT"])]
        {
            expect_no_wait(name, &Server::start(python, &files, arguments));
        }
    }
    if let Some(php) = installed("php") {
        let files = [("index.php", "<?php echo 'ok';")];
        expect_no_wait("php", &Server::start(&php, &files, &["-S", "127.0.0.1:PORT"]));
    }
}

/// Asks at the ages at which the server closes, which it must not be able to do first.
fn expect_no_race(name: &str, server: &Server, seconds: u64) {
    let setup = Setup::to_url(&format!("http://{}", server.address));
    let proxy = setup.set("pool.prewarm", "auto").start();
    for _ in 0..3 {
        proxy.get().expect_status(200);
        let since = Instant::now();
        let is_known = || learnt(&proxy)["closed_after_ms"].is_u64();
        let long = Duration::from_secs(seconds + 2);
        wait_until("its close", || is_known() || since.elapsed() > long);
    }
    let limit = learnt(&proxy)["closed_after_ms"].as_u64();
    let limit = limit.unwrap_or_else(|| panic!("{name}: {}", learnt(&proxy)));
    assert!(limit < seconds * 1_000 + 1_000 && limit > seconds * 600, "{name}: {limit}");
}

#[test]
fn how_long_servers_keep_connections_is_found_out() {
    if let Some(python) = python() {
        let files = [("app.py", &*format!("{WSGI}{ASGI}"))];
        let threads = ["-m", "gunicorn", "--bind=127.0.0.1:PORT", "-k", "gthread", "app:wsgi"];
        expect_no_race("gunicorn", &Server::start(python, &files, &threads), 2);
        let keep = "--timeout-keep-alive=2";
        let uvicorn = ["-m", "uvicorn", "--port", "PORT", "--log-level=error", keep, "app:asgi"];
        expect_no_race("uvicorn", &Server::start(python, &files, &uvicorn), 2);
    }
    if let Some(node) = installed("node") {
        let script = "require('http').createServer((_, answer) => answer.end('ok'))\
                      .listen(process.argv[2], '127.0.0.1')";
        let server = Server::start(&node, &[("app.js", script)], &["app.js", "PORT"]);
        expect_no_race("node", &server, 5);
    }
}

#[test]
fn no_worker_keeps_an_origins_only_connection_from_those_that_wait_in_another() {
    let origin = Origin::answering(OK);
    let origins = format!("{{ url = \"{}\", max_connections = 1 }}", origin.url());
    let setup = limited(&origins, "").set("server.workers", 2).set("timeouts.pool", "1s");
    let proxy = setup.start();
    // Each of the clients asks again as soon as it has its answer: the line never ends.
    let until = Instant::now() + Duration::from_secs(4);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = proxy.connect();
                while Instant::now() < until {
                    client.send(GET).read_response().expect_status(200);
                }
            });
        }
    });
    assert!(origin.seen().open() <= 1);
}
