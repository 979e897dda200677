//! `ringway explain METHOD URL`: where a request would go, and why.
//!
//! In go a configuration and a request that no client has sent; out come facts, and the answer that
//! a client would get where no server is asked. Every decision is the data plane's own: the same
//! parser reads the head, the same tables route it, the same policy judges it and the same code
//! writes what is sent on. Nothing is sent but questions to name servers.

pub(super) mod addresses;
mod case;
mod forward;
mod hooks;
mod report;
mod reverse;

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Map, Value as Json};

use self::case::{Case, Ending, Explained, shown};
use self::report::Report;
use super::output::Failure;
use crate::address::Address;
use crate::address::ClientAddress;
use crate::cli::args::{Cli, Question};
use crate::cli::client::Target;
use crate::config::effective::{Origins, values};
use crate::config::{AdminAddress, Config, ListenerConfig};
use crate::exchange::respond::LocalEndpoint;
use crate::exchange::{forwarded, upload};
use crate::fault::Fault;
use crate::forward_proxy::access::Access;
use crate::hooks::{Plans, custom};
use crate::http::client_chain::{Trust, client_address};
use crate::http::forwarded_header::{ClientText, Scheme};
use crate::http::head::{HeadError, RequestHead};
use crate::http::repair;
use crate::http::rewrite::{self, ForwardedFor, HostRule, RequestRewrite};
use crate::http::{BodyLength, Method, TargetForm};
use crate::routing::Routes;
use crate::worker::generation::head_limits;

/// What holds for the exchange, as keys of the configuration.
const OF_EVERY_REQUEST: [&str; 6] = [
    "limits.head_bytes",
    "limits.header_count",
    "limits.target_bytes",
    "timeouts.client_head",
    "timeouts.client_idle",
    "timeouts.client_write",
];
const OF_A_BODY: [&str; 2] = ["limits.body_bytes", "limits.min_body_rate"];
const OF_AN_EXCHANGE: [&str; 4] =
    ["timeouts.pool", "timeouts.connect", "timeouts.read", "timeouts.write"];
const OF_A_TARGET: [&str; 1] = ["dns.timeout"];
const OF_A_TUNNEL: [&str; 4] =
    ["timeouts.connect", "limits.tunnels", "timeouts.tunnel_idle", "timeouts.tunnel_half_closed"];

pub(super) fn run(cli: &Cli, question: &Question) -> Result<String, Failure> {
    let mut config = Config::load(cli.config.as_deref(), &cli.flags)?;
    if let Some((_, error)) = config.lay_files().into_iter().next() {
        return Err(error.into());
    }
    let report = explain(&config, question)?;
    Ok(if question.json { report.json() } else { report.text() })
}

fn explain(config: &Config, question: &Question) -> Result<Report, Failure> {
    let index = listener_of(config, question)?;
    let listeners: Vec<Address> = config.server.listeners.iter().map(|own| own.address).collect();
    let own = listeners.iter().filter_map(|own| own.tcp()).chain(admin_address(config));
    let numbers: Vec<_> = (0..listeners.len() as u16).collect();
    let access = Access::prepare(config, &own.collect::<Vec<_>>(), &numbers, None)
        .map_err(Failure::unable)?;
    let mut case = Case {
        config,
        text: head_text(question, listeners[index])?,
        head: RequestHead::new(),
        plans: Plans::load(config, custom::own(), None).map_err(Failure::unable)?,
        peer: question.client,
        client: question.client,
        routes: Routes::new(config),
        user: question.user.as_deref(),
        is_offered: access.is_offered(index as u16),
        access,
    };
    let [wanted, _] = &case.plans.interest;
    case.head.want(wanted.clone());
    case.head.set_underscores(config.limits.underscores);
    let mut parsed = case.head.parse(&case.text, &head_limits(config));
    // As it is done on arrival.
    if matches!(parsed, Err(HeadError::Target | HeadError::TargetForm))
        && let Some((span, target)) = repair::target(&case.text)
    {
        case.text.splice(span.start as usize..span.end as usize, target);
        parsed = case.head.parse(&case.text, &head_limits(config));
    }
    case.identify(parsed == Ok(true));
    let mut report = Report::default();
    let section = report.section("request");
    section.fact("line", first_line(&case.text));
    section.fact("client", case.client.to_string());
    section.fact("peer", case.peer.to_string());
    section.fact("trusted", case.is_trusted());
    section.fact("listener", listeners[index].to_string());
    section.fact("forward proxy", case.is_offered);
    let ending = match parsed {
        Ok(true) => case.decide(&mut report)?,
        Ok(false) => Ending::Refused(Fault::ClientHeadTimeout, "the head has no end".to_owned()),
        Err(error) => Ending::Refused(Fault::ClientHead(error), error.text().to_owned()),
    };
    conclude(&mut report, config, &ending);
    Ok(report)
}

/// The index of the listener that is asked.
fn listener_of(config: &Config, question: &Question) -> Result<usize, Failure> {
    let listeners = &config.server.listeners;
    let Some(wanted) = question.listener else { return Ok(0) };
    listeners.iter().position(|listener| listener.address == wanted).ok_or_else(|| {
        let known: Vec<_> = listeners.iter().map(|own| own.address.to_string()).collect();
        Failure::wrong(format!(
            "--listener: found {wanted}, expected one of the listeners: {}",
            known.join(", ")
        ))
    })
}

fn admin_address(config: &Config) -> Option<SocketAddr> {
    match config.admin.address {
        AdminAddress::Tcp(address) if config.admin.enabled => Some(address),
        _ => None,
    }
}

/// The head that a client would send. Where no field names a host, it is the one in the target, or
/// else the listener's address.
fn head_text(question: &Question, listener: Address) -> Result<Vec<u8>, Failure> {
    let Question { method, target, fields, .. } = question;
    let has_line_end = |text: &String| text.contains(['\r', '\n']);
    if let Some(text) = [method, target].into_iter().chain(fields).find(|text| has_line_end(text)) {
        return Err(Failure::wrong(format!("{text:?} has a line end, which ends a field")));
    }
    if let Some(field) = fields.iter().find(|field| !field.contains(':')) {
        return Err(Failure::wrong(format!("-H: found {field:?}, expected \"Name: value\"")));
    }
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    let is_host = |field: &String| {
        field.split(':').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("host"))
    };
    if !fields.iter().any(is_host) {
        let host = host_of(target).unwrap_or_else(|| {
            match Target::listener(&ListenerConfig::at(listener)) {
                Some(Target::Tcp { address, .. }) => address.to_string(),
                Some(Target::Unix(_)) | None => "localhost".to_owned(),
            }
        });
        let _ = write!(text, "Host: {host}\r\n");
    }
    for field in fields {
        text.push_str(field);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    Ok(text.into_bytes())
}

/// The authority in a target, if it is not a path alone.
fn host_of(target: &str) -> Option<String> {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_authority = !authority.is_empty() && authority != "*";
    is_authority.then(|| authority.to_owned())
}

fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().next().unwrap_or_default().to_owned()
}

impl Case<'_> {
    /// Whether the peer is believed.
    fn is_trusted(&self) -> bool {
        self.config.server.trusted_proxies.has(self.peer)
    }

    /// Finds out for whom a trusted peer speaks.
    fn identify(&mut self, is_whole: bool) {
        let server = &self.config.server;
        if is_whole && self.is_trusted() {
            let (fields, class) = (&self.head.fields, server.client_ip_class());
            let said = client_address(fields, &self.text, class, &server.trusted_proxies);
            self.client = said.map_or(self.peer, ClientAddress::of);
        }
    }

    /// Goes through an exchange in its order.
    fn decide(&self, report: &mut Report) -> Explained {
        let head = &self.head;
        let section = report.section("head");
        section.fact("form", form_name(head.form));
        section.fact("host", shown(head.authority.of(&self.text)));
        section.fact("path", shown(head.path(&self.text)));
        section.fact("body", body_name(head.body));
        section.fact("upgrade", head.is_upgrade);
        self.rules(report);
        if head.method == Method::Connect {
            return Ok(forward::tunnel(self, report));
        }
        if let Err(fault) = upload::judge_length(head.body, self.config.limits.body_bytes) {
            return Ok(Ending::Refused(fault, "limits.body_bytes".to_owned()));
        }
        let (text, admin) = (&self.text, &self.config.admin);
        if let Some(endpoint) = LocalEndpoint::in_head(head, text, admin, self.peer) {
            let what = format!("{endpoint:?}").to_lowercase();
            return Ok(Ending::Own(format!("{what} (admin.on_data_port)")));
        }
        if head.max_forwards == Some(0) {
            return Ok(Ending::Own("Max-Forwards is used up".to_owned()));
        }
        if self.is_forward() {
            Ok(forward::request(self, report))
        } else {
            reverse::request(self, report)
        }
    }

    /// Whether the target is not ours, and may be somebody else's.
    fn is_forward(&self) -> bool {
        let (policy, text) = (&self.access.policy, &self.text);
        let is_another = forwarded::names_another(&self.routes, policy, &self.head, text);
        self.is_offered && (is_another || self.head.method == Method::Connect)
    }

    /// The keys of the configuration that bound it.
    fn rules(&self, report: &mut Report) {
        let head = &self.head;
        let is_tunnel = head.method == Method::Connect;
        let mut keys = OF_EVERY_REQUEST.to_vec();
        keys.extend(OF_A_BODY.iter().filter(|_| !head.body.is_empty()));
        keys.extend(OF_AN_EXCHANGE.iter().filter(|_| !is_tunnel));
        keys.extend(OF_A_TARGET.iter().filter(|_| self.is_forward()));
        keys.extend(OF_A_TUNNEL.iter().filter(|_| is_tunnel || head.is_upgrade));
        let values = values(self.config, &Origins::default());
        let value = |key: &&str| values.iter().find(|value| value.key == *key);
        let (timeouts, limits): (Vec<_>, Vec<_>) =
            keys.iter().filter_map(value).partition(|value| value.key.contains("timeout"));
        let members = |values: Vec<&crate::config::effective::Value>| -> Map<String, Json> {
            values.into_iter().map(|value| (value.key.clone(), value.json.clone())).collect()
        };
        let section = report.section("bounds");
        section.fact("limits", members(limits));
        section.fact("timeouts", members(timeouts));
    }

    /// The head as it would be written for the server that is asked.
    fn rewritten(
        &self,
        path: &[u8],
        host: HostRule<'_>,
        (is_told_who, is_forward): (bool, bool),
        prefix: &[u8],
        hooked: Option<&hooks::Hooked>,
    ) -> Vec<u8> {
        let server = &self.config.server;
        let client = ClientText::new(self.peer, Scheme::Http, server.introduction());
        let trusted: &dyn Trust = &server.trusted_proxies;
        let address = self.client_text();
        let forwarded = ForwardedFor {
            client: &client,
            trust: self.is_trusted().then_some(trusted),
            address: &address,
            prefix,
        };
        let how = RequestRewrite {
            base: b"",
            path,
            host,
            via: server.add_via.holds(is_forward).then_some(server.via.as_bytes()),
            cdn_loop: (!is_forward).then_some(server.via.as_bytes()),
            length: None,
            passes_trailers: false,
            is_last: false,
            forwarded: is_told_who.then_some(forwarded),
            extra: b"",
        };
        let mut out = Vec::new();
        match hooked {
            Some(hooked) => hooked.put_request(self, &how, &mut out),
            None => rewrite::request(&mut out, &self.head, &self.text, &how),
        }
        out
    }
}

fn form_name(form: TargetForm) -> &'static str {
    match form {
        TargetForm::Origin => "origin: a path, as a server is asked",
        TargetForm::Absolute => "absolute: a URL, as a proxy is asked",
        TargetForm::Authority => "authority: host and port, as a tunnel is asked for",
        TargetForm::Asterisk => "asterisk: the server as a whole",
    }
}

fn body_name(body: BodyLength) -> String {
    match body {
        BodyLength::Empty => "none".to_owned(),
        BodyLength::Exact(bytes) => format!("{bytes} bytes"),
        BodyLength::Chunked => "chunked".to_owned(),
        BodyLength::UntilClose => "until the connection ends".to_owned(),
    }
}

fn conclude(report: &mut Report, config: &Config, ending: &Ending) {
    let section = report.section("answer");
    match ending {
        Ending::Sent(to) => section.fact("from", to.as_str()),
        Ending::Own(what) => section.fact("from", "ringway").fact("because", what.as_str()),
        Ending::Refused(fault, cause) => {
            let status = fault.status(config.timeouts.pool_status.code());
            let status = status.map_or("none: the connection is closed".to_owned(), |status| {
                format!("{} {}", status.code, status.reason)
            });
            section.fact("from", "ringway").fact("status", status);
            section.fact("error", fault.name()).fact("because", cause.as_str())
        }
    };
}

#[cfg(test)]
mod tests;
