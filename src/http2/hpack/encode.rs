//! Encodes blocks of fields without a table.
//!
//! In go names in any case and values; out goes a block that any decoder reads at any time: names
//! by the static table where it has them, everything else as it is. There is no state, so that an
//! encoded block may be sent again and again, and nothing of one stream can be guessed by another.
//! What HTTP/2 has no place for is left out here and nowhere else.

use crate::http2::names::{Kind, Known, STATUS_INDICES};

/// A block that is being written, at the end of a buffer.
pub(crate) struct Block<'a> {
    out: &'a mut Vec<u8>,
    /// The authority was said: a Host field would say it twice.
    has_authority: bool,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub method: &'a [u8],
    pub authority: &'a [u8],
    pub kind: QuestionKind<'a>,
}

/// What a request says beside its method and authority.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QuestionKind<'a> {
    Plain {
        scheme: &'a [u8],
        path: &'a [u8],
    },
    /// Another protocol (RFC 8441).
    Extended {
        scheme: &'a [u8],
        path: &'a [u8],
        protocol: &'a [u8],
    },
}

/// The longest name that is looked up: `access-control-allow-origin` has 27 bytes.
const KNOWN_NAME_BYTES_MAX: usize = 32;

impl<'a> Block<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, has_authority: false }
    }

    /// A response's first field.
    pub(crate) fn status(&mut self, status: u16) {
        debug_assert!((100..=999).contains(&status));
        if let Some((_, index)) = STATUS_INDICES.iter().find(|(known, _)| *known == status) {
            self.out.push(0x80 | index);
            return;
        }
        let digit = |at: u16| b'0' + (status / at % 10) as u8;
        self.out.extend_from_slice(&[0x08, 3, digit(100), digit(10), digit(1)]);
    }

    /// A request's first fields.
    pub(crate) fn question(&mut self, question: &Question<'_>) {
        match question.method {
            b"GET" => self.out.push(0x82),
            b"POST" => self.out.push(0x83),
            method => self.literal(2, false, method),
        }
        let (scheme, path, protocol) = match question.kind {
            QuestionKind::Plain { scheme, path } => (scheme, path, None),
            QuestionKind::Extended { scheme, path, protocol } => (scheme, path, Some(protocol)),
        };
        match scheme {
            b"" => {}
            b"http" => self.out.push(0x86),
            b"https" => self.out.push(0x87),
            scheme => self.literal(6, false, scheme),
        }
        match path {
            b"" => {}
            b"/" => self.out.push(0x84),
            path => self.literal(4, false, path),
        }
        if !question.authority.is_empty() {
            self.literal(1, false, question.authority);
        }
        if let Some(protocol) = protocol {
            self.out.push(0);
            self.string(b":protocol");
            self.string(protocol);
        }
        self.has_authority = true;
    }

    /// Any other field. Those of an HTTP/1 connection are left out.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        let mut lower = [0; KNOWN_NAME_BYTES_MAX];
        let Some(copy) = lower.get_mut(..name.len()) else {
            self.out.push(0);
            self.integer(7, 0, name.len());
            let start = self.out.len();
            self.out.extend_from_slice(name);
            self.out[start..].make_ascii_lowercase();
            self.string(value);
            return;
        };
        copy.copy_from_slice(name);
        // All of them, because a fixed number takes two instructions.
        lower.make_ascii_lowercase();
        let name = &lower[..name.len()];
        let Some(known) = Known::find(name) else {
            self.out.push(0);
            self.string(name);
            self.string(value);
            return;
        };
        match known.kind {
            Kind::OfConnection => return,
            Kind::Host if self.has_authority => return,
            Kind::Te if !accepts_trailers(value) => return,
            _ => {}
        }
        let value = if known.kind == Kind::Te { b"trailers" } else { value };
        if known.index == 0 {
            self.out.push(0);
            self.string(name);
            self.string(value);
        } else {
            self.literal(known.index, known.is_secret, value);
        }
    }

    /// Fields that were encoded before.
    pub(crate) fn encoded(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }

    /// A name of the static table, and a value that no table is to keep.
    fn literal(&mut self, index: u8, is_secret: bool, value: &[u8]) {
        self.integer(4, if is_secret { 0x10 } else { 0 }, index.into());
        self.string(value);
    }

    fn string(&mut self, string: &[u8]) {
        self.integer(7, 0, string.len());
        self.out.extend_from_slice(string);
    }

    /// RFC 7541 §5.1, with `above` the prefix.
    #[inline]
    fn integer(&mut self, bits: u8, above: u8, value: usize) {
        let mask = (1_usize << bits) - 1;
        if value < mask {
            self.out.push(above | value as u8);
            return;
        }
        self.out.push(above | mask as u8);
        let mut rest = value - mask;
        while rest >= 0x80 {
            self.out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }
}

/// Whether a TE field has the only element that HTTP/2 knows.
fn accepts_trailers(value: &[u8]) -> bool {
    let mut elements = value.split(|byte| *byte == b',');
    elements.any(|element| element.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::hpack::decode::Decoder;
    use crate::http2::hpack::{Line, Sink};

    #[derive(Default)]
    struct Lines(String);

    impl Sink for Lines {
        fn judge(_: Kind, _: &[u8]) -> bool {
            true
        }

        fn field(&mut self, text: &mut Vec<u8>, line: Line) {
            self.0.push_str(&String::from_utf8_lossy(&text[line.at..]));
        }

        fn too_long(&mut self) {
            panic!("too long");
        }
    }

    fn written(write: impl Fn(&mut Block<'_>)) -> String {
        let mut out = b"before".to_vec();
        write(&mut Block::new(&mut out));
        let mut lines = Lines::default();
        let mut decoder = Decoder::default();
        decoder.decode(&out[6..], &mut Vec::new(), 70_000, &mut lines).expect("our own block");
        assert_eq!(decoder.held_bytes(), 0, "nothing is meant for the table");
        lines.0
    }

    #[test]
    fn what_is_said_is_what_is_read() {
        let long = "v".repeat(65_000);
        let text = written(|block| {
            block.status(200);
            block.status(103);
            block.field(b"Content-Type", b"text/html");
            block.field(b"X-Other", b"");
            block.field(b"WWW-Authenticate", b"Basic");
            block.field(b"a-name-that-is-longer-than-all-Known", long.as_bytes());
            block.field(b"set-cookie", b"a=b");
        });
        let expected = format!(
            ":status: 200\r\n:status: 103\r\ncontent-type: text/html\r\nx-other: \r\n\
             www-authenticate: Basic\r\na-name-that-is-longer-than-all-known: {long}\r\n\
             set-cookie: a=b\r\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn what_a_connection_of_http_1_says_is_left_out() {
        let text = written(|block| {
            let kind = QuestionKind::Plain { scheme: b"https", path: b"/p" };
            block.question(&Question { method: b"PUT", authority: b"a:1", kind });
            for name in ["Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding"] {
                block.field(name.as_bytes(), b"x");
            }
            block.field(b"Upgrade", b"h2c");
            block.field(b"HTTP2-Settings", b"x");
            block.field(b"Host", b"b");
            block.field(b"TE", b"gzip");
            block.field(b"TE", b"gzip, Trailers");
        });
        let expected = ":method: PUT\r\n:scheme: https\r\n:path: /p\r\n:authority: a:1\r\n\
                        te: trailers\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_tunnel_has_an_authority_and_another_protocol_has_all() {
        let ask = |kind| {
            written(|block| {
                block.question(&Question { method: b"CONNECT", authority: b"a:1", kind });
            })
        };
        let kind = QuestionKind::Extended { scheme: b"http", path: b"/", protocol: b"websocket" };
        let expected = ":method: CONNECT\r\n:scheme: http\r\n:path: /\r\n:authority: a:1\r\n\
                        :protocol: websocket\r\n";
        assert_eq!(ask(kind), expected);
    }

    #[test]
    fn what_was_encoded_once_may_be_said_again() {
        let mut fields = Vec::new();
        Block::new(&mut fields).field(b"Server", b"x");
        let text = written(|block| {
            block.status(204);
            block.encoded(&fields);
            block.encoded(&fields);
        });
        assert_eq!(text, ":status: 204\r\nserver: x\r\nserver: x\r\n");
    }

    #[test]
    fn secrets_are_marked_as_never_to_be_indexed() {
        let mut out = Vec::new();
        Block::new(&mut out).field(b"Authorization", b"x");
        assert_eq!(out, b"\x1f\x08\x01x");
    }
}
