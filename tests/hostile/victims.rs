//! Honest clients, each at an address of its own, who ask for a page again and again.
//!
//! Comes in: how many, and at which pace. Goes out: how many answers came within a second, the
//! slowest of them, and the first thing that went wrong. They come on a new connection now and
//! then, as people do.

use crate::support::show;
use socket2::{Domain, Socket, Type};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Later is as good as never.
const IN_TIME: Duration = Duration::from_secs(1);

/// How long a victim waits for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests on one connection, of those who keep it.
const TURNS: usize = 16;

pub struct Victims {
    threads: Vec<JoinHandle<Outcome>>,
    is_over: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub asked: usize,
    pub in_time: usize,
    pub slowest: Duration,
    pub first_wrong: Option<String>,
}

impl Victims {
    /// `count` of them ask every `pace`, until they are stopped.
    pub fn start(proxy: SocketAddr, count: u8, pace: Duration) -> Self {
        Self::with_turns(TURNS, proxy, count, pace)
    }

    /// The same with a new connection for each request.
    pub fn on_new_connections(proxy: SocketAddr, count: u8, pace: Duration) -> Self {
        Self::with_turns(1, proxy, count, pace)
    }

    fn with_turns(turns: usize, proxy: SocketAddr, count: u8, pace: Duration) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let one = |number: u8| {
            let is_over = is_over.clone();
            let address = Ipv4Addr::new(127, 0, 0, 2 + number);
            thread::spawn(move || Victim { proxy, address, turns }.ask(pace, &is_over))
        };
        let threads = (0..count).map(one).collect();
        Self { threads, is_over }
    }

    /// What they saw.
    #[track_caller]
    pub fn stop(self) -> Outcome {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for thread in self.threads {
            let one = thread.join().expect("a victim panics at nothing");
            all.asked += one.asked;
            all.in_time += one.in_time;
            all.slowest = all.slowest.max(one.slowest);
            all.first_wrong = all.first_wrong.or(one.first_wrong);
        }
        all
    }

    /// Lets them ask for a while.
    #[track_caller]
    pub fn stop_after(self, time: Duration) -> Outcome {
        thread::sleep(time);
        self.stop()
    }
}

impl Outcome {
    /// 99.5 % of the answers came in time, and there were enough for that to mean something.
    #[track_caller]
    pub fn expect_served(&self) {
        assert!(self.asked >= 20, "the victims could hardly ask: {self:?}");
        assert!(self.in_time * 1000 >= self.asked * 995, "the victims were not served: {self:?}");
    }

    /// Nobody waited for longer.
    #[track_caller]
    pub fn expect_slowest_below(&self, time: Duration) {
        assert!(self.slowest < time, "a victim waited for {:?}: {self:?}", self.slowest);
    }
}

struct Victim {
    proxy: SocketAddr,
    address: Ipv4Addr,
    /// Requests per connection.
    turns: usize,
}

impl Victim {
    fn ask(&self, pace: Duration, is_over: &AtomicBool) -> Outcome {
        let mut outcome = Outcome::default();
        let mut connection = None;
        while !is_over.load(Ordering::Relaxed) {
            let started = Instant::now();
            let result = self.ask_once(&mut connection);
            let took = started.elapsed();
            outcome.asked += 1;
            outcome.slowest = outcome.slowest.max(took);
            match result {
                Ok(()) if took < IN_TIME => outcome.in_time += 1,
                Ok(()) => {
                    outcome.first_wrong.get_or_insert(format!("an answer after {took:?}"));
                }
                Err(e) => {
                    connection = None;
                    outcome.first_wrong.get_or_insert(format!("{e} after {took:?}"));
                }
            }
            if outcome.asked.is_multiple_of(self.turns) {
                connection = None;
            }
            thread::park_timeout(pace);
        }
        outcome
    }

    fn ask_once(&self, connection: &mut Option<TcpStream>) -> Result<()> {
        let stream = match connection {
            Some(stream) => stream,
            None => connection.insert(self.connect()?),
        };
        stream.write_all(b"GET /page HTTP/1.1\r\nHost: victim\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        while !answer.ends_with(b"\r\n\r\nok") {
            match stream.read(&mut buffer)? {
                0 => return Err(Error::new(ErrorKind::UnexpectedEof, show(&answer))),
                count => answer.extend_from_slice(&buffer[..count]),
            }
            if !answer.starts_with(&b"HTTP/1.1 200"[..answer.len().min(12)]) {
                return Err(Error::other(show(&answer)));
            }
        }
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.address, 0)).into())?;
        socket.connect_timeout(&self.proxy.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}
