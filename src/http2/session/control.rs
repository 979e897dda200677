//! Frames that are about the connection, or about a stream as a whole.
//!
//! In go SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM and priorities; out come answers, in the
//! outbox, and events. Each of them is worth something to its sender and costs us something, so
//! each has a budget.

use super::stage::{NEXT_HEAD, Stage};
use super::streams::{End, ResetBy};
use super::{Session, frame_size_error, guard_error, protocol_error};
use crate::http2::error::{Cause, ConnectionError, ErrorCode, GuardReason, StreamError};
use crate::http2::frames::{
    ACK, FrameHead, FrameType, STREAM_MAX, WINDOW_DEFAULT, put_ping, put_rst_stream,
    put_settings_ack, read_u32,
};
use crate::http2::priority::Priority;
use crate::http2::{Event, Key, Role};
use crate::limits::{HTTP2_PRIORITY_BYTES_MAX, HTTP2_SETTINGS_MAX};

type Outcome<'i> = Result<Option<Event<'i>>, ConnectionError>;

impl Session {
    /// Judges a frame by its head; what of it is to be gathered.
    pub(super) fn begin_control<'i>(&mut self, head: FrameHead, now_ms: u64) -> Outcome<'i> {
        use FrameType as T;
        let is_of_connection =
            matches!(head.kind, T::Settings | T::Ping | T::GoAway | T::PriorityUpdate);
        let is_of_stream = matches!(head.kind, T::Priority | T::RstStream);
        if (is_of_connection && head.stream != 0) || (is_of_stream && head.stream == 0) {
            return Err(protocol_error(Cause::StreamIdentifier));
        }
        let is_ack = head.has(ACK);
        let fits = match head.kind {
            T::RstStream | T::WindowUpdate => head.length == 4,
            T::Settings if is_ack => head.length == 0,
            T::Settings => head.length.is_multiple_of(6),
            T::Ping => head.length == 8,
            T::GoAway => head.length >= 8,
            T::PriorityUpdate => head.length >= 4,
            _ => true,
        };
        if !fits {
            return Err(frame_size_error(Cause::FrameLength));
        }
        let wanted = match head.kind {
            T::PushPromise => return Err(protocol_error(Cause::Push)),
            T::PriorityUpdate if self.role == Role::Client => {
                return Err(protocol_error(Cause::Priority));
            }
            T::Settings if head.length > HTTP2_SETTINGS_MAX * 6 => {
                return Err(guard_error(GuardReason::SettingsCount));
            }
            T::GoAway => 8,
            T::PriorityUpdate => head.length.min(4 + HTTP2_PRIORITY_BYTES_MAX),
            T::Priority | T::Unknown => 0,
            _ => head.length,
        };
        let class = match head.kind {
            T::Settings => Some(GuardReason::Settings),
            T::Ping => Some(GuardReason::Ping),
            T::Priority | T::PriorityUpdate => Some(GuardReason::Priority),
            T::WindowUpdate => Some(GuardReason::WindowUpdates),
            T::GoAway | T::Unknown => Some(GuardReason::UnknownFrames),
            _ => None,
        };
        if let Some(class) = class {
            self.count(class, now_ms)?;
        }
        if head.kind == T::Priority && head.length != 5 {
            self.stage = Stage::Skip { left: head.length };
            return self.wrong_priority(head.stream, now_ms);
        }
        self.stage = if wanted == 0 && matches!(head.kind, T::Priority | T::Unknown) {
            if head.length == 0 { NEXT_HEAD } else { Stage::Skip { left: head.length } }
        } else {
            Stage::Payload { head, missing: wanted, skipped: head.length - wanted }
        };
        Ok(None)
    }

    /// A PRIORITY that is not five bytes long ends its stream (RFC 9113 §6.3), or the connection
    /// where there is no stream to end.
    fn wrong_priority<'i>(&mut self, id: u32, now_ms: u64) -> Outcome<'i> {
        let (code, cause) = (ErrorCode::FrameSizeError, Cause::FrameLength);
        match self.streams.find(id) {
            Some(key) => {
                let is_over = self.streams.get(key).is_none_or(|stream| stream.state.is_over());
                if is_over {
                    return Ok(None);
                }
                self.end_stream_by(key, StreamError { code, cause }, now_ms).map(Some)
            }
            None if self.is_idle(id) => Err(ConnectionError { code, cause }),
            None => Ok(None),
        }
    }

    /// Takes a frame that is whole, as far as it is wanted.
    pub(super) fn take_control<'i>(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        now_ms: u64,
    ) -> Outcome<'i> {
        match head.kind {
            FrameType::Settings if head.has(ACK) => self.settings_ack(),
            FrameType::Settings => self.settings(payload).map(Some),
            FrameType::Ping => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(payload);
                if head.has(ACK) {
                    return Ok(Some(Event::Pong { payload: bytes }));
                }
                put_ping(&mut self.out, true, bytes);
                Ok(None)
            }
            FrameType::GoAway => self.goaway(payload).map(Some),
            FrameType::WindowUpdate => {
                let increment = read_u32(payload, 0) & STREAM_MAX;
                if head.stream == 0 {
                    self.widen_all(increment)
                } else {
                    self.widen_one(head.stream, increment, now_ms)
                }
            }
            FrameType::RstStream => self.rst_stream(head.stream, payload, now_ms),
            FrameType::PriorityUpdate => self.priority_update(payload),
            _ => Ok(None),
        }
    }

    fn settings<'i>(&mut self, payload: &[u8]) -> Result<Event<'i>, ConnectionError> {
        let before = self.peer;
        self.peer.take(payload, self.role, !self.has_settings)?;
        self.has_settings = true;
        let by = i64::from(self.peer.stream_window) - i64::from(before.stream_window);
        if by != 0 {
            for stream in self.streams.iter_mut() {
                stream.send.shift(by).map_err(|_| window_overflow())?;
            }
        }
        // Our table is empty from the first moment that the peer's decoder has to be told.
        if self.peer.table_bytes < before.table_bytes && !self.is_table_gone {
            self.owes_table_update = true;
        }
        put_settings_ack(&mut self.out);
        Ok(Event::Settings)
    }

    fn settings_ack<'i>(&mut self) -> Outcome<'i> {
        let Some(left) = self.unacknowledged.checked_sub(1) else {
            return Err(protocol_error(Cause::SettingsAck));
        };
        self.unacknowledged = left;
        if self.are_terms_known {
            return Ok(None);
        }
        self.are_terms_known = true;
        let by = i64::from(self.terms.stream_window) - WINDOW_DEFAULT;
        for stream in self.streams.iter_mut() {
            stream.receive.shift(by);
        }
        self.decoder.limit_table(self.terms.table_bytes as usize);
        Ok(Some(Event::SettingsAcked))
    }

    fn goaway<'i>(&mut self, payload: &[u8]) -> Result<Event<'i>, ConnectionError> {
        let last = read_u32(payload, 0) & STREAM_MAX;
        let code = ErrorCode::of(read_u32(payload, 4));
        if self.goaway_taken.is_some_and(|before| last > before) {
            return Err(protocol_error(Cause::GoAway));
        }
        self.goaway_taken = Some(last);
        Ok(Event::GoAway { last, code })
    }

    fn widen_all<'i>(&mut self, increment: u32) -> Outcome<'i> {
        if increment == 0 {
            return Err(protocol_error(Cause::WindowIncrement));
        }
        let was_closed = self.send.room() == 0;
        self.send.shift(increment.into()).map_err(|_| window_overflow())?;
        let is_news = was_closed && self.send.room() > 0;
        Ok(is_news.then_some(Event::Writable { stream: None }))
    }

    fn widen_one<'i>(&mut self, id: u32, increment: u32, now_ms: u64) -> Outcome<'i> {
        let Some(key) = self.streams.find(id) else {
            return self.late(id, Cause::IdleStream);
        };
        let Some(stream) = self.streams.get_mut(key).filter(|stream| !stream.state.is_over())
        else {
            return Ok(None);
        };
        if increment == 0 {
            let code = ErrorCode::ProtocolError;
            let error = StreamError { code, cause: Cause::WindowIncrement };
            return self.end_stream_by(key, error, now_ms).map(Some);
        }
        let was_closed = stream.send.room() == 0;
        if stream.send.shift(increment.into()).is_err() {
            let code = ErrorCode::FlowControlError;
            let error = StreamError { code, cause: Cause::WindowOverflow };
            return self.end_stream_by(key, error, now_ms).map(Some);
        }
        let is_news = was_closed && stream.send.room() > 0;
        Ok(is_news.then_some(Event::Writable { stream: Some(key) }))
    }

    /// A frame that closes or widens a stream which is not there: it may have been on its way.
    fn late<'i>(&self, id: u32, idle: Cause) -> Outcome<'i> {
        if self.is_idle(id) { Err(protocol_error(idle)) } else { Ok(None) }
    }

    fn rst_stream<'i>(&mut self, id: u32, payload: &[u8], now_ms: u64) -> Outcome<'i> {
        let key = self.streams.find(id);
        let live = key.and_then(|key| self.streams.get_mut(key));
        let live = live.filter(|stream| stream.state.reset != Some(ResetBy::Peer));
        let (Some(key), Some(stream)) = (key, live) else {
            self.late(id, Cause::IdleStream)?;
            // A stream can be given up once: another time is no accident.
            self.count(GuardReason::LateFrames, now_ms)?;
            return Ok(None);
        };
        let was_over = stream.state.is_over();
        stream.state.reset = Some(ResetBy::Peer);
        // An origin gives up what we have asked for, once; a client what it has cost us to begin.
        if self.role == Role::Server {
            self.count(GuardReason::Resets, now_ms)?;
        }
        let code = ErrorCode::of(read_u32(payload, 0));
        let event = Event::Reset { stream: key, code, cause: Cause::ResetByPeer };
        Ok((!was_over).then_some(event))
    }

    fn priority_update<'i>(&mut self, payload: &[u8]) -> Outcome<'i> {
        let id = read_u32(payload, 0) & STREAM_MAX;
        if id & 1 == 0 {
            return Err(protocol_error(Cause::Priority));
        }
        let priority = Priority::read(&payload[4..]);
        if let Some(key) = self.streams.find(id) {
            let stream = self.streams.get_mut(key);
            let Some(stream) = stream.filter(|stream| stream.priority != priority) else {
                return Ok(None);
            };
            stream.priority = priority;
            return Ok(Some(Event::Reprioritized { stream: key, priority }));
        }
        if self.is_idle(id) {
            let same = self.early.iter().position(|(early, _)| *early == id);
            let at = same.unwrap_or(self.early.len() - 1);
            self.early[..=at].rotate_right(1);
            self.early[0] = (id, priority);
        }
        Ok(None)
    }

    /// Whether nobody has opened that stream, nor one above it.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match self.role {
            // Even streams would be pushed by a server, and never are.
            _ if id & 1 == 0 => true,
            Role::Server => id > self.last_id,
            Role::Client => id >= self.next_id,
        }
    }

    pub(super) fn count(&mut self, class: GuardReason, now_ms: u64) -> Result<(), ConnectionError> {
        self.guard.count(class, now_ms).map_err(guard_error)
    }

    /// Ends a stream for what the peer did.
    pub(super) fn end_stream_by<'i>(
        &mut self,
        key: Key,
        error: StreamError,
        now_ms: u64,
    ) -> Result<Event<'i>, ConnectionError> {
        put_rst_stream(&mut self.out, key.id(), error.code);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.state.reset = Some(ResetBy::Us);
        }
        self.count(GuardReason::Resets, now_ms)?;
        Ok(Event::Reset { stream: key, code: error.code, cause: error.cause })
    }

    /// Refuses a stream that nobody has seen.
    pub(super) fn reject<'i>(
        &mut self,
        id: u32,
        error: StreamError,
        now_ms: u64,
    ) -> Result<Event<'i>, ConnectionError> {
        put_rst_stream(&mut self.out, id, error.code);
        self.streams.remember(id, End::ResetByUs);
        self.count(GuardReason::Resets, now_ms)?;
        Ok(Event::Rejected { id, code: error.code, cause: error.cause })
    }
}

fn window_overflow() -> ConnectionError {
    ConnectionError { code: ErrorCode::FlowControlError, cause: Cause::WindowOverflow }
}
