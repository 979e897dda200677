//! The client connections of one worker: their places, and what can be done to them from outside.
//!
//! In goes an accepted socket, which takes a [`ConnectionSlot`]; as long as it keeps it, the
//! connection is in its worker's list, where it can be seen, woken or ended. Dropping the slot
//! gives the place, its memory and its right to be a client back.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::address::PeerAddress;
use crate::http::head::ResponseHead;
use crate::ledger::Kind;
use crate::memory::Pressure;
use crate::multiplex::Multiplex;
use crate::observe::connection_stats::{ConnectionStats, Phase};
use crate::proxy_protocol::Accepted;
use crate::ring::waits::{Wait, turn};
use crate::ring::{HeadBuffer, SESSION_BYTES, Socket, clock};
use crate::upstream::fair::Claimant;
use crate::upstream::h1;
use crate::upstream::lease::Lease;
use crate::upstream::queue::Holder;
use crate::worker::Worker;
use crate::worker::connections::{Arrival, Attached, ConnectionEntry};
use crate::worker::mailbox::ConnectionInfo;

/// What a connection costs that does nothing: its task, its entry in the list, its descriptor and
/// deadline, and the operation that waits for its next request. Measured at 440 bytes on the heap.
pub(crate) const SLOT_BYTES: usize = 512;

impl Worker {
    /// Client connections that are being served.
    pub(crate) fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Those and the ones that are still on their way here.
    pub(crate) fn live(&self) -> usize {
        self.shared.live[self.index].load(Ordering::SeqCst)
    }

    /// Wakes the connections that have been idle for a second between two requests, or before the
    /// first.
    pub(crate) async fn interrupt_idle(&self) {
        self.for_each(|entry| {
            let stats = &entry.stats;
            let age_ms = stats.phase_began().age_ms(clock::coarse_ms());
            let is_waiting = stats.is_parked() || stats.phase() == Phase::Handshake;
            let is_due = is_waiting && age_ms >= IDLE_MS;
            if is_due {
                entry.socket.interrupt(&self.deadlines);
            }
            is_due
        })
        .await;
    }

    /// Ends every connection, in whatever it is.
    pub(crate) async fn cut_connections(&self) {
        self.for_each(|entry| {
            entry.cut(&self.deadlines);
            true
        })
        .await;
        self.pool.cut();
    }

    /// Does `act` to each connection, to a few in each turn of the loop: what it does to thousands
    /// is not to keep all others waiting. For how many it says that something was done.
    pub(crate) async fn for_each(&self, act: impl Fn(&ConnectionEntry) -> bool) -> usize {
        let (mut count, mut in_turn) = (0, 0);
        for key in 0.. {
            let entry = {
                let connections = self.connections.borrow();
                if key >= connections.capacity() {
                    break;
                }
                connections.get(key).cloned()
            };
            in_turn += usize::from(entry.is_some_and(|entry| act(&entry)));
            if in_turn == TURN_MAX {
                count += std::mem::take(&mut in_turn);
                turn().await;
            }
        }
        count + in_turn
    }

    /// The connections as an operator sees them.
    pub(crate) fn list_connections(&self) -> Vec<ConnectionInfo> {
        let now = clock::coarse_ms();
        let connections = self.connections.borrow();
        let clients = self.spoken_for.borrow();
        let multiplexed = self.multiplexed.borrow();
        let describe = |(key, entry): (usize, &Rc<ConnectionEntry>)| {
            let client = clients.get(&key).copied();
            let streams = multiplexed.get(&key).map(|connection| connection.streams());
            entry.describe(self.index, client, streams, now)
        };
        connections.iter().map(describe).collect()
    }

    /// Ends the connection `id`, if there is one.
    pub(crate) fn end_connection(&self, id: u64) -> bool {
        let connections = self.connections.borrow();
        let found = connections.iter().find(|(_, entry)| entry.id == id);
        if let Some((_, entry)) = found {
            entry.cut(&self.deadlines);
        }
        found.is_some()
    }
}

/// Connections that are ended in one turn of the loop: each takes some 20 µs to close.
const TURN_MAX: usize = 256;

/// Silence after which a client hardly has its next request on its way.
const IDLE_MS: u64 = 1000;

/// A lease that is the other end of the exchange under way, for as long as it is not given back:
/// what is decided about the connection must not hit the next exchange that has the lease.
pub(crate) struct Reached<'a> {
    lease: Lease,
    attached: Attached<'a>,
}

impl Reached<'_> {
    /// As [`Lease::give_back_with`], unless its end has been decided with that of the exchange.
    pub(crate) fn give_back_with(self, buffer: HeadBuffer) {
        if !self.attached.is_ended() {
            drop(self.attached);
            self.lease.give_back_with(buffer);
        }
    }

    /// As [`Lease::give_back`], with the same exception.
    fn give_back(self) {
        if !self.attached.is_ended() {
            drop(self.attached);
            self.lease.give_back();
        }
    }

    /// Takes another lease in the place of this one, whose connection is closed.
    pub(crate) fn replace(&mut self, lease: Lease) {
        self.attached.point_to(lease.socket());
        self.lease = lease;
    }

    /// Ends the exchange on it, whose response `head` begins, by the rule for connections that may
    /// carry another request; `is_clean` says that nothing has come behind the response.
    pub(crate) fn finish(self, head: &ResponseHead, is_sent: bool, is_clean: bool) {
        if h1::is_reusable(head, is_sent, is_clean) {
            self.give_back();
        }
    }

    /// The same with what is left of the buffer that the response came in.
    pub(crate) fn finish_with(self, head: &ResponseHead, is_sent: bool, buffer: HeadBuffer) {
        if h1::is_reusable(head, is_sent, buffer.is_empty()) {
            self.give_back_with(buffer);
        }
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.lease.into_socket()
    }
}

impl Deref for Reached<'_> {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl DerefMut for Reached<'_> {
    fn deref_mut(&mut self) -> &mut Lease {
        &mut self.lease
    }
}

/// A client connection's place in its worker; dropping it gives the place up.
pub(crate) struct ConnectionSlot {
    worker: Rc<Worker>,
    entry: Rc<ConnectionEntry>,
    key: usize,
}

impl ConnectionSlot {
    pub(crate) fn take(
        worker: &Rc<Worker>,
        socket: Socket,
        peer: PeerAddress,
        permit: OwnedSemaphorePermit,
        listener: u16,
    ) -> Self {
        // The slot's drop gives the permit back; keeping it would cost each connection 16 bytes.
        permit.forget();
        let serial = worker.serial.get() + 1;
        worker.serial.set(serial);
        let entry = Rc::new(ConnectionEntry {
            socket,
            arrival: Arrival::new(peer, listener),
            other_end: Cell::default(),
            id: (worker.index as u64) << 48 | serial,
            stats: ConnectionStats::default(),
        });
        entry.stats.hold(SLOT_BYTES);
        worker.ledger.add(Kind::Connections, SLOT_BYTES as u64);
        worker.metrics.clients.add(1);
        let key = worker.connections.borrow_mut().insert(entry.clone());
        Self { worker: worker.clone(), entry, key }
    }

    /// The place of a lane of the connection `parent`: one of its requests, and no client more.
    pub(crate) fn of_lane(parent: &ConnectionSlot, socket: Socket) -> Self {
        let worker = &parent.worker;
        let serial = worker.serial.get() + 1;
        worker.serial.set(serial);
        let entry = Rc::new(ConnectionEntry {
            socket,
            arrival: Arrival::new(parent.peer(), parent.listener()),
            other_end: Cell::default(),
            id: (worker.index as u64) << 48 | serial,
            stats: ConnectionStats::default(),
        });
        entry.stats.hold(SLOT_BYTES);
        entry.stats.set_known();
        worker.ledger.add(Kind::Streams, SLOT_BYTES as u64);
        let key = worker.connections.borrow_mut().insert(entry.clone());
        let mut introduced = worker.introduced.borrow_mut();
        if let Some(client) = introduced.get(&parent.key).copied() {
            introduced.insert(key, client);
        }
        drop(introduced);
        Self { worker: worker.clone(), entry, key }
    }

    /// Says that its requests come on streams of `connection`.
    pub(crate) fn set_multiplexed(&self, connection: &Rc<Multiplex>) {
        self.worker.multiplexed.borrow_mut().insert(self.key, connection.clone());
    }

    /// Whether it is one of the requests of a connection.
    pub(crate) fn is_lane(&self) -> bool {
        self.socket().is_lane()
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Admits a conversation whose future has `future_bytes`, if the worker has the memory that it
    /// may come to: that, and a head buffer for either side.
    pub(crate) fn begin(&self, future_bytes: usize, kind: Kind) -> Option<HeldMemory<'_>> {
        let worker = &self.worker;
        let buffers = 2 * worker.heads.buffer_bytes();
        let is_turned_away = self.is_new() && worker.shared.pressure.get() == Pressure::Forced;
        if is_turned_away || !self.has_room(future_bytes) {
            return None;
        }
        let held = self.hold(future_bytes, kind);
        // The buffers' pool counts their bytes; this says in whose hands they are.
        held.slot.entry.stats.hold(buffers);
        Some(held)
    }

    /// Whether there is memory for a conversation whose future has `future_bytes`.
    pub(crate) fn has_room(&self, future_bytes: usize) -> bool {
        let worker = &self.worker;
        let buffers = 2 * worker.heads.buffer_bytes();
        worker.budget.admits(&worker.ledger, (future_bytes + buffers) as u64)
    }

    /// Counts `bytes` as the connection's, for as long as the result lives.
    pub(crate) fn hold(&self, bytes: usize, kind: Kind) -> HeldMemory<'_> {
        self.worker.ledger.add(kind, bytes as u64);
        self.entry.stats.hold(bytes);
        HeldMemory { slot: self, bytes, kind }
    }

    pub(crate) fn stats(&self) -> &ConnectionStats {
        &self.entry.stats
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.entry.socket
    }

    /// What it costs at rest.
    fn rest_bytes(&self) -> usize {
        let has_session = !self.is_lane() && self.socket().is_secure();
        SLOT_BYTES + if has_session { SESSION_BYTES } else { 0 }
    }

    /// What stands for its client: an address, or the prefix that one subscriber has.
    pub(crate) fn address(&self) -> u128 {
        self.entry.address()
    }

    pub(crate) fn peer(&self) -> PeerAddress {
        self.entry.arrival.peer()
    }

    /// Says whose request the peer passes on, where it is not the peer's own.
    pub(crate) fn speaks_for(&self, client: Option<IpAddr>) {
        let mut clients = self.worker.spoken_for.borrow_mut();
        let introduced = || self.source().client().ip().filter(|_| self.source() != self.peer());
        match client.or_else(introduced) {
            Some(client) => drop(clients.insert(self.key, client)),
            None if clients.is_empty() => {}
            None => drop(clients.remove(&self.key)),
        }
    }

    /// The versions of the PROXY protocol that the listener takes.
    pub(crate) fn proxy_protocol(&self) -> Option<Accepted> {
        let generation = self.worker.generation.borrow();
        let listeners = &generation.proxy_protocol;
        listeners.iter().find(|(listener, _)| *listener == self.listener()).map(|(_, it)| *it)
    }

    /// Says, before the first request, that the connection is that of `client`.
    pub(crate) fn introduce(&self, client: SocketAddr) {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        self.worker.introduced.borrow_mut().insert(self.key, client);
        self.speaks_for(None);
    }

    /// Whose connection it is: the peer's, or that of the client whom the peer has introduced.
    pub(crate) fn source(&self) -> PeerAddress {
        let introduced = self.worker.introduced.borrow();
        if introduced.is_empty() {
            return self.peer();
        }
        introduced.get(&self.key).map_or(self.peer(), |client| PeerAddress::Ip(*client))
    }

    /// As the pool knows the client that is served here.
    pub(crate) fn holder(&self) -> Holder {
        Holder { claimant: Claimant::of(self.source().client()), slot: self.key as u32 }
    }

    pub(crate) fn is_new(&self) -> bool {
        self.entry.stats.is_new()
    }

    pub(crate) fn set_served(&self) {
        self.entry.stats.set_known();
    }

    /// By which listener it came in.
    pub(crate) fn listener(&self) -> u16 {
        self.entry.arrival.listener
    }

    /// Says what the other end of the exchange or the tunnel is that begins: what has been, or will
    /// be, decided about the connection holds for that too.
    pub(crate) fn reach(&self, lease: Lease) -> Reached<'_> {
        let attached = self.attach(lease.socket());
        Reached { lease, attached }
    }

    /// Whether it gives way to a new client, asked after it has been interrupted.
    pub(crate) fn gives_way(&self) -> bool {
        self.worker.gives_way(&self.entry)
    }

    /// The same for what is no lease.
    pub(crate) fn attach(&self, other: &Socket) -> Attached<'_> {
        self.entry.other_end.set(Some(other.clone()));
        if self.entry.stats.is_ended() {
            self.entry.end_other(&self.worker.deadlines);
        }
        Attached(&self.entry)
    }

    pub(crate) fn set_parked(&self, is_parked: bool) {
        let parked = &self.worker.metrics.parked;
        match (self.entry.stats.set_parked(is_parked), is_parked) {
            (false, true) => parked.add(1),
            (true, false) => parked.sub(1),
            _ => {}
        }
    }

    /// Begins to wait for the next request without holding a buffer, after `spent` of the time that
    /// it may take.
    pub(crate) fn park(&self, spent: Duration) -> Wait<'_> {
        let worker = &self.worker;
        worker.released.set(worker.released.get() + 1);
        self.set_parked(true);
        let generation = worker.generation();
        let timeouts = &generation.config.timeouts;
        let limit = if self.is_new() { timeouts.client_head } else { timeouts.client_idle };
        self.socket().readable(&worker.deadlines, limit.saturating_sub(spent))
    }
}

/// Memory that a connection holds for a while.
pub(crate) struct HeldMemory<'a> {
    slot: &'a ConnectionSlot,
    bytes: usize,
    kind: Kind,
}

impl Drop for HeldMemory<'_> {
    fn drop(&mut self) {
        self.slot.worker.ledger.sub(self.kind, self.bytes as u64);
        self.slot.entry.stats.reset(self.slot.rest_bytes());
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        if self.worker.pool.has_bonds() {
            self.worker.pool.end_bonds(self.key as u32);
        }
        let (introduced, spoken_for) = (&self.worker.introduced, &self.worker.spoken_for);
        if !introduced.borrow().is_empty() {
            introduced.borrow_mut().remove(&self.key);
        }
        if !spoken_for.borrow().is_empty() {
            spoken_for.borrow_mut().remove(&self.key);
        }
        let multiplexed = &self.worker.multiplexed;
        if !multiplexed.borrow().is_empty() {
            multiplexed.borrow_mut().remove(&self.key);
        }
        self.worker.connections.borrow_mut().try_remove(self.key);
        if self.is_lane() {
            self.worker.ledger.sub(Kind::Streams, SLOT_BYTES as u64);
            return;
        }
        self.worker.ledger.sub(Kind::Connections, SLOT_BYTES as u64);
        self.worker.metrics.clients.sub(1);
        self.worker.shared.live[self.worker.index].fetch_sub(1, Ordering::Relaxed);
        self.worker.shared.clients.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_out_as_they_went_in() {
        for text in
            ["192.0.2.1:80", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:1", "[fe80::1%3]:65535"]
        {
            let address = PeerAddress::Ip(text.parse().unwrap());
            assert_eq!(Arrival::new(address, 7).peer(), address);
        }
        assert_eq!(Arrival::new(PeerAddress::Unix, 7).peer(), PeerAddress::Unix);
    }

    #[test]
    fn a_connection_in_the_list_fits_a_small_class_of_the_allocator() {
        // With the two counts of its `Rc`.
        assert!(size_of::<ConnectionEntry>() + 16 <= 112, "{}", size_of::<ConnectionEntry>());
    }
}
