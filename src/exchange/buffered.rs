//! The body of a request that its route buffers: it is waited for before an origin is.
//!
//! In goes a request of whose body something is still to come; out comes the body, held in memory
//! up to what the route allows, so that no connection to an origin is asked for while a slow client
//! sends. A larger one, and one for which there is no memory, goes on from there as it comes. What
//! follows the body is left with the client's socket.

use std::io;
use std::rc::Rc;

use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::upload::{Kept, RequestBody};
use crate::fault::Fault;
use crate::http::BodyLength;
use crate::http::chunk_rules::ChunkRules;
use crate::memory::Pressure;
use crate::observe::connection_stats::{Moment, WaitsOn};
use crate::relay::Decoder;
use crate::relay::held::{Held, PIECE_BYTES};
use crate::relay::side::{Act, Side};
use crate::relay::spool::Terms;
use crate::relay::stored::Stored;
use crate::ring::waits::turn;
use crate::ring::{Socket, WaitError, clock};

/// What is taken of one body before the others of the thread have a turn.
const TURN_BYTES: u64 = 1024 * 1024;

/// Waits for up to `buffer` bytes of `body`, or for its end.
pub(super) async fn arrive(
    body: &mut RequestBody,
    request: &mut Request<'_, impl ClientStream>,
    record: &mut Record,
    buffer: u64,
) -> Result<(), Fault> {
    let is_chunked = request.head.body == BodyLength::Chunked;
    body.is_counted = is_chunked && body.rules != ChunkRules::STRICT;
    if body.is_whole() {
        return Ok(());
    }
    let (worker, stats) = (request.peer.worker, request.peer.stats);
    if worker.shared.pressure.get() != Pressure::Normal {
        return if body.is_awaited(request) { body.arrive(request, record).await } else { Ok(()) };
    }
    if request.head.expects_continue {
        let bytes = request.stream.grant_continue(request).await?;
        request.head.grant_continue();
        record.sent(stats, bytes as u64);
    }
    let front = Held::new(buffer, (&worker.ledger, &worker.budget));
    let config = &request.peer.generation.config.buffers;
    let mut held = Stored::new(front, Terms::of(&worker.shared.spool, config));
    let start = body.decoder;
    let taken = take(body, request, record, &mut held).await;
    held.release_spare();
    if !held.is_empty() {
        body.kept.set(Some(Rc::new(Kept { start, held })));
    }
    request.is_whole = body.is_whole();
    body.settle_copy();
    taken
}

async fn take(
    body: &mut RequestBody,
    request: &Request<'_, impl ClientStream>,
    record: &mut Record,
    held: &mut Stored,
) -> Result<(), Fault> {
    let (worker, stats) = (request.peer.worker, request.peer.stats);
    let socket = request.stream.socket();
    let silence = request.peer.times.read;
    let mut turn_bytes = 0;
    while !body.is_whole() {
        let before = held.memory_bytes();
        if !held.make_room().await {
            return Ok(());
        }
        // What has gone into a file is in nobody's way any more.
        let spooled = u32::try_from(before - held.memory_bytes()).unwrap_or(u32::MAX);
        stats.moved_on(spooled);
        if turn_bytes >= TURN_BYTES {
            turn_bytes = 0;
            turn().await;
        }
        if stats.is_ended() {
            return Err(Fault::Stopping);
        }
        if worker.shared.pressure.get() != Pressure::Normal {
            return Ok(());
        }
        let taken = match body.decoder {
            Decoder::Sized(left) => take_sized(socket, held.end(), (body, left)),
            _ => take_exactly(socket, held.end(), body),
        }?;
        match taken {
            Taken::NoMemory => return Ok(()),
            Taken::Some(count) => {
                if matches!(body.decoder, Decoder::Sized(_)) {
                    body.decoder.skip(count);
                }
                let count = count as u64;
                turn_bytes += count;
                stats.moved.set(Moment::at_ms(clock::coarse_ms()));
                stats.moves(count as u32);
                record.received(stats, count);
                if body.payload_bytes() > body.bytes_max {
                    return Err(Fault::ClientBodyTooLarge);
                }
            }
            Taken::Nothing => {
                turn_bytes = 0;
                held.release_spare();
                stats.waits_on.set(WaitsOn::ClientToSend);
                match socket.readable(&worker.deadlines, silence).await {
                    Ok(_) => {}
                    Err(WaitError::Interrupted) if !stats.is_ended() => {}
                    Err(error) => return Err(error.on(Side::Client, Act::Send)),
                }
            }
        }
    }
    Ok(())
}

/// What a look at the client's socket has brought.
enum Taken {
    Some(usize),
    Nothing,
    NoMemory,
}

/// Takes some of a body of which `left` bytes are still to come.
fn take_sized(
    socket: &Socket,
    held: &mut Held,
    (body, left): (&RequestBody, u64),
) -> Result<Taken, Fault> {
    let most = usize::try_from(left.min(held.left())).unwrap_or(PIECE_BYTES);
    let room = held.room(1, most);
    if room.is_empty() {
        return Ok(Taken::NoMemory);
    }
    let Some(count) = received(socket.try_recv(room))? else { return Ok(Taken::Nothing) };
    body.copy_passing(&room[..count]);
    held.fill(count);
    Ok(Taken::Some(count))
}

/// The same of a body in chunks, and nothing of what follows it.
fn take_exactly(socket: &Socket, held: &mut Held, body: &mut RequestBody) -> Result<Taken, Fault> {
    let most = usize::try_from(held.left()).unwrap_or(PIECE_BYTES);
    let room = held.room(1, most);
    if room.is_empty() {
        return Ok(Taken::NoMemory);
    }
    let Some(seen) = received(socket.try_peek(room))? else { return Ok(Taken::Nothing) };
    let seen = seen.min(room.len());
    let used = body.decoder.advance(&room[..seen]).map_err(Fault::ClientChunk)?.used;
    let mut count = 0;
    while count < used {
        match received(socket.try_recv(&mut room[count..used]))? {
            Some(more) => count += more,
            // It was there just now.
            None => return Err(Fault::ClientGone),
        }
    }
    body.copy_passing(&room[..used]);
    held.fill(used);
    Ok(Taken::Some(used))
}

fn received(result: io::Result<usize>) -> Result<Option<usize>, Fault> {
    match result {
        Ok(0) => Err(Fault::ClientBodyIncomplete),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Fault::ClientBodyIncomplete)
        }
        Err(_) => Err(Fault::ClientGone),
    }
}
