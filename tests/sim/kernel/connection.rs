//! A connection between the worker and a peer: what is on its way, and how both ends stand.
//!
//! In go what either end does; out come readiness and the results of calls. It knows no descriptor
//! but the number of its file.

use super::{ERR, HUP, IN, OUT, Outcome, RDHUP};
use std::collections::VecDeque;
use std::net::SocketAddrV4;

/// How far a connection that the worker makes has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    Refused(i32),
    Up,
}

/// A connection between the worker and a peer.
pub(crate) struct Connection {
    /// The worker's side; `None` once it is closed.
    pub file: Option<usize>,
    pub stage: Stage,
    /// The port of the worker's side, and where the peer's is.
    pub own_port: u16,
    pub peer: SocketAddrV4,
    pub(super) to_worker: VecDeque<u8>,
    pub(super) to_peer: VecDeque<u8>,
    /// How much each of the two holds.
    pub(super) room: (usize, usize),
    pub peer_has_ended: bool,
    pub(super) peer_has_reset: bool,
    /// Told by the next call.
    pub(super) error: Option<i32>,
    pub(super) worker_has_ended: bool,
    pub worker_has_reset: bool,
    pub(super) resets_on_close: bool,
    pub(super) is_read_shut: bool,
    /// The peer has let go of it.
    pub(super) is_left: bool,
    /// Nobody has accepted it yet.
    pub(super) is_queued: bool,
    /// Bytes that the worker has taken, and those that it has sent.
    pub taken: u64,
    pub sent: u64,
}

/// What the peer of a connection finds when it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Bytes(usize),
    Nothing,
    End,
    Reset,
}

pub(super) fn it_has_room(it: &Connection) -> bool {
    it.room.1.saturating_sub(it.to_peer.len()) > it.room.1 / 3
}

impl Connection {
    /// One between the worker's `own_port` and `peer`, with `room` for so much either way.
    pub(super) fn new(
        stage: Stage,
        own_port: u16,
        peer: SocketAddrV4,
        room: (usize, usize),
    ) -> Self {
        Self {
            file: None,
            stage,
            own_port,
            peer,
            to_worker: VecDeque::new(),
            to_peer: VecDeque::new(),
            room,
            peer_has_ended: false,
            peer_has_reset: false,
            error: None,
            worker_has_ended: false,
            worker_has_reset: false,
            resets_on_close: false,
            is_read_shut: false,
            is_left: false,
            is_queued: false,
            taken: 0,
            sent: 0,
        }
    }

    /// How both of its ends stand.
    pub(crate) fn describe(&self) -> String {
        format!(
            "the worker {} it, ended {}, reset {}, took {}, sent {} of which {} wait, {} to come",
            if self.file.is_some() { "has" } else { "has closed" },
            self.worker_has_ended,
            self.worker_has_reset,
            self.taken,
            self.sent,
            self.to_peer.len(),
            self.to_worker.len(),
        )
    }

    pub(super) fn readiness(&self) -> u32 {
        match self.stage {
            Stage::Connecting => return 0,
            Stage::Refused(_) => return IN | OUT | RDHUP | HUP | ERR,
            Stage::Up => {}
        }
        let has_ended = self.peer_has_ended || self.peer_has_reset || self.is_read_shut;
        let mut events = 0;
        if has_ended || !self.to_worker.is_empty() {
            events |= IN;
        }
        if has_ended {
            events |= RDHUP;
        }
        let is_over = self.peer_has_reset || (has_ended && self.worker_has_ended);
        if is_over {
            events |= HUP;
        }
        if self.error.is_some() {
            events |= ERR;
        }
        if is_over || self.worker_has_ended || it_has_room(self) {
            events |= OUT;
        }
        events
    }

    /// Whether it stands; where it was refused, and that has been said, a call fails by `refused`.
    fn is_up(&mut self, refused: i32) -> Result<(), i32> {
        match self.stage {
            Stage::Connecting => Err(libc::EAGAIN),
            Stage::Refused(_) => Err(self.error.take().unwrap_or(refused)),
            Stage::Up => self.error.take().map_or(Ok(()), Err),
        }
    }

    /// What a receive says where there is nothing.
    pub(super) fn without_bytes(&mut self) -> Outcome {
        self.is_up(libc::ENOTCONN)?;
        let has_ended = self.peer_has_ended || self.peer_has_reset || self.is_read_shut;
        if has_ended && self.to_worker.is_empty() { Ok(0) } else { Err(libc::EAGAIN) }
    }

    pub(super) fn may_send(&mut self) -> Result<(), i32> {
        self.is_up(libc::EPIPE)?;
        if self.worker_has_ended || self.peer_has_reset {
            return Err(libc::EPIPE);
        }
        if self.is_left {
            // The peer is gone and answers with a reset, of which the next call hears.
            self.peer_has_reset = true;
            self.error = Some(libc::ECONNRESET);
        }
        Ok(())
    }
}

pub(super) fn copy(from: &VecDeque<u8>, into: &mut [u8]) {
    let (first, second) = from.as_slices();
    let split = first.len().min(into.len());
    into[..split].copy_from_slice(&first[..split]);
    let rest = into.len() - split;
    into[split..].copy_from_slice(&second[..rest]);
}
