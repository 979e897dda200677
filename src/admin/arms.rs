//! `GET /arms`: what the arms of a route's split have come to, as finely as it is counted.
//!
//! In goes the name of a route; out come counts since the start, which whoever asks twice can
//! subtract. Nothing is judged here.

use std::time::Instant;

use serde_json::{Value, json};

use super::named::CLASSES;
use super::proxy::Proxy;
use super::tally::{Tally, merged};

/// The arms of the route with this name, or of the only one that has some. An error says which
/// there are.
pub(super) fn report(proxy: &Proxy, route: Option<&str>) -> Result<Value, String> {
    let snapshot = proxy.snapshot();
    let workers = &snapshot.counts;
    let split = workers.first().into_iter().flat_map(|worker| worker.arms.iter().enumerate());
    let split = split.filter(|(_, arms)| !arms.is_empty());
    let all: Vec<(usize, String)> =
        split.map(|(index, _)| (index, snapshot.config.routes[index].name())).collect();
    let found = match route {
        Some(name) => all.iter().find(|(_, known)| known == name),
        None if all.len() == 1 => all.first(),
        None => None,
    };
    let Some((index, name)) = found else {
        let known: Vec<_> = all.iter().map(|(_, name)| format!("{name:?}")).collect();
        return Err(match (route, known.is_empty()) {
            (_, true) => "no route has a split (hooks.split)".to_owned(),
            (Some(route), _) => {
                format!("no route {route:?} has a split, only: {}", known.join(", "))
            }
            (None, _) => format!("several routes have a split, name one of: {}", known.join(", ")),
        });
    };
    let arms = workers[0].arms[*index].iter().enumerate().map(|(at, arm)| {
        let each = || workers.iter().filter_map(move |one| one.arms.get(*index)?.get(at));
        let tally = Tally::of(each().map(|arm| &*arm.traffic));
        let latency = merged(each().map(|arm| &*arm.latency));
        let recorded = latency.iter_recorded();
        let buckets: Vec<(u64, u64)> = recorded
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
            .collect();
        let classes: serde_json::Map<String, Value> =
            CLASSES.into_iter().map(str::to_owned).zip(tally.classes.map(Value::from)).collect();
        json!({
            "upstream": snapshot.config.upstreams[arm.upstream].name,
            "classes": classes,
            "sum_us": tally.sum_us,
            // Pairs of microseconds and how often.
            "latencies": buckets,
        })
    });
    Ok(json!({
        "route": name,
        "generation": snapshot.id,
        "at_us": Instant::now().saturating_duration_since(proxy.started).as_micros() as u64,
        "arms": arms.collect::<Vec<_>>(),
    }))
}
