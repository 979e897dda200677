//! An origin's end of a connection: it reads requests, checks them, and answers as chance has it.
//!
//! In go what the kernel has for it; out go answers whose bytes say to which request they belong,
//! whole or broken off, at once, late or never. It knows nothing of other connections.

use crate::chance::Chance;
use crate::facts::{Answer, Facts, Method};
use crate::kernel::{Found, Kernel};
use crate::wire::{self, Event, Framing, Reader, Tag};

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// After so many microseconds.
    After(u64),
    /// When something has happened.
    Stirred,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
    Reset,
    /// Never another byte.
    Stall,
}

pub(crate) struct Origin {
    pub connection: usize,
    /// Nothing goes wrong.
    is_calm: bool,
    pace: u64,
    reader: Reader,
    /// The request that is being read, with the bytes of its body so far.
    request: Option<(usize, usize)>,
    is_answered: bool,
    out: Vec<u8>,
    sent: usize,
    then: Then,
    is_echo: bool,
    has_ended: bool,
    /// Before it says anything.
    pause: u64,
    /// A request has begun, and nobody has asked whether one has.
    has_begun: bool,
}

impl Origin {
    pub(crate) fn new(
        connection: usize,
        is_calm: bool,
        is_echo: bool,
        chance: &mut Chance,
    ) -> Self {
        let pace = [50, 300, 3000][chance.below(3)];
        Self {
            connection,
            is_calm,
            pace,
            reader: Reader::new(),
            request: None,
            is_answered: false,
            out: Vec::new(),
            sent: 0,
            then: Then::GoOn,
            is_echo,
            has_ended: false,
            pause: 0,
            has_begun: false,
        }
    }

    /// From now on it does all that it should.
    pub(crate) fn become_calm(&mut self) {
        self.is_calm = true;
    }

    /// Whether a request has begun since the last time.
    pub(crate) fn take_begun(&mut self) -> bool {
        std::mem::take(&mut self.has_begun)
    }

    pub(crate) fn step(
        &mut self,
        kernel: &mut Kernel,
        facts: &mut Facts,
        chance: &mut Chance,
    ) -> Next {
        if self.then == Then::Stall && self.sent == self.out.len() {
            return match kernel.peer_receive(self.connection, &mut Vec::new(), usize::MAX) {
                Found::End | Found::Reset => self.leave(kernel, false),
                _ => Next::Stirred,
            };
        }
        if self.then == Then::GoOn || self.is_echo {
            let most = 1 + chance.size(17);
            let found = if self.is_echo {
                kernel.peer_receive(self.connection, &mut self.out, most)
            } else {
                let rests = !self.reader.is_inside();
                let room = self.reader.room();
                let found = kernel.peer_receive(self.connection, room, most);
                self.has_begun |= rests && matches!(found, Found::Bytes(_));
                found
            };
            match found {
                Found::Bytes(_) => self.read(facts, chance),
                Found::Nothing => {}
                Found::Reset => return self.leave(kernel, false),
                // A half-closed connection still gets its answer; an idle one is over.
                Found::End if self.is_echo => self.has_ended = true,
                Found::End => {
                    let is_idle = self.sent == self.out.len();
                    if is_idle || chance.once_in(2) {
                        return self.leave(kernel, false);
                    }
                    self.then = Then::Close;
                }
            }
        }
        if self.pause > 0 {
            return Next::After(std::mem::take(&mut self.pause));
        }
        let left = self.out.len() - self.sent;
        if left > 0 && kernel.is_closed_for_peer(self.connection) {
            return self.leave(kernel, false);
        }
        if left > 0 {
            let count = (1 + chance.size(17)).min(left);
            let count = kernel.peer_send(self.connection, &self.out[self.sent..self.sent + count]);
            self.sent += count;
            if self.sent < self.out.len() {
                let is_full = kernel.peer_room(self.connection) == 0;
                return if is_full { Next::Stirred } else { self.again(chance) };
            }
            self.out.clear();
            self.sent = 0;
        }
        match self.then {
            Then::GoOn => {}
            Then::Close => return self.leave(kernel, false),
            Then::Reset => return self.leave(kernel, true),
            Then::Stall => return Next::Stirred,
        }
        if self.is_echo && self.has_ended && kernel.peer_pending(self.connection) == 0 {
            return self.leave(kernel, false);
        }
        // Sometimes it has had enough of a connection that rests.
        let rests = self.request.is_none() && !self.reader.is_inside() && !self.is_echo;
        if !self.is_calm && rests && chance.once_in(12) {
            if chance.once_in(3) {
                return self.leave(kernel, chance.once_in(4));
            }
            self.then = Then::Close;
            return Next::After(chance.next() % 3_000_000);
        }
        let is_over = kernel.is_over_for_peer(self.connection);
        if is_over || kernel.peer_pending(self.connection) > 0 {
            return self.again(chance);
        }
        Next::Stirred
    }

    fn again(&self, chance: &mut Chance) -> Next {
        Next::After(chance.next() % self.pace)
    }

    /// Whether an answer is on its way.
    pub(crate) fn is_answering(&self) -> bool {
        self.sent < self.out.len() || self.then != Then::GoOn
    }

    pub(crate) fn leave(&mut self, kernel: &mut Kernel, is_reset: bool) -> Next {
        kernel.peer_leave(self.connection, is_reset);
        Next::Gone
    }

    fn read(&mut self, facts: &mut Facts, chance: &mut Chance) {
        while let Some(event) = self.reader.next() {
            match event {
                Event::Head(head) => self.begin(&head, facts, chance),
                Event::Body(bytes) => {
                    let Some((id, position)) = &mut self.request else { continue };
                    if !Tag::request(*id).fits(*position, &bytes) {
                        facts.offend(format!("request {id}: other bytes from {position} on"));
                    }
                    *position += bytes.len();
                }
                Event::End => {
                    let Some((id, position)) = self.request.take() else { continue };
                    let fact = facts.requests[id].clone();
                    if position != fact.length {
                        let wanted = fact.length;
                        facts.offend(format!("request {id}: {position} of {wanted} as a whole"));
                    }
                    if !fact.is_sent {
                        facts.offend(format!("request {id} came as a whole before it was sent"));
                    }
                    if !std::mem::take(&mut self.is_answered) {
                        self.answer(id, facts, chance);
                    }
                }
                Event::Nonsense(what) => {
                    facts.offend(format!("an origin got nonsense: {what}"));
                    self.then = Then::Close;
                    return;
                }
            }
            if self.is_echo || self.then != Then::GoOn {
                return;
            }
        }
    }

    fn begin(&mut self, head: &str, facts: &mut Facts, chance: &mut Chance) {
        let line = head.lines().next().unwrap_or_default();
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if target == "/health" {
            self.reader.expect(Framing::None, 0);
            self.out.extend_from_slice(b"HTTP/1.1 204 Fine\r\n\r\n");
            return;
        }
        let id = target.strip_prefix("/r/").and_then(|id| id.parse::<usize>().ok());
        let Some(id) = id.filter(|id| *id < facts.requests.len()) else {
            facts.offend(format!("an origin was asked for what nobody asked: {line}"));
            self.then = Then::Close;
            self.reader.expect(Framing::None, 0);
            return;
        };
        let fact = facts.requests[id].clone();
        if method != fact.method.name() || wire::number(head, "X-Id") != Some(id) {
            facts.offend(format!("request {id} came as {line}"));
        }
        if fact.method == Method::Post && !fact.answers.is_empty() {
            facts.offend(format!("request {id} is not idempotent and came twice"));
        }
        let (framing, length) = wire::framing(head, Framing::None);
        if framing == Framing::Length && length != facts.requests[id].length {
            facts.offend(format!("request {id} says that it has {length} bytes"));
        }
        if facts.requests[id].method == Method::Upgrade {
            self.reader.expect(Framing::None, 0);
            return self.upgrade(id, facts, chance);
        }
        self.reader.expect(framing, length);
        self.request = Some((id, 0));
        if wire::field(head, "Expect").is_some() && chance.once_in(2) {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.is_answered = !self.is_calm && framing != Framing::None && chance.once_in(12);
        if self.is_answered {
            self.answer(id, facts, chance);
        }
    }

    fn upgrade(&mut self, id: usize, facts: &mut Facts, chance: &mut Chance) {
        if chance.once_in(6) && !self.is_calm {
            // It does not want to, and answers.
            self.request = Some((id, facts.requests[id].length));
            return;
        }
        let fact = &mut facts.requests[id];
        fact.answers.push(Answer { length: fact.length, framing: Framing::Close, is_cut: false });
        let head = format!(
            "HTTP/1.1 101 Go\r\nUpgrade: sim\r\nConnection: upgrade\r\nX-Id: {id}\r\n\
             X-Attempt: 0\r\n\r\n"
        );
        self.out.extend_from_slice(head.as_bytes());
        self.is_echo = true;
        let rest = self.reader.rest();
        self.out.extend_from_slice(&rest);
    }

    fn answer(&mut self, id: usize, facts: &mut Facts, chance: &mut Chance) {
        let is_early = self.request.is_some();
        let is_wild = !self.is_calm;
        let attempt = facts.requests[id].answers.len().min(63);
        let framings =
            [Framing::Length, Framing::Chunked, Framing::Trailers, Framing::Close, Framing::None];
        let framing = framings[chance.below(framings.len())];
        // Now and then so much that it goes through a pipe.
        let magnitudes = if chance.once_in(8) { 20 } else { 17 };
        let length = if framing == Framing::None { 0 } else { chance.size(magnitudes) };
        if chance.once_in(10) {
            self.out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        if chance.once_in(8) {
            self.pause = chance.next() % 200_000;
        }
        let status = if framing == Framing::None { "204 Nothing" } else { "200 OK" };
        let says_close = framing == Framing::Close || chance.once_in(10) || is_early;
        let close = if says_close { "Connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status}\r\n{}{close}X-Id: {id}\r\nX-Attempt: {attempt}\r\n\r\n",
            framing.field(length)
        );
        let start = self.out.len();
        self.out.extend_from_slice(head.as_bytes());
        let body_starts = self.out.len();
        if facts.requests[id].method != Method::Head {
            framing.encode(Tag::answer(id, attempt), length, chance, &mut self.out);
        }
        self.then = if says_close { Then::Close } else { Then::GoOn };
        let mut is_cut = false;
        if is_wild && chance.once_in(6) {
            let end = self.out.len();
            let kept = match chance.below(3) {
                // Nothing at all, a part of the head, a part of the body.
                0 => start,
                1 => start + chance.below(body_starts - start),
                _ => body_starts + chance.below(end - body_starts + 1),
            };
            self.out.truncate(kept);
            let is_open = framing == Framing::Close;
            self.then = match chance.below(3) {
                // Nobody could tell.
                0 if !is_open => Then::Close,
                1 => Then::Stall,
                _ => Then::Reset,
            };
            is_cut = kept < end || (is_open && facts.requests[id].method != Method::Head);
        }
        facts.requests[id].answers.push(Answer { length, framing, is_cut });
    }
}
