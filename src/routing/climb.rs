//! Whether a path leads out of where it begins.
//!
//! In goes what follows a prefix; out comes whether the most lenient origin would leave the prefix
//! again. Nothing is decoded into a buffer.

use crate::http::path::encoded;

/// Whether the dot segments in `rest` lead above its start. Read as the most lenient origin
/// would: `%2e` is a dot, `\`, `%2f` and `%5c` separate, `;` ends a segment's name, and empty
/// segments do not count.
pub(crate) fn climbs_out(rest: &[u8]) -> bool {
    let mut depth: i32 = 0;
    let mut segment = Segment::Empty;
    let mut at = 0;
    while at < rest.len() && rest[at] != b'?' {
        let (byte, length) = decoded(&rest[at..]);
        at += length;
        segment = match (byte, segment) {
            (b'/' | b'\\', ended) => {
                depth += ended.climb();
                if depth < 0 {
                    return true;
                }
                Segment::Empty
            }
            (b';', Segment::Dot) => Segment::DotParameter,
            (b';', Segment::DotDot) => Segment::DotDotParameter,
            (_, ended @ (Segment::DotParameter | Segment::DotDotParameter)) => ended,
            (b'.', Segment::Empty) => Segment::Dot,
            (b'.', Segment::Dot) => Segment::DotDot,
            _ => Segment::Name,
        };
    }
    depth + segment.climb() < 0
}

/// What a path segment has turned out to be so far.
#[derive(Clone, Copy)]
enum Segment {
    Empty,
    Dot,
    DotParameter,
    DotDot,
    DotDotParameter,
    Name,
}

impl Segment {
    fn climb(self) -> i32 {
        match self {
            Self::Empty | Self::Dot | Self::DotParameter => 0,
            Self::DotDot | Self::DotDotParameter => -1,
            Self::Name => 1,
        }
    }
}

/// The first byte of `text` (which is not empty), percent-decoded, and the bytes it took.
fn decoded(text: &[u8]) -> (u8, usize) {
    match encoded(text[0], &text[1..]) {
        Some(byte) => (byte, 3),
        None => (text[0], 1),
    }
}
