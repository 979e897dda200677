//! The settings of the kernel that ringway wishes for, and how they are set.
//!
//! Out: names, values, and the commands that set them on a machine and for a container.
//! `docker/sysctl.d/60-ringway.conf` sets the same ones to the same values; a test says so.

use super::facts::Facts;
use super::finding::Cure;

/// Connections that are complete and wait to be accepted.
pub(super) const SOMAXCONN: Setting = Setting::inside("net.core.somaxconn", 65_536);
/// Connections that are half open.
pub(super) const SYN_BACKLOG: Setting = Setting::inside("net.ipv4.tcp_max_syn_backlog", 65_536);
/// Packets between the network card and the protocol.
pub(super) const NETDEV_BACKLOG: Setting = Setting::outside("net.core.netdev_max_backlog", 5000);
/// Whether a port that rests may be used again for an outgoing connection.
pub(super) const TIME_WAIT_REUSE: Setting = Setting::inside("net.ipv4.tcp_tw_reuse", 1);
/// Connections that a firewall keeps in mind.
pub(super) const CONNTRACK: Setting = Setting::outside("net.netfilter.nf_conntrack_max", 262_144);
/// Ports for connections to origins, from the first to the last.
pub(super) const PORTS: (u64, u64) = (10_240, 65_535);
pub(super) const PORTS_NAME: &str = "net.ipv4.ip_local_port_range";
pub(super) const RESERVED_PORTS_NAME: &str = "net.ipv4.ip_local_reserved_ports";
pub(super) const IO_URING: Setting = Setting::outside("kernel.io_uring_disabled", 0);
pub(super) const OVERCOMMIT: Setting = Setting::outside("vm.overcommit_memory", 0);

/// A setting with the value to set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: u64,
    scope: Scope,
}

/// Where a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// In a network namespace: every container has its own.
    Namespace,
    Machine,
}

impl Setting {
    const fn inside(name: &'static str, value: u64) -> Self {
        Self { name, value, scope: Scope::Namespace }
    }

    const fn outside(name: &'static str, value: u64) -> Self {
        Self { name, value, scope: Scope::Machine }
    }

    /// What sets it to its value, or to more where more is needed.
    pub(super) fn cure(&self, facts: &Facts, value: u64) -> Cure {
        cure(facts, self.scope, self.name, &value.to_string())
    }
}

pub(super) fn cure(facts: &Facts, scope: Scope, name: &str, value: &str) -> Cure {
    let quoted = if value.contains(' ') { format!("'{value}'") } else { value.to_owned() };
    if facts.is_container && scope == Scope::Namespace {
        return Cure::new(
            format!("docker run --sysctl {name}={quoted} (the container is made anew)"),
            format!("compose: `sysctls:`, Kubernetes: `securityContext.sysctls`, {name}={quoted}"),
        );
    }
    let place = if facts.is_container { "on the host: " } else { "" };
    Cure::new(
        format!("{place}sysctl -w {name}={quoted}"),
        format!("{place}echo '{name} = {value}' >>/etc/sysctl.d/60-ringway.conf"),
    )
}
