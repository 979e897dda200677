//! Gives freed memory back to the kernel.
//!
//! mimalloc purges free pages when the thread that freed them allocates again; a worker whose
//! connections have all come to rest allocates nothing, and would keep the memory of its busiest
//! second for as long as it is idle.

/// Returns the free pages of the calling thread's heap. A walk over the heap: not for every
/// request.
pub fn purge() {
    // SAFETY: `mi_collect` may be called at any time from any thread; it touches free pages of
    // mimalloc's own heap only, whether or not it is the global allocator.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
