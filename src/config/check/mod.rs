//! From what was written to what holds: ranges, names and the rules between keys.
//!
//! In: a `RawConfig` merged from every source. Out: a `Config`, or the first refusal with its
//! place and what was expected. A limit that another limit makes pointless is trimmed (a pool of
//! 10 connections keeps at most 10 idle), so that lowering one key never asks for a second.
//! Nothing here reads a file, asks DNS or knows a default.

mod forward;
mod hooks;
mod operation;
mod server;
mod upstream;
mod values;

use super::Config;
use super::error::Refusal;
use super::raw::RawConfig;

type Checked<T> = Result<T, Refusal>;

pub(super) fn config(raw: &RawConfig) -> Checked<Config> {
    let server = server::server(&raw.server)?;
    let limits = server::limits(&raw.limits)?;
    let upstreams = upstream::upstreams(raw)?;
    Ok(Config {
        timeouts: server::timeouts(&raw.timeouts)?,
        pool: server::pool(&raw.pool)?,
        buffers: server::buffers(&raw.buffers, &limits)?,
        log: server::log(&raw.log)?,
        routes: upstream::routes(&raw.route, &upstreams)?,
        forward: forward::forward(&raw.forward, &server.listeners)?,
        parents: forward::parents(&raw.parent)?,
        dns: operation::dns(&raw.dns)?,
        memory: operation::memory(&raw.memory)?,
        admin: operation::admin(raw, &server.listeners)?,
        hooks: hooks::hooks(&raw.hooks, &upstreams)?,
        stats: operation::stats(&raw.stats)?,
        alerts: operation::alerts(&raw.alerts)?,
        server,
        limits,
        upstreams,
    })
}
