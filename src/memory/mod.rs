//! Memory that is bounded: what there is, what a configuration can need, and when it runs short.
//!
//! In: the kernel's figures, the configuration and the workers' ledgers. Out: a plan that fits or a
//! refusal that says what to change, and at run time the moment for a cleanup. It frees nothing
//! itself and stops nothing: that is up to the caller.

pub(crate) mod origins;
pub(crate) mod plan;
mod sessions;
pub(crate) mod usage;
pub(crate) mod watch;

pub use plan::Plan;
pub use usage::Usage;
pub(crate) use watch::{Pressure, SharedPressure};

pub(crate) const KIB: u64 = 1024;

/// What `_mb` means everywhere: 1024 × 1024 bytes.
pub(crate) const MIB: u64 = 1024 * 1024;

/// What is said to the operator, once, at start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub text: String,
    /// It follows from what the operator has asked for, and asks for nothing.
    pub is_expected: bool,
}

impl Notice {
    pub fn warning(text: String) -> Self {
        Self { text, is_expected: false }
    }

    pub(crate) fn tell(&self) {
        if self.is_expected {
            tracing::info!("{}", self.text);
        } else {
            tracing::warn!("{}", self.text);
        }
    }
}

fn readable(bytes: u64) -> String {
    let (unit, name) = if bytes < MIB { (KIB, "KiB") } else { (MIB, "MiB") };
    // Tenths, rounded up: a sum that is shown must not look as if it fitted.
    let tenths = u128::from(bytes) * 10;
    let tenths = tenths.div_ceil(u128::from(unit));
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}
