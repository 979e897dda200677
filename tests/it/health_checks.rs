//! Who of an upstream is asked: by balance, by checks, by what origins answered, by an operator.
//!
//! Scripted origins say by which of them a request was answered; what ringway knows of them is read
//! from `/upstreams`.

use std::collections::HashMap;
use std::io::{Read as _, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Blackhole, GET, Gate, Message, NameServer, OK, Origin, Proxy, Refusal, Setup, wait_until,
};

/// An origin that answers with its name, and with a status that a test may change.
struct Named {
    origin: Origin,
    status: Arc<AtomicU16>,
}

impl Named {
    fn new(name: &'static str) -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let told = status.clone();
        let origin = Origin::start(move |mut peer| {
            while peer.next_request().is_some() {
                let status = told.load(Ordering::SeqCst);
                let length = name.len();
                peer.send(format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n\r\n{name}"));
            }
        });
        Self { origin, status }
    }

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn url(&self) -> String {
        self.origin.url()
    }
}

fn upstream(urls: &[&str], more: &str) -> Setup {
    Setup::new().set("server.workers", 1).upstream("app", urls, more).route("", "/", "app", "")
}

/// By whom `count` requests are answered, each on a connection of its own.
fn answers(proxy: &Proxy, count: usize, request: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..count {
        let response = proxy.send(request).read_response();
        *counts.entry(String::from_utf8_lossy(&response.body).into_owned()).or_default() += 1;
    }
    counts
}

/// What is known of the target at `url`.
fn target(proxy: &Proxy, url: &str) -> Value {
    let answer: Value = serde_json::from_str(&proxy.admin("GET", "/upstreams")).expect("JSON");
    let targets = answer["upstreams"][0]["targets"].as_array().expect("targets").clone();
    let found = targets.into_iter().find(|it| it["origin"] == url || it["address"] == url);
    found.unwrap_or_else(|| panic!("no {url} in {answer}"))
}

fn wait_for_state(proxy: &Proxy, url: &str, state: &str) {
    wait_until(state, || target(proxy, url)["state"] == state);
}

#[test]
fn a_check_puts_an_origin_out_and_brings_it_back() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let health = "health = { path = \"/up\", interval = \"100ms\", rise = 2, fall = 2 }";
    let proxy = upstream(&[&a.url(), &b.url()], health).set("alerts.interval", "1s").start();
    a.origin.wait_for("a check", |seen| !seen.requests.is_empty());
    {
        let seen = a.origin.seen();
        let check = &seen.requests[0];
        assert_eq!(check.start, "GET /up HTTP/1.1");
        check.expect_field("Host", &a.origin.address().to_string());
        check.expect_field("Connection", "close");
    }
    wait_until("checked", || target(&proxy, &b.url())["check"] == "good");
    assert_eq!(answers(&proxy, 20, GET)["a"], 10);
    b.says(503);
    wait_for_state(&proxy, &b.url(), "check");
    assert_eq!(target(&proxy, &b.url())["check_error"], "status 503");
    proxy.wait_for_log(&["passed over", "reason=\"check\"", "status 503"]);
    assert_eq!(answers(&proxy, 20, GET).get("b"), None);
    let is_alert = || proxy.admin("GET", "/health").contains("origins_out");
    wait_until("the alert begins", is_alert);
    b.says(200);
    wait_for_state(&proxy, &b.url(), "up");
    wait_until("the alert ends", || !is_alert());
    assert_eq!(answers(&proxy, 20, GET)["b"], 10);
}

/// The URL of a server whose answers never end.
fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let block = vec![b'x'; 64 * 1024];
                let begun = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                if begun.is_ok() {
                    while stream.write_all(&block).is_ok() {}
                }
            });
        }
    });
    url
}

#[test]
fn checks_see_rubbish_silence_redirects_and_endless_answers_and_nobody_is_hurt() {
    let good = Named::new("good");
    let rubbish = Origin::answering("SSH-2.0-OpenSSH\r\n\r\n");
    let silent = Origin::silent();
    let redirect = Origin::answering("HTTP/1.1 302 -\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
    let endless = endless();
    let refused = Refusal::new();
    let health = "health = { path = \"/\", interval = \"100ms\", timeout = \"300ms\", fall = 1, \
                  status = \"200\", body = \"good\" }";
    let ill = [rubbish.url(), silent.url(), redirect.url(), endless, refused.url()];
    let good_url = good.url();
    let urls: Vec<&str> = ill.iter().chain([&good_url]).map(String::as_str).collect();
    let proxy = upstream(&urls, health).start();
    for (url, error) in ill.iter().zip([
        "origin_bad_head",
        "no answer in time",
        "status 302",
        "the text is not in the first 64 KiB",
        "origin_refused",
    ]) {
        wait_for_state(&proxy, url, "check");
        assert_eq!(target(&proxy, url)["check_error"], error, "{url}");
    }
    assert_eq!(answers(&proxy, 30, GET)["good"], 30);
}

#[test]
fn where_every_check_fails_somebody_is_asked_all_the_same() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let health = "health = { path = \"/up\", interval = \"100ms\", status = \"204\", fall = 1 }";
    let proxy = upstream(&[&a.url(), &b.url()], health).start();
    for origin in [&a, &b] {
        wait_for_state(&proxy, &origin.url(), "check");
    }
    assert_eq!(answers(&proxy, 10, GET).values().sum::<usize>(), 10);
}

#[test]
fn a_check_is_done_once_for_all_workers() {
    let a = Named::new("a");
    let health = "health = { path = \"/up\", interval = \"1s\" }";
    let setup = upstream(&[&a.url()], health).set("server.workers", 4).set("pool.prewarm", 0);
    let _proxy = setup.start();
    let began = std::time::Instant::now();
    a.origin.wait_for("five checks", |seen| seen.requests.len() >= 5);
    // Four workers would have needed two intervals, less what the start took.
    assert!(began.elapsed() > std::time::Duration::from_millis(2_400));
}

#[test]
fn errors_in_a_row_pass_an_origin_over_and_one_good_answer_brings_it_back() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let eject = "eject = { errors = 3, pause = \"1s\" }";
    let proxy = upstream(&[&a.url(), &b.url()], eject).start();
    assert_eq!(answers(&proxy, 10, GET)["b"], 5);
    b.says(500);
    answers(&proxy, 8, GET);
    assert_eq!(target(&proxy, &b.url())["state"], "errors");
    b.says(200);
    wait_until("the trial goes well", || {
        answers(&proxy, 2, GET);
        target(&proxy, &b.url())["state"] == "up"
    });
    assert_eq!(answers(&proxy, 10, GET)["b"], 5);
}

#[test]
fn what_was_passed_over_for_its_answers_is_asked_again_when_they_are_judged_no_more() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let eject = "eject = { errors = 1, pause = \"1h\" }";
    let proxy = upstream(&[&a.url(), &b.url()], eject).start();
    b.says(500);
    answers(&proxy, 4, GET);
    wait_for_state(&proxy, &b.url(), "errors");
    b.says(200);
    let file = proxy.home().join("ringway.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, text.replace(eject, "")).expect("a file that may be written");
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded"]);
    wait_for_state(&proxy, &b.url(), "up");
    assert_eq!(answers(&proxy, 10, GET)["b"], 5);
}

#[test]
fn the_last_one_is_never_passed_over_for_its_answers() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let eject = "eject = { errors = 1, pause = \"1h\", at_most = 100 }";
    let proxy = upstream(&[&a.url(), &b.url()], eject).start();
    a.says(500);
    b.says(500);
    answers(&proxy, 20, GET);
    let states = [&a, &b].map(|it| target(&proxy, &it.url())["state"].clone());
    assert_eq!(states.iter().filter(|state| **state == "errors").count(), 1, "{states:?}");
}

#[test]
fn an_operator_takes_an_origin_out_and_a_reload_does_not_bring_it_back() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let proxy = upstream(&[&a.url(), &b.url()], "").start();
    for (state, a_gets) in [("drain", None), ("up", Some(&5)), ("down", None)] {
        let path = format!("/upstreams/app?origin={}&state={state}", a.url());
        assert!(proxy.admin("POST", &path).contains(state));
        assert_eq!(answers(&proxy, 10, GET).get("a"), a_gets, "{state}");
    }
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded"]);
    assert_eq!(answers(&proxy, 10, GET).get("a"), None);
    let path = format!("/upstreams/app?origin={}&state=down", b.url());
    proxy.admin("POST", &path);
    let response = proxy.send(GET).read_response();
    response.expect_field("Proxy-Status", "ringway; error=destination_unavailable");
}

#[test]
fn all_addresses_of_a_name_are_asked_and_one_that_is_gone_costs_nobody_an_answer() {
    let first = Named::new("first");
    let port = first.origin.address().port();
    let second = Origin::start_at(([127, 0, 0, 2], port).into(), |mut peer| {
        while peer.next_request().is_some() {
            peer.send(OK.replace("ok", "no"));
        }
    });
    let names = ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap());
    let server =
        NameServer::anywhere(move |question| (question.name == "app.test").then(|| names.to_vec()));
    let url = format!("http://app.test:{port}");
    let proxy = upstream(&[&url], "").asking(&server).start();
    let counts = answers(&proxy, 20, GET);
    assert_eq!((counts["first"], counts["no"]), (10, 10));
    assert_eq!(target(&proxy, &format!("127.0.0.2:{port}"))["state"], "up");
    second.stop();
    assert_eq!(answers(&proxy, 20, GET)["first"], 20);
    assert_eq!(target(&proxy, &format!("127.0.0.2:{port}"))["state"], "connect");
}

#[test]
fn of_several_priorities_the_lowest_that_has_somebody_is_asked() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let lines = format!(
        "origins = [\"{}\", {{ url = \"{}\", priority = 1 }}]\n\
         eject = {{ errors = 1, pause = \"1h\" }}",
        a.url(),
        b.url()
    );
    let setup = Setup::new().upstream_lines("app", &lines).route("", "/", "app", "");
    let proxy = setup.start();
    assert_eq!(answers(&proxy, 10, GET)["a"], 10);
    a.says(500);
    answers(&proxy, 1, GET);
    assert_eq!(answers(&proxy, 10, GET)["b"], 10);
}

#[test]
fn what_is_alike_goes_to_the_same_origin() {
    let named = [Named::new("a"), Named::new("b"), Named::new("c")];
    let urls = named.each_ref().map(Named::url);
    let urls = urls.each_ref().map(String::as_str);
    let more = "balance = \"consistent_hash\"\nhash = \"cookie:sid\"";
    let proxy = upstream(&urls, more).start();
    let mut all = HashMap::new();
    for session in 0..30 {
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: x=1; sid={session}\r\n\r\n");
        let answers = answers(&proxy, 4, &request);
        assert_eq!(answers.len(), 1, "{answers:?}");
        all.extend(answers);
    }
    assert_eq!(all.len(), 3, "{all:?}");
}

#[test]
fn the_fewest_requests_win_over_all_workers() {
    let (held, gate) = Origin::held();
    let fast = Named::new("fast");
    let setup = upstream(&[&held.url(), &fast.url()], "balance = \"least_connections\"");
    let proxy = setup.set("server.workers", 2).start();
    let is_free = || target(&proxy, &fast.url())["busy"] == 0;
    // Whoever comes first to the one that answers nobody stays there; nobody follows.
    let mut waiting = Vec::new();
    // One after another: of many at once, several would go there.
    while held.seen().requests.is_empty() {
        let before = fast.origin.seen().requests.len();
        waiting.push(proxy.send(GET));
        wait_until("somebody has it", || {
            fast.origin.seen().requests.len() > before || !held.seen().requests.is_empty()
        });
    }
    for _ in 0..20 {
        // A request that has been answered and not quite ended is one.
        wait_until("the last one has ended", is_free);
        proxy.send(GET).read_response().expect_body("fast");
    }
    gate.open();
    drop(waiting);
}

#[test]
fn an_origin_that_never_connects_does_not_hold_requests_up() {
    let a = Named::new("a");
    let silent = Blackhole::new();
    let proxy = upstream(&[&silent.url(), &a.url()], "").set("pool.prewarm", 0).start();
    let is_late = AtomicBool::new(false);
    for _ in 0..10 {
        let began = std::time::Instant::now();
        proxy.send(GET).expect_status(200);
        // timeouts.connect is 10 s; another one is asked after a quarter of a second.
        is_late.fetch_or(began.elapsed().as_secs() >= 5, Ordering::SeqCst);
    }
    assert!(!is_late.load(Ordering::SeqCst));
}

/// The value of the cookie `name` that an answer sets.
fn cookie(response: &Message, name: &str) -> Option<String> {
    let set = response.all("Set-Cookie").into_iter().find(|it| it.starts_with(name))?;
    let value = set.strip_prefix(name)?.strip_prefix('=')?;
    Some(value.split(';').next().unwrap_or_default().to_owned())
}

#[test]
fn a_client_comes_back_to_who_answered_it_and_goes_elsewhere_when_that_is_gone() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let eject = "sticky = {}\neject = { errors = 1, pause = \"1h\" }";
    let proxy = upstream(&[&a.url(), &b.url()], eject).start();
    let first = proxy.send(GET).read_response();
    let value = cookie(&first, "ringway_origin").expect("a cookie");
    let set = first.field("Set-Cookie").expect("a cookie").to_owned();
    assert!(set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{set}");
    let name = String::from_utf8(first.body).unwrap();
    let again = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: ringway_origin={value}\r\n\r\n");
    for _ in 0..10 {
        let response = proxy.send(&again).read_response();
        assert_eq!(response.body, name.as_bytes());
        assert_eq!(cookie(&response, "ringway_origin"), None, "it has one");
    }
    // The one that it is kept with is ill: another one, and a cookie for that.
    let (ill, other) = if name == "a" { (&a, "b") } else { (&b, "a") };
    ill.says(500);
    proxy.send(&again).expect_status(500);
    let response = proxy.send(&again).read_response();
    assert_eq!(response.body, other.as_bytes());
    assert!(cookie(&response, "ringway_origin").is_some_and(|new| new != value));
}

#[test]
fn clients_that_are_kept_with_an_origin_stay_while_it_is_drained() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let proxy = upstream(&[&a.url(), &b.url()], "sticky = {}").start();
    let first = proxy.send(GET).read_response();
    let value = cookie(&first, "ringway_origin").expect("a cookie");
    let name = String::from_utf8(first.body).unwrap();
    let url = if name == "a" { a.url() } else { b.url() };
    let again = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: ringway_origin={value}\r\n\r\n");
    proxy.admin("POST", &format!("/upstreams/app?origin={url}&state=drain"));
    assert_eq!(answers(&proxy, 5, &again)[&name], 5);
    assert_eq!(answers(&proxy, 5, GET).get(&name), None);
    proxy.admin("POST", &format!("/upstreams/app?origin={url}&state=down"));
    assert_eq!(answers(&proxy, 5, &again).get(&name), None);
}

#[test]
fn a_cookie_of_the_origins_own_is_learnt() {
    let origin = |name: &'static str| {
        Origin::start(move |mut peer| {
            while peer.next_request().is_some() {
                peer.send(format!(
                    "HTTP/1.1 200 OK\r\nSet-Cookie: sid=of-{name}; Path=/\r\n\
                     Content-Length: 1\r\n\r\n{name}"
                ));
            }
        })
    };
    let (a, b) = (origin("a"), origin("b"));
    let more = "sticky = { learn = true, cookie = \"sid\" }";
    let proxy = upstream(&[&a.url(), &b.url()], more).start();
    assert_eq!(answers(&proxy, 4, GET).len(), 2);
    for name in ["a", "b"] {
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: sid=of-{name}\r\n\r\n");
        assert_eq!(answers(&proxy, 6, &request)[name], 6);
    }
}

#[test]
fn an_origin_may_sit_below_a_path_and_clients_see_it_where_they_ask_for_it() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let host = request.field("Host").unwrap_or_default().to_owned();
            peer.send(format!(
                "HTTP/1.1 302 Found\r\nLocation: http://{host}/base/next?x\r\n\
                 Content-Location: /base/here\r\nSet-Cookie: a=b; Path=/base; Secure\r\n\
                 Link: </base/x>\r\nContent-Length: 0\r\n\r\n"
            ));
        }
    });
    let url = format!("{}/base/", origin.url());
    let more = "host = \"origin\"\nmap_location = true";
    let setup = Setup::new().upstream("app", &[&url], more);
    let proxy = setup.route("", "/shop", "app", "strip_prefix = true").start();
    let response = proxy.send("GET /shop/a?b HTTP/1.1\r\nHost: test\r\n\r\n").read_response();
    response.expect_field("Location", "/shop/next?x");
    response.expect_field("Content-Location", "/shop/here");
    response.expect_field("Set-Cookie", "a=b; Path=/shop; Secure");
    response.expect_field("Link", "</base/x>");
    origin.wait_for("a request", |seen| !seen.requests.is_empty());
    assert_eq!(origin.seen().requests[0].start, "GET /base/a?b HTTP/1.1");
}

#[test]
fn an_operator_changes_a_weight_and_for_a_while_only() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let proxy = upstream(&[&a.url(), &b.url()], "").start();
    let path = format!("/upstreams/app?origin={}&weight=3&keep=false", a.url());
    proxy.admin("POST", &path);
    assert_eq!(answers(&proxy, 40, GET)["a"], 30);
    assert_eq!(target(&proxy, &a.url())["weight"], 3);
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded"]);
    assert_eq!(answers(&proxy, 40, GET)["a"], 20);
    for bad in ["weight=1001", "state=up&keep=perhaps", "state=off", "weight=-1", ""] {
        let path = format!("/upstreams/app?origin={}&{bad}", a.url());
        assert!(proxy.ask_admin("POST", &path).contains("expected"), "{bad}");
    }
}

/// A name whose one address a test changes: the last number of it.
fn movable() -> (NameServer, Arc<AtomicU8>) {
    let last = Arc::new(AtomicU8::new(1));
    let told = last.clone();
    let server = NameServer::anywhere(move |question| {
        let address = [127, 0, 0, told.load(Ordering::SeqCst)];
        (question.name == "app.test").then(|| vec![address.into()])
    });
    (server, last)
}

#[test]
fn an_answer_is_seen_as_its_own_origin_means_it_whatever_its_name_leads_to_by_then() {
    let may_answer = Gate::default();
    let open = may_answer.clone();
    let first = Origin::start(move |mut peer| {
        peer.expect_request();
        open.wait();
        peer.send("HTTP/1.1 302 -\r\nLocation: /base/next\r\nContent-Length: 0\r\n\r\n");
    });
    let port = first.address().port();
    let second = Origin::start_at(([127, 0, 0, 2], port).into(), |mut peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let (server, last) = movable();
    let more = "host = \"origin\"\nmap_location = true";
    let url = format!("http://app.test:{port}/base/");
    let setup = Setup::new().set("server.workers", 1).upstream("app", &[&url], more);
    let proxy = setup.route("", "/shop", "app", "strip_prefix = true").asking(&server).start();
    let request = "GET /shop/a HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut client = proxy.send(request);
    first.wait_for("the request", |seen| !seen.requests.is_empty());
    last.store(2, Ordering::SeqCst);
    proxy.wait_for_log(&["resolved", "127.0.0.2"]);
    proxy.send(request).read_response().expect_status(200);
    may_answer.open();
    client.read_response().expect_field("Location", "/shop/next");
    let asked = second.seen().requests[0].clone();
    assert_eq!(asked.start, "GET /base/a HTTP/1.1");
    asked.expect_field("Host", &format!("app.test:{port}"));
}

#[test]
fn an_origin_that_serves_on_connections_that_it_has_is_asked_again_after_a_failure_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (may_answer, has_closed) = (Gate::default(), Gate::default());
    let serving = {
        let (may_answer, has_closed) = (may_answer.clone(), has_closed.clone());
        thread::spawn(move || {
            let (mut only, _) = listener.accept().expect("a connection");
            drop(listener);
            has_closed.open();
            let mut bytes = [0; 4096];
            let mut count = 0;
            while only.read(&mut bytes).is_ok_and(|read| read > 0) {
                if count == 0 {
                    may_answer.wait();
                }
                count += 1;
                if only.write_all(OK.as_bytes()).is_err() {
                    return;
                }
            }
        })
    };
    let proxy = upstream(&[&url], "fail_timeout = \"1s\"").start();
    let mut client = proxy.send(GET);
    has_closed.wait();
    proxy.send(GET).read_response().expect_status(502);
    assert_eq!(target(&proxy, &url)["state"], "connect");
    may_answer.open();
    client.read_response().expect_status(200);
    wait_until("it is asked again", || {
        client.send(GET).read_response().expect_status(200);
        target(&proxy, &url)["state"] == "up"
    });
    drop(proxy);
    serving.join().expect("it has served");
}

#[test]
fn what_an_operator_wants_until_the_next_reload_outlives_one_that_is_refused() {
    let (a, b) = (Named::new("a"), Named::new("b"));
    let proxy = upstream(&[&a.url(), &b.url()], "").start();
    let path = format!("/upstreams/app?origin={}&state=drain&keep=false", a.url());
    proxy.admin("POST", &path);
    let file = proxy.home().join("ringway.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let key = "workers = 1\n";
    assert!(text.contains(key), "{text}");
    std::fs::write(&file, text.replace(key, "workers = 100\n")).expect("written");
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["this process has room for"]);
    assert_eq!(answers(&proxy, 10, GET).get("a"), None);
    std::fs::write(&file, text).expect("written");
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded", "generation=2"]);
    assert_eq!(answers(&proxy, 10, GET)["a"], 5);
}

#[test]
fn an_origin_that_is_drained_is_so_when_its_address_comes_back() {
    let first = Named::new("first");
    let port = first.origin.address().port();
    let _second = Origin::start_at(([127, 0, 0, 2], port).into(), |mut peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let (server, last) = movable();
    let proxy = upstream(&[&format!("http://app.test:{port}")], "").asking(&server).start();
    let address = |last: u8| format!("127.0.0.{last}:{port}");
    proxy.admin("POST", &format!("/upstreams/app?origin={}&state=drain", address(1)));
    last.store(2, Ordering::SeqCst);
    // Whoever asks has the workers and the list follow.
    wait_until("the other one answers", || {
        proxy.admin("GET", "/upstreams");
        proxy.send(GET).read_response().status() == 200
    });
    last.store(1, Ordering::SeqCst);
    wait_until("the first one is back", || {
        proxy.send(GET).read_response();
        proxy.admin("GET", "/upstreams").contains(&address(1))
    });
    assert_eq!(target(&proxy, &address(1))["state"], "drain");
    assert_eq!(proxy.send(GET).read_response().status(), 503);
}
