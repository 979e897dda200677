//! Reads answers and holds them to what their heads say.
//!
//! In come the bytes of a connection, split anywhere; out comes one answer that is complete and
//! sound, or the flaw in it. Interim answers (1xx) are passed over. Nothing is kept of a body but
//! its length; nothing here touches a socket, and only a head in pieces allocates.

use crate::http::chunked::ChunkScanner;
use crate::http::head::{HeadLimits, ResponseHead};
use crate::http::{BodyLength, Method};
use crate::limits::HEADER_COUNT_MAX;

/// More generous than any server that is worth measuring.
const LIMITS: HeadLimits =
    HeadLimits { head_bytes: 64 * 1024, target_bytes: 0, header_count: HEADER_COUNT_MAX };

const SWITCHING_PROTOCOLS: u16 = 101;

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The connection ended before the first byte.
    Silence,
    /// The connection ended within the body.
    Short,
    /// The head is not HTTP, or ended early.
    Head,
    /// The chunks are not chunks, or more came than was announced.
    Body,
}

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the connection can be used again.
    pub(super) is_persistent: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Head,
    /// So many bytes of the body are missing: at least one.
    Exact(u64),
    Chunked(ChunkScanner),
    UntilClose,
}

/// Follows one answer after the other on one connection.
#[derive(Debug)]
pub(super) struct Reader {
    stage: Stage,
    /// Of the answer whose body is being read.
    answer: Answer,
    /// The beginning of a head that did not come in one piece.
    kept: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        let answer = Answer { status: 0, is_persistent: false };
        Self { stage: Stage::Head, answer, kept: Vec::new() }
    }
}

impl Reader {
    /// Forgets what was read of an answer.
    pub(super) fn reset(&mut self) {
        self.stage = Stage::Head;
        self.kept.clear();
    }

    /// Whether no answer's head is complete.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.stage, Stage::Head)
    }

    /// How many of the bytes that follow can only be body, whatever they are.
    #[inline]
    pub(super) fn opaque_bytes(&self) -> u64 {
        match self.stage {
            Stage::Exact(left) => left,
            Stage::UntilClose => u64::MAX,
            Stage::Head | Stage::Chunked(_) => 0,
        }
    }

    /// Notes that `count` bytes came, at most [`Reader::opaque_bytes`], which were not looked at.
    pub(super) fn pass(&mut self, count: u64) -> Option<Answer> {
        if let Stage::Exact(left) = &mut self.stage {
            *left = left.saturating_sub(count);
            if *left == 0 {
                return Some(self.finish());
            }
        }
        None
    }

    /// Reads the bytes that follow those of the last call. `head` is scratch space that readers
    /// share. `None`: the answer is not complete.
    #[inline]
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        head: &mut ResponseHead,
        method: Method,
    ) -> Result<Option<Answer>, Flaw> {
        match self.stage {
            Stage::Head if self.kept.is_empty() => self.read_head(bytes, head, method),
            Stage::Head => {
                self.kept.extend_from_slice(bytes);
                let kept = std::mem::take(&mut self.kept);
                self.read_head(&kept, head, method)
            }
            _ => self.read_body(bytes),
        }
    }

    fn read_head(
        &mut self,
        mut bytes: &[u8],
        head: &mut ResponseHead,
        method: Method,
    ) -> Result<Option<Answer>, Flaw> {
        loop {
            let parsed = head.parse(bytes, &LIMITS, method);
            if parsed != Ok(true) {
                head.reset();
                parsed.map_err(|_| Flaw::Head)?;
                self.kept.extend_from_slice(bytes);
                return Ok(None);
            }
            bytes = &bytes[head.bytes..];
            if head.status >= 200 || head.status == SWITCHING_PROTOCOLS {
                break;
            }
            if bytes.is_empty() {
                return Ok(None);
            }
        }
        let is_upgrade = head.status == SWITCHING_PROTOCOLS;
        let is_persistent = head.is_persistent && !is_upgrade;
        self.answer = Answer { status: head.status, is_persistent };
        self.stage = match head.body {
            _ if method == Method::Connect && head.status / 100 == 2 => Stage::Exact(0),
            BodyLength::Empty => Stage::Exact(0),
            BodyLength::Exact(length) => Stage::Exact(length),
            BodyLength::Chunked => Stage::Chunked(ChunkScanner::new()),
            BodyLength::UntilClose => Stage::UntilClose,
        };
        self.read_body(bytes)
    }

    fn read_body(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Flaw> {
        let used = match &mut self.stage {
            Stage::Head | Stage::UntilClose => return Ok(None),
            Stage::Exact(left) if *left > bytes.len() as u64 => {
                *left -= bytes.len() as u64;
                return Ok(None);
            }
            Stage::Exact(left) => *left as usize,
            Stage::Chunked(scanner) => {
                let progress = scanner.advance(bytes).map_err(|_| Flaw::Body)?;
                if !progress.is_done {
                    return Ok(None);
                }
                progress.used
            }
        };
        // Nothing was asked for that more bytes could answer.
        if used < bytes.len() { Err(Flaw::Body) } else { Ok(Some(self.finish())) }
    }

    fn finish(&mut self) -> Answer {
        self.stage = Stage::Head;
        self.answer
    }

    /// The connection has ended, which some bodies do too.
    pub(super) fn end(&mut self) -> Result<Answer, Flaw> {
        match self.stage {
            Stage::UntilClose => Ok(self.finish()),
            Stage::Head if self.kept.is_empty() => Err(Flaw::Silence),
            Stage::Head => Err(Flaw::Head),
            Stage::Exact(_) | Stage::Chunked(_) => Err(Flaw::Short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of `step` bytes, then the end of the connection where it must.
    fn read(text: &[u8], step: usize, method: Method) -> Result<Answer, Flaw> {
        let (mut reader, mut head) = (Reader::default(), ResponseHead::new());
        let mut pieces = text.chunks(step);
        while let Some(piece) = pieces.next() {
            if let Some(answer) = reader.advance(piece, &mut head, method)? {
                // What comes later is for the next request to find.
                return if pieces.next().is_none() { Ok(answer) } else { Err(Flaw::Body) };
            }
        }
        reader.end()
    }

    fn answer(status: u16, is_persistent: bool) -> Answer {
        Answer { status, is_persistent }
    }

    #[test]
    fn an_answer_is_the_same_however_it_is_split() {
        let text = |text: &str| text.as_bytes().to_vec();
        let ok = text("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        let cases: [(Vec<u8>, Method, Result<Answer, Flaw>); 14] = [
            (ok.clone(), Method::Get, Ok(answer(200, true))),
            (ok[..ok.len() - 1].to_vec(), Method::Get, Err(Flaw::Short)),
            ([ok.as_slice(), b"!"].concat(), Method::Get, Err(Flaw::Body)),
            (ok[..20].to_vec(), Method::Get, Err(Flaw::Head)),
            (Vec::new(), Method::Get, Err(Flaw::Silence)),
            (text("HTTP/1.1 204 No Content\r\n\r\n"), Method::Get, Ok(answer(204, true))),
            (
                text("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
                Method::Head,
                Ok(answer(200, true)),
            ),
            (
                text("HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
                Method::Get,
                Ok(answer(503, false)),
            ),
            (
                text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
                Method::Get,
                Ok(answer(200, true)),
            ),
            (
                text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"),
                Method::Get,
                Err(Flaw::Short),
            ),
            (
                text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n"),
                Method::Get,
                Err(Flaw::Body),
            ),
            (text("HTTP/1.0 200 OK\r\n\r\nuntil the end"), Method::Get, Ok(answer(200, false))),
            (text("SSH-2.0-OpenSSH\r\n"), Method::Get, Err(Flaw::Head)),
            (
                text("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n"),
                Method::Post,
                Ok(answer(201, true)),
            ),
        ];
        for (bytes, method, expected) in cases {
            for step in [1, 2, 7, 1000] {
                assert_eq!(
                    read(&bytes, step, method),
                    expected,
                    "{} by {step}",
                    bytes.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn a_tunnel_begins_with_its_head_whatever_the_fields_say() {
        let opened = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(read(opened, 9, Method::Connect), Ok(answer(200, true)));
        let refused = b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(read(refused, 9, Method::Connect), Ok(answer(403, true)));
    }

    #[test]
    fn bytes_that_nobody_looks_at_are_counted_all_the_same() {
        let (mut reader, mut head) = (Reader::default(), ResponseHead::new());
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789";
        assert_eq!(reader.advance(text, &mut head, Method::Get), Ok(None));
        assert_eq!(reader.opaque_bytes(), 90);
        assert_eq!(reader.pass(89), None);
        assert_eq!(reader.end(), Err(Flaw::Short));
        assert_eq!(reader.pass(1), Some(answer(200, true)));
        assert_eq!(reader.opaque_bytes(), 0);
        assert_eq!(reader.end(), Err(Flaw::Silence), "the next answer has not begun");
    }

    #[test]
    fn one_answer_follows_the_other() {
        let (mut reader, mut head) = (Reader::default(), ResponseHead::new());
        for status in [200, 404, 500] {
            let text = format!("HTTP/1.1 {status} -\r\nContent-Length: 2\r\n\r\nok");
            let (start, rest) = text.as_bytes().split_at(12);
            assert_eq!(reader.advance(start, &mut head, Method::Get), Ok(None));
            let done = reader.advance(rest, &mut head, Method::Get);
            assert_eq!(done, Ok(Some(answer(status, true))));
        }
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        let (mut reader, mut head) = (Reader::default(), ResponseHead::new());
        let start = reader.advance(b"HTTP/1.1 200 OK\r\nX: ", &mut head, Method::Get);
        assert_eq!(start, Ok(None));
        let rounds = (0..100).take_while(|_| {
            reader.advance(&[b'x'; 4096], &mut head, Method::Get) != Err(Flaw::Head)
        });
        assert!(rounds.count() < 20);
    }
}
