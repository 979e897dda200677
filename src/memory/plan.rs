//! The worst case of a configuration, worked out before the first connection.
//!
//! In: the configuration and the limits that the kernel sets. Out: a table of what everything can
//! come to, held against a ceiling. Limits that the operator did not choose are lowered until the
//! sum fits; a choice that cannot fit is refused, with the key to change and by how much. It
//! allocates nothing for anybody: it only does sums.
//!
//! A connection is planned at what a busy one holds with buffers of the standard size. What goes
//! beyond that (a larger head, bytes that a slow peer does not take) is growth: it is granted at
//! run time, out of what the plan has left over (see `ledger::Budget`).

use std::fmt;

use super::origins::{self, MEMORY_PART, Origins};
use super::sessions::Sessions;
use super::usage::Usage;
use super::watch::Thresholds;
use super::{KIB, MIB, Notice, readable};
use crate::config::{Config, MemoryConfig, MemoryMax};
use crate::http::written_cache::WRITTEN_BYTES_MAX;
use crate::ledger::Budget;
use crate::limits::PASSWORD_CHECK_BYTES_MAX;

/// What one worker, or the program itself, occupies beyond what is listed by kind.
#[derive(Clone, Copy, Debug)]
struct Base {
    program_bytes: u64,
    worker_bytes: u64,
}

/// In memory. Measured at the start and without chunks: 8.4 MiB with one worker and 0.4 for each
/// further one. The rest is for what they allocate, tables of routes, and other threads.
const RESIDENT: Base = Base { program_bytes: 12 * MIB, worker_bytes: 3 * MIB / 2 };

/// In addresses, where RLIMIT_AS counts them: 27 MiB with one worker and without chunks, 4.3 for
/// each further one, of which 2 are its stack.
const ADDRESSED: Base = Base { program_bytes: 28 * MIB, worker_bytes: 5 * MIB };

/// The future of a conversation, an eighth over what a test measures, with its two heads' fields
/// that a proxy must know, and these heads as they were sent on.
pub(crate) const CONVERSATION_BYTES: u64 = 6064 + 2 * WRITTEN_BYTES_MAX as u64;

/// What a connection has even when it is idle: the task that waits, its socket, its places in
/// tables and in the ring. 500 bytes of resident memory; tables that grow double.
pub(crate) const CONNECTION_BYTES: u64 = 1024;

/// A tunnel beyond its client's connection: its target's, two waits, two directions.
pub(crate) const TUNNEL_BYTES: u64 = 4 * KIB;

/// A name of up to 255 bytes, its addresses, and their places in two tables.
const NAME_BYTES: u64 = KIB;

/// Passwords that were right lately, and clients whose passwords were wrong.
const AUTHENTICATION_BYTES: u64 = MIB;

/// Checks of passwords that may be under way at once.
const PASSWORD_CHECKS: u64 = 2;

/// A line of events with its place in the queue.
const EVENT_LINE_BYTES: u64 = 256 + 32;

/// Of the ceiling, this part at least is kept for growth.
const GROWTH_PART: u64 = 32;

const CLIENTS_MIN: u64 = 16;

/// `max_mb` where it is "auto" and there is no limit to take a share of.
const AUTOMATIC_MB: u64 = 500;
const AUTOMATIC_PERCENT: u64 = 80;

/// Above this share of a limit, in percent, is no bound: memory for sockets counts too.
const LIMIT_PERCENT: u64 = 95;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    pub count: u64,
    pub each_bytes: u64,
    /// What sets `count`; empty where nothing does.
    pub key: &'static str,
}

impl Row {
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.each_bytes)
    }
}

/// What must not be exceeded, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    pub bytes: u64,
    limit: Option<Limit>,
}

/// The share of a limit that is a ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    name: &'static str,
    bytes: u64,
    percent: u64,
}

/// The worst case of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    rows: Vec<Row>,
    ceiling: Ceiling,
    workers: u64,
}

/// Why a configuration cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError(String);

/// What may be lowered.
#[derive(Clone, Copy, Debug)]
struct Counts {
    clients: u64,
    /// Never above `clients`: a tunnel has one.
    tunnels: u64,
}

impl Counts {
    fn of(config: &Config) -> Self {
        let clients = config.limits.clients as u64;
        Self { clients, tunnels: clients.min(config.limits.tunnels as u64) }
    }
}

const CLIENTS: &str = "clients";
const ORIGINS: &str = "origin connections";
const TUNNELS: &str = "tunnels";
const STREAMS: &str = "streams";
const GROWTH: &str = "larger heads";
const PROCESS_WIDE: [&str; 8] = [
    "program",
    "workers",
    "names",
    "origins",
    "authentication",
    "password checks",
    "event lines",
    "access log lines",
];

impl Plan {
    /// What `config` can come to where `usage` is what the kernel allows.
    pub fn of(config: &Config, usage: &Usage) -> Self {
        let ceiling = ceiling(&config.memory, usage).0;
        let mut plan = Self {
            rows: rows(config, usage, &ceiling),
            ceiling,
            workers: (config.server.workers as u64).max(1),
        };
        plan.widen(config, Self::fits);
        plan.set_streams(config);
        plan
    }

    /// As many streams as there is room left for: others are sent back untouched.
    fn set_streams(&mut self, config: &Config) {
        self.set_count(STREAMS, 0);
        let room = self.ceiling.bytes.saturating_sub(self.total()) / self.each_bytes(STREAMS);
        self.set_count(STREAMS, room.min(config.limits.streams as u64));
    }

    /// Adds connections to origins, up to a sixteenth of what there is besides, as long as all of
    /// it `fits`.
    fn widen(&mut self, config: &Config, fits: impl Fn(&Self) -> bool) {
        let Origins { least, most } = Origins::of(config);
        self.set_count(ORIGINS, least);
        let room = self.ceiling.bytes.saturating_sub(self.fixed_bytes());
        let mut more = (room / MEMORY_PART / self.each_bytes(ORIGINS)).min(most - least);
        while more > 0 {
            self.set_count(ORIGINS, least + more);
            if fits(self) {
                return;
            }
            more /= 2;
        }
        self.set_count(ORIGINS, least);
    }

    /// How many connections to origins there is memory for.
    pub fn origin_connections(&self) -> usize {
        let row = self.rows.iter().find(|row| row.name == ORIGINS);
        row.map_or(0, |row| usize::try_from(row.count).unwrap_or(usize::MAX))
    }

    /// Makes `config` fit: settles `memory` to numbers, and lowers `limits.clients` and
    /// `limits.tunnels` as far as they must be and may be, which is where the operator gave none.
    pub fn fit(
        config: &mut Config,
        usage: &Usage,
        is_clients_given: bool,
        is_tunnels_given: bool,
    ) -> Result<(Self, Vec<Notice>), PlanError> {
        let mut notices = Vec::new();
        // What goes by whatever there is surprises nobody.
        let is_expected = config.memory.max == MemoryMax::Auto;
        let (ceiling, lowered) = ceiling(&config.memory, usage);
        notices.extend(lowered.into_iter().chain(settle(&mut config.memory, &ceiling)));
        let mut plan = Self::of(config, usage);
        plan.ceiling = ceiling;
        plan.set_count(STREAMS, 0);
        let fits = |plan: &Self| plan.fitting(config, is_clients_given, is_tunnels_given).is_some();
        plan.widen(config, fits);
        let wanted = Counts::of(config);
        let Some(fitting) = plan.fitting(config, is_clients_given, is_tunnels_given) else {
            // The least that would do.
            let least = CLIENTS_MIN.min(wanted.clients);
            let clients = if is_clients_given { wanted.clients } else { least };
            let tunnels = match (is_tunnels_given, is_clients_given) {
                (true, _) => wanted.tunnels,
                (false, true) => 1,
                (false, false) => least,
            };
            plan.set(Counts { clients, tunnels: tunnels.min(clients) });
            return Err(plan.refusal());
        };
        plan.set(fitting);
        let missing = plan.bytes_of(wanted).saturating_sub(plan.bytes_of(fitting));
        let narrow = Origins::of(config).most - plan.origin_connections() as u64;
        let missing = missing.saturating_add(narrow * plan.each_bytes(ORIGINS));
        let remedy = plan.remedy(missing);
        let mut lower = |key, limit: &mut usize, fitting: u64| {
            let text = format!(
                "{key} = {limit} does not fit in {ceiling} and is {fitting} for now: {remedy}"
            );
            notices.push(Notice { text, is_expected });
            *limit = fitting as usize;
        };
        if fitting.clients < wanted.clients {
            lower("limits.clients", &mut config.limits.clients, fitting.clients);
        }
        if fitting.tunnels < wanted.tunnels.min(fitting.clients) {
            lower("limits.tunnels", &mut config.limits.tunnels, fitting.tunnels);
        }
        plan.set_streams(config);
        Ok((plan, notices))
    }

    /// How many clients and tunnels there is room for; `None` where that is not enough.
    fn fitting(
        &self,
        config: &Config,
        is_clients_given: bool,
        is_tunnels_given: bool,
    ) -> Option<Counts> {
        let (client, tunnel) = (self.each_bytes(CLIENTS), self.each_bytes(TUNNELS));
        let room = self.ceiling.bytes.saturating_sub(self.fixed_bytes());
        let wanted = Counts::of(config);
        // A forward proxy's clients are tunnels, most of those of a reverse proxy are not.
        let per_tunnel = if config.forward.enabled { 1 } else { 4 };
        let most = if is_tunnels_given {
            let beside = room.saturating_sub(wanted.tunnels.saturating_mul(tunnel)) / client;
            // Fewer clients need fewer tunnels.
            beside.max(wanted.tunnels.min(room / (client + tunnel)))
        } else {
            room / (client + tunnel / per_tunnel)
        };
        let clients = if is_clients_given { wanted.clients } else { wanted.clients.min(most) };
        let rest = room.saturating_sub(clients.saturating_mul(client));
        let most = if is_tunnels_given { u64::MAX } else { (rest / tunnel).max(1) };
        let counts = Counts { clients, tunnels: wanted.tunnels.min(clients).min(most) };
        let is_service = clients >= CLIENTS_MIN.min(wanted.clients);
        (is_service && self.bytes_of(counts) <= room).then_some(counts)
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn ceiling(&self) -> Ceiling {
        self.ceiling
    }

    /// The worst case.
    pub fn total(&self) -> u64 {
        self.sum(|_| true)
    }

    pub fn fits(&self) -> bool {
        self.total() <= self.ceiling.bytes
    }

    /// What one worker may hold, and how much of it beyond what its connections were promised.
    pub fn budget(&self) -> Budget {
        let outside = self.sum(|row| PROCESS_WIDE.contains(&row.name));
        let growth = self.sum(|row| matches!(row.name, GROWTH | STREAMS));
        let spare = self.ceiling.bytes.saturating_sub(self.total());
        Budget::new(
            self.ceiling.bytes.saturating_sub(outside) / self.workers,
            (growth + spare) / self.workers,
        )
    }

    fn sum(&self, is_part: impl Fn(&Row) -> bool) -> u64 {
        let parts = self.rows.iter().filter(|row| is_part(row)).map(Row::bytes);
        parts.fold(0, u64::saturating_add)
    }

    /// Everything but what may be lowered.
    fn fixed_bytes(&self) -> u64 {
        self.sum(|row| row.name != CLIENTS && row.name != TUNNELS)
    }

    fn each_bytes(&self, name: &str) -> u64 {
        self.rows.iter().find(|row| row.name == name).map_or(1, |row| row.each_bytes)
    }

    fn bytes_of(&self, Counts { clients, tunnels }: Counts) -> u64 {
        let clients = clients.saturating_mul(self.each_bytes(CLIENTS));
        clients.saturating_add(tunnels.saturating_mul(self.each_bytes(TUNNELS)))
    }

    fn set_count(&mut self, name: &str, count: u64) {
        let rows = self.rows.iter_mut().filter(|row| row.name == name);
        rows.for_each(|row| row.count = count);
    }

    fn set(&mut self, counts: Counts) {
        self.set_count(CLIENTS, counts.clients);
        self.set_count(TUNNELS, counts.tunnels);
    }

    /// What would make room for all of it and `more_bytes`.
    fn remedy(&self, more_bytes: u64) -> String {
        let growth = self.sum(|row| row.name == GROWTH);
        let others = (self.total() - growth).saturating_add(more_bytes);
        // What is kept for growth rises with the ceiling.
        let needed = (others / (GROWTH_PART - 1)).saturating_mul(GROWTH_PART) + GROWTH_PART;
        let needed_mb = needed.max(others.saturating_add(growth)).div_ceil(MIB);
        match self.ceiling.limit {
            None => format!("raise memory.max_mb to {needed_mb}"),
            Some(Limit { name, percent, .. }) => {
                format!("raise {name} to {} MiB", (needed_mb * 100).div_ceil(percent) + 1)
            }
        }
    }

    /// What to change, by how much: the largest of the rows that can be made small enough.
    fn refusal(&self) -> PlanError {
        let total = self.total();
        let excess = total.saturating_sub(self.ceiling.bytes);
        let enough = |row: &&Row| !row.key.is_empty() && row.bytes() > excess + row.each_bytes;
        let largest = self.rows.iter().filter(enough).max_by_key(|row| row.bytes());
        let lower = largest.map_or_else(String::new, |row| {
            let workers = if row.key == "buffers.chunks_per_worker" { self.workers } else { 1 };
            let most = (row.bytes() - excess) / row.each_bytes / workers;
            format!("lower {} from {} to {}, or ", row.key, row.count / workers, most.max(1))
        });
        let remedy = self.remedy(0);
        let (total, ceiling) = (readable(total), self.ceiling);
        PlanError(format!(
            "the configuration can need {total}, which is not in {ceiling}: {lower}{remedy}"
        ))
    }
}

/// The ceiling, and what is to be said about it.
fn ceiling(memory: &MemoryConfig, usage: &Usage) -> (Ceiling, Option<Notice>) {
    let group = usage.cgroup_limit.map(|bytes| ("the control group's limit", bytes));
    let addresses = usage.address_limit.map(|bytes| ("the limit of addresses (RLIMIT_AS)", bytes));
    let tightest = group.into_iter().chain(addresses).min_by_key(|(_, bytes)| *bytes);
    let share = |percent| {
        tightest.map(|(name, bytes)| {
            let limit = Limit { name, bytes, percent };
            let share_mb = (bytes / 100 * percent / MIB).max(1);
            Ceiling { bytes: share_mb * MIB, limit: Some(limit) }
        })
    };
    let fixed = |mb: u64| Ceiling { bytes: mb.saturating_mul(MIB), limit: None };
    match memory.max {
        MemoryMax::Auto => (share(AUTOMATIC_PERCENT).unwrap_or_else(|| fixed(AUTOMATIC_MB)), None),
        MemoryMax::Mb(mb) => match share(LIMIT_PERCENT) {
            Some(most) if most.bytes < fixed(mb).bytes => {
                let text =
                    format!("memory.max_mb = {mb} is more than there is and counts as {most}");
                // The standard value is no choice.
                let is_expected = memory.max == MemoryConfig::default().max;
                (most, Some(Notice { text, is_expected }))
            }
            _ => (fixed(mb), None),
        },
    }
}

/// Replaces what depends on the machine by numbers.
fn settle(memory: &mut MemoryConfig, ceiling: &Ceiling) -> Option<Notice> {
    // The operator has not chosen what the standard values come to with a maximum of the machine's.
    let standard = MemoryConfig::default();
    let is_unchosen = memory.max == MemoryMax::Auto && memory.cleanup_mb == standard.cleanup_mb;
    let is_expected = *memory == standard;
    memory.max = MemoryMax::Mb(ceiling.bytes / MIB);
    let limits = memory.limits(AUTOMATIC_MB);
    let given_mb = std::mem::replace(&mut memory.cleanup_mb, limits.cleanup_mb);
    (limits.is_cleanup_lowered && !is_unchosen).then(|| Notice {
        text: format!(
            "memory.cleanup_mb = {given_mb} is not below the maximum of {} and counts as {}",
            limits.max_mb, limits.cleanup_mb
        ),
        is_expected,
    })
}

/// The lines that the watch goes by, once the configuration has been made to fit.
pub(crate) fn thresholds(memory: &MemoryConfig) -> Thresholds {
    let limits = memory.limits(AUTOMATIC_MB);
    Thresholds { cleanup_bytes: limits.cleanup_mb * MIB, max_bytes: limits.max_mb * MIB }
}

fn rows(config: &Config, usage: &Usage, ceiling: &Ceiling) -> Vec<Row> {
    let base = if usage.address_limit.is_some() { ADDRESSED } else { RESIDENT };
    let workers = config.server.workers as u64;
    let head = allocated(config.buffers.head_buffer_bytes as u64);
    let chunks = workers.saturating_mul(config.buffers.chunks_per_worker as u64);
    let counts = Counts::of(config);
    let users = u64::from(config.forward.users_file.is_some());
    let log = &config.log;
    let lanes = if log.access { workers * LANE_BUFFERS + 1 } else { 0 };
    let growth =
        (ceiling.bytes / GROWTH_PART).max(config.limits.response_head_bytes as u64 * workers);
    let row = |name, count, each_bytes, key| Row { name, count, each_bytes, key };
    let sessions = Sessions::of(config);
    vec![
        row("program", 1, base.program_bytes, ""),
        row("workers", workers, base.worker_bytes, "server.workers"),
        row("chunks", chunks, config.buffers.chunk_bytes as u64, "buffers.chunks_per_worker"),
        row(
            CLIENTS,
            counts.clients,
            head + CONVERSATION_BYTES + CONNECTION_BYTES + sessions.client_bytes,
            "limits.clients",
        ),
        row(
            ORIGINS,
            Origins::of(config).least,
            head + CONNECTION_BYTES + sessions.origin_bytes,
            "pool.max_connections",
        ),
        row(TUNNELS, counts.tunnels, TUNNEL_BYTES, "limits.tunnels"),
        row(STREAMS, 0, head + CONVERSATION_BYTES, "limits.streams"),
        row(GROWTH, 1, growth, ""),
        row("names", config.dns.cache_entries as u64, NAME_BYTES, "dns.cache_entries"),
        row("origins", origins::configured(config), origins::each_bytes(workers), ""),
        row("authentication", users, AUTHENTICATION_BYTES, ""),
        row("password checks", users * PASSWORD_CHECKS, PASSWORD_CHECK_BYTES_MAX, ""),
        row("event lines", log.queue_lines as u64, EVENT_LINE_BYTES, "log.queue_lines"),
        row("access log lines", lanes * log.queue_lines as u64, LANE_LINE_BYTES, "log.queue_lines"),
        row("tls records", workers, sessions.worker_bytes, ""),
    ]
}

/// What a worker's lane of the access log can hold per line of `log.queue_lines`, and in how many
/// buffers; the writer has one more (see `access_log`).
pub(crate) const LANE_LINE_BYTES: u64 = 512;
const LANE_BUFFERS: u64 = 2;

/// What the allocator takes for a buffer of this size: of 8 KiB, seven fit on a page of 64 KiB.
fn allocated(bytes: u64) -> u64 {
    bytes + bytes.div_ceil(6)
}

impl fmt::Display for Ceiling {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} MiB", self.bytes / MIB)?;
        match self.limit {
            None => out.write_str(" (memory.max_mb)"),
            Some(Limit { name, bytes, percent }) => {
                write!(out, " ({percent} % of {name}, {})", readable(bytes))
            }
        }
    }
}

/// The table: what there is, how much each takes, and the sum below.
impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<20}{:>10}{:>12}{:>12}", "memory, at worst", "count", "each", "together")?;
        for row in self.rows.iter().filter(|row| row.bytes() > 0) {
            let (each, all) = (readable(row.each_bytes), readable(row.bytes()));
            writeln!(out, "{:<20}{:>10}{each:>12}{all:>12}", row.name, row.count)?;
        }
        writeln!(out, "{:<42}{:>12}", "in all", readable(self.total()))?;
        write!(out, "may be {}", self.ceiling)
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for PlanError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Kind, Ledger};

    const ROOMY: Usage =
        Usage { rss_bytes: 0, cgroup_limit: None, cgroup_usage: None, address_limit: None };

    fn within(address_mb: u64) -> Usage {
        Usage { address_limit: Some(address_mb * MIB), ..ROOMY }
    }

    fn config(workers: usize) -> Config {
        let mut config = Config::default();
        config.server.workers = workers;
        config
    }

    #[test]
    fn the_defaults_fit_without_a_limit() {
        for workers in [1, 2, 16] {
            let mut fitted = config(workers);
            let (plan, notices) = Plan::fit(&mut fitted, &ROOMY, false, false).unwrap();
            assert_eq!(notices, []);
            assert!(plan.fits(), "{plan}");
            assert_eq!(fitted, config(workers));
        }
    }

    #[test]
    fn limits_that_nobody_gave_are_lowered_to_what_fits() {
        for workers in [1, 2] {
            let mut fitted = config(workers);
            let usage = within(128);
            let (plan, notices) = Plan::fit(&mut fitted, &usage, false, false).unwrap();
            assert!(plan.fits(), "{plan}");
            assert_eq!(plan.ceiling().bytes, 121 * MIB);
            // Thousands of clients, and not one more.
            assert!((3_000..6_000).contains(&fitted.limits.clients), "{plan}");
            let one_more = plan.each_bytes(CLIENTS) + plan.each_bytes(TUNNELS);
            assert!((100..=fitted.limits.clients).contains(&fitted.limits.tunnels), "{plan}");
            assert!(plan.total() + one_more > plan.ceiling().bytes, "{plan}");
            assert_eq!(plan, Plan { ceiling: plan.ceiling(), ..Plan::of(&fitted, &usage) });
            let texts: Vec<_> = notices.iter().map(|notice| notice.text.as_str()).collect();
            let starts = [
                "memory.max_mb = 500 is more than there is and counts as 121 MiB (95 % of the \
                 limit of addresses (RLIMIT_AS), 128.0 MiB)",
                "memory.cleanup_mb = 400 is not below the maximum of 121 and counts as 96",
                "limits.clients = 10000 does not fit in 121 MiB ",
                "limits.tunnels = 10000 does not fit in 121 MiB ",
            ];
            assert_eq!(texts.len(), starts.len(), "{texts:#?}");
            for (text, start) in texts.iter().zip(starts) {
                assert!(text.starts_with(start), "{text}");
            }
            // What is advised makes room for everything.
            let advice = " for now: raise the limit of addresses (RLIMIT_AS) to ";
            let mut raised = config(workers);
            let usage = within(advised(texts[2], advice));
            let (_, notices) = Plan::fit(&mut raised, &usage, false, false).unwrap();
            assert_eq!(raised.limits, config(workers).limits, "{notices:?}");
        }
    }

    #[test]
    fn what_was_given_is_kept_or_refused() {
        let mut given = config(1);
        given.limits.clients = 4_400;
        let (plan, _) = Plan::fit(&mut given, &within(128), true, false).unwrap();
        assert!(plan.fits());
        assert_eq!(given.limits.clients, 4_400);
        assert!(given.limits.tunnels < 4_400);

        // Fewer clients than tunnels are a restriction of the tunnels that needs no line in the
        // log.
        let mut given = config(1);
        given.limits.clients = 50;
        let (plan, notices) = Plan::fit(&mut given, &ROOMY, true, false).unwrap();
        assert_eq!((plan.rows()[5].count, notices), (50, vec![]));
        assert_eq!((given.limits.clients, given.limits.tunnels), (50, 10_000));

        let mut given = config(1);
        given.limits.tunnels = 2_000;
        let (plan, _) = Plan::fit(&mut given, &within(128), false, true).unwrap();
        assert!(plan.fits());
        assert_eq!(given.limits.tunnels, 2_000);

        let mut given = config(1);
        given.limits.clients = 50_000;
        given.memory.max = MemoryMax::Mb(300);
        let error = Plan::fit(&mut given, &ROOMY, true, true).unwrap_err().to_string();
        let advice = advised(&error, "lower limits.clients from 50000 to ");
        assert!(error.contains(" not in 300 MiB (memory.max_mb): "), "{error}");
        // Both pieces of advice are right, and no more than is needed.
        let raised = advised(&error, "or raise memory.max_mb to ");
        for (clients, max_mb, is_enough) in [
            (advice, 300, true),
            (advice + 1, 300, false),
            (50_000, raised, true),
            (50_000, raised - 2, false),
        ] {
            let mut config = given.clone();
            config.limits.clients = clients as usize;
            config.memory.max = MemoryMax::Mb(max_mb);
            let fitted = Plan::fit(&mut config, &ROOMY, true, true);
            assert_eq!(fitted.is_ok(), is_enough, "{clients} {max_mb}: {error}");
        }
    }

    /// The number behind `words`.
    #[track_caller]
    fn advised(error: &str, words: &str) -> u64 {
        let (_, rest) = error.split_once(words).unwrap_or_else(|| panic!("{error}"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let mut large = config(4);
        large.buffers.chunks_per_worker = 1024;
        large.memory.max = MemoryMax::Mb(200);
        let error = Plan::fit(&mut large, &ROOMY, false, false).unwrap_err().to_string();
        let chunks = advised(&error, "lower buffers.chunks_per_worker from 1024 to ");
        large.buffers.chunks_per_worker = chunks as usize;
        Plan::fit(&mut large, &ROOMY, false, false).unwrap();

        // Nothing helps but more memory.
        let error = Plan::fit(&mut config(1), &within(16), false, false).unwrap_err().to_string();
        assert!(error.starts_with("the configuration can need "), "{error}");
        assert!(!error.contains("lower"), "{error}");
        let raised = advised(&error, "raise the limit of addresses (RLIMIT_AS) to ");
        Plan::fit(&mut config(1), &within(raised), false, false).unwrap();
    }

    #[test]
    fn the_ceiling_is_a_share_of_the_tightest_limit() {
        let memory = |max| MemoryConfig { max, ..Config::default().memory };
        let limits = |group: Option<u64>, addresses: Option<u64>| Usage {
            cgroup_limit: group.map(|mb| mb * MIB),
            address_limit: addresses.map(|mb| mb * MIB),
            ..ROOMY
        };
        for (max, group, addresses, expected) in [
            (MemoryMax::Auto, None, None, "500 MiB (memory.max_mb)"),
            (MemoryMax::Auto, Some(1000), None, "800 MiB (80 % of the control group's limit, 1000"),
            (MemoryMax::Auto, Some(1000), Some(200), "160 MiB (80 % of the limit of addresses (RL"),
            (MemoryMax::Mb(90), Some(100), Some(200), "90 MiB (memory.max_mb)"),
            (MemoryMax::Mb(96), Some(100), None, "95 MiB (95 % of the control group's limit, 100"),
            (MemoryMax::Mb(u64::MAX), None, None, "17592186044415 MiB (memory.max_mb)"),
        ] {
            let (ceiling, notice) = ceiling(&memory(max), &limits(group, addresses));
            let text = ceiling.to_string();
            assert!(text.starts_with(expected), "{text}");
            assert_eq!(notice.is_some(), max == MemoryMax::Mb(96));
        }
    }

    #[test]
    fn the_watch_goes_by_what_was_settled() {
        let mut config = config(1);
        config.memory.max = MemoryMax::Auto;
        let usage = Usage { cgroup_limit: Some(256 * MIB), ..ROOMY };
        Plan::fit(&mut config, &usage, false, false).unwrap();
        let expected = Thresholds { cleanup_bytes: 163 * MIB, max_bytes: 204 * MIB };
        assert_eq!(thresholds(&config.memory), expected);
    }

    #[test]
    fn streams_have_what_is_left_and_lower_nothing() {
        let streams = |plan: &Plan| plan.rows().iter().find(|row| row.name == STREAMS).copied();
        for address_mb in [128, 160, 1024, 1 << 20] {
            let (usage, mut fitted) = (within(address_mb), config(1));
            let (plan, _) = Plan::fit(&mut fitted, &usage, false, false).unwrap();
            let row = streams(&plan).unwrap();
            assert!(plan.fits() && row.count <= fitted.limits.streams as u64, "{plan}");
            let has_room = plan.total() + row.each_bytes <= plan.ceiling().bytes;
            assert!(!has_room || row.count == fitted.limits.streams as u64, "{plan}");
            let mut fewer = config(1);
            fewer.limits.streams = 1;
            let (other, _) = Plan::fit(&mut fewer, &usage, false, false).unwrap();
            assert!(streams(&other).unwrap().count <= 1, "{other}");
            assert_eq!(fewer.limits.clients, fitted.limits.clients, "{other}");
            // What streams do not take may be grown into, and the reverse.
            assert_eq!(format!("{:?}", other.budget()), format!("{:?}", plan.budget()));
        }
    }

    #[test]
    fn what_growth_gets_and_what_is_promised_stay_below_the_ceiling() {
        let mut config = config(2);
        let (plan, _) = Plan::fit(&mut config, &within(128), false, false).unwrap();
        let budget = plan.budget();
        let outside = plan.sum(|row| PROCESS_WIDE.contains(&row.name));
        let promised = plan.total() - outside - plan.sum(|row| row.name == GROWTH);
        let ledger = Ledger::default();
        ledger.set(Kind::Connections, promised / 2);
        // All that is promised leaves room for growth, which ends before the ceiling does.
        while budget.grow(&ledger, KIB) {
            ledger.add(Kind::HeadBuffers, KIB);
        }
        assert!(budget.grown_bytes() + KIB >= plan.each_bytes(GROWTH) / 2);
        assert!(outside + 2 * ledger.total() <= plan.ceiling().bytes);
    }

    #[test]
    fn the_table_is_aligned_and_adds_up() {
        let mut config = config(2);
        config.log.access = true;
        let plan = Plan::of(&config, &ROOMY);
        let text = plan.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "memory, at worst         count        each    together");
        assert_eq!(lines[3], "chunks                      64    64.0 KiB     4.0 MiB", "{text}");
        assert!(lines[..lines.len() - 1].iter().all(|line| line.len() == 54), "{text}");
        assert_eq!(lines.last(), Some(&"may be 500 MiB (memory.max_mb)"));
        assert!(!text.contains("authentication"), "{text}");
        config.forward.users_file = Some("users".into());
        let text = Plan::of(&config, &ROOMY).to_string();
        assert!(text.contains("password checks              2    19.0 MiB    38.0 MiB"), "{text}");
        assert_eq!(plan.total(), plan.rows().iter().map(Row::bytes).sum::<u64>());
        assert_eq!((readable(0).as_str(), readable(1).as_str()), ("0.0 KiB", "0.1 KiB"));
        assert_eq!(readable(MIB + 1), "1.1 MiB");
    }
}
