//! A client's TLS handshake: from the accepted connection to the first request.
//!
//! In goes a connection of a listener that speaks TLS; out comes nothing, and the socket is
//! secured, or why the connection ends. All of it has one deadline, `timeouts.handshake`; no key is
//! touched before the client has sent something that may be TLS, and there is memory for it.

use std::time::Duration;

use crate::fault::Close;
use crate::http::rewrite::{self, ConnectionOut, Simple};
use crate::ledger::Kind;
use crate::memory::watch::Pressure;
use crate::observe::connection_stats::Phase;
use crate::observe::log_limit;
use crate::ring::{Handshake, SESSION_BYTES, Socket, WaitError, clock};
use crate::tls::acceptor::Acceptor;
use crate::tls::problem::{self, Problem};
use crate::tls::session::Session;
use crate::worker::handshakes::Place;
use crate::worker::slot::ConnectionSlot;

/// Whether `slot` came in where TLS is spoken.
pub(crate) fn is_due(slot: &ConnectionSlot) -> bool {
    let generation = slot.worker().generation();
    generation.tls.as_ref().is_some_and(|tls| tls.is_for(slot.listener()))
}

/// Why it did not come to its end.
enum Failed {
    Problem(Problem, Option<std::io::Error>),
    /// It ends for another reason than itself.
    Ends(Close),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem, None)
    }
}

/// Secures the connection.
pub(crate) async fn accept(slot: &ConnectionSlot) -> Result<(), Close> {
    let worker = slot.worker();
    let generation = worker.generation();
    let Some(acceptor) = &generation.tls else { return Err(Close::Stopping) };
    slot.stats().enter(Phase::Handshake, clock::coarse_ms());
    let place = worker.handshakes.begin(slot.address(), slot.socket(), &worker.deadlines);
    worker.metrics.handshaking.add(1);
    let limit = generation.config.timeouts.handshake;
    let (began_ms, shaking) = (clock::coarse_ms(), Shaking { slot, place: &place, limit });
    let result = shaking.run(acceptor, began_ms).await;
    worker.metrics.handshaking.sub(1);
    match result {
        Ok(()) => {
            worker.metrics.handshakes.add(1);
            if slot.socket().session(Session::is_resumed) == Some(true) {
                worker.metrics.handshakes_resumed.add(1);
            }
            if slot.socket().session(Session::is_proof) == Some(true) {
                return Err(Close::Answered);
            }
            slot.stats().enter(Phase::Idle, clock::coarse_ms());
            Ok(())
        }
        Err(Failed::Ends(close)) => Err(close),
        // What came behind the client's last message is what could not be understood.
        Err(Failed::Problem(..))
            if slot.socket().session(Session::is_handshaking) == Some(false) =>
        {
            worker.metrics.handshakes.add(1);
            Err(Close::Handshake)
        }
        Err(Failed::Problem(problem, error)) => {
            worker.metrics.handshake_failed(problem);
            let detail = error.as_ref().map(problem::detail).unwrap_or_default();
            let name = slot
                .socket()
                .session(|session| session.asked().and_then(|asked| asked.name.clone()));
            let name = name.flatten().unwrap_or_default();
            log_limit::handshake_failed(problem, slot.peer(), &name, &detail);
            if problem == Problem::Plain {
                return Err(Close::Refused);
            }
            let is_silent = matches!(problem, Problem::Gone | Problem::Timeout | Problem::Crowded);
            Err(if is_silent { Close::ClientGone } else { Close::Handshake })
        }
    }
}

/// Counts a session that could not go on, once its connection ends.
pub(crate) fn count_broken(slot: &ConnectionSlot) {
    let Some(problem) = slot.socket().session_problem() else { return };
    // One that did not get that far is a handshake that failed.
    if slot.socket().session(Session::is_handshaking) == Some(false) {
        slot.worker().metrics.session_broken(problem);
        log_limit::session_broken(problem, slot.peer());
    }
}

struct Shaking<'a> {
    slot: &'a ConnectionSlot,
    place: &'a Place<'a>,
    limit: Duration,
}

impl Shaking<'_> {
    async fn run(&self, acceptor: &Acceptor, began_ms: u64) -> Result<(), Failed> {
        let (slot, worker) = (self.slot, self.slot.worker());
        let socket = slot.socket();
        self.first_bytes(socket, began_ms).await?;
        let is_short = worker.shared.pressure.get() == Pressure::Forced;
        if is_short || !worker.budget.admits(&worker.ledger, 4 * SESSION_BYTES as u64) {
            return Err(Problem::NoMemory.into());
        }
        let session = acceptor.session().map_err(|_| Failed::from(Problem::Protocol))?;
        socket.secure(session, worker.ledger.clone());
        let _flights = slot.hold(SESSION_BYTES, Kind::Tls);
        loop {
            // The step is what costs.
            if !worker.handshakes.turn(self.place).await {
                return Err(Problem::Crowded.into());
            }
            match socket.try_handshake() {
                Ok(Handshake::Done) => return Ok(()),
                Ok(Handshake::Reads) => self.wait(socket, began_ms, true).await?,
                Ok(Handshake::Writes) => self.wait(socket, began_ms, false).await?,
                Err(error) => {
                    return Err(Failed::Problem(Problem::of(&error), Some(error)));
                }
            }
        }
    }

    /// Waits until the client has sent something; one that speaks HTTP is told.
    async fn first_bytes(&self, socket: &Socket, began_ms: u64) -> Result<(), Failed> {
        let mut first = [0];
        loop {
            match socket.try_peek(&mut first) {
                Ok(0) => return Err(Problem::Gone.into()),
                // A handshake, of SSL 2 too, begins with what is no letter.
                Ok(_) if first[0].is_ascii_alphabetic() => {
                    tell(self.slot);
                    return Err(Problem::Plain.into());
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.wait(socket, began_ms, true).await?;
                }
                Err(_) => return Err(Problem::Gone.into()),
            }
        }
    }

    async fn wait(&self, socket: &Socket, began_ms: u64, is_input: bool) -> Result<(), Failed> {
        let worker = self.slot.worker();
        self.place.stalls(true);
        loop {
            let spent = Duration::from_millis(clock::coarse_ms().saturating_sub(began_ms));
            let left = self.limit.saturating_sub(spent);
            if left.is_zero() {
                return Err(Problem::Timeout.into());
            }
            let waited = if is_input {
                socket.readable(&worker.deadlines, left).await
            } else {
                socket.writable(&worker.deadlines, left).await
            };
            match waited {
                Ok(_) => return Ok(()),
                Err(WaitError::Expired) => return Err(Problem::Timeout.into()),
                Err(WaitError::Failed(_)) => return Err(Problem::Gone.into()),
                Err(WaitError::Interrupted) if self.place.gives_way() => {
                    return Err(Problem::Crowded.into());
                }
                Err(WaitError::Interrupted) if self.slot.stats().is_cut() => {
                    return Err(Failed::Ends(Close::Cut));
                }
                Err(WaitError::Interrupted) if self.slot.gives_way() => {
                    return Err(Failed::Ends(Close::GaveWay));
                }
                Err(WaitError::Interrupted) if worker.closes_idle.get() => {
                    return Err(Failed::Ends(Close::Stopping));
                }
                Err(WaitError::Interrupted) => {}
            }
        }
    }
}

/// Tells a client that has sent a plain request what is spoken here.
fn tell(slot: &ConnectionSlot) {
    let worker = slot.worker();
    let answer = Simple {
        status: 400,
        reason: "Bad Request",
        body: "This port speaks TLS: use https://",
        extra: b"",
        connection: ConnectionOut::Close,
        date: &worker.date.now(),
        is_head_only: false,
    };
    let mut out = Vec::new();
    rewrite::simple(&mut out, &answer);
    // A client that does not even take this has left.
    let _ = slot.socket().try_send(&out);
}
