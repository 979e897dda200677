//! Hooks as a file spells them.
//!
//! In: the hooks of one table, as they hold. Out: each of its keys with a value that reads back to
//! the same. A table is taken apart field by field, so that a new field does not compile before it
//! has a key here.

use std::fmt;

use serde_json::{Map, Value as Json, json};

use super::{
    AccessConfig, BasicAuthConfig, ClientKey, CorsConfig, CustomConfig, ErrorPagesConfig,
    ForwardAuthConfig, HeadersConfig, HooksConfig, IdTrust, MirrorConfig, OnFailure, PageSource,
    RateLimitConfig, RedirectConfig, RequestIdConfig, RespondConfig, RetryConfig, RetryOn,
    RewriteConfig, SecurityConfig, SplitConfig, Statuses,
};
use crate::config::units::{bytes_text, duration_text};
use crate::config::{Networks, UpstreamConfig};

type Keys = Vec<(&'static str, Json)>;

/// Keys that are not given are not among them.
pub(in crate::config) fn hooks(section: &HooksConfig, upstreams: &[UpstreamConfig]) -> Keys {
    let HooksConfig {
        access: AccessConfig { allow, deny, methods },
        request_id,
        cors,
        rate_limit,
        connections_per_client,
        body_bytes,
        redirect,
        basic_auth,
        forward_auth,
        custom,
        respond,
        split,
        mirror,
        retry,
        rewrite,
        request_headers,
        response_headers,
        security_headers,
        error_pages,
    } = section;
    let name = |index: usize| upstreams.get(index).map_or("", |upstream| &upstream.name);
    let deny = Some(deny).filter(|deny| **deny != Networks::default());
    let size = |bytes: &u64| if *bytes == u64::MAX { json!(0) } else { bytes_text(*bytes).into() };
    let customs = |list: &Vec<CustomConfig>| list.iter().map(self::custom).collect::<Vec<_>>();
    let keys = [
        ("allow", allow.as_ref().map(networks)),
        ("deny", deny.map(networks)),
        ("methods", methods.as_ref().map(|methods| json!(methods))),
        ("request_id", request_id.as_ref().map(self::request_id)),
        ("cors", cors.as_ref().map(self::cors)),
        ("rate_limit", rate_limit.as_ref().map(self::rate_limit)),
        ("connections_per_client", connections_per_client.map(Json::from)),
        ("body_bytes", body_bytes.as_ref().map(size)),
        ("redirect", redirect.as_ref().map(self::redirect)),
        ("basic_auth", basic_auth.as_ref().map(self::basic_auth)),
        ("forward_auth", forward_auth.as_ref().map(|it| self::forward_auth(it, name(it.upstream)))),
        ("custom", custom.as_ref().map(customs).map(Json::from)),
        ("respond", respond.as_ref().map(self::respond)),
        ("split", split.as_ref().map(|split| self::split(split, name))),
        ("mirror", mirror.as_ref().map(|it| self::mirror(it, name(it.upstream)))),
        ("retry", retry.as_ref().map(self::retry)),
        ("rewrite", rewrite.as_ref().map(self::rewrite)),
        ("request_headers", headers(request_headers)),
        ("response_headers", headers(response_headers)),
        ("security_headers", security_headers.as_ref().map(security)),
        ("error_pages", error_pages.as_ref().map(pages)),
        ("intercept_errors", error_pages.as_ref().map(|pages| pages.intercept.into())),
    ];
    keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The same as one value.
pub(in crate::config) fn table(section: &HooksConfig, upstreams: &[UpstreamConfig]) -> Json {
    let keys = hooks(section, upstreams).into_iter();
    Json::Object(keys.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn networks(networks: &Networks) -> Json {
    networks.0.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

fn request_id(section: &RequestIdConfig) -> Json {
    let RequestIdConfig { header, trust } = section;
    let trust = match trust {
        IdTrust::Nobody => "nobody",
        IdTrust::Trusted => "trusted",
        IdTrust::Everybody => "everybody",
    };
    json!({ "header": header, "trust": trust })
}

fn cors(section: &CorsConfig) -> Json {
    let CorsConfig { origins, methods, headers, expose, credentials, max_age } = section;
    let any = ["*".to_owned()];
    let origins = if origins.is_empty() { &any[..] } else { origins };
    json!({
        "origins": origins,
        "methods": methods,
        "headers": headers,
        "expose": expose,
        "credentials": credentials,
        "max_age": duration_text(*max_age),
    })
}

fn rate_limit(section: &RateLimitConfig) -> Json {
    let RateLimitConfig { key, requests, period, burst, table_entries, announce } = section;
    let unit = match period.as_secs() {
        1 => "s",
        60 => "m",
        3600 => "h",
        _ => "d",
    };
    json!({
        "key": key.to_string(),
        "rate": format!("{requests}/{unit}"),
        "burst": burst,
        "table_entries": table_entries,
        "announce": announce,
    })
}

impl fmt::Display for ClientKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => out.write_str("ip"),
            Self::Route => out.write_str("route"),
            Self::Header(name) => write!(out, "header:{name}"),
            Self::Cookie(name) => write!(out, "cookie:{name}"),
        }
    }
}

fn redirect(section: &RedirectConfig) -> Json {
    let RedirectConfig { to, status } = section;
    json!({ "to": to.to_string(), "status": status })
}

fn basic_auth(section: &BasicAuthConfig) -> Json {
    let BasicAuthConfig { users_file, realm, auth_failures } = section;
    let users_file = users_file.to_string_lossy();
    json!({ "users_file": users_file, "realm": realm, "auth_failures": auth_failures })
}

fn forward_auth(section: &ForwardAuthConfig, name: &str) -> Json {
    let ForwardAuthConfig {
        upstream: _,
        path,
        request_headers,
        response_headers,
        timeout,
        on_failure,
    } = section;
    json!({
        "upstream": name,
        "path": path,
        "request_headers": request_headers,
        "response_headers": response_headers,
        "timeout": duration_text(*timeout),
        "on_failure": failure(*on_failure),
    })
}

fn failure(on_failure: OnFailure) -> &'static str {
    match on_failure {
        OnFailure::Closed => "closed",
        OnFailure::Open => "open",
    }
}

fn custom(section: &CustomConfig) -> Json {
    let CustomConfig { hook, timeout, on_failure } = section;
    let timeout = duration_text(*timeout);
    json!({ "hook": hook, "timeout": timeout, "on_failure": failure(*on_failure) })
}

fn respond(section: &RespondConfig) -> Json {
    let RespondConfig { status, body, content_type, headers } = section;
    let headers: Map<String, Json> =
        headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({ "status": status, "body": body, "content_type": content_type, "headers": headers })
}

fn split<'u>(section: &SplitConfig, name: impl Fn(usize) -> &'u str) -> Json {
    let SplitConfig { arms, sticky, max_age } = section;
    let weights: Map<String, Json> = arms
        .iter()
        .map(|(upstream, weight)| (name(*upstream).to_owned(), (*weight).into()))
        .collect();
    let mut table = json!({ "weights": weights, "max_age": duration_text(*max_age) });
    if let Some(sticky) = sticky {
        table["sticky"] = sticky.to_string().into();
    }
    table
}

fn mirror(section: &MirrorConfig, name: &str) -> Json {
    let MirrorConfig { upstream: _, share, body_bytes } = section;
    let percent = f64::from(*share) / 100.0;
    json!({ "upstream": name, "percent": percent, "body_bytes": bytes_text(*body_bytes) })
}

fn retry(section: &RetryConfig) -> Json {
    let RetryConfig {
        attempts,
        on: RetryOn { connect, reset, timeout, unavailable },
        budget_percent,
    } = section;
    let words =
        [("connect", connect), ("reset", reset), ("timeout", timeout), ("5xx", unavailable)];
    let on: Vec<_> = words.into_iter().filter(|(_, is_on)| **is_on).map(|(word, _)| word).collect();
    json!({ "attempts": attempts, "on": on, "budget_percent": budget_percent })
}

fn rewrite(section: &RewriteConfig) -> Json {
    match section {
        RewriteConfig::Prefix(prefix) => json!({ "prefix": prefix }),
        RewriteConfig::Regex { pattern, replacement } => {
            json!({ "regex": pattern, "replacement": replacement.to_string() })
        }
    }
}

fn headers(section: &HeadersConfig) -> Option<Json> {
    let HeadersConfig { rename, remove, set, add } = section;
    if section.is_empty() {
        return None;
    }
    let names: Map<String, Json> =
        rename.iter().map(|(from, to)| (from.clone(), to.as_str().into())).collect();
    let values = |fields: &[(String, super::Template)]| -> Map<String, Json> {
        fields.iter().map(|(name, value)| (name.clone(), value.to_string().into())).collect()
    };
    let mut table = Map::new();
    let lists =
        [("rename", Json::from(names)), ("set", values(set).into()), ("add", values(add).into())];
    for (key, value) in lists {
        if value.as_object().is_some_and(|value| !value.is_empty()) {
            table.insert(key.to_owned(), value);
        }
    }
    if !remove.is_empty() {
        table.insert("remove".to_owned(), json!(remove));
    }
    Some(table.into())
}

fn security(section: &SecurityConfig) -> Json {
    let SecurityConfig { hsts, nosniff, frame_options, referrer_policy, content_security_policy } =
        section;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    json!({
        "hsts": text(hsts),
        "nosniff": nosniff,
        "frame_options": text(frame_options),
        "referrer_policy": text(referrer_policy),
        "content_security_policy": text(content_security_policy),
    })
}

fn pages(section: &ErrorPagesConfig) -> Json {
    let ErrorPagesConfig { pages, intercept: _ } = section;
    let page = |(statuses, source): &(Statuses, PageSource)| {
        let statuses = match statuses {
            Statuses::Exact(status) => status.to_string(),
            Statuses::Class(class) => format!("{class}xx"),
        };
        let source = match source {
            PageSource::Inline(text) => text.clone(),
            PageSource::File(path) => format!("file:{}", path.to_string_lossy()),
        };
        (statuses, source.into())
    };
    Json::Object(pages.iter().map(page).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spelled::toml;
    use crate::config::tests::parse;

    #[test]
    fn what_is_spelled_reads_back_to_the_same() {
        let tables = [
            "allow = []\ndeny = [\"10.0.0.0/8\"]\nmethods = [\"GET\"]\nbody_bytes = 0\n\
             connections_per_client = 3\nintercept_errors = true\n\
             error_pages = { 404 = \"a\\n\\\"b\\\"\", 5xx = \"file:/a b.html\" }",
            "cors = {}\nrate_limit = { rate = \"7/d\", burst = 2, announce = true }\n\
             request_id = { header = \"X-Id\", trust = \"everybody\" }",
            "cors = { origins = [\"http://a\"], credentials = true, max_age = \"90s\" }\n\
             rate_limit = { rate = \"7/m\", key = \"header:X-Key\" }\n\
             redirect = { to = \"/${path}$$x\", status = 301 }",
            "basic_auth = { users_file = \"/a\", realm = \"b\" }\ncustom = []\n\
             forward_auth = { upstream = \"demo\", response_headers = [\"X-User\"] }\n\
             respond = { body = \"a\", headers = { X-A = \"b\", \"X.B\" = \"c\" } }",
            "split = { weights = { demo = 3 }, sticky = \"cookie:c\" }\nretry = {}\n\
             mirror = { upstream = \"demo\", percent = 0.25, body_bytes = 0 }\n\
             rewrite = { regex = \"^/(.*)$\", replacement = \"/$1/${1}$$${host}\" }",
            "split = { weights = { demo = 3 }, sticky = \"ip\" }\nretry = { on = [\"5xx\"] }\n\
             rewrite = { prefix = \"/a\" }\nsecurity_headers = { frame_options = \"\" }\n\
             request_headers = { set = { X-A = \"${header.x-b}\" }, remove = [\"X-C\"] }\n\
             response_headers = { rename = { X-D = \"X-E\" }, add = { X-F = \"$${host}$\" } }",
        ];
        for text in tables {
            let config =
                parse(&format!("[hooks]\n{text}")).unwrap_or_else(|error| panic!("{error}"));
            let section = config.hooks.as_ref().unwrap();
            let keys = hooks(section, &config.upstreams).into_iter();
            let lines: Vec<_> =
                keys.map(|(key, value)| format!("{key} = {}", toml(&value))).collect();
            let again = parse(&format!("[hooks]\n{}", lines.join("\n")));
            let again = again.unwrap_or_else(|error| panic!("{error}\n{lines:?}"));
            assert_eq!(again.hooks, config.hooks, "{lines:?}");
            let own = toml(&table(section, &config.upstreams));
            let route = format!("[[route]]\nupstream = \"demo\"\nhooks = {own}");
            assert_eq!(parse(&route).unwrap().routes[0].hooks, config.hooks);
        }
    }
}
