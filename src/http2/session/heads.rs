//! Heads as they come: HEADERS and CONTINUATION, and what they are for their stream.
//!
//! In go frames that carry parts of a block; out come requests, responses and trailers, as text. A
//! block is always decoded, also that of a stream which is refused, was reset or has long ended,
//! because all blocks share a table. What is no message ends its stream, and nobody hears of it
//! but by that.

use super::stage::{OpenBlock, Stage};
use super::streams::{End, ResetBy, Stream, UNANNOUNCED};
use super::terms::Terms;
use super::{Session, emptied, frame_size_error, guard_error, protocol_error};
use crate::http2::error::{Cause, ConnectionError, ErrorCode, GuardReason, Malformed, StreamError};
use crate::http2::fields::{Expected, Message, NoMessage, Oversize, Reader, RequestKind};
use crate::http2::flow::{ReceiveWindow, SendWindow};
use crate::http2::frames::{
    END_HEADERS, END_STREAM, FrameHead, FrameType, PADDED, PRIORITY, WINDOW_DEFAULT,
};
use crate::http2::{Body, Event, Key, Role};
use crate::limits::HTTP2_CONTINUATIONS_MAX;

type Outcome<'i> = Result<Option<Event<'i>>, ConnectionError>;

impl Session {
    pub(super) fn begin_headers(&mut self, head: FrameHead) -> Result<(), ConnectionError> {
        if head.stream == 0 {
            return Err(protocol_error(Cause::StreamIdentifier));
        }
        if head.length > self.terms.block_bytes_max {
            return Err(guard_error(GuardReason::BlockBytes));
        }
        self.stage = Stage::Payload { head, missing: head.length, skipped: 0 };
        Ok(())
    }

    pub(super) fn begin_continuation(&mut self, head: FrameHead) -> Result<(), ConnectionError> {
        let Some(block) = &mut self.block else {
            return Err(protocol_error(Cause::Continuation));
        };
        if head.kind != FrameType::Continuation || head.stream != block.stream {
            return Err(protocol_error(Cause::Continuation));
        }
        block.continuations += 1;
        if block.continuations > HTTP2_CONTINUATIONS_MAX {
            return Err(guard_error(GuardReason::ContinuationCount));
        }
        if self.fragments.len() + head.length as usize > self.terms.block_bytes_max as usize {
            return Err(guard_error(GuardReason::BlockBytes));
        }
        self.stage = Stage::Payload { head, missing: head.length, skipped: 0 };
        Ok(())
    }

    /// Takes a frame of a block, and reads the block where it is the last.
    pub(super) fn take_block<'i>(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Outcome<'i> {
        let (block, fragment) = if let Some(block) = self.block.take() {
            (block, payload)
        } else {
            let is_end = head.has(END_STREAM);
            let block = OpenBlock { stream: head.stream, is_end, continuations: 0 };
            (block, fragment(head, payload)?)
        };
        let is_whole = head.has(END_HEADERS);
        if is_whole && self.fragments.is_empty() {
            return self.read_block(block, fragment, text, now_ms);
        }
        self.fragments.extend_from_slice(fragment);
        if !is_whole {
            self.block = Some(block);
            return Ok(None);
        }
        let fragments = std::mem::take(&mut self.fragments);
        let event = self.read_block(block, &fragments, text, now_ms);
        self.fragments = emptied(fragments);
        event
    }

    /// Decides what a block is for its stream.
    fn read_block<'i>(
        &mut self,
        block: OpenBlock,
        bytes: &[u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Outcome<'i> {
        let id = block.stream;
        if let Some(key) = self.streams.find(id) {
            return self.read_for_stream(key, block.is_end, bytes, text, now_ms);
        }
        if self.is_idle(id) {
            if self.role == Role::Client || id & 1 == 0 {
                return Err(protocol_error(Cause::StreamOrder));
            }
            self.last_id = id;
            return self.read_request(id, block.is_end, bytes, text, now_ms);
        }
        match self.streams.end_of(id) {
            End::Skipped => Err(protocol_error(Cause::StreamOrder)),
            End::ByPeer => Err(closed_stream()),
            End::ResetByUs | End::Forgotten => {
                self.pass_over(bytes, text)?;
                self.count(GuardReason::LateFrames, now_ms)?;
                Ok(None)
            }
        }
    }

    fn read_for_stream<'i>(
        &mut self,
        key: Key,
        is_end: bool,
        bytes: &[u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Outcome<'i> {
        let Some(stream) = self.streams.get(key) else {
            return Ok(None);
        };
        let state = stream.state;
        match state.reset {
            Some(ResetBy::Peer) => return Err(closed_stream()),
            Some(ResetBy::Us) => {
                self.pass_over(bytes, text)?;
                self.count(GuardReason::LateFrames, now_ms)?;
                return Ok(None);
            }
            None => {}
        }
        if state.has_peer_ended {
            if state.have_we_ended {
                return Err(closed_stream());
            }
            self.pass_over(bytes, text)?;
            let error = StreamError { code: ErrorCode::StreamClosed, cause: Cause::ClosedStream };
            return self.end_stream_by(key, error, now_ms).map(Some);
        }
        let is_response = self.role == Role::Client && !state.is_answered;
        let expected = if is_response { Expected::Response } else { Expected::Trailers };
        let read = self.decode(expected, bytes, text)?;
        if matches!(&read, Ok(message) if is_response && message.status < 200) {
            self.count(GuardReason::InterimResponses, now_ms)?;
        }
        let taken = match read {
            _ if state.is_tunnel && !is_response => Err(malformed(Malformed::InTunnel)),
            Err(no_message) => Err(refusal(no_message)),
            Ok(message) if is_response => self.take_response(key, is_end, &message),
            Ok(message) => self.take_trailers(key, is_end, &message),
        };
        match taken {
            Ok(event) => Ok(Some(event)),
            Err(error) => self.end_stream_by(key, error, now_ms).map(Some),
        }
    }

    fn take_response<'i>(
        &mut self,
        key: Key,
        is_end: bool,
        message: &Message,
    ) -> Result<Event<'i>, StreamError> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Err(malformed(Malformed::Pseudo));
        };
        let (head, status) = (message.text.clone(), message.status);
        if status < 200 {
            if is_end {
                return Err(malformed(Malformed::EndMissing));
            }
            return Ok(Event::Response { stream: key, head, status, body: Body::Open });
        }
        let state = &mut stream.state;
        state.is_answered = true;
        let has_no_body = state.is_head_request || matches!(status, 204 | 304);
        state.is_tunnel &= (200..300).contains(&status);
        let is_tunnel = state.is_tunnel;
        stream.left = match message.length {
            _ if has_no_body => 0,
            _ if is_tunnel => UNANNOUNCED,
            Some(length) => length,
            None => UNANNOUNCED,
        };
        if is_end {
            end_of_body(stream)?;
        }
        let body = body(stream, is_end);
        Ok(Event::Response { stream: key, head, status, body })
    }

    fn take_trailers<'i>(
        &mut self,
        key: Key,
        is_end: bool,
        message: &Message,
    ) -> Result<Event<'i>, StreamError> {
        let Some(stream) = self.streams.get_mut(key).filter(|_| is_end) else {
            return Err(malformed(Malformed::EndMissing));
        };
        end_of_body(stream)?;
        Ok(Event::Trailers { stream: key, lines: message.text.clone() })
    }

    fn read_request<'i>(
        &mut self,
        id: u32,
        is_end: bool,
        bytes: &[u8],
        text: &mut Vec<u8>,
        now_ms: u64,
    ) -> Outcome<'i> {
        let refused = match self.goaway_sent {
            Some(last) if id > last => Some(Cause::Draining),
            _ if self.streams.count() >= self.terms.streams_max => Some(Cause::TooManyStreams),
            _ => None,
        };
        if let Some(cause) = refused {
            self.pass_over(bytes, text)?;
            let error = StreamError { code: ErrorCode::RefusedStream, cause };
            return self.reject(id, error, now_ms).map(Some);
        }
        let Terms { allows_protocol, is_absolute, .. } = *self.terms;
        let expected = Expected::Request { allows_protocol, is_absolute };
        let read = match self.decode(expected, bytes, text)? {
            Ok(message) => self.take_request(id, is_end, message),
            Err(NoMessage::Oversize(what)) => {
                let stream = self.open_slot(id, is_end);
                let is_head = self.is_oversize_head;
                Ok(Event::Oversize { stream, what, is_head, is_end })
            }
            Err(no_message) => Err(refusal(no_message)),
        };
        match read {
            Ok(event) => {
                self.guard.earn_by_request();
                Ok(Some(event))
            }
            Err(error) => self.reject(id, error, now_ms).map(Some),
        }
    }

    fn take_request<'i>(
        &mut self,
        id: u32,
        is_end: bool,
        message: Message,
    ) -> Result<Event<'i>, StreamError> {
        let is_plain = message.kind == RequestKind::Plain;
        let left = message.length.filter(|_| is_plain).unwrap_or(UNANNOUNCED);
        if is_end && left != 0 && left != UNANNOUNCED {
            return Err(wrong_length());
        }
        let early = self.early.iter_mut().find(|(early, _)| *early == id);
        let early = early.map(|early| std::mem::take(early).1);
        let priority = early.or(message.priority).unwrap_or_default();
        let key = self.open_slot(id, is_end);
        let mut kept = Body::Open;
        if let Some(stream) = self.streams.get_mut(key) {
            (stream.left, stream.priority) = (left, priority);
            stream.state.is_tunnel = !is_plain;
            kept = body(stream, is_end);
        }
        Ok(Event::Request {
            stream: key,
            head: message.text,
            kind: message.kind,
            protocol: message.protocol,
            body: kept,
            priority,
        })
    }

    fn open_slot(&mut self, id: u32, has_peer_ended: bool) -> Key {
        let mut stream = self.fresh_stream(id);
        stream.state.has_peer_ended = has_peer_ended;
        self.streams.insert(stream)
    }

    pub(super) fn fresh_stream(&self, id: u32) -> Stream {
        let ours = self.terms.stream_window;
        // Before the peer has acknowledged our settings it goes by the default.
        let left = if self.are_terms_known { i64::from(ours) } else { WINDOW_DEFAULT };
        let send = SendWindow::new(self.peer.stream_window.into());
        Stream::new(id, send, ReceiveWindow::new(left, ours))
    }

    /// Decodes a block that nobody will read.
    fn pass_over(&mut self, bytes: &[u8], text: &mut Vec<u8>) -> Result<(), ConnectionError> {
        self.decode(Expected::Nothing, bytes, text).map(|_| ())
    }

    /// Decodes a block to its end.
    fn decode(
        &mut self,
        expected: Expected,
        bytes: &[u8],
        text: &mut Vec<u8>,
    ) -> Result<Result<Message, NoMessage>, ConnectionError> {
        let mut reader = Reader::new(expected, self.terms.head, text);
        let string_max = self.terms.head.bytes as usize;
        let decoded = self.decoder.decode(bytes, text, string_max, &mut reader);
        decoded.map_err(|error| ConnectionError {
            code: ErrorCode::CompressionError,
            cause: Cause::Compression(error),
        })?;
        let is_head = reader.is_oversize() && reader.is_head_request(text);
        self.is_oversize_head = is_head;
        Ok(reader.finish(text))
    }
}

/// What of HEADERS is a block (RFC 9113 §6.2). Priorities of RFC 7540 are passed over.
fn fragment(head: FrameHead, payload: &[u8]) -> Result<&[u8], ConnectionError> {
    let mut rest = payload;
    let mut padding = 0;
    if head.has(PADDED) {
        let (bytes, behind) = rest.split_first().ok_or(frame_size_error(Cause::FrameLength))?;
        (padding, rest) = (usize::from(*bytes), behind);
    }
    if head.has(PRIORITY) {
        rest = rest.get(5..).ok_or(frame_size_error(Cause::FrameLength))?;
    }
    let bytes = rest.len().checked_sub(padding).ok_or(protocol_error(Cause::Padding))?;
    Ok(&rest[..bytes])
}

/// The peer has ended a body: all of it must have come.
pub(super) fn end_of_body(stream: &mut Stream) -> Result<(), StreamError> {
    stream.state.has_peer_ended = true;
    if stream.left == 0 || stream.left == UNANNOUNCED { Ok(()) } else { Err(wrong_length()) }
}

fn body(stream: &Stream, is_end: bool) -> Body {
    match stream.left {
        _ if is_end => Body::Empty,
        UNANNOUNCED => Body::Open,
        left => Body::Sized(left),
    }
}

pub(super) fn wrong_length() -> StreamError {
    StreamError { code: ErrorCode::ProtocolError, cause: Cause::BodyLength }
}

fn malformed(malformed: Malformed) -> StreamError {
    StreamError { code: ErrorCode::ProtocolError, cause: Cause::Message(malformed) }
}

fn refusal(no_message: NoMessage) -> StreamError {
    match no_message {
        NoMessage::Malformed(reason) => malformed(reason),
        NoMessage::Oversize(Oversize::Bytes | Oversize::Count) => {
            StreamError { code: ErrorCode::EnhanceYourCalm, cause: Cause::HeadSize }
        }
    }
}

pub(super) fn closed_stream() -> ConnectionError {
    ConnectionError { code: ErrorCode::StreamClosed, cause: Cause::ClosedStream }
}
