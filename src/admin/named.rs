//! Traffic by name: routes, upstreams, origins, and the arms of splits.
//!
//! In goes a snapshot of the configuration with what the workers have counted; out come tallies
//! with their names, for statistics, and series for Prometheus. Of each kind, so many have an entry
//! of their own; the others share one, so that no answer grows with the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::exposition::{Exposition, Family, Label};
use super::tally::{Figures, Tally};
use crate::admin::units::NAMED_MAX;
use crate::observe::metrics::CLASS_COUNT;
use crate::observe::traffic::{ArmTraffic, NamedCounts, Traffic};
use crate::worker::generation::Snapshot;

/// `status / 100` as a label.
pub(super) const CLASSES: [&str; CLASS_COUNT] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What those are called together that have no entry of their own. A route begins with a host or
/// `*` and its path.
const OTHER: &str = "other";

/// What an entry is about. The order is that of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    Route,
    Upstream,
    Origin,
    Arm,
}

/// One name with what it has come to.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) of: Of,
    /// A route or an upstream, the upstream of an origin, the route of an arm.
    pub(super) name: String,
    /// The URL of an origin, the upstream of an arm; else empty.
    pub(super) part: String,
    pub(super) tally: Tally,
}

/// All of them at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct ByName(Vec<Entry>);

impl ByName {
    pub(super) fn read(snapshot: &Snapshot) -> Self {
        let mut all = Vec::new();
        let routes = &snapshot.config.routes;
        let names = routes.iter().take(NAMED_MAX).map(|route| (route.name(), String::new()));
        let counts = (0..routes.len()).map(|at| by(snapshot, |one| one.routes.get(at)));
        gather(&mut all, Of::Route, names, counts);
        let upstreams = &snapshot.config.upstreams;
        let names = upstreams.iter().take(NAMED_MAX).map(|it| (it.name.clone(), String::new()));
        let counts = (0..upstreams.len()).map(|at| by(snapshot, |one| one.upstreams.get(at)));
        gather(&mut all, Of::Upstream, names, counts);
        let origins = || {
            let plans = snapshot.upstreams.iter();
            plans.flat_map(|plan| plan.origins.iter().map(move |origin| (plan, origin)))
        };
        let names = origins().take(NAMED_MAX);
        let names = names.map(|(plan, origin)| (plan.config.name.clone(), origin.url.clone()));
        let counts =
            origins().map(|(_, it)| Tally::of(it.traffic.all().iter().map(|worker| &**worker)));
        gather(&mut all, Of::Origin, names, counts);
        let arms = || arms(snapshot);
        let names = arms()
            .take(NAMED_MAX)
            .map(|(route, _, arm)| (routes[route].name(), upstreams[arm.upstream].name.clone()));
        let counts = arms().map(|(route, at, _)| {
            let workers = snapshot.counts.iter();
            Tally::of(workers.filter_map(|one| Some(&*one.arms.get(route)?.get(at)?.traffic)))
        });
        gather(&mut all, Of::Arm, names, counts);
        Self(all)
    }

    pub(super) fn of(&self, of: Of) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.of == of)
    }

    /// What has come since `earlier`, name by name: whatever was not there then counts from zero.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let known: HashMap<_, _> =
            earlier.0.iter().map(|it| ((it.of, &*it.name, &*it.part), &it.tally)).collect();
        let later = self.0.iter().map(|entry| {
            let before = known.get(&(entry.of, &*entry.name, &*entry.part));
            let tally = before.map_or_else(|| entry.tally.clone(), |it| entry.tally.since(it));
            Entry { tally, ..entry.clone() }
        });
        Self(later.collect())
    }

    /// The figures of those that were asked within these seconds.
    pub(super) fn figures(&self, of: Of, seconds: f64) -> Vec<Named> {
        let busy = self.of(of).filter(|entry| entry.tally.classes.iter().any(|count| *count > 0));
        busy.map(|entry| entry.named(seconds)).collect()
    }
}

impl Entry {
    /// As people read it.
    pub(super) fn named(&self, seconds: f64) -> Named {
        let (name, part) = (Some(self.name.clone()), Some(self.part.clone()));
        let (route, upstream, origin) = match self.of {
            Of::Route => (name, None, None),
            Of::Upstream => (None, name, None),
            Of::Origin => (None, name, part),
            Of::Arm => (name, part, None),
        };
        Named { route, upstream, origin, figures: self.tally.figures(seconds) }
    }
}

/// The figures of one name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Named {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// The arms of all routes: the route's index, the arm's own, and what the first worker has of it.
fn arms(snapshot: &Snapshot) -> impl Iterator<Item = (usize, usize, &ArmTraffic)> {
    let routes = snapshot.counts.first().into_iter().flat_map(|worker| worker.arms.iter());
    routes
        .enumerate()
        .flat_map(|(route, arms)| arms.iter().enumerate().map(move |(at, arm)| (route, at, arm)))
}

/// The sum over all workers of what `one` gives.
fn by<'s>(
    snapshot: &'s Snapshot,
    one: impl Fn(&'s NamedCounts) -> Option<&'s Arc<Traffic>>,
) -> Tally {
    Tally::of(snapshot.counts.iter().filter_map(|worker| one(worker)).map(|traffic| &**traffic))
}

/// Adds an entry for each name, and one for what comes after the names.
fn gather(
    all: &mut Vec<Entry>,
    of: Of,
    names: impl Iterator<Item = (String, String)>,
    mut counts: impl Iterator<Item = Tally>,
) {
    for (name, part) in names {
        let tally = counts.next().unwrap_or_default();
        all.push(Entry { of, name, part, tally });
    }
    let rest = counts.reduce(|mut sum, tally| {
        sum.add(&tally);
        sum
    });
    if let Some(tally) = rest {
        let part = if matches!(of, Of::Origin | Of::Arm) { OTHER } else { "" };
        all.push(Entry { of, name: OTHER.to_owned(), part: part.to_owned(), tally });
    }
}

/// Two families of series: how often, and how long.
struct Families {
    of: Of,
    requests: (&'static str, &'static str),
    durations: (&'static str, &'static str),
    /// What name and part are called.
    labels: (&'static str, &'static str),
}

const FAMILIES: [Families; 4] = [
    Families {
        of: Of::Route,
        requests: ("ringway_route_requests_total", "Exchanges by route and status class."),
        durations: (
            "ringway_route_duration_seconds",
            "Times as ringway_request_duration_seconds, by route.",
        ),
        labels: ("route", ""),
    },
    Families {
        of: Of::Upstream,
        requests: ("ringway_upstream_requests_total", "Exchanges by upstream and status class."),
        durations: (
            "ringway_upstream_duration_seconds",
            "Times as ringway_request_duration_seconds, by upstream.",
        ),
        labels: ("upstream", ""),
    },
    Families {
        of: Of::Origin,
        requests: (
            "ringway_origin_requests_total",
            "Exchanges by origin and status class; none: those that went on elsewhere, too.",
        ),
        durations: (
            "ringway_origin_duration_seconds",
            "Times as ringway_request_duration_seconds, by origin.",
        ),
        labels: ("upstream", "origin"),
    },
    Families {
        of: Of::Arm,
        requests: (
            "ringway_split_requests_total",
            "Exchanges by the route and the arm of a split, and status class.",
        ),
        durations: (
            "ringway_split_duration_seconds",
            "Times as ringway_request_duration_seconds, by the route and the arm of a split.",
        ),
        labels: ("route", "upstream"),
    },
];

/// All of it for `GET /metrics`. Who has never been asked has counts, and no times.
pub(super) fn series(snapshot: &Snapshot, out: &mut Exposition) {
    let all = ByName::read(snapshot);
    for Families { of, requests, durations, labels } in FAMILIES {
        let labelled = |entry: &'_ Entry| -> Vec<(&'static str, String)> {
            let pairs = [(labels.0, entry.name.clone()), (labels.1, entry.part.clone())];
            pairs.into_iter().filter(|(label, _)| !label.is_empty()).collect()
        };
        let mut family = out.counter(requests.0, requests.1);
        for entry in all.of(of) {
            let owned = labelled(entry);
            let labels: Vec<Label<'_>> = owned.iter().map(|(label, it)| (*label, &**it)).collect();
            classes(&mut family, &labels, &entry.tally.classes);
        }
        let mut family = out.durations(durations.0, durations.1);
        for entry in all.of(of).filter(|entry| entry.tally.timed() > 0) {
            let owned = labelled(entry);
            let labels: Vec<Label<'_>> = owned.iter().map(|(label, it)| (*label, &**it)).collect();
            family.buckets(&labels, &entry.tally);
        }
    }
}

/// One sample per status class.
pub(super) fn classes(family: &mut Family<'_>, labels: &[Label<'_>], counts: &[u64; CLASS_COUNT]) {
    for (count, class) in counts.iter().zip(CLASSES) {
        family.put(&[labels, &[("class", class)]].concat(), count);
    }
}
