//! Why a head is refused: one name per cause, and what each means to a client.
//!
//! The set is closed, and a new cause does not compile until its status is chosen. Nothing here
//! holds bytes of the message, so that a cause can be logged as it is.

use super::framing::FramingError;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    BareLf,
    BareCr,
    EmptyLines,
    Method,
    MethodTooLong,
    /// A byte that no target may hold.
    Target,
    TargetTooLong,
    /// No form of target that fits the method, or a host in it that is invalid.
    TargetForm,
    /// User information in the target of CONNECT, which has none (RFC 9112 §3.2.3).
    TargetUser,
    /// Not a version at all.
    BadVersion,
    /// A version that is not spoken.
    OtherVersion,
    StatusLine,
    FieldName,
    FieldValue,
    FoldedLine,
    HeadTooLarge,
    TooManyFields,
    HostMissing,
    HostRepeated,
    HostInvalid,
    ConnectionOptions,
    Expectation,
    MaxForwards,
    /// A field name with a `_`, where `limits.underscores` refuses them.
    Underscore,
    /// A head of HTTP/2 that is no message.
    Malformed,
    /// An extended CONNECT for a protocol that is not spoken (RFC 8441 §4).
    OtherProtocol,
    /// Frames against the rules of HTTP/2, or too many of a kind: its connection ends.
    Frames,
    Framing(FramingError),
}

impl HeadError {
    /// What a client is answered. An origin's faults are 502 whatever they are.
    pub const fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::MethodTooLong
            | Self::OtherProtocol
            | Self::Framing(FramingError::CodingUnsupported) => 501,
            Self::OtherVersion => 505,
            Self::BareLf
            | Self::BareCr
            | Self::EmptyLines
            | Self::Method
            | Self::Target
            | Self::TargetForm
            | Self::TargetUser
            | Self::BadVersion
            | Self::StatusLine
            | Self::FieldName
            | Self::FieldValue
            | Self::FoldedLine
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostInvalid
            | Self::ConnectionOptions
            | Self::MaxForwards
            | Self::Underscore
            | Self::Malformed
            | Self::Frames
            | Self::Framing(
                FramingError::LengthAndCoding
                | FramingError::LengthRepeated
                | FramingError::LengthInvalid
                | FramingError::CodingInHttp10
                | FramingError::CodingInvalid
                | FramingError::BodyForbidden,
            ) => 400,
        }
    }

    /// The cause in a few words, for a log line or a Proxy-Status field.
    pub const fn text(self) -> &'static str {
        match self {
            Self::BareLf => "line ends without CR",
            Self::BareCr => "CR without LF",
            Self::EmptyLines => "too many empty lines",
            Self::Method => "invalid method",
            Self::MethodTooLong => "method too long",
            Self::Target => "invalid byte in target",
            Self::TargetTooLong => "target too long",
            Self::TargetForm => "invalid target",
            Self::TargetUser => "user name in the target of CONNECT, not in Proxy-Authorization",
            Self::BadVersion => "invalid version",
            Self::OtherVersion => "unsupported version",
            Self::StatusLine => "invalid status line",
            Self::FieldName => "invalid field name",
            Self::FieldValue => "invalid field value",
            Self::FoldedLine => "folded line",
            Self::HeadTooLarge => "head too large",
            Self::TooManyFields => "too many fields",
            Self::HostMissing => "no Host",
            Self::HostRepeated => "more than one Host",
            Self::HostInvalid => "invalid Host",
            Self::ConnectionOptions => "too many Connection options",
            Self::Expectation => "unknown expectation",
            Self::MaxForwards => "invalid Max-Forwards",
            Self::Underscore => "underscore in a field name",
            Self::Malformed => "malformed HTTP/2 head",
            Self::OtherProtocol => "unsupported protocol",
            Self::Frames => "HTTP/2 protocol error",
            Self::Framing(error) => error.text(),
        }
    }
}

impl From<FramingError> for HeadError {
    fn from(error: FramingError) -> Self {
        Self::Framing(error)
    }
}

impl From<LineError> for HeadError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::BareLf => Self::BareLf,
            LineError::BareCr => Self::BareCr,
            LineError::Name => Self::FieldName,
            LineError::Value => Self::FieldValue,
            LineError::Folded => Self::FoldedLine,
        }
    }
}

/// What is wrong with a field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineError {
    /// An LF without a CR before it.
    BareLf,
    /// A CR without an LF after it.
    BareCr,
    /// A field name is empty, holds a byte that is not a token's, or is followed by white space.
    Name,
    /// A field value holds a control byte.
    Value,
    /// A line begins with white space: obsolete line folding (RFC 9112 §5.2).
    Folded,
}
