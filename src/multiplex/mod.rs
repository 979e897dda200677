//! Many streams on one HTTP/2 connection, each as a socket on which HTTP/1.1 is spoken.
//!
//! In go the bytes of a connection and what is sent on the sockets of its [`Lane`]s; out come the
//! same messages in the other form. A lane is a connection that nobody has wired: one exchange
//! follows another on it, each a stream of its own. What works on such a socket need not know:
//! heads are canonical text, bodies of no known length come in chunks, trailers behind the last of
//! them, and the end of a stream before its time is a broken connection. One task reads and writes
//! the connection ([`drive`]); what the lanes have said by then leaves by one call.
//!
//! Nothing is held for a lane beyond what its window allows, and windows open for what has been
//! taken from the socket.

pub(crate) mod drive;
mod hear;
pub(crate) mod host;
mod inward;
pub(crate) mod lane;
mod outbox;
mod outward;
#[cfg(test)]
mod tests;
mod text;
mod turns;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use self::lane::Lane;
use self::text::Written;
use crate::http2::error::ErrorCode;
use crate::http2::session::Session;
use crate::http2::session::sending::NotOpened;
use crate::http2::session::terms::Terms;
use crate::http2::{Key, Role};
use crate::ledger::{Budget, Kind, Ledger};
use crate::limits::{HTTP2_WINDOW_BYTES, HTTP2_WINDOW_BYTES_MAX};
use crate::ring::{Socket, clock};

/// What a connection costs beside its session's heap and what its lanes hold: the session, the
/// tables of lanes, the future that drives it.
pub(crate) const CONNECTION_BYTES: usize = 2048;

/// One HTTP/2 connection.
pub(crate) struct Multiplex {
    wire: Socket,
    role: Role,
    session: RefCell<Session>,
    /// Those with a stream, by its small number.
    lanes: RefCell<Vec<Option<Rc<Lane>>>>,
    /// Those that wait for one.
    resting: RefCell<Vec<Rc<Lane>>>,
    /// Lanes whose sockets are in use or at rest.
    lane_count: Cell<usize>,
    waker: RefCell<Option<Waker>>,
    /// The driving task has something to look at.
    has_news: Cell<bool>,
    /// A lane has found no room in the outbox.
    is_short: Cell<bool>,
    /// A lane has been refused a stream, because as many are open as the peer allows.
    is_full: Cell<bool>,
    /// Counts the times at which those that wait for room were told of it.
    turn: Cell<u32>,
    /// What it may take beyond what every connection has, and what of that it has taken.
    budget: OnceCell<Rc<Budget>>,
    grown: Cell<u32>,
    /// Bytes that lanes have sent past the outbox, since the driving task has last looked.
    sent: Cell<usize>,
    /// What the windows of streams have beyond what each has at first.
    spread: Cell<u32>,
    /// Nothing will be sent or received any more.
    is_over: Cell<bool>,
    written: RefCell<Written>,
    /// Told of the peer's settings.
    settled: Notify,
    /// Bytes that lanes hold for whoever reads their sockets.
    held: Cell<usize>,
    ledger: Arc<Ledger>,
    counted: Cell<usize>,
}

impl Multiplex {
    pub(crate) fn new(wire: Socket, role: Role, terms: Rc<Terms>, ledger: Arc<Ledger>) -> Rc<Self> {
        let session = Session::new(role, terms, clock::coarse_ms());
        ledger.add(Kind::Streams, CONNECTION_BYTES as u64);
        Rc::new(Self {
            wire,
            role,
            session: RefCell::new(session),
            lanes: RefCell::default(),
            resting: RefCell::default(),
            lane_count: Cell::new(0),
            waker: RefCell::default(),
            has_news: Cell::new(true),
            is_short: Cell::new(false),
            is_full: Cell::new(false),
            turn: Cell::new(0),
            budget: OnceCell::new(),
            grown: Cell::new(0),
            sent: Cell::new(0),
            spread: Cell::new(0),
            is_over: Cell::new(false),
            written: RefCell::default(),
            settled: Notify::new(),
            held: Cell::new(0),
            ledger,
            counted: Cell::new(CONNECTION_BYTES),
        })
    }

    pub(crate) fn wire(&self) -> &Socket {
        &self.wire
    }

    /// Lanes with a stream.
    pub(crate) fn streams(&self) -> usize {
        self.session.borrow().streams() as usize
    }

    /// Lanes, those at rest included.
    pub(crate) fn lanes(&self) -> usize {
        self.lane_count.get()
    }

    /// Whether more streams may ever be opened on it.
    pub(crate) fn takes_more(&self) -> bool {
        let can_open = self.session.borrow().can_open();
        !self.is_over.get() && matches!(can_open, Ok(()) | Err(NotOpened::Full))
    }

    /// How many the peer allows at once.
    pub(crate) fn lanes_max(&self) -> usize {
        self.session.borrow().peer().streams_max as usize
    }

    /// Whether the peer takes requests for other protocols, which its first settings say; `None`
    /// where the connection ends before they come.
    pub(crate) async fn allows_protocol(&self) -> Option<bool> {
        loop {
            let settled = self.settled.notified();
            if self.is_over() {
                return None;
            }
            if self.session.borrow().is_settled() {
                return Some(self.session.borrow().peer().allows_protocol);
            }
            settled.await;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Has the driving task look.
    pub(crate) fn wake(&self) {
        if !self.has_news.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Whether there has been news since the last time; if not, the task is woken by the next.
    fn poll_news(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_news.replace(false) {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn lane(&self, key: Key) -> Option<Rc<Lane>> {
        let lanes = self.lanes.borrow();
        let lane = lanes.get(key.index())?.as_ref()?;
        (lane.key() == Some(key)).then(|| lane.clone())
    }

    /// Has windows grow as far as `budget` allows.
    pub(crate) fn set_budget(&self, budget: Rc<Budget>) {
        // It is said once, when the connection begins.
        let _ = self.budget.set(budget);
    }

    /// Lets a stream's sender have twice as much on its way: what comes is taken as it comes. All
    /// streams share what there is to grow by, so that those whose bodies stop hold no more than
    /// [`Multiplex::make_way`] can make up for.
    fn widen(&self, key: Key) {
        let window = self.session.borrow().stream_window(key);
        let wanted = window.saturating_mul(2).min(HTTP2_WINDOW_BYTES_MAX);
        let spread = self.spread.get().saturating_add(wanted.saturating_sub(window));
        if wanted > window && spread <= HTTP2_WINDOW_BYTES_MAX && self.widen_to(wanted) {
            self.spread.set(spread);
            self.session.borrow_mut().widen_stream(key, wanted);
        }
    }

    /// Lets the peer have another stream's worth on its way, where what nobody takes fills most of
    /// the connection's window: those that are taken from would have to wait for it.
    fn make_way(&self) {
        let session = self.session.borrow();
        let (window, left, unused) = session.connection_window();
        // One more than there are: the next one finds room.
        let own = (session.streams() + 1).saturating_mul(HTTP2_WINDOW_BYTES);
        drop(session);
        let wanted = window.saturating_add(HTTP2_WINDOW_BYTES);
        // What is owed to the peer is given back as soon as it is half of the window.
        let is_crowded = left < window / 4 && unused >= window / 2;
        // More than the windows of all streams together is of no use to anybody.
        if is_crowded && wanted <= HTTP2_WINDOW_BYTES_MAX.saturating_add(own) {
            self.widen_to(wanted);
        }
    }

    /// Widens the connection's window. What streams hold together is never more: no other growth
    /// has to be asked for.
    fn widen_to(&self, wanted: u32) -> bool {
        let (window, ..) = self.session.borrow().connection_window();
        if wanted <= window {
            return true;
        }
        let more = wanted - window;
        let budget = self.budget.get();
        let is_granted = budget.is_some_and(|budget| budget.grow(&self.ledger, more.into()));
        if is_granted {
            self.grown.set(self.grown.get() + more);
            self.session.borrow_mut().widen_connection(wanted);
        }
        is_granted
    }

    /// Gives growth back that the peer has used up and was not told of again.
    fn narrow(&self) {
        let grown = self.grown.get();
        let Some(budget) = self.budget.get().filter(|_| grown > 0) else { return };
        let mut session = self.session.borrow_mut();
        let (window, ..) = session.connection_window();
        let less = session.narrow_connection(window.saturating_sub(grown));
        self.grown.set(grown - less);
        budget.shrink(less.into());
    }

    fn attach(&self, key: Key, lane: Rc<Lane>) {
        let mut lanes = self.lanes.borrow_mut();
        let index = key.index();
        if index >= lanes.len() {
            lanes.resize(index + 1, None);
        }
        lanes[index] = Some(lane);
    }

    fn detach(&self, key: Key) -> Option<Rc<Lane>> {
        self.lanes.borrow_mut().get_mut(key.index())?.take()
    }

    fn each_lane(&self, act: impl Fn(&Lane)) {
        for index in 0.. {
            let lane = {
                let lanes = self.lanes.borrow();
                let Some(lane) = lanes.get(index) else { return };
                lane.clone()
            };
            if let Some(lane) = lane {
                act(&lane);
            }
        }
    }

    /// A stream that no lane has: it is answered, or given up, and forgotten.
    fn drop_stream(&self, key: Key, code: Option<ErrorCode>) {
        let mut session = self.session.borrow_mut();
        let widened = session.stream_window(key).saturating_sub(HTTP2_WINDOW_BYTES);
        self.spread.set(self.spread.get().saturating_sub(widened));
        if let Some(code) = code {
            session.reset(key, code);
        }
        session.release(key);
        let has_room = session.can_open() != Err(NotOpened::Full);
        drop(session);
        // All of them ask, and those that are not the first are refused again.
        if has_room && self.is_full.replace(false) {
            self.tell_unopened();
        }
    }

    /// Brings the ledger up to date.
    fn count(&self) {
        let heap = self.session.borrow().held_bytes() + self.written.borrow().held_bytes();
        let bytes = CONNECTION_BYTES + heap + self.held.get();
        let counted = self.counted.replace(bytes);
        if bytes > counted {
            self.ledger.add(Kind::Streams, (bytes - counted) as u64);
        } else if bytes < counted {
            self.ledger.sub(Kind::Streams, (counted - bytes) as u64);
        }
    }

    /// Gives back what a connection at rest does not need.
    fn rest(&self) {
        self.session.borrow_mut().rest();
        self.narrow();
        *self.written.borrow_mut() = Written::default();
        *self.lanes.borrow_mut() = Vec::new();
        self.resting.borrow_mut().shrink_to_fit();
        self.count();
    }

    /// Nothing will come or go any more: whoever works on a lane hears of it.
    fn end(&self) {
        self.is_over.set(true);
        self.settled.notify_waiters();
        self.each_lane(Lane::break_off);
        self.dismiss_resting();
    }

    /// Lanes at rest get no stream any more.
    pub(crate) fn dismiss_resting(&self) {
        let resting = std::mem::take(&mut *self.resting.borrow_mut());
        for lane in resting {
            lane.break_off();
        }
    }
}

impl Drop for Multiplex {
    fn drop(&mut self) {
        if let Some(budget) = self.budget.get() {
            budget.shrink(self.grown.get().into());
        }
        self.ledger.sub(Kind::Streams, self.counted.get() as u64);
    }
}
