//! nginx's configuration, as ringway's.
//!
//! In goes the main file; out comes a draft with its listeners, upstreams and routes, and with all
//! that was not taken. Routes know no listeners: what nginx tells apart by its port alone is said.
//! Whatever the text is, this ends, and does not panic.

mod asked;
mod body;
mod fields;
mod files;
mod globals;
mod guards;
mod known;
pub(super) mod lexer;
mod listen;
mod scope;
mod server;
mod site;
mod template;
mod upstream;

use std::path::Path;

use serde_json::{Value as Json, json};

use self::body::{Surroundings, answered};
use self::files::Files;
use self::guards::Zones;
use self::known::{Verdict, verdict};
use self::lexer::Directive;
use self::listen::{Listen, listens, names};
use self::scope::Scope;
use self::server::Server;
use self::site::Site;
use self::template::Around;
use self::upstream::Groups;
use super::draft::Draft;

pub(super) fn import(path: &Path, text: &str, draft: &mut Draft) -> Result<(), String> {
    let directives = Files::new(path, draft).main(path, text)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    draw(&directives, &folder, draft);
    Ok(())
}

/// The same of a text alone.
pub(super) fn import_text(text: &str, draft: &mut Draft) -> Result<(), String> {
    let directives = Files::none(draft).main(Path::new("nginx.conf"), text)?;
    draw(&directives, Path::new("/etc/nginx"), draft);
    Ok(())
}

fn draw(directives: &[Directive], folder: &Path, draft: &mut Draft) {
    tell(directives, draft);
    // A file of a folder such as sites-enabled is what stands within `http`.
    let http = directives.iter().find(|it| it.name == "http");
    let http = http.map_or(directives, Directive::block);
    let mut servers = servers(http, draft);
    globals::general(directives, http, folder, draft);
    globals::tls(&mut servers, folder, draft);
    let redirects = listeners(&servers, draft);
    let groups = Groups::new(http);
    let zones = Zones::new(http, draft);
    draft.set("limits", "body_bytes", super::values::size(zones.body_bytes));
    let has_strangers = servers.iter().any(|server| !server.is_local());
    let mut around = Surroundings { draft, groups, zones, folder, has_strangers };
    for site in sites(&servers, redirects, around.draft) {
        around.routes(&site);
    }
    around.groups.keep_unasked(around.draft);
    draft.complete();
}

/// What is not needed or not taken whatever stands around it.
fn tell(directives: &[Directive], draft: &mut Draft) {
    for directive in directives {
        let is_upgrade = directive.name == "map" && directive.arg(0) == "$http_upgrade";
        match verdict(&directive.name) {
            _ if is_upgrade => {
                let why = "connections are upgraded by themselves";
                draft.unneeded(&directive.place, "map $http_upgrade", why);
            }
            Verdict::Untaken(why, cure) => {
                draft.untaken(&directive.place, directive.shown(), why, cure);
            }
            Verdict::Unneeded(why) => draft.unneeded(&directive.place, &directive.name, why),
            Verdict::Taken
                if ["upstream", "if", "limit_except"].contains(&directive.name.as_str()) => {}
            Verdict::Taken => tell(directive.block(), draft),
        }
    }
}

fn servers<'t>(http: &'t [Directive], draft: &mut Draft) -> Vec<Server<'t>> {
    let scope = Scope::new(http);
    let all = http.iter().filter(|it| it.name == "server" && it.block.is_some());
    all.map(|directive| {
        let block = directive.block();
        let (listens, names) = (listens(block, draft), names(block, draft));
        let is_redirect = is_redirect(block, &names);
        let scope = scope.within(block);
        Server { directive, scope, listens, names, is_redirect, is_closed: false }
    })
    .collect()
}

/// Whether a server does nothing but send clients to https:// of the same host.
fn is_redirect(block: &[Directive], names: &[String]) -> bool {
    let leads_there = |it: &Directive| {
        let around = Around { scheme: Some("http"), name: Some("$host"), has_groups: false };
        let answer = answered(it, around).and_then(Result::ok);
        let to =
            answer.filter(|(hook, _)| *hook == "redirect").map(|(_, table)| table["to"].clone());
        let to = to.as_ref().and_then(Json::as_str).and_then(|to| to.strip_prefix("https://"));
        let host = to.map(|to| to.split(['/', ':']).next().unwrap_or_default());
        let host = host.map(|host| host.strip_suffix("${target}").unwrap_or(host));
        host.is_some_and(|host| host == "${host}" || names.iter().any(|name| name == host))
    };
    let mut locations = block.iter().filter(|it| it.name == "location");
    let is_proxying =
        locations.clone().any(|it| it.block().iter().any(|it| it.name.ends_with("_pass")));
    let is_whole = block.iter().any(leads_there);
    let is_if = || block.iter().any(|it| it.name == "if" && it.block().iter().any(leads_there));
    let mut is_last = || locations.any(|it| it.args == ["/"] && it.block().iter().any(leads_there));
    is_whole || (!is_proxying && (is_if() || is_last()))
}

/// Sets the listeners. Whether plain requests are all sent to TLS.
fn listeners(servers: &[Server<'_>], draft: &mut Draft) -> bool {
    let mut all: Vec<Listen> = Vec::new();
    for listen in servers.iter().flat_map(|server| &server.listens) {
        match all.iter_mut().find(|known| known.address == listen.address) {
            Some(known) => known.is_tls |= listen.is_tls,
            None => all.push(listen.clone()),
        }
    }
    // Where a wildcard listens, nginx listens once.
    let is_covered = |listen: &Listen| {
        let port = listen.address.rsplit_once(':').map_or("", |(_, port)| port);
        let is_v4 =
            !listen.address.starts_with(['[', 'u']) && !listen.address.starts_with("0.0.0.0");
        is_v4 && all.iter().any(|it| it.address == format!("0.0.0.0:{port}"))
    };
    let kept: Vec<Listen> = all.iter().filter(|listen| !is_covered(listen)).cloned().collect();
    let spelled = |is_tls: bool| -> Vec<Json> {
        let mut of: Vec<_> = kept.iter().filter(|it| it.is_tls == is_tls).collect();
        // The first one with TLS is where plain requests are sent.
        of.sort_by_key(|it| is_tls && !it.address.ends_with(":443"));
        let spell = |it: &Listen| {
            if it.has_proxy_protocol {
                json!({ "address": it.address, "proxy_protocol": "v1v2" })
            } else {
                it.address.clone().into()
            }
        };
        of.into_iter().map(spell).collect()
    };
    let (plain, tls) = (spelled(false), spelled(true));
    let has_tls = !tls.is_empty();
    if !plain.is_empty() || has_tls {
        draft.set("server", "host", "");
        draft.set("server", "listen", plain);
    }
    if !has_tls {
        return false;
    }
    draft.set("server", "listen_tls", tls);
    let is_plain = |server: &&Server<'_>| server.listens.iter().any(|listen| !listen.is_tls);
    let mut plain = servers.iter().filter(is_plain).peekable();
    let redirects = plain.peek().is_some() && plain.all(|it| it.is_redirect && !it.has_tls());
    if redirects {
        draft.set("server", "redirect_https", true);
    }
    redirects
}

/// Which hosts are whose.
fn sites<'t>(servers: &'t [Server<'t>], redirects: bool, draft: &mut Draft) -> Vec<Site<'t>> {
    let has_tls = servers.iter().any(Server::has_tls);
    // It would send clients to itself, again and again.
    let is_dropped = |it: &Server<'_>| it.is_redirect && !it.has_tls() && has_tls;
    for server in servers.iter().filter(|it| is_dropped(it) && !redirects) {
        let why =
            "routes do not know by which listener a request came, and others serve without TLS";
        let cure = "set server.redirect_https if nobody is to be served without TLS";
        draft.untaken(&server.directive.place, "server, with its redirect to https", why, cure);
    }
    let mut order: Vec<usize> =
        (0..servers.len()).filter(|it| !is_dropped(&servers[*it])).collect();
    order.sort_by_key(|index| !servers[*index].has_tls());
    tell_apart(servers, &order, draft);
    let anybody = defaults(servers, &order, draft);
    let mut owned: Vec<(&str, usize)> = Vec::new();
    for index in &order {
        for name in &servers[*index].names {
            match owned.iter().find(|(known, _)| known == name) {
                Some((_, other)) if other != index => {
                    let why = format!(
                        "the host is that of the server at {}, and routes do not know listeners",
                        servers[*other].directive.place
                    );
                    let cure = "give it a name of its own, or run a second ringway for its port";
                    draft.untaken(
                        &servers[*index].directive.place,
                        format!("server_name {name}"),
                        why,
                        cure,
                    );
                }
                Some(_) => {}
                None => owned.push((name, *index)),
            }
        }
    }
    order.sort_unstable();
    order
        .into_iter()
        .map(|index| {
            let mine = || owned.iter().filter(|(_, owner)| *owner == index);
            let mut hosts: Vec<String> = mine().map(|(name, _)| (*name).to_owned()).collect();
            if anybody == Some(index) {
                // Its names need routes of their own only where another's wildcard has them.
                let is_wild =
                    |(name, owner): &(&str, usize)| *owner != index && name.starts_with('*');
                if !owned.iter().any(is_wild) {
                    hosts.clear();
                }
                hosts.push(String::new());
            }
            servers[index].site(hosts)
        })
        .collect()
}

/// Says of each server by which listeners it is asked for here and was not there.
fn tell_apart(servers: &[Server<'_>], order: &[usize], draft: &mut Draft) {
    let kept = || order.iter().map(|index| &servers[*index]);
    let mut all: Vec<&Listen> = kept().flat_map(|it| &it.listens).collect();
    all.sort_unstable_by_key(|it| &it.address);
    all.dedup_by_key(|it| &it.address);
    for server in kept() {
        // Who comes from this machine could ask for a server that listens everywhere.
        let is_new = |it: &&&Listen| {
            let is_own = server.listens.iter().any(|own| own.is_like(it));
            !is_own && (server.is_local() || !it.is_local())
        };
        let more: Vec<&str> = all.iter().filter(is_new).map(|it| &*it.address).collect();
        if more.is_empty() {
            continue;
        }
        let own: Vec<&str> = server.listens.iter().map(|it| &*it.address).collect();
        let what = format!("listen {}", own.join(", "));
        let why = format!(
            "routes do not know listeners: its names are asked for by {} too",
            more.join(", ")
        );
        let cure = if server.is_local() {
            "see hooks.allow of its routes, which lets this machine alone in, or run a second \
             ringway for its port"
        } else {
            "run a second ringway for its port, if its names are not to be served elsewhere"
        };
        draft.untaken(&server.directive.place, what, why, cure);
    }
}

/// Who gets what is for no server's name. `order` has those with TLS first.
fn defaults(servers: &[Server<'_>], order: &[usize], draft: &mut Draft) -> Option<usize> {
    let mut addresses: Vec<(&str, bool)> = Vec::new();
    for listen in order.iter().flat_map(|index| &servers[*index].listens) {
        if !addresses.iter().any(|(known, _)| *known == listen.address) {
            addresses.push((&listen.address, listen.is_tls));
        }
    }
    addresses.sort_by_key(|(_, is_tls)| !is_tls);
    let mut anybody = None;
    for (address, _) in addresses {
        let is_at = |listen: &&Listen| listen.address == address;
        let mut at: Vec<usize> = (0..servers.len())
            .filter(|index| servers[*index].listens.iter().any(|it| is_at(&it)))
            .collect();
        at.sort_by_key(|index| {
            !servers[*index].listens.iter().filter(is_at).any(|listen| listen.is_default)
        });
        let Some(first) = at.first().copied().filter(|it| order.contains(it)) else { continue };
        match anybody {
            None => anybody = Some(first),
            Some(other) if other == first => {}
            Some(other) => {
                let why = format!(
                    "what no server's name is for goes to the server at {}, whatever its port",
                    servers[other].directive.place
                );
                let cure = "run a second ringway for this port, if it is asked by other names";
                let what = format!("server, as the default of {address}");
                draft.untaken(&servers[first].directive.place, what, why, cure);
            }
        }
    }
    anybody
}
