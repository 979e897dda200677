//! A client: one connection after another, and on each one request after another.
//!
//! In go what the kernel has for it and what is to be asked; out go requests in pieces, and the
//! check that each answer is the answer to its own request, whole, in order, or seen to be cut.

use crate::chance::Chance;
use crate::facts::{Fact, Facts, Method};
use crate::kernel::{Found, Kernel};
use crate::origin::Next;
use crate::wire::{self, Event, Framing, Reader, Tag};
use std::collections::VecDeque;

/// Where the proxy listens, and where tunnels end.
pub(crate) const PROXY: u16 = 8000;
pub(crate) const ECHO: u16 = 9100;

/// What a client is like. It may change for the worse at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Fair,
    /// Neither reads nor writes any more, until it is thrown out.
    Mute,
    /// Writes and does not read.
    Deaf,
}

pub(crate) struct Client {
    connection: Option<usize>,
    is_calm: bool,
    is_forward: bool,
    pace: u64,
    depth: usize,
    mood: Mood,
    /// Requests that are to be sent, and those that wait for their answers.
    plan: VecDeque<usize>,
    awaiting: VecDeque<usize>,
    /// What is to be sent, and where in it each request ends.
    out: Vec<u8>,
    sent: usize,
    ends: VecDeque<(usize, usize)>,
    reader: Reader,
    /// The answer that is being read: whose, of which attempt, and how much.
    answer: Option<(usize, usize, usize)>,
    /// Bytes of the echo so far, and of how many.
    echo: Option<(usize, usize)>,
    echo_of: usize,
    /// The last answer has said that it is the last.
    is_closing: bool,
    pub is_gone: bool,
    /// When something last went in or out.
    pub progress_us: u64,
}

impl Client {
    pub(crate) fn new(plan: VecDeque<usize>, is_calm: bool, chance: &mut Chance) -> Self {
        Self {
            connection: None,
            is_calm,
            is_forward: chance.once_in(8),
            pace: [50, 400, 5000][chance.below(3)],
            depth: [1, 1, 2, 6][chance.below(4)],
            mood: Mood::Fair,
            plan,
            awaiting: VecDeque::new(),
            out: Vec::new(),
            sent: 0,
            ends: VecDeque::new(),
            reader: Reader::new(),
            answer: None,
            echo: None,
            echo_of: 0,
            is_closing: false,
            is_gone: false,
            progress_us: 0,
        }
    }

    pub(crate) fn connection(&self) -> Option<usize> {
        self.connection
    }

    /// What it waits for, for whoever finds that it waits for too long.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{:?}, requests {:?} unanswered, {} bytes unsent, answer {:?}, echo {:?}",
            self.mood,
            self.awaiting,
            self.out.len() - self.sent,
            self.answer,
            self.echo
        )
    }

    pub(crate) fn step(
        &mut self,
        kernel: &mut Kernel,
        facts: &mut Facts,
        chance: &mut Chance,
    ) -> Next {
        let Some(connection) = self.connection else { return self.come(kernel, chance) };
        if !self.is_calm && chance.once_in(400) {
            match chance.below(4) {
                0 => return self.part(kernel, facts, true, chance),
                1 => return self.part(kernel, facts, false, chance),
                2 => self.mood = Mood::Mute,
                _ => self.mood = Mood::Deaf,
            }
        }
        if self.mood == Mood::Fair {
            let most = 1 + chance.size(17);
            match kernel.peer_receive(connection, self.reader.room(), most) {
                Found::Bytes(count) => {
                    self.progress_us = kernel.now_us;
                    facts.bytes += count as u64;
                    self.read(facts);
                }
                Found::Nothing => {}
                found => return self.lost(kernel, facts, found == Found::End, chance),
            }
        } else if kernel.is_over_for_peer(connection) {
            return self.part(kernel, facts, true, chance);
        }
        if self.mood == Mood::Mute {
            return Next::Stirred;
        }
        let is_over = self.awaiting.is_empty() && self.answer.is_none() && self.echo.is_none();
        if is_over && self.is_closing {
            return self.part(kernel, facts, false, chance);
        }
        if let Some((got, length)) = self.echo
            && got == length
        {
            self.echo = None;
            facts.tunnels += 1;
            return self.part(kernel, facts, false, chance);
        }
        self.ask(facts, chance);
        if is_over && self.awaiting.is_empty() && self.mood == Mood::Fair {
            // There is nothing left to ask: it leaves, or is sent away in the end.
            let is_over = kernel.is_over_for_peer(connection);
            if self.is_calm || is_over || !chance.once_in(6) {
                return self.part(kernel, facts, false, chance);
            }
            self.mood = Mood::Mute;
            return Next::Stirred;
        }
        self.write(kernel, connection, facts, chance)
    }

    fn come(&mut self, kernel: &mut Kernel, chance: &mut Chance) -> Next {
        if self.plan.is_empty() {
            self.is_gone = true;
            return Next::Gone;
        }
        let Some(connection) = kernel.come(PROXY) else {
            self.is_gone = true;
            return Next::Gone;
        };
        self.connection = Some(connection);
        self.mood = Mood::Fair;
        self.progress_us = kernel.now_us;
        self.again(chance)
    }

    fn again(&self, chance: &mut Chance) -> Next {
        if !self.is_calm && chance.once_in(200) {
            return Next::After(chance.next() % 5_000_000);
        }
        Next::After(chance.next() % self.pace)
    }

    fn write(
        &mut self,
        kernel: &mut Kernel,
        connection: usize,
        facts: &mut Facts,
        chance: &mut Chance,
    ) -> Next {
        let left = self.out.len() - self.sent;
        if left > 0 {
            let count = (1 + chance.size(17)).min(left);
            let count = kernel.peer_send(connection, &self.out[self.sent..self.sent + count]);
            self.sent += count;
            if count > 0 {
                self.progress_us = kernel.now_us;
            }
            while let Some((end, id)) = self.ends.front().copied()
                && end <= self.sent
            {
                facts.requests[id].is_sent = true;
                self.ends.pop_front();
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
            }
        }
        let is_last = self.plan.is_empty() && self.sent == self.out.len() && self.echo.is_none();
        if !self.is_calm && is_last && chance.once_in(10) {
            // Its answer may come all the same (`server.half_close`).
            kernel.peer_end(connection);
        }
        let is_over = kernel.is_over_for_peer(connection);
        let reads = self.mood == Mood::Fair && (is_over || kernel.peer_pending(connection) > 0);
        let writes = self.sent < self.out.len() && kernel.peer_room(connection) > 0;
        let asks = self.sent == self.out.len() && self.may_ask(facts);
        if reads || writes || asks { self.again(chance) } else { Next::Stirred }
    }

    fn may_ask(&self, facts: &Facts) -> bool {
        let Some(id) = self.plan.front() else { return false };
        // A tunnel is what the connection is for from then on.
        let is_alone = facts.requests[*id].method.is_tunnel();
        let room = if is_alone { 1 } else { self.depth };
        let in_tunnel = self.awaiting.iter().any(|id| facts.requests[*id].method.is_tunnel());
        self.awaiting.len() < room && self.echo.is_none() && !self.is_closing && !in_tunnel
    }

    fn ask(&mut self, facts: &mut Facts, chance: &mut Chance) {
        while self.may_ask(facts) {
            let Some(id) = self.plan.pop_front() else { return };
            let fact = facts.requests[id].clone();
            self.awaiting.push_back(id);
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
            }
            self.encode(id, &fact, chance);
            self.ends.push_back((self.out.len(), id));
            if self.out.len() > 1 << 18 {
                return;
            }
        }
    }

    fn encode(&mut self, id: usize, fact: &Fact, chance: &mut Chance) {
        let method = fact.method.name();
        let (target, more) = match fact.method {
            Method::Connect => (format!("127.0.0.1:{ECHO}"), ""),
            Method::Upgrade => (format!("/r/{id}"), "Upgrade: sim\r\nConnection: upgrade\r\n"),
            _ if self.is_forward => (format!("http://127.0.0.1:9001/r/{id}"), ""),
            _ => (format!("/r/{id}"), ""),
        };
        let host = match fact.method {
            Method::Connect => format!("127.0.0.1:{ECHO}"),
            Method::Upgrade => "sim".to_owned(),
            _ if self.is_forward => "127.0.0.1:9001".to_owned(),
            _ => "sim".to_owned(),
        };
        let is_body = fact.framing != Framing::None && !fact.method.is_tunnel();
        let expect = if is_body && chance.once_in(6) { "Expect: 100-continue\r\n" } else { "" };
        let framing = if is_body { fact.framing.field(fact.length) } else { String::new() };
        let filler = "f".repeat(chance.size(8));
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nX-Id: {id}\r\n{framing}{expect}{more}\
             X-Fill: {filler}\r\n\r\n"
        );
        self.out.extend_from_slice(head.as_bytes());
        if is_body {
            fact.framing.encode(Tag::request(id), fact.length, chance, &mut self.out);
        }
    }

    fn read(&mut self, facts: &mut Facts) {
        if self.echo.is_some() {
            let bytes = self.reader.rest();
            return self.hear(&bytes, facts);
        }
        while let Some(event) = self.reader.next() {
            match event {
                Event::Head(head) => self.begin(&head, facts),
                Event::Body(bytes) => self.check(&bytes, facts),
                Event::End => self.finish(facts),
                Event::Nonsense(what) => facts.offend(format!("a client got nonsense: {what}")),
            }
            if let Some((0, length)) = self.echo {
                let id = self.awaiting.pop_front().unwrap_or_default();
                self.answer = None;
                let mut bytes = Vec::new();
                Tag::request(id).write(0, length, &mut bytes);
                self.out.extend_from_slice(&bytes);
                let early = self.reader.rest();
                self.hear(&early, facts);
                return;
            }
        }
    }

    /// Bytes of an echo.
    fn hear(&mut self, bytes: &[u8], facts: &mut Facts) {
        let Some((got, length)) = &mut self.echo else { return };
        let id = self.echo_of;
        if !Tag::request(id).fits(*got, bytes) || *got + bytes.len() > *length {
            facts.offend(format!("tunnel {id}: other bytes from {got} on"));
        }
        *got += bytes.len();
    }

    fn begin(&mut self, head: &str, facts: &mut Facts) {
        let status = head.split(' ').nth(1).and_then(|it| it.parse::<u16>().ok()).unwrap_or(0);
        let Some(id) = self.awaiting.front().copied() else {
            facts.offend(format!("an answer that nobody waits for: {head}"));
            return self.reader.expect(Framing::Close, 0);
        };
        if (100..200).contains(&status) && status != 101 {
            return self.reader.expect_head();
        }
        let method = facts.requests[id].method;
        let is_tunnel = status == 101 || (method == Method::Connect && status == 200);
        if is_tunnel {
            if !method.is_tunnel() {
                facts.offend(format!("request {id} was answered by a tunnel"));
            }
            self.echo = Some((0, facts.requests[id].length));
            self.echo_of = id;
            return self.reader.expect(Framing::None, 0);
        }
        let says_close =
            wire::field(head, "Connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        self.is_closing |= says_close;
        let bodiless = method == Method::Head || status == 204 || status == 304;
        let (framing, length) = wire::framing(head, Framing::Close);
        match wire::number(head, "X-Id") {
            None => {
                let line = head.lines().next().unwrap_or_default();
                let proxy = wire::field(head, "Proxy-Status").unwrap_or_default();
                if self.is_calm {
                    facts.offend(format!("request {id} got {line} without cause: {proxy}"));
                }
                facts.refuse(format_args!("request {id}"), status, proxy);
                self.answer = Some((id, usize::MAX, 0));
            }
            Some(other) if other != id => {
                facts.offend(format!("request {id} got the answer to {other}"));
            }
            Some(_) => {
                let attempt = wire::number(head, "X-Attempt").unwrap_or(usize::MAX);
                let known = facts.requests[id].answers.get(attempt).copied();
                match known {
                    None => facts.offend(format!("request {id}: no such answer: {head}")),
                    Some(known) if framing == Framing::Length && !bodiless => {
                        if known.length != length {
                            facts.offend(format!("request {id}: {length} bytes said"));
                        }
                    }
                    Some(_) => {}
                }
                self.answer = Some((id, attempt, 0));
            }
        }
        let framing = if bodiless { Framing::None } else { framing };
        self.reader.expect(framing, length);
    }

    fn check(&mut self, bytes: &[u8], facts: &mut Facts) {
        let Some((id, attempt, position)) = &mut self.answer else { return };
        if *attempt != usize::MAX && !Tag::answer(*id, *attempt).fits(*position, bytes) {
            facts.offend(format!("answer {id}: other bytes from {position} on"));
        }
        *position += bytes.len();
    }

    /// The answer is over, as far as its framing tells.
    fn finish(&mut self, facts: &mut Facts) {
        let Some((id, attempt, position)) = self.answer.take() else { return };
        self.awaiting.pop_front();
        let fact = facts.requests[id].clone();
        let Some(answer) = fact.answers.get(attempt).copied() else {
            facts.refused += 1;
            return;
        };
        let has_body = fact.method != Method::Head && answer.framing != Framing::None;
        let length = if has_body { answer.length } else { 0 };
        if position != length || answer.is_cut {
            let broken = if answer.is_cut { ", broken off" } else { "" };
            facts.offend(format!(
                "answer {id}: {position} of {length}{broken}, as a whole; {fact:?}"
            ));
        }
        facts.whole += 1;
    }

    /// The proxy has closed the connection.
    fn lost(
        &mut self,
        kernel: &mut Kernel,
        facts: &mut Facts,
        is_end: bool,
        chance: &mut Chance,
    ) -> Next {
        if is_end && self.answer.is_some() && self.reader.ends_with_connection() {
            self.finish(facts);
            self.is_closing = true;
        }
        if self.is_calm && !self.is_closing && !kernel.is_draining {
            facts.offend(format!("a connection was closed without cause: {}", self.describe()));
        }
        self.part(kernel, facts, false, chance)
    }

    /// It leaves the connection, and goes on with another one.
    fn part(
        &mut self,
        kernel: &mut Kernel,
        facts: &mut Facts,
        is_reset: bool,
        chance: &mut Chance,
    ) -> Next {
        if self.answer.is_some() || self.echo.is_some() {
            facts.cut += 1;
        }
        // What was sent behind the last answer is asked anew, as other requests.
        let began = usize::from(self.answer.is_some() || !self.is_closing);
        for id in std::mem::take(&mut self.awaiting).into_iter().skip(began) {
            let fresh = Fact { is_sent: false, answers: Vec::new(), ..facts.requests[id].clone() };
            self.plan.push_back(facts.requests.len());
            facts.requests.push(fresh);
        }
        if let Some(connection) = self.connection.take() {
            kernel.peer_leave(connection, is_reset);
        }
        self.out.clear();
        self.ends.clear();
        (self.sent, self.answer, self.echo) = (0, None, None);
        (self.is_closing, self.reader) = (false, Reader::new());
        self.again(chance)
    }
}
