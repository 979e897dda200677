//! Descriptors that come from outside of this process, as owned ones.
//!
//! In go numbers, of an environment variable or of a message; out come descriptors that are closed
//! when they are dropped. Nothing is read from them here.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Standard input, output and error are everybody's.
const FIRST: RawFd = 3;

/// Takes the descriptor that the parent process has left open under `number`. To be called once
/// for each number, before anything else opens a descriptor.
pub(crate) fn adopt(number: Option<RawFd>) -> Option<OwnedFd> {
    let number = number.filter(|number| *number >= FIRST)?;
    // SAFETY: only asked whether it is open, which is harmless for any number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD).ok()?;
    // SAFETY: it is open, and the caller's promise is that nothing else in this process owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes a descriptor that has just come with a message (SCM_RIGHTS).
pub(crate) fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has opened it for this process with the message, and no other thread
    // knows.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn only_what_is_open_is_adopted() {
        for number in [None, Some(-1), Some(0), Some(2), Some(1_000_000)] {
            assert!(adopt(number).is_none(), "{number:?}");
        }
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert!(adopt(Some(read.into_raw_fd())).is_some());
    }
}
