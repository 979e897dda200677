//! Traces: what of them a client is believed, what its origin is told, and what a receiver gets.
//!
//! Comes in: requests with fields of every kind, by HTTP/1 and HTTP/2. Goes out: what scripted
//! origins received, and what a receiver of OTLP did, decoded by the official definitions.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

use crate::support::python::environment;
use crate::support::{OK, Origin, Proxy, Setup, Target, free_address, is_of_http1, wait_until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{SPAN}-{flags}\r\n")
}

fn get(lines: &str) -> String {
    format!("GET /a?secret=1 HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

/// Trace, span and flags of the only traceparent that the origin has got last.
#[track_caller]
fn told(origin: &Origin) -> (String, String, String) {
    let request = origin.seen().requests.last().expect("a request").clone();
    let values = request.all("traceparent");
    let [value] = values.as_slice() else { panic!("{values:?}") };
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { panic!("{value}") };
    assert_eq!((version, trace.len(), span.len(), flags.len()), ("00", 32, 16, 2), "{value}");
    (trace.to_owned(), span.to_owned(), flags.to_owned())
}

fn traced(origin: &Origin, trust: &str) -> Setup {
    Setup::to(origin).set("tracing.enabled", true).set("tracing.trust", trust)
}

#[test]
fn without_tracing_the_fields_are_the_clients() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).start();
    proxy.send(get("TraceParent: anything\r\ntracestate: a\r\n")).expect_status(200);
    let request = origin.only_request();
    assert_eq!(request.all("traceparent"), ["anything"]);
    assert_eq!(request.all("tracestate"), ["a"]);
}

#[test]
fn a_believed_trace_goes_on_with_a_span_of_ours() {
    let origin = Origin::answering(OK);
    let proxy = traced(&origin, "everybody").start();
    let mut client = proxy.connect();
    let mut spans = vec![SPAN.to_owned()];
    // The same head again and again: no span comes twice.
    for flags in ["01", "01", "00", "01"] {
        let lines = format!("{}tracestate: a=1,b@c=2\r\ntracestate: d=3\r\n", parent(flags));
        client.send(get(&lines)).read_response().expect_status(200);
        let (trace, span, sampled) = told(&origin);
        assert_eq!((trace.as_str(), sampled.as_str()), (TRACE, flags));
        assert!(!spans.contains(&span), "{span}");
        spans.push(span);
        let request = origin.seen().requests.last().expect("a request").clone();
        assert_eq!(request.all("tracestate"), ["a=1,b@c=2", "d=3"]);
    }
}

/// It got the client's, whether that was believed or not.
#[test]
fn a_mirror_is_told_the_trace_of_the_exchange() {
    let (origin, shadow) = (Origin::answering(OK), Origin::answering(OK));
    for (trust, flags) in [("nobody", "01"), ("everybody", "01"), ("everybody", "00")] {
        let setup = traced(&origin, trust).upstream("shadow", &[&shadow.url()], "");
        let hooks = "hooks = { mirror = { upstream = \"shadow\" } }";
        let proxy = setup.set("tracing.sample", 0.0).route("", "/", "origin", hooks).start();
        let copies = shadow.seen().requests.len();
        let lines = format!("{}tracestate: a=1\r\n", parent(flags));
        proxy.send(get(&lines)).expect_status(200);
        shadow.wait_for("the copy", |seen| seen.requests.len() > copies);
        let (trace, span, sampled) = told(&shadow);
        let (origins_trace, origins_span, origins_sampled) = told(&origin);
        assert_eq!((&trace, &sampled), (&origins_trace, &origins_sampled));
        assert!(span != SPAN && span != origins_span, "{span}");
        let is_believed = trust == "everybody";
        assert_eq!((trace == TRACE, sampled == "01"), (is_believed, is_believed && flags == "01"));
        let copy = shadow.seen().requests.last().expect("the copy").clone();
        assert_eq!(copy.all("tracestate"), if is_believed { vec!["a=1"] } else { vec![] });
    }
}

#[test]
fn a_strangers_trace_is_replaced_and_a_trusted_proxys_is_not() {
    let origin = Origin::answering(OK);
    let proxy = traced(&origin, "trusted").set("tracing.sample", 0.0).start();
    proxy.send(get(&format!("{}tracestate: a=1\r\n", parent("01")))).expect_status(200);
    let (trace, _, flags) = told(&origin);
    assert_ne!(trace, TRACE);
    assert_eq!(flags, "00", "not sampled because a stranger says so");
    let request = origin.seen().requests.last().expect("a request").clone();
    assert!(request.all("tracestate").is_empty());

    let trusting = traced(&origin, "trusted").set("server.trusted_proxies", ["127.0.0.0/8"]);
    trusting.start().send(get(&parent("01"))).expect_status(200);
    let (trace, _, flags) = told(&origin);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
}

#[test]
fn what_is_no_trace_is_never_passed_on() {
    let origin = Origin::answering(OK);
    let proxy = traced(&origin, "everybody").start();
    let mut client = proxy.connect();
    for lines in [
        "traceparent: \r\n".to_owned(),
        "traceparent: 00-x\r\n".to_owned(),
        format!("traceparent: 00-{TRACE}-{SPAN}-01-\r\n"),
        format!("traceparent: ff-{TRACE}-{SPAN}-01\r\n"),
        format!("traceparent: 00-{}-{SPAN}-01\r\n", "0".repeat(32)),
        format!("traceparent: 00-{TRACE}-{}-01\r\n", "0".repeat(16)),
        format!("traceparent: 00-{}-{SPAN}-01\r\n", TRACE.to_uppercase()),
        format!("{}{}", parent("01"), parent("01")),
        format!("traceparent: {}\r\n", "0".repeat(5000)),
        "tracestate: a=1\r\n".to_owned(),
    ] {
        client.send(get(&lines)).read_response().expect_status(200);
        let (trace, _, _) = told(&origin);
        assert_ne!(trace, TRACE, "{lines}");
        let request = origin.seen().requests.last().expect("a request").clone();
        assert!(request.all("tracestate").is_empty(), "{lines}");
    }
    // A trace that is good, with a state that is not.
    for state in ["A=1", "a", "a=b=c", &"a=1,".repeat(33), &format!("a={}", "x".repeat(300))] {
        let lines = format!("{}tracestate: {state}\r\n", parent("01"));
        client.send(get(&lines)).read_response().expect_status(200);
        assert_eq!(told(&origin).0, TRACE);
        let request = origin.seen().requests.last().expect("a request").clone();
        assert!(request.all("tracestate").is_empty(), "{state}");
    }
}

#[test]
fn the_access_log_names_the_trace() {
    let origin = Origin::answering(OK);
    let proxy = traced(&origin, "everybody")
        .set("log.access", true)
        .set("log.access_format", "{trace_id} {span_id} {status}")
        .set("log.access_file", "access.log")
        .start();
    proxy.send(get(&parent("00"))).expect_status(200);
    let path = proxy.home().join("access.log");
    let text = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("a line", || text().ends_with('\n'));
    let line = text();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[0], words[2]), (TRACE, "200"), "{line}");
    assert!(words[1].len() == 16 && words[1] != SPAN, "{line}");
}

/// A Python that has the official definitions: from an environment that is made once and kept.
static PYTHON: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let packages = ["opentelemetry-proto"];
    environment(
        "python-otlp",
        "import opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        &packages,
    )
});

/// Decodes what comes in, strictly: a field that the definitions do not have is an error.
const DECODER: &str = r#"
import sys, json
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
kind = {"traces": ExportTraceServiceRequest, "metrics": ExportMetricsServiceRequest}[sys.argv[1]]
body = sys.stdin.buffer.read()
message = kind.FromString(body)
known = kind.FromString(body)
known.DiscardUnknownFields()
assert known.SerializeToString() == message.SerializeToString(), "unknown fields"
print(json.dumps(MessageToDict(message)))
"#;

/// What the definitions make of a body; `None` where there are none to be had.
fn decoded(kind: &str, body: &[u8]) -> Option<Value> {
    let python = PYTHON.as_ref()?;
    let mut decoder = Command::new(python)
        .args(["-c", DECODER, kind])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a Python");
    decoder.stdin.take().expect("a pipe").write_all(body).expect("it reads");
    let output = decoder.wait_with_output().expect("an end");
    assert!(output.status.success(), "{kind}");
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// A proxy whose spans the second origin gets.
fn exported(setup: Setup, receiver: &Origin) -> Proxy {
    setup
        .set("tracing.endpoint", format!("{}/otlp", receiver.url()))
        .set("tracing.authorization", "Bearer abc")
        .set("tracing.service_name", "edge")
        .start()
}

/// The spans of all that the receiver has got, once there are so many requests.
fn spans(receiver: &Origin, is_enough: impl Fn(usize) -> bool) -> Option<Vec<Value>> {
    receiver.wait_for("spans", |seen| is_enough(seen.requests.len()));
    let requests = receiver.seen().requests.clone();
    let mut all = Vec::new();
    for request in &requests {
        assert_eq!((request.method(), request.target()), ("POST", "/otlp/v1/traces"));
        request.expect_field("content-type", "application/x-protobuf");
        request.expect_field("authorization", "Bearer abc");
        let message = decoded("traces", &request.body)?;
        let resource = &message["resourceSpans"][0];
        let name = &resource["resource"]["attributes"][0];
        assert_eq!(
            (&name["key"], &name["value"]["stringValue"]),
            (&"service.name".into(), &"edge".into())
        );
        let spans = resource["scopeSpans"][0]["spans"].as_array().expect("spans");
        all.extend(spans.iter().cloned());
    }
    Some(all)
}

fn attribute<'v>(span: &'v Value, name: &str) -> &'v Value {
    let all = span["attributes"].as_array().expect("attributes");
    let found = all.iter().find(|pair| pair["key"] == name);
    found.map_or(&Value::Null, |pair| {
        pair["value"].as_object().and_then(|it| it.values().next()).unwrap_or(&Value::Null)
    })
}

/// As JSON has bytes.
fn base64(hexadecimal: &str) -> String {
    use ::base64::Engine as _;
    let bytes: Vec<u8> = (0..hexadecimal.len() / 2)
        .map(|at| u8::from_str_radix(&hexadecimal[2 * at..2 * at + 2], 16).expect("digits"))
        .collect();
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn an_exchange_is_a_span_with_its_phases_below_it_as_the_definitions_read_them() {
    let (origin, receiver) = (Origin::answering(OK), Origin::answering(OK));
    let proxy = exported(traced(&origin, "everybody"), &receiver);
    proxy.send(get(&parent("01"))).expect_status(200);
    let (_, sent, _) = told(&origin);
    let Some(spans) = spans(&receiver, |requests| requests == 1) else { return };
    let of_kind = |kind: &str| -> Vec<&Value> {
        spans.iter().filter(|span| span["kind"] == format!("SPAN_KIND_{kind}")).collect()
    };
    let server = of_kind("SERVER")[0];
    assert_eq!(server["traceId"], base64(TRACE));
    assert_eq!(server["parentSpanId"], base64(SPAN));
    assert_eq!(server["name"], "GET */");
    assert_eq!(attribute(server, "http.request.method"), "GET");
    assert_eq!(attribute(server, "url.path"), "/a");
    assert_eq!(attribute(server, "http.route"), "*/");
    assert_eq!(attribute(server, "http.response.status_code"), "200");
    assert_eq!(attribute(server, "ringway.upstream"), "origin");
    assert_eq!(attribute(server, "client.address"), "127.0.0.1");
    assert!(!spans.iter().any(|span| span.to_string().contains("secret")));
    let client = of_kind("CLIENT")[0];
    assert_eq!(client["spanId"], base64(&sent), "the origin's parent");
    assert_eq!(client["parentSpanId"], server["spanId"]);
    assert_eq!(attribute(client, "network.peer.address"), &*origin.address().to_string());
    assert_eq!(client["events"][0]["name"], "answer begins");
    let phases: Vec<_> = of_kind("INTERNAL").iter().map(|it| it["name"].clone()).collect();
    assert!(phases.contains(&"connect".into()), "{phases:?}");
    let time = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    for span in &spans {
        let (began, ended) = (time(span, "startTimeUnixNano"), time(span, "endTimeUnixNano"));
        assert!(began <= ended && began >= time(server, "startTimeUnixNano"), "{span}");
        assert!(ended <= time(server, "endTimeUnixNano") + 1_000_000, "{span}");
    }
}

#[test]
fn a_retry_is_a_span_of_its_own_and_one_that_is_not_sampled_is_none() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let is_first = request.target() == "/first";
            peer.send(if is_first {
                "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            });
        }
    });
    let receiver = Origin::answering(OK);
    let hooks = "hooks = { retry = { on = [\"503\"], attempts = 2 } }";
    let setup = traced(&origin, "everybody").route("", "/", "origin", hooks);
    let proxy = exported(setup, &receiver);
    let mut client = proxy.connect();
    client.send(get(&parent("00"))).read_response().expect_status(200);
    let first = format!("GET /first HTTP/1.1\r\nHost: test\r\n{}\r\n", parent("01"));
    client.send(first).read_response().expect_status(503);
    let Some(spans) = spans(&receiver, |requests| requests == 1) else { return };
    let clients: Vec<_> = spans.iter().filter(|it| it["kind"] == "SPAN_KIND_CLIENT").collect();
    assert!(clients.len() >= 2, "{spans:#?}");
    assert_ne!(clients[0]["spanId"], clients[1]["spanId"]);
    assert!(clients.iter().all(|span| span["status"]["code"] == "STATUS_CODE_ERROR"));
    let servers: Vec<_> = spans.iter().filter(|it| it["kind"] == "SPAN_KIND_SERVER").collect();
    assert_eq!(servers.len(), 1, "{servers:#?}");
    assert_eq!(attribute(servers[0], "http.response.status_code"), "503");
}

#[test]
fn spans_that_wait_are_sent_before_the_end() {
    let (origin, receiver) = (Origin::answering(OK), Origin::answering(OK));
    let proxy = exported(traced(&origin, "nobody"), &receiver);
    proxy.send(get("")).expect_status(200);
    proxy.stop();
    assert_eq!(receiver.seen().requests.len(), 1);
}

#[test]
fn a_receiver_that_takes_nothing_costs_spans_and_no_request() {
    let (origin, receiver) = (Origin::answering(OK), Origin::silent());
    let setup = traced(&origin, "nobody").set("tracing.queue", 2);
    let proxy = exported(setup.set("admin.address", "127.0.0.1:0"), &receiver);
    let mut client = proxy.connect();
    // The first ones are being sent, to somebody who does not answer.
    client.send(get("")).read_response().expect_status(200);
    receiver.wait_for("the first spans", |seen| !seen.bytes().is_empty());
    for _ in 0..20 {
        client.send(get("")).read_response().expect_status(200);
    }
    let line = proxy.wait_for_log(&["admin API", "address="]);
    let address = line.rsplit("address=").next().unwrap().trim().trim_matches('"').to_owned();
    let text = {
        use std::io::Read;
        let mut socket = std::net::TcpStream::connect(address).expect("the admin API");
        let get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        socket.write_all(get).expect("it reads");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("text");
        text
    };
    let dropped = text
        .lines()
        .find_map(|line| line.strip_prefix("ringway_spans_dropped_total "))
        .expect("the family")
        .parse::<u64>()
        .unwrap();
    assert!(dropped > 0, "{text}");
}

#[test]
fn metrics_are_sent_as_the_definitions_read_them() {
    let (origin, receiver) = (Origin::answering(OK), Origin::answering(OK));
    let setup = Setup::to(&origin).set("tracing.metrics_interval", "200ms");
    let proxy = exported(setup, &receiver);
    proxy.send(get("")).expect_status(200);
    let seen = receiver.seen().requests.len();
    receiver.wait_for("metrics", |now| now.requests.len() >= seen + 2);
    let request = receiver.seen().requests.last().expect("a request").clone();
    assert_eq!(request.target(), "/otlp/v1/metrics");
    let Some(message) = decoded("metrics", &request.body) else { return };
    let metrics = &message["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
    let metrics = metrics.as_array().expect("metrics");
    let named = |name: &str| {
        metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    let requests = &named("ringway_requests_total")["sum"];
    assert_eq!(requests["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
    assert_eq!(requests["isMonotonic"], true);
    let points = requests["dataPoints"].as_array().expect("points");
    assert!(points.iter().any(|point| point["asDouble"] == 1.0), "{points:#?}");
    assert_eq!(named("ringway_ready")["gauge"]["dataPoints"][0]["asDouble"], 1.0);
    let histogram = metrics.iter().find(|metric| metric["histogram"].is_object());
    let point = &histogram.expect("a histogram")["histogram"]["dataPoints"][0];
    let (counts, bounds) = (&point["bucketCounts"], &point["explicitBounds"]);
    let length = |list: &Value| list.as_array().expect("a list").len();
    assert_eq!(length(counts), length(bounds) + 1, "{point:#?}");
}

#[test]
fn a_tunnel_by_socks_is_a_span_like_one_by_connect() {
    if is_of_http1("SOCKS") {
        return;
    }
    let receiver = Origin::answering(OK);
    let target = Target::new();
    let setup = Setup::forward()
        .listen(&["127.0.0.2:0"])
        .set("forward.socks_listeners", ["127.0.0.2:0"])
        .set("tracing.enabled", true);
    let proxy = exported(setup, &receiver);
    let mut client = crate::support::Client::connect(proxy.addresses()[1]);
    let port = target.address().port().to_be_bytes();
    client.send([&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1][..], &port].concat());
    client.expect_stream(&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut far = target.accept();
    client.send("to the target");
    far.expect_stream(b"to the target");
    client.half_close();
    far.half_close();
    let Some(spans) = spans(&receiver, |requests| requests == 1) else { return };
    let servers: Vec<_> = spans.iter().filter(|it| it["kind"] == "SPAN_KIND_SERVER").collect();
    assert_eq!(servers.len(), 1, "{spans:#?}");
    assert_eq!(servers[0]["name"], "CONNECT");
    assert_eq!(attribute(servers[0], "server.address"), &*target.address().to_string());
}

/// A collector of OpenTelemetry's protocol that is not ours: rotel, from the Python index.
static COLLECTOR: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let python = environment("python-rotel", "import rotel", &["rotel"])?;
    let script = "import rotel, os; print(os.path.dirname(rotel.__file__))";
    let output = Command::new(python).args(["-c", script]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    Some(folder.join("rotel-agent")).filter(|program| program.is_file())
});

struct Collector(std::process::Child);

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_collector_takes_spans_and_metrics() {
    let Some(program) = &*COLLECTOR else { return };
    let origin = Origin::answering(OK);
    let address = free_address().to_string();
    let setup = traced(&origin, "nobody").set("tracing.endpoint", format!("http://{address}"));
    let proxy = setup.set("tracing.metrics_interval", "1s").start();
    let said = proxy.home().join("collector.log");
    let file = fs::File::create(&said).expect("a file");
    let words = ["--exporter", "blackhole", "--debug-log-verbosity", "detailed"];
    let child = Command::new(program)
        .args(["start", "--otlp-http-endpoint", &address, "--otlp-grpc-endpoint", "127.0.0.1:0"])
        .args(["--debug-log", "traces", "--debug-log", "metrics"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .spawn()
        .expect("a collector");
    let _collector = Collector(child);
    wait_until("it listens", || std::net::TcpStream::connect(&address).is_ok());
    proxy.send(get("")).expect_status(200);
    let text = || fs::read_to_string(&said).unwrap_or_default();
    for expected in
        ["http.response.status_code: Int(200)", "Name: ringway_requests_total", "GET */"]
    {
        wait_until(expected, || text().contains(expected));
    }
    let log = proxy.log_lines().join("\n");
    assert!(!log.contains("did not take"), "{log}");
}
