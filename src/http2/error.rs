//! What can go wrong with HTTP/2, in closed sets: codes, causes, and whom they concern.
//!
//! Nothing comes in and nothing is decided: these are the words by which the session tells its peer
//! and its caller apart what ends a stream from what ends the connection (RFC 9113 §5.4). Each
//! cause has one name, for logs and metrics.

use super::hpack::HpackError;

/// RFC 9113 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ErrorCode {
    NoError = 0x0,
    ProtocolError = 0x1,
    InternalError = 0x2,
    FlowControlError = 0x3,
    SettingsTimeout = 0x4,
    StreamClosed = 0x5,
    FrameSizeError = 0x6,
    RefusedStream = 0x7,
    Cancel = 0x8,
    CompressionError = 0x9,
    ConnectError = 0xa,
    EnhanceYourCalm = 0xb,
    InadequateSecurity = 0xc,
    Http11Required = 0xd,
}

impl ErrorCode {
    /// Codes that are not known mean an internal error of whoever sends them (RFC 9113 §7).
    pub(crate) fn of(code: u32) -> Self {
        match code {
            0x0 => Self::NoError,
            0x1 => Self::ProtocolError,
            0x3 => Self::FlowControlError,
            0x4 => Self::SettingsTimeout,
            0x5 => Self::StreamClosed,
            0x6 => Self::FrameSizeError,
            0x7 => Self::RefusedStream,
            0x8 => Self::Cancel,
            0x9 => Self::CompressionError,
            0xa => Self::ConnectError,
            0xb => Self::EnhanceYourCalm,
            0xc => Self::InadequateSecurity,
            0xd => Self::Http11Required,
            _ => Self::InternalError,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NO_ERROR",
            Self::ProtocolError => "PROTOCOL_ERROR",
            Self::InternalError => "INTERNAL_ERROR",
            Self::FlowControlError => "FLOW_CONTROL_ERROR",
            Self::SettingsTimeout => "SETTINGS_TIMEOUT",
            Self::StreamClosed => "STREAM_CLOSED",
            Self::FrameSizeError => "FRAME_SIZE_ERROR",
            Self::RefusedStream => "REFUSED_STREAM",
            Self::Cancel => "CANCEL",
            Self::CompressionError => "COMPRESSION_ERROR",
            Self::ConnectError => "CONNECT_ERROR",
            Self::EnhanceYourCalm => "ENHANCE_YOUR_CALM",
            Self::InadequateSecurity => "INADEQUATE_SECURITY",
            Self::Http11Required => "HTTP_1_1_REQUIRED",
        }
    }
}

/// The end of a connection, after GOAWAY with this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionError {
    pub code: ErrorCode,
    pub cause: Cause,
}

/// The end of one stream, by RST_STREAM with this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamError {
    pub code: ErrorCode,
    pub cause: Cause,
}

/// What the peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The bytes are not those by which HTTP/2 begins.
    Preface,
    /// The first frame is none of SETTINGS.
    NoSettings,
    /// A frame longer than we allow.
    FrameTooLong,
    /// A length that a frame of this type cannot have.
    FrameLength,
    /// A stream where the frame is about the connection, or the reverse.
    StreamIdentifier,
    /// More padding than payload.
    Padding,
    /// A block was interrupted, or continued where there was none.
    Continuation,
    Compression(HpackError),
    /// A stream that the peer must not open, or has passed over.
    StreamOrder,
    /// A frame for a stream that nobody has opened.
    IdleStream,
    /// A frame for a stream that the peer itself had ended.
    ClosedStream,
    /// More streams than we allow.
    TooManyStreams,
    /// We take no more streams.
    Draining,
    /// A head that is no message (RFC 9113 §8.1.1).
    Message(Malformed),
    /// A head, or trailers, larger than we allow, where no 431 can say so.
    HeadSize,
    /// More or less of a body than was announced.
    BodyLength,
    /// More than the window of the stream or the connection.
    Window,
    /// A window was widened by nothing.
    WindowIncrement,
    /// A window was widened beyond 2³¹ − 1.
    WindowOverflow,
    /// A setting with a value that it cannot have.
    Setting,
    /// An acknowledgement of nothing.
    SettingsAck,
    /// A push, which we have forbidden.
    Push,
    /// A GOAWAY that takes back what one before it said.
    GoAway,
    /// A priority for what has none.
    Priority,
    Guard(GuardReason),
    /// The peer gave the stream up.
    ResetByPeer,
}

impl Cause {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Preface => "preface",
            Self::NoSettings => "no_settings",
            Self::FrameTooLong => "frame_too_long",
            Self::FrameLength => "frame_length",
            Self::StreamIdentifier => "stream_identifier",
            Self::Padding => "padding",
            Self::Continuation => "continuation",
            Self::Compression(_) => "compression",
            Self::StreamOrder => "stream_order",
            Self::IdleStream => "idle_stream",
            Self::ClosedStream => "closed_stream",
            Self::TooManyStreams => "too_many_streams",
            Self::Draining => "draining",
            Self::Message(malformed) => malformed.as_str(),
            Self::HeadSize => "head_size",
            Self::BodyLength => "body_length",
            Self::Window => "window",
            Self::WindowIncrement => "window_increment",
            Self::WindowOverflow => "window_overflow",
            Self::Setting => "setting",
            Self::SettingsAck => "settings_ack",
            Self::Push => "push",
            Self::GoAway => "goaway",
            Self::Priority => "priority",
            Self::Guard(reason) => reason.as_str(),
            Self::ResetByPeer => "reset_by_peer",
        }
    }
}

/// Why a head is no message: PROTOCOL_ERROR for its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// A name that is no token in lower case.
    Name,
    /// A value with NUL, CR or LF, or with blanks at its ends.
    Value,
    /// A pseudo-field that does not exist, or not in such a head.
    Pseudo,
    /// A pseudo-field behind a field.
    PseudoOrder,
    PseudoRepeated,
    PseudoMissing,
    Method,
    Scheme,
    Path,
    Authority,
    Protocol,
    Status,
    /// A field that only a connection of HTTP/1 has.
    ConnectionField,
    Te,
    ContentLength,
    /// A head where a tunnel has begun (RFC 9113 §8.5).
    InTunnel,
    /// A second head that is not the last, or an interim one that is.
    EndMissing,
}

impl Malformed {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Name => "field_name",
            Self::Value => "field_value",
            Self::Pseudo => "pseudo_field",
            Self::PseudoOrder => "pseudo_field_order",
            Self::PseudoRepeated => "pseudo_field_repeated",
            Self::PseudoMissing => "pseudo_field_missing",
            Self::Method => "method",
            Self::Scheme => "scheme",
            Self::Path => "path",
            Self::Authority => "authority",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::ConnectionField => "connection_field",
            Self::Te => "te",
            Self::ContentLength => "content_length",
            Self::InTunnel => "in_tunnel",
            Self::EndMissing => "end_missing",
        }
    }
}

/// Which budget against hostile peers is used up: ENHANCE_YOUR_CALM for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardReason {
    /// Streams that the peer gave up, or made us give up.
    Resets,
    Settings,
    Ping,
    Priority,
    UnknownFrames,
    WindowUpdates,
    EmptyData,
    /// Frames for streams that have ended.
    LateFrames,
    /// An origin says again and again that it will answer.
    InterimResponses,
    /// A head in too many frames.
    ContinuationCount,
    /// A head of too many bytes, as it came.
    BlockBytes,
    /// Too many settings in one frame.
    SettingsCount,
    /// The peer asks and does not read what we answer.
    Outbox,
}

impl GuardReason {
    pub(crate) const ALL: [Self; 13] = [
        Self::Resets,
        Self::Settings,
        Self::Ping,
        Self::Priority,
        Self::UnknownFrames,
        Self::WindowUpdates,
        Self::EmptyData,
        Self::LateFrames,
        Self::InterimResponses,
        Self::ContinuationCount,
        Self::BlockBytes,
        Self::SettingsCount,
        Self::Outbox,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Settings => "settings",
            Self::Ping => "ping",
            Self::Priority => "priority",
            Self::UnknownFrames => "unknown_frames",
            Self::WindowUpdates => "window_updates",
            Self::EmptyData => "empty_data",
            Self::LateFrames => "late_frames",
            Self::InterimResponses => "interim_responses",
            Self::ContinuationCount => "continuation_count",
            Self::BlockBytes => "block_bytes",
            Self::SettingsCount => "settings_count",
            Self::Outbox => "outbox",
        }
    }
}
