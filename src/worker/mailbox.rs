//! Messages between threads: commands to workers and to the server, queries to the control thread.
//!
//! In goes a question with the sender of its answer; the one asked answers when it comes to it, or
//! drops the sender because it is stopping. Nothing waits here: the asker alone decides for how
//! long.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::address::{Address, ClientAddress, PeerAddress};
use crate::config::FoundUpstream;
use crate::ledger::Budget;
use crate::upstream::target::Target;
use crate::worker::census::{Census, Offer};
use crate::worker::generation::Snapshot;

pub(crate) use crate::ledger::Level;

/// What a worker is told or asked. One that is stopping drops the command.
pub(crate) enum WorkerCommand {
    /// Nothing but an answer.
    Ping { reply: oneshot::Sender<()> },
    /// Every client connection that it serves.
    Connections { reply: oneshot::Sender<Vec<ConnectionInfo>> },
    /// The largest and the oldest, so many of each, with where their requests go.
    Extremes { count: usize, reply: oneshot::Sender<Vec<ConnectionInfo>> },
    /// Connections to targets of upstreams that wait for a request.
    Idle { reply: oneshot::Sender<Vec<(Arc<Target>, usize)>> },
    /// Ends the connection `id`. The answer says whether there was one.
    End { id: u64, reply: oneshot::Sender<bool> },
    /// Which connections would give way to new clients first.
    Offer { reply: oneshot::Sender<Offer> },
    /// Has so many of them give way.
    GiveWay { count: usize },
    /// How many connections each client address holds.
    Census { reply: oneshot::Sender<Census> },
    /// Ends up to so many heads of that address that do not get on.
    EndHeads { address: u128, count: usize },
    /// Gives memory back.
    Clean { level: Level, reply: oneshot::Sender<Cleaned> },
    /// Puts a configuration in use.
    Adopt { snapshot: Arc<Snapshot>, budget: Budget, reply: oneshot::Sender<()> },
    /// Accepts connections from one more listening socket.
    Listen { index: u16, socket: OwnedFd },
    /// Accepts no more from that one.
    StopListening { index: u16 },
    /// Drains no more, and accepts connections from these again.
    Resume { listeners: Vec<(u16, OwnedFd)> },
}

/// What the admin API wants of the thread that owns the server. The answer is what the caller is
/// told.
pub enum ServerCommand {
    /// Read the configuration again and put it in use.
    Reload { reply: oneshot::Sender<Result<Reloaded, String>> },
    /// Put an earlier one in use again; without a number the one before this.
    Rollback { id: Option<u64>, reply: oneshot::Sender<Result<Reloaded, String>> },
    /// These are all upstreams of containers that there are now, by the follower with this number.
    Found { number: u64, upstreams: Vec<FoundUpstream> },
}

/// What became of a configuration that was to be put in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The number of the configuration in use now.
    pub generation: u64,
    /// Keys that have another value now.
    pub changed: Vec<String>,
    /// Keys whose new value waits for a restart.
    pub waiting: Vec<String>,
}

/// What the data port asks the control thread. The answer is a JSON document.
#[derive(Debug)]
pub(crate) enum ControlQuery {
    /// All of it, or what anybody may know.
    Health {
        is_whole: bool,
        reply: oneshot::Sender<String>,
    },
    Cleanup {
        reply: oneshot::Sender<String>,
    },
}

/// One client connection, as its worker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ConnectionInfo {
    /// No other connection of the process has it, now or later.
    pub id: u64,
    pub worker: usize,
    pub peer: PeerAddress,
    /// Who has sent the last request: the peer, or whom a trusted one speaks for.
    pub client: ClientAddress,
    /// `idle`, `head`, `exchange`, `tunnel` or `linger`.
    pub phase: &'static str,
    pub age_ms: u64,
    /// How long it has been in `phase`.
    pub phase_ms: u64,
    pub requests: u64,
    /// `http/1.1` or `h2`.
    pub protocol: &'static str,
    /// Requests under way, where it carries many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<usize>,
    /// The number of the stream, where it is one of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<u32>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// What it holds of the ledger.
    pub memory_bytes: u64,
    /// The route of its last request, and who answers the one under way, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Address>,
}

/// What a cleanup has done in one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// Connections to origins.
    pub closed_idle: usize,
    pub closed_clients: usize,
    pub cut_transfers: usize,
    pub freed_bytes: u64,
}

impl Cleaned {
    /// Adds what another worker has done.
    pub(crate) fn add(&mut self, other: Self) {
        self.closed_idle += other.closed_idle;
        self.closed_clients += other.closed_clients;
        self.cut_transfers += other.cut_transfers;
        self.freed_bytes = self.freed_bytes.saturating_add(other.freed_bytes);
    }
}
