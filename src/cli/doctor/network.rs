//! Sockets: descriptors, queues, ports.
//!
//! In: facts and the configuration. Out: one finding per check. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::address::UnixAddress;
use crate::config::{AdminAddress, Config, UpstreamConfig};
use crate::memory::origins::origin_connections;
use crate::server::FILES_RESERVED;
use crate::unix_socket;

use super::facts::Facts;
use super::finding::{Cure, Finding, Severity};
use super::setting::{self, Scope, Setting};
use super::sockets::Listening;

const CAP_NET_BIND_SERVICE: u32 = 10;

/// Where ringway will listen; port 0 is always free.
fn addresses(config: &Config) -> Vec<SocketAddr> {
    let admin = match &config.admin.address {
        AdminAddress::Tcp(address) if config.admin.enabled => Some(*address),
        _ => None,
    };
    let listeners = config.server.listeners.iter().filter_map(|own| own.address.tcp());
    listeners.chain(admin).filter(|address| address.port() != 0).collect()
}

/// Whether one socket keeps the other from being opened.
fn overlaps(wanted: SocketAddr, taken: SocketAddr) -> bool {
    // Most programs let `::` take IPv4 as well.
    let is_any = |ip: IpAddr| ip.is_unspecified();
    let is_dual = taken.is_ipv6() && is_any(taken.ip());
    let is_family = wanted.is_ipv4() == taken.is_ipv4() || is_dual;
    wanted.port() == taken.port()
        && is_family
        && (wanted.ip() == taken.ip() || is_any(wanted.ip()) || is_any(taken.ip()))
}

pub(super) fn listeners(facts: &Facts, config: &Config) -> Finding {
    let mut taken = BTreeSet::new();
    let mut worst = Severity::Ok;
    for wanted in addresses(config) {
        for Listening { address, holder } in &facts.listening {
            if !overlaps(wanted, *address) {
                continue;
            }
            let (severity, who) = match holder {
                Some(holder) if holder.name == "ringway" => (Severity::Ok, "ringway".to_owned()),
                Some(holder) => (Severity::Error, format!("{} ({})", holder.name, holder.pid)),
                // A process of another user: it may be the ringway that runs.
                None => (Severity::Warning, "another user's process".to_owned()),
            };
            worst = worst.max(severity);
            taken.insert(format!("{address} by {who}"));
        }
    }
    if taken.is_empty() {
        return Finding::fine("listeners", "free", "free, or ringway's");
    }
    let taken = taken.into_iter().collect::<Vec<_>>().join(", ");
    let finding = Finding::fine("listeners", taken, "free, or ringway's");
    if worst == Severity::Ok {
        return finding;
    }
    let cure = Cure::new(
        "ss -ltnp shows who listens; stop it",
        "another server.port, server.listen or admin.address",
    );
    finding.but(worst, "two programs cannot listen on one port", cure)
}

pub(super) fn privileged_ports(facts: &Facts, config: &Config) -> Option<Finding> {
    let first = facts.first_unprivileged_port;
    let low = addresses(config).into_iter().find(|it| u64::from(it.port()) < first)?;
    let finding =
        Finding::fine("low_ports", format!("port {}", low.port()), format!("{first} or above"));
    if facts.has_capability(CAP_NET_BIND_SERVICE) {
        return Some(finding);
    }
    let why = "ports below net.ipv4.ip_unprivileged_port_start take CAP_NET_BIND_SERVICE";
    let cure = Cure::new(
        format!("--port {first}, or docker run --cap-add NET_BIND_SERVICE"),
        "systemd: docker/systemd/ringway.socket, or AmbientCapabilities=CAP_NET_BIND_SERVICE",
    );
    Some(finding.but(Severity::Error, why, cure))
}

/// The files of listeners and origins.
pub(super) fn unix_sockets(_: &Facts, config: &Config) -> Option<Finding> {
    let listeners = config.server.listeners.iter().filter_map(|own| own.address.unix());
    let origins = config.upstreams.iter().flat_map(UpstreamConfig::all_origins);
    let origins = origins.filter_map(|origin| UnixAddress::parse(&origin.host));
    let obstacles = |all: Vec<UnixAddress>, obstacle: fn(&Path) -> Option<String>| {
        let one = move |it: UnixAddress| Some(format!("{it}: {}", obstacle(it.path()?)?));
        all.into_iter().filter_map(one).collect::<Vec<_>>()
    };
    let (listeners, origins): (Vec<_>, Vec<_>) = (listeners.collect(), origins.collect());
    if listeners.is_empty() && origins.is_empty() {
        return None;
    }
    let closed = obstacles(listeners, unix_socket::folder_obstacle);
    let away = obstacles(origins, unix_socket::obstacle);
    let worst = match (closed.is_empty(), away.is_empty()) {
        (true, true) => {
            let wanted = "folders that can be written to, origins that listen";
            return Some(Finding::fine("unix_sockets", "in order", wanted));
        }
        (true, false) => Severity::Warning,
        (false, _) => Severity::Error,
    };
    let current = [closed, away].concat().join(", ");
    let finding = Finding::fine("unix_sockets", current, "there, with the right to write");
    let cure = Cure::new(
        "mkdir -p, chown and chmod of the folder; start the origin, or add ringway to its group",
        "systemd: RuntimeDirectory=ringway, SupplementaryGroups=",
    );
    Some(finding.but(worst, "to connect to a Unix socket takes the right to write to it", cure))
}

/// Connections that ringway may have at once, clients' and its own.
fn connections(config: &Config) -> u64 {
    // A tunnel of the forward proxy has a connection that no other limit counts.
    let tunnels = if config.forward.enabled { config.limits.tunnels } else { 0 };
    (config.limits.clients as u64)
        .saturating_add(origin_connections(config, usize::MAX) as u64)
        .saturating_add(tunnels as u64)
}

pub(super) fn open_files(facts: &Facts, config: &Config) -> Option<Finding> {
    // ringway raises the soft limit itself.
    let limit = facts.open_files?.hard;
    let needed = connections(config).saturating_add(FILES_RESERVED as u64);
    let current = if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
    let finding = Finding::fine("open_files", current, needed);
    if limit >= needed {
        return Some(finding);
    }
    let cure = Cure::new(
        format!("ulimit -Hn {needed} (as root), or docker run --ulimit nofile={needed}:{needed}"),
        format!("systemd LimitNOFILE={needed}, compose `ulimits: {{nofile: {needed}}}`"),
    );
    let why = "limits.clients, limits.tunnels and connections to origins do not fit: ringway takes \
               fewer clients";
    Some(finding.but(Severity::Warning, why, cure))
}

/// A setting that is to be at least so much.
fn at_least(
    facts: &Facts,
    id: &'static str,
    current: Option<u64>,
    setting: Setting,
    why: &str,
) -> Finding {
    let Some(current) = current else { return Finding::hidden(id, setting.value) };
    let finding = Finding::fine(id, current, setting.value);
    if current >= setting.value {
        return finding;
    }
    finding.but(Severity::Hint, why, setting.cure(facts, setting.value))
}

pub(super) fn somaxconn(facts: &Facts, config: &Config) -> Finding {
    let why = "in a burst, connections that find the queue of a listener full are dropped";
    let mut finding = at_least(facts, "somaxconn", facts.somaxconn, setting::SOMAXCONN, why);
    let backlog = u64::from(config.server.backlog);
    if facts.somaxconn.is_some_and(|current| current < backlog) {
        finding.severity = Severity::Warning;
        finding.why = format!("server.backlog = {backlog} is cut to this");
    }
    finding
}

pub(super) fn syn_backlog(facts: &Facts, _: &Config) -> Finding {
    let why = "in a burst, half open connections beyond it get SYN cookies, or are dropped";
    at_least(facts, "tcp_max_syn_backlog", facts.syn_backlog, setting::SYN_BACKLOG, why)
}

pub(super) fn netdev_backlog(facts: &Facts, _: &Config) -> Finding {
    let why = "packets that find a core's queue full are dropped and sent again";
    let current = facts.netdev_backlog;
    at_least(facts, "netdev_max_backlog", current, setting::NETDEV_BACKLOG, why)
}

pub(super) fn ports(facts: &Facts, config: &Config) -> Finding {
    let (first, last) = setting::PORTS;
    let wanted = format!("{first} {last}");
    let Some(range) = facts.port_range else { return Finding::hidden("ports", wanted) };
    let count = range.last.saturating_add(1).saturating_sub(range.first);
    let current = format!("{} {}", range.first, range.last);
    let finding = Finding::fine("ports", current, &wanted);
    let cure = || setting::cure(facts, Scope::Namespace, setting::PORTS_NAME, &wanted);
    let needed = config.pool.max_connections as u64;
    if count < needed {
        let why = format!(
            "each connection to one origin takes a port of {count}, and \
             pool.max_connections = {needed}"
        );
        finding.but(Severity::Warning, why, cure())
    } else if count <= last - first {
        let why = "each connection to one origin takes a port, for a minute longer than it lasts";
        finding.but(Severity::Hint, why, cure())
    } else {
        finding
    }
}

pub(super) fn ports_of_listeners(facts: &Facts, config: &Config) -> Option<Finding> {
    let range = facts.port_range?;
    let is_reserved = |port: u64| {
        facts.reserved_ports.split(',').any(|ports| {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let (first, last) = (first.trim().parse(), last.trim().parse());
            matches!((first, last), (Ok(first), Ok(last)) if (first..=last).contains(&port))
        })
    };
    let open: BTreeSet<_> = (addresses(config).iter())
        .map(|address| u64::from(address.port()))
        .filter(|port| (range.first..=range.last).contains(port) && !is_reserved(*port))
        .collect();
    if open.is_empty() {
        return None;
    }
    let open = open.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let reserved = match facts.reserved_ports.as_str() {
        "" => open.clone(),
        others => format!("{others},{open}"),
    };
    let name = setting::RESERVED_PORTS_NAME;
    let why = "an outgoing connection may hold the port when ringway starts, which then cannot \
               listen";
    let cure = setting::cure(facts, Scope::Namespace, name, &reserved);
    let finding = Finding::fine("ports_of_listeners", format!("{open} not reserved"), "reserved");
    Some(finding.but(Severity::Hint, why, cure))
}

pub(super) fn time_wait(facts: &Facts, _: &Config) -> Finding {
    let setting = setting::TIME_WAIT_REUSE;
    let Some(current) = facts.time_wait_reuse else {
        return Finding::hidden("tcp_tw_reuse", setting.value);
    };
    let finding = Finding::fine("tcp_tw_reuse", current, setting.value);
    if current == setting.value {
        return finding;
    }
    let why =
        "a port of a connection that has ended rests for a minute before an origin's next one";
    finding.but(Severity::Hint, why, setting.cure(facts, setting.value))
}

pub(super) fn conntrack(facts: &Facts, config: &Config) -> Option<Finding> {
    let most = facts.conntrack_max?;
    let count = facts.conntrack_count.unwrap_or(0);
    // What has ended is kept in mind for two minutes: as many again.
    let needed = connections(config).saturating_mul(2);
    let wanted = setting::CONNTRACK.value.max(needed);
    let finding =
        |wanted| Finding::fine("conntrack", format!("{count} of {most}"), format!("{wanted}"));
    let cure = || setting::CONNTRACK.cure(facts, wanted);
    Some(if most < needed {
        let why = "the firewall drops packets of connections that it has no room to remember";
        finding(wanted).but(Severity::Warning, why, cure())
    } else if count > most / 5 * 4 {
        let why = "the table of the firewall is almost full, whoever fills it";
        let wanted = wanted.max(most.saturating_mul(2));
        let cure = setting::CONNTRACK.cure(facts, wanted);
        finding(wanted).but(Severity::Warning, why, cure)
    } else {
        finding(needed)
    })
}
