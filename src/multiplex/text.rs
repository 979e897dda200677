//! Heads of HTTP/1.1, as we have written them ourselves, on their way into blocks of fields.
//!
//! In goes the text of a head; out come its first line, its fields as a block, and what frames the
//! body behind it. It is our own text: what is not as we write it is an error of ours, and is
//! refused whole. The last head is remembered with its block: answers of one origin are much the
//! same.

use std::ops::Range;

use memchr::memchr;

use crate::http2::hpack::encode::Block;

/// What is known of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Of all of it, the empty line included.
    pub bytes: usize,
    /// The lines of its fields, each with its end.
    pub lines: Range<usize>,
    pub length: Option<u64>,
    pub is_chunked: bool,
}

impl Head {
    /// The head that `bytes` begin with; `None` where it is not whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let start = memchr(b'\n', bytes)? + 1;
        let mut head = Self { lines: start..start, ..Self::default() };
        loop {
            let at = head.lines.end;
            let end = at + memchr(b'\n', &bytes[at..])? + 1;
            let line = &bytes[at..end];
            if line == b"\r\n" {
                head.bytes = end;
                return Some(head);
            }
            head.lines.end = end;
            // By their first letters first: few fields have them.
            match line[0] | 0x20 {
                b'c' => {
                    if let Some(value) = value_of(line, b"content-length") {
                        head.length = Some(decimal(value)?);
                    }
                }
                b't' => head.is_chunked |= value_of(line, b"transfer-encoding").is_some(),
                _ => {}
            }
        }
    }

    /// Without an end.
    pub(super) fn first_line<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes[..self.lines.start].trim_ascii_end()
    }

    /// The status of a response.
    pub(super) fn status(bytes: &[u8]) -> Option<u16> {
        decimal(bytes.get(9..12)?).map(|status| status as u16)
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = field(line)?;
    found.eq_ignore_ascii_case(name).then_some(value)
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line)?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// The fields of whole lines.
pub(super) fn fields(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let end = memchr(b'\n', rest)?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        field(line)
    })
}

/// The last head that was written, and its fields as a block.
#[derive(Default)]
pub(super) struct Written {
    text: Vec<u8>,
    head: Head,
    block: Vec<u8>,
    has_block: bool,
}

/// A head that is larger is not remembered.
const WRITTEN_BYTES_MAX: usize = 1024;

impl Written {
    /// What is known of the head that `bytes` begin with; `None` where it is not whole.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<Head> {
        if !self.text.is_empty() && bytes.starts_with(&self.text) {
            return Some(self.head.clone());
        }
        let head = Head::read(bytes)?;
        self.has_block = false;
        self.text.clear();
        if head.bytes <= WRITTEN_BYTES_MAX {
            self.text.extend_from_slice(&bytes[..head.bytes]);
        }
        self.head = head.clone();
        Some(head)
    }

    /// Writes the fields of the head that was read last, which `bytes` begin with; without the
    /// host, where its authority says it.
    pub(super) fn put(&mut self, bytes: &[u8], has_authority: bool, block: &mut Block<'_>) {
        let lines = &bytes[self.head.lines.clone()];
        if self.text.is_empty() {
            return put(lines, has_authority, block);
        }
        if !self.has_block {
            self.block.clear();
            put(lines, has_authority, &mut Block::new(&mut self.block));
            self.has_block = true;
        }
        block.encoded(&self.block);
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.text.capacity() + self.block.capacity()
    }
}

fn put(lines: &[u8], has_authority: bool, block: &mut Block<'_>) {
    for (name, value) in fields(lines) {
        if !(has_authority && name.eq_ignore_ascii_case(b"host")) {
            block.field(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_apart() {
        let text = b"HTTP/1.1 200 OK\r\nA: b \r\nContent-Length: 12\r\n\r\nbody";
        let head = Head::read(text).unwrap();
        assert_eq!(Head::status(text), Some(200));
        assert_eq!((head.length, head.is_chunked), (Some(12), false));
        assert_eq!(&text[head.bytes..], b"body");
        assert_eq!(head.first_line(text), b"HTTP/1.1 200 OK");
        let fields = fields(&text[head.lines.clone()]).collect::<Vec<_>>();
        assert_eq!(fields, [(&b"A"[..], &b"b"[..]), (b"Content-Length", b"12")]);
        for end in 0..head.bytes {
            assert_eq!(Head::read(&text[..end]), None, "{end}");
        }
        let bare = b"HTTP/1.1 204 No Content\r\n\r\n";
        let head = Head::read(bare).unwrap();
        assert_eq!((head.lines.len(), head.bytes), (0, 27));
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(Head::read(text).unwrap().is_chunked);
        for text in ["a: b\r\nContent-Length: \r\n\r\n", "a: b\r\ncontent-length: 1x\r\n\r\n"] {
            assert_eq!(Head::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_again_is_the_same() {
        let mut written = Written::default();
        let mut one = |text: &str| {
            let mut out = Vec::new();
            let head = written.read(text.as_bytes()).unwrap();
            written.put(text.as_bytes(), false, &mut Block::new(&mut out));
            (head, out)
        };
        let first = "HTTP/1.1 200 OK\r\nserver: a\r\nconnection: close\r\n\r\n";
        let other = "HTTP/1.1 200 OK\r\nserver: b\r\n\r\n";
        let long = format!("HTTP/1.1 200 OK\r\nserver: {}\r\n\r\n", "x".repeat(2000));
        let expected = one(first);
        assert_eq!(one(first), expected);
        assert_ne!(one(other), expected);
        assert_eq!(one(first), expected);
        assert_eq!(one(&long), one(&long));
        assert_eq!(one(first), expected);
        assert_eq!(one("HTTP/1.1 204 No Content\r\n\r\n").1, b"");
    }
}
