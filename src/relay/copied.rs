//! A copy of a body that passes, for somebody else than those between whom it passes.
//!
//! In go the bytes of the body as they come, whichever way they take; out comes the whole, once its
//! end has come. How much that may be is bounded, and its memory is counted: a copy that becomes
//! too large, or for which there is no memory, is given up, and the body passes as if nobody had
//! wanted one. Nothing here waits.

use std::cell::RefCell;

use super::coding::Decoder;
use super::held::Held;

/// What the memory of a body of unknown length grows by at least: it may come in crumbs.
const GROWTH_BYTES: u64 = 4096;

/// What the framing of a body in chunks may add to as much again as its payload may have.
const FRAMING_BYTES_MAX: u64 = 4096;

/// A copy, as far as it has come.
pub(crate) struct Copied {
    state: RefCell<State>,
    payload_bytes_max: u64,
}

enum State {
    /// What has come, and where in the body it ends.
    Coming(Decoder, Held),
    /// There is none any more, or it has been taken; whether for want of memory.
    Gone(bool),
}

/// How far a copy is.
pub(crate) enum Progress {
    /// More is to come, or nothing.
    Coming,
    /// Here it is.
    Whole(Held),
    /// There was no memory for it.
    NoMemory,
}

impl Copied {
    /// Of a body that `decoder` tells the end of, in `held`.
    pub(crate) fn new(decoder: Decoder, held: Held, payload_bytes_max: u64) -> Self {
        Self { state: RefCell::new(State::Coming(decoder, held)), payload_bytes_max }
    }

    /// Adds what of `bytes`, which come next, belongs to the body.
    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let State::Coming(decoder, held) = &mut *state else { return };
        let Ok(progress) = decoder.advance(bytes) else {
            *state = State::Gone(false);
            return;
        };
        let body = &bytes[..progress.used];
        let framed_max = self.payload_bytes_max.saturating_mul(2).saturating_add(FRAMING_BYTES_MAX);
        if decoder.payload_bytes() > self.payload_bytes_max
            || held.len() + body.len() as u64 > framed_max
        {
            *state = State::Gone(false);
            return;
        }
        let growth = match decoder {
            Decoder::Sized(left) => (*left).min(GROWTH_BYTES),
            Decoder::Chunked(_) | Decoder::UntilClose => GROWTH_BYTES,
        };
        if !push(held, body, growth as usize) {
            *state = State::Gone(true);
        }
    }

    /// Whether it is whole by now. It is given out once.
    pub(crate) fn take(&self) -> Progress {
        let mut state = self.state.borrow_mut();
        match &*state {
            State::Coming(decoder, _) if !decoder.is_done() => Progress::Coming,
            State::Coming(..) | State::Gone(true) => {
                match std::mem::replace(&mut *state, State::Gone(false)) {
                    State::Coming(_, held) => Progress::Whole(held),
                    State::Gone(_) => Progress::NoMemory,
                }
            }
            State::Gone(false) => Progress::Coming,
        }
    }
}

/// Appends `bytes`, with room for `more` where that is to be had anew; false where there is no
/// memory for them.
fn push(held: &mut Held, mut bytes: &[u8], more: usize) -> bool {
    while !bytes.is_empty() {
        let room = held.room(1, bytes.len() + more);
        let count = room.len().min(bytes.len());
        if count == 0 {
            return false;
        }
        room[..count].copy_from_slice(&bytes[..count]);
        held.fill(count);
        bytes = &bytes[count..];
    }
    true
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::http::BodyLength;
    use crate::ledger::{Budget, Kind, Ledger};

    fn copied(body: BodyLength, max: u64, growth: u64) -> (Copied, Arc<Ledger>) {
        let (ledger, budget) = (Arc::<Ledger>::default(), Rc::new(Budget::new(u64::MAX, growth)));
        let held = Held::new(u64::MAX, (&ledger, &budget));
        (Copied::new(Decoder::of(body), held, max), ledger)
    }

    fn whole(copied: &Copied) -> Option<Vec<u8>> {
        match copied.take() {
            Progress::Whole(held) => Some(held.pieces().collect::<Vec<_>>().concat()),
            Progress::Coming | Progress::NoMemory => None,
        }
    }

    #[test]
    fn a_copy_is_whole_when_the_body_is_and_has_nothing_of_what_follows() {
        let chunks = b"5\r\nhello\r\n0\r\n\r\n";
        let table: [(BodyLength, &[u8]); 2] =
            [(BodyLength::Exact(5), b"hello"), (BodyLength::Chunked, chunks)];
        for (body, bytes) in table {
            for split in 0..bytes.len() {
                let (copied, ledger) = copied(body, 5, u64::MAX);
                copied.add(&bytes[..split]);
                assert_eq!(whole(&copied), None, "{body:?} {split}");
                copied.add(&[&bytes[split..], b"GET /"].concat());
                assert_eq!(whole(&copied).as_deref(), Some(bytes), "{body:?} {split}");
                assert_eq!(whole(&copied), None, "it is given out once");
                assert_eq!(ledger.get(Kind::Bodies), 0);
            }
        }
    }

    #[test]
    fn a_copy_that_becomes_too_large_is_given_up_with_its_memory() {
        let (copied, ledger) = copied(BodyLength::Chunked, 5, u64::MAX);
        copied.add(b"5\r\nhello\r\n");
        assert!(ledger.get(Kind::Bodies) > 0);
        copied.add(b"1\r\n!\r\n0\r\n\r\n");
        assert_eq!((whole(&copied), ledger.get(Kind::Bodies)), (None, 0));
    }

    #[test]
    fn framing_is_no_way_round_the_bound() {
        let (copied, ledger) = copied(BodyLength::Chunked, 100_000, u64::MAX);
        for _ in 0..50_000 {
            copied.add(b"1\r\na\r\n");
            assert!(ledger.get(Kind::Bodies) <= 220_000);
        }
        copied.add(b"0\r\n\r\n");
        assert_eq!((whole(&copied), ledger.get(Kind::Bodies)), (None, 0));
    }

    #[test]
    fn a_copy_without_memory_is_told_of_once() {
        let (copied, ledger) = copied(BodyLength::Exact(5), 5, 0);
        copied.add(b"hello");
        assert!(matches!(copied.take(), Progress::NoMemory));
        assert!(matches!(copied.take(), Progress::Coming));
        assert_eq!(ledger.get(Kind::Bodies), 0);
    }
}
