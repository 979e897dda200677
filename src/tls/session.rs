//! One TLS session, without a socket: the only file that names rustls's connections.
//!
//! In go bytes as they came from the wire, and bytes that are to go out; out come the plain ones,
//! records to send, and what is known of the peer. It never waits and keeps no buffer: what is left
//! of a record is the caller's to bring again.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::facts::{ClientCertificate, TlsFacts};

/// The end of one connection that speaks TLS.
pub(crate) struct Session {
    end: End,
    /// The peer has said that it has no more to send.
    pub(crate) is_peer_done: bool,
    asked: Option<Box<Asked>>,
    /// Once somebody has asked for them.
    facts: OnceCell<Arc<TlsFacts>>,
}

enum End {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Room for records on their way out. It keeps its memory.
///
/// They begin some way into it. glibc before 2.39 copies with `rep movsb`, and on Zen 3 and 4 that
/// is 25 times as slow where the target lies 1 to 31 bytes behind the source, counted within a page
/// (glibc's bug 30994). The session seals each record at the start of a page, and copies it here:
/// the second of each call, 22 bytes behind the first, was such a one.
#[derive(Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    /// Counted from where they begin.
    filled: usize,
}

const RECORDS_LEAD: usize = 64;

/// A peer's flight of a handshake, certificates and all.
pub(crate) const FLIGHT_BYTES_MAX: usize = 64 * 1024;

/// A client's first message, in however many records: the largest have 2 KB, and a ticket of 8 KB
/// beside ([`super::tickets`]).
pub(crate) const HELLO_BYTES_MAX: usize = 16 * 1024;

/// What a record adds to its payload at most: its header, a nonce, a type and a tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16 + 34;

impl Records {
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(RECORDS_LEAD..RECORDS_LEAD + self.filled).unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Bytes that it keeps.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    fn room(&mut self, count: usize) -> &mut [u8] {
        let start = RECORDS_LEAD + self.filled;
        if self.bytes.len() < start + count {
            self.bytes.resize((start + count).next_multiple_of(4096), 0);
        }
        &mut self.bytes[start..]
    }
}

/// What follows a step.
enum Next<'c, 'i, D> {
    Again,
    /// Nothing more can be done with the bytes that are there.
    Rest,
    Write(WriteTraffic<'c, D>, std::marker::PhantomData<&'i ()>),
}

impl Session {
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(End::Server(UnbufferedServerConnection::new(config)?)))
    }

    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        Ok(Self::new(End::Client(UnbufferedClientConnection::new(config, name)?)))
    }

    fn new(end: End) -> Self {
        Self { end, is_peer_done: false, asked: None, facts: OnceCell::new() }
    }

    /// Goes through `wire`, which is changed. Plain bytes go to `plain` in the order in which they
    /// came, what has to be sent to `out`. How many bytes are done with; the others have to be
    /// brought again, in front of the next. An error is final; an alert that says so is in `out`.
    pub(crate) fn take(
        &mut self,
        wire: &mut [u8],
        plain: &mut impl FnMut(&[u8]),
        out: &mut Records,
    ) -> Result<usize, Error> {
        let was_handshaking = self.is_handshaking();
        let taken = self.take_all(wire, plain, out);
        if was_handshaking && let Some(asked) = ASKED.take() {
            self.asked = Some(asked);
        }
        taken
    }

    fn take_all(
        &mut self,
        wire: &mut [u8],
        plain: &mut impl FnMut(&[u8]),
        out: &mut Records,
    ) -> Result<usize, Error> {
        let mut used = 0;
        let is_done = &mut self.is_peer_done;
        loop {
            let rest = &mut wire[used..];
            let (discard, goes_on) = match &mut self.end {
                End::Server(end) => step(end.process_tls_records(rest), plain, out, is_done),
                End::Client(end) => step(end.process_tls_records(rest), plain, out, is_done),
            };
            used += discard;
            match goes_on {
                Ok(true) => {}
                Ok(false) => return Ok(used),
                Err(error) => {
                    self.take_alert(out);
                    return Err(error);
                }
            }
        }
    }

    /// After an error: what tells the peer. The bytes that led to it are not looked at again, which
    /// is why no step may go on to them.
    fn take_alert(&mut self, out: &mut Records) {
        let (mut none, mut plain) = (false, |_: &[u8]| {});
        while self.state().wants_write() {
            let (_, goes_on) = match &mut self.end {
                End::Server(end) => {
                    step(end.process_tls_records(&mut []), &mut plain, out, &mut none)
                }
                End::Client(end) => {
                    step(end.process_tls_records(&mut []), &mut plain, out, &mut none)
                }
            };
            if !matches!(goes_on, Ok(true)) {
                return;
            }
        }
    }

    /// Puts `bytes` into records of `record_bytes` at most, behind what is in `out`. `ended` is
    /// told of each record where it ends in `out`, and in `bytes`. `tail` is what [`Session::take`]
    /// has left of the wire's bytes.
    pub(crate) fn seal(
        &mut self,
        tail: &mut [u8],
        bytes: &[u8],
        record_bytes: usize,
        out: &mut Records,
        mut ended: impl FnMut(usize, usize),
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            let piece = &bytes[done..(done + record_bytes).min(bytes.len())];
            self.write(tail, out, |writer, out| writer.encrypt(piece, out), piece.len())?;
            done += piece.len();
            ended(out.filled, done);
        }
        Ok(())
    }

    /// Says that no more will be sent.
    pub(crate) fn finish(&mut self, tail: &mut [u8], out: &mut Records) -> Result<(), Error> {
        self.write(tail, out, |writer, out| writer.queue_close_notify(out), 0)
    }

    fn write(
        &mut self,
        tail: &mut [u8],
        out: &mut Records,
        mut write: impl FnMut(&mut dyn Writer, &mut [u8]) -> Result<usize, EncryptError>,
        payload: usize,
    ) -> Result<(), Error> {
        let is_done = &mut self.is_peer_done;
        match &mut self.end {
            End::Server(end) => loop {
                match advance(end.process_tls_records(tail), out, is_done).1? {
                    Next::Write(mut writer, _) => {
                        return written(&mut |room| write(&mut writer, room), out, payload);
                    }
                    Next::Again => {}
                    Next::Rest => return Err(Error::HandshakeNotComplete),
                }
            },
            End::Client(end) => loop {
                match advance(end.process_tls_records(tail), out, is_done).1? {
                    Next::Write(mut writer, _) => {
                        return written(&mut |room| write(&mut writer, room), out, payload);
                    }
                    Next::Again => {}
                    Next::Rest => return Err(Error::HandshakeNotComplete),
                }
            },
        }
    }

    fn state(&self) -> &CommonState {
        match &self.end {
            End::Server(end) => end,
            End::Client(end) => end,
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether an earlier session was gone on with.
    pub(crate) fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether both sides have chosen HTTP/2 (ALPN).
    pub(crate) fn speaks_http2(&self) -> bool {
        self.state().alpn_protocol() == Some(b"h2")
    }

    /// Whether the client came to find out whose a name is, and for nothing else.
    pub(crate) fn is_proof(&self) -> bool {
        self.state().alpn_protocol() == Some(ALPN_PROOF)
    }

    /// How much of what the peer has sent may lie there without having been understood. A client's
    /// first message is short, and nothing is known of whoever sends it.
    pub(crate) fn flight_bytes_max(&self) -> usize {
        let is_hello = matches!(self.end, End::Server(_)) && self.asked.is_none();
        if is_hello && self.is_handshaking() { HELLO_BYTES_MAX } else { FLIGHT_BYTES_MAX }
    }

    /// What is known of it once its handshake is over.
    pub(crate) fn facts(&self) -> Arc<TlsFacts> {
        self.facts.get_or_init(|| Arc::new(self.describe())).clone()
    }

    fn describe(&self) -> TlsFacts {
        let state = self.state();
        let version = match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        };
        let suite = state.negotiated_cipher_suite().map(|suite| suite.suite());
        // rustls alone has the version in those names.
        let cipher = suite.and_then(|suite| suite.as_str()).unwrap_or_default();
        let asked = self.asked().and_then(|asked| asked.name.as_deref());
        let certificate = state.peer_certificates().and_then(|chain| chain.first());
        TlsFacts {
            version,
            cipher: cipher.replacen("TLS13_", "TLS_", 1),
            sni: asked.unwrap_or_default().to_owned(),
            alpn: String::from_utf8_lossy(state.alpn_protocol().unwrap_or_default()).into_owned(),
            client: certificate.map(ClientCertificate::of),
        }
    }

    /// What the client has asked for, of a server whose certificate has been chosen.
    pub(crate) fn asked(&self) -> Option<&Asked> {
        self.asked.as_deref()
    }
}

/// What a client offers that comes to find out whose a name is (RFC 8737).
pub(super) const ALPN_PROOF: &[u8] = b"acme-tls/1";

/// What a client has asked for, and what it was shown.
pub(crate) struct Asked {
    /// The name, in lower case; `None` where it gave none.
    pub(crate) name: Option<Box<str>>,
    /// The names that the certificate is good for.
    pub(crate) covered: Arc<[Box<str>]>,
}

thread_local! {
    /// What was chosen for the handshake that has its step: rustls tells it to nobody else.
    static ASKED: Cell<Option<Box<Asked>>> = const { Cell::new(None) };
}

/// To be called by whoever chooses a certificate, in the step of a handshake.
pub(crate) fn note_asked(asked: Asked) {
    ASKED.set(Some(Box::new(asked)));
}

/// Either role's [`WriteTraffic`].
trait Writer {
    fn encrypt(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<usize, EncryptError>;
    fn queue_close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<D> Writer for WriteTraffic<'_, D> {
    fn encrypt(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, bytes, out)
    }

    fn queue_close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::queue_close_notify(self, out)
    }
}

/// One state, with the plain bytes that it brings; whether another one may follow.
fn step<D>(
    mut status: UnbufferedStatus<'_, '_, D>,
    plain: &mut impl FnMut(&[u8]),
    out: &mut Records,
    is_peer_done: &mut bool,
) -> (usize, Result<bool, Error>) {
    if let Ok(ConnectionState::ReadTraffic(traffic)) = &mut status.state {
        while let Some(record) = traffic.next_record() {
            match record {
                Ok(record) => plain(record.payload),
                Err(error) => return (status.discard, Err(error)),
            }
        }
        return (status.discard, Ok(true));
    }
    let (discard, next) = advance(status, out, is_peer_done);
    (discard, next.map(|next| matches!(next, Next::Again)))
}

/// One state that brings no plain bytes.
fn advance<'c, 'i, D>(
    status: UnbufferedStatus<'c, 'i, D>,
    out: &mut Records,
    is_peer_done: &mut bool,
) -> (usize, Result<Next<'c, 'i, D>, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let next = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            // The first try tells how much room it takes.
            let mut count = data.encode(&mut []);
            if let Err(EncodeError::InsufficientSize(size)) = &count {
                count = data.encode(out.room(size.required_size));
            }
            out.filled += count.unwrap_or_default();
            Ok(Next::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // What was encoded is in `out`, which its owner sends.
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::PeerClosed) => {
            *is_peer_done = true;
            Ok(Next::Again)
        }
        Ok(ConnectionState::WriteTraffic(writer)) => {
            Ok(Next::Write(writer, std::marker::PhantomData))
        }
        // Early data is never offered; nothing is known of states to come.
        Ok(_) => Ok(Next::Rest),
    };
    (discard, next)
}

/// Has `write` fill `out`, with as much room as it takes.
fn written(
    write: &mut dyn FnMut(&mut [u8]) -> Result<usize, EncryptError>,
    out: &mut Records,
    payload: usize,
) -> Result<(), Error> {
    let mut count = write(out.room(payload + RECORD_OVERHEAD));
    if let Err(EncryptError::InsufficientSize(size)) = &count {
        count = write(out.room(size.required_size));
    }
    match count {
        Ok(count) => {
            out.filled += count;
            Ok(())
        }
        Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
        Err(EncryptError::InsufficientSize(_)) => Err(Error::General("no room".to_owned())),
    }
}
