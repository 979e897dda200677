//! The client connections of one worker: their places, and what can be done to them from outside.
//!
//! In goes an accepted socket, which takes a [`Seat`]; as long as it keeps it, the connection is in
//! its worker's list, where it can be seen, woken or ended. Dropping the seat gives the place, its
//! memory and its right to be a client back.

use std::cell::Cell;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::account::{Account, Ending};
use crate::ask::ConnectionInfo;
use crate::fault::Fault;
use crate::ledger::Kind;
use crate::ring::waits::{Wait, turn};
use crate::ring::{Deadlines, HeadBuffer, Socket, clock};
use crate::upstream::fair::Claimant;
use crate::upstream::lease::Lease;
use crate::upstream::queue::Holder;
use crate::worker::{FORCED, Worker};

/// What a connection costs that does nothing: its task, its entry in the list, its descriptor and
/// deadline, and the operation that waits for its next request. Measured at 440 bytes on the heap.
pub const SEAT_BYTES: usize = 512;

/// One client connection, as the worker sees it from outside.
pub struct Live {
    pub(crate) socket: Socket,
    arrival: Arrival,
    /// No other connection of the process has it, now or later.
    pub(crate) id: u64,
    pub account: Account,
    /// The connection to an origin, or to a proxy on the way there, of the exchange or the tunnel
    /// under way.
    other_end: Cell<Option<Socket>>,
}

/// Where a connection comes from, and by which listener, in 24 bytes; a `SocketAddr` has 32.
struct Arrival {
    /// IPv4 as it is mapped into IPv6 (RFC 4291 §2.5.5.2).
    ip: Ipv6Addr,
    /// [`IS_V4`] where the address is one of IPv4.
    scope_id: u32,
    port: u16,
    listener: u16,
}

/// No interface has this number: Linux gives out those that a positive `int` holds.
const IS_V4: u32 = u32::MAX;

impl Arrival {
    fn new(peer: SocketAddr, listener: u16) -> Self {
        let (ip, scope_id) = match peer {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), IS_V4),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Self { ip, scope_id, port: peer.port(), listener }
    }

    fn peer(&self) -> SocketAddr {
        match self.ip.to_ipv4_mapped() {
            Some(ip) if self.scope_id == IS_V4 => (ip, self.port).into(),
            _ => SocketAddrV6::new(self.ip, self.port, 0, self.scope_id).into(),
        }
    }
}

impl Worker {
    /// Client connections that are being served.
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Those and the ones that are still on their way here.
    pub fn live(&self) -> usize {
        self.shared.live[self.index].load(Ordering::SeqCst)
    }

    /// Wakes the connections that have rested for a second between two requests.
    pub async fn interrupt_resting(&self) {
        self.for_each(|live| {
            let account = &live.account;
            let age_ms = account.phase_began().age_ms(clock::coarse_ms());
            let is_due = account.is_resting.get() && age_ms >= RESTED_MS;
            if is_due {
                live.socket.interrupt(&self.deadlines);
            }
            is_due
        })
        .await;
    }

    /// Ends every connection, in whatever it is.
    pub async fn cut_connections(&self) {
        self.for_each(|live| {
            live.cut(&self.deadlines);
            true
        })
        .await;
        self.pool.cut();
    }

    /// Does `act` to each connection, to a few in each turn of the loop: what it does to thousands
    /// is not to keep all others waiting. For how many it says that something was done.
    pub(crate) async fn for_each(&self, act: impl Fn(&Live) -> bool) -> usize {
        let (mut count, mut in_turn) = (0, 0);
        for key in 0.. {
            let live = {
                let connections = self.connections.borrow();
                if key >= connections.capacity() {
                    break;
                }
                connections.get(key).cloned()
            };
            in_turn += usize::from(live.is_some_and(|live| act(&live)));
            if in_turn == TURN_MAX {
                count += std::mem::take(&mut in_turn);
                turn().await;
            }
        }
        count + in_turn
    }

    /// The connections as an operator sees them.
    pub fn list_connections(&self) -> Vec<ConnectionInfo> {
        let now = clock::coarse_ms();
        let connections = self.connections.borrow();
        connections.iter().map(|(_, live)| live.describe(self.index, now)).collect()
    }

    /// Ends the connection `id`, if there is one.
    pub fn end_connection(&self, id: u64) -> bool {
        let connections = self.connections.borrow();
        let found = connections.iter().find(|(_, live)| live.id == id);
        if let Some((_, live)) = found {
            live.cut(&self.deadlines);
        }
        found.is_some()
    }
}

/// Connections that are ended in one turn of the loop: each takes some 20 µs to close.
const TURN_MAX: usize = 256;

/// Silence after which a client hardly has its next request on its way.
const RESTED_MS: u64 = 1000;

impl Live {
    /// Ends a connection that rests.
    pub(crate) fn close(&self, deadlines: &Deadlines) {
        self.account.end(Ending::Cut);
        self.socket.interrupt_for_good(deadlines);
    }

    /// What stands for its client: an address, or the prefix of 64 bits that one subscriber has.
    pub(crate) fn address(&self) -> u128 {
        match self.arrival.ip.to_ipv4_mapped() {
            Some(_) => self.arrival.ip.to_bits(),
            None => self.arrival.ip.to_bits() >> 64 << 64,
        }
    }

    pub fn peer(&self) -> SocketAddr {
        self.arrival.peer()
    }

    fn describe(&self, worker: usize, now_ms: u64) -> ConnectionInfo {
        let account = &self.account;
        ConnectionInfo {
            id: self.id,
            worker,
            peer: self.arrival.peer(),
            phase: account.phase().name(),
            age_ms: account.born.age_ms(now_ms),
            phase_ms: account.phase_began().age_ms(now_ms),
            requests: u64::from(account.requests.get()),
            bytes_received: account.received.get(),
            bytes_sent: account.sent.get(),
            memory_bytes: account.bytes(),
        }
    }

    /// Ends the connection, in whatever it is.
    pub(crate) fn cut(&self, deadlines: &Deadlines) {
        self.account.end(Ending::Cut);
        // A shutdown would look like the end of an answer that ends with its connection.
        self.socket.reset_on_close();
        self.socket.interrupt_for_good(deadlines);
        self.end_other(deadlines);
    }

    /// Ends the exchange under way, which holds a connection to an origin, by `fault`: it is
    /// answered where nothing of an answer has been sent yet, and else the client is reset. False
    /// where nothing of that kind is under way.
    pub fn give_up(&self, fault: Fault, deadlines: &Deadlines) -> bool {
        let is_under_way = {
            let other = self.other_end.take();
            let is_some = other.is_some();
            self.other_end.set(other);
            is_some
        };
        if is_under_way {
            self.account.end(Ending::GiveUp(fault));
            self.socket.interrupt(deadlines);
            self.end_other(deadlines);
        }
        is_under_way
    }

    fn end_other(&self, deadlines: &Deadlines) {
        if let Some(other) = self.other_end.take() {
            other.reset_on_close();
            other.interrupt_for_good(deadlines);
            self.other_end.set(Some(other));
        }
    }
}

/// The other end's place in its connection; dropping it says that there is none any more.
pub struct Attached<'a>(&'a Live);

impl Attached<'_> {
    fn is_ended(&self) -> bool {
        self.0.account.is_ended()
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.other_end.set(None);
    }
}

/// A lease that is the other end of the exchange under way, for as long as it is not given back:
/// what is decided about the connection must not hit the next exchange that has the lease.
pub struct Reached<'a> {
    lease: Lease,
    attached: Attached<'a>,
}

impl Reached<'_> {
    /// As [`Lease::give_back_with`], unless its end has been decided with that of the exchange.
    pub fn give_back_with(self, buffer: HeadBuffer) {
        if !self.attached.is_ended() {
            drop(self.attached);
            self.lease.give_back_with(buffer);
        }
    }

    /// As [`Lease::give_back`], with the same exception.
    pub fn give_back(self) {
        if !self.attached.is_ended() {
            drop(self.attached);
            self.lease.give_back();
        }
    }

    pub fn into_socket(self) -> Socket {
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
pub struct Seat {
    worker: Rc<Worker>,
    live: Rc<Live>,
    key: usize,
}

impl Seat {
    pub fn take(
        worker: &Rc<Worker>,
        socket: Socket,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        listener: u16,
    ) -> Self {
        // The seat's drop gives the permit back; keeping it would cost each connection 16 bytes.
        permit.forget();
        let serial = worker.serial.get() + 1;
        worker.serial.set(serial);
        let live = Rc::new(Live {
            socket,
            arrival: Arrival::new(peer, listener),
            other_end: Cell::default(),
            id: (worker.index as u64) << 48 | serial,
            account: Account::default(),
        });
        live.account.hold(SEAT_BYTES);
        worker.ledger.add(Kind::Connections, SEAT_BYTES as u64);
        worker.metrics.clients.add(1);
        let key = worker.connections.borrow_mut().insert(live.clone());
        Self { worker: worker.clone(), live, key }
    }

    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Admits a conversation whose future has `future_bytes`, if the worker has the memory that it
    /// may come to: that, and a head buffer for either side.
    pub fn begin(&self, future_bytes: usize, kind: Kind) -> Option<Held<'_>> {
        let worker = &self.worker;
        let buffers = 2 * worker.heads.buffer_bytes();
        let is_turned_away =
            self.is_new() && worker.shared.pressure.load(Ordering::Relaxed) == FORCED;
        let fits = || worker.budget.admits(&worker.ledger, (future_bytes + buffers) as u64);
        if is_turned_away || !fits() {
            return None;
        }
        let held = self.hold(future_bytes, kind);
        // The buffers' pool counts their bytes; this says in whose hands they are.
        held.seat.live.account.hold(buffers);
        Some(held)
    }

    /// Counts `bytes` as the connection's, for as long as the result lives.
    pub fn hold(&self, bytes: usize, kind: Kind) -> Held<'_> {
        self.worker.ledger.add(kind, bytes as u64);
        self.live.account.hold(bytes);
        Held { seat: self, bytes, kind }
    }

    pub fn account(&self) -> &Account {
        &self.live.account
    }

    pub fn socket(&self) -> &Socket {
        &self.live.socket
    }

    pub fn peer(&self) -> SocketAddr {
        self.live.arrival.peer()
    }

    /// As the pool knows whoever is served here.
    pub fn holder(&self) -> Holder {
        Holder { claimant: Claimant::of(self.peer().ip()), seat: self.key as u32 }
    }

    pub fn is_new(&self) -> bool {
        self.live.account.is_new.get()
    }

    pub fn set_served(&self) {
        self.live.account.is_new.set(false);
    }

    /// By which listener it came in.
    pub fn listener(&self) -> u16 {
        self.live.arrival.listener
    }

    /// Says what the other end of the exchange or the tunnel is that begins: what has been, or will
    /// be, decided about the connection holds for that too.
    pub fn reach(&self, lease: Lease) -> Reached<'_> {
        let attached = self.attach(lease.socket());
        Reached { lease, attached }
    }

    /// Whether it gives way to a new client, asked after it has been interrupted.
    pub fn gives_way(&self) -> bool {
        self.worker.gives_way(&self.live)
    }

    /// The same for what is no lease.
    pub fn attach(&self, other: &Socket) -> Attached<'_> {
        self.live.other_end.set(Some(other.clone()));
        if self.live.account.is_ended() {
            self.live.end_other(&self.worker.deadlines);
        }
        Attached(&self.live)
    }

    pub fn set_resting(&self, is_resting: bool) {
        let resting = &self.worker.metrics.resting;
        match (self.live.account.is_resting.replace(is_resting), is_resting) {
            (false, true) => resting.add(1),
            (true, false) => resting.sub(1),
            _ => {}
        }
    }

    /// Begins to wait for the next request without holding a buffer, after `spent` of the time that
    /// it may take.
    pub fn rest(&self, spent: Duration) -> Wait<'_> {
        let worker = &self.worker;
        worker.released.set(worker.released.get() + 1);
        self.set_resting(true);
        let generation = worker.generation();
        let timeouts = &generation.config.timeouts;
        let limit = if self.is_new() { timeouts.client_head } else { timeouts.client_idle };
        self.socket().readable(&worker.deadlines, limit.saturating_sub(spent))
    }
}

/// Memory that a connection holds for a while.
pub struct Held<'a> {
    seat: &'a Seat,
    bytes: usize,
    kind: Kind,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.seat.worker.ledger.sub(self.kind, self.bytes as u64);
        self.seat.live.account.reset(SEAT_BYTES);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().try_remove(self.key);
        self.worker.ledger.sub(Kind::Connections, SEAT_BYTES as u64);
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
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Arrival::new(address, 7).peer(), address);
        }
    }

    #[test]
    fn a_connection_in_the_list_fits_a_small_class_of_the_allocator() {
        // With the two counts of its `Rc`.
        assert!(size_of::<Live>() + 16 <= 112, "{}", size_of::<Live>());
    }
}
