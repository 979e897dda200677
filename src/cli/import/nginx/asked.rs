//! `auth_request`: who is asked whether a request may go on.
//!
//! In goes the directive with the locations of its server; out comes `hooks.forward_auth`, or why
//! there can be none. The answer counts as it does there: a 2xx lets the request go on, whatever
//! else shuts it out. What the question says in other fields here is told.

use serde_json::{Map, Value as Json, json};

use super::body::Surroundings;
use super::fields;
use super::lexer::Directive;
use super::scope::Scope;
use super::template::Around;
use super::upstream::{Pass, Wanted};

/// Quoted where nothing else is said.
const QUOTED: [&str; 2] = ["Authorization", "Cookie"];

impl Surroundings<'_, '_> {
    /// The question of a location with this scope.
    pub(super) fn question(
        &mut self,
        ask: &Directive,
        scope: &Scope<'_>,
        around: Around<'_>,
    ) -> Result<Json, &'static str> {
        let server = scope.server();
        let is_asked = |it: &&Directive| {
            it.name == "location"
                && match it.args.as_slice() {
                    [kind, path] => matches!(kind.as_str(), "=" | "^~") && path == ask.arg(0),
                    [path] => path == ask.arg(0) || path.strip_prefix('=') == Some(ask.arg(0)),
                    _ => false,
                }
        };
        let location = server.innermost().iter().find(is_asked);
        let location = location.ok_or("its server has no location of that very path")?;
        let asked = server.within(location.block());
        let pass = asked.own("proxy_pass").ok_or("its location asks no server by proxy_pass")?;
        let Pass { target, is_tls, path, .. } = Pass::parse(pass.arg(0), false)?;
        let mut edits = Map::new();
        let host = fields::request(&asked, around, &mut edits, self.draft);
        let tls = if is_tls { self.tls(&asked, pass) } else { Map::new() };
        let wanted = Wanted { target, is_tls, http: None, host, tls, maps_location: false };
        let upstream = self.groups.name_of(wanted, self.draft);
        let upstream = upstream.ok_or("its location names nothing that can be asked")?;
        let set = edits.get("request_headers").and_then(|edits| edits["set"].as_object());
        let set = set.into_iter().flatten();
        let own_of = |(name, value): (&String, &Json)| {
            let own = format!("${{header.{}}}", name.to_ascii_lowercase());
            (value.as_str() == Some(&*own)).then(|| name.clone())
        };
        let (known, more): (Vec<_>, Vec<_>) = set.partition(|pair| own_of(*pair).is_some());
        let mut quoted: Vec<String> = QUOTED.map(str::to_owned).to_vec();
        quoted.extend(known.into_iter().filter_map(own_of));
        let more: Vec<&str> = more.iter().map(|(name, _)| name.as_str()).collect();
        let said = if more.is_empty() { String::new() } else { format!(", and not {more:?}") };
        let why = format!(
            "the question quotes {} and says X-Forwarded-Uri, -Method, -Host, -Proto and \
             -For{said}",
            quoted.join(" and "),
        );
        let cure = "name further fields that decide in hooks.forward_auth.request_headers, and \
                    have the server that is asked read X-Forwarded-Uri for $request_uri";
        self.draft.untaken(&ask.place, ask.shown(), why, cure);
        let path = path.unwrap_or_else(|| ask.arg(0).to_owned());
        let mut table = json!({ "upstream": upstream, "path": path, "request_headers": quoted });
        let answers = self.quoted_answers(scope);
        if !answers.is_empty() {
            table["response_headers"] = answers.into();
        }
        Ok(table)
    }

    /// Fields of the answer that the origin is sent by the same name.
    fn quoted_answers(&mut self, scope: &Scope<'_>) -> Vec<String> {
        let sent = scope.all(&["proxy_set_header"]);
        let mut names = Vec::new();
        for set in scope.all(&["auth_request_set"]) {
            let (variable, value) = (set.arg(0), set.arg(1));
            let field = value.strip_prefix("$upstream_http_").unwrap_or_default();
            let is_same = |it: &&&Directive| {
                it.arg(1) == variable
                    && it.arg(0).to_ascii_lowercase().replace('-', "_")
                        == field.to_ascii_lowercase()
            };
            if let Some(same) = sent.iter().find(is_same) {
                names.push(same.arg(0).to_owned());
                continue;
            }
            let why = "a field of the answer is sent to the origin by its own name alone";
            let cure = "name it in hooks.forward_auth.response_headers";
            self.draft.untaken(&set.place, set.shown(), why, cure);
        }
        names
    }
}
