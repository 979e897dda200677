//! A world around one worker: its clients, its origins, and what happens to all of them.
//!
//! In goes a seed; out comes what was seen, and each thing that must not be. All that happens is in
//! one queue by time, and what happens at one time, happens in the order in which it was planned.
//! Nothing is left to the machine that it runs on.

mod configuration;
mod names;
mod people;
mod pressure;
mod recovery;
mod sites;
mod watching;

use crate::calls::plan;
use crate::chance::Chance;
use crate::client::{Client, ECHO};
use crate::facts::Facts;
use crate::kernel::{Kernel, Kind, Stage};
use crate::origin::{Next, Origin};
use crate::streams::Streams;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddrV4;
use std::rc::Rc;

use names::Names;
use pressure::Pressure;
use sites::Site;

use ringway::internals::server::Alone;

/// What a sleep ends with.
pub(crate) enum Step {
    Told(Vec<libc::epoll_event>),
    /// Something that asks the world itself: it is done outside.
    Call(Box<dyn FnOnce()>),
}

/// Whether anything goes wrong but sizes and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Calm,
    Wild,
}

const SECOND: u64 = 1_000_000;
/// A drain that has not come to its end by then is cut, and after that it has this long.
const DRAIN: u64 = 30 * SECOND;
/// No run lasts longer.
const RUN_MAX: u64 = 3600 * SECOND;
/// Sleeps that end at once, with nothing to say and nothing else happening, in a row.
const SPINS_MAX: u32 = 100_000;

const ORIGINS: [u16; 4] = [9001, 9002, 9003, 9004];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Peer(usize),
    Settle(usize, bool),
    /// An origin goes down, or comes up.
    Turn(usize),
    Reload,
    /// From now on calls fail for want of descriptors or memory.
    Shortage,
    Drain,
    Cut,
    /// Somebody looks whether all get on.
    Look,
    /// A name leads elsewhere.
    Rename(usize),
    /// A host goes down if no name leads to it.
    Vanish(usize),
    /// The name server does better, or worse.
    Resolve,
    /// A datagram comes.
    Deliver(usize),
    /// Memory becomes short, or is so no longer.
    Press,
    /// Memory is looked at.
    Watch,
    /// Everything gets better.
    Recover,
    /// Somebody comes and asks.
    Probe,
}

enum Peer {
    Client(Client),
    Streams(Streams),
    Origin(Origin),
}

impl Peer {
    /// Its connection, where it is an origin.
    fn at_origin(&self) -> Option<usize> {
        match self {
            Self::Origin(origin) => Some(origin.connection),
            Self::Client(_) | Self::Streams(_) => None,
        }
    }
}

pub(crate) struct World {
    pub kernel: Kernel,
    pub facts: Facts,
    pub weather: Weather,
    alone: Option<Rc<Alone>>,
    chance: Chance,
    peers: slab::Slab<Peer>,
    /// By connection, whose it is.
    owners: HashMap<usize, usize>,
    /// Peers that have an appointment.
    planned: Vec<bool>,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    serial: u64,
    sites: Vec<Site>,
    /// How many of the origins with an address of their own are in use, and how many names.
    configured: (usize, usize),
    names: Names,
    pressure: Pressure,
    /// Nothing goes wrong any more.
    is_settled: bool,
    has_recovered: bool,
    began_us: u64,
    spins: u32,
    cut_us: Option<u64>,
    /// Things that have happened.
    pub happened: u64,
}

impl World {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        let chance = Chance::new(seed, 1);
        // What came later has numbers of its own, so that it leaves the others as they were.
        let mut apart = Chance::new(seed, 3);
        let names = Names::new(apart.once_in(2), &mut apart);
        let pressure = Pressure::new(apart.once_in(2), weather, &mut apart);
        let kernel = Kernel::new(Chance::new(seed, 2));
        let began_us = kernel.now_us;
        let mut world = Self {
            kernel,
            facts: Facts::default(),
            weather,
            alone: None,
            chance,
            peers: slab::Slab::new(),
            owners: HashMap::new(),
            planned: Vec::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            sites: Site::all(),
            configured: (0, 0),
            names,
            pressure,
            is_settled: false,
            has_recovered: false,
            began_us,
            spins: 0,
            cut_us: None,
            happened: 0,
        };
        world.people();
        world
    }

    /// The names that are told of are others than those that are told.
    pub(crate) fn lie_about_names(&mut self) {
        self.names.lies = true;
    }

    /// Memory goes on to be short when it should not.
    pub(crate) fn press_for_ever(&mut self) {
        self.pressure.lasts = true;
    }

    /// The ledger may come to so much.
    pub(crate) fn bound_ledger(&mut self, bytes: u64) {
        self.pressure.bound = Some(bytes);
    }

    pub(crate) fn set_alone(&mut self, alone: Rc<Alone>) {
        self.begin_pressure(&alone);
        self.alone = Some(alone);
    }

    pub(crate) fn forget_alone(&mut self) {
        self.alone = None;
    }

    fn add(&mut self, peer: Peer) -> usize {
        let index = self.peers.insert(peer);
        if self.planned.len() <= index {
            self.planned.resize(index + 1, false);
        }
        self.planned[index] = false;
        index
    }

    fn plan(&mut self, after: u64, what: Happening) {
        self.serial += 1;
        self.queue.push(Reverse((self.kernel.now_us + after, self.serial, what)));
    }

    fn plan_peer(&mut self, peer: usize, after: u64) {
        if !std::mem::replace(&mut self.planned[peer], true) {
            self.plan(after, Happening::Peer(peer));
        }
    }

    /// Its own port, of a listener or of a connection.
    pub(crate) fn own_port(&self, fd: i32) -> u16 {
        let file = self.kernel.file(fd).and_then(|file| self.kernel.files.get(file));
        match file.map(|file| &file.kind) {
            Some(Kind::Listener(listener)) => listener.port,
            Some(Kind::Connection(connection)) => self.kernel.connections[*connection].own_port,
            _ => 0,
        }
    }

    /// The worker connects.
    pub(crate) fn connect(&mut self, fd: i32, peer: SocketAddrV4) -> Result<usize, i32> {
        let outcome = self.kernel.connect(fd, peer);
        while let Some(connection) = self.kernel.dialled.pop() {
            self.check_named(peer, "a connection");
            let site = self.site(peer).map(|site| &self.sites[site]);
            // A name server that is spoken to otherwise than by datagrams is not there.
            let is_echo = peer.port() == ECHO;
            let (is_up, is_mute) = site.map_or((is_echo, false), |it| (it.is_up, it.is_mute));
            if is_mute {
                continue;
            }
            if self.chance.once_in(2) {
                self.settle(connection, is_up);
            } else {
                let after = self.chance.next() % 20_000;
                self.plan(after, Happening::Settle(connection, is_up));
            }
        }
        outcome
    }

    fn settle(&mut self, connection: usize, is_up: bool) {
        let Some(it) = self.kernel.connections.get(connection) else { return };
        if it.file.is_none() || it.stage != Stage::Connecting {
            // Nobody wants it any more, and the number may be another one's.
            return;
        }
        let port = it.peer.port();
        if !is_up {
            return self.kernel.settle(connection, Some(libc::ECONNREFUSED));
        }
        self.kernel.settle(connection, None);
        let is_calm = self.weather == Weather::Calm || self.is_settled;
        let origin = Origin::new(connection, is_calm, port == ECHO, &mut self.chance);
        let peer = self.add(Peer::Origin(origin));
        self.owners.insert(connection, peer);
    }

    /// The worker sleeps in `set`, until `limit` at most.
    pub(crate) fn wait(
        &mut self,
        set: i32,
        room: usize,
        timeout: i32,
        limit: &mut Option<u64>,
    ) -> Step {
        if limit.is_none() {
            self.kernel.now_us += 1 + self.chance.next() % 20;
        }
        let span = u64::try_from(timeout).map_or(RUN_MAX, |ms| ms * 1000);
        let limit = *limit.get_or_insert(self.kernel.now_us + span);
        loop {
            let before = self.happened;
            if let Some(call) = self.go_on() {
                return Step::Call(call);
            }
            let told = self.kernel.collect(set, room);
            self.spins =
                if told.is_empty() && before == self.happened { self.spins + 1 } else { 0 };
            if self.spins > SPINS_MAX {
                self.give_up("the worker spins");
            }
            if !told.is_empty() || timeout == 0 || self.kernel.now_us >= limit {
                return Step::Told(told);
            }
            let next = self.queue.peek().map_or(limit, |Reverse((when, ..))| *when);
            let next = self.kernel.next_timer().map_or(next, |timer| timer.min(next));
            self.kernel.now_us = next.min(limit).max(self.kernel.now_us);
            self.spins = 0;
        }
    }

    /// It cannot come to an end by itself.
    fn give_up(&mut self, why: &str) {
        crate::report(&format!("{why}; offences: {:#?}", self.facts.offences));
        std::process::abort();
    }

    /// Lets everything happen that is due.
    fn go_on(&mut self) -> Option<Box<dyn FnOnce()>> {
        self.kernel.fire_timers();
        self.hear_stirred();
        while let Some(Reverse((when, _, what))) = self.queue.peek().copied()
            && when <= self.kernel.now_us
        {
            self.queue.pop();
            self.happened += 1;
            match what {
                Happening::Peer(peer) => self.step(peer),
                Happening::Settle(connection, is_up) => self.settle(connection, is_up),
                Happening::Turn(site) => self.turn(site),
                Happening::Shortage => {
                    self.kernel.shortage = if self.is_settled { 0 } else { 30 };
                }
                Happening::Look => {
                    self.look();
                    self.plan(SECOND, Happening::Look);
                }
                Happening::Rename(name) => self.rename(name),
                Happening::Vanish(host) => self.vanish(host),
                Happening::Resolve => self.resolve(),
                Happening::Deliver(letter) => self.deliver(letter),
                Happening::Probe => self.probe(),
                _ => {
                    if let Some(call) = self.call(what) {
                        return Some(call);
                    }
                }
            }
            self.check_ledger();
            self.hear_stirred();
        }
        None
    }

    /// What is done to the program itself.
    fn call(&mut self, what: Happening) -> Option<Box<dyn FnOnce()>> {
        match what {
            Happening::Reload => self.reload(),
            Happening::Drain => self.drain(),
            Happening::Press => self.press(),
            Happening::Watch => self.watch(),
            Happening::Recover => self.recover(),
            Happening::Cut => {
                self.cut_us = Some(self.kernel.now_us);
                let alone = self.alone.clone()?;
                Some(Box::new(move || alone.cut()))
            }
            _ => None,
        }
    }

    fn hear_stirred(&mut self) {
        while let Some(connection) = self.kernel.stirred.pop() {
            if let Some(peer) = self.owners.get(&connection).copied() {
                let after = self.chance.next() % 100;
                self.plan_peer(peer, after);
            }
        }
    }

    fn step(&mut self, index: usize) {
        if let Some(planned) = self.planned.get_mut(index) {
            *planned = false;
        }
        let (kernel, facts, chance) = (&mut self.kernel, &mut self.facts, &mut self.chance);
        let Some(peer) = self.peers.get_mut(index) else { return };
        let mut asked = None;
        let (before, next, after) = match peer {
            Peer::Client(client) => {
                let before = client.connection();
                let next = client.step(kernel, facts, chance);
                (before, next, client.connection())
            }
            Peer::Streams(client) => {
                let before = client.connection();
                let next = client.step(kernel, facts, chance);
                (before, next, client.connection())
            }
            Peer::Origin(origin) => {
                let before = Some(origin.connection);
                let peer = kernel.connections[origin.connection].peer;
                let next = origin.step(kernel, facts, chance);
                asked = origin.take_begun().then_some(peer);
                (before, next, before.filter(|_| next != Next::Gone))
            }
        };
        if let Some(asked) = asked {
            self.check_named(asked, "a request");
        }
        if before != after {
            before.map(|connection| self.owners.remove(&connection));
            after.map(|connection| self.owners.insert(connection, index));
        }
        match next {
            Next::After(after) => self.plan_peer(index, after),
            Next::Stirred => {}
            Next::Gone if self.peers[index].at_origin().is_some() => {
                drop(self.peers.remove(index));
            }
            Next::Gone => {
                let has_more = self.peers.iter().any(|(_, peer)| match peer {
                    Peer::Client(client) => !client.is_gone,
                    Peer::Streams(client) => !client.is_gone,
                    Peer::Origin(_) => false,
                });
                if !has_more {
                    let after = self.chance.next() % SECOND;
                    let has_recovered = std::mem::replace(&mut self.has_recovered, true);
                    let next = if has_recovered { Happening::Drain } else { Happening::Recover };
                    self.plan(after, next);
                }
            }
        }
    }

    fn reload(&mut self) -> Option<Box<dyn FnOnce()>> {
        if self.kernel.is_draining {
            return None;
        }
        let (text, alone) = (self.config(), self.alone.clone()?);
        Some(Box::new(move || plan(|| alone.reload(&text)).expect("a configuration")))
    }

    fn drain(&mut self) -> Option<Box<dyn FnOnce()>> {
        if std::mem::replace(&mut self.kernel.is_draining, true) {
            return None;
        }
        self.plan(DRAIN, Happening::Cut);
        let alone = self.alone.clone()?;
        Some(Box::new(move || alone.drain()))
    }
}
