//! What is held of one body: its beginning in memory, the rest in a file.
//!
//! In go bytes in their order, up to what a route holds in memory, and further ones through a small
//! tail whose pieces are written to a temporary file, as long as there may be one; they are kept
//! there in the same order. A [`Stored`] keeps all of it; a [`Queue`] gives its beginning away
//! while its end still comes. What does not fit in any more is for whoever asked.

use std::cell::Cell;

use super::held::{Held, PIECE_BYTES, Piece};
use super::spool::{Handle, Spooled, Terms};

/// What is written to a file at once.
pub(super) const TAIL_BYTES: u64 = 2 * PIECE_BYTES as u64;

/// A body, or its beginning.
pub(crate) struct Stored {
    pub(super) front: Held,
    pub(super) overflow: Option<Overflow>,
    /// Room for a piece of the file that is being read; there from the beginning, lest the way out
    /// of the file fails for want of memory.
    window: Cell<Option<Held>>,
    /// Until a file has been asked for.
    terms: Option<Terms>,
}

/// What came when the front was full.
pub(super) struct Overflow {
    pub file: Spooled,
    /// Bytes of the file that count.
    pub written: u64,
    /// What follows them.
    pub tail: Held,
}

impl Stored {
    /// `terms` say where more goes than `front` may hold, if it may.
    pub(crate) fn new(front: Held, terms: Option<Terms>) -> Self {
        Self { front, overflow: None, window: Cell::new(None), terms }
    }

    /// Of that, in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.front.len() + self.overflow.as_ref().map_or(0, |overflow| overflow.tail.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// Where what comes next belongs. It has room where [`Stored::make_room`] has said so.
    pub(crate) fn end(&mut self) -> &mut Held {
        match &mut self.overflow {
            Some(overflow) => &mut overflow.tail,
            None => &mut self.front,
        }
    }

    /// Sees to it that more can be held; false where it cannot.
    pub(crate) async fn make_room(&mut self) -> bool {
        if !self.end().is_full() {
            return true;
        }
        if let Some(terms) = self.terms.take() {
            let opened = Overflow::open(terms, &self.front).await;
            let (overflow, window) = opened.unzip();
            self.overflow = overflow;
            self.window.set(window);
            return self.overflow.is_some();
        }
        let Some(Overflow { file, written, tail }) = &mut self.overflow else { return false };
        let length = *written + tail.len();
        if !file.reserve(length) {
            return false;
        }
        match file.handle().write(*written, tail.lend()).await {
            Ok(()) => {
                tail.forget_lent();
                *written = length;
                true
            }
            Err(pieces) => {
                tail.restore(pieces);
                false
            }
        }
    }

    /// Gives back what holds nothing.
    pub(crate) fn release_spare(&mut self) {
        self.end().release_spare();
    }

    /// The window, for one who reads the file from its beginning; `None` where there is no memory
    /// for another one than one that was lost.
    pub(super) fn take_window(&self) -> Option<Held> {
        self.window.take().or_else(|| window(&self.front))
    }

    pub(super) fn give_window_back(&self, window: Held) {
        self.window.set(Some(window));
    }
}

impl Overflow {
    /// With it, the window for what is read; `None` where there is no file to be had, or no memory.
    async fn open(terms: Terms, front: &Held) -> Option<(Self, Held)> {
        let window = window(front)?;
        let file = terms.open().await?;
        Some((Self { file, written: 0, tail: front.another(TAIL_BYTES) }, window))
    }
}

fn window(front: &Held) -> Option<Held> {
    let mut window = front.another(PIECE_BYTES as u64);
    let has_room = !window.room(PIECE_BYTES, PIECE_BYTES).is_empty();
    has_room.then_some(window)
}

/// A body of which what came first leaves while more comes.
pub(super) struct Queue {
    held: Held,
    behind: Option<Behind>,
    /// Until a file has been asked for.
    terms: Option<Terms>,
}

/// What is behind that which is held.
struct Behind {
    overflow: Overflow,
    window: Held,
    /// Of the file, what has been read again.
    read: u64,
    /// Of the tail, what is being written.
    writing: Option<u64>,
}

impl Behind {
    /// Whether something of it is there to be sent, or to be read first.
    fn has_more(&self) -> bool {
        let Self { overflow, window, read, .. } = self;
        !window.is_empty() || *read < overflow.written || !overflow.tail.is_empty()
    }

    fn is_empty(&self) -> bool {
        !self.has_more() && self.writing.is_none()
    }
}

impl Queue {
    pub(super) fn new(held: Held, terms: Option<Terms>) -> Self {
        Self { held, behind: None, terms }
    }

    /// Whether more can be held at once.
    pub(super) fn has_room(&mut self) -> bool {
        let is_writing = self.behind.as_ref().is_some_and(|behind| behind.writing.is_some());
        !is_writing && !self.end().is_full()
    }

    /// Where what comes next belongs.
    pub(super) fn end(&mut self) -> &mut Held {
        match &mut self.behind {
            Some(behind) if self.held.is_full() || !behind.is_empty() => &mut behind.overflow.tail,
            _ => &mut self.held,
        }
    }

    /// Whether something is there to be sent, or to be read first.
    pub(super) fn has_more(&self) -> bool {
        !self.held.is_empty() || self.behind.as_ref().is_some_and(Behind::has_more)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.behind.as_ref().is_none_or(Behind::is_empty)
    }

    /// What is to be sent next; empty where nothing is.
    pub(super) fn front(&mut self) -> &mut Held {
        let Self { held, behind: Some(behind), .. } = self else { return &mut self.held };
        if !held.is_empty() {
            return held;
        }
        if !behind.window.is_empty() {
            return &mut behind.window;
        }
        let Behind { overflow, read, writing, .. } = behind;
        if *read == overflow.written && writing.is_none() {
            // The file begins anew.
            (*read, overflow.written) = (0, 0);
            held.swap(&mut overflow.tail);
        }
        held
    }

    /// Gives back what holds nothing.
    pub(super) fn release_spare(&mut self) {
        self.held.release_spare();
        if let Some(behind) = &mut self.behind {
            behind.overflow.tail.release_spare();
        }
    }

    /// Opens a file, once; `None` where there is nothing to be opened.
    pub(super) fn overflowing(
        &mut self,
    ) -> Option<impl Future<Output = Option<(Overflow, Held)>> + use<>> {
        let (terms, front) = (self.terms.take()?, self.held.another(0));
        Some(async move { Overflow::open(terms, &front).await })
    }

    pub(super) fn overflow(&mut self, opened: Option<(Overflow, Held)>) {
        self.behind =
            opened.map(|(overflow, window)| Behind { overflow, window, read: 0, writing: None });
    }

    /// The tail, which is to be written, and where; `None` where the file may not become longer.
    pub(super) fn lend_tail(&mut self) -> Option<(Handle, u64, Vec<Piece>)> {
        let Behind { overflow: Overflow { file, written, tail }, writing, .. } =
            self.behind.as_mut()?;
        if tail.is_empty() || !file.reserve(*written + tail.len()) {
            return None;
        }
        *writing = Some(tail.len());
        Some((file.handle(), *written, tail.lend()))
    }

    /// The tail has been written, or has come back.
    pub(super) fn tail_came_back(&mut self, outcome: Result<(), Vec<Piece>>) {
        let Some(Behind { overflow, writing, .. }) = &mut self.behind else { return };
        let count = writing.take().unwrap_or(0);
        match outcome {
            Ok(()) => {
                overflow.tail.forget_lent();
                overflow.written += count;
            }
            Err(pieces) => overflow.tail.restore(pieces),
        }
    }

    /// The window, where it is time to read more of the file: from where, and how much of it there
    /// is.
    pub(super) fn lend_window(&mut self) -> Option<(Handle, u64, u64, Vec<Piece>)> {
        let Behind { overflow, window, read, .. } = self.behind.as_mut()?;
        let left = overflow.written - *read;
        let is_time = left > 0 && self.held.is_empty() && window.is_empty();
        is_time.then(|| (overflow.file.handle(), *read, left, window.lend()))
    }

    /// The window has come back with `count` bytes.
    pub(super) fn window_came_back(&mut self, count: u64, pieces: Vec<Piece>) {
        if let Some(behind) = &mut self.behind {
            behind.window.restore(pieces);
            behind.read += count;
        }
    }
}
