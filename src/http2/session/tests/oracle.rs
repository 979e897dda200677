//! The session against the h2 crate as its peer, in both roles, over a connection in memory.
//!
//! In go requests with bodies and trailers; the crate says what it has understood of ours, and we
//! of its. Windows and the connection are small, so that everything comes in pieces and waits.

use std::collections::HashMap;
use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::http2::error::ErrorCode;
use crate::http2::hpack::encode::{Question, QuestionKind};
use crate::http2::session::sending::NotOpened;

fn small() -> Terms {
    Terms { stream_window: 1000, streams_max: 10, ..Terms::default() }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let deadline = std::time::Duration::from_secs(60);
    let local = tokio::task::LocalSet::new();
    runtime.expect("a runtime").block_on(local.run_until(async {
        tokio::time::timeout(deadline, test).await.expect("it ends");
    }));
}

/// A stream and what its task would hold.
#[derive(Default)]
struct Held {
    path: String,
    /// What is still to be sent.
    queue: Vec<u8>,
    /// What has come.
    body: Vec<u8>,
    lines: Vec<(String, String)>,
    status: u16,
    has_ended: bool,
    is_answered: bool,
    reset: Option<ErrorCode>,
}

/// One side of a connection.
struct Side {
    session: Session,
    io: DuplexStream,
    held: HashMap<Key, Held>,
    settled: HashMap<u32, Held>,
    goaway: Option<(u32, ErrorCode)>,
    has_settings: bool,
}

impl Side {
    fn new(role: Role, terms: Terms, io: DuplexStream) -> Self {
        let session = Session::new(role, Rc::new(terms), 0);
        Self {
            session,
            io,
            held: HashMap::new(),
            settled: HashMap::new(),
            goaway: None,
            has_settings: false,
        }
    }

    /// Sends what is pending and takes what comes, once. False: the peer has gone.
    async fn turn(&mut self) -> bool {
        let mut bytes = [0; 300];
        let pending = self.session.pending().to_vec();
        let (mut reader, mut writer) = tokio::io::split(&mut self.io);
        tokio::select! {
            biased;
            sent = writer.write(&pending), if !pending.is_empty() => {
                let Ok(sent) = sent else { return false };
                self.session.consume(sent);
            }
            read = reader.read(&mut bytes) => {
                let Ok(count @ 1..) = read else { return false };
                self.take(&bytes[..count]);
            }
        }
        true
    }

    fn take(&mut self, mut input: &[u8]) {
        let mut text = Vec::new();
        loop {
            text.clear();
            let event = self.session.next(&mut input, &mut text, 0);
            match event.expect("an honest peer") {
                None => return,
                Some(Event::Request { stream, head, body, .. }) => {
                    let head = String::from_utf8(text[head].to_vec()).expect("text");
                    let path = head.split(' ').nth(1).expect("a path").to_owned();
                    self.held.insert(stream, Held { path, ..Held::default() });
                    self.has_come(stream, body == crate::http2::Body::Empty);
                }
                Some(Event::Response { stream, status, body, head }) => {
                    let held = self.held.get_mut(&stream).expect("a stream of ours");
                    if status < 200 {
                        held.lines.push((status.to_string(), String::new()));
                        continue;
                    }
                    held.status = status;
                    held.lines.extend(lines(&text[head]));
                    held.has_ended = body == crate::http2::Body::Empty;
                }
                Some(Event::Data { stream, bytes, is_end }) => {
                    let held = self.held.get_mut(&stream).expect("a stream");
                    held.body.extend_from_slice(bytes);
                    held.has_ended |= is_end;
                    self.session.taken(stream, bytes.len());
                    self.has_come(stream, is_end);
                }
                Some(Event::Trailers { stream, lines: found }) => {
                    let held = self.held.get_mut(&stream).expect("a stream");
                    held.lines.extend(lines(&text[found]));
                    held.has_ended = true;
                    self.has_come(stream, true);
                }
                Some(Event::Reset { stream, code, .. }) => {
                    let held = self.held.get_mut(&stream).expect("a stream");
                    held.reset = Some(code);
                }
                Some(Event::GoAway { last, code }) => self.goaway = Some((last, code)),
                Some(Event::Settings) => self.has_settings = true,
                Some(_) => {}
            }
            self.go_on();
        }
    }

    /// The server's part: answers by the path, and says the body again.
    fn has_come(&mut self, key: Key, is_end: bool) {
        let Some(held) = self.held.get_mut(&key).filter(|held| !held.path.is_empty()) else {
            return;
        };
        held.has_ended |= is_end;
        if held.is_answered || !(is_end || held.path == "/early") {
            return;
        }
        held.is_answered = true;
        let session = &mut self.session;
        if held.path == "/reset" {
            session.reset(key, ErrorCode::InternalError);
            return;
        }
        if held.path == "/interim" {
            session.send_response(key, 103, false, |b| b.field(b"Link", b"x")).expect("interim");
        }
        let length = held.body.len().to_string();
        let answered = session.send_response(key, 200, false, |block| {
            block.field(b"X-Length", length.as_bytes());
            block.field(b"Server", b"ringway");
        });
        answered.expect("a head");
        held.queue = held.body.clone();
    }

    /// Sends of all bodies what may be sent, and lets streams go that are done.
    fn go_on(&mut self) {
        let session = &mut self.session;
        for (key, held) in &mut self.held {
            while held.is_answered && !held.queue.is_empty() && session.room(*key) > 0 {
                let bytes = session.room(*key).min(held.queue.len());
                session.send_data(*key, &held.queue[..bytes], false).expect("there is room");
                held.queue.drain(..bytes);
            }
            if held.is_answered && held.queue.is_empty() && !session.is_over(*key) {
                let lines = std::mem::take(&mut held.lines);
                let _ = session.send_trailers(*key, |block| {
                    for (name, value) in &lines {
                        block.field(name.as_bytes(), value.as_bytes());
                    }
                });
                held.lines = lines;
            }
        }
        let is_done = |key: &Key, held: &Held| {
            session.is_over(*key)
                || held.reset.is_some()
                || (held.path == "/early" && held.is_answered)
        };
        let done: Vec<Key> = self
            .held
            .iter()
            .filter(|(key, held)| is_done(key, held))
            .map(|(key, _)| *key)
            .collect();
        for key in done {
            self.session.release(key);
            self.settled.insert(key.id(), self.held.remove(&key).expect("it is held"));
        }
    }
}

fn lines(text: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(text).expect("text");
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// Serves whoever the h2 crate's client is, until it has gone.
fn serve(io: DuplexStream) -> tokio::task::JoinHandle<Side> {
    let mut side = Side::new(Role::Server, small(), io);
    tokio::task::spawn_local(async move {
        while side.turn().await {}
        assert_eq!(side.session.streams(), 0, "all streams came home");
        side
    })
}

type Answer = Result<(u16, HeaderMap, Vec<u8>, Option<HeaderMap>), h2::Error>;

/// Asks by the h2 crate: a body of so many bytes in pieces, and trailers.
async fn ask_by_h2(send: h2::client::SendRequest<Bytes>, path: &str, bytes: usize) -> Answer {
    let method = if bytes == 0 { "GET" } else { "POST" };
    let uri = format!("http://a{path}");
    let request = Request::builder().method(method).uri(uri).header("x", "y");
    let request = request.body(()).expect("a request");
    let mut send = send.ready().await?;
    let (response, mut body) = send.send_request(request, bytes == 0)?;
    let mut left = bytes;
    while left > 0 {
        let part = left.min(700);
        left -= part;
        if body.send_data(Bytes::from(vec![(left % 251) as u8; part]), false).is_err() {
            break;
        }
    }
    if bytes > 0 {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-last", "1".parse().expect("a value"));
        let _ = body.send_trailers(trailers);
    }
    let response = response.await?;
    let (head, mut body) = response.into_parts();
    let mut found = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        found.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?;
    Ok((head.status.as_u16(), head.headers, found, trailers))
}

fn expected_body(bytes: usize) -> Vec<u8> {
    let (mut left, mut body) = (bytes, Vec::new());
    while left > 0 {
        let part = left.min(700);
        left -= part;
        body.extend(vec![(left % 251) as u8; part]);
    }
    body
}

async fn connected(
    bytes: usize,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Side>) {
    let (ours, theirs) = duplex(bytes);
    let served = serve(ours);
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(900).initial_connection_window_size(70_000).enable_push(false);
    let (send, connection) = builder.handshake::<_, Bytes>(theirs).await.expect("a handshake");
    tokio::task::spawn_local(async move { drop(connection.await) });
    (send, served)
}

#[test]
fn the_h2_crate_s_client_understands_our_answers() {
    for pipe in [37, 500, 60_000] {
        run(async {
            let (send, served) = connected(pipe).await;
            let sizes = [0, 1, 999, 1000, 5000, 100_000];
            let asked = sizes.iter().map(|size| ask_by_h2(send.clone(), "/echo", *size));
            let answers = futures_util::future::join_all(asked).await;
            for (size, answer) in sizes.into_iter().zip(answers) {
                let (status, fields, body, trailers) = answer.expect("an answer");
                assert_eq!((status, &fields["server"]), (200, &"ringway".parse().expect("text")));
                assert_eq!(fields["x-length"].to_str().ok(), Some(&*size.to_string()));
                assert!(body == expected_body(size), "{size}");
                let last = trailers.unwrap_or_default().get("x-last").cloned();
                assert_eq!(last.is_some(), size > 0, "{size}");
            }
            drop(send);
            let side = served.await.expect("no panic");
            assert_eq!(side.settled.len(), 6);
        });
    }
}

#[test]
fn the_h2_crate_s_client_sees_resets_interim_answers_and_early_ones() {
    run(async {
        let (send, served) = connected(500).await;
        let reset = ask_by_h2(send.clone(), "/reset", 10).await.expect_err("a reset");
        assert_eq!(reset.reason(), Some(h2::Reason::INTERNAL_ERROR));
        let (status, ..) = ask_by_h2(send.clone(), "/interim", 10).await.expect("an answer");
        assert_eq!(status, 200);
        // Answered at its first byte, which leaves a window's worth unread: again and again.
        for _ in 0..200 {
            let _ = ask_by_h2(send.clone(), "/early", 5000).await;
        }
        let (_, _, body, _) = ask_by_h2(send.clone(), "/echo", 80_000).await.expect("an answer");
        assert_eq!(body.len(), 80_000);
        drop(send);
        served.await.expect("no panic");
    });
}

#[test]
fn more_streams_than_we_allow_wait_or_are_refused_and_all_are_served() {
    run(async {
        let (send, served) = connected(500).await;
        let asked = (0..200).map(|_| ask_by_h2(send.clone(), "/echo", 300));
        let answers = futures_util::future::join_all(asked).await;
        let served_well = answers.iter().filter(|answer| answer.is_ok()).count();
        let is_refused = |answer: &&Answer| {
            answer.as_ref().is_err_and(|e| e.reason() == Some(h2::Reason::REFUSED_STREAM))
        };
        let refused = answers.iter().filter(is_refused).count();
        assert_eq!((served_well + refused, served_well >= 10), (200, true));
        drop(send);
        served.await.expect("no panic");
    });
}

/// The h2 crate's server: says bodies and trailers again.
async fn serve_by_h2(io: DuplexStream) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(900).max_concurrent_streams(5).max_frame_size(20_000);
    let mut connection = builder.handshake::<_, Bytes>(io).await.expect("a handshake");
    let mut count = 0;
    while let Some(accepted) = connection.accept().await {
        let Ok((request, respond)) = accepted else { return };
        count += 1;
        if count == 30 {
            connection.graceful_shutdown();
        }
        tokio::task::spawn_local(answer_by_h2(request, respond));
    }
}

async fn answer_by_h2(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    if request.uri().path() == "/reset" {
        respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
        return;
    }
    let cookie = request.headers().get("cookie").cloned();
    let mut body = request.into_body();
    let mut found = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).expect("its own window");
        found.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.ok().flatten();
    let mut response = Response::builder().status(203).header("x-long", "v".repeat(9000));
    if let Some(cookie) = cookie {
        response = response.header("x-cookie", cookie);
    }
    let response = response.body(()).expect("a response");
    let Ok(mut send) = respond.send_response(response, false) else { return };
    send.reserve_capacity(found.len());
    while !found.is_empty() {
        let room = poll_fn(|cx| send.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else { return };
        let rest = found.split_off(room.min(found.len()));
        if send.send_data(Bytes::from(std::mem::replace(&mut found, rest)), false).is_err() {
            return;
        }
    }
    let _ = match trailers {
        Some(trailers) => send.send_trailers(trailers),
        None => send.send_data(Bytes::new(), true),
    };
}

impl Side {
    /// Asks for something with a body of so many bytes, as soon as that may be.
    async fn ask(&mut self, path: &str, bytes: usize) -> Result<u32, NotOpened> {
        while !self.has_settings || self.session.can_open() == Err(NotOpened::Full) {
            assert!(self.turn().await, "the origin is there");
        }
        let kind = QuestionKind::Plain { scheme: b"http", path: path.as_bytes() };
        let question = Question { method: b"POST", authority: b"a", kind };
        let key = self.session.open(&question, false, |block| {
            block.field(b"Cookie", b"a=b");
            block.field(b"Cookie", b"c=d");
        })?;
        let lines = vec![("x-last".to_owned(), "1".to_owned())];
        let queue = expected_body(bytes);
        let held = Held { queue, lines, is_answered: true, ..Held::default() };
        self.held.insert(key, held);
        self.go_on();
        Ok(key.id())
    }
}

#[test]
fn the_h2_crate_s_server_understands_our_requests_and_we_its_answers() {
    for pipe in [41, 700, 60_000] {
        run(async {
            let (ours, theirs) = duplex(pipe);
            tokio::task::spawn_local(serve_by_h2(theirs));
            let mut side = Side::new(Role::Client, small(), ours);
            let mut asked = Vec::new();
            for round in 0..25 {
                let (path, bytes) =
                    if round % 7 == 3 { ("/reset", 0) } else { ("/echo", round * 431) };
                asked.push((side.ask(path, bytes).await.expect("a stream"), path, bytes));
            }
            while !side.held.is_empty() {
                assert!(side.turn().await, "the origin is there");
                side.go_on();
            }
            for (id, path, bytes) in asked {
                let held = &side.settled[&id];
                if path == "/reset" {
                    assert_eq!(held.reset, Some(ErrorCode::EnhanceYourCalm));
                    continue;
                }
                assert_eq!((held.status, held.has_ended, held.reset), (203, true, None));
                assert!(held.body == expected_body(bytes), "{bytes}");
                let has = |name: &str| held.lines.iter().filter(|(n, _)| n == name).count();
                assert_eq!((has("x-long"), has("x-cookie")), (1, 1));
                assert_eq!(has("x-last"), 2, "sent, and said again");
            }
        });
    }
}

#[test]
fn an_origin_that_leaves_is_asked_no_more_and_answers_what_it_has() {
    run(async {
        let (ours, theirs) = duplex(700);
        tokio::task::spawn_local(serve_by_h2(theirs));
        let mut side = Side::new(Role::Client, small(), ours);
        let mut asked = Vec::new();
        loop {
            match side.ask("/echo", 500).await {
                Ok(id) => asked.push(id),
                Err(NotOpened::Leaving) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        while !side.held.is_empty() && side.turn().await {
            side.go_on();
        }
        let (last, code) = side.goaway.expect("it leaves");
        assert_eq!(code, ErrorCode::NoError);
        for id in asked {
            let answered = side.settled.get(&id).is_some_and(|held| held.status == 203);
            assert!(answered || id > last, "{id} of {last}");
        }
    });
}
