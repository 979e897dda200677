//! The hooks of a route, as they would run for a request.
//!
//! In goes a request with its route; out come the hooks that are configured for it, in their order,
//! and what they decide: an answer of their own, another upstream, another target. They are
//! compiled and asked as for a request that is served; what would have to be awaited (passwords,
//! another server, hooks in Rust) is named and not done.

use crate::hooks::{Choice, Facts, Passage, Plans, custom};
use crate::route::Route;

use super::report::Report;
use super::{Case, Ending, Failure, shown};

/// What the hooks make of a request.
pub(super) struct Hooked {
    pub upstream: usize,
    /// The target, where it is rewritten.
    pub target: Option<Vec<u8>>,
    /// They answer it themselves.
    pub ending: Option<Ending>,
}

pub(super) fn ask(case: &Case<'_>, route: Route, report: &mut Report) -> Result<Hooked, Failure> {
    let config = case.config;
    let plans = Plans::load(config, custom::own(), None).map_err(Failure::unable)?;
    let section = report.section("hooks");
    let mut found = Hooked { upstream: route.upstream, target: None, ending: None };
    let (Some(hooked), Some(own)) =
        (plans.hooked(route.index), config.routes.get(route.index as usize))
    else {
        section.fact("plan", "none: the fast path");
        return Ok(found);
    };
    let global = config.hooks.as_deref().filter(|_| own.inherits_hooks);
    for (name, table) in [("global", global), ("route", own.hooks.as_deref())] {
        if let Some(table) = table {
            section.fact(name, table.lines(&config.upstreams));
        }
    }
    let client_text = case.client.to_string();
    let facts = Facts {
        head: &case.head,
        text: &case.text,
        client: case.client,
        client_text: &client_text,
        is_trusted: config.server.trusted_proxies.contains(case.client),
        now_us: 0,
    };
    let mut passage = Passage::default();
    let answered = |status: u16| Some(Ending::Own(format!("the hooks answer {status}")));
    if let Some(answer) = hooked.enter(&facts, &mut passage) {
        found.ending = answered(answer.status.code);
        return Ok(found);
    }
    let waits = [
        (hooked.login.is_some(), "basic_auth asks for a password"),
        (hooked.question.is_some(), "forward_auth asks its upstream"),
        (!hooked.custom.is_empty(), "hooks in Rust are asked"),
    ];
    let waits: Vec<_> = waits.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
    if !waits.is_empty() {
        section.fact("not done here", waits.join("; "));
    }
    let path = case.head.path(&case.text);
    match hooked.choose(&route.sent_path(path), &facts, &mut passage) {
        Choice::Answer(answer) => found.ending = answered(answer.status.code),
        Choice::Upstream(upstream) => {
            found.upstream = upstream;
            if let Some(target) = &passage.target {
                section.fact("rewritten to", shown(target));
            }
            found.target = passage.target.take();
        }
    }
    Ok(found)
}
