//! Names of origins, their name server, and what must hold while names change.
//!
//! In go questions of the program's own resolver, by UDP; out come answers: right, late, twice,
//! failed, empty or never. A name has other addresses now and then, or none. What the worker has
//! been told is kept, and whoever is asked that a name does not lead to any more is an offence.

use super::{Happening, SECOND, Weather, World};
use crate::chance::Chance;
use crate::kernel::Letter;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Names that origins may be given by, and the port that all of them have there.
pub(super) const NAMES: [&str; 2] = ["one.sim", "two.sim"];
pub(super) const NAMED_PORT: u16 = 9000;
/// Hosts in all; each name leads to some of its own ones.
pub(super) const HOSTS: usize = NAMES.len() * HOSTS_EACH;
const HOSTS_EACH: usize = 4;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 53), 53);

/// A request that was on its way when an address went may still go there: it may have waited for
/// the right to connect, and then for the connection. Both are bounded by the configuration.
const GRACE: u64 = 5 * SECOND;
const CALM_GRACE: u64 = 121 * SECOND;

/// How the name server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Fine,
    Slow,
    /// SERVFAIL to everything.
    Failing,
    Mute,
}

/// A host, as the worker has been told of it.
#[derive(Clone, Copy, Default)]
struct Told {
    is_known: bool,
    /// Answers in a row that have not named it, and when the second one came.
    missing: u32,
    gone_us: u64,
}

pub(super) struct Names {
    pub(super) is_on: bool,
    health: Health,
    /// Whether the name of a host leads there now.
    leads: [bool; HOSTS],
    told: [Told; HOSTS],
    /// What answers have said, by their marks: of which name, and of which hosts.
    said: Vec<Option<(usize, [bool; HOSTS])>>,
    mail: slab::Slab<Letter>,
    /// The server goes on to name hosts that it should not.
    pub(super) lies: bool,
}

impl Names {
    pub(super) fn new(is_on: bool, chance: &mut Chance) -> Self {
        let mut names = Self {
            is_on,
            health: Health::Fine,
            leads: [false; HOSTS],
            told: [Told::default(); HOSTS],
            said: Vec::new(),
            mail: slab::Slab::new(),
            lies: false,
        };
        for name in 0..NAMES.len() {
            names.turn(name, 1, chance);
        }
        names
    }

    pub(super) fn config(&self) -> String {
        if self.is_on { format!("[dns]\nservers = [\"{SERVER}\"]\n") } else { String::new() }
    }

    /// Gives it other hosts, `least` at least; those that have left.
    fn turn(&mut self, name: usize, least: usize, chance: &mut Chance) -> Vec<usize> {
        let before = self.leads;
        let hosts = name * HOSTS_EACH..(name + 1) * HOSTS_EACH;
        let count = if chance.once_in(8) { least } else { 1 + chance.below(HOSTS_EACH) };
        self.leads[hosts.clone()].fill(false);
        for _ in 0..count {
            self.leads[hosts.start + chance.below(HOSTS_EACH)] = true;
        }
        hosts.filter(|host| before[*host] && !self.leads[*host]).collect()
    }

    pub(super) fn leads_to(&self, host: usize) -> bool {
        self.leads[host]
    }

    /// Whether the name of `host` is one of the first `names`.
    pub(super) fn is_configured(host: usize, names: usize) -> bool {
        host / HOSTS_EACH < names
    }

    /// For how long the worker has known that no name leads to `host`.
    fn gone_for(&self, host: usize, now_us: u64) -> Option<u64> {
        let told = &self.told[host];
        (told.missing >= 2).then(|| now_us - told.gone_us)
    }

    /// The worker has read the answer with this mark.
    fn hear(&mut self, mark: usize, now_us: u64) {
        let Some((name, named)) = self.said[mark] else { return };
        let hosts = name * HOSTS_EACH..(name + 1) * HOSTS_EACH;
        for (told, is_named) in self.told[hosts.clone()].iter_mut().zip(&named[hosts]) {
            if *is_named {
                *told = Told { is_known: true, ..Told::default() };
            } else if told.is_known {
                // What one answer says may be overtaken by another one.
                told.missing += 1;
                if told.missing == 2 {
                    told.gone_us = now_us;
                }
            }
        }
    }
}

pub(super) fn host_ip(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host as u8 + 1)
}

fn host_of(address: SocketAddrV4) -> Option<usize> {
    (0..HOSTS).find(|host| host_ip(*host) == *address.ip())
}

impl World {
    /// What becomes of names, where origins have some.
    pub(super) fn plan_names(&mut self) {
        for name in 0..NAMES.len() {
            let after = 2 * SECOND + self.chance.next() % (3 * SECOND);
            self.plan(after, Happening::Rename(name));
        }
        self.plan(2 * SECOND, Happening::Resolve);
    }

    /// A name leads elsewhere from now on.
    pub(super) fn rename(&mut self, name: usize) {
        if self.is_settled {
            return;
        }
        let left = self.names.turn(name, 0, &mut self.chance);
        self.facts.counts.renames += 1;
        let after = self.chance.next() % (6 * SECOND);
        self.plan(after, Happening::Rename(name));
        if self.weather == Weather::Calm {
            // Who has left stays for those who have not heard of it.
            return;
        }
        for host in left {
            if self.chance.once_in(2) {
                let after = self.chance.next() % (3 * SECOND);
                self.plan(after, Happening::Vanish(host));
            }
        }
    }

    /// A host that no name leads to any more goes down.
    pub(super) fn vanish(&mut self, host: usize) {
        let site = self.site(SocketAddrV4::new(host_ip(host), NAMED_PORT));
        if let Some(site) = site.filter(|_| !self.names.leads[host] && !self.is_settled) {
            self.take_down(site);
        }
    }

    /// The name server does better, or worse.
    pub(super) fn resolve(&mut self) {
        if self.is_settled {
            return;
        }
        let healths = [Health::Fine, Health::Fine, Health::Slow, Health::Failing, Health::Mute];
        let choices = if self.weather == Weather::Calm { 3 } else { healths.len() };
        self.names.health = healths[self.chance.below(choices)];
        let after = self.chance.next() % (6 * SECOND);
        self.plan(after, Happening::Resolve);
    }

    /// Names lead from now on to where they lead.
    pub(super) fn settle_names(&mut self) {
        self.names.health = Health::Fine;
        for name in 0..NAMES.len() {
            self.names.turn(name, 1, &mut self.chance);
        }
    }

    pub(crate) fn send_to(
        &mut self,
        fd: i32,
        bytes: &[u8],
        to: SocketAddrV4,
    ) -> Result<usize, i32> {
        let sent = self.kernel.send_to(fd, bytes, to);
        while let Some(letter) = self.kernel.posted.pop() {
            if letter.peer == SERVER {
                self.answer(&letter);
            }
        }
        sent
    }

    pub(crate) fn receive_from(
        &mut self,
        fd: i32,
        into: &mut [u8],
    ) -> Result<(usize, SocketAddrV4), i32> {
        let (count, letter) = self.kernel.receive_from(fd, into)?;
        self.names.hear(letter.mark, self.kernel.now_us);
        Ok((count, letter.peer))
    }

    pub(super) fn deliver(&mut self, letter: usize) {
        if let Some(letter) = self.names.mail.try_remove(letter) {
            self.kernel.deliver(letter);
        }
    }

    /// The name server takes a question.
    fn answer(&mut self, question: &Letter) {
        let (health, chance) = (self.names.health, &mut self.chance);
        let is_calm = self.weather == Weather::Calm || self.is_settled;
        if health == Health::Mute || !is_calm && chance.once_in(12) {
            return;
        }
        let patience = match (health, is_calm) {
            (Health::Slow, false) => 8 * SECOND,
            (Health::Slow, true) => SECOND / 2,
            _ => SECOND / 20,
        };
        let Some((name, is_of_v4, end)) = parse(&question.bytes) else { return };
        let mut named = [false; HOSTS];
        let mut reply = question.bytes[..end].to_vec();
        // A response to a standard query, with recursion; one question and nothing else.
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
        match name {
            _ if health == Health::Failing => {
                reply[3] |= 2;
                self.facts.counts.failures += 1;
            }
            None => reply[3] |= 3,
            Some(name) if is_of_v4 => {
                let hosts = name * HOSTS_EACH..(name + 1) * HOSTS_EACH;
                named[hosts.clone()].copy_from_slice(&self.names.leads[hosts.clone()]);
                let all = hosts.filter(|host| self.names.lies || named[*host]);
                let mut all: Vec<usize> = all.collect();
                if all.is_empty() {
                    self.facts.counts.empty_answers += 1;
                    // There is no such name, or it has no address.
                    reply[3] |= if chance.once_in(2) { 3 } else { 0 };
                } else {
                    self.facts.counts.answers += 1;
                    let first = chance.below(all.len());
                    all.rotate_left(first);
                    write_addresses(&all, chance.below(4) as u8, &mut reply);
                }
            }
            Some(_) => {}
        }
        // What names nobody leaves the worker with what it was told before.
        let mark = self.names.said.len();
        let tells = named.contains(&true);
        self.names.said.push(name.filter(|_| tells).map(|name| (name, named)));
        let letter = Letter { socket: question.socket, peer: SERVER, bytes: reply, mark };
        let copies = if !is_calm && chance.once_in(20) { 2 } else { 1 };
        for _ in 0..copies {
            let after = self.chance.next() % patience;
            let letter = self.names.mail.insert(letter.clone());
            self.plan(after, Happening::Deliver(letter));
        }
    }

    /// Somebody turns to `address`.
    pub(super) fn check_named(&mut self, address: SocketAddrV4, what: &str) {
        let Some(host) = host_of(address) else { return };
        let grace = if self.weather == Weather::Calm { CALM_GRACE } else { GRACE };
        let now = self.kernel.now_us;
        match self.names.gone_for(host, now) {
            Some(gone) if gone > grace => {
                let ms = gone / 1000;
                self.facts.offend(format!("{what} to {address}, which is gone for {ms} ms"));
            }
            Some(_) => self.facts.counts.to_gone += 1,
            None => {}
        }
    }
}

/// Which name is asked for, whether for addresses of IPv4, and where the question ends.
fn parse(packet: &[u8]) -> Option<(Option<usize>, bool, usize)> {
    let (mut at, mut text) = (12, String::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(packet.get(at..at + length)?));
        text.push('.');
        at += length;
    }
    let kind = packet.get(at..at + 4)?;
    let name = NAMES.iter().position(|name| text.trim_end_matches('.') == *name);
    Some((name, kind[..2] == [0, 1], at + 4))
}

fn write_addresses(hosts: &[usize], ttl: u8, reply: &mut Vec<u8>) {
    reply[7] = hosts.len() as u8;
    for host in hosts {
        // The name of the question, A, IN, how long, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4]);
        reply.extend(host_ip(*host).octets());
    }
}
