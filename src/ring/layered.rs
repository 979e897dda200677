//! The calls of a socket that has a layer: what they move on the wire, and what comes of it.
//!
//! In go a descriptor, its layer and whatever the plain call takes; out comes what the plain call
//! would say, of plain bytes. Records are opened and sealed in room that all sockets of the thread
//! share. Nothing waits.

use std::cell::RefCell;
use std::io;

use super::heads::HeadBuffer;
use super::layer::{Handshake, Layer, State, StreamEnd, Unsent};
use super::ops::Descriptor;
use super::wire;
use crate::ledger::Kind;
use crate::tls::session::{FLIGHT_BYTES_MAX, Records};

/// How far behind the start of a page bytes begin that are to be sealed: whoever puts them together
/// leaves so much room. Else one of the copies on their way lands right behind its source, counted
/// within a page, which is slow ([`crate::tls::session::Records`]): the session copies what it
/// seals to 5 bytes behind the start of a page, and what it has opened lies there, and 22 bytes
/// further for each record. It was a third of the cost of large answers.
pub(crate) const SEALED_LEAD: usize = 512;

/// What one call receives, or seals, at most.
const OPERATION_BYTES: usize = 256 * 1024;

/// Payload of a record once a connection has shown that it takes much at once.
const RECORD_BYTES: usize = 16 * 1024;

/// Payload of a record for a peer that is slow, or new: it need not wait for all of a large one.
const SMALL_RECORD_BYTES: usize = 4 * 1024;

/// Bytes that go out in small records at first.
const SLOW_START_BYTES: u64 = 64 * 1024;

#[derive(Default)]
struct Scratch {
    wire: Vec<u8>,
    out: Records,
    /// Where each record of `out` ends, there and in what it was made from.
    ends: Vec<(usize, usize)>,
    counted: usize,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Puts what is left of a record to the front of `wire`, with `room` behind it; its length.
    fn bring_tail(&mut self, state: &State, room: usize) -> usize {
        let start = state.tail().len();
        if self.wire.len() < start + room {
            self.wire.resize(start + room, 0);
        }
        self.wire[..start].copy_from_slice(state.tail());
        start
    }

    /// It is never given back, so that it is counted once.
    fn count(&mut self, state: &State) {
        let bytes = self.wire.len() + self.out.capacity();
        if bytes > self.counted {
            state.ledger().add(Kind::Tls, (bytes - self.counted) as u64);
            self.counted = bytes;
        }
    }
}

/// Sends what the socket takes of `bytes` at once, in records. One that it takes half of counts as
/// not sent: its bytes have to come again, as they have to after `WouldBlock`.
#[cold]
pub(super) fn send(fd: &Descriptor, layer: &Layer, bytes: &[u8]) -> io::Result<usize> {
    let mut state = layer.state();
    let state = &mut *state;
    if state.end == Some(StreamEnd::Broken) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let mut done = 0;
    if !state.unsent.records.is_empty() {
        flush(fd, state)?;
        done = state.keep_promise(bytes)?;
        state.sent += done as u64;
        layer.settle(state);
    }
    let rest = &bytes[done..];
    if rest.is_empty() {
        return Ok(done);
    }
    let operation = match operation(fd, state, rest.len()) {
        0 if done == 0 => return Err(io::ErrorKind::WouldBlock.into()),
        0 => return Ok(done),
        count => &rest[..count],
    };
    let is_slow = state.is_congested || state.sent < SLOW_START_BYTES;
    let record_bytes = if is_slow { SMALL_RECORD_BYTES } else { RECORD_BYTES };
    let sent = SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { out, ends, .. } = scratch;
        out.clear();
        ends.clear();
        let sealed = state.seal(operation, record_bytes, out, |out, plain| ends.push((out, plain)));
        sealed.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let records = out.filled();
        let sent = match wire::send(fd, records) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        state.is_congested = sent < records.len();
        if !state.is_congested {
            scratch.count(state);
            return Ok(operation.len());
        }
        let whole = ends.iter().rev().find(|(end, _)| *end <= sent).map_or(0, |(_, plain)| *plain);
        state.keep(&records[sent..], &operation[whole..], operation.len() - whole);
        layer.settle(state);
        Ok(whole)
    })?;
    state.sent += sent as u64;
    match done + sent {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        count => Ok(count),
    }
}

/// How much of `wanted` bytes is to be sealed: of a large piece, what the socket will take, so that
/// little more than a record is left over.
fn operation(fd: &Descriptor, state: &State, wanted: usize) -> usize {
    if wanted < RECORD_BYTES {
        return wanted;
    }
    match wire::send_room(fd) {
        0 => 0,
        // The kernel counts more than bytes, and what it does not take is kept here.
        room if state.is_congested => wanted.min((room / 2).max(RECORD_BYTES)),
        room => wanted.min(room.max(RECORD_BYTES)).min(OPERATION_BYTES),
    }
}

/// Sends what is left of records; `WouldBlock` while some of it is.
fn flush(fd: &Descriptor, state: &mut State) -> io::Result<()> {
    while !state.unsent.rest().is_empty() {
        state.unsent.start += wire::send(fd, state.unsent.rest())?;
    }
    Ok(())
}

/// Sends what a session has to say by itself, behind what is left of records.
fn send_own(fd: &Descriptor, state: &mut State, out: &mut Records) {
    let records = out.filled();
    if records.is_empty() {
        return;
    }
    let is_free = state.unsent.records.is_empty();
    // What fails here fails again where somebody hears of it.
    let sent = if is_free { wire::send(fd, records).unwrap_or(0) } else { 0 };
    if sent < records.len() {
        state.keep(&records[sent..], &[], 0);
    }
    out.clear();
}

#[cold]
pub(super) fn receive(fd: &Descriptor, layer: &Layer, into: &mut [u8]) -> io::Result<usize> {
    let mut state = layer.state();
    let mut count = state.take_held(into);
    let result = loop {
        if count == into.len() {
            break Ok(count);
        }
        if let Some(end) = state.ending() {
            break if count > 0 { Ok(count) } else { end };
        }
        match pull(fd, &mut state, &mut into[count..]) {
            Ok(0) => {}
            Ok(more) => {
                count += more;
                break Ok(count);
            }
            // It comes again.
            Err(_) if count > 0 => break Ok(count),
            Err(error) => break Err(error),
        }
    };
    layer.settle(&mut state);
    result
}

#[cold]
pub(super) fn peek(fd: &Descriptor, layer: &Layer, into: &mut [u8]) -> io::Result<usize> {
    let mut state = layer.state();
    let result = loop {
        if !state.held().is_empty() {
            let count = state.held().len().min(into.len());
            into[..count].copy_from_slice(&state.held()[..count]);
            break Ok(state.held().len().min(into.len().max(1)));
        }
        if let Some(end) = state.ending() {
            break end;
        }
        // Without room, all of it is held.
        if let Err(error) = pull(fd, &mut state, &mut []) {
            break Err(error);
        }
    };
    layer.settle(&mut state);
    result
}

/// Throws up to `count` plain bytes away.
#[cold]
pub(super) fn discard(fd: &Descriptor, layer: &Layer, count: usize) -> io::Result<usize> {
    if peek(fd, layer, &mut [])? == 0 {
        return Ok(0);
    }
    let mut state = layer.state();
    let count = state.held().len().min(count);
    state.drop_held(count);
    layer.settle(&mut state);
    Ok(count)
}

/// Receives once and opens what is whole; the count of plain bytes in `into`. 0 says nothing: what
/// it has no room for is held, and the stream may have ended.
fn pull(fd: &Descriptor, state: &mut State, into: &mut [u8]) -> io::Result<usize> {
    SCRATCH.with_borrow_mut(|scratch| {
        let room = into.len().clamp(RECORD_BYTES / 2, OPERATION_BYTES);
        let start = scratch.bring_tail(state, room);
        let Scratch { wire, out, .. } = scratch;
        let received = wire::receive(fd, &mut wire[start..start + room])?;
        if received == 0 {
            state.end = Some(StreamEnd::Cut);
            return Ok(0);
        }
        out.clear();
        let opened = state.open(&mut wire[..start + received], into, out);
        send_own(fd, state, out);
        scratch.count(state);
        opened
    })
}

/// `count` bytes of the wire have been received into the free part of `buffer`, or none because
/// there is something without them: what comes of it. `None` where that is nothing yet.
#[cold]
pub(super) fn take_in(
    fd: &Descriptor,
    layer: &Layer,
    count: usize,
    buffer: &mut HeadBuffer,
) -> io::Result<Option<usize>> {
    let mut state = layer.state();
    let result = opened(fd, &mut state, count, buffer);
    layer.settle(&mut state);
    let taken = result?;
    if taken > 0 {
        buffer.advance(taken);
        return Ok(Some(taken));
    }
    match state.ending() {
        None => Ok(None),
        // Whoever reads a head sees by itself whether it is whole.
        Some(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Some(_) => Ok(Some(0)),
    }
}

fn opened(
    fd: &Descriptor,
    state: &mut State,
    count: usize,
    buffer: &mut HeadBuffer,
) -> io::Result<usize> {
    let held = state.take_held(buffer.free());
    if held > 0 || state.end.is_some() {
        return Ok(held);
    }
    if count == 0 {
        state.end = Some(StreamEnd::Cut);
        return Ok(0);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let start = scratch.bring_tail(state, count);
        let Scratch { wire, out, .. } = scratch;
        wire[start..start + count].copy_from_slice(&buffer.free()[..count]);
        out.clear();
        let opened = state.open(&mut wire[..start + count], buffer.free(), out);
        send_own(fd, state, out);
        scratch.count(state);
        opened
    })
}

/// Goes on with a handshake, by one flight of the peer at most.
#[cold]
pub(super) fn shake(fd: &Descriptor, layer: &Layer) -> io::Result<Handshake> {
    let mut state = layer.state();
    let result = shaken(fd, &mut state);
    layer.settle(&mut state);
    result
}

fn shaken(fd: &Descriptor, state: &mut State) -> io::Result<Handshake> {
    if !state.unsent.records.is_empty() {
        match flush(fd, state) {
            Ok(()) => drop(state.keep_promise(&[])?),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Handshake::Writes);
            }
            Err(error) => return Err(error),
        }
    }
    if !state.session.is_handshaking() {
        return Ok(Handshake::Done);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let start = scratch.bring_tail(state, FLIGHT_BYTES_MAX);
        let Scratch { wire, out, .. } = scratch;
        let received = match wire::receive(fd, &mut wire[start..start + FLIGHT_BYTES_MAX]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            // A client speaks first.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        out.clear();
        let opened = state.open(&mut wire[..start + received], &mut [], out);
        send_own(fd, state, out);
        scratch.count(state);
        opened?;
        Ok(match (state.unsent.records.is_empty(), state.session.is_handshaking()) {
            (false, _) => Handshake::Writes,
            (true, true) => Handshake::Reads,
            (true, false) => Handshake::Done,
        })
    })
}

/// Tells the peer that it has got all of it. False where the socket has to take more first.
pub(super) fn say_goodbye(fd: &Descriptor, layer: &Layer) -> bool {
    let mut state = layer.state();
    if state.end == Some(StreamEnd::Broken) || state.session.is_handshaking() {
        return true;
    }
    match flush(fd, &mut state) {
        Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        // It has gone out whole, and its sender did not come back.
        Ok(()) if state.unsent.promised > 0 => return true,
        Ok(()) => state.unsent = Unsent::default(),
    }
    if !state.has_finished {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.out.clear();
            if state.finish(&mut scratch.out).is_ok() {
                send_own(fd, &mut state, &mut scratch.out);
            }
        });
    }
    layer.settle(&mut state);
    state.unsent.records.is_empty()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

    use super::super::layer::Handshake;
    use super::super::{Deadlines, Socket, runtime};
    use crate::tls::provider::provider;
    use crate::tls::session::Session;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Both ends' terms.
    fn terms() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes());
        let chain = vec![made.cert.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let server = ServerConfig::builder_with_provider(provider());
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let client = ClientConfig::builder_with_provider(provider());
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let mut server = server.with_single_cert(chain, key.unwrap()).unwrap();
        // What nobody reads takes room.
        server.send_tls13_tickets = 0;
        (Arc::new(server), Arc::new(client))
    }

    /// Two ends, the first of which has little room.
    fn narrow_pair() -> (UnixStream, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&here).set_send_buffer_size(4096).unwrap();
        (here, there)
    }

    /// How many records of a hundred bytes there is room for; the kernel gives each its own.
    fn records_max() -> usize {
        let (mut here, _there) = narrow_pair();
        here.set_nonblocking(true).unwrap();
        let mut count = 0;
        while here.write(&[0; 122]).is_ok() {
            count += 1;
        }
        count
    }

    /// The buffer was full to the brim when the last byte of an answer went in: the client took it
    /// for one that is cut.
    #[test]
    fn a_peer_that_reads_late_hears_that_it_has_got_all() {
        let (server, client) = terms();
        let (here, there) = narrow_pair();
        let (may_read, wait) = mpsc::channel::<()>();
        let reading = std::thread::spawn(move || {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = StreamOwned::new(ClientConnection::new(client, name).unwrap(), there);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            wait.recv().unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).map(|_| bytes.len())
        });
        runtime::tested().block_on(async move {
            let deadlines = Deadlines::default();
            let socket = Socket::from_fd(OwnedFd::from(here), true);
            socket.secure(Session::server(server).unwrap(), Arc::default());
            while socket.try_handshake().unwrap() != Handshake::Done {
                socket.readable(&deadlines, LIMIT).await.unwrap();
            }
            let sent: usize = (0..records_max()).map(|_| socket.try_send(&[7; 100]).unwrap()).sum();
            let layer = socket.fd.over.get().and_then(|over| over.session()).unwrap();
            assert!(!super::say_goodbye(&socket.fd, layer), "there was room for it");
            may_read.send(()).unwrap();
            socket.take_leave(&deadlines, LIMIT).await;
            socket.finish_sending();
            assert_eq!(reading.join().unwrap().unwrap(), sent);
        });
    }
}
