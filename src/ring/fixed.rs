//! Operations on registered memory, which wait in the ring for a socket.
//!
//! In go a socket and a leased chunk; out come how much was moved, and the chunk. Where the socket
//! or the memory is not fit for it, the same is done by a wait and a plain call.

use std::time::Duration;

use super::buffers::Run;
use super::deadlines::Deadlines;
use super::net::Socket;
use super::ops;
use super::waits::{FixedWait, Term, WaitError};

impl Socket {
    /// Receives into one registered chunk by READ_FIXED, or as [`Socket::readable`] and
    /// [`Socket::try_recv`] where the run is not registered.
    pub async fn recv_fixed(
        &self,
        mut run: Run,
        range: std::ops::Range<usize>,
        deadlines: &Deadlines,
        limit: Duration,
    ) -> (Result<usize, WaitError>, Run) {
        let Some(index) = run.registered_index().filter(|_| self.is_plain()) else {
            let result = self.readable(deadlines, limit).await;
            let result = result.and_then(|_| Ok(self.try_recv(&mut run[range])?));
            return (result, run);
        };
        let part = &mut run[range];
        let (pointer, length) = (part.as_mut_ptr(), part.len() as u32);
        // SAFETY: the part lies in the one registered chunk of `run`, which the operation owns.
        let operation = unsafe { ops::read_fixed(&self.fd, run, pointer, length, index) };
        let term = Term::begin(&self.fd, operation.key(), deadlines, limit);
        let (result, run) = FixedWait { operation, term }.await;
        (result.and_then(|count| Ok(self.fd.received(Ok(count))?)), run)
    }

    /// Sends part of one registered chunk by WRITE_FIXED; the counterpart of
    /// [`Socket::recv_fixed`].
    pub async fn send_fixed(
        &self,
        run: Run,
        range: std::ops::Range<usize>,
        deadlines: &Deadlines,
        limit: Duration,
    ) -> (Result<usize, WaitError>, Run) {
        let Some(index) = run.registered_index().filter(|_| self.is_plain()) else {
            let result = self.writable(deadlines, limit).await;
            let result = result.and_then(|_| Ok(self.try_send(&run[range])?));
            return (result, run);
        };
        let part = &run[range];
        let (pointer, length) = (part.as_ptr(), part.len() as u32);
        // SAFETY: as in `recv_fixed`.
        let operation = unsafe { ops::write_fixed(&self.fd, run, pointer, length, index) };
        let term = Term::begin(&self.fd, operation.key(), deadlines, limit);
        FixedWait { operation, term }.await
    }
}
