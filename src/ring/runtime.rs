//! The runtime of a worker: a ring with the flags that pay, or the reason why there is none; or an
//! epoll set in its place.
//!
//! DEFER_TASKRUN has the kernel finish operations when the thread asks for completions, which it
//! does by the call that it sleeps in, and SINGLE_ISSUER spares locks; COOP_TASKRUN is the next
//! best for kernels that know no DEFER_TASKRUN. TASKRUN_FLAG has it say when it has something to
//! finish. SUBMIT_ALL keeps one bad entry from holding the others back. Older kernels refuse a flag
//! with EINVAL and then get fewer; a low RLIMIT_MEMLOCK refuses the queues with ENOMEM and then
//! gets smaller ones.

use std::io;
use std::time::Duration;

pub use tokio_uring::Foreign;
use tokio_uring::Runtime;

pub use super::driver::Driver;
use super::{clock, diagnose};

const ENTRIES: u32 = 256;
const ENTRIES_MIN: u32 = 32;
/// Completion entries per submission entry: idle connections complete in bursts.
const COMPLETION_FACTOR: u32 = 16;
/// A ring that was closed just now is un-charged from RLIMIT_MEMLOCK asynchronously.
const MEMORY_RETRIES: u32 = 5;

/// Opens a runtime on the calling thread, which must be the one that uses it.
pub fn open(driver: Driver) -> io::Result<Runtime> {
    match driver {
        Driver::IoUring => open_ring(),
        Driver::Epoll => {
            let mut builder = tokio_uring::builder();
            builder.epoll(true).before_turn(clock::begin_turn);
            Runtime::new(&builder)
        }
    }
}

/// One with the driver that is tested.
#[cfg(test)]
pub(crate) fn tested() -> Runtime {
    open(Driver::tested()).unwrap()
}

fn open_ring() -> io::Result<Runtime> {
    let mut entries = ENTRIES;
    let mut flags = 0_usize;
    let mut retries = 0;
    loop {
        let mut ring = tokio_uring::uring_builder();
        ring.setup_cqsize(entries * COMPLETION_FACTOR);
        // From the best set of flags to the barest.
        if flags == 0 {
            ring.setup_defer_taskrun();
        }
        if flags <= 1 {
            ring.setup_single_issuer();
        }
        if flags <= 2 {
            ring.setup_coop_taskrun();
            ring.setup_taskrun_flag();
        }
        if flags <= 3 {
            ring.setup_submit_all();
        }
        let mut builder = tokio_uring::builder();
        builder.entries(entries).uring_builder(&ring).tells_of_work(flags <= 2);
        builder.before_turn(clock::begin_turn);
        match Runtime::new(&builder) {
            Ok(runtime) => return Ok(runtime),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL) if flags < 4 => flags += 1,
                Some(libc::ENOMEM) if retries < MEMORY_RETRIES => {
                    retries += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Some(libc::ENOMEM) if entries > ENTRIES_MIN => entries /= 2,
                _ => return Err(error),
            },
        }
    }
}

/// Opens a ring and closes it again: the error says why io_uring cannot be used here.
pub fn probe() -> Result<(), String> {
    std::thread::spawn(|| open_ring().map(drop))
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
        .map_err(|error| diagnose::diagnose(&error))?;
    // A filter may let a ring be opened and yet forbid the calls that use it.
    diagnose::blocked_calls().map_or(Ok(()), Err)
}
