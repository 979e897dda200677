//! How much of a head is taken in.
//!
//! In go limits of the configuration; out comes what every reader of a head is held to. Nothing
//! here reads a byte.

/// How much of a head is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The whole head, leading empty lines and the last empty line included.
    pub head_bytes: usize,
    /// A request's target.
    pub target_bytes: usize,
    /// Fields. [`crate::limits::HEADER_COUNT_MAX`] holds in any case.
    pub header_count: usize,
}
