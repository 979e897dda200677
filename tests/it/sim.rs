//! Seeded chance against the whole data path: any message, in any framing, cut anywhere.
//!
//! Comes in: a seed. Goes out: conversations whose every message both ends can work out from the
//! seed and the number in its target, so that each side knows exactly what it must receive.
//! Requests are pipelined in pieces of random size, answers come in pieces of random size, and
//! several clients share few chunks and few connections. A failure names its seed.

use crate::support::{Client, Ending, Expected, Message, Origin, Peer, Setup, pattern};
use std::thread;

const CONVERSATIONS: u64 = 300;
const EXCHANGES: usize = 12;

/// xorshift64*: a test needs numbers that repeat, not numbers that are secret.
struct Chance(u64);

impl Chance {
    fn new(seed: u64, number: usize) -> Self {
        Self((seed << 32 | number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    /// As likely small as large.
    fn size(&mut self) -> usize {
        let magnitude = self.below(21);
        self.below(1 << magnitude)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Empty,
    Length,
    Chunked,
    Trailers,
    /// Answers only: the body ends with the connection.
    Close,
}

/// One message and its body, as both ends expect it.
struct Plan {
    framing: Framing,
    body: Vec<u8>,
    chance: Chance,
}

impl Plan {
    fn request(seed: u64, number: usize) -> Self {
        let framings = [Framing::Empty, Framing::Length, Framing::Chunked, Framing::Trailers];
        Self::from(Chance::new(seed, 2 * number), &framings)
    }

    fn answer(seed: u64, number: usize) -> Self {
        let framings = [Framing::Length, Framing::Chunked, Framing::Trailers, Framing::Close];
        Self::from(Chance::new(seed, 2 * number + 1), &framings)
    }

    fn from(mut chance: Chance, framings: &[Framing]) -> Self {
        let framing = framings[chance.below(framings.len())];
        let size = if framing == Framing::Empty { 0 } else { chance.size() };
        Self { framing, body: pattern(size), chance }
    }

    /// The message with `start` as its first line.
    fn encode(&mut self, start: &str) -> Vec<u8> {
        let framing = match self.framing {
            Framing::Empty => String::new(),
            Framing::Length => format!("Content-Length: {}\r\n", self.body.len()),
            Framing::Chunked | Framing::Trailers => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::Close => "Connection: close\r\n".to_owned(),
        };
        let filler = "x".repeat(self.chance.below(2_000));
        let mut bytes =
            format!("{start}\r\nHost: sim\r\n{framing}X: {filler}\r\n\r\n").into_bytes();
        if matches!(self.framing, Framing::Chunked | Framing::Trailers) {
            let mut rest = self.body.as_slice();
            while !rest.is_empty() {
                let (chunk, more) = rest.split_at(rest.len().min(1 + self.chance.size()));
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
                rest = more;
            }
            bytes.extend_from_slice(b"0\r\n");
            if self.framing == Framing::Trailers {
                bytes.extend_from_slice(format!("X-Sum: {}\r\n", self.body.len()).as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    #[track_caller]
    fn check(&self, message: &Message, keeps_trailers: bool, what: &str) {
        let whole = message.is_whole() && message.body == self.body;
        let (got, expected) = (message.body.len(), self.body.len());
        assert!(whole, "{what}: {got} of {expected} bytes, {:?}", message.ending);
        if self.framing == Framing::Trailers {
            let sum = ("X-Sum".into(), expected.to_string());
            let trailers = if keeps_trailers { vec![sum] } else { Vec::new() };
            assert_eq!(message.trailers, trailers, "{what}");
        }
        if self.framing == Framing::Length {
            assert_eq!(message.ending, Ending::Length, "{what}");
        }
    }
}

/// Bytes in the pieces that chance makes of them.
fn pieces<'a>(chance: &mut Chance, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(bytes.len().min(1 + chance.size()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// Answers what the target `/seed/number` calls for.
fn answer(mut peer: Peer, keeps_trailers: bool) {
    while let Some(mut request) = peer.read_head() {
        peer.read_body(&mut request, Expected::Request);
        let what = request.target().to_owned();
        let (seed, number) = what[1..].split_once('/').expect("/seed/number");
        let (seed, number) = (seed.parse().unwrap(), number.parse().unwrap());
        Plan::request(seed, number).check(&request, keeps_trailers, &what);
        let mut plan = Plan::answer(seed, number);
        let bytes = plan.encode("HTTP/1.1 200 OK");
        for piece in pieces(&mut plan.chance, &bytes) {
            peer.send(piece);
        }
        if plan.framing == Framing::Close {
            return;
        }
    }
}

/// One client connection: all requests in pieces, while the answers are read.
fn converse(mut client: Client, seed: u64) {
    let mut bytes = Vec::new();
    for number in 0..EXCHANGES {
        // PUT may carry a body and may be repeated: a connection that the origin closes between
        // two answers must not be seen by the client.
        let start = format!("PUT /{seed}/{number} HTTP/1.1");
        bytes.extend(Plan::request(seed, number).encode(&start));
    }
    let mut sender = client.another_handle();
    let sending = thread::spawn(move || {
        let mut chance = Chance::new(seed, 2 * EXCHANGES);
        for piece in pieces(&mut chance, &bytes) {
            sender.send(piece);
        }
    });
    for number in 0..EXCHANGES {
        let response = client.read_response();
        assert_eq!(response.status(), 200, "seed {seed}, exchange {number}: {response}");
        let what = format!("seed {seed}, exchange {number}");
        Plan::answer(seed, number).check(&response, true, &what);
    }
    sending.join().expect("the sender sends all");
}

/// Everything goes to an origin that reads trailers.
fn reading_trailers(origin: &Origin) -> Setup {
    Setup::new().upstream("origin", &[&origin.url()], "pass_trailers = true")
}

/// Six conversations at a time, on the same proxy, which passes trailers of requests on or not.
fn simulate(setup: impl FnOnce(&Origin) -> Setup, first_seed: u64, keeps_trailers: bool) {
    let origin = Origin::start(move |peer| answer(peer, keeps_trailers));
    let proxy = setup(&origin).set("server.workers", 2).start();
    let proxy = &proxy;
    for round in (first_seed..first_seed + CONVERSATIONS).step_by(6) {
        thread::scope(|scope| {
            for seed in round..round + 6 {
                scope.spawn(move || converse(proxy.connect(), seed));
            }
        });
    }
}

#[test]
fn any_message_in_any_framing_cut_anywhere_arrives_as_it_was_sent() {
    simulate(Setup::to, 1, false);
}

#[test]
fn the_same_with_fewer_chunks_and_connections_than_clients() {
    let scarce = |origin: &Origin| {
        Setup::to(origin)
            .set("buffers.chunks_per_worker", 2)
            .set("buffers.operation_chunks", 1)
            .set("pool.max_connections", 4)
            .set("pool.max_idle", 1)
    };
    simulate(scarce, 10_001, false);
}

#[test]
fn the_same_with_the_smallest_buffers() {
    let small = |origin: &Origin| {
        reading_trailers(origin)
            .set("buffers.chunk_bytes", "4KiB")
            .set("buffers.head_buffer_bytes", "1KiB")
    };
    simulate(small, 20_001, true);
}

#[test]
fn the_same_with_fixed_operations() {
    let fixed = |origin: &Origin| reading_trailers(origin).set("buffers.fixed_operations", true);
    simulate(fixed, 30_001, true);
}
