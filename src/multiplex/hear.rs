//! What the peer of a connection says, and what becomes of it: lanes, pieces for lanes, answers.
//!
//! In go the bytes that have come; out come streams for lanes, what their sockets have to read, and
//! what is answered without either. After an error of the connection nothing more is read.

use std::cell::RefCell;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Multiplex;
use super::host::Host;
use super::lane::{Asked, Lane};
use crate::http::head::HeadError;
use crate::http2::error::{ConnectionError, ErrorCode};
use crate::http2::fields::{Oversize, RequestKind};
use crate::http2::{Body, Event, Key};
use crate::ring::clock;

thread_local! {
    /// Where heads are written.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Multiplex {
    /// Takes in what has come.
    pub(super) fn take_in(
        &self,
        mut input: &[u8],
        host: &impl Host,
    ) -> Result<Heard, ConnectionError> {
        let now_ms = clock::coarse_ms();
        let mut heard = Heard::default();
        TEXT.with_borrow_mut(|text| {
            loop {
                text.clear();
                let event = self.session.borrow_mut().next(&mut input, text, now_ms)?;
                match event {
                    Some(event) => self.hear(event, text, host, &mut heard),
                    None => return Ok(heard),
                }
            }
        })
    }

    fn hear(&self, event: Event<'_>, text: &[u8], host: &impl Host, heard: &mut Heard) {
        match event {
            Event::Request { stream, head, kind, protocol, body, .. } => {
                let protocol = protocol.map(|at| &text[at]);
                self.serve(stream, (&text[head], protocol), kind, body, host);
            }
            Event::Response { stream, head, status, body } => {
                if let Some(lane) = self.lane(stream) {
                    lane.answer(&text[head], status, body);
                }
            }
            Event::Oversize { stream, what, is_head, is_end } => {
                let error = match what {
                    Oversize::Bytes => HeadError::HeadTooLarge,
                    Oversize::Count => HeadError::TooManyFields,
                };
                let asked = if is_head { Asked::Head } else { Asked::Plain };
                self.refuse_head(stream, error, (asked, is_end), host);
            }
            Event::Data { stream, bytes, is_end } => match self.lane(stream) {
                Some(lane) => {
                    lane.put(|inward| inward.push(bytes, is_end));
                    self.make_way();
                    lane.settle();
                }
                None => {
                    self.session.borrow_mut().taken(stream, bytes.len());
                }
            },
            Event::Trailers { stream, lines } => {
                if let Some(lane) = self.lane(stream) {
                    lane.put(|inward| inward.end(&text[lines]));
                    lane.settle();
                }
            }
            Event::Reset { stream, code, cause } => {
                host.stream_ended(code, cause);
                if let Some(lane) = self.lane(stream) {
                    match code {
                        ErrorCode::RefusedStream | ErrorCode::Http11Required => lane.refuse(),
                        _ => lane.break_off(),
                    }
                }
            }
            Event::Rejected { id, code, cause } => host.rejected(id, code, cause),
            Event::Writable { stream: Some(stream) } => {
                if let Some(lane) = self.lane(stream) {
                    lane.tell();
                }
            }
            Event::Writable { stream: None } => self.tell_in_turn(),
            Event::Settings => {
                self.settled.notify_waiters();
                self.tell_in_turn();
            }
            Event::SettingsAcked | Event::Reprioritized { .. } => {}
            Event::Pong { .. } => heard.is_ponged = true,
            Event::GoAway { .. } => {
                heard.is_leaving = true;
                self.dismiss_resting();
                self.each_lane(|lane| {
                    let is_lost =
                        lane.key().is_some_and(|key| self.session.borrow().is_unprocessed(key));
                    if is_lost {
                        lane.refuse();
                    }
                });
            }
        }
    }

    /// Has somebody work on a request.
    fn serve(
        &self,
        key: Key,
        (text, protocol): (&[u8], Option<&[u8]>),
        kind: RequestKind,
        body: Body,
        host: &impl Host,
    ) {
        let asked = match kind {
            RequestKind::Plain if text.starts_with(b"HEAD ") => Asked::Head,
            RequestKind::Plain => Asked::Plain,
            RequestKind::Connect => Asked::Tunnel,
            RequestKind::Extended if protocol == Some(b"websocket") => Asked::Protocol,
            RequestKind::Extended => {
                let has_ended = body == Body::Empty;
                let (error, asked) = (HeadError::OtherProtocol, (Asked::Plain, has_ended));
                return self.refuse_head(key, error, asked, host);
            }
        };
        let Some(lane) = self.lane_for(key, host) else { return };
        let upgrade = if asked == Asked::Protocol { upgrade(text) } else { Vec::new() };
        lane.begin(key, (text, &upgrade), asked, body);
    }

    /// A lane for a request; `None` where there is no room, which its client has been told.
    fn lane_for(&self, key: Key, host: &impl Host) -> Option<Rc<Lane>> {
        let rested = self.resting.borrow_mut().pop();
        let lane = rested.or_else(|| host.open_lane());
        if lane.is_none() {
            self.drop_stream(key, Some(ErrorCode::RefusedStream));
            host.refused();
        }
        lane
    }

    /// Has somebody answer a request whose head is refused for `error`.
    fn refuse_head(
        &self,
        key: Key,
        error: HeadError,
        (asked, has_ended): (Asked, bool),
        host: &impl Host,
    ) {
        if let Some(lane) = self.lane_for(key, host) {
            lane.begin_refused(key, error, asked, has_ended);
        }
    }
}

/// The lines by which HTTP/1.1 asks for what an extended CONNECT asks for (RFC 8441 §5).
fn upgrade(text: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 16];
    // Its value secures nothing: the connection to the origin is ours (RFC 6455 §10.3).
    let _ = getrandom::fill(&mut nonce);
    let key = BASE64.encode(nonce);
    let mut lines = b"connection: upgrade\r\nupgrade: websocket\r\n".to_vec();
    let has_version = memchr::memmem::find(text, b"\r\nsec-websocket-version:").is_some();
    if !has_version {
        lines.extend_from_slice(b"sec-websocket-version: 13\r\n");
    }
    lines.extend_from_slice(format!("sec-websocket-key: {key}\r\n").as_bytes());
    lines
}

/// What of what was heard concerns the connection.
#[derive(Default)]
pub(super) struct Heard {
    /// Our ping has come back.
    pub is_ponged: bool,
    /// The peer opens no more streams, or takes no more.
    pub is_leaving: bool,
}
