//! The demo origin: something to proxy to before there is an application.
//!
//! In: nothing but a loopback port that the system chooses. Out: an HTTP server on its own
//! thread, each of whose paths exercises one property of a proxy: sizes, delays, chunks, echoes,
//! statuses, events. Bodies are produced as they are read and never held whole. It listens on
//! loopback only and reads nothing from the disk.

use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get};
use axum::serve::ListenerExt;
use bytes::Bytes;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::time::sleep;

/// `/bytes/N` goes this far, so that a slip of the finger does not run for a year.
const BYTES_MAX: u64 = 10 << 30;

const CHUNK_COUNT_MAX: u64 = 1_000_000;

const DELAY_MAX: Duration = Duration::from_secs(600);

const EVENT_COUNT: u64 = 20;

const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// What `/bytes/N` repeats. Its length shares no factor with any buffer's, so a piece that is
/// lost or doubled on the way shifts every byte behind it.
const PATTERN: &[u8; 61] = b"0123456789 abcdefghijklmnopqrstuvwxyz ringway demo originals\n";

/// Large enough that producing a body is not what a benchmark measures.
const PIECE_BYTES: usize = 256 * 1024;

/// Room for a piece at every phase of the pattern: the pieces are slices of it.
static BLOCK: LazyLock<Bytes> =
    LazyLock::new(|| PATTERN.iter().copied().cycle().take(PIECE_BYTES + PATTERN.len()).collect());

const ECHO_METHOD: HeaderName = HeaderName::from_static("x-echo-method");
const ECHO_TARGET: HeaderName = HeaderName::from_static("x-echo-target");

const PAGE: &str = "\
<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>ringway</title>
<h1>ringway is running</h1>
<p>This page comes from the built-in demo origin, through the proxy. To send requests to your own
server, start <code>ringway --upstream http://HOST:PORT</code> or edit <code>config.toml</code>.
<p>The demo origin also answers:
<ul>
<li><a href=\"/bytes/1048576\">/bytes/N</a>: N bytes with a Content-Length
<li><a href=\"/chunked/10\">/chunked/N</a>: N chunks without one
<li><a href=\"/delay/500\">/delay/MS</a>: an answer after MS milliseconds
<li><a href=\"/status/418\">/status/CODE</a>: that status
<li><a href=\"/sse\">/sse</a>: 20 server-sent events, one every 100 ms
<li><a href=\"/echo\">/echo</a>: the request as the origin received it, or its body sent back
</ul>
</html>
";

/// Starts the demo origin and returns its address. It runs until the process ends.
pub(crate) fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("demo-origin".to_owned()).spawn(move || {
        if let Err(error) = runtime.block_on(serve(listener)) {
            tracing::error!(%error, "the demo origin has ended");
        }
    })?;
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    // An event must not wait for the acknowledgement of the one before it. A socket that refuses
    // the option is slower and nothing else.
    let listener = TcpListener::from_std(listener)?.tap_io(|socket| {
        let _ = socket.set_nodelay(true);
    });
    let paths = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/bytes/{count}", get(bytes))
        .route("/chunked/{count}", get(chunked))
        .route("/delay/{milliseconds}", get(delay))
        .route("/status/{code}", any(status))
        .route("/sse", get(events))
        .route("/echo", any(echo))
        .fallback(|| async { (StatusCode::NOT_FOUND, "The demo origin has no such path.\n") });
    axum::serve(listener, paths).await
}

async fn bytes(Path(count): Path<u64>) -> Response {
    if count > BYTES_MAX {
        return refuse(&format!("at most {BYTES_MAX} bytes"));
    }
    let pieces = stream::iter((0..count).step_by(PIECE_BYTES).map(move |sent| {
        let start = (sent % PATTERN.len() as u64) as usize;
        let length = (count - sent).min(PIECE_BYTES as u64) as usize;
        Ok::<_, io::Error>(BLOCK.slice(start..start + length))
    }));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_LENGTH, HeaderValue::from(count)),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

async fn chunked(Path(count): Path<u64>) -> Response {
    if count > CHUNK_COUNT_MAX {
        return refuse(&format!("at most {CHUNK_COUNT_MAX} chunks"));
    }
    let chunks = stream::iter(
        (1..=count).map(move |index| Ok::<_, io::Error>(format!("chunk {index} of {count}\n"))),
    );
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(chunks)).into_response()
}

async fn delay(Path(milliseconds): Path<u64>) -> Response {
    let pause = Duration::from_millis(milliseconds);
    if pause > DELAY_MAX {
        return refuse(&format!("at most {} ms", DELAY_MAX.as_millis()));
    }
    sleep(pause).await;
    format!("waited {milliseconds} ms\n").into_response()
}

async fn status(Path(code): Path<u16>) -> Response {
    // A 1xx is no final answer, and the server would not know what to send after it.
    match StatusCode::from_u16(code).ok().filter(|_| (200..=599).contains(&code)) {
        Some(status @ (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)) => {
            status.into_response()
        }
        Some(status) => (status, format!("{status}\n")).into_response(),
        None => refuse("a status from 200 to 599"),
    }
}

async fn events() -> Response {
    let events = stream::unfold(0, |index| async move {
        if index == EVENT_COUNT {
            return None;
        }
        if index > 0 {
            sleep(EVENT_INTERVAL).await;
        }
        let event = format!("id: {index}\ndata: event {index} of {EVENT_COUNT}\n\n");
        Some((Ok::<_, io::Error>(event), index + 1))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}

/// GET shows the head as it arrived; any other method gets its body back while it still sends.
async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    if matches!(head.method, Method::GET | Method::HEAD) {
        let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name}: {value}");
        }
        return text.into_response();
    }
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for name in [CONTENT_TYPE, CONTENT_LENGTH] {
        if let Some(value) = head.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    for (name, text) in [(ECHO_METHOD, head.method.as_str()), (ECHO_TARGET, &head.uri.to_string())]
    {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    response
}

fn refuse(expected: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("expected {expected}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    /// The head and the body of the answer to one request, which asks to close.
    fn ask(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let body = answer.split_off(end);
        (String::from_utf8(answer).unwrap(), body)
    }

    fn get(address: SocketAddr, path: &str) -> (String, Vec<u8>) {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"))
    }

    #[test]
    fn every_path_answers_as_the_page_says() {
        let address = start().unwrap();
        assert!(address.ip().is_loopback());
        let table = [
            ("/", "HTTP/1.1 200 OK", "ringway is running"),
            ("/nothing", "HTTP/1.1 404 Not Found", "no such path"),
            ("/status/418", "HTTP/1.1 418 I'm a teapot", "418 I'm a teapot\n"),
            ("/status/204", "HTTP/1.1 204 No Content", ""),
            ("/status/100", "HTTP/1.1 400 Bad Request", "from 200 to 599"),
            ("/status/600", "HTTP/1.1 400 Bad Request", "from 200 to 599"),
            ("/status/x", "HTTP/1.1 400 Bad Request", ""),
            ("/delay/600001", "HTTP/1.1 400 Bad Request", "at most 600000 ms"),
            ("/bytes/10737418241", "HTTP/1.1 400 Bad Request", "at most 10737418240 bytes"),
            ("/chunked/2", "transfer-encoding: chunked", "D\r\nchunk 1 of 2\n\r\n"),
            ("/chunked/0", "transfer-encoding: chunked", "0\r\n\r\n"),
            ("/echo?a=b", "HTTP/1.1 200 OK", "GET /echo?a=b HTTP/1.1\nhost: demo\n"),
        ];
        for (path, in_head, in_body) in table {
            let (head, body) = get(address, path);
            let body = String::from_utf8(body).unwrap();
            assert!(head.contains(in_head), "{path}: {head}");
            assert!(body.contains(in_body), "{path}: {body}");
        }
    }

    #[test]
    fn bytes_are_counted_and_repeat_the_pattern() {
        let address = start().unwrap();
        for count in [0, 1, 61, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 12_345] {
            let (head, body) = get(address, &format!("/bytes/{count}"));
            assert!(head.contains(&format!("content-length: {count}\r\n")), "{head}");
            assert!(!head.contains("transfer-encoding"), "{head}");
            assert_eq!(body.len(), count);
            assert!(body.iter().eq(PATTERN.iter().cycle().take(count)), "{count}");
        }
    }

    #[test]
    fn ten_gibibytes_are_announced_without_being_held() {
        let address = start().unwrap();
        let path = format!("/bytes/{BYTES_MAX}");
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
        let (head, body) = ask(address, &request);
        assert!(head.contains("content-length: 10737418240\r\n"), "{head}");
        assert!(body.is_empty());
    }

    #[test]
    fn echo_sends_a_body_back_with_its_type() {
        let address = start().unwrap();
        let request = "PUT /echo?q HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\
                       Content-Type: a/b\r\nContent-Length: 5\r\n\r\nhello";
        let (head, body) = ask(address, request);
        for line in ["type: a/b", "length: 5", "method: PUT", "target: /echo?q"] {
            assert!(head.contains(&format!("{line}\r\n")), "{head}");
        }
        assert_eq!(body, b"hello");
        let request = "POST /echo HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\
                       Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let (head, body) = ask(address, request);
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(body, b"5\r\nhello\r\n0\r\n\r\n");
    }

    #[test]
    fn delays_and_events_take_their_time() {
        let address = start().unwrap();
        let began = Instant::now();
        assert_eq!(get(address, "/delay/50").1, b"waited 50 ms\n");
        assert!(began.elapsed() >= Duration::from_millis(50));
        let began = Instant::now();
        let (head, body) = get(address, "/sse");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        assert_eq!(String::from_utf8(body).unwrap().matches("data: event ").count(), 20);
        assert!(began.elapsed() >= EVENT_INTERVAL * 19);
    }
}
