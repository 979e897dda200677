//! What this kernel's io_uring can do of what ringway asks of it.
//!
//! Nothing comes in; out come the names of operations and of set-up flags that the kernel refuses.
//! It opens small rings and closes them again, and is for diagnosis only: workers try for
//! themselves.

use std::io;

use io_uring::{Builder, IoUring, Probe, cqueue, opcode, squeue};

const ENTRIES: u32 = 4;

/// What is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Without these, ringway does not work.
    pub operations: Vec<&'static str>,
    /// Without these, it costs more.
    pub flags: Vec<&'static str>,
}

/// Asks the kernel; the error is that of io_uring_setup(2) or io_uring_register(2).
pub(crate) fn missing() -> io::Result<Missing> {
    let ring = IoUring::new(ENTRIES)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let operations = [
        (opcode::Accept::CODE, "ACCEPT"),
        (opcode::Connect::CODE, "CONNECT"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        (opcode::ReadFixed::CODE, "READ_FIXED"),
        (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    ];
    let is_missing = |(code, _): &(u8, &str)| !probe.is_supported(*code);
    let operations = operations.into_iter().filter(is_missing).map(|(_, name)| name).collect();
    Ok(Missing { operations, flags: missing_flags() })
}

type Plain = Builder<squeue::Entry, cqueue::Entry>;
type Flag = fn(&mut Plain) -> &mut Plain;

fn missing_flags() -> Vec<&'static str> {
    let flags: [(Flag, _); 4] = [
        (Builder::setup_single_issuer, "SINGLE_ISSUER"),
        // Refused without the one before it.
        (|builder| builder.setup_single_issuer().setup_defer_taskrun(), "DEFER_TASKRUN"),
        (Builder::setup_coop_taskrun, "COOP_TASKRUN"),
        (Builder::setup_submit_all, "SUBMIT_ALL"),
    ];
    let is_missing = |(set, _): &(Flag, &str)| {
        let mut builder = IoUring::builder();
        set(&mut builder);
        // Any other error is not the flag's.
        let error = builder.build(ENTRIES).err();
        error.is_some_and(|error| error.raw_os_error() == Some(libc::EINVAL))
    };
    flags.into_iter().filter(is_missing).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_that_the_tests_run_on_has_every_operation() {
        assert_eq!(missing().unwrap().operations, Vec::<&str>::new());
    }

    #[test]
    fn a_kernel_of_6_1_and_later_has_every_flag() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
        if (numbers.next(), numbers.next()) >= (Some(6), Some(1_u32)) {
            assert_eq!(missing().unwrap().flags, Vec::<&str>::new());
        }
    }
}
