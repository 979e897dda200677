//! Bytes of a body that wait for whoever gets them, in memory that is counted.
//!
//! In go bytes in their order, as far as there may be more and there is memory for them; out they
//! come in the same order, and their memory is given back as they go. A piece is taken from the
//! allocator when it is needed and not before. Nothing here waits.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::ledger::{Budget, Kind, Ledger};

/// What is taken from the allocator at once.
pub(crate) const PIECE_BYTES: usize = 32 * 1024;

/// Bytes that are held.
pub(crate) struct Held {
    pieces: VecDeque<Piece>,
    length: u64,
    /// Memory of pieces that somebody else has just now.
    lent: u64,
    bytes_max: u64,
    ledger: Arc<Ledger>,
    budget: Rc<Budget>,
}

/// Filled in `start..end`.
#[derive(Clone)]
pub(crate) struct Piece {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Piece {
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// What may be filled, up to `most` bytes.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        let end = self.bytes.len().min(self.end.saturating_add(most));
        &mut self.bytes[self.end..end]
    }

    /// The first `count` bytes of the room are filled now.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
    }
}

impl Held {
    pub(crate) fn new(bytes_max: u64, (ledger, budget): (&Arc<Ledger>, &Rc<Budget>)) -> Self {
        let (ledger, budget) = (ledger.clone(), budget.clone());
        Self { pieces: VecDeque::new(), length: 0, lent: 0, bytes_max, ledger, budget }
    }

    /// One for so much more of the same body.
    pub(super) fn another(&self, bytes_max: u64) -> Self {
        Self::new(bytes_max, (&self.ledger, &self.budget))
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// How much more may be held.
    pub(crate) fn left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.length)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// As much is held as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.length >= self.bytes_max
    }

    /// Room for at least `least` bytes and, where that costs nothing more, for `most`, which is no
    /// less; empty where there is no memory for it.
    pub(crate) fn room(&mut self, least: usize, most: usize) -> &mut [u8] {
        debug_assert!(least <= PIECE_BYTES);
        let has_room = |piece: &Piece| piece.bytes.len() - piece.end >= least;
        if !self.pieces.back().is_some_and(has_room) && !self.add_piece(most) {
            return &mut [];
        }
        match self.pieces.back_mut() {
            Some(piece) => piece.room(most),
            None => &mut [],
        }
    }

    fn add_piece(&mut self, most: usize) -> bool {
        let count = most.clamp(1, PIECE_BYTES);
        if !self.budget.grow(&self.ledger, count as u64) {
            return false;
        }
        self.ledger.add(Kind::Bodies, count as u64);
        self.pieces.push_back(Piece { bytes: vec![0; count].into(), start: 0, end: 0 });
        true
    }

    /// The first `count` bytes of the room that was had last are filled now.
    pub(crate) fn fill(&mut self, count: usize) {
        if let Some(piece) = self.pieces.back_mut() {
            piece.fill(count);
            self.length += count as u64;
        }
    }

    /// Appends `bytes`; false, and nothing has changed, where there is no memory for them.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> bool {
        let before = self.length;
        while !bytes.is_empty() {
            let room = self.room(1, bytes.len());
            let count = room.len().min(bytes.len());
            if count == 0 {
                self.take_back(before);
                return false;
            }
            room[..count].copy_from_slice(&bytes[..count]);
            self.fill(count);
            bytes = &bytes[count..];
        }
        true
    }

    /// Forgets what was appended behind the first `length` bytes.
    fn take_back(&mut self, length: u64) {
        while self.length > length {
            let Some(piece) = self.pieces.back_mut() else { return };
            let excess = usize::try_from(self.length - length).unwrap_or(usize::MAX);
            let count = excess.min(piece.end - piece.start);
            piece.end -= count;
            self.length -= count as u64;
            if piece.start == piece.end {
                self.free_last();
            }
        }
    }

    /// The first bytes that are held; empty where none are.
    pub(crate) fn front(&self) -> &[u8] {
        let filled = self.pieces.front().map(Piece::filled);
        filled.unwrap_or_default()
    }

    /// All that is held, piece by piece.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Piece::filled)
    }

    /// Gives all pieces away for a while, with what they hold. Their memory counts as held until
    /// they come back or are forgotten.
    pub(super) fn lend(&mut self) -> Vec<Piece> {
        let pieces: Vec<_> = self.pieces.drain(..).collect();
        self.lent += pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>();
        self.length = 0;
        pieces
    }

    /// Takes back what was lent, before what has come since.
    pub(super) fn restore(&mut self, pieces: Vec<Piece>) {
        for piece in pieces.into_iter().rev() {
            self.lent = self.lent.saturating_sub(piece.bytes.len() as u64);
            self.length += piece.filled().len() as u64;
            self.pieces.push_front(piece);
        }
    }

    /// What was lent will not come back.
    pub(super) fn forget_lent(&mut self) {
        let bytes = std::mem::take(&mut self.lent);
        self.ledger.sub(Kind::Bodies, bytes);
        self.budget.shrink(bytes);
    }

    /// Exchanges what is held, but not how much that may be. Both are of one worker.
    pub(super) fn swap(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.pieces, &mut other.pieces);
        std::mem::swap(&mut self.length, &mut other.length);
    }

    /// Forgets what is held, and keeps one piece for what comes next.
    pub(super) fn clear(&mut self) {
        while self.pieces.len() > 1 {
            self.free_last();
        }
        if let Some(piece) = self.pieces.front_mut() {
            (piece.start, piece.end) = (0, 0);
        }
        self.length = 0;
    }

    /// Forgets the first `count` bytes of the front.
    pub(crate) fn consume(&mut self, count: usize) {
        let is_last = self.pieces.len() <= 1;
        let Some(piece) = self.pieces.front_mut() else { return };
        debug_assert!(count <= piece.end - piece.start);
        piece.start += count;
        self.length -= count as u64;
        if piece.start < piece.end {
            return;
        }
        if is_last {
            (piece.start, piece.end) = (0, 0);
        } else {
            let piece = self.pieces.pop_front();
            self.give_back(piece);
        }
    }

    /// Gives back what holds nothing.
    pub(crate) fn release_spare(&mut self) {
        while self.pieces.back().is_some_and(|piece| piece.start == piece.end) {
            self.free_last();
        }
    }

    fn free_last(&mut self) {
        let piece = self.pieces.pop_back();
        self.give_back(piece);
    }

    fn give_back(&self, piece: Option<Piece>) {
        let bytes = piece.map_or(0, |piece| piece.bytes.len() as u64);
        self.ledger.sub(Kind::Bodies, bytes);
        self.budget.shrink(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.forget_lent();
        while !self.pieces.is_empty() {
            self.free_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bytes_max: u64, growth: u64) -> (Held, Arc<Ledger>, Rc<Budget>) {
        let (ledger, budget) = (Arc::<Ledger>::default(), Rc::new(Budget::new(u64::MAX, growth)));
        (Held::new(bytes_max, (&ledger, &budget)), ledger, budget)
    }

    fn taken(held: &mut Held, at_once: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !held.is_empty() {
            let count = held.front().len().min(at_once);
            all.extend_from_slice(&held.front()[..count]);
            held.consume(count);
        }
        all
    }

    #[test]
    fn bytes_come_out_as_they_went_in_and_their_memory_goes_home() {
        let (mut held, ledger, budget) = held(1 << 20, u64::MAX);
        let bytes: Vec<u8> = (0..200_000_u32).map(|it| (it % 251) as u8).collect();
        for part in bytes.chunks(7777) {
            assert!(held.push(part));
        }
        assert_eq!((held.len(), held.is_full()), (200_000, false));
        assert_eq!(held.pieces().collect::<Vec<_>>().concat(), bytes);
        assert!(ledger.get(Kind::Bodies) >= 200_000);
        assert_eq!(ledger.get(Kind::Bodies), budget.grown_bytes());
        assert_eq!(taken(&mut held, 1000), bytes);
        // The last piece is kept for what comes next.
        assert!(ledger.get(Kind::Bodies) <= PIECE_BYTES as u64);
        held.release_spare();
        assert_eq!((ledger.get(Kind::Bodies), budget.grown_bytes()), (0, 0));
        assert!(held.push(b"more"));
        drop(held);
        assert_eq!((ledger.get(Kind::Bodies), budget.grown_bytes()), (0, 0));
    }

    #[test]
    fn what_there_is_no_memory_for_is_not_taken_in_part() {
        let (mut held, ledger, budget) = held(1 << 20, PIECE_BYTES as u64 + 1000);
        assert!(held.push(&[1; 1000]));
        assert!(!held.push(&vec![2; 2 * PIECE_BYTES]));
        assert_eq!(taken(&mut held, usize::MAX), [1; 1000]);
        drop(held);
        assert_eq!((ledger.get(Kind::Bodies), budget.grown_bytes()), (0, 0));
    }

    #[test]
    fn a_little_costs_a_little() {
        let (mut held, ledger, _) = held(100, u64::MAX);
        assert!(held.push(&[1; 10]));
        assert_eq!(ledger.get(Kind::Bodies), 10);
        assert_eq!(held.room(1, 90).len(), 90);
        held.fill(90);
        assert!(held.is_full());
        // What is not wanted is not had.
        assert_eq!(held.room(1, 5).len(), 5);
    }
}
