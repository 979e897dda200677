//! What holds for any host and any path that a request may name: the check behind a fuzz target.
//!
//! In go an authority and a path; the check panics where two spellings of the same place lead to
//! different routes, or where what is sent on is no path. Nothing here runs in the proxy.

use super::{Route, Routes};
use crate::config::{Config, HostPattern, RouteConfig};
use crate::http::path::{is_plain, normal_target, path_of};

thread_local!(static ROUTES: Routes = Routes::new(&config()));

fn config() -> Config {
    let exact = |name: &str| HostPattern::Exact(name.to_owned());
    let below = HostPattern::Suffix(".a.example".to_owned());
    let table = [
        (exact("a.example"), "/x", false),
        (exact("a.example"), "/x/y/", true),
        (below, "/Z", true),
        (exact("[::1]"), "/", false),
        (exact("10.0.0.1"), "/", false),
        (HostPattern::Any, "/.well-known", true),
    ];
    let mut config = Config::default();
    let template = config.routes[0].clone();
    let route = |(host, path, strip_prefix): (HostPattern, &str, bool)| RouteConfig {
        host,
        path: path.to_owned(),
        strip_prefix,
        ..template.clone()
    };
    config.routes = table.into_iter().map(route).collect();
    config
}

/// An authority, and behind a line's end a path and a query.
pub(crate) fn route(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (authority, target) = input.split_at(end);
    let target = [b"/", target.get(1..).unwrap_or_default()].concat();
    // As the parser lets them in.
    let is_host = |byte: &u8| byte.is_ascii_graphic() && !b"/?#@%,".contains(byte);
    if !authority.iter().all(is_host) || !target.iter().all(u8::is_ascii_graphic) {
        return;
    }
    ROUTES.with(|routes| {
        let found = routes.find(authority, &target);
        let place = |route: Option<Route>| route.map(|route| route.index);
        let upper = authority.to_ascii_uppercase();
        assert_eq!(place(routes.find(&upper, &target)), place(found));
        assert_eq!(routes.names(&upper), routes.names(authority));
        if !authority.contains(&b':') && !authority.is_empty() {
            for end in [&b"."[..], b":", b":80", b".:8080"] {
                let longer = [authority, end].concat();
                assert_eq!(place(routes.find(&longer, &target)), place(found));
            }
        }
        let normal = normal_target(&target);
        assert_eq!(normal_target(&normal), normal);
        assert_eq!(place(routes.find(authority, &normal)), place(found));
        if let Some(route) = found {
            let sent = route.sent_path(&target);
            assert!(sent.starts_with(b"/"), "{}", sent.escape_ascii());
            if route.cut > 0 {
                assert!(!sent.starts_with(b"//"), "{}", sent.escape_ascii());
            }
            if is_plain(&target) {
                assert!(is_plain(path_of(&sent)), "{}", sent.escape_ascii());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_has_one_route_however_it_is_spelled() {
        for text in [
            "a.example\nx",
            "A.example.:80\nx/./y/%2e%2e//",
            "b.a.example\nZ//x?y//",
            "[::1]:8\n",
            "[0::1]\n%61",
            "\n.well-known/..",
            "10.0.0.1\n;/..;",
            "x.y.a.example\n%5A/",
        ] {
            route(text.as_bytes());
        }
    }

    // A failure is kept as a test with a name, not as a file of seeds.
    fn rules() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(rules())]

        #[test]
        fn any_text_is_routed_alike(text in "(b\\.|\\*)?a\\.example(:80)?\n[xyZ/.%2eEfF;?]{0,20}") {
            route(text.as_bytes());
        }
    }
}
