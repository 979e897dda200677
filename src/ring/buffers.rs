//! Memory that the ring writes to: the pool of registered chunks.
//!
//! In go wishes for a number of chunks (64 KiB each); out come runs of neighbours, so that eight of
//! them make one 512 KiB operation. They are one page-aligned mapping per worker, pinned once by
//! registering it with the ring, bounded, and come home when dropped.
//!
//! A run never shows bytes of an earlier user: its user slices it by the count that the kernel
//! returned.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use tokio::sync::Notify;
use tokio_uring::{FixedBufRegistry, IoBufMut};

use crate::ledger::{Kind, Ledger};

/// One anonymous mapping, page-aligned, without huge pages: a huge page is charged to
/// RLIMIT_MEMLOCK whole.
struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

impl Region {
    fn map(bytes: usize) -> io::Result<Self> {
        let length = std::num::NonZeroUsize::new(bytes)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: the range was mapped just now. Where the advice is refused nothing changes.
        let _ = unsafe { madvise(start, bytes, MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(Self { start: start.cast(), bytes })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this region's own; slices and runs hold an `Rc` of it.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}

/// One chunk of the region, as the registration wants it.
struct RegisteredChunk {
    region: Rc<Region>,
    offset: usize,
    bytes: usize,
}

// SAFETY: the memory is mapped and fixed in place for as long as the region, of which this is a
// part.
unsafe impl IoBufMut for RegisteredChunk {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: `offset` lies inside the region by construction.
        unsafe { self.region.start.as_ptr().add(self.offset) }
    }

    fn bytes_total(&self) -> usize {
        self.bytes
    }
}

/// The chunks of one worker.
pub(crate) struct ChunkPool {
    region: Rc<Region>,
    chunk_bytes: usize,
    count: usize,
    /// A set bit is a free chunk.
    free: RefCell<Vec<u64>>,
    available: Cell<usize>,
    ledger: Arc<Ledger>,
    waiting: Cell<usize>,
    released: Notify,
    /// Keeps the registration; `None` where the kernel refused to pin.
    registered: Option<FixedBufRegistry<RegisteredChunk>>,
}

/// IORING_REGISTER_BUFFERS takes UIO_MAXIOV (1,024) buffers at most, and tokio-uring cuts silently.
pub(crate) const CHUNKS_MAX: usize = 1024;

impl ChunkPool {
    /// Maps and registers `count` chunks of `chunk_bytes`; must be called inside the worker's
    /// runtime. Where RLIMIT_MEMLOCK does not allow as many, half as many are tried, and so on; the
    /// last resort is `count` chunks that are not pinned, as they are where there is no ring.
    pub(crate) fn new(
        count: usize,
        chunk_bytes: usize,
        ledger: Arc<Ledger>,
    ) -> io::Result<Rc<Self>> {
        let wanted = count.clamp(1, CHUNKS_MAX);
        let mut pinned = wanted;
        loop {
            let region = Rc::new(Region::map(pinned.max(1) * chunk_bytes)?);
            let chunks = (0..pinned).map(|i| RegisteredChunk {
                region: region.clone(),
                offset: i * chunk_bytes,
                bytes: chunk_bytes,
            });
            let registry = FixedBufRegistry::new(chunks);
            let Err(error) = registry.register() else {
                return Ok(Self::over(region, chunk_bytes, pinned, Some(registry), ledger));
            };
            let has_ring = error.kind() != io::ErrorKind::Unsupported;
            pinned = if has_ring { pinned / 2 } else { 0 };
            if pinned == 0 {
                let region = Rc::new(Region::map(wanted * chunk_bytes)?);
                return Ok(Self::over(region, chunk_bytes, wanted, None, ledger));
            }
        }
    }

    fn over(
        region: Rc<Region>,
        chunk_bytes: usize,
        count: usize,
        registered: Option<FixedBufRegistry<RegisteredChunk>>,
        ledger: Arc<Ledger>,
    ) -> Rc<Self> {
        ledger.set(Kind::PinnedChunks, (count * chunk_bytes) as u64);
        let mut free = vec![0_u64; count.div_ceil(64)];
        for chunk in 0..count {
            free[chunk / 64] |= 1 << (chunk % 64);
        }
        Rc::new(Self {
            region,
            chunk_bytes,
            count,
            free: RefCell::new(free),
            available: Cell::new(count),
            ledger,
            waiting: Cell::new(0),
            released: Notify::new(),
            registered,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    pub(crate) fn leased(&self) -> usize {
        self.count - self.available.get()
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registered.is_some()
    }

    /// True while less than a quarter is free: a transfer should then hold nothing while it waits.
    pub(crate) fn is_scarce(&self) -> bool {
        self.available.get() * 4 <= self.count
    }

    /// Leases up to `want` neighbouring chunks, at least one; waits its turn (first come, first
    /// served) where none is free. Dropping the future while it waits loses nothing.
    pub(crate) async fn lease(self: &Rc<Self>, want: usize) -> Run {
        if self.waiting.get() == 0
            && let Some(run) = self.try_lease(want)
        {
            return run;
        }
        self.waiting.set(self.waiting.get() + 1);
        let _turn = Turn(self);
        loop {
            self.released.notified().await;
            // One chunk each while others wait.
            if let Some(run) = self.try_lease(1) {
                if self.available.get() > 0 {
                    self.released.notify_one();
                }
                return run;
            }
        }
    }

    fn try_lease(self: &Rc<Self>, want: usize) -> Option<Run> {
        let mut count = want.clamp(1, 64);
        let mut free = self.free.borrow_mut();
        while count > 0 {
            for (index, word) in free.iter_mut().enumerate() {
                if let Some(bit) = find_run(*word, count) {
                    *word &= !(mask(count) << bit);
                    self.set_available(self.available.get() - count);
                    return Some(Run { pool: self.clone(), first: index * 64 + bit, count });
                }
            }
            count /= 2;
        }
        None
    }

    fn set_available(&self, count: usize) {
        self.available.set(count);
        let leased_bytes = (self.count - count) * self.chunk_bytes;
        self.ledger.set(Kind::LeasedChunks, leased_bytes as u64);
    }

    fn release(&self, first: usize, count: usize) {
        self.free.borrow_mut()[first / 64] |= mask(count) << (first % 64);
        self.set_available(self.available.get() + count);
        if self.waiting.get() > 0 {
            self.released.notify_one();
        }
    }
}

struct Turn<'a>(&'a ChunkPool);

/// Its chunks are held no more; its ledger is the next worker's.
impl Drop for ChunkPool {
    fn drop(&mut self) {
        self.ledger.set(Kind::PinnedChunks, 0);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

fn mask(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The lowest bit at which `count` ones stand side by side.
fn find_run(word: u64, count: usize) -> Option<usize> {
    let mut starts = word;
    let mut length = 1;
    while length < count {
        let step = length.min(count - length);
        starts &= starts >> step;
        length += step;
    }
    (starts != 0).then(|| starts.trailing_zeros() as usize)
}

/// Leased neighbouring chunks, as one slice. Holds the bytes of its last use.
pub struct Run {
    pool: Rc<ChunkPool>,
    first: usize,
    count: usize,
}

impl Run {
    /// How many chunks these are.
    pub fn chunks(&self) -> usize {
        self.count
    }

    /// The registered buffer that this run begins in, where it lies in one whole.
    pub(super) fn registered_index(&self) -> Option<u16> {
        (self.count == 1 && self.pool.is_registered()).then_some(self.first as u16)
    }
}

impl Deref for Run {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, bytes) = self.extent();
        // SAFETY: the run's chunks lie inside the mapping and are leased to it alone.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }
}

impl DerefMut for Run {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (start, bytes) = self.extent();
        // SAFETY: as above, and `&mut self` makes this the only slice.
        unsafe { std::slice::from_raw_parts_mut(start, bytes) }
    }
}

impl Run {
    fn extent(&self) -> (*mut u8, usize) {
        let bytes = self.pool.chunk_bytes;
        // SAFETY: `first + count <= pool.count`, so the offset is inside the region.
        let start = unsafe { self.pool.region.start.as_ptr().add(self.first * bytes) };
        (start, self.count * bytes)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.pool.release(self.first, self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_where_enough_neighbours_are_free() {
        assert_eq!(find_run(0b0110_0111, 3), Some(0));
        assert_eq!(find_run(0b0110_1110, 3), Some(1));
        assert_eq!(find_run(0b0110_0110, 3), None);
        assert_eq!(find_run(u64::MAX, 64), Some(0));
        assert_eq!(find_run(u64::MAX >> 1, 64), None);
        assert_eq!(find_run(0, 1), None);
        for count in 1..=64 {
            assert_eq!(find_run(u64::MAX, count), Some(0), "{count}");
            assert_eq!(find_run(mask(count) << (64 - count), count), Some(64 - count), "{count}");
        }
    }

    fn unpinned(count: usize) -> Rc<ChunkPool> {
        let region = Rc::new(Region::map(count * 4096).expect("a small mapping"));
        ChunkPool::over(region, 4096, count, None, Arc::default())
    }

    #[test]
    fn a_pool_that_has_ended_leaves_nothing_in_the_ledger() {
        let ledger = Arc::new(Ledger::default());
        let region = Rc::new(Region::map(4096).expect("a small mapping"));
        let pool = ChunkPool::over(region, 4096, 1, None, ledger.clone());
        assert_eq!(ledger.get(Kind::PinnedChunks), 4096);
        drop(pool);
        assert_eq!(ledger.get(Kind::PinnedChunks), 0);
    }

    #[test]
    fn every_chunk_comes_home() {
        let pool = unpinned(70);
        let runs: Vec<_> = std::iter::from_fn(|| pool.try_lease(8)).collect();
        assert_eq!(pool.leased(), 70);
        assert!(runs.iter().all(|run| run.len() == run.chunks() * 4096));
        drop(runs);
        assert_eq!(pool.leased(), 0);
        assert_eq!(pool.try_lease(64).map(|run| run.chunks()), Some(64));
    }

    #[tokio::test]
    async fn an_empty_pool_is_waited_for_in_order() {
        let pool = unpinned(1);
        let held = pool.lease(8).await;
        assert_eq!(held.chunks(), 1);
        let order = RefCell::new(Vec::new());
        let wait = |name| {
            let (pool, order) = (pool.clone(), &order);
            async move {
                let run = pool.lease(1).await;
                order.borrow_mut().push(name);
                tokio::task::yield_now().await;
                drop(run);
            }
        };
        let release = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        tokio::join!(wait("first"), wait("second"), wait("third"), release);
        assert_eq!(*order.borrow(), ["first", "second", "third"]);
        assert_eq!(pool.leased(), 0);
    }
}
