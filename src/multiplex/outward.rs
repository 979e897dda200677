//! What is sent on a lane's socket, on its way into frames.
//!
//! In go bytes of HTTP/1.1 as they are sent: a head in one piece, then its body as its framing
//! says. Out go HEADERS and DATA by the connection's session, as far as windows and the outbox have
//! room, and the end of the stream with the last of them. What there is no room for is not taken.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::rc::Rc;

use super::Multiplex;
use super::lane::{Asked, Lane};
use super::outbox;
use super::text::{Head, fields};
use crate::http::chunked::ChunkScanner;
use crate::http2::frames::{FRAME_BYTES_DEFAULT, FRAME_HEAD_BYTES};
use crate::http2::hpack::encode::{Question, QuestionKind};
use crate::http2::session::Session;
use crate::http2::session::sending::NotOpened;
use crate::http2::{Key, Role};
use crate::limits::HTTP2_OUTBOX_BYTES;

/// What is to come next.
pub(super) enum Outward {
    Head,
    /// So many bytes of a body.
    Sized(u64),
    Chunked(Box<Chunked>),
    /// Bytes of a tunnel.
    Raw,
    /// Nothing: the message is complete.
    Ended,
    /// The same, of a tunnel.
    RawEnded,
}

/// A body in chunks.
#[derive(Default)]
pub(super) struct Chunked {
    scanner: ChunkScanner,
    /// What is no payload, since the last of it: in the end, the trailers.
    tail: Vec<u8>,
    /// Where payload lies in what is sent at once.
    parts: Vec<Range<usize>>,
}

/// From so many bytes on a piece of a body is sent from where it lies: less than that leaves with
/// what others have to say.
const GATHERED_BYTES_MIN: usize = 16 * 1024;
/// As many frames as are sent at once so: with those of the usual size, no more than the outbox
/// may hold.
const GATHERED_FRAMES_MAX: usize = 4;

/// The protocol that is carried by extended CONNECT (RFC 8441 §5).
const PROTOCOL: &[u8] = b"websocket";

fn broken() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Lane {
    /// Sends what there is room for; `WouldBlock` where that is nothing.
    pub(super) fn send(self: &Rc<Self>, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.send_piece(&bytes[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                // Whoever goes on hears of it.
                Err(_) => break,
            }
        }
        if done == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.turns.serve(self.connection.turn.get());
        self.connection.wake();
        self.settle();
        Ok(done)
    }

    fn send_piece(self: &Rc<Self>, bytes: &[u8]) -> io::Result<usize> {
        let connection = &*self.connection;
        if connection.session.borrow().pending().len() >= HTTP2_OUTBOX_BYTES {
            return Ok(0);
        }
        let mut outward = self.outward.borrow_mut();
        match &mut *outward {
            Outward::Head => {
                // Our own heads are whole.
                let head = connection.written.borrow_mut().read(bytes).ok_or_else(broken)?;
                let next = match connection.role {
                    Role::Server => self.send_response(bytes, &head)?,
                    Role::Client => match self.send_request(bytes, &head)? {
                        Some(next) => next,
                        None => return Ok(0),
                    },
                };
                *outward = next;
                Ok(head.bytes)
            }
            Outward::Sized(left) => {
                let (count, is_end) = connection.send_some(self.held_key()?, bytes, Some(*left))?;
                *left -= count as u64;
                if is_end {
                    *outward = Outward::Ended;
                }
                Ok(count)
            }
            Outward::Raw => Ok(connection.send_some(self.held_key()?, bytes, None)?.0),
            Outward::Chunked(chunked) => {
                let key = self.held_key()?;
                if bytes.len() >= GATHERED_BYTES_MIN {
                    outbox::lend(&mut connection.session.borrow_mut());
                }
                let (count, is_end) =
                    chunked.send(&mut connection.session.borrow_mut(), key, bytes)?;
                if is_end {
                    *outward = Outward::Ended;
                }
                Ok(count)
            }
            // Whoever refuses the head of a HEAD does not know that it is one.
            Outward::Ended if self.is_refused() => Ok(bytes.len()),
            // Nothing belongs behind the end.
            Outward::Ended | Outward::RawEnded => Err(broken()),
        }
    }

    fn held_key(&self) -> io::Result<Key> {
        self.key().ok_or_else(broken)
    }

    /// Sends an answer's head; what follows it.
    fn send_response(&self, bytes: &[u8], head: &Head) -> io::Result<Outward> {
        let key = self.held_key()?;
        let status = Head::status(bytes).ok_or_else(broken)?;
        let asked = self.asked.get();
        let is_tunnel = match asked {
            Asked::Tunnel => (200..300).contains(&status),
            Asked::Protocol => status == 101,
            Asked::Plain | Asked::Head => false,
        };
        let is_interim = status < 200 && !is_tunnel;
        let has_no_body = asked == Asked::Head || matches!(status, 204 | 304);
        let is_empty = has_no_body || !head.is_chunked && head.length.is_none_or(|it| it == 0);
        let is_end = is_empty && !is_tunnel && !is_interim;
        let mut session = self.connection.session.borrow_mut();
        let mut written = self.connection.written.borrow_mut();
        let sent = if is_tunnel && asked == Asked::Protocol {
            session.send_response(key, 200, false, |block| {
                for (name, value) in fields(&bytes[head.lines.clone()]) {
                    if !name.eq_ignore_ascii_case(b"sec-websocket-accept") {
                        block.field(name, value);
                    }
                }
            })
        } else if asked == Asked::Protocol && (200..300).contains(&status) {
            // It would say that there is a tunnel (RFC 8441 §5).
            session.send_response(key, 502, true, |block| block.field(b"content-length", b"0"))
        } else {
            session.send_response(key, status, is_end, |block| written.put(bytes, false, block))
        };
        sent.map_err(|_| broken())?;
        Ok(match head {
            _ if is_tunnel => Outward::Raw,
            _ if is_interim => Outward::Head,
            _ if is_end || asked == Asked::Protocol && status < 300 => Outward::Ended,
            Head { is_chunked: true, .. } => Outward::Chunked(Box::default()),
            Head { length, .. } => Outward::Sized(length.unwrap_or(0)),
        })
    }

    /// Opens a stream with a request's head; what follows it, or nothing where as many streams as
    /// may be are open.
    fn send_request(self: &Rc<Self>, bytes: &[u8], head: &Head) -> io::Result<Option<Outward>> {
        let lines = &bytes[head.lines.clone()];
        let mut parts = head.first_line(bytes).split(|byte| *byte == b' ');
        let (Some(method), Some(path)) = (parts.next(), parts.next()) else {
            return Err(broken());
        };
        let find = |wanted: &[u8]| {
            let mut all = fields(lines);
            all.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
        };
        let authority = find(b"host").unwrap_or_default();
        let is_grpc = find(b"content-type").is_some_and(|it| it.starts_with(b"application/grpc"));
        let scheme = if self.connection.wire.is_secure() { &b"https"[..] } else { b"http" };
        let mut session = self.connection.session.borrow_mut();
        let mut written = self.connection.written.borrow_mut();
        let is_websocket = || find(b"upgrade").is_some_and(|it| it.eq_ignore_ascii_case(PROTOCOL));
        let asked = match method {
            b"HEAD" => Asked::Head,
            b"GET" if session.peer().allows_protocol && is_websocket() => Asked::Protocol,
            _ => Asked::Plain,
        };
        let (method, kind) = match asked {
            Asked::Protocol => {
                (&b"CONNECT"[..], QuestionKind::Extended { scheme, path, protocol: PROTOCOL })
            }
            _ => (method, QuestionKind::Plain { scheme, path }),
        };
        let question = Question { method, authority, kind };
        let is_empty = !head.is_chunked && head.length.is_none_or(|it| it == 0);
        let is_end = is_empty && asked != Asked::Protocol;
        let opened = session.open(&question, is_end, |block| {
            if asked == Asked::Protocol {
                for (name, value) in fields(lines) {
                    // It is for HTTP/1.1 to show that it was understood.
                    if !name.eq_ignore_ascii_case(b"sec-websocket-key") {
                        block.field(name, value);
                    }
                }
            } else if is_grpc {
                block.field(b"te", b"trailers");
                for (name, value) in fields(lines) {
                    block.field(name, value);
                }
            } else {
                written.put(bytes, true, block);
            }
        });
        drop((session, written));
        match opened {
            Ok(key) => self.begin_request(key, asked, find(b"sec-websocket-key")),
            Err(NotOpened::Full) => {
                self.connection.is_full.set(true);
                return Ok(None);
            }
            Err(NotOpened::Leaving | NotOpened::UsedUp) => {
                self.refuse();
                return Err(broken());
            }
        }
        Ok(Some(match head {
            _ if asked == Asked::Protocol => Outward::Raw,
            _ if is_end => Outward::Ended,
            Head { is_chunked: true, .. } => Outward::Chunked(Box::default()),
            Head { length, .. } => Outward::Sized(length.unwrap_or(0)),
        }))
    }

    /// Nothing more will be sent: the end of a tunnel's side. Elsewhere the framing has said it.
    pub(super) fn finish(&self) {
        let Some(key) = self.key() else { return };
        let mut outward = self.outward.borrow_mut();
        if matches!(*outward, Outward::Raw) {
            let mut session = self.connection.session.borrow_mut();
            // A stream that is gone has no end to be said.
            let _ = session.send_data(key, b"", true);
            *outward = Outward::RawEnded;
        }
        drop(outward);
        self.connection.wake();
    }
}

/// Bytes of a body that one frame may have now. Its peer may allow more than the outbox is to hold.
fn room(session: &Session, key: Key) -> usize {
    let left_over = HTTP2_OUTBOX_BYTES.saturating_sub(session.pending().len());
    session.room(key).min(left_over.max(FRAME_BYTES_DEFAULT as usize))
}

impl Multiplex {
    /// Sends what there is room for of `bytes`, of which `left` may come, and the end with the
    /// last; how much that was, and whether it was the last.
    fn send_some(&self, key: Key, bytes: &[u8], left: Option<u64>) -> io::Result<(usize, bool)> {
        let mut session = self.session.borrow_mut();
        let wanted = left.map_or(bytes.len(), |left| left.min(bytes.len() as u64) as usize);
        if wanted >= GATHERED_BYTES_MIN {
            if session.pending().is_empty() && self.wire.is_plain() {
                let count = self.send_gathered(&mut session, key, &bytes[..wanted], left)?;
                if count > 0 {
                    return Ok((count, left == Some(count as u64)));
                }
            }
            outbox::lend(&mut session);
        }
        let mut done = 0;
        while done < wanted && session.pending().len() < HTTP2_OUTBOX_BYTES {
            let count = room(&session, key).min(wanted - done);
            if count == 0 {
                break;
            }
            let is_end = left == Some((done + count) as u64);
            let sent = session.send_data(key, &bytes[done..done + count], is_end);
            sent.map_err(|_| broken())?;
            done += count;
        }
        if done == 0 && wanted > 0 && session.is_over(key) {
            return Err(broken());
        }
        Ok((done, left == Some(done as u64)))
    }

    /// Sends a piece of a body from where it lies, while nothing else waits to be sent; what the
    /// wire does not take of it goes to the outbox. How many bytes that was.
    fn send_gathered(
        &self,
        session: &mut Session,
        key: Key,
        bytes: &[u8],
        left: Option<u64>,
    ) -> io::Result<usize> {
        // What does not go out at once has to have room in the outbox.
        let bytes = &bytes[..bytes.len().min(HTTP2_OUTBOX_BYTES)];
        let mut heads = [[0; FRAME_HEAD_BYTES]; GATHERED_FRAMES_MAX];
        let mut ends = [0; GATHERED_FRAMES_MAX];
        let (mut frames, mut done) = (0, 0);
        while frames < GATHERED_FRAMES_MAX && done < bytes.len() {
            let count = session.room(key).min(bytes.len() - done);
            if count == 0 {
                break;
            }
            let is_end = left == Some((done + count) as u64);
            heads[frames] = session.data_head(key, count, is_end).map_err(|_| broken())?;
            done += count;
            ends[frames] = done;
            frames += 1;
        }
        if frames == 0 {
            return Ok(0);
        }
        let mut parts = [IoSlice::new(b""); 2 * GATHERED_FRAMES_MAX];
        let mut start = 0;
        for at in 0..frames {
            parts[2 * at] = IoSlice::new(&heads[at]);
            parts[2 * at + 1] = IoSlice::new(&bytes[start..ends[at]]);
            start = ends[at];
        }
        let parts = &parts[..2 * frames];
        // What has failed fails again where the connection's task sends the rest.
        let mut sent = self.wire.try_send_parts(parts).unwrap_or(0);
        self.sent.set(self.sent.get() + sent);
        if sent < done + frames * FRAME_HEAD_BYTES {
            outbox::lend(session);
            for part in parts {
                let skipped = sent.min(part.len());
                session.put_rest(&part[skipped..]);
                sent -= skipped;
            }
        }
        Ok(done)
    }
}

impl Chunked {
    /// Sends what there is room for of chunks; how many bytes of them that was, and whether they
    /// were the last.
    fn send(&mut self, session: &mut Session, key: Key, bytes: &[u8]) -> io::Result<(usize, bool)> {
        let room = room(session, key);
        let (end, is_done) = self.scan(bytes, room)?;
        let trailers = if is_done { trailers(&self.tail) } else { b"" };
        let parts = std::mem::take(&mut self.parts);
        for (index, part) in parts.iter().enumerate() {
            let is_end = is_done && trailers.is_empty() && index + 1 == parts.len();
            session.send_data(key, &bytes[part.clone()], is_end).map_err(|_| broken())?;
        }
        if is_done && !trailers.is_empty() {
            let sent = session.send_trailers(key, |block| {
                for (name, value) in fields(trailers) {
                    block.field(name, value);
                }
            });
            sent.map_err(|_| broken())?;
        } else if is_done && parts.is_empty() {
            session.send_data(key, b"", true).map_err(|_| broken())?;
        }
        self.parts = parts;
        self.parts.clear();
        if end == 0 && session.is_over(key) {
            return Err(broken());
        }
        Ok((end, is_done))
    }

    /// Goes on over as much of `bytes` as has at most `room` bytes of payload: how much that is,
    /// and whether the body ends with it.
    fn scan(&mut self, bytes: &[u8], room: usize) -> io::Result<(usize, bool)> {
        let mut scanner = self.scanner;
        let mut parts = std::mem::take(&mut self.parts);
        let looked = scanner.advance_with(bytes, |part| parts.push(part));
        let mut progress = looked.map_err(|_| broken())?;
        let mut left = room;
        let mut fits = progress.used;
        for part in &parts {
            if part.len() > left {
                fits = part.start + left;
                break;
            }
            left -= part.len();
        }
        if fits < progress.used {
            // A second look, at as much as there is room for.
            scanner = self.scanner;
            parts.clear();
            let looked = scanner.advance_with(&bytes[..fits], |part| parts.push(part));
            progress = looked.map_err(|_| broken())?;
        }
        self.scanner = scanner;
        let start = parts.last().map_or(0, |part| part.end);
        if !parts.is_empty() {
            self.tail.clear();
        }
        self.tail.extend_from_slice(&bytes[start..progress.used]);
        self.parts = parts;
        Ok((progress.used, progress.is_done))
    }
}

/// The lines behind the last chunk, where `tail` is all that followed the payload.
fn trailers(tail: &[u8]) -> &[u8] {
    let tail = tail.strip_prefix(b"\r\n").unwrap_or(tail);
    let size = memchr::memchr(b'\n', tail).map_or(tail.len(), |end| end + 1);
    tail[size..].strip_suffix(b"\r\n").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::trailers;

    #[test]
    fn trailers_are_what_follows_the_last_size() {
        assert_eq!(trailers(b"0\r\n\r\n"), b"");
        assert_eq!(trailers(b"\r\n0;a=b\r\n\r\n"), b"");
        assert_eq!(trailers(b"\r\n000\r\nA: b\r\nC: d\r\n\r\n"), b"A: b\r\nC: d\r\n");
    }
}
