//! Configurations that a world can be in.
//!
//! In goes chance; out comes a text that fits the weather. What a reload cannot change is the same
//! in all of them.

use super::names::{NAMED_PORT, NAMES};
use super::{ORIGINS, Weather, World};

impl World {
    /// A configuration that fits the weather.
    pub(crate) fn config(&mut self) -> String {
        let is_calm = self.weather == Weather::Calm || self.is_settled;
        let chance = &mut self.chance;
        let policies =
            ["round_robin", "least_connections", "p2c_ewma", "consistent_hash", "random", "first"];
        let policy = policies[chance.below(policies.len())];
        let names = if self.names.is_on { 1 + chance.below(NAMES.len()) } else { 0 };
        let least = usize::from(names == 0);
        let count = least + chance.below(ORIGINS.len() + 1 - least);
        let by_name = NAMES[..names].iter().map(|name| format!("\"http://{name}:{NAMED_PORT}\""));
        let by_address = ORIGINS[..count].iter().map(|port| format!("\"http://127.0.0.1:{port}\""));
        let origins: Vec<_> = by_name.chain(by_address).collect();
        self.configured = (count, names);
        let connections = [2, 4, 100][chance.below(3)];
        let idle = [0, 1, 20][chance.below(3)].min(connections);
        let t = |wild: u32| if is_calm { 60 } else { wild };
        let health = if chance.once_in(2) {
            "health = { path = \"/health\", interval = \"500ms\", timeout = \"300ms\", fall = 2 }\n"
        } else {
            ""
        };
        let eject = if chance.once_in(3) && !is_calm { "eject = { errors = 3 }\n" } else { "" };
        let keep = if chance.once_in(2) { "keep" } else { "close" };
        let chunk = ["4KiB", "64KiB"][chance.below(2)];
        let chunks = [2, 8][chance.below(2)];
        // Nothing of a name that is gone is left to its age.
        let expiry = if self.names.is_on { "10m" } else { "30s" };
        let (limits, dns) = (self.pressure.limits(), self.names.config());
        format!(
            "[server]\nhost = \"127.0.0.1\"\nport = 8000\nworkers = 1\ndriver = \"epoll\"\n\
             half_close = \"{keep}\"\n\
             [admin]\nenabled = false\n\
             {limits}{dns}\
             [forward]\nenabled = true\nallow_loopback = true\nconnect_ports = [\"*\"]\n\
             [timeouts]\nconnect = \"{}s\"\nread = \"{}s\"\nwrite = \"{}s\"\n\
             client_write = \"{}s\"\npool = \"{}s\"\nclient_head = \"{}s\"\n\
             client_idle = \"{}s\"\ntunnel_idle = \"{}s\"\ntunnel_half_closed = \"{}s\"\n\
             [pool]\nmax_connections = {connections}\nmax_idle = {idle}\n\
             idle_expiry = \"{expiry}\"\nprewarm = {}\n\
             [buffers]\nchunk_bytes = \"{chunk}\"\nchunks_per_worker = {chunks}\n\
             operation_chunks = 1\n\
             [[upstream]]\nname = \"sim\"\nbalance = \"{policy}\"\norigins = [{}]\n\
             {health}{eject}fail_timeout = \"1s\"\n",
            t(2),
            t(4),
            t(3),
            t(4),
            t(2),
            t(3),
            t(5),
            t(6),
            t(4),
            chance.below(2).min(idle),
            origins.join(", "),
        )
    }
}
