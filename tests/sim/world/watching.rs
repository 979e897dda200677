//! Whether everybody gets on, and whether anything is left at the end.
//!
//! In goes the world as it is; out come offences.

use super::{DRAIN, Peer, RUN_MAX, SECOND, Weather, World};

/// How long a client may see nothing where peers fall silent: for as long as several deadlines of
/// the configuration, one after another.
const PATIENCE: u64 = 60 * SECOND;
/// The same where everybody gets on: then only others who were before it are waited for.
const CALM_PATIENCE: u64 = 20 * SECOND;

impl World {
    /// Whether everybody gets on.
    pub(super) fn look(&mut self) {
        let now = self.kernel.now_us;
        let patience = if self.weather == Weather::Calm { CALM_PATIENCE } else { PATIENCE };
        let mut lines = Vec::new();
        for (index, peer) in &mut self.peers {
            let (what, connection, progress_us) = match peer {
                Peer::Client(it) => (it.describe(), it.connection(), &mut it.progress_us),
                Peer::Streams(it) => (it.describe(), it.connection(), &mut it.progress_us),
                Peer::Origin(_) => continue,
            };
            let Some(connection) = connection else { continue };
            if now.saturating_sub(*progress_us) > patience {
                *progress_us = u64::MAX;
                let state = self.kernel.connections[connection].describe();
                lines.push(format!("client {index} waits for too long: {what}; {state}"));
            }
        }
        for line in lines {
            self.facts.offend(line);
        }
        if self.cut_us.is_some_and(|cut| now > cut + DRAIN) {
            self.give_up("the drain does not end");
        }
        if now > self.began_us + RUN_MAX {
            self.give_up("the run does not end");
        }
    }

    /// Lets peers whose connections are over find that out.
    pub(crate) fn settle_down(&mut self) {
        for (index, connection) in &self.kernel.connections {
            if connection.file.is_some() {
                self.facts.offend(format!("connection {index} was left open"));
            }
        }
    }
}
