//! How a target stands: what an operator wants of it, and why it is not asked.
//!
//! Nothing comes in and nothing is decided: these are the words for it, which logs, metrics and the
//! admin API share.

/// What an operator wants of an origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wish {
    /// What its state says.
    #[default]
    Up,
    /// Nothing new; what is under way comes to its end.
    Drain,
    /// Nothing new, and its resting connections are closed.
    Down,
}

impl Wish {
    pub(crate) const ALL: [Self; 3] = [Self::Up, Self::Drain, Self::Down];

    pub(crate) fn name(self) -> &'static str {
        ["up", "drain", "down"][self as usize]
    }
}

/// Why a target is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Attempts to connect fail.
    Connect,
    /// Its checks fail.
    Check,
    /// Its answers were errors, or did not come.
    Errors,
    /// It takes much longer than the others.
    Slow,
    /// An operator wants it so.
    Wish(Wish),
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Check => "check",
            Self::Errors => "errors",
            Self::Slow => "slow",
            Self::Wish(wish) => wish.name(),
        }
    }
}

/// A change of what a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Out(Reason),
    Back,
}
