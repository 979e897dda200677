//! The process's allocator: chosen before anything is allocated, and told to give back what is
//! free.
//!
//! mimalloc keeps the least for a connection at rest (measured with 5,000: 419 bytes of resident
//! memory each; its version 3 keeps 842, glibc 4,578). But it takes addresses by 32 MiB for each
//! thread, which a limit of addresses (RLIMIT_AS) of 128 MiB refuses before `main` begins. Under
//! such a limit the C library's allocator serves, with one arena.
//!
//! mimalloc purges free pages when the thread that freed them allocates again; a worker whose
//! connections have all come to rest allocates nothing, and would keep the memory of its busiest
//! second for as long as it is idle.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use mimalloc::MiMalloc;

/// Below this limit of addresses mimalloc's segments could take most of it.
const ROOMY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Whether addresses are limited. Set before the first allocation and never again: what one
/// allocator has given, the other must not get back.
static IS_NARROW: AtomicBool = AtomicBool::new(false);

/// mimalloc, or the C library's allocator where addresses are limited.
pub struct Allocator;

// SAFETY: each call goes to one allocator, always the same one, which keeps the contract.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        unsafe { if is_narrow() { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe {
            if is_narrow() {
                System.dealloc(block, layout);
            } else {
                MiMalloc.dealloc(block, layout);
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        unsafe {
            if is_narrow() { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        unsafe {
            if is_narrow() {
                System.realloc(block, layout, bytes)
            } else {
                MiMalloc.realloc(block, layout, bytes)
            }
        }
    }
}

#[inline]
fn is_narrow() -> bool {
    IS_NARROW.load(Ordering::Relaxed)
}

/// Runs before `main` and before anything has been allocated.
// SAFETY: the section takes pointers to functions without a result; the C library calls them once,
// on the only thread, and `prepare` needs nothing that is set up after that.
#[used]
#[unsafe(link_section = ".init_array.00099")]
static PREPARE: extern "C" fn() = prepare;

/// Allocates nothing and cannot panic. What the kernel refuses stays as it was.
extern "C" fn prepare() {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `getrlimit` writes one `rlimit`.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
    IS_NARROW.store(is_known && limit.rlim_cur < ROOMY_BYTES, Ordering::Relaxed);
    // A page of 2 MiB for what fits into one of 4 KiB: at rest the process is twice as large.
    // SAFETY: these operations of prctl(2) and mallopt(3) take numbers only.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        // An arena for each thread would be 64 MiB of addresses.
        #[cfg(target_env = "gnu")]
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns the free pages of the calling thread's heap. A walk over the heap: not for every
/// request.
pub(crate) fn purge() {
    if is_narrow() {
        #[cfg(target_env = "gnu")]
        // SAFETY: `malloc_trim` may be called at any time from any thread.
        unsafe {
            libc::malloc_trim(0)
        };
        return;
    }
    // SAFETY: `mi_collect` may be called at any time from any thread; it touches free pages of
    // mimalloc's own heap only, whether or not it is the global allocator.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
