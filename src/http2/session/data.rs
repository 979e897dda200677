//! Bodies as they come: DATA, and the windows that it fills.
//!
//! In go frames of DATA piece by piece; out come pieces of bodies, which are parts of the input.
//! The length of a frame fills both windows when it begins, padding included; what nobody will read
//! is given back at once, what a holder gets when the holder says so.

use super::heads::{closed_stream, end_of_body, wrong_length};
use super::stage::{Flowing, NEXT_HEAD, Stage};
use super::streams::{End, ResetBy, UNANNOUNCED};
use super::{Session, frame_size_error, protocol_error};
use crate::http2::error::{Cause, ConnectionError, ErrorCode, GuardReason, StreamError};
use crate::http2::frames::{END_STREAM, FrameHead, PADDED, put_window_update};
use crate::http2::{Event, Key};

type Outcome<'i> = Result<Option<Event<'i>>, ConnectionError>;

impl Session {
    pub(super) fn begin_data<'i>(&mut self, head: FrameHead, now_ms: u64) -> Outcome<'i> {
        if head.stream == 0 {
            return Err(protocol_error(Cause::StreamIdentifier));
        }
        let is_padded = head.has(PADDED);
        if is_padded && head.length == 0 {
            return Err(frame_size_error(Cause::FrameLength));
        }
        if !self.receive.fill(head.length) {
            let code = ErrorCode::FlowControlError;
            return Err(ConnectionError { code, cause: Cause::Window });
        }
        self.give_back(None, 0);
        let flowing = Flowing {
            key: self.streams.find(head.stream),
            left: head.length,
            padding: 0,
            is_end: head.has(END_STREAM),
            is_padding_unknown: is_padded,
        };
        let Some(key) = flowing.key else {
            return self.late_data(head, flowing, now_ms);
        };
        let accepted = self.accept(key, head.length)?;
        let refused = match accepted {
            Accepted::Yes => {
                self.stage = Stage::Data(flowing);
                return if is_padded { Ok(None) } else { self.check_data(flowing, now_ms) };
            }
            Accepted::Late => return self.late_data(head, flowing, now_ms),
            Accepted::Refused(error) => error,
        };
        self.throw_away(flowing, head.length);
        self.end_stream_by(key, refused, now_ms).map(Some)
    }

    /// Nobody will read what is left of a frame. Its window is opened at once, not as it comes, so
    /// that this does not depend on how it comes.
    fn throw_away(&mut self, flowing: Flowing, bytes: u32) {
        self.stage = Stage::Data(Flowing { key: None, ..flowing });
        self.give_back(None, bytes);
    }

    /// Whether a stream takes a frame of so many bytes.
    fn accept(&mut self, key: Key, bytes: u32) -> Result<Accepted, ConnectionError> {
        let is_client = self.role == crate::http2::Role::Client;
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(Accepted::Late);
        };
        let state = stream.state;
        let refused = |code, cause| Ok(Accepted::Refused(StreamError { code, cause }));
        match state.reset {
            Some(ResetBy::Us) => return Ok(Accepted::Late),
            Some(ResetBy::Peer) => return Err(closed_stream()),
            None if state.has_peer_ended && state.have_we_ended => return Err(closed_stream()),
            None if state.has_peer_ended => {
                return refused(ErrorCode::StreamClosed, Cause::ClosedStream);
            }
            None => {}
        }
        if is_client && !state.is_answered {
            return refused(ErrorCode::ProtocolError, Cause::IdleStream);
        }
        if !stream.receive.fill(bytes) {
            return refused(ErrorCode::FlowControlError, Cause::Window);
        }
        Ok(Accepted::Yes)
    }

    /// DATA for a stream that is not there, or that we have reset.
    fn late_data<'i>(&mut self, head: FrameHead, flowing: Flowing, now_ms: u64) -> Outcome<'i> {
        if flowing.key.is_none() {
            if self.is_idle(head.stream) {
                return Err(protocol_error(Cause::IdleStream));
            }
            if matches!(self.streams.end_of(head.stream), End::ByPeer | End::Skipped) {
                return Err(closed_stream());
            }
        }
        // What was on its way is as much as a window: only frames without payload cost nothing.
        if head.length == 0 {
            self.count(GuardReason::LateFrames, now_ms)?;
        }
        self.throw_away(flowing, head.length);
        Ok(None)
    }

    /// Judges a frame whose payload is known to have `left` bytes.
    fn check_data<'i>(&mut self, flowing: Flowing, now_ms: u64) -> Outcome<'i> {
        if flowing.left == 0 && !flowing.is_end {
            self.count(GuardReason::EmptyData, now_ms)?;
        }
        let live = flowing.key.and_then(|key| Some((key, self.streams.get_mut(key)?)));
        let Some((key, stream)) = live.filter(|(_, stream)| stream.state.reset.is_none()) else {
            return Ok(None);
        };
        if stream.left == UNANNOUNCED {
            return Ok(None);
        }
        let left = stream.left.checked_sub(flowing.left.into());
        let Some(left) = left.filter(|left| *left == 0 || !flowing.is_end) else {
            self.throw_away(flowing, flowing.left);
            return self.end_stream_by(key, wrong_length(), now_ms).map(Some);
        };
        stream.left = left;
        Ok(None)
    }

    /// Takes the next piece of a frame.
    pub(super) fn flow_on<'i>(
        &mut self,
        mut flowing: Flowing,
        input: &mut &'i [u8],
        now_ms: u64,
    ) -> Outcome<'i> {
        if flowing.is_padding_unknown {
            let Some((padding, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            flowing.is_padding_unknown = false;
            flowing.padding = u32::from(*padding);
            let left = (flowing.left - 1).checked_sub(flowing.padding);
            flowing.left = left.ok_or(protocol_error(Cause::Padding))?;
            self.stage = Stage::Data(flowing);
            if flowing.key.is_some() {
                self.give_back(flowing.key, flowing.padding + 1);
            }
            return self.check_data(flowing, now_ms);
        }
        let part = input.len().min(flowing.left as usize);
        let (bytes, rest) = input.split_at(part);
        *input = rest;
        flowing.left -= part as u32;
        if flowing.left == 0 {
            let padding = rest.len().min(flowing.padding as usize);
            *input = &rest[padding..];
            flowing.padding -= padding as u32;
        }
        let is_end = flowing.is_end && flowing.is_done();
        let event = self.hand_over(&mut flowing, bytes, is_end);
        self.stage = if flowing.is_done() { NEXT_HEAD } else { Stage::Data(flowing) };
        Ok(event)
    }

    /// Gives a piece to who holds its stream.
    fn hand_over<'i>(
        &mut self,
        flowing: &mut Flowing,
        bytes: &'i [u8],
        is_end: bool,
    ) -> Option<Event<'i>> {
        let key = flowing.key?;
        let live = self.streams.get_mut(key).filter(|stream| stream.state.reset.is_none());
        let Some(stream) = live else {
            // It was given up since the frame began.
            flowing.key = None;
            self.give_back(None, bytes.len() as u32 + flowing.left);
            return None;
        };
        stream.held += bytes.len() as u32;
        if is_end {
            let ended = end_of_body(stream);
            debug_assert!(ended.is_ok(), "lengths were compared when the frame began");
        }
        (is_end || !bytes.is_empty()).then_some(Event::Data { stream: key, bytes, is_end })
    }

    /// Opens windows for bytes that are used up: the connection's, and that of a stream from which
    /// more may come.
    fn give_back(&mut self, key: Option<Key>, bytes: u32) {
        if let Some(more) = self.receive.give_back_shared(bytes) {
            put_window_update(&mut self.out, 0, more);
        }
        let stream = key.and_then(|key| self.streams.get_mut(key));
        let is_open = |state: super::streams::State| state.reset.is_none() && !state.has_peer_ended;
        if let Some(stream) = stream.filter(|stream| is_open(stream.state))
            && let Some(more) = stream.receive.give_back(bytes)
        {
            put_window_update(&mut self.out, stream.id, more);
        }
    }

    /// The holder of a stream has passed on, or thrown away, so many bytes of its body. True: it
    /// keeps up with a body that goes on, and the sender has just been given what was used.
    pub(crate) fn taken(&mut self, key: Key, bytes: usize) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(stream.held);
        stream.held -= bytes;
        self.give_back(Some(key), bytes);
        let stream = self.streams.get(key).filter(|stream| !stream.state.has_peer_ended);
        bytes > 0 && stream.is_some_and(|stream| stream.held == 0 && stream.receive.is_whole())
    }

    /// What a stream's sender may have on its way.
    pub(crate) fn stream_window(&self, key: Key) -> u32 {
        self.streams.get(key).map_or(0, |stream| stream.receive.size())
    }

    /// What the peer may have on its way; what of that may still come, and what has come and nobody
    /// has taken.
    pub(crate) fn connection_window(&self) -> (u32, u32, u32) {
        (self.receive.size(), self.receive.left(), self.receive.unused())
    }

    /// Lets a stream's sender have more on its way, from now on.
    pub(crate) fn widen_stream(&mut self, key: Key, window: u32) {
        let stream = self.streams.get_mut(key);
        let Some(stream) = stream.filter(|it| !it.state.is_over() && !it.state.has_peer_ended)
        else {
            return;
        };
        if let Some(more) = stream.receive.widen(window) {
            put_window_update(&mut self.out, stream.id, more);
        }
    }

    /// Lets the peer have more on its way, from now on.
    pub(crate) fn widen_connection(&mut self, window: u32) {
        if let Some(more) = self.receive.widen(window) {
            put_window_update(&mut self.out, 0, more);
        }
    }

    /// Lets all of them together have less again, as far as that may be; how much less.
    pub(crate) fn narrow_connection(&mut self, window: u32) -> u32 {
        self.receive.narrow(window)
    }
}

enum Accepted {
    Yes,
    /// We have reset it: the frame may have been on its way.
    Late,
    Refused(StreamError),
}
