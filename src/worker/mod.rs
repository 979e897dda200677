//! What the tasks of one worker share: its pools, tables and limits.
//!
//! In goes the configuration; the tasks of a thread (listeners, connections, the pool's janitor)
//! reach everything else through one `Rc<Worker>`. Nothing hot is shared with other workers: what
//! they have in common is in [`Shared`], touched once per connection.
//!
//! The tasks themselves are started elsewhere.

pub(crate) mod accept;
pub(crate) mod arbiter;
pub(crate) mod census;
pub(crate) mod cleanup;
pub(crate) mod connections;
pub(crate) mod discovery;
mod extremes;
pub(crate) mod generation;
pub(crate) mod handshakes;
pub(crate) mod history;
pub(crate) mod mailbox;
pub(crate) mod room;
pub(crate) mod shared;
pub(crate) mod slot;
pub(crate) mod thread;
pub(crate) mod times;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;

use self::census::Room;
use self::connections::ConnectionEntry;
use self::generation::{Generation, Snapshot};
use self::handshakes::Handshakes;
use self::shared::Shared;
use crate::address::Address;
use crate::http::head::HeadLimits;
use crate::ledger::{Budget, Ledger};
use crate::limits::PIPES_PER_WORKER;
use crate::multiplex::Multiplex;
use crate::observe::access_log::AccessLog;
use crate::observe::date::DateLine;
use crate::observe::metrics::WorkerMetrics;
use crate::relay::Means;
use crate::relay::outbox::Outbox;
use crate::ring::{ChunkPool, Deadlines, HeadPool, PipePool, Stopper};
use crate::upstream::health;
use crate::upstream::origin_ids::OriginIds;
use crate::upstream::pool::Pool;
use crate::upstream::target::Wish;

/// What the tasks of one worker share.
pub(crate) struct Worker {
    pub index: usize,
    generation: RefCell<Rc<Generation>>,
    pub pool: Rc<Pool>,
    pub heads: Rc<HeadPool>,
    pub chunks: Rc<ChunkPool>,
    pub pipes: Rc<PipePool>,
    pub deadlines: Rc<Deadlines>,
    pub date: DateLine,
    pub access_log: Option<AccessLog>,
    pub shared: Arc<Shared>,
    /// The numbers of origins and of targets of forward requests.
    pub origin_ids: Rc<OriginIds>,
    pub metrics: Arc<WorkerMetrics>,
    pub ledger: Arc<Ledger>,
    /// How much memory connections and requests may come to.
    pub budget: Rc<Budget>,
    pub outbox: Outbox,
    pub(crate) connections: RefCell<Slab<Rc<ConnectionEntry>>>,
    /// By the number of a connection: for whom its peer, who is trusted, has sent the last request.
    pub(crate) spoken_for: RefCell<HashMap<usize, IpAddr>>,
    /// The same: whose connection its peer has said that it is, by the PROXY protocol.
    pub(crate) introduced: RefCell<HashMap<usize, SocketAddr>>,
    /// Those of them that carry many requests at once.
    pub(crate) multiplexed: RefCell<HashMap<usize, Rc<Multiplex>>>,
    pub(crate) room: Room,
    pub(crate) handshakes: Handshakes,
    /// Connections that this worker has ever served.
    pub(crate) serial: Cell<u64>,
    pub(crate) stoppers: RefCell<Vec<(u16, Stopper)>>,
    /// Accepts that are pending, or have brought a connection that is not placed yet.
    pub(crate) accepting: Cell<usize>,
    /// It takes no new connections and keeps none for another request.
    pub is_draining: Cell<bool>,
    /// Idle connections have to end.
    pub closes_idle: Cell<bool>,
    /// Times that a connection has given its memory up, since the last purge.
    pub released: Cell<usize>,
    /// Copies of requests under way.
    pub mirroring: Cell<usize>,
}

impl Worker {
    /// Must be called inside the worker's runtime, with which it registers the chunks.
    pub(crate) fn new(
        index: usize,
        access_log: Option<AccessLog>,
        shared: Arc<Shared>,
        budget: Budget,
    ) -> io::Result<Self> {
        let deadlines = Rc::new(Deadlines::default());
        let ledger = shared.ledgers.workers()[index].clone();
        let metrics = shared.metrics[index].clone();
        let budget = Rc::new(budget);
        let origin_ids = Rc::new(OriginIds::default());
        let generation = Generation::new(&shared.snapshot.load(), index, &origin_ids, &shared.pool);
        let buffers = &generation.config.buffers;
        let heads = HeadPool::new(buffers.head_buffer_bytes, ledger.clone(), budget.clone());
        let chunks =
            ChunkPool::new(buffers.chunks_per_worker, buffers.chunk_bytes, ledger.clone())?;
        let pool = Pool::new(
            index,
            generation.pool_limits(),
            shared.pool.clone(),
            deadlines.clone(),
            heads.clone(),
            (ledger.clone(), metrics.clone()),
        );
        let bytes = buffers.head_buffer_bytes * 2;
        let outbox = Outbox::new(bytes, ledger.clone(), budget.clone());
        Ok(Self {
            index,
            pool,
            heads,
            chunks,
            pipes: PipePool::new(PIPES_PER_WORKER),
            deadlines,
            date: DateLine::default(),
            access_log,
            origin_ids,
            metrics,
            ledger,
            budget,
            shared,
            outbox,
            connections: RefCell::default(),
            spoken_for: RefCell::default(),
            introduced: RefCell::default(),
            multiplexed: RefCell::default(),
            room: Room::default(),
            handshakes: Handshakes::default(),
            serial: Cell::new(0),
            stoppers: RefCell::default(),
            accepting: Cell::new(0),
            is_draining: Cell::new(false),
            closes_idle: Cell::new(false),
            released: Cell::new(0),
            mirroring: Cell::new(0),
            generation: RefCell::new(generation),
        })
    }

    /// What it has to move bodies through.
    pub(crate) fn means(&self) -> Means<'_> {
        let memory = (&self.ledger, &self.budget);
        Means { chunks: &self.chunks, pipes: &self.pipes, memory }
    }

    /// The newest configuration in use.
    pub(crate) fn generation(&self) -> Rc<Generation> {
        self.generation.borrow().clone()
    }

    /// Lets the newest configuration take `generation`'s place; whether that is another one.
    #[inline]
    pub(crate) fn refresh(&self, generation: &mut Rc<Generation>) -> bool {
        let newest = self.generation.borrow();
        let is_stale = !Rc::ptr_eq(&newest, generation);
        if is_stale {
            *generation = newest.clone();
        }
        is_stale
    }

    /// Puts `snapshot` in use for what begins from now on.
    pub(crate) fn adopt(&self, snapshot: &Snapshot, budget: &Budget) {
        let generation = Generation::new(snapshot, self.index, &self.origin_ids, &self.shared.pool);
        self.pool.set_limits(generation.pool_limits());
        self.budget.set(budget);
        let before = self.generation.replace(generation);
        let now = self.generation();
        for member in before.members() {
            if !now.members().any(|kept| kept.number() == member.number()) {
                self.pool.close_idle_of(member.number());
            }
        }
    }

    /// Whether the upstreams in use have a target with this number, whose connections may rest.
    pub(crate) fn is_current(&self, number: usize, address: Address) -> bool {
        let generation = self.generation.borrow();
        let mut members = generation.members();
        members
            .find(|member| member.number() == number)
            .is_some_and(|it| it.target.address == address && it.target.wish() != Wish::Down)
    }

    /// Takes in what has become of the names of origins, where no request asks for any.
    pub(crate) fn follow_names(&self) {
        for upstream in &self.generation().upstreams {
            upstream.follow(&self.pool);
        }
    }

    /// Ends the accept tasks; what they have accepted is served.
    pub(crate) fn stop_listening(&self) {
        for (_, stopper) in self.stoppers.borrow_mut().drain(..) {
            stopper.stop();
        }
    }

    /// Ends the accepting from the listener with the number `listener`.
    pub(crate) fn stop_listening_to(&self, listener: u16) {
        let mut stoppers = self.stoppers.borrow_mut();
        for (_, stopper) in stoppers.extract_if(.., |(number, _)| *number == listener) {
            stopper.stop();
        }
    }

    /// Whether no connection is to be kept for another request.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_draining.get() || self.shared.is_closing.load(Ordering::Relaxed)
    }
}

impl health::Means for Worker {
    fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    fn limits(&self) -> HeadLimits {
        self.generation.borrow().response_limits
    }
}
