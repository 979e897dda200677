//! What we have to say: heads, bodies, trailers, and that we will say no more.
//!
//! In go the caller's words for a stream or the connection; out come frames, in the outbox, in the
//! order in which they were said. Bodies are sent within the windows, by the caller's own bytes;
//! nothing is said for a stream that has ended.

use std::mem;

use super::Session;
use super::stage::Stage;
use super::streams::{ResetBy, Stream};
use super::terms::PeerSettings;
use crate::http2::error::ErrorCode;
use crate::http2::frames::{
    END_STREAM, FRAME_HEAD_BYTES, FrameType, STREAM_MAX, frame_block, frame_head, put_goaway,
    put_ping, put_rst_stream, put_window_update,
};
use crate::http2::hpack::encode::{Block, Question, QuestionKind};
use crate::http2::priority::Priority;
use crate::http2::{Key, Role};

/// The stream has ended, by whoever's doing: nothing was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Why no stream was opened. Nothing was said: another connection may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// As many as the peer allows are open.
    Full,
    /// The peer takes no more, or the connection has failed.
    Leaving,
    /// There are no numbers left.
    UsedUp,
}

impl Session {
    /// What is to be sent.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So many bytes of what was pending are sent.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.out.len());
        self.answered = self.answered.saturating_sub(bytes);
        if self.sent == self.out.len() {
            self.out.truncate(self.out_begin);
            self.sent = self.out_begin;
        } else if self.sent - self.out_begin >= (self.out.len() - self.out_begin) / 2 {
            self.out.drain(self.out_begin..self.sent);
            self.sent = self.out_begin;
        }
    }

    /// Swaps the outbox's buffer for `buffer`, whose first `lead` bytes stay unused: who lends one
    /// for as long as there is much to say takes it back by another. Both are empty.
    pub(crate) fn swap_outbox(&mut self, mut buffer: Vec<u8>, lead: usize) -> Vec<u8> {
        debug_assert!(buffer.is_empty());
        buffer.resize(lead, 0);
        buffer.extend_from_slice(self.pending());
        (self.out_begin, self.sent) = (lead, lead);
        let mut before = mem::replace(&mut self.out, buffer);
        before.clear();
        before
    }

    /// Bytes for which the outbox has memory.
    pub(crate) fn outbox_bytes(&self) -> usize {
        self.out.capacity()
    }

    /// Bytes of a body that may be sent now, in one frame.
    #[inline]
    pub(crate) fn room(&self, key: Key) -> usize {
        self.window(key).min(self.peer.frame_bytes_max as usize)
    }

    /// Bytes of a body that may be sent now, in frames.
    #[inline]
    pub(crate) fn window(&self, key: Key) -> usize {
        self.sender(key).map_or(0, |stream| stream.send.room().min(self.send.room()))
    }

    fn sender(&self, key: Key) -> Option<&Stream> {
        let stream = self.streams.get(key)?;
        let is_open = stream.state.reset.is_none() && !stream.state.have_we_ended;
        (is_open && self.failed.is_none()).then_some(stream)
    }

    /// Answers a request, or, below 200, says that an answer will come. `fields` writes what
    /// follows the status.
    pub(crate) fn send_response(
        &mut self,
        key: Key,
        status: u16,
        is_end: bool,
        fields: impl FnOnce(&mut Block<'_>),
    ) -> Result<(), Gone> {
        let is_interim = status < 200;
        debug_assert!(self.role == Role::Server && !(is_interim && is_end));
        self.sender(key).filter(|stream| !stream.state.is_answered).ok_or(Gone)?;
        self.put_block(key, is_end, |block| {
            block.status(status);
            fields(block);
        });
        if let Some(stream) = self.streams.get_mut(key) {
            stream.state.is_answered = !is_interim;
        }
        Ok(())
    }

    /// Ends a body by trailers.
    pub(crate) fn send_trailers(
        &mut self,
        key: Key,
        fields: impl FnOnce(&mut Block<'_>),
    ) -> Result<(), Gone> {
        self.sender(key).ok_or(Gone)?;
        self.put_block(key, true, fields);
        Ok(())
    }

    /// Whether another stream can be opened.
    pub(crate) fn can_open(&self) -> Result<(), NotOpened> {
        if self.goaway_taken.is_some() || self.goaway_sent.is_some() || self.failed.is_some() {
            return Err(NotOpened::Leaving);
        }
        if self.next_id > STREAM_MAX {
            return Err(NotOpened::UsedUp);
        }
        if self.streams.count() >= self.peer.streams_max.min(self.terms.streams_max) {
            return Err(NotOpened::Full);
        }
        Ok(())
    }

    /// Asks an origin for something. The caller holds the stream from then on.
    pub(crate) fn open(
        &mut self,
        question: &Question<'_>,
        is_end: bool,
        fields: impl FnOnce(&mut Block<'_>),
    ) -> Result<Key, NotOpened> {
        debug_assert!(self.role == Role::Client);
        self.can_open()?;
        let mut stream = self.fresh_stream(self.next_id);
        self.next_id += 2;
        self.guard.earn_by_question();
        stream.state.is_head_request = question.method == b"HEAD";
        stream.state.is_tunnel = !matches!(question.kind, QuestionKind::Plain { .. });
        let key = self.streams.insert(stream);
        self.put_block(key, is_end, |block| {
            block.question(question);
            fields(block);
        });
        Ok(key)
    }

    /// Writes a block and its frames.
    fn put_block(&mut self, key: Key, is_end: bool, write: impl FnOnce(&mut Block<'_>)) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
        if mem::take(&mut self.owes_table_update) {
            // A table of nothing (RFC 7541 §6.3): no later limit is below that.
            self.out.push(0x20);
            self.is_table_gone = true;
        }
        write(&mut Block::new(&mut self.out));
        let frame_bytes_max = self.peer.frame_bytes_max as usize;
        frame_block(&mut self.out, start, key.id(), is_end, frame_bytes_max);
        if is_end {
            self.end(key);
        }
    }

    fn end(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.state.have_we_ended = true;
        }
    }

    /// The first bytes of a frame with `bytes` of a body, at most [`Session::room`] of them. They
    /// and the body itself follow what is pending, with nothing between.
    #[inline]
    pub(crate) fn data_head(
        &mut self,
        key: Key,
        bytes: usize,
        is_end: bool,
    ) -> Result<[u8; FRAME_HEAD_BYTES], Gone> {
        self.sender(key).ok_or(Gone)?;
        debug_assert!(bytes <= self.room(key));
        if let Some(stream) = self.streams.get_mut(key) {
            stream.send.take(bytes);
            stream.state.have_we_ended = is_end;
        }
        self.send.take(bytes);
        if bytes > 0 {
            self.guard.earn_by_data();
        }
        Ok(frame_head(bytes, FrameType::Data, if is_end { END_STREAM } else { 0 }, key.id()))
    }

    /// Sends a piece of a body by way of the outbox: at most [`Session::room`] bytes.
    pub(crate) fn send_data(&mut self, key: Key, bytes: &[u8], is_end: bool) -> Result<(), Gone> {
        let head = self.data_head(key, bytes.len(), is_end)?;
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds what is left of frames that were sent in part, in their order.
    pub(crate) fn put_rest(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Gives a stream up. It stays held.
    pub(crate) fn reset(&mut self, key: Key, code: ErrorCode) {
        let stream = self.streams.get_mut(key).filter(|stream| !stream.state.is_over());
        if let Some(stream) = stream {
            stream.state.reset = Some(ResetBy::Us);
            put_rst_stream(&mut self.out, key.id(), code);
        }
    }

    /// Whoever held a stream has done with it: its slot is free. What has not ended is given up:
    /// without blame where everything was said and the peer need not go on (RFC 9113 §8.1).
    pub(crate) fn release(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let held = stream.held;
        let is_done = self.role == Role::Server && stream.state.have_we_ended;
        self.reset(key, if is_done { ErrorCode::NoError } else { ErrorCode::Cancel });
        self.streams.remove(key);
        if let Some(more) = self.receive.give_back_shared(held) {
            put_window_update(&mut self.out, 0, more);
        }
    }

    /// Whether the peer has said what it allows.
    pub(crate) fn is_settled(&self) -> bool {
        self.has_settings
    }

    /// Says that no more streams are taken, as soon as the peer has heard of it: it will answer the
    /// ping when it has. Then, or when it has not for a while, comes [`Session::finish_drain`].
    pub(crate) fn begin_drain(&mut self, ping: [u8; 8]) {
        if self.goaway_sent.is_none() && self.failed.is_none() {
            put_goaway(&mut self.out, STREAM_MAX, ErrorCode::NoError);
            put_ping(&mut self.out, false, ping);
            self.goaway_sent = Some(STREAM_MAX);
        }
    }

    /// Refuses streams from now on. Those that are open go on.
    pub(crate) fn finish_drain(&mut self) {
        if self.goaway_sent.is_none_or(|last| last > self.last_id) && self.failed.is_none() {
            put_goaway(&mut self.out, self.last_id, ErrorCode::NoError);
            self.goaway_sent = Some(self.last_id);
        }
    }

    /// Says why the connection ends at once.
    pub(crate) fn leave(&mut self, code: ErrorCode) {
        if self.failed.is_none() {
            put_goaway(&mut self.out, self.last_id, code);
            self.goaway_sent = Some(self.last_id);
        }
    }

    /// Whether streams are refused, and none is left.
    pub(crate) fn is_drained(&self) -> bool {
        self.goaway_sent.is_some_and(|last| last != STREAM_MAX) && self.streams.count() == 0
    }

    /// Asks whether the peer is there.
    pub(crate) fn ping(&mut self, payload: [u8; 8]) {
        put_ping(&mut self.out, false, payload);
    }

    /// What the peer allows.
    pub(crate) fn peer(&self) -> &PeerSettings {
        &self.peer
    }

    /// Whether the peer has acknowledged all that we have set.
    pub(crate) fn are_settings_acknowledged(&self) -> bool {
        self.unacknowledged == 0
    }

    /// Streams that somebody holds.
    pub(crate) fn streams(&self) -> u32 {
        self.streams.count()
    }

    /// Whether something has begun that is of no use before it is whole, as heads are and bodies
    /// are not: its sender has a deadline.
    pub(crate) fn awaits_rest(&self) -> bool {
        match self.stage {
            Stage::Preface { .. } | Stage::Payload { .. } => true,
            Stage::Head { count, .. } => count > 0 || self.block.is_some(),
            Stage::Data(_) | Stage::Skip { .. } => false,
        }
    }

    /// Whether nothing more will be sent on a stream in either direction, or it is not held.
    pub(crate) fn is_over(&self, key: Key) -> bool {
        self.streams.get(key).is_none_or(|stream| stream.state.is_over())
    }

    /// Whether the peer has said that it has not acted upon a stream, and will not. A client says
    /// so of what we would push, which is nothing.
    pub(crate) fn is_unprocessed(&self, key: Key) -> bool {
        self.role == Role::Client && self.goaway_taken.is_some_and(|last| key.id() > last)
    }

    pub(crate) fn priority(&self, key: Key) -> Priority {
        self.streams.get(key).map(|stream| stream.priority).unwrap_or_default()
    }

    /// Bytes that are allocated beside the session itself.
    pub(crate) fn held_bytes(&self) -> usize {
        let buffers = self.partial.capacity() + self.fragments.capacity() + self.out.capacity();
        buffers + self.decoder.held_bytes() + self.streams.held_bytes()
    }

    /// Gives back what an idle connection does not need.
    pub(crate) fn rest(&mut self) {
        self.streams.rest();
        if self.pending().is_empty() {
            self.swap_outbox(Vec::new(), 0);
        }
        for buffer in [&mut self.partial, &mut self.fragments] {
            if buffer.is_empty() {
                *buffer = Vec::new();
            }
        }
    }
}
