//! gRPC through ringway: what its clients are told by us, how its servers are checked, and calls
//! of a real implementation end to end.
//!
//! Scripted ends speak raw frames; grpcio is installed once, below `target`. Where it cannot be,
//! its tests say so and do nothing.

use crate::support::h2_origin::{
    DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS, RST_STREAM, WHOLE, block, fields,
};
use crate::support::python::environment;
use crate::support::{Client, Daemon, Home, Origin, Peer, Proxy, Refusal, Setup, free_address};
use crate::support::{Gate, wait_until};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// A client with one call under way, whose message is `body`.
fn call(proxy: &Proxy, path: &str, content_type: &str, body: &[u8]) -> Frames<Client> {
    let mut client = Frames::ask(proxy.connect());
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", content_type),
        ("te", "trailers"),
        ("grpc-timeout", "5S"),
    ];
    client.send(HEADERS, END_HEADERS, 1, &fields(&head));
    client.send(DATA, END_STREAM, 1, body);
    client
}

/// A message of gRPC.
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

/// Takes an answer that is a status alone.
#[track_caller]
fn expect_failure(mut client: Frames<Client>, content_type: &str, status: &str) -> Frame {
    let head = client.head().expect("an answer");
    assert_eq!(head.payload[0], 0x88, "the status of HTTP is 200: {head:?}");
    assert!(head.has(END_STREAM), "nothing follows: {head:?}");
    for said in [content_type, "grpc-status", status, "grpc-message"] {
        assert!(head.says(said), "no {said} in {head:?}");
    }
    head
}

fn to(url: &str, more: &str) -> Setup {
    Setup::new().upstream("app", &[url], &format!("http = \"2\"\n{more}"))
}

fn origin(script: impl Fn(Frames<Peer>) + Send + Sync + 'static) -> Origin {
    Origin::start(move |peer| script(Frames::serve(peer, &[])))
}

/// Answers a call by a status alone.
fn fail(peer: &mut Frames<Peer>, stream: u32, status: &str) {
    let others = [("content-type", "application/grpc"), ("grpc-status", status)];
    peer.send(HEADERS, WHOLE, stream, &block(200, &others));
}

/// Answers a call by a message and a status behind it.
fn succeed(peer: &mut Frames<Peer>, stream: u32, message: &[u8]) {
    let head = block(200, &[("content-type", "application/grpc")]);
    peer.send(HEADERS, END_HEADERS, stream, &head);
    peer.send(DATA, 0, stream, message);
    peer.send(HEADERS, WHOLE, stream, &fields(&[("grpc-status", "0")]));
}

#[test]
fn a_fault_is_a_status_of_grpc_and_one_of_http_in_log_and_metrics() {
    let refusal = Refusal::new();
    let proxy = to(&refusal.url(), "").set("log.access", true).start();
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc-web"] {
        let client = call(&proxy, "/a.B/C", content_type, MESSAGE);
        let head = expect_failure(client, content_type, "14");
        assert!(head.says("Bad Gateway: connection_refused"), "{head:?}");
    }
    proxy.wait_for_log(&["status=502", "origin_refused"]);
    assert!(proxy.admin("GET", "/metrics").contains("error=\"connection_refused\"} 3"));
}

#[test]
fn a_client_of_grpc_web_over_http_1_1_gets_it_in_the_head() {
    let refusal = Refusal::new();
    let proxy = to(&refusal.url(), "").start();
    let request = "POST /a.B/C HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\
                   Content-Type: application/grpc-web-text\r\n\r\n";
    let response = proxy.send(request).read_response();
    response.expect_status(200).expect_body("");
    response.expect_field("grpc-status", "14");
    response.expect_field("content-type", "application/grpc-web-text");
}

#[test]
fn what_routes_and_hooks_say_is_said_in_grpc_too() {
    let origin = Origin::untouchable();
    let hooks = "hooks = { error_pages = { 403 = \"page.html\" }, deny = [\"127.0.0.0/8\"], \
                 response_headers = { set = { X-Own = \"1\" } } }";
    let proxy = to(&origin.url(), "")
        .file("page.html", "<h1>no</h1>")
        .route("", "/denied", "app", hooks)
        .start();
    let head = expect_failure(
        call(&proxy, "/denied/a.B/C", "application/grpc", MESSAGE),
        "application/grpc",
        "7",
    );
    assert!(!head.says("<h1>") && head.says("x-own"), "{head:?}");
    expect_failure(call(&proxy, "/nowhere", "application/grpc", MESSAGE), "application/grpc", "12");
    // What is no call of gRPC is answered as ever.
    let mut client = call(&proxy, "/nowhere", "application/json", MESSAGE);
    assert_eq!(client.head().expect("an answer").payload[0], 0x8d);
}

#[test]
fn a_call_has_its_trailers_and_its_timeout_untouched() {
    let origin = origin(|mut peer| {
        while let Some((head, body)) = peer.request() {
            for said in ["grpc-timeout", "5S", "te", "trailers", "application/grpc"] {
                assert!(head.says(said), "no {said} in {head:?}");
            }
            assert_eq!(body, MESSAGE);
            succeed(&mut peer, head.stream, MESSAGE);
        }
    });
    let proxy = to(&origin.url(), "").start();
    let mut client = call(&proxy, "/a.B/C", "application/grpc", MESSAGE);
    assert!(client.head().expect("an answer").says("application/grpc"));
    assert_eq!(client.next_of(DATA).expect("a message").payload, MESSAGE);
    let trailers = client.head().expect("trailers");
    assert!(trailers.says("grpc-status") && trailers.has(END_STREAM), "{trailers:?}");
}

#[test]
fn a_server_may_speak_before_its_client_has() {
    let origin = origin(|mut peer| {
        let head = peer.head().expect("a call");
        let said = block(200, &[("content-type", "application/grpc")]);
        peer.send(HEADERS, END_HEADERS, head.stream, &said);
        peer.send(DATA, 0, head.stream, MESSAGE);
        let message = peer.next_of(DATA).expect("an answer to it");
        peer.send(DATA, 0, head.stream, &message.payload);
        peer.send(HEADERS, WHOLE, head.stream, &fields(&[("grpc-status", "0")]));
        while peer.next().is_some() {}
    });
    let proxy = to(&origin.url(), "").start();
    let mut client = Frames::ask(proxy.connect());
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a.B/C"),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    client.send(HEADERS, END_HEADERS, 1, &fields(&head));
    assert!(client.head().expect("an answer").says("application/grpc"));
    assert_eq!(client.next_of(DATA).expect("a message").payload, MESSAGE);
    client.send(DATA, 0, 1, b"\0\0\0\0\x01x");
    assert_eq!(client.next_of(DATA).expect("another one").payload, b"\0\0\0\0\x01x");
    assert!(client.head().expect("trailers").says("grpc-status"));
}

#[test]
fn a_call_that_breaks_half_way_is_reset() {
    let gate = Gate::default();
    let told = gate.clone();
    let origin = origin(move |mut peer| {
        while let Some((head, _)) = peer.request() {
            let said = block(200, &[("content-type", "application/grpc")]);
            peer.send(HEADERS, END_HEADERS, head.stream, &said);
            peer.send(DATA, 0, head.stream, MESSAGE);
            told.wait();
            peer.reset(head.stream, 2);
        }
    });
    let proxy = to(&origin.url(), "").start();
    let mut client = call(&proxy, "/a.B/C", "application/grpc", MESSAGE);
    client.next_of(DATA).expect("a message");
    gate.open();
    let reset = client.next_of(RST_STREAM).expect("a reset");
    assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 2][..]));
}

#[test]
fn a_status_alone_is_a_reason_to_ask_another_server() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let busy = origin(move |mut peer| {
        while let Some((head, _)) = peer.request() {
            counted.fetch_add(1, Ordering::SeqCst);
            fail(&mut peer, head.stream, if head.says("/busy") { "14" } else { "5" });
        }
    });
    let sound = origin(|mut peer| {
        while let Some((head, body)) = peer.request() {
            assert_eq!(body, MESSAGE);
            succeed(&mut peer, head.stream, MESSAGE);
        }
    });
    let retry = "buffer_requests = \"64KiB\"\n\
                 hooks = { retry = { on = [\"grpc-unavailable\"], attempts = 1 } }";
    let more = "http = \"2\"\nbalance = \"first\"";
    let proxy = Setup::new()
        .upstream("pair", &[&busy.url(), &sound.url()], more)
        .route("", "/", "pair", retry)
        .start();
    let mut client = call(&proxy, "/busy", "application/grpc", MESSAGE);
    assert!(!client.head().expect("an answer").says("grpc-status"));
    assert_eq!(client.next_of(DATA).expect("a message").payload, MESSAGE);
    // Another status is an answer.
    let mut client = call(&proxy, "/missing", "application/grpc", MESSAGE);
    let head = client.head().expect("an answer");
    assert!(head.says("grpc-status") && head.has(END_STREAM), "{head:?}");
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

/// A server that says this of its health when it is asked for `shop.Cart`.
fn with_health(status: Arc<AtomicU8>) -> Origin {
    origin(move |mut peer| {
        while let Some((head, body)) = peer.request() {
            if !head.says("/grpc.health.v1.Health/Check") {
                peer.answer(head.stream, 200, "ok");
                continue;
            }
            assert!(head.says("application/grpc") && head.says("trailers"), "{head:?}");
            match body.as_slice() {
                b"\0\0\0\0\x0b\x0a\x09shop.Cart" => {
                    let status = status.load(Ordering::SeqCst);
                    succeed(&mut peer, head.stream, &[0, 0, 0, 0, 2, 8, status]);
                }
                b"\0\0\0\0\0" => fail(&mut peer, head.stream, "12"),
                other => panic!("an odd question: {other:?}"),
            }
        }
    })
}

#[test]
fn serving_alone_keeps_a_server_in() {
    let status = Arc::new(AtomicU8::new(1));
    let origin = with_health(status.clone());
    let health = "health = { grpc = \"shop.Cart\", interval = \"100ms\", rise = 1, fall = 1 }";
    let proxy = to(&origin.url(), health).start();
    let says = |text: &str| {
        wait_until(text, || proxy.admin("GET", "/upstreams").contains(text));
    };
    wait_until("a check", || origin.seen().connections.len() > 1);
    proxy.get().expect_status(200);
    for (told, text) in [(2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN"), (0, "\"UNKNOWN\"")] {
        status.store(told, Ordering::SeqCst);
        says(text);
    }
    status.store(1, Ordering::SeqCst);
    wait_until("it is back", || !proxy.admin("GET", "/upstreams").contains("\"UNKNOWN\""));
}

#[test]
fn the_whole_server_is_asked_for_by_no_name() {
    let origin = with_health(Arc::new(AtomicU8::new(1)));
    let health = "health = { grpc = \"\", interval = \"100ms\", fall = 1 }";
    let proxy = to(&origin.url(), health).start();
    wait_until("it is out", || proxy.admin("GET", "/upstreams").contains("grpc-status 12"));
}

#[test]
fn a_check_by_grpc_needs_http_2() {
    for (http, cure) in [("1.1", "http = \"2\""), ("auto", "http = \"2\"")] {
        let more = format!("http = \"{http}\"\nhealth = {{ grpc = \"\" }}");
        let output = Setup::new().upstream("app", &["http://127.0.0.1:9"], &more).run();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains("health.grpc") && said.contains(cure), "{said}");
    }
    let more = "http = \"2\"\nhealth = { grpc = \"\", path = \"/x\" }";
    let output = Setup::new().upstream("app", &["http://127.0.0.1:9"], more).run();
    assert!(String::from_utf8_lossy(&output.stderr).contains("leave `path` out"));
}

/// A Python that has grpcio: from an environment that is made once and kept.
static PYTHON: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let packages = ["grpcio", "grpcio-health-checking", "grpcio-reflection"];
    environment("python-grpc", "import grpc, grpc_health, grpc_reflection", &packages)
});

/// A server with a method of each kind, whose messages are bytes.
const SERVER: &str = r#"
import sys, time, threading
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

def unary(request, context):
    if request == b"slow":
        time.sleep(5)
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 %")
    context.set_trailing_metadata((("seen", dict(context.invocation_metadata()).get("own", "")),))
    return request[::-1]

def collect(requests, context):
    return b",".join(requests)

def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()

def chat(requests, context):
    for request in requests:
        yield b"<" + request + b">"

def handler(method):
    kinds = {"Unary": (grpc.unary_unary_rpc_method_handler, unary),
             "Collect": (grpc.stream_unary_rpc_method_handler, collect),
             "Count": (grpc.unary_stream_rpc_method_handler, count),
             "Chat": (grpc.stream_stream_rpc_method_handler, chat)}
    make, act = kinds[method]
    return make(act)

server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
methods = {name: handler(name) for name in ("Unary", "Collect", "Count", "Chat")}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
servicer = health.HealthServicer()
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
servicer.set("test.Echo", health_pb2.HealthCheckResponse.SERVING)
reflection.enable_server_reflection(("test.Echo", reflection.SERVICE_NAME), server)
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"#;

/// Does what it is told by its arguments, and says "done" where all was as it should be.
const CLIENT: &str = r#"
import sys, threading, time
import grpc
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1])
unary = channel.unary_unary("/test.Echo/Unary")
collect = channel.stream_unary("/test.Echo/Collect")
count = channel.unary_stream("/test.Echo/Count")
chat = channel.stream_stream("/test.Echo/Chat")

def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return None, None

def calls():
    answer, call = unary.with_call(b"abc", metadata=(("own", "x"),), timeout=20)
    assert answer == b"cba", answer
    assert ("seen", "x") in [tuple(pair) for pair in call.trailing_metadata()]
    large = b"x" * 3_000_000
    assert unary(large, timeout=20) == large
    assert collect(iter([b"a", b"b", b"c"]), timeout=20) == b"a,b,c"
    assert collect(iter([]), timeout=20) == b""
    assert [int(item) for item in count(b"1000", timeout=20)] == list(range(1000))
    assert list(count(b"0", timeout=20)) == []

def both_ways():
    ready, heard = threading.Semaphore(0), []
    def questions():
        for word in (b"one", b"two", b"three"):
            yield word
            assert ready.acquire(timeout=20)
    for answer in chat(questions(), timeout=20):
        heard.append(answer)
        ready.release()
    assert heard == [b"<one>", b"<two>", b"<three>"], heard

def failures():
    code, details = code_of(lambda: unary(b"fail", timeout=20))
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "no such thing: 100 %"), (code, details)
    code, _ = code_of(lambda: unary(b"slow", timeout=0.3))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
    code, _ = code_of(lambda: channel.unary_unary("/test.Echo/Nothing")(b"", timeout=20))
    assert code == grpc.StatusCode.UNIMPLEMENTED, code

def health():
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service="test.Echo"), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="test.Echo"), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()

def reflection():
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = stub.ServerReflectionInfo(iter([asked]), timeout=20)
    names = [service.name for service in next(answers).list_services_response.service]
    assert "test.Echo" in names, names

def many():
    pending = [unary.future(str(number).encode(), timeout=30) for number in range(300)]
    for number, call in enumerate(pending):
        assert call.result() == str(number).encode()[::-1]

def down():
    code, details = code_of(lambda: unary(b"abc", timeout=20))
    assert code == grpc.StatusCode.UNAVAILABLE, code
    assert details == "Bad Gateway: connection_refused", details

def drain():
    words = iter([b"one", b"two", b"three"])
    go = threading.Event()
    def questions():
        yield next(words)
        go.wait(20)
        for word in words:
            yield word
    answers = chat(questions(), timeout=20)
    assert next(answers) == b"<one>"
    print("streaming", flush=True)
    sys.stdin.readline()
    go.set()
    assert list(answers) == [b"<two>", b"<three>"]

for name in sys.argv[2:]:
    globals()[name]()
print("done", flush=True)
"#;

/// A server of grpcio, and where it is.
struct Server {
    _daemon: Daemon,
    address: SocketAddr,
    home: Home,
}

impl Server {
    fn start() -> Option<Self> {
        let python = PYTHON.as_deref()?;
        let (home, address) = (Home::new(), free_address());
        home.write("server.py", SERVER);
        home.write("client.py", CLIENT);
        let mut command = Command::new(python);
        command.args(["server.py", &address.port().to_string()]).current_dir(home.path());
        Some(Self { _daemon: Daemon::at(address, command), address, home })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn client(&self, proxy: &Proxy, what: &[&str]) -> Command {
        let mut command = Command::new(PYTHON.as_deref().expect("there is a server"));
        command.args(["client.py", &proxy.address().port().to_string()]).args(what);
        command.current_dir(self.home.path()).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn expect(&self, proxy: &Proxy, what: &[&str]) {
        let output = self.client(proxy, what).output().expect("a client");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.ends_with("done\n"), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn grpcio_calls_in_every_way() {
    let Some(server) = Server::start() else { return };
    let proxy = to(&server.url(), "").start();
    for what in ["calls", "both_ways", "failures", "health", "reflection", "many"] {
        server.expect(&proxy, &[what]);
    }
}

#[test]
fn grpcio_servers_are_checked() {
    let Some(server) = Server::start() else { return };
    let health = |service: &str| {
        format!("health = {{ grpc = \"{service}\", interval = \"100ms\", fall = 1 }}")
    };
    for service in ["", "test.Echo"] {
        let proxy = to(&server.url(), &health(service)).start();
        server.expect(&proxy, &["calls"]);
        assert!(!proxy.admin("GET", "/upstreams").contains("SERVICE_UNKNOWN"));
    }
    let proxy = to(&server.url(), &health("no.Such")).start();
    wait_until("it is out", || proxy.admin("GET", "/upstreams").contains("grpc-status 5"));
}

#[test]
fn grpcio_understands_our_faults() {
    let Some(server) = Server::start() else { return };
    let refusal = Refusal::new();
    let proxy = to(&refusal.url(), "").start();
    server.expect(&proxy, &["down"]);
}

#[test]
fn a_stream_of_grpcio_goes_on_through_a_drain() {
    use std::io::{BufRead, BufReader, Read, Write};
    let Some(server) = Server::start() else { return };
    let mut proxy = to(&server.url(), "").start();
    let mut command = server.client(&proxy, &["drain"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().expect("a client");
    let mut said = BufReader::new(client.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    assert_eq!(line, "streaming\n");
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    proxy.wait_for_log(&["stopping: no new connections"]);
    writeln!(client.stdin.take().expect("piped"), "go").expect("it listens");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("its end");
    let mut problem = String::new();
    client.stderr.take().expect("piped").read_to_string(&mut problem).expect("its end");
    let _ = client.wait();
    assert!(rest.ends_with("done\n"), "{problem}");
    proxy.expect_orderly_end();
}
