//! A request for a server that is not ours.
//!
//! In goes a head that asks for a tunnel or names another server; out come the verdicts of the
//! forward proxy in the order in which it asks: who, the name, the parent, and each address.

use std::net::SocketAddr;

use super::addresses;
use super::report::{Report, Section};
use crate::cli::explain::case::{Case, Ending, lines_of};
use crate::exchange::forwarded;
use crate::fault::Fault;
use crate::forward_proxy::{LoginOutcome, Target, Verdict};
use crate::http::names::FieldName;
use crate::http::rewrite::{self, HostRule};

/// Either that it goes on, or how it ends.
type Step<T> = Result<T, Ending>;

pub(super) fn tunnel(case: &Case<'_>, report: &mut Report) -> Ending {
    let section = report.section("forward");
    section.fact("mode", "forward proxy, tunnel");
    if !case.is_offered {
        let because = "forward.enabled, or forward.listeners, does not offer it on this listener";
        return Ending::Refused(Fault::MethodNotOffered, because.to_owned());
    }
    let (target, parent) = match admitted(case, section, true) {
        Ok(admitted) => admitted,
        Err(ending) => return ending,
    };
    let Some(parent) = parent else { return Ending::Sent(target.to_string()) };
    let mut head = Vec::new();
    rewrite::connect(&mut head, target.to_string().as_bytes(), b"");
    report.section("sent").fact("head", lines_of(&head));
    Ending::Sent(format!("parent {}", case.config.parents[parent].name))
}

pub(super) fn request(case: &Case<'_>, report: &mut Report) -> Ending {
    let section = report.section("forward");
    section.fact("mode", "forward proxy");
    if !forwarded::is_plain(&case.head, &case.text) {
        let because = "https is spoken through a tunnel: ask `explain CONNECT HOST:443`";
        return Ending::Refused(Fault::SchemeNotOffered, because.to_owned());
    }
    let (target, parent) = match admitted(case, section, false) {
        Ok(admitted) => admitted,
        Err(ending) => return ending,
    };
    // A proxy is asked as we were.
    let (path, host) = match parent {
        Some(_) => {
            let host = HostRule::Set(case.head.authority.of(&case.text));
            (&*case.head.plain_target(&case.text), host)
        }
        None => (case.head.path(&case.text), HostRule::Pass),
    };
    let is_told_who = case.config.forward.add_forwarded;
    let head = case.rewritten(path, host, is_told_who, b"", None);
    report.section("sent").fact("head", lines_of(&head));
    Ending::Sent(match parent {
        Some(parent) => format!("parent {}", case.config.parents[parent].name),
        None => target.to_string(),
    })
}

/// The target, and the index of the parent that stands before it, for a client that may have both.
fn admitted(
    case: &Case<'_>,
    section: &mut Section,
    is_connect: bool,
) -> Step<(Target, Option<usize>)> {
    let authority = case.head.authority.of(&case.text);
    let Some(target) = Target::of(authority) else {
        return Err(denied("number"));
    };
    section.fact("target", target.to_string());
    if !case.config.forward.allow_clients.has(case.client) {
        let because = "the client is not in forward.allow_clients".to_owned();
        return Err(Ending::Refused(Fault::ClientForbidden, because));
    }
    log_in(case, section)?;
    let policy = &case.access.policy;
    let verdict = policy.judge_name(&target.host, target.port, is_connect);
    section.fact("by name", text(verdict));
    judge(verdict)?;
    let parent = policy.parent(&target.host);
    let Some(index) = parent else {
        dialled(case, section, &target, is_connect)?;
        return Ok((target, None));
    };
    let verdict = policy.judge_unresolved(&target.host, target.port, is_connect);
    section.fact("by a parent", text(verdict));
    judge(verdict)?;
    let config = &case.config.parents[index];
    let has_login = if config.credentials.is_some() { ", with credentials" } else { "" };
    section.fact("parent", format!("{} at {}{has_login}", config.name, config.address.authority));
    section.fact("direct", config.direct_fallback);
    let found = look_up(case, &config.address.host, config.address.port)?;
    section.fact("addresses", found.iter().map(ToString::to_string).collect::<Vec<_>>());
    Ok((target, parent))
}

/// Judges every address that the target has now.
fn dialled(case: &Case<'_>, section: &mut Section, target: &Target, is_connect: bool) -> Step<()> {
    section.fact("parent", "none");
    let found = look_up(case, &target.host, target.port)?;
    let verdict =
        |address: &SocketAddr| case.access.policy.judge_address(&target.host, *address, is_connect);
    let line = |address: &SocketAddr| format!("{address}: {}", text(verdict(address)));
    section.fact("addresses", found.iter().map(line).collect::<Vec<_>>());
    let mut verdicts = found.iter().map(verdict);
    if verdicts.clone().any(|verdict| verdict == Verdict::Allowed) {
        return Ok(());
    }
    verdicts.next().map_or(Ok(()), judge)
}

fn look_up(case: &Case<'_>, host: &str, port: u16) -> Step<Vec<SocketAddr>> {
    let names = case.access.names.as_ref();
    let found = names.map(|names| addresses::of_target(names, host, port));
    found.unwrap_or(Err(Fault::Internal)).map_err(|fault| {
        Ending::Refused(fault, format!("{host} has no address now, as far as this machine knows"))
    })
}

fn log_in(case: &Case<'_>, section: &mut Section) -> Step<()> {
    let Some(authenticator) = &case.access.authenticator else {
        section.fact("user", "nobody is asked for a password");
        return Ok(());
    };
    let wanted = |what: &str| Err(Ending::Refused(Fault::LoginRequired, what.to_owned()));
    let field = case.head.fields.only(FieldName::ProxyAuthorization);
    let checked = authenticator.log_in(case.client, field.map(|field| field.value.of(&case.text)));
    match addresses::wait_for(checked.outcome()) {
        Ok(LoginOutcome::Missing) => {
            wanted("forward.users_file wants one Proxy-Authorization, with Basic")
        }
        Ok(LoginOutcome::Known(_)) => {
            section.fact("user", "known");
            Ok(())
        }
        Ok(LoginOutcome::Wrong) => {
            wanted("forward.users_file has no such user, or another password")
        }
        Ok(LoginOutcome::TooManyFailures { .. }) => {
            Err(Ending::Refused(Fault::TooManyLogins, "forward.auth_failures".to_owned()))
        }
        Ok(LoginOutcome::Busy) | Err(_) => {
            Err(Ending::Refused(Fault::LoginsBusy, "the password was not looked at".to_owned()))
        }
    }
}

fn judge(verdict: Verdict<'_>) -> Step<()> {
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Denied(rule) => Err(denied(rule)),
    }
}

fn denied(rule: &str) -> Ending {
    Ending::Refused(Fault::TargetForbidden, format!("the forward policy: {rule}"))
}

fn text(verdict: Verdict<'_>) -> String {
    match verdict {
        Verdict::Allowed => "allowed".to_owned(),
        Verdict::Denied(rule) => format!("denied by {rule}"),
    }
}
