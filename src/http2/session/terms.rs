//! What both sides have said of themselves: our terms, and the peer's settings.
//!
//! In go values, ours from whoever configures us and the peer's from its SETTINGS; out come the
//! settings that we announce, and whether the peer's are possible. Nothing is done with them here.

use crate::http2::Role;
use crate::http2::error::{Cause, ConnectionError, ErrorCode};
use crate::http2::fields::HeadBounds;
use crate::http2::frames::{
    FRAME_BYTES_DEFAULT, FRAME_BYTES_MAX, STREAM_MAX, WINDOW_DEFAULT, WINDOW_MAX,
};
use crate::http2::guard::Rate;
use crate::http2::hpack::table::TABLE_BYTES_MAX;
use crate::limits::{HTTP2_RESETS_BURST, HTTP2_RESETS_PER_SECOND};

const HEADER_TABLE_SIZE: u16 = 0x1;
const ENABLE_PUSH: u16 = 0x2;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// RFC 8441.
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
/// RFC 9218.
const NO_RFC7540_PRIORITIES: u16 = 0x9;

/// What we allow. One for many connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Streams that the peer may have open.
    pub streams_max: u32,
    /// What a stream's peer may have on its way, and a connection's.
    pub stream_window: u32,
    pub connection_window: u32,
    /// A head, as it is decoded.
    pub head: HeadBounds,
    /// A head, as it comes.
    pub block_bytes_max: u32,
    /// The peer's table for our decoder; at most 4 KiB.
    pub table_bytes: u32,
    /// Other protocols may be asked for.
    pub allows_protocol: bool,
    /// Targets of requests are written in absolute form.
    pub is_absolute: bool,
    pub resets: Rate,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            streams_max: 100,
            stream_window: 65_535,
            connection_window: 256 * 1024,
            head: HeadBounds { bytes: 32 * 1024, count: 128 },
            block_bytes_max: 64 * 1024,
            table_bytes: TABLE_BYTES_MAX as u32,
            allows_protocol: true,
            is_absolute: false,
            resets: Rate { burst: HTTP2_RESETS_BURST, per_second: HTTP2_RESETS_PER_SECOND },
        }
    }
}

impl Terms {
    /// What we announce to the peer of that role's other side.
    pub(super) fn announced(&self, role: Role) -> Vec<(u16, u32)> {
        let mut settings = Vec::with_capacity(6);
        if self.table_bytes < TABLE_BYTES_MAX as u32 {
            settings.push((HEADER_TABLE_SIZE, self.table_bytes));
        }
        match role {
            Role::Server => {
                settings.push((MAX_CONCURRENT_STREAMS, self.streams_max));
                settings.push((NO_RFC7540_PRIORITIES, 1));
                if self.allows_protocol {
                    settings.push((ENABLE_CONNECT_PROTOCOL, 1));
                }
            }
            Role::Client => settings.push((ENABLE_PUSH, 0)),
        }
        if i64::from(self.stream_window) != WINDOW_DEFAULT {
            settings.push((INITIAL_WINDOW_SIZE, self.stream_window));
        }
        settings.push((MAX_HEADER_LIST_SIZE, self.head.bytes));
        settings
    }
}

/// Streams that we open before the peer has said how many it allows: fewer than this nobody should
/// allow (RFC 9113 §6.5.2).
const STREAMS_UNSAID: u32 = 100;

/// What the peer allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerSettings {
    pub table_bytes: u32,
    /// Streams that we may have open.
    pub streams_max: u32,
    pub stream_window: u32,
    pub frame_bytes_max: u32,
    /// Advice (RFC 9113 §6.5.2).
    pub head_bytes_max: u32,
    /// Other protocols may be asked for.
    pub allows_protocol: bool,
    /// Whether RFC 7540's priorities mean nothing; it stays as it was first said.
    has_no_old_priorities: Option<bool>,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            table_bytes: TABLE_BYTES_MAX as u32,
            streams_max: STREAMS_UNSAID,
            stream_window: WINDOW_DEFAULT as u32,
            frame_bytes_max: FRAME_BYTES_DEFAULT,
            head_bytes_max: u32::MAX,
            allows_protocol: false,
            has_no_old_priorities: None,
        }
    }
}

impl PeerSettings {
    /// Takes the settings of one frame, which the peer of `role`'s other side has sent.
    pub(super) fn take(
        &mut self,
        payload: &[u8],
        role: Role,
        is_first: bool,
    ) -> Result<(), ConnectionError> {
        if is_first {
            self.streams_max = u32::MAX;
        }
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            self.set(name, value, role)?;
        }
        if is_first {
            self.has_no_old_priorities.get_or_insert(false);
        }
        Ok(())
    }

    fn set(&mut self, name: u16, value: u32, role: Role) -> Result<(), ConnectionError> {
        let wrong = |code| Err(ConnectionError { code, cause: Cause::Setting });
        match name {
            HEADER_TABLE_SIZE => self.table_bytes = value,
            // A server that may push is none of ours (RFC 9113 §6.5.2).
            ENABLE_PUSH if value > u32::from(role == Role::Server) => {
                return wrong(ErrorCode::ProtocolError);
            }
            MAX_CONCURRENT_STREAMS => self.streams_max = value,
            INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_MAX => {
                return wrong(ErrorCode::FlowControlError);
            }
            INITIAL_WINDOW_SIZE => self.stream_window = value,
            MAX_FRAME_SIZE if !(FRAME_BYTES_DEFAULT..=FRAME_BYTES_MAX).contains(&value) => {
                return wrong(ErrorCode::ProtocolError);
            }
            MAX_FRAME_SIZE => self.frame_bytes_max = value,
            MAX_HEADER_LIST_SIZE => self.head_bytes_max = value,
            ENABLE_CONNECT_PROTOCOL if value > 1 || (value == 0 && self.allows_protocol) => {
                return wrong(ErrorCode::ProtocolError);
            }
            ENABLE_CONNECT_PROTOCOL => self.allows_protocol = value == 1,
            NO_RFC7540_PRIORITIES => {
                let is_changed = self.has_no_old_priorities.is_some_and(|was| was != (value == 1));
                if value > 1 || is_changed {
                    return wrong(ErrorCode::ProtocolError);
                }
                self.has_no_old_priorities = Some(value == 1);
            }
            _ => {}
        }
        Ok(())
    }
}

const _: () = assert!(STREAM_MAX as i64 == WINDOW_MAX);
