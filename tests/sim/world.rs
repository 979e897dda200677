//! A world around one worker: its clients, its origins, and what happens to all of them.
//!
//! In goes a seed; out comes what was seen, and each thing that must not be. All that happens is in
//! one queue by time, and what happens at one time, happens in the order in which it was planned.
//! Nothing is left to the machine that it runs on.

use crate::calls::plan;
use crate::chance::Chance;
use crate::client::{Client, ECHO};
use crate::facts::{Fact, Facts, Method};
use crate::kernel::{Kernel, Kind, Stage};
use crate::origin::{Next, Origin};
use crate::streams::Streams;
use crate::wire::Framing;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;

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
/// How long a client may see nothing where peers fall silent: for as long as several deadlines of
/// the configuration, one after another.
const PATIENCE: u64 = 60 * SECOND;
/// The same where everybody gets on: then only others who were before it are waited for.
const CALM_PATIENCE: u64 = 20 * SECOND;
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
}

enum Peer {
    Client(Client),
    Streams(Streams),
    Origin(Origin),
}

struct Site {
    is_up: bool,
    /// It takes no connection and refuses none.
    is_mute: bool,
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
    began_us: u64,
    spins: u32,
    cut_us: Option<u64>,
    /// Things that have happened.
    pub happened: u64,
}

impl World {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        let chance = Chance::new(seed, 1);
        let kernel = Kernel::new(Chance::new(seed, 2));
        let began_us = kernel.now_us;
        let site = |_| Site { is_up: true, is_mute: false };
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
            sites: ORIGINS.iter().map(site).collect(),
            began_us,
            spins: 0,
            cut_us: None,
            happened: 0,
        };
        world.people();
        world
    }

    /// Who takes part.
    fn people(&mut self) {
        let is_calm = self.weather == Weather::Calm;
        for _ in 0..=self.chance.below(12) {
            let count = 1 + self.chance.below(12);
            let plan: VecDeque<usize> = (0..count).map(|_| self.make_up()).collect();
            let client = if self.chance.once_in(3) {
                let is_tunnel = |id: &usize| self.facts.requests[*id].method.is_tunnel();
                let plan = plan.into_iter().filter(|id| !is_tunnel(id)).collect();
                Peer::Streams(Streams::new(plan, is_calm, &mut self.chance))
            } else {
                Peer::Client(Client::new(plan, is_calm, &mut self.chance))
            };
            let after = self.chance.next() % SECOND;
            let peer = self.add(client);
            self.plan_peer(peer, after);
        }
        self.plan(SECOND, Happening::Look);
        for _ in 0..self.chance.below(4) {
            let after = self.chance.next() % (5 * SECOND);
            self.plan(after, Happening::Reload);
        }
        if !is_calm {
            for site in 0..ORIGINS.len() {
                if self.chance.once_in(2) {
                    let after = self.chance.next() % (3 * SECOND);
                    self.plan(after, Happening::Turn(site));
                }
            }
            if self.chance.once_in(4) {
                let after = self.chance.next() % (6 * SECOND);
                self.plan(after, Happening::Drain);
            }
            if self.chance.once_in(4) {
                self.plan(SECOND / 2, Happening::Shortage);
            }
        }
    }

    /// A request that is to be asked; its number.
    fn make_up(&mut self) -> usize {
        let chance = &mut self.chance;
        let method = match chance.below(16) {
            0 | 1 => Method::Head,
            2..=4 => Method::Put,
            5..=7 => Method::Post,
            8 => Method::Upgrade,
            9 => Method::Connect,
            _ => Method::Get,
        };
        let framings = [Framing::Length, Framing::Chunked, Framing::Trailers];
        let has_body = matches!(method, Method::Put | Method::Post) || method.is_tunnel();
        let framing = if has_body { framings[chance.below(3)] } else { Framing::None };
        let magnitudes = if chance.once_in(8) { 20 } else { 17 };
        let length = if has_body { chance.size(magnitudes) } else { 0 };
        let length = if method.is_tunnel() { 1 + length } else { length };
        self.facts.requests.push(Fact {
            method,
            framing,
            length,
            is_sent: false,
            answers: Vec::new(),
        });
        self.facts.requests.len() - 1
    }

    pub(crate) fn set_alone(&mut self, alone: Rc<Alone>) {
        self.alone = Some(alone);
    }

    pub(crate) fn forget_alone(&mut self) {
        self.alone = None;
    }

    /// A configuration that fits the weather.
    pub(crate) fn config(&mut self) -> String {
        let (chance, is_calm) = (&mut self.chance, self.weather == Weather::Calm);
        let policies =
            ["round_robin", "least_connections", "p2c_ewma", "consistent_hash", "random", "first"];
        let policy = policies[chance.below(policies.len())];
        let count = 1 + chance.below(ORIGINS.len());
        let origins: Vec<_> =
            ORIGINS[..count].iter().map(|port| format!("\"http://127.0.0.1:{port}\"")).collect();
        let connections = [2, 4, 100][chance.below(3)];
        let idle = [0, 1, 20][chance.below(3)].min(connections);
        let t = |wild: u32| if is_calm { 60 } else { wild };
        let health = if chance.once_in(2) {
            "health = { path = \"/health\", interval = \"500ms\", timeout = \"300ms\", fall = 2 }\n"
        } else {
            ""
        };
        let eject = if chance.once_in(3) && !is_calm { "eject = { errors = 3 }\n" } else { "" };
        let keep = if chance.once_in(2) { "keep" } else { "close" };
        let chunk = ["4KiB", "64KiB"][chance.below(2)];
        let chunks = [2, 8][chance.below(2)];
        format!(
            "[server]\nhost = \"127.0.0.1\"\nport = 8000\nworkers = 1\ndriver = \"epoll\"\n\
             half_close = \"{keep}\"\n\
             [admin]\nenabled = false\n\
             [limits]\nclients = 1000\ntunnels = 1000\n\
             [forward]\nenabled = true\nallow_loopback = true\nconnect_ports = [\"*\"]\n\
             [timeouts]\nconnect = \"{}s\"\nread = \"{}s\"\nwrite = \"{}s\"\n\
             client_write = \"{}s\"\npool = \"{}s\"\nclient_head = \"{}s\"\n\
             client_idle = \"{}s\"\ntunnel_idle = \"{}s\"\ntunnel_half_closed = \"{}s\"\n\
             [pool]\nmax_connections = {connections}\nmax_idle = {idle}\nprewarm = {}\n\
             [buffers]\nchunk_bytes = \"{chunk}\"\nchunks_per_worker = {chunks}\n\
             operation_chunks = 1\n\
             [[upstream]]\nname = \"sim\"\nbalance = \"{policy}\"\norigins = [{}]\n\
             {health}{eject}fail_timeout = \"1s\"\n",
            t(2),
            t(4),
            t(3),
            t(4),
            t(2),
            t(3),
            t(5),
            t(6),
            t(4),
            chance.below(2).min(idle),
            origins.join(", "),
        )
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
            Some(Kind::Connection(connection)) => self.kernel.connections[*connection].ports.0,
            _ => 0,
        }
    }

    /// The worker connects.
    pub(crate) fn connect(&mut self, fd: i32, port: u16) -> Result<usize, i32> {
        let outcome = self.kernel.connect(fd, port);
        while let Some(connection) = self.kernel.dialled.pop() {
            let site = ORIGINS.iter().position(|own| *own == port).map(|it| &self.sites[it]);
            let (is_up, is_mute) = site.map_or((true, false), |it| (it.is_up, it.is_mute));
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
        let port = it.ports.1;
        if !is_up {
            return self.kernel.settle(connection, Some(libc::ECONNREFUSED));
        }
        self.kernel.settle(connection, None);
        let is_calm = self.weather == Weather::Calm;
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
                Happening::Shortage => self.kernel.shortage = 30,
                Happening::Look => {
                    self.look();
                    self.plan(SECOND, Happening::Look);
                }
                Happening::Reload => {
                    if let Some(call) = self.reload() {
                        return Some(call);
                    }
                }
                Happening::Drain => {
                    if let Some(call) = self.drain() {
                        return Some(call);
                    }
                }
                Happening::Cut => {
                    self.cut_us = Some(self.kernel.now_us);
                    let alone = self.alone.clone()?;
                    return Some(Box::new(move || alone.cut()));
                }
            }
            self.hear_stirred();
        }
        None
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
                let next = origin.step(kernel, facts, chance);
                (before, next, before.filter(|_| next != Next::Gone))
            }
        };
        if before != after {
            before.map(|connection| self.owners.remove(&connection));
            after.map(|connection| self.owners.insert(connection, index));
        }
        match next {
            Next::After(after) => self.plan_peer(index, after),
            Next::Stirred => {}
            Next::Gone if matches!(self.peers[index], Peer::Origin(_)) => {
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
                    self.plan(after, Happening::Drain);
                }
            }
        }
    }

    /// An origin goes down with all of its connections, falls silent, or comes back.
    fn turn(&mut self, site: usize) {
        let after = self.chance.next() % (4 * SECOND);
        self.plan(after, Happening::Turn(site));
        let is_mute = self.chance.once_in(3);
        let it = &mut self.sites[site];
        if !it.is_up || it.is_mute {
            (it.is_up, it.is_mute) = (true, false);
            return;
        }
        (it.is_up, it.is_mute) = (is_mute, is_mute);
        if is_mute {
            return;
        }
        let is_reset = self.chance.once_in(2);
        let port = ORIGINS[site];
        let of_it = |(index, peer): (usize, &Peer)| match peer {
            Peer::Origin(origin) if self.kernel.connections[origin.connection].ports.1 == port => {
                // Where an answer ends with its connection, nobody could tell an end in order from
                // its end.
                Some((index, origin.connection, is_reset || origin.is_answering()))
            }
            _ => None,
        };
        let gone: Vec<_> = self.peers.iter().filter_map(of_it).collect();
        for (index, connection, is_reset) in gone {
            self.kernel.peer_leave(connection, is_reset);
            self.owners.remove(&connection);
            self.peers.remove(index);
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

    /// Whether everybody gets on.
    fn look(&mut self) {
        let now = self.kernel.now_us;
        let patience = if self.weather == Weather::Calm { CALM_PATIENCE } else { PATIENCE };
        let mut lines = Vec::new();
        for (index, peer) in &mut self.peers {
            let (what, connection, progress_us) = match peer {
                Peer::Client(it) => (it.describe(), it.connection(), &mut it.progress_us),
                Peer::Streams(it) => (it.describe(), it.connection(), &mut it.progress_us),
                Peer::Origin(_) => continue,
            };
            let Some(connection) = connection else { continue };
            if now.saturating_sub(*progress_us) > patience {
                *progress_us = u64::MAX;
                let state = self.kernel.connections[connection].describe();
                lines.push(format!("client {index} waits for too long: {what}; {state}"));
            }
        }
        for line in lines {
            self.facts.offend(line);
        }
        if self.cut_us.is_some_and(|cut| now > cut + DRAIN) {
            self.give_up("the drain does not end");
        }
        if now > self.began_us + RUN_MAX {
            self.give_up("the run does not end");
        }
    }

    /// Lets peers whose connections are over find that out.
    pub(crate) fn settle_down(&mut self) {
        for (index, connection) in &self.kernel.connections {
            if connection.file.is_some() {
                self.facts.offend(format!("connection {index} was left open"));
            }
        }
    }
}
