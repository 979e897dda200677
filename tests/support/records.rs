//! Records of TLS 1.3 that no library makes: empty ones, alerts and tickets where they come as a
//! surprise.
//!
//! Comes in: a connection of an origin that has told its secrets, and what is to be in a record.
//! Goes out: sealed records (RFC 8446 §5.2), and heads of requests. It never checks what it reads.

use super::tls::TlsPeer;
use super::unread::Unread;
use super::wait_until;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305};
use aws_lc_rs::aead::{LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets as Secrets;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// What ends a connection early, or says that something is wrong (RFC 8446 §6).
#[derive(Clone, Copy)]
pub(crate) enum Alert {
    CloseNotify = 0,
    InternalError = 80,
    UserCanceled = 90,
}

/// One end of a connection whose records are made by hand.
pub(crate) struct Forger {
    socket: TcpStream,
    write: Direction,
    read: Direction,
    pending: Vec<u8>,
}

struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

impl Direction {
    fn new((sequence, secrets): (u64, Secrets)) -> Self {
        let (algorithm, key, iv) = match &secrets {
            Secrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            Secrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            Secrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => panic!("another cipher"),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).expect("a key of its length");
        let iv = iv.as_ref().try_into().expect("twelve bytes");
        Self { key: LessSafeKey::new(key), iv, sequence }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Forger {
    /// Takes a connection over whose handshake is done and of which all has been read that came.
    pub(crate) fn of(peer: TlsPeer) -> Self {
        let TlsPeer { stream, pending } = peer;
        let (session, socket) = stream.into_parts();
        // Pieces are to leave as they are.
        socket.set_nodelay(true).expect("a connected stream");
        let secrets = session.dangerous_extract_secrets().expect("terms that tell secrets");
        Self {
            socket,
            write: Direction::new(secrets.tx),
            read: Direction::new(secrets.rx),
            pending,
        }
    }

    /// One record of `kind`, with `padding` zeros behind what is in it.
    fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], &vec![0; padding]].concat();
        let length = u16::try_from(inner.len() + 16).expect("a record");
        let head = [&[DATA, 3, 3][..], &length.to_be_bytes()].concat();
        let nonce = self.write.nonce();
        let sealed = self.write.key.seal_in_place_append_tag(nonce, Aad::from(&head), &mut inner);
        sealed.expect("it can be sealed");
        [head, inner].concat()
    }

    /// A record with plain bytes, which may be none.
    pub(crate) fn data(&mut self, content: &[u8]) -> Vec<u8> {
        self.record(DATA, content, 0)
    }

    /// The same with zeros behind them, which mean nothing.
    pub(crate) fn padded(&mut self, content: &[u8], padding: usize) -> Vec<u8> {
        self.record(DATA, content, padding)
    }

    pub(crate) fn alert(&mut self, alert: Alert) -> Vec<u8> {
        let level = if matches!(alert, Alert::InternalError) { 2 } else { 1 };
        self.record(ALERT, &[level, alert as u8], 0)
    }

    /// A ticket for a later session (RFC 8446 §4.6.1).
    pub(crate) fn ticket(&mut self) -> Vec<u8> {
        let mut body = [0, 0, 28, 32, 1, 2, 3, 4].to_vec();
        body.extend([8]);
        body.extend(self.write.sequence.to_be_bytes());
        body.extend([0, 32]);
        body.extend([7; 32]);
        body.extend([0, 0]);
        let length = u8::try_from(body.len()).expect("a short one");
        self.record(HANDSHAKE, &[&[4, 0, 0, length][..], &body].concat(), 0)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref());
    }

    /// Whether the other end still takes it.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Waits until the other end has taken everything off its socket.
    pub(crate) fn wait_until_read(&self) {
        let (Ok(reader), Ok(writer)) = (self.socket.peer_addr(), self.socket.local_addr()) else {
            return;
        };
        let Some(unread) = Unread::new(reader, writer) else { return };
        wait_until("it is read", || unread.count().is_none_or(|count| count == 0));
    }

    /// The next head of a request; `None` at the end of the connection.
    pub(crate) fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.pending, b"\r\n\r\n") {
                let head = self.pending.drain(..end + 4).collect();
                return Some(String::from_utf8(head).expect("a head of a test is text"));
            }
            let mut head = [0; 5];
            self.socket.read_exact(&mut head).ok()?;
            let mut inner = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            self.socket.read_exact(&mut inner).ok()?;
            let nonce = self.read.nonce();
            let opened = self.read.key.open_in_place(nonce, Aad::from(&head), &mut inner);
            let opened = opened.expect("a record of the session");
            let end = opened.iter().rposition(|byte| *byte != 0).expect("a kind");
            if opened[end] != DATA {
                return None;
            }
            self.pending.extend_from_slice(&opened[..end]);
        }
    }

    /// Ends the connection below without a word.
    pub(crate) fn end(self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
