//! Waits on lanes, held against a peer that reads, writes and opens windows when it likes.
//!
//! In go lanes with somebody at work on each, and a peer in a thread of its own, whose every choice
//! is drawn from a seed; out comes that each of them is told when it can go on. What is forgotten
//! once is waited for until a deadline, which no run here is allowed to meet.

use std::cell::Cell;
use std::io::{ErrorKind, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::host::{End, Host, Keeper, Patience};
use super::*;
use crate::http2::error::Cause;
use crate::http2::hpack::encode::{Question, QuestionKind};
use crate::http2::{Body, Event};
use crate::ring::{Deadlines, runtime};

const LIMIT: Duration = Duration::from_secs(30);

/// As small as the kernel makes them: an outbox that waits for the peer is what is wanted here.
const KERNEL_BYTES: usize = 2048;

/// Numbers that look drawn by chance, the same for the same seed.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

fn pair() -> (Socket, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    for end in [&here, &there] {
        end.set_nonblocking(true).unwrap();
        SockRef::from(end).set_send_buffer_size(KERNEL_BYTES).unwrap();
    }
    (Socket::from_fd(OwnedFd::from(here), true), there)
}

/// Has `work` done on each lane that a request opens.
struct Working<F> {
    connection: Rc<Multiplex>,
    work: F,
}

impl<F: Fn(Socket) -> W, W: Future<Output = ()> + 'static> Host for Working<F> {
    fn open_lane(&self) -> Option<Rc<Lane>> {
        let (lane, socket) = Lane::open(&self.connection);
        tokio::task::spawn_local((self.work)(socket));
        Some(lane)
    }

    fn stream_ended(&self, _: ErrorCode, _: Cause) {}

    fn rejected(&self, _: u32, _: ErrorCode, _: Cause) {}

    fn refused(&self) {}
}

impl<F: Fn(Socket) -> W, W: Future<Output = ()> + 'static> Keeper for Working<F> {
    fn patience(&self) -> Patience {
        Patience { head: LIMIT, idle: LIMIT, stall: LIMIT }
    }

    fn is_closing(&self) -> bool {
        false
    }

    fn is_unused(&self) -> bool {
        false
    }

    fn set_idle(&self, _: bool) {}

    fn interrupted(&self) -> Option<End> {
        None
    }

    fn moved(&self, _: usize, _: usize) {}
}

async fn send_all(socket: &Socket, deadlines: &Deadlines, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        match socket.try_send(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket.writable(deadlines, LIMIT).await.ok()?;
            }
            Err(_) => return None,
        }
    }
    Some(())
}

/// Reads a message to its end, a body in chunks included; nothing at the end of the lane.
async fn read_message(socket: &Socket, deadlines: &Deadlines, dice: &mut Dice) -> Option<Vec<u8>> {
    let (mut message, mut part) = (Vec::new(), vec![0; 20_000]);
    loop {
        let wanted = 1 + dice.below(part.len());
        match socket.try_recv(&mut part[..wanted]) {
            Ok(0) => return None,
            Ok(count) => message.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket.readable(deadlines, LIMIT).await.ok()?;
            }
            Err(_) => return None,
        }
        let is_chunked = memchr::memmem::find(&message, b"transfer-encoding: chunked").is_some();
        let end: &[u8] = if is_chunked { b"\r\n0\r\n\r\n" } else { b"\r\n\r\n" };
        if message.ends_with(end) {
            return Some(message);
        }
    }
}

/// Answers every request with as many bytes as its path names.
async fn answer_all(socket: Socket, deadlines: Rc<Deadlines>, mut dice: Dice) {
    while let Some(request) = read_message(&socket, &deadlines, &mut dice).await {
        let target = request.split(|byte| *byte == b' ').nth(1).unwrap();
        let count: usize = std::str::from_utf8(&target[1..]).unwrap().parse().unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {count}\r\n\r\n");
        let mut left = count;
        let mut sent = send_all(&socket, &deadlines, head.as_bytes()).await;
        while left > 0 && sent.is_some() {
            let part = left.min(1 + dice.below(40_000));
            sent = send_all(&socket, &deadlines, &vec![b'x'; part]).await;
            left -= part;
        }
        if sent.is_none() {
            return;
        }
    }
}

/// What the peer asks for, and what has become of it.
struct Asked {
    key: Key,
    to_send: usize,
    to_come: usize,
    /// What it has read and not yet opened its window for.
    withheld: usize,
    has_ended: bool,
}

struct Client {
    wire: UnixStream,
    session: Session,
    dice: Dice,
    asked: Vec<Asked>,
}

impl Client {
    fn ask(&mut self, to_come: usize, to_send: usize) {
        let path = format!("/{to_come}");
        let kind = QuestionKind::Plain { scheme: b"http", path: path.as_bytes() };
        let question = Question { method: b"POST", authority: b"a", kind };
        let key = self.session.open(&question, to_send == 0, |_| ()).unwrap();
        self.asked.push(Asked { key, to_send, to_come, withheld: 0, has_ended: false });
    }

    /// Says something of what there is to say; whether that was anything.
    fn speak(&mut self, is_last_resort: bool) -> bool {
        // What the kernel does not take waits where it comes from.
        let has_room = self.session.pending().len() < 16 * 1024;
        for asked in self.asked.iter_mut().filter(|asked| has_room && asked.to_send > 0) {
            let most = self.session.room(asked.key).min(asked.to_send);
            if most > 0 && (is_last_resort || self.dice.below(3) == 0) {
                let part = 1 + self.dice.below(most);
                asked.to_send -= part;
                let is_end = asked.to_send == 0;
                self.session.send_data(asked.key, &vec![b'u'; part], is_end).unwrap();
            }
        }
        for asked in self.asked.iter_mut().filter(|asked| asked.withheld > 0) {
            if is_last_resort || self.dice.below(20) == 0 {
                self.session.taken(asked.key, std::mem::take(&mut asked.withheld));
            }
        }
        let mut has_sent = false;
        while !self.session.pending().is_empty() {
            match self.wire.write(self.session.pending()) {
                Ok(count) => self.session.consume(count),
                Err(_) => break,
            }
            has_sent = true;
        }
        has_sent
    }

    fn hear(&mut self) -> bool {
        let mut part = vec![0; 1 + self.dice.below(8_000)];
        let Ok(count) = self.wire.read(&mut part) else { return false };
        assert!(count > 0, "the connection has ended");
        let (mut input, mut text) = (&part[..count], Vec::new());
        while let Some(event) = self.session.next(&mut input, &mut text, 0).unwrap() {
            let of = |key: Key| self.asked.iter().position(|asked| asked.key == key).unwrap();
            match event {
                Event::Data { stream, bytes, is_end } => {
                    let at = of(stream);
                    self.asked[at].to_come -= bytes.len();
                    self.asked[at].withheld += bytes.len();
                    self.asked[at].has_ended |= is_end;
                }
                Event::Response { stream, body: Body::Empty, .. } => {
                    let at = of(stream);
                    self.asked[at].has_ended = true;
                }
                Event::Reset { code, cause, .. } => panic!("{code:?} {cause:?}"),
                _ => {}
            }
        }
        true
    }

    /// Waits for something to read, or for room to write.
    fn wait(&mut self) {
        let began = Instant::now();
        self.wire.set_nonblocking(false).unwrap();
        self.wire.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        while SockRef::from(&self.wire).peek(&mut [MaybeUninit::uninit()]).is_err() {
            self.wire.set_nonblocking(true).unwrap();
            if self.speak(true) {
                return;
            }
            self.wire.set_nonblocking(false).unwrap();
            let left = self.asked.iter().filter(|asked| !asked.has_ended);
            let left: Vec<_> = left.map(|it| (it.key.id(), it.to_send, it.to_come)).collect();
            assert!(began.elapsed() < LIMIT / 2, "somebody was forgotten: {left:?}");
        }
        self.wire.set_nonblocking(true).unwrap();
    }

    /// Goes on until everything is answered.
    fn finish(&mut self) {
        while !self.asked.iter().all(|asked| asked.has_ended && asked.to_send == 0) {
            let mut has_moved = self.speak(false);
            if self.dice.below(4) > 0 {
                has_moved |= self.hear();
            }
            if !has_moved && !self.hear() && !self.speak(true) {
                self.wait();
            }
        }
        for asked in self.asked.drain(..) {
            assert_eq!(asked.to_come, 0);
            self.session.release(asked.key);
        }
    }
}

fn with_deadlines(test: impl AsyncFnOnce(Rc<Deadlines>)) {
    runtime::tested().block_on(async {
        let deadlines = Rc::new(Deadlines::default());
        let carried_out = deadlines.clone();
        let task = tokio::task::spawn_local(async move { carried_out.run().await });
        test(deadlines).await;
        task.abort();
    });
}

/// One that waits for its window is told when that opens while the outbox is full, and all the
/// others that wait for each other, too.
#[test]
fn nobody_who_waits_is_forgotten_however_windows_and_the_outbox_fill() {
    with_deadlines(async |deadlines| {
        let (wire, theirs) = pair();
        let terms = Rc::new(Terms::default());
        let connection = Multiplex::new(wire, Role::Server, terms, Arc::default());
        connection.set_budget(Rc::new(Budget::unlimited()));
        let peer = thread::spawn(move || {
            let terms =
                Terms { stream_window: 20_000, connection_window: 400_000, ..Terms::default() };
            let session = Session::new(Role::Client, Rc::new(terms), 0);
            let mut client = Client { wire: theirs, session, dice: Dice(7), asked: Vec::new() };
            for round in 0..60 {
                for at in 0..12 {
                    let to_come = client.dice.below(if at % 3 == 0 { 300_000 } else { 60_000 });
                    let to_send = client.dice.below(4).saturating_sub(2) * (1 + round * 1_500);
                    client.ask(to_come, to_send);
                }
                client.finish();
            }
        });
        let (seed, of_lanes) = (Cell::new(1), deadlines.clone());
        let work = move |socket| {
            seed.set(seed.get() + 1);
            answer_all(socket, of_lanes.clone(), Dice(seed.get()))
        };
        let host = Working { connection: connection.clone(), work };
        let end = drive::run(&connection, &host, &deadlines, b"").await;
        peer.join().unwrap();
        assert_eq!(end, End::Gone);
    });
}

/// A peer that allows fewer streams than there are lanes has them one after the other.
#[test]
fn who_finds_no_slot_for_a_stream_is_told_when_there_is_one() {
    with_deadlines(async |deadlines| {
        let (wire, mut theirs) = pair();
        let terms = Rc::new(Terms::default());
        let connection = Multiplex::new(wire, Role::Client, terms, Arc::default());
        let peer = thread::spawn(move || {
            let terms = Terms { streams_max: 1, ..Terms::default() };
            let mut session = Session::new(Role::Server, Rc::new(terms), 0);
            theirs.set_nonblocking(false).unwrap();
            let (mut answered, mut part) = (0, [0; 4096]);
            while answered < 3 {
                theirs.write_all(session.pending()).unwrap();
                session.consume(session.pending().len());
                let count = theirs.read(&mut part).unwrap();
                let (mut input, mut text) = (&part[..count], Vec::new());
                while let Some(event) = session.next(&mut input, &mut text, 0).unwrap() {
                    if let Event::Request { stream, .. } = event {
                        session.send_response(stream, 204, true, |_| ()).unwrap();
                        session.release(stream);
                        answered += 1;
                    }
                }
            }
            theirs.write_all(session.pending()).unwrap();
            // The other end closes first.
            let _ = theirs.read_to_end(&mut Vec::new());
        });
        let driven = connection.clone();
        let of_driver = deadlines.clone();
        tokio::task::spawn_local(async move {
            let work = |_: Socket| std::future::ready(());
            let host = Working { connection: driven.clone(), work };
            drive::run(&driven, &host, &of_driver, b"").await
        });
        assert!(connection.allows_protocol().await.is_some(), "its settings are known");
        let asked = (0..3).map(|at| {
            let (lane, socket) = Lane::open(&connection);
            lane.rest();
            let deadlines = deadlines.clone();
            tokio::task::spawn_local(async move {
                let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
                send_all(&socket, &deadlines, head).await?;
                read_message(&socket, &deadlines, &mut Dice(at)).await
            })
        });
        let asked: Vec<_> = asked.collect();
        for answer in asked {
            assert!(answer.await.unwrap().unwrap().starts_with(b"HTTP/1.1 204 "));
        }
        connection.wire().cut();
        drop(connection);
        peer.join().unwrap();
    });
}
