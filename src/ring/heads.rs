//! Memory that the ring writes to: small buffers for heads.
//!
//! In go bytes that are received; out come those that are filled. A head buffer (8 KiB, from a free
//! list) receives heads and the beginning of bodies, is held only while bytes are expected, and
//! comes home when dropped. It never shows bytes of an earlier user: it hands out its filled part
//! only.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::stable::StableBytes;
use crate::ledger::{Budget, Kind, Ledger};

/// Free list of head buffers of one size. `Rc`-shared with the buffers that it lent.
pub struct HeadPool {
    free: RefCell<Vec<StableBytes>>,
    buffer_bytes: usize,
    leased: Cell<usize>,
    /// The fewest free buffers since the last trim: those were not needed.
    spare: Cell<usize>,
    /// Counts the bytes of all buffers, lent or free.
    ledger: Arc<Ledger>,
    /// Says whether a buffer may grow.
    pub(crate) budget: Rc<Budget>,
}

/// Why a buffer does not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// It is as large as it may be.
    TooLarge,
    /// The worker has no memory left for it.
    NoMemory,
}

/// Free buffers kept beyond this are given back to the allocator when they come home.
const FREE_HEAD_BUFFERS_MAX: usize = 512;

impl HeadPool {
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    pub fn new(buffer_bytes: usize, ledger: Arc<Ledger>, budget: Rc<Budget>) -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::default(),
            buffer_bytes,
            ledger,
            budget,
            leased: Cell::new(0),
            spare: Cell::new(0),
        })
    }

    pub fn lease(self: &Rc<Self>) -> HeadBuffer {
        let bytes = {
            let mut free = self.free.borrow_mut();
            let bytes = free.pop();
            self.spare.set(self.spare.get().min(free.len()));
            bytes
        };
        let bytes = bytes.unwrap_or_else(|| {
            self.ledger.add(Kind::HeadBuffers, self.buffer_bytes as u64);
            StableBytes::zeroed(self.buffer_bytes)
        });
        self.leased.set(self.leased.get() + 1);
        HeadBuffer { bytes, start: 0, end: 0, pool: Some(self.clone()) }
    }

    /// The bytes of a buffer come home.
    #[inline]
    fn take_back(&self, bytes: StableBytes) {
        let mut free = self.free.borrow_mut();
        if bytes.len() == self.buffer_bytes && free.len() < FREE_HEAD_BUFFERS_MAX {
            free.push(bytes);
        } else {
            self.ledger.sub(Kind::HeadBuffers, bytes.len() as u64);
            let grown_bytes = bytes.len().saturating_sub(self.buffer_bytes);
            self.budget.shrink(grown_bytes as u64);
        }
    }

    /// Buffers out with connections now.
    pub fn leased(&self) -> usize {
        self.leased.get()
    }

    /// Gives the buffers that were not needed since the last call back to the allocator; how many.
    pub fn trim(&self) -> usize {
        let mut free = self.free.borrow_mut();
        let unneeded = self.spare.get();
        let keep = free.len().saturating_sub(unneeded);
        let dropped = (free.len() - keep) * self.buffer_bytes;
        free.truncate(keep);
        self.ledger.sub(Kind::HeadBuffers, dropped as u64);
        self.spare.set(keep);
        unneeded
    }

    /// Gives every free buffer back to the allocator; their bytes.
    pub fn release(&self) -> usize {
        let free = std::mem::take(&mut *self.free.borrow_mut());
        let bytes = free.len() * self.buffer_bytes;
        self.ledger.sub(Kind::HeadBuffers, bytes as u64);
        self.spare.set(0);
        bytes
    }
}

/// A leased head buffer, filled in `start..end`. It is moved from hand to hand, and so it is small.
pub struct HeadBuffer {
    bytes: StableBytes,
    start: u32,
    end: u32,
    /// `None` where there are no bytes either.
    pool: Option<Rc<HeadPool>>,
}

impl Default for HeadBuffer {
    /// A buffer without room: what stands in for one that is out with an operation.
    fn default() -> Self {
        Self { bytes: StableBytes::default(), start: 0, end: 0, pool: None }
    }
}

impl HeadBuffer {
    /// The bytes received and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Bytes that it could hold.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end as usize..]
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.end += count as u32;
    }

    /// Forgets the first `count` filled bytes.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count as u32;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Holds `bytes` and nothing else; false where they do not fit.
    pub fn replace(&mut self, bytes: &[u8]) -> bool {
        self.consume(self.len());
        let fits = bytes.len() <= self.bytes.len();
        if fits {
            self.bytes[..bytes.len()].copy_from_slice(bytes);
            self.end = bytes.len() as u32;
        }
        fits
    }

    /// Makes room for at least one more byte, by moving what is filled to the front or by growing
    /// up to `bytes_max`.
    pub fn make_room(&mut self, bytes_max: usize) -> Result<(), NoRoom> {
        if self.start > 0 {
            self.bytes.copy_within(self.start as usize..self.end as usize, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if (self.end as usize) < self.bytes.len() {
            return Ok(());
        }
        if self.bytes.len() >= bytes_max {
            return Err(NoRoom::TooLarge);
        }
        self.grow((self.bytes.len() * 2).min(bytes_max))
    }

    /// Puts `front` in the place of the first `count` filled bytes.
    pub fn replace_front(&mut self, count: usize, front: &[u8]) -> Result<(), NoRoom> {
        let filled = [front, &self.filled()[count..]].concat();
        if filled.len() > self.bytes.len() {
            self.grow(filled.len())?;
        }
        self.bytes[..filled.len()].copy_from_slice(&filled);
        (self.start, self.end) = (0, filled.len() as u32);
        Ok(())
    }

    /// Holds what is filled, and gives the rest back, for as long as nothing is to be received.
    pub(crate) fn shrink(&mut self) {
        let Some(pool) = self.pool.clone() else { return };
        if self.len() * 2 > self.bytes.len() {
            return;
        }
        let mut kept = StableBytes::zeroed(self.len());
        kept.copy_from_slice(self.filled());
        pool.ledger.add(Kind::HeadBuffers, kept.len() as u64);
        (self.start, self.end) = (0, kept.len() as u32);
        pool.take_back(std::mem::replace(&mut self.bytes, kept));
    }

    /// Has room again as when it was lent.
    pub(crate) fn restore(&mut self) {
        let Some(pool) = &self.pool else { return };
        if self.bytes.len() < pool.buffer_bytes {
            let mut fresh = pool.lease();
            fresh.replace(self.filled());
            *self = fresh;
        }
    }

    fn grow(&mut self, grown_bytes: usize) -> Result<(), NoRoom> {
        if let Some(pool) = &self.pool {
            let more_bytes = (grown_bytes - self.bytes.len()) as u64;
            if !pool.budget.grow(&pool.ledger, more_bytes) {
                return Err(NoRoom::NoMemory);
            }
            pool.ledger.add(Kind::HeadBuffers, more_bytes);
        }
        let mut grown = StableBytes::zeroed(grown_bytes);
        grown[..self.end as usize].copy_from_slice(&self.bytes[..self.end as usize]);
        self.bytes = grown;
        Ok(())
    }
}

/// What the pool had kept is held no more; its ledger is the next worker's.
impl Drop for HeadPool {
    fn drop(&mut self) {
        self.release();
    }
}

impl Drop for HeadBuffer {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        pool.leased.set(pool.leased.get() - 1);
        pool.take_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_has_ended_leaves_nothing_in_the_ledger() {
        let ledger = Arc::new(Ledger::default());
        let pool = HeadPool::new(4096, ledger.clone(), Rc::new(Budget::unlimited()));
        let lent = pool.lease();
        drop(pool.lease());
        drop(pool);
        assert_eq!(ledger.get(Kind::HeadBuffers), 2 * 4096);
        drop(lent);
        assert_eq!(ledger.get(Kind::HeadBuffers), 0);
    }

    #[test]
    fn a_head_buffer_that_rests_holds_what_is_in_it_and_nothing_more() {
        let ledger = Arc::new(Ledger::default());
        let pool = HeadPool::new(4096, ledger.clone(), Rc::new(Budget::unlimited()));
        let mut buffer = pool.lease();
        buffer.free()[..6].copy_from_slice(b"xyabcd");
        buffer.advance(6);
        buffer.consume(2);
        buffer.shrink();
        assert_eq!((buffer.filled(), buffer.capacity(), pool.leased()), (&b"abcd"[..], 4, 1));
        // Of what it gave back the next one is made.
        let next = pool.lease();
        assert_eq!(ledger.get(Kind::HeadBuffers), 4096 + 4);
        buffer.restore();
        assert_eq!((buffer.filled(), buffer.capacity()), (&b"abcd"[..], 4096));
        assert_eq!(ledger.get(Kind::HeadBuffers), 2 * 4096);
        drop((buffer, next));
        assert_eq!((pool.leased(), pool.release()), (0, 2 * 4096));
        assert_eq!(ledger.get(Kind::HeadBuffers), 0);
    }

    #[test]
    fn a_head_buffer_grows_to_its_limit_and_no_further() {
        let pool = HeadPool::new(16, Arc::default(), Rc::new(Budget::unlimited()));
        let mut buffer = pool.lease();
        buffer.free().fill(b'x');
        buffer.advance(16);
        assert_eq!(buffer.make_room(24), Ok(()));
        assert_eq!(buffer.filled(), [b'x'; 16]);
        buffer.advance(8);
        assert_eq!(buffer.make_room(24), Err(NoRoom::TooLarge));
        buffer.consume(1);
        assert_eq!(buffer.make_room(24), Ok(()));
        assert_eq!(buffer.len(), 23);
        drop(buffer);
        assert_eq!(pool.leased(), 0);
        // A grown buffer is not kept, so that the free list holds one size only.
        assert_eq!(pool.free.borrow().len(), 0);
    }
}
