//! Whole plans, from the text of a configuration to an edited head.
//!
//! In: tables of configurations and requests. What one hook does alone is tested in its own file;
//! here it is their order, the two tables, and what stands between a request and its answer.

use std::path::Path;

use super::custom::{
    Connect, Decision, Failure, Hook, HookError, Hooks, Page, Pending, Request, Response,
};
use super::request_view::tests::with_facts;
use super::*;
use crate::config::Flags;
use crate::http::Method;
use crate::http::head::{HeadLimits, ResponseHead};

const TWO: &str = "[[upstream]]\nname = \"a\"\nbuiltin = \"demo\"\n\
                   [[upstream]]\nname = \"b\"\nbuiltin = \"demo\"\n";

/// The configuration in a file of its own, since `Config` is read from files only.
#[track_caller]
fn config(text: &str) -> Config {
    crate::config::hooks::announce_custom(vec!["audit", "gate"]);
    let thread = std::thread::current().id();
    let path = std::env::temp_dir().join(format!("ringway-{}-{thread:?}.toml", std::process::id()));
    std::fs::write(&path, format!("{TWO}{text}")).unwrap();
    let config = Config::load(Some(Path::new(&path)), &Flags::default());
    std::fs::remove_file(&path).unwrap();
    config.unwrap_or_else(|error| panic!("{error}"))
}

fn own_hooks() -> Hooks {
    Hooks::new(vec![Box::new(Audit), Box::new(Whim)])
}

#[track_caller]
pub(super) fn plans(text: &str) -> Plans {
    Plans::load(&config(text), &own_hooks(), None).unwrap_or_else(|error| panic!("{error}"))
}

/// The plan of the first route, which has `hooks`.
#[track_caller]
fn with_plan<T>(hooks: &str, check: impl FnOnce(&Hooked) -> T) -> T {
    let plans = plans(&format!("[[route]]\nupstream = \"a\"\n[route.hooks]\n{hooks}"));
    check(plans.hooked(0).expect("a plan with hooks"))
}

const GET: &str = "GET /p?q=1 HTTP/1.1\r\nHost: h:81\r\nX-In: 1\r\n\r\n";

/// The status and fields of the answer to `request`, if there is one before the upstream.
fn answered(hooked: &Hooked, request: &str) -> Option<(u16, String)> {
    with_facts(request, |view| {
        let mut state = HookState::default();
        let entered = hooked.enter(view, &mut state);
        let answer = match entered {
            Some(answer) => answer,
            None => match hooked.choose(view.path_and_query(), view, &mut state) {
                Choice::Respond(answer) => answer,
                Choice::Upstream(_) => return None,
            },
        };
        let fields = String::from_utf8(answer.fields.into_owned()).unwrap();
        Some((answer.status.code, fields))
    })
}

/// What becomes of `request` on its way out, and of a small answer on its way back.
fn passed(hooked: &Hooked, request: &str) -> (String, String) {
    with_facts(request, |view| {
        let mut state = HookState::default();
        assert_eq!(hooked.enter(view, &mut state), None);
        let chosen = hooked.choose(view.path_and_query(), view, &mut state);
        assert!(matches!(chosen, Choice::Upstream(_)), "{chosen:?}");
        let target = state.target.clone().unwrap_or_else(|| view.path_and_query().to_vec());
        let mut out =
            [b"GET ", target.as_slice(), b" HTTP/1.1\r\nHost: h\r\nX-In: 1\r\n\r\n"].concat();
        hooked.edit_request(&mut out, 0, view, &state);
        state.status = 200;
        let mut back = b"HTTP/1.1 200 OK\r\nServer: s\r\n\r\n".to_vec();
        hooked.edit_response(&mut back, 0, view, &state);
        (String::from_utf8(out).unwrap(), String::from_utf8(back).unwrap())
    })
}

#[test]
fn a_route_without_hooks_is_fast() {
    let plans = plans("[[route]]\nupstream = \"a\"\n[[route]]\nhost = \"x\"\nupstream = \"a\"");
    assert!(plans.all().is_empty() && plans.hooked(0).is_none() && plans.hooked(7).is_none());
    assert_eq!(plans.bytes(), 0);
    let plans = self::plans(
        "[hooks]\nbody_bytes = 5\n[[route]]\nupstream = \"a\"\ninherit_hooks = false\n\
         [[route]]\nhost = \"x\"\nupstream = \"a\"",
    );
    assert!(plans.hooked(0).is_none() && plans.hooked(1).is_some());
}

#[test]
fn each_gate_refuses_with_its_status() {
    let table = [
        ("deny = [\"192.0.2.0/24\"]", GET, Some((403, ""))),
        ("allow = [\"10.0.0.0/8\"]", GET, Some((403, ""))),
        ("allow = [\"192.0.2.1\"]", GET, None),
        ("methods = [\"PUT\", \"POST\"]", GET, Some((405, "Allow: PUT, POST\r\n"))),
        ("methods = [\"GET\"]", GET, None),
        (
            "redirect = { to = \"https://${host}${target}\", status = 301 }",
            GET,
            Some((301, "Location: https://h/p?q=1\r\n")),
        ),
        (
            "respond = { status = 200, body = \"x\", headers = { X-A = \"b\" } }",
            GET,
            Some((200, "Content-Type: text/plain; charset=utf-8\r\nX-A: b\r\n")),
        ),
        (
            "body_bytes = 4",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
            Some((413, "")),
        ),
        ("body_bytes = 5", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", None),
        (
            "rewrite = { prefix = \"/in\" }",
            "GET /../x HTTP/1.1\r\nHost: h\r\n\r\n",
            Some((400, "")),
        ),
    ];
    for (hooks, request, expected) in table {
        let found = with_plan(hooks, |hooked| answered(hooked, request));
        let expected = expected.map(|(code, fields)| (code, fields.to_owned()));
        assert_eq!(found, expected, "{hooks}");
    }
}

#[test]
fn the_order_is_the_documented_one() {
    let preflight = "OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: http://a\r\n\
                     Access-Control-Request-Method: PUT\r\n\r\n";
    let table = [
        ("deny = [\"0.0.0.0/0\"]\ncors = {}", preflight, 403),
        ("cors = {}\nmethods = [\"GET\"]", preflight, 204),
        ("methods = [\"PUT\"]\nredirect = { to = \"/x\" }", GET, 405),
        ("redirect = { to = \"/x\" }\nrespond = {}", GET, 308),
    ];
    for (hooks, request, expected) in table {
        let found = with_plan(hooks, |hooked| answered(hooked, request)).map(|(code, _)| code);
        assert_eq!(found, Some(expected), "{hooks}");
    }
}

#[test]
fn a_rate_limit_says_when_to_come_back() {
    with_plan("rate_limit = { rate = \"1/m\", burst = 2, announce = true }", |hooked| {
        let (_, back) = passed(hooked, GET);
        assert!(
            back.contains(
                "RateLimit-Policy: \"default\";q=2;w=120\r\nRateLimit: \"default\";r=1;t=60"
            ),
            "{back}"
        );
        assert_eq!(answered(hooked, GET), None);
        let (code, fields) = answered(hooked, GET).unwrap();
        assert_eq!(code, 429);
        assert!(fields.starts_with("Retry-After: 60\r\nRateLimit-Policy: "), "{fields}");
        assert!(fields.contains("RateLimit: \"default\";r=0;t=60\r\n"), "{fields}");
    });
}

#[test]
fn both_tables_refuse_and_the_routes_own_comes_last_in_edits() {
    let plans = plans(
        "[hooks]\nmethods = [\"GET\", \"PUT\"]\nrate_limit = { rate = \"3/h\", key = \"route\" }\n\
         cors = { origins = [\"http://a\"] }\n\
         [hooks.request_headers]\nset = { X-A = \"global\", X-B = \"global\" }\n\
         [[route]]\nupstream = \"a\"\n[route.hooks]\nmethods = [\"GET\", \"POST\"]\ncors = {}\n\
         [route.hooks.request_headers]\nset = { X-A = \"own\" }\nremove = [\"X-B\"]\n\
         [[route]]\nhost = \"other\"\nupstream = \"a\"",
    );
    let (own, other) = (plans.hooked(0).unwrap(), plans.hooked(1).unwrap());
    for (method, is_refused) in [("GET", false), ("PUT", true), ("POST", true)] {
        let request = GET.replace("GET", method);
        let code = answered(own, &request).map(|(code, _)| code);
        assert_eq!(code == Some(405), is_refused, "{method}");
    }
    let (out, back) = passed(own, GET);
    assert_eq!(out, "GET /p?q=1 HTTP/1.1\r\nHost: h\r\nX-In: 1\r\nX-A: own\r\n\r\n");
    assert!(back.contains("Access-Control-Allow-Origin: *\r\n"), "{back}");
    assert_eq!(answered(own, GET), None);
    assert_eq!(answered(own, GET).map(|(code, _)| code), Some(429));
    // The other route has a bucket of its own in the same table.
    let (out, back) = passed(other, GET);
    assert!(out.contains("X-A: global\r\nX-B: global\r\n"), "{out}");
    assert!(back.contains("Vary: Origin\r\n"), "{back}");
}

#[test]
fn edits_see_what_was_chosen() {
    let hooks = "request_id = { trust = \"everybody\" }\nrewrite = { prefix = \"/v2\" }\n\
                 split = { weights = { b = 1 } }\n\
                 security_headers = { hsts = \"max-age=1\" }\n\
                 [route.hooks.request_headers]\n\
                 set = { X-Up = \"${upstream}\", X-Path = \"${path}\", X-Route = \"${route}\" }\n\
                 [route.hooks.response_headers]\nremove = [\"Server\", \"X-Frame-Options\"]\n\
                 add = { X-Status = \"${status} for ${client_ip}\" }";
    let request = "GET /p HTTP/1.1\r\nHost: h\r\nX-In: 1\r\nX-Request-ID: mine\r\n\r\n";
    let (out, back) = with_plan(hooks, |hooked| passed(hooked, request));
    assert_eq!(
        out,
        "GET /v2/p HTTP/1.1\r\nHost: h\r\nX-In: 1\r\nX-Request-Id: mine\r\nX-Path: /p\r\n\
         X-Route: */\r\nX-Up: b\r\n\r\n"
    );
    assert_eq!(
        back,
        "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: strict-origin-when-cross-origin\r\n\
         X-Request-Id: mine\r\nX-Status: 200 for 192.0.2.1\r\n\r\n"
    );
}

#[test]
fn a_request_has_a_name_as_soon_as_anything_asks_for_it() {
    let request = GET.replace("X-In: 1", "X-Request-Id: from-a-stranger");
    for hooks in [
        "[route.hooks.request_id]",
        "[route.hooks.request_headers]\nset = { X-Request-Id = \"${request_id}\" }",
    ] {
        let (out, _) = with_plan(hooks, |hooked| passed(hooked, &request));
        let id = out.split("X-Request-Id: ").nth(1).expect("a name").trim_end();
        assert_eq!(
            (id.len(), id.bytes().all(|byte| byte.is_ascii_hexdigit())),
            (32, true),
            "{out}"
        );
    }
}

#[test]
fn a_rewrite_can_put_the_name_of_a_request_into_its_target() {
    let hooks = "rewrite = { regex = \"^/p\", replacement = \"/id/${request_id}/\" }";
    let (out, _) = with_plan(hooks, |hooked| passed(hooked, GET));
    let id = out.strip_prefix("GET /id/").and_then(|rest| rest.split_once("/?q=1 "));
    assert_eq!(id.map(|(id, _)| id.len()), Some(32), "{out}");
}

#[test]
fn a_client_may_have_so_many_requests_under_way() {
    with_plan("connections_per_client = 2", |hooked| {
        with_facts(GET, |view| {
            let mut passages = [HookState::default(), HookState::default(), HookState::default()];
            let codes = passages
                .each_mut()
                .map(|state| hooked.enter(view, state).map(|answer| answer.status.code));
            assert_eq!(codes, [None, None, Some(429)]);
            let [first, second, third] = passages;
            drop(first);
            assert_eq!(hooked.enter(view, &mut HookState::default()), None);
            drop((second, third));
        });
    });
}

#[test]
fn a_reload_forgets_no_limit_that_stays_as_it_was() {
    let text = "[[route]]\nupstream = \"a\"\n[route.hooks]\nrate_limit = { rate = \"1/h\" }\n";
    let first = plans(text);
    assert_eq!(answered(first.hooked(0).unwrap(), GET), None);
    let same = Plans::load(&config(&format!("{text}body_bytes = 7")), &own_hooks(), Some(&first));
    let same = same.unwrap();
    assert_eq!(answered(same.hooked(0).unwrap(), GET).map(|(code, _)| code), Some(429));
    let other = config(&text.replace("1/h", "2/h"));
    let other = Plans::load(&other, &own_hooks(), Some(&same)).unwrap();
    assert_eq!(answered(other.hooked(0).unwrap(), GET), None);
}

#[test]
fn a_reload_that_lets_more_clients_in_makes_room_for_them() {
    let text = "[limits]\nclients = 100\n[hooks]\nconnections_per_client = 1\n\
                [[route]]\nupstream = \"a\"\n";
    let first = plans(text);
    let again = |text: &str| Plans::load(&config(text), &own_hooks(), Some(&first)).unwrap();
    with_facts(GET, |view| {
        let enter = |plans: &Plans, state: &mut HookState| {
            plans.hooked(0).unwrap().enter(view, state).map(|answer| answer.status.code)
        };
        let mut state = HookState::default();
        assert_eq!(enter(&first, &mut state), None);
        assert_eq!(enter(&again(text), &mut HookState::default()), Some(429));
    });
    let (before, after) = (first.bytes(), again(&text.replace("100", "1000")).bytes());
    assert_eq!(after - before, (2048 - 256) * 8);
}

#[test]
fn tables_are_counted_and_do_not_grow() {
    let plans = plans(
        "[hooks]\nrate_limit = { rate = \"1/s\", table_entries = 1024 }\n\
         [[route]]\nupstream = \"a\"\n[[route]]\nhost = \"x\"\nupstream = \"a\"",
    );
    let bytes = plans.bytes();
    assert!((8192..16_384).contains(&bytes), "{bytes}");
    for _ in 0..100 {
        answered(plans.hooked(0).unwrap(), GET);
    }
    assert_eq!(plans.bytes(), bytes);
}

#[test]
fn what_cannot_be_loaded_names_its_route() {
    let table = [
        (
            "basic_auth = { users_file = \"/nowhere/users\" }",
            "route[0].hooks: basic_auth.users_file: /nowhere/users: ",
        ),
        (
            "error_pages = { 5xx = \"file:/nowhere/page.html\" }",
            "route[0].hooks: error_pages.5xx: /nowhere/page.html: the error page cannot be read",
        ),
        ("custom = [{ hook = \"gate\" }]", "route[0].hooks: there is no hook \"gate\" in this bin"),
    ];
    for (hooks, expected) in table {
        let config = config(&format!("[[route]]\nupstream = \"a\"\n[route.hooks]\n{hooks}"));
        let Err(error) = Plans::load(&config, &Hooks::default(), None) else { panic!("{hooks}") };
        assert!(error.starts_with(expected), "{error}");
    }
}

struct Audit;

impl Hook for Audit {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn on_request<'a>(&'a self, request: &'a mut Request<'_>) -> Pending<'a, Decision> {
        Box::pin(async move {
            let wish = request.field("x-in").unwrap_or_default().to_vec();
            match wish.as_slice() {
                b"evil" => {
                    request.set("X-A", "b\r\nX-Evil: 1")?;
                    Ok(Decision::Continue)
                }
                b"frame" => request.remove("Content-Length").map(|()| Decision::Continue),
                b"wait" => std::future::pending().await,
                b"panic" => panic!("as asked"),
                b"page" => Ok(Decision::Answer(Page::text(418, "teapot"))),
                b"bad page" => Ok(Decision::Answer(Page::text(99, ""))),
                _ => {
                    request.set("X-In", "2")?;
                    request.set("X-A", "a")?;
                    Ok(Decision::Continue)
                }
            }
        })
    }

    fn on_response(&self, response: &mut Response<'_>) -> Result<(), HookError> {
        if response.status() == 500 {
            return Err("no such answer".into());
        }
        response.remove("Server")
    }

    fn on_error(&self, failure: &Failure) -> Result<Option<Page>, HookError> {
        Ok((failure.status == 502).then(|| Page::text(502, failure.error)))
    }
}

struct Whim;

impl Hook for Whim {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn on_connect<'a>(&'a self, connect: &'a Connect<'_>) -> Pending<'a, Decision> {
        let is_allowed = connect.port == 443;
        let refused = Decision::Answer(Page::text(403, "no"));
        Box::pin(std::future::ready(Ok(if is_allowed { Decision::Continue } else { refused })))
    }
}

/// The status that a request with this field gets from the hook, and how it would be sent on.
fn asked(on_failure: &str, wish: &str) -> (Option<u16>, String) {
    let hooks = format!(
        "custom = [{{ hook = \"audit\", timeout = \"20ms\", on_failure = \"{on_failure}\" }}]"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    with_plan(&hooks, |hooked| {
        with_facts(&GET.replace("X-In: 1", &format!("X-In: {wish}")), |view| {
            let mut state = HookState::default();
            let asked = hooked.custom[0].on_request(view, &mut state.request_changes);
            let answer = runtime.block_on(asked);
            let mut out = b"GET / HTTP/1.1\r\nx-in: 1\r\nHost: h\r\n\r\n".to_vec();
            hooked.edit_request(&mut out, 0, view, &state);
            (answer.map(|answer| answer.status.code), String::from_utf8(out).unwrap())
        })
    })
}

#[test]
fn a_hook_in_rust_edits_answers_and_fails_as_configured() {
    let (answer, out) = asked("closed", "");
    assert_eq!(answer, None);
    assert_eq!(out, "GET / HTTP/1.1\r\nHost: h\r\nX-In: 2\r\nX-A: a\r\n\r\n");
    assert_eq!(asked("closed", "page").0, Some(418));
    // The one that waits never decides: that this test ends is what it proves.
    for wish in ["evil", "frame", "wait", "panic", "bad page"] {
        assert_eq!(asked("closed", wish).0, Some(503), "{wish}");
        let (answer, out) = asked("open", wish);
        assert_eq!(answer, None, "{wish}");
        assert!(!out.contains("Evil"), "{out}");
    }
}

#[test]
fn a_hook_in_rust_sees_answers_errors_and_tunnels() {
    let plans = plans(
        "[hooks]\ncustom = [{ hook = \"audit\" }, { hook = \"gate\" }]\n\
         [[route]]\nupstream = \"a\"",
    );
    let audit = &plans.hooked(0).unwrap().custom[0];
    for (status, expected) in [(200, None), (500, Some(502))] {
        let text = format!("HTTP/1.1 {status} X\r\nServer: s\r\nContent-Length: 0\r\n\r\n");
        let limits = HeadLimits { head_bytes: 4096, target_bytes: 100, header_count: 50 };
        let mut head = ResponseHead::new();
        assert_eq!(head.parse(text.as_bytes(), &limits, Method::Get), Ok(true));
        let mut state = HookState::default();
        let mut response = Response::new(&head, text.as_bytes(), &mut state.response_changes);
        let answer = audit.on_response(&mut response).map(|answer| answer.status.code);
        assert_eq!(answer, expected);
    }
    let page = audit.on_error(&Failure { status: 502, error: "origin_refused" }).unwrap();
    assert_eq!((page.status.code, &*page.body), (502, "origin_refused"));
    assert_eq!(audit.on_error(&Failure { status: 504, error: "origin_read_timeout" }), None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (port, expected) in [(443, None), (22, Some(403))] {
        let connect = Connect { client: Some([192, 0, 2, 1].into()), host: "example.org", port };
        let gate = &plans.connect[1];
        let answer = runtime.block_on(gate.on_connect(&connect));
        assert_eq!(answer.map(|answer| answer.status.code), expected, "{port}");
    }
}
