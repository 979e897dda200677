//! HTTP/2 towards origins: one connection for many exchanges.
//!
//! In goes a target whose origin may speak HTTP/2; out comes a [`Lease`] on a lane of a connection
//! that this worker shares among its exchanges, or on one of HTTP/1.1 where that is what the origin
//! speaks. A lane is in the pool as any connection is: it counts under the same limits, rests,
//! is watched, and is closed with them. While a first connection is being opened, others wait for
//! what comes of it, so that a burst does not open one for each of its requests.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::OriginHttp;
use crate::fault::{Fault, TlsFault};
use crate::http2::Role;
use crate::http2::error::{Cause, ErrorCode};
use crate::http2::session::terms::Terms;
use crate::multiplex::Multiplex;
use crate::multiplex::drive;
use crate::multiplex::host::{End, Host, Keeper, Patience};
use crate::multiplex::lane::Lane;
use crate::ring::{Socket, clock};
use crate::tls::connector::Offers;
use crate::tls::session::Session;

use super::lease::Lease;
use super::permits::Permit;
use super::pool::{Pool, connect_fault, open_fault};
use super::queue::Holder;
use super::target::Target;
use super::{Member, Origin, Upgrade};

/// Exchanges that one connection carries at most, whatever its origin allows.
const LANES_MAX: usize = 100;
/// What is waited for a frame to become whole.
const FRAME_WITHIN: Duration = Duration::from_secs(30);

/// One that is being opened.
struct Opening<'a> {
    pool: &'a Pool,
    number: usize,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let waiting = self.pool.shared_connections.borrow_mut().opening.remove(&self.number);
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }
}

/// For whom, and until when.
pub(super) struct Wish<'a> {
    pub holder: Holder,
    pub introduction: &'a [u8],
    pub deadline: Instant,
    /// For how long the origin may take nothing.
    pub stall: Duration,
    pub upgrade: Upgrade,
}

/// What has been opened for one exchange.
enum Carrier {
    Lane(Lease, Rc<Multiplex>),
    Alone(Lease),
}

impl Pool {
    /// Opens what carries one exchange after the other to `member`; with it, whether somebody was
    /// there.
    pub(super) async fn reach(
        self: &Rc<Self>,
        member: &Member,
        permit: Permit,
        wish: Wish<'_>,
    ) -> (bool, Result<Lease, Fault>) {
        if !speaks_http2(member) {
            return self.connect_alone(member, permit, &wish).await;
        }
        Box::pin(async {
            if wish.upgrade != Upgrade::Nothing {
                return self.reach_for_upgrade(member, permit, &wish).await;
            }
            let (is_answered, carrier) = self.reach_shared(member, permit, &wish).await;
            let lease = carrier.map(|carrier| match carrier {
                Carrier::Lane(lease, _) | Carrier::Alone(lease) => lease,
            });
            (is_answered, lease)
        })
        .await
    }

    /// The same for a request that wants to go on in another protocol: on a lane where the origin
    /// takes extended CONNECT for it, else on a connection of HTTP/1.1.
    async fn reach_for_upgrade(
        self: &Rc<Self>,
        member: &Member,
        permit: Permit,
        wish: &Wish<'_>,
    ) -> (bool, Result<Lease, Fault>) {
        if wish.upgrade == Upgrade::Other {
            if member.origin.tls.is_none() {
                return (false, Err(Fault::OriginUpgrade));
            }
            let (is_answered, lease) =
                self.connect_offering(member, Offers::Http1, permit, wish).await;
            return (is_answered, lease.map(Lease::only_once));
        }
        let (is_answered, carrier) = self.reach_shared(member, permit, wish).await;
        let (lease, connection) = match carrier {
            Ok(Carrier::Lane(lease, connection)) => (lease, connection),
            Ok(Carrier::Alone(lease)) => return (is_answered, Ok(lease)),
            Err(fault) => return (is_answered, Err(fault)),
        };
        let settled = connection.allows_protocol();
        let lease = match tokio::time::timeout_at(wish.deadline.into(), settled).await {
            Ok(Some(true)) => Ok(lease),
            Ok(Some(false)) => self.replace_by_http1(lease, member, wish).await,
            Ok(None) => Err(Fault::OriginClosed),
            Err(_) => Err(Fault::OriginConnectTimeout),
        };
        (is_answered, lease)
    }

    /// Puts a connection of HTTP/1.1 in the place of the lane that `lease` has.
    async fn replace_by_http1(
        self: &Rc<Self>,
        mut lease: Lease,
        member: &Member,
        wish: &Wish<'_>,
    ) -> Result<Lease, Fault> {
        if member.origin.tls.is_none() {
            return Err(Fault::OriginUpgrade);
        }
        let (address, deadline) = (member.target.address, wish.deadline);
        let socket = Socket::open(address, self.limits.get().keepalive);
        self.put_in_place(&mut lease, socket.map_err(|error| open_fault(&error))?);
        let left = deadline.saturating_duration_since(Instant::now());
        let connected = lease.socket().connect(address, &self.deadlines, left).await;
        connected.map_err(|error| connect_fault(address, &error))?;
        lease.is_reused = false;
        let how = (member, Offers::Http1);
        let lease = self.secure(lease, how, wish.introduction, deadline).await?;
        Ok(lease.only_once())
    }

    async fn reach_shared(
        self: &Rc<Self>,
        member: &Member,
        permit: Permit,
        wish: &Wish<'_>,
    ) -> (bool, Result<Carrier, Fault>) {
        let number = member.number();
        let _opening = loop {
            if let Some(connection) = self.with_room(number) {
                let lease = self.lease_lane(&connection, member, permit, wish.holder);
                return (true, Ok(Carrier::Lane(lease, connection)));
            }
            let waiting = self.shared_connections.borrow().opening.get(&number).cloned();
            let Some(waiting) = waiting else {
                let opening = &mut self.shared_connections.borrow_mut().opening;
                opening.insert(number, Rc::default());
                break Opening { pool: self, number };
            };
            if tokio::time::timeout_at(wish.deadline.into(), waiting.notified()).await.is_err() {
                return (false, Err(Fault::OriginConnectTimeout));
            }
            if !speaks_http2(member) {
                let (is_answered, opened) = self.connect_alone(member, permit, wish).await;
                return (is_answered, opened.map(Carrier::Alone));
            }
        };
        let (is_answered, opened) = self.connect_alone(member, permit, wish).await;
        let lease = match opened {
            Ok(lease) => lease,
            Err(fault) => return (is_answered, Err(fault)),
        };
        match has_chosen(lease.socket(), member.origin.http) {
            Choice::Http2 => {}
            Choice::Http1 => {
                member.target.speaks_http1(clock::coarse_ms());
                return (true, Ok(Carrier::Alone(lease)));
            }
            Choice::Neither => return (true, Err(Fault::OriginTls(TlsFault::Protocol))),
        }
        let target = Some(member.target.clone());
        let connection = self.share(lease.socket().clone(), target, wish.stall);
        let connections = &mut self.shared_connections.borrow_mut().connections;
        connections.entry(number).or_default().push(connection.clone());
        let lease = self.carry_on(lease, &connection);
        (true, Ok(Carrier::Lane(lease, connection)))
    }

    /// Connects, and secures what is connected.
    async fn connect_alone(
        self: &Rc<Self>,
        member: &Member,
        permit: Permit,
        wish: &Wish<'_>,
    ) -> (bool, Result<Lease, Fault>) {
        self.connect_offering(member, member.offers(), permit, wish).await
    }

    async fn connect_offering(
        self: &Rc<Self>,
        member: &Member,
        offers: Offers,
        permit: Permit,
        wish: &Wish<'_>,
    ) -> (bool, Result<Lease, Fault>) {
        let (address, deadline) = (member.target.address, wish.deadline);
        let connected = self.connect(&member.id, address, permit, wish.holder, deadline).await;
        let is_answered = connected.is_ok();
        let outcome = match connected {
            Ok(lease) => self.secure(lease, (member, offers), wish.introduction, deadline).await,
            failed => failed,
        };
        (is_answered, outcome)
    }

    /// A connection of HTTP/2 to the origin `number` that can carry one more exchange.
    fn with_room(&self, number: usize) -> Option<Rc<Multiplex>> {
        let shared = &mut *self.shared_connections.borrow_mut();
        let connections = shared.connections.get_mut(&number)?;
        connections.retain(|connection| connection.takes_more());
        let lanes_max = |it: &Multiplex| match it.lanes_max() {
            // It takes nothing just now: another connection would be told the same.
            0 => LANES_MAX,
            most => most.min(LANES_MAX),
        };
        let found = connections.iter().find(|it| it.lanes() < lanes_max(it));
        let found = found.cloned();
        if connections.is_empty() {
            shared.connections.remove(&number);
        }
        found
    }

    /// Opens a lane of `connection`.
    fn lease_lane(
        self: &Rc<Self>,
        connection: &Rc<Multiplex>,
        member: &Member,
        permit: Permit,
        holder: Holder,
    ) -> Lease {
        let (lane, socket) = Lane::open(connection);
        lane.rest();
        let place = (socket, member.target.address);
        let mut lease = self.adopt(member.id.clone(), place, Instant::now(), permit, holder);
        // Its connection has served before, and may be ending just now.
        lease.is_reused = true;
        lease
    }

    /// Puts a lane of `connection` in the place of the socket that `lease` was opened with.
    fn carry_on(&self, mut lease: Lease, connection: &Rc<Multiplex>) -> Lease {
        let (lane, socket) = Lane::open(connection);
        lane.rest();
        self.put_in_place(&mut lease, socket);
        lease
    }

    fn put_in_place(&self, lease: &mut Lease, socket: Socket) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(lease.key) {
            slot.socket = socket.clone();
        }
        lease.replace_socket(socket);
    }

    /// Has HTTP/2 spoken on `wire`, until nobody has a lane on it any more.
    fn share(
        self: &Rc<Self>,
        wire: Socket,
        target: Option<Arc<Target>>,
        stall: Duration,
    ) -> Rc<Multiplex> {
        let terms = Rc::new(Terms::default());
        let connection = Multiplex::new(wire, Role::Client, terms, self.ledger.clone());
        connection.set_budget(self.heads.budget.clone());
        let (pool, driven) = (self.clone(), connection.clone());
        tokio::task::spawn_local(async move {
            let client = Client { connection: &driven, target: target.as_deref(), stall };
            pool.metrics.http2_origins.add(1);
            let end = drive::run(&driven, &client, &pool.deadlines, b"").await;
            pool.metrics.http2_origins.sub(1);
            if let End::Fault(error) = end {
                let (code, cause) = (error.code.as_str(), error.cause.as_str());
                tracing::debug!(code, cause, "a connection of HTTP/2 to an origin was ended");
            }
            driven.wire().cut();
        });
        connection
    }

    /// A socket on which `wire`, which has just been connected to `origin`, carries one exchange:
    /// itself where HTTP/1.1 is spoken.
    pub(super) fn speak(self: &Rc<Self>, wire: Socket, origin: &Origin) -> Result<Socket, Fault> {
        match has_chosen(&wire, origin.http) {
            Choice::Http1 => Ok(wire),
            Choice::Neither => Err(Fault::OriginTls(TlsFault::Protocol)),
            Choice::Http2 => {
                let connection = self.share(wire, None, FRAME_WITHIN);
                let (lane, socket) = Lane::open(&connection);
                lane.rest();
                Ok(socket)
            }
        }
    }
}

/// Whether HTTP/2 is to be tried with `member`.
fn speaks_http2(member: &Member) -> bool {
    match member.origin.http {
        OriginHttp::One => false,
        OriginHttp::Two => true,
        OriginHttp::Auto => {
            member.origin.tls.is_some() && !member.target.is_http1(clock::coarse_ms())
        }
    }
}

enum Choice {
    Http1,
    Http2,
    Neither,
}

/// What is to be spoken on a connection that has come to be.
fn has_chosen(socket: &Socket, http: OriginHttp) -> Choice {
    match (http, socket.session(Session::speaks_http2)) {
        (OriginHttp::Two, None) | (OriginHttp::Two | OriginHttp::Auto, Some(true)) => Choice::Http2,
        (OriginHttp::Two, Some(false)) => Choice::Neither,
        _ => Choice::Http1,
    }
}

/// A connection to an origin, for whoever drives it.
struct Client<'a> {
    connection: &'a Rc<Multiplex>,
    target: Option<&'a Target>,
    stall: Duration,
}

impl Host for Client<'_> {
    fn open_lane(&self) -> Option<Rc<Lane>> {
        // Origins ask for nothing.
        None
    }

    fn stream_ended(&self, code: ErrorCode, _cause: Cause) {
        if code == ErrorCode::Http11Required
            && let Some(target) = self.target
        {
            target.speaks_http1(clock::coarse_ms());
            self.connection.dismiss_resting();
        }
    }

    fn rejected(&self, _id: u32, _code: ErrorCode, _cause: Cause) {}

    fn refused(&self) {}
}

impl Keeper for Client<'_> {
    fn patience(&self) -> Patience {
        // How long lanes rest is the pool's affair.
        Patience { head: FRAME_WITHIN, idle: Duration::MAX, stall: self.stall }
    }

    fn is_closing(&self) -> bool {
        false
    }

    fn is_unused(&self) -> bool {
        self.connection.lanes() == 0
    }

    fn set_idle(&self, _is_idle: bool) {}

    fn interrupted(&self) -> Option<End> {
        None
    }

    fn moved(&self, _received: usize, _sent: usize) {}
}
