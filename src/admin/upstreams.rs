//! Upstreams, their origins and their targets: what they are now, and what an operator wants of
//! them.
//!
//! In goes a snapshot; out come JSON, and counts by state for Prometheus. What an operator wants is
//! said to the targets themselves, which all workers share; a reload leaves it as it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::proxy::Proxy;
use crate::ring::clock;
use crate::upstream::permits::UPSTREAM;
use crate::upstream::target::{Reason, Target, Wish};
use crate::upstream::{UpstreamPlan, outcomes};
use crate::worker::mailbox::WorkerCommand;

/// All upstreams, with why whoever is not asked is not asked.
pub(super) async fn listed(proxy: &Proxy) -> Value {
    let idle = idle(proxy).await;
    let now = clock::coarse_ms();
    let snapshot = proxy.snapshot();
    let figures = proxy.shared.pool.figures();
    let upstreams = snapshot.upstreams.iter().map(|plan| {
        let targets = plan.targets().map(|(origin, target)| {
            let up_seconds = || now.saturating_sub(target.up_since_ms()) / 1_000;
            json!({
                "origin": origin.url,
                "server": origin.is_server.then_some(&*origin.authority),
                "address": target.address.to_string(),
                "weight": target.weight(origin.weight),
                "priority": origin.priority,
                "zone": Some(&origin.zone).filter(|zone| !zone.is_empty()),
                "state": state(&target),
                "check": target.check().map(|is_good| if is_good { "good" } else { "bad" }),
                "check_error": target.check_error(),
                "connect_error": connect_error(&target, now),
                "busy": plan.config.balance.counts_requests().then(|| target.busy()),
                "latency_us": Some(target.latency_us()).filter(|us| *us != 0),
                "connections": origin.quota.open(),
                "idle": idle.get(&Arc::as_ptr(&target)).copied().unwrap_or_default(),
                "max_connections": origin.quota.max(),
                "learnt": learnt(&target, now),
                "up_seconds": target.is_sound().then(up_seconds),
            })
        });
        let name = format!("{UPSTREAM}{}", plan.config.name);
        let own = figures.iter().find(|group| *group.name == *name);
        json!({
            "name": plan.config.name,
            "connections": own.map_or(0, |group| group.open),
            "max_connections": own.map(|group| group.max),
            "waiting": own.map_or(0, |group| group.waiting),
            "found": plan.config.is_found.then_some("docker"),
            "targets": targets.collect::<Vec<_>>(),
        })
    });
    let mut listed = json!({ "upstreams": upstreams.collect::<Vec<_>>() });
    if let Some(report) = proxy.shared.discovery.report() {
        listed["discovery"] = report;
    }
    listed
}

/// How many connections to each target wait for a request, in all workers that answer.
async fn idle(proxy: &Proxy) -> HashMap<*const Target, usize> {
    let answers = proxy.ask(|reply| WorkerCommand::Idle { reply }).await;
    let mut sums = HashMap::new();
    for (target, count) in answers.given.into_iter().flatten() {
        *sums.entry(Arc::as_ptr(&target)).or_default() += count;
    }
    sums
}

/// Why the last attempt to connect that failed did, and how long ago.
fn connect_error(target: &Target, now: u64) -> Value {
    let error = target.connect_error().map(|(fault, at_ms)| {
        let seconds = now.saturating_sub(at_ms) / 1_000;
        json!({ "error": fault.name(), "seconds_ago": seconds })
    });
    error.unwrap_or_default()
}

/// What the connections to a target have taught about it, and how long ago.
fn learnt(target: &Target, now: u64) -> Value {
    let known = &target.learnt;
    let ago = |at_ms: u64| now.saturating_sub(at_ms) / 1_000;
    let idle = known.bound().map(|bound| {
        json!({
            "ms": bound.ms,
            "from": if bound.is_told { "header" } else { "closes" },
            "seconds_ago": ago(bound.at_ms),
        })
    });
    json!({
        "keeps_connections": known.keeps(),
        "serves_several": known.serves_several(),
        "seconds_ago": known.seen_at_ms().map(ago),
        "idle_timeout": idle,
        "closed_after_ms": known.limit_ms(),
    })
}

/// Counts of the targets of an upstream by their state, those that are 0 too.
pub(super) fn counted(plan: &UpstreamPlan) -> BTreeMap<&'static str, usize> {
    let states = ["up", "connect", "check", "errors", "slow", "drain", "down"];
    let mut counts: BTreeMap<_, _> = states.into_iter().map(|state| (state, 0)).collect();
    for (_, target) in plan.targets() {
        *counts.entry(state(&target)).or_default() += 1;
    }
    counts
}

/// How many origins are passed over with all of their targets for their checks or their answers.
pub(super) fn count_ill(plan: &UpstreamPlan) -> usize {
    let is_ill = |target: &Target| {
        matches!(target.reason(), Some(Reason::Check | Reason::Errors | Reason::Slow))
    };
    // By origin: of a name with two families, one is often nobody's.
    let mut well: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for (origin, target) in plan.targets() {
        let (is_up, is_out) = well.entry(origin.url.clone()).or_default();
        *is_up |= target.is_sound();
        *is_out |= !target.is_sound() && is_ill(&target);
    }
    well.values().filter(|(is_up, is_out)| *is_out && !is_up).count()
}

/// "up", or why it is not asked.
fn state(target: &Target) -> &'static str {
    if target.is_sound() { "up" } else { target.reason().map_or("up", |reason| reason.name()) }
}

/// What an operator makes of an origin.
#[derive(Clone, Copy)]
pub(super) struct OriginChange {
    pub wish: Option<Wish>,
    /// 0 is what the configuration says.
    pub weight: Option<u32>,
    /// It holds over a reload.
    pub is_kept: bool,
}

/// Changes the origin `origin` of the upstream `name`, a URL or one of its addresses. How many
/// targets that concerns, or what is wrong.
pub(super) fn change(
    proxy: &Proxy,
    name: &str,
    origin: &str,
    change: OriginChange,
) -> Result<usize, String> {
    let OriginChange { wish, weight, is_kept } = change;
    let snapshot = proxy.snapshot();
    let Some(plan) = snapshot.upstreams.iter().find(|plan| plan.config.name == name) else {
        let known = snapshot.upstreams.iter().map(|plan| plan.config.name.as_str());
        let known = known.collect::<Vec<_>>().join(", ");
        return Err(format!("there is no upstream {name:?}, only: {known}"));
    };
    let is_meant =
        |url: &str, target: &Target| url == origin || target.address.to_string() == origin;
    let mut count = 0;
    for (own, target) in plan.targets().filter(|(own, target)| is_meant(&own.url, target)) {
        target.keep_wish(is_kept);
        if let Some(weight) = weight {
            target.set_weight(weight);
        }
        if let Some(change) = wish.and_then(|wish| target.set_wish(wish, clock::coarse_ms())) {
            outcomes::announce(name, &own, &target, &change);
        }
        count += 1;
    }
    if count == 0 {
        let known = plan.targets().map(|(own, target)| format!("{} ({})", own.url, target.address));
        let known = known.collect::<Vec<_>>().join(", ");
        return Err(format!("the upstream {name:?} has no origin {origin:?}, only: {known}"));
    }
    if weight.is_some() {
        // Has the workers make their rosters anew.
        plan.weighings.fetch_add(1, Ordering::Release);
        plan.changes.fetch_add(1, Ordering::Release);
    }
    Ok(count)
}
