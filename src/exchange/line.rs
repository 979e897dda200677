//! What only the access log wants to know of one exchange, gathered as it goes.
//!
//! In go its moments and what its line quotes; out comes what the line is made of. A worker keeps a
//! few for the exchanges to come, so that a line costs no allocation. Nothing here is formatted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use crate::address::{Address, PeerAddress};
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::trace::Trace;
use crate::http::Version;
use crate::http::head::RequestHead;
use crate::observe::access_log::Phases;
use crate::observe::access_look::Look;
use crate::observe::access_notes::{Noted, Notes};
use crate::tls::facts::TlsFacts;

/// The facts for one line.
pub(super) struct Line {
    pub time: SystemTime,
    pub began: Instant,
    /// The moment at which the phase under way began.
    pub phase_began: Instant,
    pub phases: Phases,
    pub origin: Option<Address>,
    pub is_reused: bool,
    pub is_head_known: bool,
    /// The number of its stream, where the client speaks HTTP/2.
    pub stream: Option<u32>,
    /// Connections that were looked for.
    pub attempts: u32,
    pub trace: Option<Rc<Trace>>,
    /// What became of a second attempt beside the first.
    pub hedged: Option<&'static str>,
    /// What was noted on the way. Who sends an answer of our own notes its head beside.
    pub notes: RefCell<Notes>,
    /// What the line quotes, once the request itself is gone.
    pub quoted: Option<Quoted>,
}

pub(super) struct Quoted {
    pub client: PeerAddress,
    pub peer: PeerAddress,
    pub tls: Option<TlsFacts>,
    pub method: Box<[u8]>,
    pub host: Box<[u8]>,
    pub target: Box<[u8]>,
    pub version: Version,
    pub user_agent: Box<[u8]>,
    pub referer: Box<[u8]>,
    pub memory_peak: u64,
}

/// Lines that are kept: as many as a worker has exchanges under way at once, mostly.
const SPARE_MAX: usize = 64;

thread_local! {
    static SPARE: RefCell<VecDeque<Box<Line>>> = const { RefCell::new(VecDeque::new()) };
}

impl Line {
    /// That of the request in the client's inbox, whose head began so long ago.
    pub(super) fn begin(
        request: &Request<'_, impl ClientStream>,
        head: Duration,
        is_head_known: bool,
    ) -> Box<Self> {
        let now = Instant::now();
        let wall = SystemTime::now();
        let line = |notes| Self {
            time: wall.checked_sub(head).unwrap_or(wall),
            began: now.checked_sub(head).unwrap_or(now),
            phase_began: now,
            phases: Phases { head_us: head.as_micros() as u64, ..Phases::default() },
            origin: None,
            is_reused: false,
            is_head_known,
            stream: request.peer.slot.socket().stream_id(),
            attempts: 0,
            trace: request.trace.clone(),
            hedged: None,
            notes,
            quoted: None,
        };
        match SPARE.with_borrow_mut(VecDeque::pop_back) {
            Some(mut spare) => {
                let notes = mem::take(&mut spare.notes);
                *spare = line(notes);
                spare
            }
            None => Box::new(line(RefCell::default())),
        }
    }

    /// Keeps it for another exchange.
    pub(super) fn keep(mut self: Box<Self>) {
        self.notes.get_mut().clear();
        self.quoted = None;
        self.trace = None;
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push_back(self);
            }
        });
    }

    /// Notes the headers of the request that the log quotes.
    pub(super) fn note_request(&self, look: &Look, head: &RequestHead, text: &[u8]) {
        if self.is_head_known && !look.request_headers.is_empty() {
            let mut notes = self.notes.borrow_mut();
            let lines = head.fields.lines.of(text);
            notes.put_headers(Noted::RequestHeader, &look.request_headers, lines);
        }
    }

    /// Keeps what it quotes of a request beyond its end.
    pub(super) fn quote(&mut self, request: &Request<'_, impl ClientStream>) {
        let (head, text) = (&request.head, request.inbox.filled());
        self.quoted = Some(Quoted {
            client: request.peer.sender(),
            peer: request.peer.address,
            tls: request.peer.tls().cloned(),
            method: head.method_text.of(text).into(),
            host: head.authority.of(text).into(),
            target: head.plain_target(text).into(),
            version: head.version,
            user_agent: field(head, text, b"user-agent").into(),
            referer: field(head, text, b"referer").into(),
            memory_peak: request.peer.stats.peak_bytes(),
        });
    }
}

/// The value of the only field of that name.
pub(super) fn field<'t>(head: &RequestHead, text: &'t [u8], name: &'t [u8]) -> &'t [u8] {
    head.fields.only_value(text, name).unwrap_or_default()
}
