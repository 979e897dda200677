//! What the peers of a worker's connections do with their ends.
//!
//! In go what a peer sends, takes and leaves; the worker's files are stirred by it. Nothing here is
//! a system call.

use super::connection::{copy, it_has_room};
use super::{EVENTS, Found, IN, Kernel, Kind, OUT, Stage};
use std::net::{Ipv4Addr, SocketAddrV4};

impl Kernel {
    /// Somebody connects to the listener at `port`; `None` where nobody listens.
    pub(crate) fn come(&mut self, port: u16) -> Option<usize> {
        let is_open = |kind: &Kind| match kind {
            Kind::Listener(it) => it.port == port && !it.is_shut,
            _ => false,
        };
        let (file, _) = self.files.iter().find(|(_, file)| is_open(&file.kind))?;
        let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.next_port());
        let connection = self.new_connection(Stage::Up, port, peer);
        self.connections[connection].is_queued = true;
        if let Kind::Listener(listener) = &mut self.files[file].kind {
            listener.queue.push_back(connection);
        }
        self.stir(file, IN);
        Some(connection)
    }

    /// What became of a connection that the worker makes.
    pub(crate) fn settle(&mut self, connection: usize, refusal: Option<i32>) {
        let Some(it) = self.connections.get_mut(connection) else { return };
        it.stage = refusal.map_or(Stage::Up, Stage::Refused);
        it.error = refusal;
        if let Some(file) = it.file {
            self.stir(file, EVENTS);
        }
    }

    pub(crate) fn peer_room(&self, connection: usize) -> usize {
        let it = &self.connections[connection];
        it.room.0.saturating_sub(it.to_worker.len())
    }

    /// The peer sends; how much was taken.
    pub(crate) fn peer_send(&mut self, connection: usize, bytes: &[u8]) -> usize {
        let count = self.peer_room(connection).min(bytes.len());
        let it = &mut self.connections[connection];
        if it.worker_has_reset || it.file.is_none() && it.worker_has_ended {
            // The answer to it is a reset.
            it.worker_has_reset = true;
            return 0;
        }
        it.to_worker.extend(&bytes[..count]);
        if let Some(file) = it.file.filter(|_| count > 0) {
            self.stir(file, IN);
        }
        count
    }

    /// The peer receives up to `most` bytes.
    pub(crate) fn peer_receive(
        &mut self,
        connection: usize,
        into: &mut Vec<u8>,
        most: usize,
    ) -> Found {
        let it = &mut self.connections[connection];
        let count = most.min(it.to_peer.len());
        if count > 0 {
            let was_full = it.room.1 - it.to_peer.len().min(it.room.1) < it.room.1 / 3 + 1;
            let start = into.len();
            into.resize(start + count, 0);
            copy(&it.to_peer, &mut into[start..]);
            it.to_peer.drain(..count);
            if let Some(file) = it.file.filter(|_| was_full && it_has_room(it)) {
                self.stir(file, OUT);
            }
            return Found::Bytes(count);
        }
        if it.worker_has_reset {
            Found::Reset
        } else if it.worker_has_ended {
            Found::End
        } else {
            Found::Nothing
        }
    }

    pub(crate) fn peer_pending(&self, connection: usize) -> usize {
        self.connections[connection].to_peer.len()
    }

    /// Whether the worker takes nothing of it any more.
    pub(crate) fn is_closed_for_peer(&self, connection: usize) -> bool {
        let it = &self.connections[connection];
        it.worker_has_reset || (it.file.is_none() && it.worker_has_ended)
    }

    /// Whether the worker has ended it, whatever is left to be read.
    pub(crate) fn is_over_for_peer(&self, connection: usize) -> bool {
        let it = &self.connections[connection];
        it.worker_has_reset || it.worker_has_ended
    }

    /// The peer says that nothing more will come.
    pub(crate) fn peer_end(&mut self, connection: usize) {
        let it = &mut self.connections[connection];
        it.peer_has_ended = true;
        if let Some(file) = it.file {
            self.stir(file, EVENTS);
        }
    }

    /// The peer lets go: with a reset, or in order.
    pub(crate) fn peer_leave(&mut self, connection: usize, is_reset: bool) {
        let it = &mut self.connections[connection];
        it.is_left = true;
        if is_reset || !it.to_peer.is_empty() {
            it.peer_has_reset = true;
            let is_piped = it.worker_has_ended && it.peer_has_ended;
            it.error = Some(if is_piped { libc::EPIPE } else { libc::ECONNRESET });
            if is_reset {
                // Bytes on their way may come or not.
                let kept = self.chance.below(it.to_worker.len() + 1);
                it.to_worker.truncate(kept);
            }
            it.to_peer.clear();
        }
        it.peer_has_ended = true;
        if let Some(file) = it.file {
            self.stir(file, EVENTS);
        }
        self.drop_if_over(connection);
    }
}
