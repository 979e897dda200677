//! Frames as bytes: the nine that each begins with, and those that we send.
//!
//! In goes a frame's beginning, out come its length, type, flags and stream; and each writer
//! appends one frame to a buffer. Which frame may come when, and for which stream, is the
//! session's to say; nothing here remembers anything.

use super::error::ErrorCode;

/// What every frame begins with (RFC 9113 §4.1).
pub(crate) const FRAME_HEAD_BYTES: usize = 9;

/// By which a client begins (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest payload before a peer has asked for more, which we never do.
pub(crate) const FRAME_BYTES_DEFAULT: u32 = 16_384;
/// The longest payload that anybody can ask for.
pub(crate) const FRAME_BYTES_MAX: u32 = (1 << 24) - 1;

/// The largest stream and the largest window.
pub(crate) const STREAM_MAX: u32 = 0x7fff_ffff;
pub(crate) const WINDOW_MAX: i64 = 0x7fff_ffff;
/// The window of a connection, and of a stream before its receiver has said otherwise.
pub(crate) const WINDOW_DEFAULT: i64 = 65_535;

/// The types that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameType {
    Data = 0x0,
    Headers = 0x1,
    Priority = 0x2,
    RstStream = 0x3,
    Settings = 0x4,
    PushPromise = 0x5,
    Ping = 0x6,
    GoAway = 0x7,
    WindowUpdate = 0x8,
    Continuation = 0x9,
    /// RFC 9218 §7.1.
    PriorityUpdate = 0x10,
    /// To be ignored (RFC 9113 §4.1).
    Unknown = 0xff,
}

impl FrameType {
    fn of(byte: u8) -> Self {
        match byte {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::RstStream,
            0x4 => Self::Settings,
            0x5 => Self::PushPromise,
            0x6 => Self::Ping,
            0x7 => Self::GoAway,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            0x10 => Self::PriorityUpdate,
            _ => Self::Unknown,
        }
    }
}

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITY: u8 = 0x20;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub length: u32,
    pub kind: FrameType,
    pub flags: u8,
    /// Without the reserved bit.
    pub stream: u32,
}

impl FrameHead {
    #[inline]
    pub(crate) fn read(bytes: &[u8; FRAME_HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind: FrameType::of(kind),
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & STREAM_MAX,
        }
    }

    #[inline]
    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The first nine bytes of a frame that is sent.
#[inline]
pub(crate) fn frame_head(
    length: usize,
    kind: FrameType,
    flags: u8,
    stream: u32,
) -> [u8; FRAME_HEAD_BYTES] {
    debug_assert!(length <= FRAME_BYTES_MAX as usize && kind != FrameType::Unknown);
    let [_, l0, l1, l2] = (length as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [l0, l1, l2, kind as u8, flags, s0, s1, s2, s3]
}

fn put(out: &mut Vec<u8>, kind: FrameType, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&frame_head(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}

pub(crate) fn put_rst_stream(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    put(out, FrameType::RstStream, 0, stream, &(code as u32).to_be_bytes());
}

pub(crate) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    out.extend_from_slice(&frame_head(settings.len() * 6, FrameType::Settings, 0, 0));
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(crate) fn put_settings_ack(out: &mut Vec<u8>) {
    put(out, FrameType::Settings, ACK, 0, b"");
}

pub(crate) fn put_ping(out: &mut Vec<u8>, is_ack: bool, payload: [u8; 8]) {
    put(out, FrameType::Ping, if is_ack { ACK } else { 0 }, 0, &payload);
}

pub(crate) fn put_goaway(out: &mut Vec<u8>, last: u32, code: ErrorCode) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    payload[4..].copy_from_slice(&(code as u32).to_be_bytes());
    put(out, FrameType::GoAway, 0, 0, &payload);
}

pub(crate) fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    debug_assert!(increment > 0 && increment <= STREAM_MAX);
    put(out, FrameType::WindowUpdate, 0, stream, &increment.to_be_bytes());
}

/// Makes frames of a block that was written to the end of `out` from `start`, behind nine bytes
/// that are to become its first frame's.
pub(crate) fn frame_block(
    out: &mut Vec<u8>,
    start: usize,
    stream: u32,
    is_end: bool,
    frame_bytes_max: usize,
) {
    let end = if is_end { END_STREAM } else { 0 };
    let block = out.len() - start - FRAME_HEAD_BYTES;
    if block <= frame_bytes_max {
        let head = frame_head(block, FrameType::Headers, end | END_HEADERS, stream);
        out[start..start + FRAME_HEAD_BYTES].copy_from_slice(&head);
        return;
    }
    let rest = out.split_off(start + FRAME_HEAD_BYTES + frame_bytes_max);
    let head = frame_head(frame_bytes_max, FrameType::Headers, end, stream);
    out[start..start + FRAME_HEAD_BYTES].copy_from_slice(&head);
    let mut parts = rest.chunks(frame_bytes_max).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
        put(out, FrameType::Continuation, flags, stream, part);
    }
}

/// Four bytes as a number, of a payload whose length was checked.
#[inline]
pub(crate) fn read_u32(payload: &[u8], at: usize) -> u32 {
    payload
        .get(at..at + 4)
        .map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_s_head_is_read_as_it_is_written() {
        let head = frame_head(0x01_0203, FrameType::Ping, 0x2d, STREAM_MAX);
        assert_eq!(head, [1, 2, 3, 6, 0x2d, 0x7f, 0xff, 0xff, 0xff]);
        let read = FrameHead::read(&head);
        assert_eq!((read.length, read.kind), (0x01_0203, FrameType::Ping));
        assert_eq!((read.flags, read.stream), (0x2d, STREAM_MAX));
        let reserved = FrameHead::read(&[0, 0, 0, 0x42, 0, 0x80, 0, 0, 1]);
        assert_eq!((reserved.kind, reserved.stream), (FrameType::Unknown, 1));
    }

    #[test]
    fn a_block_that_is_longer_than_a_frame_goes_on_in_others() {
        for block in [0, 9, 10, 11, 20, 25] {
            let mut out = b"x".to_vec();
            out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
            let bytes: Vec<u8> = (0..block).collect();
            out.extend_from_slice(&bytes);
            frame_block(&mut out, 1, 5, true, 10);
            let (mut rest, mut found, mut kinds) = (&out[1..], Vec::new(), Vec::new());
            while let Some((head, payload)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() {
                let head = FrameHead::read(head);
                let (payload, behind) = payload.split_at(head.length as usize);
                found.extend_from_slice(payload);
                kinds.push((head.kind, head.has(END_HEADERS), head.stream));
                rest = behind;
            }
            assert_eq!(found, bytes);
            assert_eq!(kinds[0].0, FrameType::Headers);
            for (at, kind) in kinds.iter().enumerate() {
                let is_last = at + 1 == kinds.len();
                assert_eq!(kind.1, is_last);
                assert!(at == 0 || kind.0 == FrameType::Continuation);
            }
        }
    }

    #[test]
    fn control_frames_are_spelled_as_rfc_9113_says() {
        let mut out = Vec::new();
        put_rst_stream(&mut out, 3, ErrorCode::Cancel);
        put_settings(&mut out, &[(3, 100)]);
        put_settings_ack(&mut out);
        put_goaway(&mut out, 7, ErrorCode::EnhanceYourCalm);
        put_window_update(&mut out, 0, 1);
        put_ping(&mut out, true, *b"12345678");
        let expected = b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08\
            \0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64\
            \0\0\0\x04\x01\0\0\0\0\
            \0\0\x08\x07\0\0\0\0\0\0\0\0\x07\0\0\0\x0b\
            \0\0\x04\x08\0\0\0\0\0\0\0\0\x01\
            \0\0\x08\x06\x01\0\0\0\x0012345678";
        assert_eq!(out, expected);
    }
}
