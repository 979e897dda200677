//! Attackers: many sockets in one thread, all from 127.0.0.1.
//!
//! Comes in: how many, what each says first, and what it does from then on. Goes out: sockets that
//! are held, trickled over, half-closed or reset. Nothing here judges, and nothing is read unless a
//! case says so.

use crate::support::DEADLINE;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub struct Mob(pub Vec<TcpStream>);

impl Mob {
    /// Connects `count` clients that say `opening` each.
    #[track_caller]
    pub fn new(address: SocketAddr, count: usize, opening: &str) -> Self {
        Self((0..count).map(|_| attacker(address, opening)).collect())
    }

    /// The same with receive buffers as small as the kernel allows.
    #[track_caller]
    pub fn with_small_windows(address: SocketAddr, count: usize, opening: &str) -> Self {
        let one = |_| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(1).unwrap();
            socket.connect_timeout(&address.into(), DEADLINE).unwrap();
            let stream = TcpStream::from(socket);
            open(&stream, opening);
            stream
        };
        Self((0..count).map(one).collect())
    }

    /// What each of them says next. Those that have been cut say nothing more.
    pub fn send(&self, bytes: &[u8]) {
        for mut stream in &self.0 {
            let _ = stream.write(bytes);
        }
    }

    pub fn half_close(&self) {
        for stream in &self.0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Ends all connections with a reset.
    pub fn reset(self) {
        for stream in &self.0 {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Waits until something has come for `count` of them, be it the end.
    #[track_caller]
    pub fn wait_until_answered(&self, count: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        let is_answered = |stream: &&TcpStream| match stream.peek(&mut [0]) {
            Ok(_) => true,
            Err(e) => e.kind() != ErrorKind::WouldBlock,
        };
        while self.0.iter().filter(is_answered).count() < count {
            assert!(Instant::now() < deadline, "not all of {count} are answered in {patience:?}");
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// How many have been ended by the other side. Reads what came before that.
    pub fn ended(&self) -> usize {
        self.0.iter().filter(|stream| has_ended(stream)).count()
    }

    /// Waits until `count` of them have been ended by the other side.
    #[track_caller]
    pub fn wait_until_ended(&self, count: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let ended = self.ended();
            if ended >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{ended} of {count} have ended after {patience:?}");
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Goes on in the background: now and then each does its little, and who has been cut comes
    /// back and says `opening` again.
    pub fn trickle(self, address: SocketAddr, opening: &str, little: Little) -> Trickling {
        let (is_over, opening) = (Arc::<AtomicBool>::default(), opening.to_owned());
        let thread = {
            let is_over = is_over.clone();
            thread::spawn(move || trickle(self, address, &opening, little, &is_over))
        };
        Trickling { is_over, thread: Some(thread) }
    }
}

/// What an attacker does now and then.
#[derive(Clone, Copy)]
pub enum Little {
    /// Sends one byte.
    Send,
    /// Reads ten.
    Read,
}

/// Attackers that are at work until this is dropped.
pub struct Trickling {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Trickling {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn trickle(mob: Mob, address: SocketAddr, opening: &str, little: Little, is_over: &AtomicBool) {
    /// All of them together send or read a thousand times a second, each once a second at most.
    const TURN: Duration = Duration::from_millis(50);
    const TURNS_MIN: usize = 20;
    const SHARE_MAX: usize = 50;
    let mut mob = mob.0;
    let turns = mob.len().div_ceil(SHARE_MAX).max(TURNS_MIN);
    for turn in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        for stream in mob.iter_mut().skip(turn % turns).step_by(turns) {
            let result = match little {
                Little::Send => stream.write(b"x").and_then(|_| stream.read(&mut [0; 512])),
                Little::Read => stream.read(&mut [0; 10]),
            };
            let is_alive = match result {
                Ok(count) => count > 0,
                Err(e) => e.kind() == ErrorKind::WouldBlock,
            };
            if !is_alive && !is_over.load(Ordering::Relaxed) {
                // An attacker that finds the door shut tries again a second later.
                if let Ok(fresh) = TcpStream::connect_timeout(&address, TURN) {
                    open(&fresh, opening);
                    *stream = fresh;
                }
            }
        }
        thread::park_timeout(TURN);
    }
}

#[track_caller]
pub fn attacker(address: SocketAddr, opening: &str) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)
        .unwrap_or_else(|e| panic!("connecting to {address}: {e}"));
    open(&stream, opening);
    stream
}

fn open(mut stream: &TcpStream, opening: &str) {
    stream.set_nodelay(true).expect("a stream");
    stream.set_nonblocking(true).expect("a stream");
    // A short one fits into the kernel; who has been refused already says nothing.
    let _ = stream.write(opening.as_bytes());
}

fn has_ended(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != ErrorKind::WouldBlock,
        }
    }
}
