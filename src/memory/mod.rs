//! Memory that is bounded: what there is, what a configuration can need, and when it runs short.
//!
//! In: the kernel's figures, the configuration and the workers' ledgers. Out: a plan that fits or a
//! refusal that says what to change, and at run time the moment for a cleanup. It frees nothing
//! itself and stops nothing: that is up to the caller.

pub(crate) mod origins;
pub(crate) mod plan;
pub(crate) mod usage;
pub(crate) mod watch;

pub use plan::Plan;
pub use usage::Usage;
pub(crate) use watch::{Pressure, SharedPressure};

/// What `_mb` means everywhere: 1024 × 1024 bytes.
pub(crate) const MIB: u64 = 1024 * 1024;

/// What is said to the operator, once, at start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice(pub String);
