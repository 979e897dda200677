//! The streams of a connection: those that somebody holds, and what is remembered of others.
//!
//! In go streams by number and by key; out come their states. A stream has its slot until its
//! holder gives it back, however long it has ended by then. Of those that are gone a bounded number
//! is remembered, so that what was on its way is told from what should not have been sent.

use crate::http2::Key;
use crate::http2::flow::{ReceiveWindow, SendWindow};
use crate::http2::priority::Priority;
use crate::limits::HTTP2_ENDED_STREAMS_MAX;

/// One stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Zero: the slot is free.
    pub id: u32,
    /// The next stream in its bucket, or the next free slot, and one; zero: none.
    next: u32,
    pub send: SendWindow,
    pub receive: ReceiveWindow,
    /// What of its body the holder was given and has not reported as taken.
    pub held: u32,
    /// What of an announced body is still to come; [`UNANNOUNCED`]: nobody knows.
    pub left: u64,
    pub priority: Priority,
    pub state: State,
}

/// No length was announced.
pub(super) const UNANNOUNCED: u64 = u64::MAX;

/// How far a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct State {
    /// The peer has said its last.
    pub has_peer_ended: bool,
    /// We have said our last.
    pub have_we_ended: bool,
    /// The final head has been sent, or has come, from whoever answers.
    pub is_answered: bool,
    pub is_head_request: bool,
    pub is_tunnel: bool,
    pub reset: Option<ResetBy>,
}

impl State {
    /// Nothing more is sent in either direction.
    pub(super) fn is_over(self) -> bool {
        self.reset.is_some() || (self.has_peer_ended && self.have_we_ended)
    }

    fn end(self) -> End {
        match self.reset {
            Some(ResetBy::Us) => End::ResetByUs,
            Some(ResetBy::Peer) | None => End::ByPeer,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetBy {
    Us,
    Peer,
}

/// How a stream ended that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer may not have known yet: what it sends may have been on its way.
    ResetByUs,
    /// The peer itself has said its last, or given it up.
    ByPeer,
    /// Too long ago to know.
    Forgotten,
    /// It never was: its number was passed over.
    Skipped,
}

impl Stream {
    pub(super) fn new(id: u32, send: SendWindow, receive: ReceiveWindow) -> Self {
        Self {
            id,
            next: 0,
            send,
            receive,
            held: 0,
            left: UNANNOUNCED,
            priority: Priority::default(),
            state: State::default(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    /// The first free slot, and one; zero: none.
    free: u32,
    held: u32,
    /// By number: the first stream of a bucket, and one. Its length is a power of two, or zero.
    buckets: Vec<u32>,
    /// Numbers without their lowest bit, which says how they ended. A ring.
    ended: Vec<u32>,
    ended_at: u8,
    /// The highest number that is not remembered any more.
    forgotten: u32,
}

impl Streams {
    /// Streams that have a slot.
    pub(super) fn count(&self) -> u32 {
        self.held
    }

    /// Bytes that are allocated.
    pub(super) fn held_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>()
            + (self.buckets.capacity() + self.ended.capacity()) * size_of::<u32>()
    }

    /// Gives back what only open streams need.
    pub(super) fn rest(&mut self) {
        if self.held == 0 {
            (self.slots, self.buckets, self.free) = (Vec::new(), Vec::new(), 0);
        }
    }

    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&Stream> {
        self.slots.get(key.index as usize).filter(|stream| stream.id == key.id)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(key.index as usize).filter(|stream| stream.id == key.id)
    }

    /// The stream of that number, if it has a slot.
    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<Key> {
        let mut next = *self.buckets.get(self.bucket(id))?;
        while let Some(index) = next.checked_sub(1) {
            let stream = &self.slots[index as usize];
            if stream.id == id {
                return Some(Key { index, id });
            }
            next = stream.next;
        }
        None
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().filter(|stream| stream.id != 0)
    }

    pub(super) fn insert(&mut self, mut stream: Stream) -> Key {
        debug_assert!(stream.id != 0 && self.find(stream.id).is_none());
        if self.held as usize >= self.buckets.len() {
            self.rehash();
        }
        let bucket = self.bucket(stream.id);
        let index = self.free.checked_sub(1).unwrap_or(self.slots.len() as u32);
        stream.next = std::mem::replace(&mut self.buckets[bucket], index + 1);
        let id = stream.id;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            self.free = slot.next;
            *slot = stream;
        } else {
            self.slots.push(stream);
        }
        self.held += 1;
        Key { index, id }
    }

    /// Frees a stream's slot, and remembers how it ended.
    pub(super) fn remove(&mut self, key: Key) {
        let Some(stream) = self.get(key).copied() else {
            return;
        };
        let bucket = self.bucket(key.id);
        let mut link = &mut self.buckets[bucket];
        while *link != key.index + 1 {
            let index = link.checked_sub(1).expect("a stream is in its bucket");
            link = &mut self.slots[index as usize].next;
        }
        *link = stream.next;
        let slot = &mut self.slots[key.index as usize];
        (slot.id, slot.next) = (0, self.free);
        self.free = key.index + 1;
        self.held -= 1;
        self.remember(key.id, stream.state.end());
    }

    /// Remembers a stream that never had a slot, or has none any more.
    pub(super) fn remember(&mut self, id: u32, end: End) {
        let entry = id & !1 | u32::from(end == End::ByPeer);
        if self.ended.len() < HTTP2_ENDED_STREAMS_MAX {
            self.ended.push(entry);
            return;
        }
        let oldest = &mut self.ended[usize::from(self.ended_at)];
        self.forgotten = self.forgotten.max(*oldest | 1);
        *oldest = entry;
        self.ended_at = (self.ended_at + 1) % HTTP2_ENDED_STREAMS_MAX as u8;
    }

    /// How the stream of that number ended. It must have been opened, or passed over, by the only
    /// side that opens any.
    pub(super) fn end_of(&self, id: u32) -> End {
        match self.ended.iter().find(|entry| *entry & !1 == id & !1) {
            Some(entry) if entry & 1 != 0 => End::ByPeer,
            Some(_) => End::ResetByUs,
            None if id <= self.forgotten => End::Forgotten,
            None => End::Skipped,
        }
    }

    fn bucket(&self, id: u32) -> usize {
        // Numbers of one side follow each other in steps of two.
        (id >> 1) as usize & self.buckets.len().wrapping_sub(1)
    }

    fn rehash(&mut self) {
        let count = (self.buckets.len() * 2).max(16);
        self.buckets = vec![0; count];
        for index in 0..self.slots.len() {
            let id = self.slots[index].id;
            if id != 0 {
                let bucket = self.bucket(id);
                let first = std::mem::replace(&mut self.buckets[bucket], index as u32 + 1);
                self.slots[index].next = first;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn stream(id: u32) -> Stream {
        Stream::new(id, SendWindow::default(), ReceiveWindow::new(0, 0))
    }

    #[test]
    fn a_stream_is_found_as_long_as_it_is_held_and_never_again() {
        let mut streams = Streams::default();
        let mut model = BTreeMap::new();
        let (mut seed, mut id) = (1_u32, 1);
        for round in 0..20_000_u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grows =
                model.len() < 300 && (seed >> 16) % 100 < if round % 4000 < 2000 { 70 } else { 30 };
            if grows || model.is_empty() {
                let key = streams.insert(stream(id));
                model.insert(id, key);
                id += 2 * (1 + (seed >> 8) % 3);
            } else {
                let at = (seed >> 8) as usize % model.len();
                let (id, key) = model.iter().nth(at).map(|(id, key)| (*id, *key)).expect("one");
                streams.remove(key);
                model.remove(&id);
                assert!(streams.find(id).is_none() && streams.get(key).is_none());
                assert_eq!(streams.end_of(id), End::ByPeer);
            }
            assert_eq!(streams.count() as usize, model.len());
            if round % 97 == 0 {
                assert!(model.iter().all(|(id, key)| streams.find(*id) == Some(*key)));
                assert_eq!(streams.iter_mut().count(), model.len());
            }
        }
        for key in model.into_values() {
            streams.remove(key);
        }
        streams.rest();
        assert!(streams.find(1).is_none());
        assert!(streams.held_bytes() <= HTTP2_ENDED_STREAMS_MAX * size_of::<u32>());
    }

    #[test]
    fn what_has_ended_is_told_from_what_never_was_and_from_what_is_forgotten() {
        let mut streams = Streams::default();
        streams.remember(1, End::ResetByUs);
        streams.remember(5, End::ByPeer);
        assert_eq!(streams.end_of(1), End::ResetByUs);
        assert_eq!(streams.end_of(3), End::Skipped);
        assert_eq!(streams.end_of(5), End::ByPeer);
        for id in 0..HTTP2_ENDED_STREAMS_MAX as u32 {
            streams.remember(id * 4 + 101, End::ByPeer);
        }
        assert_eq!(streams.end_of(1), End::Forgotten);
        assert_eq!(streams.end_of(5), End::Forgotten);
        assert_eq!(streams.end_of(103), End::Skipped);
        assert_eq!(streams.ended.len(), HTTP2_ENDED_STREAMS_MAX);
    }

    #[test]
    fn a_stream_has_the_size_that_is_counted_for_it() {
        assert_eq!(size_of::<Stream>(), 56);
    }
}
