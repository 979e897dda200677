//! One connection: its bytes in, its events out, and what it has to say.
//!
//! In go the bytes that come, in any pieces, and what the caller has to say (`sending`); out come
//! events, one by one, and bytes in an outbox. Each frame is judged as soon as its nine first bytes
//! have come, as far as those tell; a body is passed on as it comes, everything else when it is
//! whole. After an error there is a GOAWAY in the outbox, and nothing else happens any more.

mod control;
mod data;
mod heads;
pub(crate) mod sending;
mod stage;
mod streams;
pub(crate) mod terms;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use self::stage::{NEXT_HEAD, OpenBlock, Stage};
use self::streams::Streams;
use self::terms::{PeerSettings, Terms};
use super::error::{Cause, ConnectionError, ErrorCode, GuardReason};
use super::flow::{ReceiveWindow, SendWindow};
use super::frames::{
    ACK, FRAME_BYTES_DEFAULT, FRAME_HEAD_BYTES, FrameHead, FrameType, PREFACE, WINDOW_DEFAULT,
    put_goaway, put_settings, put_window_update,
};
use super::guard::Guard;
use super::hpack::decode::Decoder;
use super::{Event, Role};
use crate::limits::{HTTP2_CONTROL_BYTES_MAX, HTTP2_EARLY_PRIORITIES_MAX};

/// A connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Session {
    role: Role,
    terms: Rc<Terms>,
    stage: Stage,
    /// What has come of a frame that is not whole.
    partial: Vec<u8>,
    /// A head of which frames are missing, and what has come of it.
    block: Option<OpenBlock>,
    fragments: Vec<u8>,
    decoder: Decoder,
    streams: Streams,
    peer: PeerSettings,
    send: SendWindow,
    receive: ReceiveWindow,
    guard: Guard,
    out: Vec<u8>,
    /// What of `out` the caller has sent.
    sent: usize,
    /// Where the outbox's bytes begin in its buffer.
    out_begin: usize,
    /// What the peer's frames have had us say since, less what was sent. Streams have other bounds.
    answered: usize,
    /// The highest stream that the peer has opened, and the next that we open.
    last_id: u32,
    next_id: u32,
    /// The last streams that GOAWAY named, of the peer's and of ours.
    goaway_sent: Option<u32>,
    goaway_taken: Option<u32>,
    /// Priorities that came before their streams.
    early: [(u32, super::priority::Priority); HTTP2_EARLY_PRIORITIES_MAX],
    /// Settings of ours that are not acknowledged.
    unacknowledged: u8,
    are_terms_known: bool,
    has_settings: bool,
    /// The peer's decoder must be told that our table is empty (RFC 7541 §4.2).
    owes_table_update: bool,
    /// The peer has been told so, and its limits mean nothing any more.
    is_table_gone: bool,
    /// The head that was decoded last is that of a HEAD, and too large.
    is_oversize_head: bool,
    failed: Option<ConnectionError>,
}

impl Session {
    /// A connection that has just been opened; what it begins with is pending at once.
    pub(crate) fn new(role: Role, terms: Rc<Terms>, now_ms: u64) -> Self {
        let mut out = Vec::new();
        if role == Role::Client {
            out.extend_from_slice(PREFACE);
        }
        put_settings(&mut out, &terms.announced(role));
        let mut receive = ReceiveWindow::new(WINDOW_DEFAULT, WINDOW_DEFAULT as u32);
        if let Some(more) = receive.widen(terms.connection_window) {
            put_window_update(&mut out, 0, more);
        }
        Self {
            role,
            stage: if role == Role::Server { Stage::Preface { matched: 0 } } else { NEXT_HEAD },
            partial: Vec::new(),
            block: None,
            fragments: Vec::new(),
            decoder: Decoder::default(),
            streams: Streams::default(),
            peer: PeerSettings::default(),
            send: SendWindow::default(),
            receive,
            guard: Guard::new(terms.resets, now_ms),
            out,
            sent: 0,
            out_begin: 0,
            answered: 0,
            last_id: 0,
            next_id: 1,
            goaway_sent: None,
            goaway_taken: None,
            early: [(0, super::priority::Priority::default()); HTTP2_EARLY_PRIORITIES_MAX],
            unacknowledged: 1,
            are_terms_known: false,
            has_settings: false,
            owes_table_update: false,
            is_table_gone: false,
            is_oversize_head: false,
            failed: None,
            terms,
        }
    }

    /// The next event of `input`, which is shortened by what was read; none: all of it was. Heads
    /// and trailers are appended to `text`. `now_ms` is any clock that goes on.
    pub(crate) fn next<'i>(
        &mut self,
        input: &mut &'i [u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Result<Option<Event<'i>>, ConnectionError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let event = self.read(input, text, now_ms);
        if let Err(error) = event {
            self.failed = Some(error);
            put_goaway(&mut self.out, self.last_id, error.code);
        }
        event
    }

    fn read<'i>(
        &mut self,
        input: &mut &'i [u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Result<Option<Event<'i>>, ConnectionError> {
        loop {
            let event = match self.stage {
                Stage::Head { .. } => {
                    let Some(head) = self.frame_head(input) else {
                        return Ok(None);
                    };
                    self.begin(head, now_ms)?
                }
                Stage::Payload { head, missing, skipped } => {
                    if !self.gather(head, missing, skipped, input) {
                        return Ok(None);
                    }
                    self.whole(head, missing, input, text, now_ms)?
                }
                Stage::Data(flowing) => {
                    if input.is_empty() && !flowing.is_done() {
                        return Ok(None);
                    }
                    self.flow_on(flowing, input, now_ms)?
                }
                Stage::Skip { left } => {
                    let part = input.len().min(left as usize);
                    *input = &input[part..];
                    if part < left as usize {
                        self.stage = Stage::Skip { left: left - part as u32 };
                        return Ok(None);
                    }
                    self.stage = NEXT_HEAD;
                    None
                }
                Stage::Preface { matched } => {
                    if !self.preface(matched, input)? {
                        return Ok(None);
                    }
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Whether the whole preface has come.
    fn preface(&mut self, matched: u8, input: &mut &[u8]) -> Result<bool, ConnectionError> {
        let expected = &PREFACE[usize::from(matched)..];
        let part = expected.len().min(input.len());
        if input[..part] != expected[..part] {
            return Err(protocol_error(Cause::Preface));
        }
        *input = &input[part..];
        let is_whole = part == expected.len();
        self.stage =
            if is_whole { NEXT_HEAD } else { Stage::Preface { matched: matched + part as u8 } };
        Ok(is_whole)
    }

    /// The next frame's head, when all of it has come.
    #[inline]
    fn frame_head(&mut self, input: &mut &[u8]) -> Option<FrameHead> {
        let Stage::Head { bytes, count } = &mut self.stage else {
            return None;
        };
        if *count == 0
            && let Some((head, rest)) = input.split_first_chunk::<FRAME_HEAD_BYTES>()
        {
            *input = rest;
            return Some(FrameHead::read(head));
        }
        let missing = &mut bytes[usize::from(*count)..];
        let part = missing.len().min(input.len());
        missing[..part].copy_from_slice(&input[..part]);
        *input = &input[part..];
        *count += part as u8;
        (usize::from(*count) == FRAME_HEAD_BYTES).then(|| FrameHead::read(bytes))
    }

    /// Judges a frame by its head, and says how it goes on.
    fn begin<'i>(
        &mut self,
        head: FrameHead,
        now_ms: u64,
    ) -> Result<Option<Event<'i>>, ConnectionError> {
        if head.length > FRAME_BYTES_DEFAULT {
            return Err(frame_size_error(Cause::FrameTooLong));
        }
        if self.block.is_some() || head.kind == FrameType::Continuation {
            self.begin_continuation(head)?;
            return Ok(None);
        }
        if !self.has_settings && (head.kind != FrameType::Settings || head.has(ACK)) {
            return Err(protocol_error(Cause::NoSettings));
        }
        match head.kind {
            FrameType::Data => return self.begin_data(head, now_ms),
            FrameType::Headers => self.begin_headers(head)?,
            _ => return self.begin_control(head, now_ms),
        }
        Ok(None)
    }

    /// Takes what has come of a frame. True: all that is wanted of it is there, either at the
    /// front of `input`, where nothing was kept before, or in `partial`.
    #[inline]
    fn gather(&mut self, head: FrameHead, missing: u32, skipped: u32, input: &mut &[u8]) -> bool {
        let wanted = missing as usize;
        if self.partial.is_empty() && input.len() >= wanted {
            return true;
        }
        let part = wanted.min(input.len());
        self.partial.extend_from_slice(&input[..part]);
        *input = &input[part..];
        let missing = missing - part as u32;
        self.stage = Stage::Payload { head, missing, skipped };
        missing == 0
    }

    /// Reads a frame that is whole.
    fn whole<'i>(
        &mut self,
        head: FrameHead,
        missing: u32,
        input: &mut &'i [u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Result<Option<Event<'i>>, ConnectionError> {
        let Stage::Payload { skipped, .. } = self.stage else {
            return Ok(None);
        };
        self.stage = if skipped > 0 { Stage::Skip { left: skipped } } else { NEXT_HEAD };
        if self.partial.is_empty() {
            let (payload, rest) = input.split_at(missing as usize);
            *input = rest;
            return self.take(head, payload, text, now_ms);
        }
        let partial = std::mem::take(&mut self.partial);
        let event = self.take(head, &partial, text, now_ms);
        self.partial = emptied(partial);
        event
    }

    fn take<'i>(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Result<Option<Event<'i>>, ConnectionError> {
        let before = self.out.len();
        let event = match head.kind {
            FrameType::Headers | FrameType::Continuation => {
                self.take_block(head, payload, text, now_ms)?
            }
            _ => self.take_control(head, payload, now_ms)?,
        };
        self.answered += self.out.len() - before;
        if self.answered > HTTP2_CONTROL_BYTES_MAX {
            return Err(guard_error(GuardReason::Outbox));
        }
        Ok(event)
    }
}

/// A buffer to be used again, unless something uncommon has made it large.
fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > KEPT_BYTES_MAX {
        return Vec::new();
    }
    buffer.clear();
    buffer
}

/// Most heads are smaller.
const KEPT_BYTES_MAX: usize = 4096;

fn protocol_error(cause: Cause) -> ConnectionError {
    ConnectionError { code: ErrorCode::ProtocolError, cause }
}

fn frame_size_error(cause: Cause) -> ConnectionError {
    ConnectionError { code: ErrorCode::FrameSizeError, cause }
}

fn guard_error(reason: GuardReason) -> ConnectionError {
    ConnectionError { code: ErrorCode::EnhanceYourCalm, cause: Cause::Guard(reason) }
}
