//! What has come on a stream and is still to be read from its lane's socket.
//!
//! In go heads as text, pieces of bodies and their ends; out come bytes of HTTP/1.1, and how many
//! bytes of the body were among those that were taken, for which the window opens again.

use std::collections::VecDeque;
use std::io::Write as _;

/// What is more is given back when it has been read.
const KEPT_BYTES_MAX: usize = 4096;

/// What a chunk has beside its payload, at most.
const FRAMING_BYTES_MAX: usize = 16;
/// What a buffer grows by that is larger than this already.
const STEP_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Inward {
    bytes: Vec<u8>,
    start: usize,
    /// Where pieces of the body end, counted as all bytes that were ever put here, and how much of
    /// the window each takes.
    pieces: VecDeque<(u64, usize)>,
    /// All bytes that were ever taken.
    taken: u64,
    /// The body comes in chunks.
    is_chunked: bool,
    /// All of the message has come.
    pub has_ended: bool,
    /// Behind what is here, the connection ends.
    pub is_last: bool,
}

impl Inward {
    /// A message begins: `head` is the text, to which what frames the body is to be added.
    pub(super) fn begin(&mut self, head: &[u8], extra: &[u8], is_chunked: bool, has_ended: bool) {
        self.is_chunked = is_chunked;
        self.has_ended = has_ended;
        let end = head.len().saturating_sub(2);
        self.bytes.extend_from_slice(&head[..end]);
        self.bytes.extend_from_slice(extra);
        if is_chunked {
            self.bytes.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        self.bytes.extend_from_slice(&head[end..]);
    }

    /// A piece of the body.
    pub(super) fn push(&mut self, piece: &[u8], is_end: bool) {
        if !piece.is_empty() {
            self.make_room(piece.len() + FRAMING_BYTES_MAX);
            if self.is_chunked {
                // Into memory: it does not fail.
                let _ = write!(self.bytes, "{:x}\r\n", piece.len());
            }
            self.bytes.extend_from_slice(piece);
            if self.is_chunked {
                self.bytes.extend_from_slice(b"\r\n");
            }
            self.pieces.push_back((self.put(), piece.len()));
        }
        if is_end {
            self.end(b"");
        }
    }

    /// A large buffer grows by pieces: twice what a window allows is not to be held.
    fn make_room(&mut self, bytes: usize) {
        let missing = (self.bytes.len() + bytes).saturating_sub(self.bytes.capacity());
        if missing > 0 && self.bytes.len() > STEP_BYTES {
            self.bytes.reserve_exact(bytes.max(STEP_BYTES));
        }
    }

    /// The body ends, and `trailers` follow: whole lines.
    pub(super) fn end(&mut self, trailers: &[u8]) {
        if self.is_chunked && !self.has_ended {
            for part in [b"0\r\n", trailers, b"\r\n"] {
                self.bytes.extend_from_slice(part);
            }
        }
        self.has_ended = true;
    }

    /// All bytes that were ever put here.
    fn put(&self) -> u64 {
        self.taken + self.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn peek(&self, into: &mut [u8]) -> usize {
        let count = self.len().min(into.len());
        into[..count].copy_from_slice(&self.bytes[self.start..self.start + count]);
        count
    }

    /// Takes `count` bytes away; how much of the window is free again.
    pub(super) fn take(&mut self, count: usize) -> usize {
        self.start += count;
        self.taken += count as u64;
        if self.start == self.bytes.len() {
            self.start = 0;
            if self.bytes.capacity() > KEPT_BYTES_MAX {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        } else if self.start >= self.bytes.len() / 2 && self.start >= KEPT_BYTES_MAX {
            self.bytes.drain(..self.start);
            self.bytes.shrink_to(KEPT_BYTES_MAX);
            self.start = 0;
        }
        let mut freed = 0;
        while let Some((_, bytes)) = self.pieces.front().filter(|(end, _)| *end <= self.taken) {
            freed += bytes;
            self.pieces.pop_front();
        }
        freed
    }

    /// Forgets everything; how much of the window is free again.
    pub(super) fn clear(&mut self) -> usize {
        let freed = self.pieces.drain(..).map(|(_, bytes)| bytes).sum();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        if bytes.capacity() > KEPT_BYTES_MAX {
            bytes = Vec::new();
        }
        let pieces = std::mem::take(&mut self.pieces);
        *self = Self { bytes, pieces, ..Self::default() };
        freed
    }

    /// Bytes on the heap.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.pieces.capacity() * size_of::<(u64, usize)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(inward: &mut Inward) -> (String, usize) {
        let mut bytes = vec![0; inward.len()];
        assert_eq!(inward.peek(&mut bytes), bytes.len());
        let freed = inward.take(bytes.len());
        (String::from_utf8(bytes).unwrap(), freed)
    }

    #[test]
    fn a_body_of_no_known_length_comes_in_chunks_with_its_trailers() {
        let mut inward = Inward::default();
        inward.begin(b"POST / HTTP/1.1\r\nhost: a\r\n\r\n", b"", true, false);
        inward.push(b"hello", false);
        inward.push(b"", false);
        inward.push(&[b'x'; 20], false);
        inward.end(b"a: b\r\n");
        let x = "x".repeat(20);
        let expected = format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n\
             14\r\n{x}\r\n0\r\na: b\r\n\r\n"
        );
        assert_eq!(all(&mut inward), (expected, 25));
        assert!(inward.has_ended && inward.is_empty());
    }

    #[test]
    fn a_window_opens_when_a_piece_has_been_read_to_its_end() {
        let mut inward = Inward::default();
        inward.begin(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n", b"", false, false);
        inward.push(b"abcd", false);
        inward.push(b"efghi", true);
        let head = inward.len() - 9;
        assert_eq!(inward.take(head + 3), 0);
        assert_eq!(inward.take(1), 4);
        assert_eq!(all(&mut inward), ("efghi".to_owned(), 5));
        assert!(inward.has_ended);
    }

    #[test]
    fn a_large_buffer_is_given_back() {
        let mut inward = Inward::default();
        for _ in 0..10 {
            inward.push(&[0; 5000], false);
        }
        assert_eq!(inward.take(49_999), 45_000);
        assert!(inward.held_bytes() < 60_000);
        assert_eq!(inward.take(1), 5000);
        assert!(inward.held_bytes() < 6000, "{}", inward.held_bytes());
        inward.push(b"abc", false);
        assert_eq!(inward.clear(), 3);
    }
}
