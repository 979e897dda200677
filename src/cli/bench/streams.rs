//! The requests of one HTTP/2 connection of the load, without its socket.
//!
//! In go requests and the bytes that come; out come bytes to send, and what has become of each
//! request. Each answer is held to the rules of HTTP/2 and to its length by the core that the proxy
//! uses. Bodies are repeated from one block, as far as the windows allow; what comes of answers is
//! counted and thrown away. It reads no clock and decides nothing about what is asked next.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use super::script::{Body, Request};
use super::tally::ErrorKind;
use crate::http2::error::{Cause, ErrorCode};
use crate::http2::hpack::encode::{Question, QuestionKind};
use crate::http2::session::Session;
use crate::http2::session::terms::Terms;
use crate::http2::{Event, Key, Role};

/// As much as one may have on its way, so that the load is not what a transfer waits for.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024 * 1024;

/// Bodies wait while so much has not been sent: the kernel would not take it sooner.
const PENDING_BYTES_MAX: usize = 64 * 1024;

/// A request as a stream says it, checked already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    method: String,
    scheme: &'static str,
    authority: String,
    path: String,
    fields: Vec<(String, String)>,
    /// What the body repeats, and how long it is in all.
    block: Vec<u8>,
    body_bytes: u64,
}

impl Ask {
    /// `path` is what `request` has in its target, which may be a whole URL there.
    pub(super) fn of(request: &Request, scheme: &'static str, path: &str) -> Self {
        let mut fields = request.fields.clone();
        let host = fields.iter().position(|(name, _)| name.eq_ignore_ascii_case("host"));
        let authority = host.map_or_else(|| request.authority.clone(), |at| fields.remove(at).1);
        if !request.is_chunked && request.body != Body::None {
            let length = request.body.length().to_string();
            fields.push(("content-length".to_owned(), length));
        }
        Self {
            method: request.method.clone(),
            scheme,
            authority,
            path: path.to_owned(),
            fields,
            block: request.body.block(),
            body_bytes: request.body.length(),
        }
    }

    fn question(&self) -> Question<'_> {
        let kind =
            QuestionKind::Plain { scheme: self.scheme.as_bytes(), path: self.path.as_bytes() };
        Question { method: self.method.as_bytes(), authority: self.authority.as_bytes(), kind }
    }
}

/// What has become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A whole and sound answer to what was to be asked at that moment.
    Answered {
        status: u16,
        intended: Instant,
    },
    Failed(ErrorKind),
}

/// A request that is under way.
#[derive(Debug)]
struct Asked {
    key: Key,
    intended: Instant,
    deadline: Instant,
    status: u16,
    /// Bytes of the body that have been sent.
    sent: u64,
}

#[derive(Debug)]
pub(super) struct Streams {
    session: Session,
    /// By the small number of their keys.
    asked: Vec<Option<Asked>>,
    /// Those whose bodies have not been sent whole, in turns.
    uploads: VecDeque<Key>,
    /// Scratch space for heads.
    text: Vec<u8>,
    /// As many as may be under way.
    streams_max: usize,
    under_way: usize,
    has_asked: bool,
    /// The server takes no more.
    is_leaving: bool,
}

impl Streams {
    /// A connection that has been opened; what it begins with is pending at once.
    pub(super) fn new(streams_max: usize, now_ms: u64) -> Self {
        let terms = Terms {
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            ..Terms::default()
        };
        Self {
            session: Session::new(Role::Client, Rc::new(terms), now_ms),
            asked: Vec::new(),
            uploads: VecDeque::new(),
            text: Vec::new(),
            streams_max,
            under_way: 0,
            has_asked: false,
            is_leaving: false,
        }
    }

    /// The server has said what it allows, so that requests can be sent.
    pub(super) fn is_settled(&self) -> bool {
        self.session.is_settled()
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Nothing is under way, and nothing more will be.
    pub(super) fn is_spent(&self) -> bool {
        self.under_way == 0 && self.session.can_open().is_err()
    }

    /// Why it has taken nothing from its beginning, where it has not.
    pub(super) fn refusal(&self) -> Option<ErrorKind> {
        let kind = if self.is_leaving { ErrorKind::GoAway } else { ErrorKind::Refused };
        (!self.has_asked).then_some(kind)
    }

    pub(super) fn can_ask(&self) -> bool {
        self.under_way < self.streams_max && !self.is_leaving && self.session.can_open().is_ok()
    }

    /// Asks, where that [can be](Self::can_ask).
    pub(super) fn ask(&mut self, ask: &Ask, intended: Instant, deadline: Instant) -> bool {
        let is_end = ask.body_bytes == 0;
        let opened = self.session.open(&ask.question(), is_end, |block| {
            for (name, value) in &ask.fields {
                block.field(name.as_bytes(), value.as_bytes());
            }
        });
        let Ok(key) = opened else { return false };
        if self.asked.len() <= key.index() {
            self.asked.resize_with(key.index() + 1, || None);
        }
        self.asked[key.index()] = Some(Asked { key, intended, deadline, status: 0, sent: 0 });
        self.under_way += 1;
        self.has_asked = true;
        if !is_end {
            self.uploads.push_back(key);
        }
        true
    }

    /// What is to be sent now: more of the bodies is put to it.
    pub(super) fn pending(&mut self, ask: &Ask) -> &[u8] {
        let mut without_room = 0;
        while self.session.pending().len() < PENDING_BYTES_MAX && without_room < self.uploads.len()
        {
            let Some(key) = self.uploads.pop_front() else { break };
            let asked = self.asked.get_mut(key.index()).and_then(Option::as_mut);
            let Some(asked) = asked.filter(|asked| asked.key == key) else { continue };
            let room = self.session.room(key);
            if room == 0 {
                self.uploads.push_back(key);
                without_room += 1;
                continue;
            }
            without_room = 0;
            let at = (asked.sent % ask.block.len() as u64) as usize;
            let left = usize::try_from(ask.body_bytes - asked.sent).unwrap_or(usize::MAX);
            let bytes = room.min(left).min(ask.block.len() - at);
            let is_end = bytes == left;
            if self.session.send_data(key, &ask.block[at..at + bytes], is_end).is_ok() {
                asked.sent += bytes as u64;
                if !is_end {
                    self.uploads.push_back(key);
                }
            }
        }
        self.session.pending()
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.session.consume(bytes);
    }

    /// Takes what has come. An error ends the connection, and with it all that is under way.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        now_ms: u64,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), ErrorKind> {
        loop {
            let event = self.session.next(&mut bytes, &mut self.text, now_ms);
            self.text.clear();
            match event {
                Ok(Some(event)) => self.heed(event, outcomes),
                Ok(None) => return Ok(()),
                Err(_) => return Err(ErrorKind::Http2),
            }
        }
    }

    fn heed(&mut self, event: Event<'_>, outcomes: &mut Vec<Outcome>) {
        match event {
            Event::Response { stream, status, body, .. } => {
                if let Some(asked) = self.asked(stream) {
                    asked.status = status;
                }
                if status >= 200 && body == crate::http2::Body::Empty {
                    self.answered(stream, outcomes);
                }
            }
            Event::Data { stream, bytes, is_end } => {
                self.session.taken(stream, bytes.len());
                if is_end {
                    self.answered(stream, outcomes);
                }
            }
            Event::Trailers { stream, .. } => self.answered(stream, outcomes),
            Event::Reset { stream, code, cause } => {
                let is_refused = code == ErrorCode::RefusedStream;
                let kind = match cause {
                    Cause::ResetByPeer if is_refused => ErrorKind::Refused,
                    Cause::ResetByPeer => ErrorKind::StreamReset,
                    Cause::BodyLength => ErrorKind::ShortBody,
                    Cause::Message(_) | Cause::HeadSize => ErrorKind::BadHead,
                    _ => ErrorKind::Http2,
                };
                self.failed(stream, kind, outcomes);
            }
            Event::GoAway { .. } => {
                self.is_leaving = true;
                let refused: Vec<Key> =
                    self.keys(|session, asked| session.is_unprocessed(asked.key));
                for key in refused {
                    self.failed(key, ErrorKind::GoAway, outcomes);
                }
            }
            // Of clients only, or of nothing that was asked for.
            Event::Request { .. }
            | Event::Oversize { .. }
            | Event::Rejected { .. }
            | Event::Writable { .. }
            | Event::Settings
            | Event::SettingsAcked
            | Event::Reprioritized { .. }
            | Event::Pong { .. } => {}
        }
    }

    fn asked(&mut self, key: Key) -> Option<&mut Asked> {
        let asked = self.asked.get_mut(key.index())?.as_mut();
        asked.filter(|asked| asked.key == key)
    }

    fn keys(&self, is_wanted: impl Fn(&Session, &Asked) -> bool) -> Vec<Key> {
        let asked = self.asked.iter().flatten();
        asked.filter(|asked| is_wanted(&self.session, asked)).map(|asked| asked.key).collect()
    }

    fn end(&mut self, key: Key) -> Option<Asked> {
        let asked = self.asked.get_mut(key.index())?.take_if(|asked| asked.key == key)?;
        self.under_way -= 1;
        // What the server does not want of a body is not sent (413).
        self.session.release(key);
        Some(asked)
    }

    fn answered(&mut self, key: Key, outcomes: &mut Vec<Outcome>) {
        if let Some(Asked { status, intended, .. }) = self.end(key) {
            outcomes.push(Outcome::Answered { status, intended });
        }
    }

    fn failed(&mut self, key: Key, kind: ErrorKind, outcomes: &mut Vec<Outcome>) {
        if self.end(key).is_some() {
            outcomes.push(Outcome::Failed(kind));
        }
    }

    /// Gives up what should have been answered by `now`.
    pub(super) fn expire(&mut self, now: Instant, outcomes: &mut Vec<Outcome>) {
        for key in self.keys(|_, asked| now >= asked.deadline) {
            self.failed(key, ErrorKind::Timeout, outcomes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frames::{PREFACE, put_goaway, put_rst_stream, put_settings};

    fn request(body: Body, is_chunked: bool) -> Request {
        Request {
            method: "POST".to_owned(),
            target: "/a".to_owned(),
            authority: "a.example".to_owned(),
            fields: vec![("X-A".to_owned(), "1".to_owned()), ("Host".to_owned(), "b".to_owned())],
            body,
            is_chunked,
            is_keepalive: true,
        }
    }

    /// A load and a server, each the core in one of its roles.
    struct Wire {
        streams: Streams,
        ask: Ask,
        server: Session,
        outcomes: Vec<Outcome>,
        /// What the server was asked, and has been sent.
        heads: Vec<(Key, String)>,
        received: usize,
    }

    impl Wire {
        fn new(body: Body, streams_max: u32) -> Self {
            let terms = Rc::new(Terms { streams_max, ..Terms::default() });
            let mut wire = Self {
                streams: Streams::new(10, 0),
                ask: Ask::of(&request(body, false), "http", "/a"),
                server: Session::new(Role::Server, terms, 0),
                outcomes: Vec::new(),
                heads: Vec::new(),
                received: 0,
            };
            wire.turn().unwrap();
            wire
        }

        fn ask(&mut self) {
            let now = Instant::now();
            assert!(self.streams.ask(&self.ask, now, now));
        }

        /// Carries bytes until nobody has anything to say.
        fn turn(&mut self) -> Result<(), ErrorKind> {
            loop {
                let up = self.streams.pending(&self.ask).to_vec();
                self.streams.consume(up.len());
                let (mut input, mut text) = (up.as_slice(), Vec::new());
                while let Some(event) = self.server.next(&mut input, &mut text, 0).unwrap() {
                    match event {
                        Event::Request { stream, head, .. } => {
                            let head = String::from_utf8(text[head].to_vec()).unwrap();
                            self.heads.push((stream, head));
                        }
                        Event::Data { stream, bytes, .. } => {
                            self.received += bytes.len();
                            self.server.taken(stream, bytes.len());
                        }
                        _ => {}
                    }
                }
                let down = self.server.pending().to_vec();
                self.server.consume(down.len());
                self.streams.take(&down, 0, &mut self.outcomes)?;
                if up.is_empty() && down.is_empty() {
                    return Ok(());
                }
            }
        }

        fn answer(&mut self, at: usize, status: u16, body: &[u8]) {
            let key = self.heads[at].0;
            self.server.send_response(key, status, body.is_empty(), |_| ()).unwrap();
            if !body.is_empty() {
                self.server.send_data(key, body, true).unwrap();
            }
            self.server.release(key);
        }

        fn failures(&self) -> Vec<ErrorKind> {
            let failed = self.outcomes.iter().filter_map(|outcome| match outcome {
                Outcome::Failed(kind) => Some(*kind),
                Outcome::Answered { .. } => None,
            });
            failed.collect()
        }
    }

    #[test]
    fn a_request_and_its_body_arrive_and_its_answer_is_counted() {
        let mut wire = Wire::new(Body::Size(300_001), 100);
        assert!(wire.streams.is_settled());
        (0..3).for_each(|_| wire.ask());
        wire.turn().unwrap();
        assert_eq!(
            wire.heads[0].1,
            "POST /a HTTP/1.1\r\nhost: b\r\nx-a: 1\r\ncontent-length: 300001\r\n\r\n"
        );
        assert_eq!((wire.heads.len(), wire.received), (3, 900_003));
        wire.answer(1, 200, b"some");
        wire.answer(0, 404, b"");
        wire.turn().unwrap();
        let status = |outcome: &Outcome| match outcome {
            Outcome::Answered { status, .. } => *status,
            Outcome::Failed(_) => 0,
        };
        assert_eq!(wire.outcomes.iter().map(status).collect::<Vec<_>>(), [200, 404]);
        assert_eq!(wire.streams.under_way(), 1);
    }

    #[test]
    fn a_body_without_its_length_ends_when_it_ends() {
        let ask = Ask::of(&request(Body::Bytes(b"abc".to_vec()), true), "http", "/a");
        assert!(ask.fields.iter().all(|(name, _)| name != "content-length"), "{ask:?}");
        let mut wire = Wire { ask, ..Wire::new(Body::None, 100) };
        wire.ask();
        wire.turn().unwrap();
        assert_eq!(wire.received, 3);
    }

    #[test]
    fn no_more_is_asked_than_the_server_allows() {
        let mut wire = Wire::new(Body::None, 2);
        let asked = (0..10).take_while(|_| {
            let can_ask = wire.streams.can_ask();
            if can_ask {
                wire.ask();
            }
            can_ask
        });
        assert_eq!(asked.count(), 2);
        wire.turn().unwrap();
        wire.answer(0, 204, b"");
        wire.turn().unwrap();
        assert!(wire.streams.can_ask());
    }

    #[test]
    fn each_way_to_lose_a_request_has_its_kind() {
        let mut wire = Wire::new(Body::None, 100);
        (0..5).for_each(|_| wire.ask());
        wire.turn().unwrap();
        let now = Instant::now();
        for (at, code, kind) in [
            (0, ErrorCode::InternalError, ErrorKind::StreamReset),
            (1, ErrorCode::RefusedStream, ErrorKind::Refused),
        ] {
            wire.server.reset(wire.heads[at].0, code);
            wire.turn().unwrap();
            assert_eq!(wire.failures().last(), Some(&kind));
        }
        let mut goaway = Vec::new();
        put_goaway(&mut goaway, wire.heads[3].0.id(), ErrorCode::NoError);
        wire.streams.take(&goaway, 0, &mut wire.outcomes).unwrap();
        assert_eq!(wire.failures()[2..], [ErrorKind::GoAway]);
        assert!(!wire.streams.can_ask() && !wire.streams.is_spent());
        wire.answer(2, 200, b"");
        wire.turn().unwrap();
        wire.streams.expire(now + std::time::Duration::from_secs(1), &mut wire.outcomes);
        assert_eq!(wire.failures()[3..], [ErrorKind::Timeout]);
        assert!(wire.streams.is_spent(), "a new connection is needed");
    }

    #[test]
    fn what_is_no_http2_ends_the_connection() {
        let mut streams = Streams::new(1, 0);
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(streams.take(answer, 0, &mut Vec::new()), Err(ErrorKind::Http2));
        assert!(streams.session.pending().starts_with(PREFACE));
        let mut streams = Streams::new(1, 0);
        let mut bytes = Vec::new();
        put_settings(&mut bytes, &[]);
        put_rst_stream(&mut bytes, 7, ErrorCode::Cancel);
        let taken = streams.take(&bytes, 0, &mut Vec::new());
        assert_eq!(taken, Err(ErrorKind::Http2), "a stream that was never opened");
    }
}
