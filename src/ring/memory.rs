//! The process's allocator: set up before anything is allocated, and told to give back what is
//! free.
//!
//! mimalloc purges free pages when the thread that freed them allocates again; a worker whose
//! connections have all come to rest allocates nothing, and would keep the memory of its busiest
//! second for as long as it is idle. Left to itself it also reserves a gibibyte of addresses and
//! asks for huge pages, which suits a machine of its own and no limit.

/// Below this limit of addresses (RLIMIT_AS) the allocator takes each page from the kernel by
/// itself, in place of an arena: the reservation for one is refused, or takes most of the limit.
///
/// From here on that could come to more mappings than a process may have, 65,530 (vm.max_map_count)
/// of 64 KiB each.
const ARENAS_FROM_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// `mi_option_disallow_arena_alloc` of mimalloc 3; the binding names no options beyond those that
/// versions 2 and 3 share. A test sees that it does what it shall.
const DISALLOW_ARENAS: libmimalloc_sys::mi_option_t = 26;

/// Runs before `main`, and before mimalloc's own constructor, which has no priority: the first
/// allocation reserves an arena.
// SAFETY: the section takes pointers to functions without a result; the C library calls them once,
// on the only thread, and `prepare` needs nothing that is set up after that.
#[used]
#[unsafe(link_section = ".init_array.00099")]
static PREPARE: extern "C" fn() = prepare;

/// Allocates nothing and cannot panic. What the kernel refuses stays as it was.
extern "C" fn prepare() {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `getrlimit` writes one `rlimit`; `mi_option_set` stores a number in a table that
    // needs no initialisation.
    unsafe {
        let is_known = libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) == 0;
        if is_known && limit.rlim_cur < ARENAS_FROM_BYTES {
            libmimalloc_sys::mi_option_set(DISALLOW_ARENAS, 1);
        }
    }
    // A page of 2 MiB for what fits into one of 4 KiB: at rest the process is twice as large.
    // SAFETY: these operations of prctl(2) and mallopt(3) take numbers only.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        // What the C library allocates for itself is little; an arena of its own for each thread
        // would be 64 MiB of addresses.
        #[cfg(target_env = "gnu")]
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns the free pages of the calling thread's heap. A walk over the heap: not for every
/// request.
pub fn purge() {
    // SAFETY: `mi_collect` may be called at any time from any thread; it touches free pages of
    // mimalloc's own heap only, whether or not it is the global allocator.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
