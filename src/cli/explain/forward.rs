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
use crate::forward_proxy::{Asked, LoginOutcome, Target, UserId, Verdict};
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
    let head = case.rewritten(path, host, (is_told_who, true), b"", None);
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
    let user = log_in(case, section)?;
    let asked = Asked { user, is_connect };
    let policy = &case.access.policy;
    let verdict = policy.judge_name(&target.host, target.port, asked);
    let rule = policy.allowing_rule(&target.host, target.port, None, user);
    section.fact("by name", text(verdict, rule));
    judge(verdict)?;
    let parent = policy.parent(&target.host);
    let Some(index) = parent else {
        dialled(case, section, &target, asked)?;
        return Ok((target, None));
    };
    let verdict = policy.judge_unresolved(&target.host, target.port, asked);
    section.fact("by a parent", text(verdict, rule));
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
fn dialled(case: &Case<'_>, section: &mut Section, target: &Target, asked: Asked) -> Step<()> {
    section.fact("parent", "none");
    let found = look_up(case, &target.host, target.port)?;
    let policy = &case.access.policy;
    let verdict = |address: &SocketAddr| policy.judge_address(&target.host, *address, asked);
    let line = |address: &SocketAddr| {
        let (ip, port) = (Some(address.ip()), address.port());
        let rule = policy.allowing_rule(&target.host, port, ip, asked.user);
        format!("{address}: {}", text(verdict(address), rule))
    };
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

fn log_in(case: &Case<'_>, section: &mut Section) -> Step<Option<UserId>> {
    let Some(authenticator) = &case.access.authenticator else {
        section.fact("user", "nobody is asked for a password");
        return Ok(None);
    };
    if let Some(name) = case.user {
        section.fact("user", name);
        let user = authenticator.find(name);
        let unknown = || format!("forward.users_file has no user {name:?}");
        return user.map(Some).ok_or_else(|| Ending::Refused(Fault::LoginRequired, unknown()));
    }
    let wanted = |what: &str| Err(Ending::Refused(Fault::LoginRequired, what.to_owned()));
    let field = case.head.fields.only(FieldName::ProxyAuthorization);
    let checked = authenticator.log_in(case.client, field.map(|field| field.value.of(&case.text)));
    match addresses::wait_for(checked.outcome()) {
        Ok(LoginOutcome::Missing) => {
            wanted("forward.users_file wants one Proxy-Authorization, with Basic")
        }
        Ok(LoginOutcome::Known(user)) => {
            section.fact("user", "known");
            Ok(Some(user))
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

fn text(verdict: Verdict<'_>, rule: Option<&str>) -> String {
    match (verdict, rule) {
        (Verdict::Allowed, Some(rule)) => format!("allowed by {rule}"),
        (Verdict::Allowed, None) => "allowed".to_owned(),
        (Verdict::Denied(rule), _) => format!("denied by {rule}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::Value as Json;

    use super::super::explain;
    use super::super::tests::{fact, question};
    use crate::config::{Config, Flags};

    #[test]
    fn a_user_is_named_without_a_password_and_the_rule_that_decides_is_said() {
        let path =
            std::env::temp_dir().join(format!("ringway-explain-users-{}", std::process::id()));
        let hash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        std::fs::write(&path, format!("ann:{hash}\nbob:{hash}\n")).unwrap();
        let users = format!("forward.users_file={}", path.display());
        let settings = [
            "forward.enabled=true",
            &users,
            "forward.groups.staff=[\"ann\"]",
            "forward.rule=[{ groups = [\"staff\"], targets = [\"192.0.2.0/24\"], \
             action = \"allow\" }, \
             { targets = [\"192.0.2.1\"], action = \"deny\" }]",
        ];
        let set = settings.iter().map(|text| (*text).to_owned()).collect();
        let config = Config::load(None, &Flags { set, ..Flags::default() }).unwrap();
        let ask = |user: &str| {
            let mut question = question(Ipv4Addr::LOCALHOST.into(), "CONNECT 192.0.2.1:443", &[]);
            question.user = Some(user.to_owned());
            let report = explain(&config, &question).map_err(|failure| failure.cause).unwrap();
            serde_json::from_str::<Json>(&report.json()).unwrap()
        };
        let (ann, bob, zoe) = (ask("ann"), ask("bob"), ask("zoe"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(fact(&ann, "forward.user"), "ann");
        assert_eq!(fact(&ann, "forward.by name"), "allowed by rule[0] 192.0.2.0/24");
        assert_eq!(fact(&bob, "forward.by name"), "denied by rule[1] 192.0.2.1");
        assert!(zoe.to_string().contains("has no user \\\"zoe\\\""), "{zoe:#}");
    }
}
