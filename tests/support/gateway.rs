//! Has a scripted client of HTTP/1.1 speak HTTP/2, for suites that run over both.
//!
//! Comes in: the text that a test writes, on one end of a pair of sockets. Goes out: the same
//! requests as streams of one connection to the proxy, one after another, and their answers as
//! text. Windows open for what the test has taken. A stream that is given up is a connection that
//! ends; what HTTP/2 cannot say (two requests at once, a head that is none) ends it too. The name
//! of the suite's crate decides: no test is written twice.

use super::h2::{
    ACK, CANCEL, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NO_ERROR, PING, PREFACE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, rst_stream, settings, window_update,
};
use super::h2_fields::{block, fields};
use super::message::Message;
use memchr::memmem;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Whether the clients of this suite speak HTTP/2 to listeners without TLS.
pub(crate) fn speaks_http2() -> bool {
    env!("CARGO_CRATE_NAME") == "over_http2"
}

/// Whether a test is to be left out, because HTTP/2 has nothing such: `why` says what that is.
pub(crate) fn is_of_http1(why: &str) -> bool {
    if speaks_http2() {
        eprintln!("left out over HTTP/2: {why}");
    }
    speaks_http2()
}

/// Who has ended its direction before an answer has gone, if this much has passed.
const GONE_AFTER: Duration = Duration::from_millis(300);

/// A kernel that takes in no more was told so.
const SMALL_BYTES: usize = 64 * 1024;

/// What the test's end of the pair is given to in exchange.
#[track_caller]
pub(crate) fn over_http2(proxy: TcpStream) -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let theirs = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // A client whose kernel takes in little is none behind one that takes in megabytes.
    let room = SockRef::from(&proxy).recv_buffer_size().unwrap_or(usize::MAX);
    let is_small = room <= SMALL_BYTES;
    if is_small {
        theirs.set_recv_buffer_size(room / 2).expect("a smaller buffer");
    }
    theirs.connect(&listener.local_addr().expect("bound").into()).expect("a connection");
    let theirs = TcpStream::from(theirs);
    let (ours, _) = listener.accept().expect("the connection");
    if is_small {
        SockRef::from(&ours).set_send_buffer_size(room / 2).expect("a smaller buffer");
    }
    let _ = ours.set_nodelay(true);
    let _ = proxy.set_nodelay(true);
    let (up, down) = (proxy.try_clone().expect("a handle"), proxy);
    let (from, to) = (ours.try_clone().expect("a handle"), ours);
    let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
    let others = Arc::clone(&shared);
    let upward = Upward { wire: up, from, text: Vec::new(), shared };
    let downward = Downward { wire: down, to, shared: others };
    thread::spawn(move || upward.run());
    thread::spawn(move || downward.run());
    theirs
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct State {
    connection_window: i64,
    stream_window: i64,
    initial_window: i64,
    stream: u32,
    is_head: bool,
    is_tunnel: bool,
    /// The answer has come to its end.
    is_answered: bool,
    /// The final head has come, and was no tunnel's.
    is_begun: bool,
    is_over: bool,
    /// What the test's end sees is a reset.
    is_broken: bool,
    /// Of a tunnel: which directions have ended.
    have_we_ended: bool,
    have_they_ended: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            connection_window: 65_535,
            stream_window: 0,
            initial_window: 65_535,
            stream: 0,
            is_head: false,
            is_tunnel: false,
            is_answered: true,
            is_begun: false,
            is_over: false,
            is_broken: false,
            have_we_ended: false,
            have_they_ended: false,
        }
    }
}

type Shared = Arc<(Mutex<State>, Condvar)>;

fn with<T>(shared: &Shared, act: impl FnOnce(&mut State) -> T) -> T {
    let result = act(&mut shared.0.lock().unwrap());
    shared.1.notify_all();
    result
}

/// Waits until `is_true`, or until there is nothing to wait for.
fn wait(shared: &Shared, is_true: impl Fn(&State) -> bool) -> bool {
    let state = shared.0.lock().unwrap();
    let waiting = |state: &mut State| !state.is_over && !is_true(state);
    !shared.1.wait_while(state, waiting).unwrap().is_over
}

/// From the test to the proxy.
struct Upward {
    wire: TcpStream,
    from: TcpStream,
    text: Vec<u8>,
    shared: Shared,
}

impl Upward {
    fn run(mut self) {
        let begun = self.send(&[PREFACE, &settings(&[])].concat());
        if begun.is_some() {
            while self.exchange().is_some() {}
        }
        // The test has said its last: what is under way is still answered.
        wait(&self.shared, |state| state.is_answered);
        with(&self.shared, |state| state.is_over = true);
        let _ = self.wire.shutdown(Shutdown::Both);
        if !with(&self.shared, |state| state.is_broken) {
            // What is not read would turn the end into a reset.
            let _ = self.from.shutdown(Shutdown::Write);
            let _ = io::copy(&mut self.from, &mut io::sink());
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.wire.write_all(bytes).ok()
    }

    /// More of the text; nothing: it has ended.
    fn more(&mut self) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        match self.from.read(&mut piece) {
            Ok(count @ 1..) => self.text.extend_from_slice(&piece[..count]),
            Ok(0) => {
                self.give_up(false);
                return None;
            }
            Err(_) => {
                self.give_up(true);
                return None;
            }
        }
        Some(())
    }

    /// The test has gone, and with it what it has asked for: only in a tunnel can a direction end
    /// alone.
    fn give_up(&mut self, is_reset: bool) {
        let (id, is_answered, is_tunnel) =
            with(&self.shared, |state| (state.stream, state.is_answered, state.is_tunnel));
        if is_answered {
            return;
        }
        if is_tunnel && !is_reset {
            let _ = self.send(&frame(DATA, END_STREAM, id, b""));
            with(&self.shared, |state| {
                state.have_we_ended = true;
                state.is_answered = state.have_they_ended;
            });
            return;
        }
        let _ = self.send(&rst_stream(id, CANCEL));
        with(&self.shared, |state| state.is_answered = true);
    }

    fn exchange(&mut self) -> Option<()> {
        let head = loop {
            if let Some(at) = memmem::find(&self.text, b"\r\n\r\n") {
                let rest = self.text.split_off(at + 4);
                break std::mem::replace(&mut self.text, rest);
            }
            self.more()?;
        };
        if !wait(&self.shared, |state| state.is_answered) {
            return None;
        }
        let request = Message::parse_head(head);
        let id = with(&self.shared, |state| {
            state.stream = if state.stream == 0 { 1 } else { state.stream + 2 };
            state.stream_window = state.initial_window;
            state.is_head = request.method() == "HEAD";
            state.is_tunnel = request.method() == "CONNECT";
            (state.is_answered, state.is_begun) = (false, false);
            state.stream
        });
        let length = request.field("content-length").and_then(|it| it.parse::<usize>().ok());
        let is_chunked = !request.all("transfer-encoding").is_empty();
        let is_tunnel = request.method() == "CONNECT";
        let is_end = !is_tunnel && !is_chunked && length.unwrap_or(0) == 0;
        let flags = END_HEADERS | if is_end { END_STREAM } else { 0 };
        self.send(&frame(HEADERS, flags, id, head_block(&request)))?;
        if is_tunnel {
            return self.tunnel(id);
        }
        match length {
            _ if is_chunked => self.chunks(id),
            Some(length) if length > 0 => self.sized(id, length),
            _ => Some(()),
        }
    }

    fn tunnel(&mut self, id: u32) -> Option<()> {
        while !self.has_tunnel_begun()? {
            let mut byte = [MaybeUninit::uninit()];
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            if let Ok(0) = SockRef::from(&self.from).recv_with_flags(&mut byte, flags) {
                // Nobody waits for it any more.
                self.give_up(true);
                return None;
            }
        }
        loop {
            let text = std::mem::take(&mut self.text);
            self.data(id, &text, false)?;
            self.more()?;
        }
    }

    /// Waits for that for a while; nothing where it never will.
    fn has_tunnel_begun(&self) -> Option<bool> {
        let state = self.shared.0.lock().unwrap();
        let waiting = |state: &mut State| !state.is_over && !state.is_begun && !state.is_answered;
        let (state, _) = self.shared.1.wait_timeout_while(state, GONE_AFTER, waiting).unwrap();
        (!state.is_over).then_some(state.is_begun || state.is_answered)
    }

    fn sized(&mut self, id: u32, length: usize) -> Option<()> {
        let mut left = length;
        while left > 0 {
            if self.text.is_empty() {
                self.more()?;
            }
            let count = left.min(self.text.len());
            let rest = self.text.split_off(count);
            let piece = std::mem::replace(&mut self.text, rest);
            left -= count;
            self.data(id, &piece, left == 0)?;
        }
        Some(())
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = memmem::find(&self.text, b"\r\n") {
                let rest = self.text.split_off(at + 2);
                let mut line = std::mem::replace(&mut self.text, rest);
                line.truncate(at);
                return Some(line);
            }
            self.more()?;
        }
    }

    fn chunks(&mut self, id: u32) -> Option<()> {
        loop {
            let line = self.line()?;
            let size = std::str::from_utf8(&line).ok()?.split(';').next()?.trim().to_owned();
            let mut left = usize::from_str_radix(&size, 16).ok()?;
            if left == 0 {
                break;
            }
            while left > 0 {
                if self.text.is_empty() {
                    self.more()?;
                }
                let count = left.min(self.text.len());
                let rest = self.text.split_off(count);
                let piece = std::mem::replace(&mut self.text, rest);
                left -= count;
                self.data(id, &piece, false)?;
            }
            self.line()?;
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let line = super::message::latin1(&line);
            let (name, value) = line.split_once(':')?;
            trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if trailers.is_empty() {
            return self.data(id, b"", true);
        }
        let trailers: Vec<_> = trailers.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, block(&trailers)))
    }

    /// Sends a piece of a body as windows allow; nobody wants it where the stream has gone.
    fn data(&mut self, id: u32, bytes: &[u8], is_end: bool) -> Option<()> {
        let mut rest = bytes;
        loop {
            let room = |state: &State| state.stream_window.min(state.connection_window).max(0);
            let is_going = |state: &State| {
                state.is_answered && !state.is_tunnel || rest.is_empty() || room(state) > 0
            };
            if !wait(&self.shared, is_going) {
                return None;
            }
            let count = with(&self.shared, |state| {
                if state.is_answered {
                    return None;
                }
                let count = rest.len().min(room(state) as usize).min(16_384);
                let bytes = i64::try_from(count).unwrap_or(i64::MAX);
                state.stream_window -= bytes;
                state.connection_window -= bytes;
                Some(count)
            });
            let Some(count) = count else { return Some(()) };
            let is_last = count == rest.len();
            let flags = if is_last && is_end { END_STREAM } else { 0 };
            if count > 0 || flags != 0 {
                self.send(&frame(DATA, flags, id, &rest[..count]))?;
            }
            rest = &rest[count..];
            if is_last {
                return Some(());
            }
        }
    }
}

/// The head of a request as a block.
fn head_block(request: &Message) -> Vec<u8> {
    let (method, target) = (request.method(), request.target());
    let host = request.all("host").first().map(|it| (*it).to_owned());
    let mut scheme = "http";
    let (mut authority, mut path) = (host, Some(target.to_owned()));
    if method == "CONNECT" {
        (authority, path) = (Some(target.to_owned()), None);
    } else if let Some((written, rest)) = target.split_once("://") {
        scheme = if written.eq_ignore_ascii_case("https") { "https" } else { "http" };
        let at = rest.find('/').unwrap_or(rest.len());
        authority = Some(rest[..at].to_owned());
        path = Some(if at == rest.len() { "/".to_owned() } else { rest[at..].to_owned() });
    }
    let mut all = vec![(":method".to_owned(), method.to_owned())];
    if let Some(path) = path {
        all.push((":scheme".to_owned(), scheme.to_owned()));
        all.push((":path".to_owned(), path));
    }
    all.extend(authority.map(|it| (":authority".to_owned(), it)));
    let of_connection = ["connection", "keep-alive", "proxy-connection", "host", "upgrade"];
    for (name, value) in &request.fields {
        let name = name.to_ascii_lowercase();
        if !of_connection.contains(&name.as_str()) && name != "transfer-encoding" {
            all.push((name, value.clone()));
        }
    }
    block(&all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>())
}

/// From the proxy to the test.
struct Downward {
    wire: TcpStream,
    to: TcpStream,
    shared: Shared,
}

impl Downward {
    fn run(mut self) {
        let mut is_chunked = false;
        while self.next(&mut is_chunked).is_some() {}
        with(&self.shared, |state| {
            state.is_over = true;
            state.is_broken |= state.is_tunnel && !state.is_answered;
        });
        // The reading thread has a handle, too: for a reset it has to let go of it.
        let is_broken = with(&self.shared, |state| state.is_broken);
        if is_broken {
            let _ = SockRef::from(&self.to).set_linger(Some(Duration::ZERO));
        }
        let how = if is_broken { Shutdown::Read } else { Shutdown::Write };
        let _ = self.to.shutdown(how);
        let _ = self.wire.shutdown(Shutdown::Both);
    }

    fn write(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        self.to.write_all(bytes.as_ref()).ok()
    }

    fn next(&mut self, is_chunked: &mut bool) -> Option<()> {
        let mut head = [0; 9];
        self.wire.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let (kind, flags) = (head[3], head[4]);
        let mut payload = vec![0; length];
        self.wire.read_exact(&mut payload).ok()?;
        let number = |at: usize| {
            payload.get(at..at + 4).map(|it| u32::from_be_bytes(it.try_into().expect("four")))
        };
        match kind {
            SETTINGS if flags & ACK == 0 => {
                self.settings(&payload);
                self.wire.write_all(&frame(SETTINGS, ACK, 0, b"")).ok()?;
            }
            PING if flags & ACK == 0 => {
                self.wire.write_all(&frame(PING, ACK, 0, &payload)).ok()?;
            }
            WINDOW_UPDATE => {
                let more = i64::from(number(0)?);
                with(&self.shared, |state| match stream {
                    0 => state.connection_window += more,
                    id if id == state.stream => state.stream_window += more,
                    _ => {}
                });
            }
            GOAWAY if number(4)? != NO_ERROR => return None,
            // As a connection that is not kept: after what is under way.
            GOAWAY if with(&self.shared, |state| state.is_answered) => return None,
            // Of one that is over.
            RST_STREAM if with(&self.shared, |state| stream != state.stream) => {}
            // The rest of a request that nobody needs any more: over HTTP/1.1 the connection ends
            // with that.
            RST_STREAM if with(&self.shared, |state| state.is_answered) => return None,
            RST_STREAM => {
                // As a connection that breaks.
                let _ = SockRef::from(&self.to).set_linger(Some(Duration::ZERO));
                with(&self.shared, |state| state.is_broken = true);
                return None;
            }
            HEADERS => self.head(stream, flags, &payload, is_chunked)?,
            DATA => self.data(stream, flags, &payload, *is_chunked)?,
            _ => {}
        }
        Some(())
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let value = u32::from_be_bytes(setting[2..].try_into().expect("four"));
            if setting[..2] == [0, 4] {
                with(&self.shared, |state| {
                    state.stream_window += i64::from(value) - state.initial_window;
                    state.initial_window = value.into();
                });
            }
        }
    }

    fn head(&mut self, stream: u32, flags: u8, payload: &[u8], chunks: &mut bool) -> Option<()> {
        let is_end = flags & END_STREAM != 0;
        let mut all = fields(payload);
        if all.first().is_none_or(|(name, _)| name != ":status") {
            let lines = all
                .iter()
                .fold(String::new(), |text, (name, value)| text + name + ": " + value + "\r\n");
            self.write(format!("0\r\n{lines}\r\n"))?;
            self.ended(stream);
            return Some(());
        }
        let status: u16 = all.remove(0).1.parse().ok()?;
        let (is_head, is_tunnel) = with(&self.shared, |state| (state.is_head, state.is_tunnel));
        let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        for (name, value) in &all {
            text.extend([name, ": ", value, "\r\n"]);
        }
        let has_length = all.iter().any(|(name, _)| name == "content-length");
        let is_interim = status < 200;
        let begins_tunnel = is_tunnel && (200..300).contains(&status);
        let is_bodiless = is_head || is_interim || matches!(status, 204 | 304) || begins_tunnel;
        *chunks = !is_bodiless && !has_length && !is_end;
        if *chunks {
            text += "transfer-encoding: chunked\r\n";
        } else if !is_bodiless && !has_length {
            text += "content-length: 0\r\n";
        }
        self.write(text + "\r\n")?;
        if !is_interim {
            with(&self.shared, |state| {
                state.is_begun = true;
                state.is_tunnel = begins_tunnel;
            });
        }
        if is_end {
            self.ended(stream);
        }
        Some(())
    }

    fn data(&mut self, stream: u32, flags: u8, payload: &[u8], is_chunked: bool) -> Option<()> {
        let is_end = flags & END_STREAM != 0;
        if !payload.is_empty() {
            if is_chunked {
                self.write(format!("{:x}\r\n", payload.len()))?;
            }
            self.write(payload)?;
            if is_chunked {
                self.write("\r\n")?;
            }
            let length = u32::try_from(payload.len()).ok()?;
            self.wire.write_all(&window_update(0, length)).ok()?;
            if !is_end {
                self.wire.write_all(&window_update(stream, length)).ok()?;
            }
        }
        if !is_end {
            return Some(());
        }
        if is_chunked {
            self.write("0\r\n\r\n")?;
        }
        self.ended(stream);
        Some(())
    }

    /// The answer has come to its end.
    fn ended(&mut self, stream: u32) {
        let is_tunnel = with(&self.shared, |state| {
            // What goes the other way in a tunnel goes on.
            state.have_they_ended = stream == state.stream;
            state.is_answered = state.have_they_ended && (!state.is_tunnel || state.have_we_ended);
            state.is_tunnel
        });
        if is_tunnel {
            let _ = self.to.shutdown(Shutdown::Write);
        }
    }
}

fn reason(status: u16) -> &'static str {
    // Its old name (RFC 9110 §15.5.14).
    if status == 413 {
        return "Content Too Large";
    }
    let status = http::StatusCode::from_u16(status).ok();
    status.and_then(|it| it.canonical_reason()).unwrap_or_default()
}
