//! Messages of HTTP/1.1, as peers write and read them, and what their bodies consist of.
//!
//! In go pieces of any size; out come heads, pieces of bodies and ends, or that there is more to
//! come. A body says by its bytes whose it is: each has a place of its own in one long row of
//! random bytes, so that a byte that is missing, twice or another body's is seen at once.

use crate::chance::Chance;
use std::sync::LazyLock;

const PERIOD: usize = 65_521;

/// The row, twice: any place of it is the beginning of as many bytes as the row has.
static ROW: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut chance = Chance::new(4711, 0);
    let row: Vec<u8> = (0..PERIOD).map(|_| chance.next() as u8).collect();
    [row.as_slice(), row.as_slice()].concat()
});

/// Whose a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(pub u64);

impl Tag {
    pub(crate) fn request(id: usize) -> Self {
        Self(2 * id as u64)
    }

    pub(crate) fn answer(id: usize, attempt: usize) -> Self {
        Self(2 * (id as u64 * 64 + attempt as u64) + 1)
    }

    fn place(self, position: usize) -> usize {
        let start = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        (start as usize + position) % PERIOD
    }

    /// Adds `count` bytes of the body from `position` on.
    pub(crate) fn write(self, mut position: usize, mut count: usize, into: &mut Vec<u8>) {
        while count > 0 {
            let (place, part) = (self.place(position), count.min(PERIOD));
            into.extend_from_slice(&ROW[place..place + part]);
            position += part;
            count -= part;
        }
    }

    /// Whether `bytes` are those of the body from `position` on.
    pub(crate) fn fits(self, position: usize, bytes: &[u8]) -> bool {
        let mut position = position;
        bytes.chunks(PERIOD).all(|part| {
            let place = self.place(position);
            position += part.len();
            ROW[place..place + part.len()] == *part
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body, and no word of one.
    None,
    Length,
    Chunked,
    /// The same with a field behind it.
    Trailers,
    /// Answers only: the body ends with the connection.
    Close,
}

impl Framing {
    pub(crate) fn field(self, length: usize) -> String {
        match self {
            Self::None | Self::Close => String::new(),
            Self::Length => format!("Content-Length: {length}\r\n"),
            Self::Chunked | Self::Trailers => "Transfer-Encoding: chunked\r\n".to_owned(),
        }
    }

    /// The body of `tag`, as it goes over the wire.
    pub(crate) fn encode(self, tag: Tag, length: usize, chance: &mut Chance, out: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Length | Self::Close => tag.write(0, length, out),
            Self::Chunked | Self::Trailers => {
                let mut position = 0;
                while position < length {
                    let part = (1 + chance.size(16)).min(length - position);
                    let extension = if chance.once_in(8) { ";a=b" } else { "" };
                    out.extend_from_slice(format!("{part:x}{extension}\r\n").as_bytes());
                    tag.write(position, part, out);
                    out.extend_from_slice(b"\r\n");
                    position += part;
                }
                let trailer = if self == Self::Trailers { "X-After: 1\r\n" } else { "" };
                out.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
            }
        }
    }
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Head,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    Close,
    /// The head has been handed out, and nobody has said what follows.
    Asking,
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Head(String),
    Body(Vec<u8>),
    End,
    /// No HTTP.
    Nonsense(String),
}

pub(crate) struct Reader {
    bytes: Vec<u8>,
    from: usize,
    stand: Stand,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), from: 0, stand: Stand::Head }
    }

    pub(crate) fn room(&mut self) -> &mut Vec<u8> {
        if self.from > 0 {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        &mut self.bytes
    }

    /// What was read and is nobody's yet.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.from);
        self.bytes.clear();
        self.from = 0;
        rest
    }

    /// What follows the head that was handed out.
    pub(crate) fn expect(&mut self, framing: Framing, length: usize) {
        self.stand = match framing {
            Framing::None => Stand::Ended,
            Framing::Length if length == 0 => Stand::Ended,
            Framing::Length => Stand::Length(length),
            Framing::Chunked | Framing::Trailers => Stand::ChunkSize,
            Framing::Close => Stand::Close,
        };
    }

    /// The head was one of several (1xx).
    pub(crate) fn expect_head(&mut self) {
        self.stand = Stand::Head;
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_inside(&self) -> bool {
        self.stand != Stand::Head || self.from < self.bytes.len()
    }

    /// Whether the end of the connection is the end of the message.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.stand == Stand::Close
    }

    fn line(&mut self) -> Option<String> {
        let rest = &self.bytes[self.from..];
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.from += end + 2;
        Some(line)
    }

    fn take(&mut self, most: usize) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.from..];
        let count = most.min(rest.len());
        let taken = rest[..count].to_vec();
        self.from += count;
        (count > 0).then_some(taken)
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            match self.stand {
                Stand::Asking => return None,
                Stand::Head => {
                    let rest = &self.bytes[self.from..];
                    let end = rest.windows(4).position(|four| four == b"\r\n\r\n")?;
                    let head = String::from_utf8_lossy(&rest[..end + 2]).into_owned();
                    self.from += end + 4;
                    self.stand = Stand::Asking;
                    return Some(Event::Head(head));
                }
                Stand::Length(left) => {
                    let body = self.take(left)?;
                    let left = left - body.len();
                    self.stand = if left == 0 { Stand::Ended } else { Stand::Length(left) };
                    return Some(Event::Body(body));
                }
                Stand::Close => return self.take(usize::MAX).map(Event::Body),
                Stand::ChunkSize => {
                    let line = self.line()?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let Ok(size) = usize::from_str_radix(size, 16) else {
                        return Some(Event::Nonsense(format!("chunk size {line:?}")));
                    };
                    self.stand = if size == 0 { Stand::Trailers } else { Stand::Chunk(size) };
                }
                Stand::Chunk(left) => {
                    let body = self.take(left)?;
                    let left = left - body.len();
                    self.stand = if left == 0 { Stand::ChunkEnd } else { Stand::Chunk(left) };
                    return Some(Event::Body(body));
                }
                Stand::ChunkEnd => match self.line()? {
                    line if line.is_empty() => self.stand = Stand::ChunkSize,
                    line => return Some(Event::Nonsense(format!("after a chunk {line:?}"))),
                },
                Stand::Trailers => {
                    if self.line()?.is_empty() {
                        self.stand = Stand::Ended;
                    }
                }
                Stand::Ended => {
                    self.stand = Stand::Head;
                    return Some(Event::End);
                }
            }
        }
    }
}

/// The value of a field.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn number(head: &str, name: &str) -> Option<usize> {
    field(head, name)?.parse().ok()
}

/// How the body of a message is framed that has a body, and its length if that is said.
pub(crate) fn framing(head: &str, otherwise: Framing) -> (Framing, usize) {
    if field(head, "Transfer-Encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        return (Framing::Chunked, 0);
    }
    number(head, "Content-Length").map_or((otherwise, 0), |length| (Framing::Length, length))
}
