//! HTTP/2 towards a client: one connection, and on each of its lanes HTTP/1.1 as [`h1`] speaks it.
//!
//! In goes a connection whose client has chosen HTTP/2, by ALPN or by its first bytes; out comes
//! why it has ended. Each request gets a lane, which is a connection to whoever works on it, in the
//! list of connections too. A request for which there is no room is sent back untouched, so that
//! its client may repeat it.
//!
//! [`h1`]: super::h1

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::h1::{Pause, converse, future_bytes, note_refused};
use super::leave;
use crate::exchange::tunnel;
use crate::fault::Close;
use crate::http::head::HeadError;
use crate::http2::Role;
use crate::http2::error::{Cause, ConnectionError, ErrorCode};
use crate::http2::fields::HeadBounds;
use crate::http2::session::terms::Terms;
use crate::ledger::Kind;
use crate::limits::HTTP2_WINDOW_BYTES;
use crate::multiplex::drive;
use crate::multiplex::host::{End, Host, Keeper, Patience};
use crate::multiplex::lane::Lane;
use crate::multiplex::{CONNECTION_BYTES, Multiplex};
use crate::observe::connection_stats::Phase;
use crate::observe::log_limit;
use crate::ring::clock;
use crate::tls::session::Session;
use crate::worker::Worker;
use crate::worker::generation::Generation;
use crate::worker::slot::ConnectionSlot;

/// Those that are no field of HTTP/1.1: method, scheme, path and protocol.
const PSEUDO_FIELDS: u16 = 4;

/// Whether the client has chosen it in its handshake.
pub(super) fn is_chosen(slot: &ConnectionSlot) -> bool {
    slot.socket().session(Session::speaks_http2) == Some(true)
}

/// Serves a connection of which `early` has been received.
pub(super) async fn serve(slot: &ConnectionSlot, early: Vec<u8>) -> Close {
    let worker = slot.worker();
    if !slot.has_room(CONNECTION_BYTES) {
        worker.metrics.clients_refused.add(1);
        return Close::Refused;
    }
    slot.set_served();
    let terms = Rc::new(terms(&worker.generation(), slot.listener()));
    let wire = slot.socket().clone();
    let connection = Multiplex::new(wire, Role::Server, terms, worker.ledger.clone());
    connection.set_budget(worker.budget.clone());
    slot.set_multiplexed(&connection);
    worker.metrics.http2_opened.add(1);
    worker.metrics.http2_connections.add(1);
    // Its first request may have come with its first bytes: it says so when it has none.
    slot.stats().enter(Phase::Exchange, clock::coarse_ms());
    let server = Server { slot, connection: &connection, is_idle: Cell::new(false) };
    let end = drive::run(&connection, &server, &worker.deadlines, &early).await;
    if matches!(end, End::Drained | End::Idle | End::GaveWay) {
        Box::pin(leave::see_off(slot)).await;
    }
    if matches!(end, End::Drained) {
        Box::pin(leave::wait_for_client(slot)).await;
    }
    slot.set_parked(false);
    worker.metrics.http2_connections.sub(1);
    if let End::Fault(error) = end {
        server.count_error(error);
    }
    server.close(end)
}

/// What a client is allowed.
fn terms(generation: &Generation, listener: u16) -> Terms {
    let limits = &generation.config.limits;
    let bytes = u32::try_from(limits.head_bytes).unwrap_or(u32::MAX);
    Terms {
        streams_max: generation.config.http2.streams,
        // The decoded form has 32 bytes for each field beside its text (RFC 9113 §6.5.2).
        head: HeadBounds {
            bytes: bytes.saturating_add(limits.header_count as u32 * 32),
            // Pseudo-fields are none of them, but for the one that is the host.
            count: limits.header_count as u16 + PSEUDO_FIELDS,
        },
        block_bytes_max: bytes.saturating_mul(2),
        // It grows with what is made of it.
        connection_window: HTTP2_WINDOW_BYTES,
        // HTTP/2 has no form of its own for what is to be passed on to somebody else: where a route
        // takes any host, everything is for the routes.
        is_absolute: generation.access.is_offered(listener) && !generation.routes.takes_any_host(),
        ..Terms::default()
    }
}

/// One connection, for whoever drives it.
struct Server<'a> {
    slot: &'a ConnectionSlot,
    connection: &'a Rc<Multiplex>,
    is_idle: Cell<bool>,
}

impl Server<'_> {
    fn worker(&self) -> &Rc<Worker> {
        self.slot.worker()
    }

    fn count_error(&self, error: ConnectionError) {
        let metrics = &self.worker().metrics;
        match error.cause {
            Cause::Guard(reason) => metrics.http2_guards[reason as usize].add(1),
            _ => metrics.http2_connection_errors.add(1),
        }
        log_limit::http2_failed(self.slot.peer(), error.code.as_str(), error.cause.as_str());
        note_refused(self.slot, None, HeadError::Frames);
    }

    fn close(&self, end: End) -> Close {
        match end {
            End::Gone if self.connection.streams() > 0 => Close::ClientGone,
            End::Fault(_) => Close::Refused,
            End::Idle => Close::Idle,
            End::Silent(_) => Close::ClientGone,
            End::Drained if self.is_closing() => Close::Stopping,
            End::Gone | End::Drained => Close::ClientDone,
            End::Cut => Close::Cut,
            End::GaveWay => Close::GaveWay,
        }
    }
}

impl Host for Server<'_> {
    fn open_lane(&self) -> Option<Rc<Lane>> {
        let worker = self.worker();
        let permit = worker.shared.streams.clone().try_acquire_owned().ok()?;
        if !self.slot.has_room(future_bytes(converse::<true>)) {
            return None;
        }
        let (lane, socket) = Lane::open(self.connection);
        let slot = ConnectionSlot::of_lane(self.slot, socket);
        tokio::task::spawn_local(work(slot, lane.clone(), permit));
        Some(lane)
    }

    fn stream_ended(&self, _code: ErrorCode, cause: Cause) {
        let metrics = &self.worker().metrics;
        match cause {
            Cause::ResetByPeer => metrics.http2_resets.add(1),
            Cause::TooManyStreams | Cause::Draining => metrics.http2_refused.add(1),
            _ => metrics.http2_stream_errors.add(1),
        }
    }

    fn rejected(&self, id: u32, code: ErrorCode, cause: Cause) {
        self.stream_ended(code, cause);
        // What is sent back untouched is asked again.
        if code != ErrorCode::RefusedStream {
            note_refused(self.slot, Some(id), HeadError::Malformed);
        }
    }

    fn refused(&self) {
        self.worker().metrics.http2_refused.add(1);
    }
}

impl Keeper for Server<'_> {
    fn patience(&self) -> Patience {
        let generation = self.worker().generation();
        let timeouts = &generation.config.timeouts;
        Patience {
            head: timeouts.client_head,
            idle: timeouts.client_idle,
            stall: timeouts.client_write,
        }
    }

    fn is_closing(&self) -> bool {
        self.worker().is_closing()
    }

    fn is_unused(&self) -> bool {
        // It goes idle.
        false
    }

    fn set_idle(&self, is_idle: bool) {
        if self.is_idle.replace(is_idle) == is_idle {
            return;
        }
        let phase = if is_idle { Phase::Idle } else { Phase::Exchange };
        self.slot.stats().enter(phase, clock::coarse_ms());
        self.slot.set_parked(is_idle);
    }

    fn interrupted(&self) -> Option<End> {
        if self.slot.stats().is_cut() {
            Some(End::Cut)
        } else if self.slot.gives_way() {
            Some(End::GaveWay)
        } else {
            // A drain is looked for in each turn.
            None
        }
    }

    fn moved(&self, _received: usize, _sent: usize) {}
}

/// Works on one lane, request after request, until none comes for a second.
async fn work(slot: ConnectionSlot, lane: Rc<Lane>, permit: OwnedSemaphorePermit) {
    let metrics = Arc::clone(&slot.worker().metrics);
    metrics.http2_streams.add(1);
    {
        let _busy = slot.hold(future_bytes(converse::<true>), Kind::Streams);
        loop {
            match converse::<true>(&slot).await {
                Pause::Parked(_) if lane.is_busy() => {}
                Pause::Tunnel(tunnel) => {
                    let _held = slot.hold(tunnel::TUNNEL_BYTES, Kind::Tunnels);
                    Box::pin(tunnel::run(&slot, tunnel)).await;
                    break;
                }
                Pause::Parked(_) | Pause::Closed(_) | Pause::Http2(_) => break,
            }
        }
    }
    metrics.http2_streams.sub(1);
    drop((slot, permit));
}
