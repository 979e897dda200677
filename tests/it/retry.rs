//! Further attempts: after one that has failed, and beside one that is slow.
//!
//! What is checked is what each origin gets and what the client is told: who is asked again, what
//! never is, and what becomes of the connection on which nobody waits any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{GET, Gate, OK, Origin, Proxy, Setup, wait_until};

const ILL: &str = "HTTP/1.1 503 Ill\r\nContent-Length: 3\r\n\r\nill";
const SPARE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nspare";
const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi";

/// A proxy with two origins and this policy; the first is asked first.
fn between(first: &Origin, second: &Origin, retry: &str) -> Setup {
    Setup::new().upstream("pair", &[&first.url(), &second.url()], "balance = \"first\"").route(
        "",
        "/",
        "pair",
        &format!("hooks = {{ retry = {{ {retry} }} }}"),
    )
}

/// An origin that gives its first answers and, when there are no more, says nothing.
fn answering_in_turn(answers: Vec<&'static str>) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |mut peer| {
        while peer.next_request().is_some() {
            let Some(answer) = answers.get(count.fetch_add(1, Ordering::Relaxed)) else {
                peer.read_to_end();
                return;
            };
            peer.send(answer);
        }
    })
}

fn metric(proxy: &Proxy, series: &str) -> f64 {
    let text = proxy.admin("GET", "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).trim().parse().unwrap()
}

fn hedges(proxy: &Proxy) -> [u64; 3] {
    let series = |outcome| format!("ringway_hedges_total{{outcome=\"{outcome}\"}}");
    ["won", "lost", "failed"].map(|outcome| metric(proxy, &series(outcome)) as u64)
}

#[test]
fn a_retry_goes_to_another_origin() {
    let (ill, sound) = (Origin::answering(ILL), Origin::answering(SPARE));
    let proxy = between(&ill, &sound, "on = [\"503\"], attempts = 1").start();
    let mut client = proxy.connect();
    for turn in 1..=5 {
        client.send(GET).read_response().expect_status(200).expect_body("spare");
        assert_eq!((ill.seen().requests.len(), sound.seen().requests.len()), (turn, turn));
    }
}

#[test]
fn a_retry_goes_to_the_same_origin_where_nobody_else_is_left() {
    let first = answering_in_turn(vec![ILL, OK]);
    let gone = Origin::answering(OK);
    let proxy = between(&first, &gone, "on = [\"503\", \"connect\"], attempts = 2").start();
    gone.stop();
    proxy.get().expect_status(200);
    assert_eq!(first.seen().requests.len(), 2);
}

#[test]
fn only_the_statuses_that_are_named_are_tried_again() {
    let error = "HTTP/1.1 500 Bug\r\nContent-Length: 0\r\n\r\n";
    let busy = "HTTP/1.1 429 Busy\r\nContent-Length: 0\r\n\r\n";
    for (answer, on, status) in [
        (error, "[\"500\"]", 200),
        (error, "[\"501\", 503]", 500),
        (busy, "[429]", 200),
        (busy, "[\"5xx\"]", 429),
        (ILL, "[\"5xx\"]", 200),
        (ILL, "[\"502\"]", 503),
    ] {
        let (first, second) = (Origin::answering(answer), Origin::answering(OK));
        let proxy = between(&first, &second, &format!("on = {on}")).start();
        assert_eq!(proxy.get().status(), status, "{on}");
    }
}

#[test]
fn a_post_is_repeated_only_where_the_route_says_so() {
    for (keys, status, asked) in [("", 503, 0), (", non_idempotent = true", 200, 1)] {
        let (first, second) = (Origin::answering(ILL), Origin::answering(OK));
        let proxy = between(&first, &second, &format!("on = [\"503\"]{keys}")).start();
        proxy.send(POST).read_response().expect_status(status);
        assert_eq!(second.seen().requests.len(), asked, "{keys}");
    }
}

#[test]
fn what_an_origin_keeps_waiting_is_answered_by_another_and_its_connection_is_closed() {
    let (stalled, second) = (Origin::silent(), Origin::answering(SPARE));
    let setup = between(&stalled, &second, "hedge = \"20ms\"").set("log.access", true);
    let proxy = setup.start();
    let mut client = proxy.connect();
    client.send(GET).read_response().expect_status(200).expect_body("spare");
    stalled.wait_for("the end of the connection that lost", |seen| {
        seen.connections.len() == 1 && seen.open() == 0
    });
    assert_eq!(hedges(&proxy), [1, 0, 0]);
    proxy.wait_for_log(&["status=200", "hedged=won"]);
    // The client's connection goes on.
    client.send(GET).read_response().expect_status(200).expect_body("spare");
}

#[test]
fn what_changes_something_is_never_sent_twice() {
    let (stalled, second) = (Origin::silent(), Origin::answering(SPARE));
    let setup = between(&stalled, &second, "hedge = \"1ms\", on = [\"503\"]");
    let proxy = setup.set("timeouts.read", "300ms").start();
    proxy.send(POST).read_response().expect_status(504);
    let with_body = POST.replace("POST", "GET");
    proxy.send(with_body).read_response().expect_status(504);
    assert_eq!(second.seen().requests.len(), 0);
    assert_eq!(hedges(&proxy), [0; 3]);
}

#[test]
fn second_attempts_are_bounded_by_their_share_of_the_requests() {
    let slow = Origin::start(|mut peer| {
        while peer.next_request().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(15));
            peer.send(OK);
        }
    });
    let second = Origin::silent();
    let proxy = between(&slow, &second, "hedge = \"1ms\", hedge_percent = 5").start();
    let mut client = proxy.connect();
    for _ in 0..40 {
        client.send(GET).read_response().expect_status(200);
    }
    // Ten are saved up at the beginning, and two are earned.
    let [won, lost, failed] = hedges(&proxy);
    assert_eq!((won, failed), (0, 0));
    assert!((1..=12).contains(&lost), "{lost}");
    wait_until("the second attempts are over", || second.seen().open() == 0);
}

#[test]
fn the_time_after_which_a_second_attempt_begins_is_learnt() {
    let first = answering_in_turn(vec![OK; 40]);
    let second = Origin::answering(SPARE);
    let proxy = between(&first, &second, "hedge = true, hedge_percent = 100").start();
    let mut client = proxy.connect();
    for _ in 0..40 {
        client.send(GET).read_response().expect_status(200);
    }
    // It says no more from here on.
    client.send(GET).read_response().expect_status(200).expect_body("spare");
    assert!(hedges(&proxy)[0] >= 1);
}

#[test]
fn an_error_that_comes_first_does_not_win() {
    // The second attempt's error is no answer while the first may still give one ...
    let (first, is_open) = Origin::held();
    let ill = Origin::answering(ILL);
    let proxy = between(&first, &ill, "hedge = \"1ms\"").start();
    let mut client = proxy.send(GET);
    ill.wait_for("the second attempt", |seen| seen.requests.len() == 1);
    is_open.open();
    client.read_response().expect_status(200);
    assert_eq!(hedges(&proxy)[0], 0);
    // ... nor is the first one's while the second may.
    let (has_begun, may_answer) = (Gate::default(), Gate::default());
    let late = {
        let has_begun = has_begun.clone();
        Origin::start(move |mut peer| {
            while peer.next_request().is_some() {
                has_begun.wait();
                peer.send(ILL);
            }
        })
    };
    let sound = {
        let (has_begun, may_answer) = (has_begun.clone(), may_answer.clone());
        Origin::start(move |mut peer| {
            while peer.next_request().is_some() {
                has_begun.open();
                may_answer.wait();
                peer.send(SPARE);
            }
        })
    };
    let proxy = between(&late, &sound, "hedge = \"1ms\"").start();
    let mut client = proxy.send(GET);
    sound.wait_for("the second attempt", |seen| seen.requests.len() == 1);
    may_answer.open();
    client.read_response().expect_status(200).expect_body("spare");
    assert_eq!(hedges(&proxy), [1, 0, 0]);
}

#[test]
fn a_client_that_is_kept_with_an_origin_is_not_answered_by_another() {
    let (first, second) = (answering_in_turn(vec![OK]), Origin::answering(SPARE));
    let proxy = Setup::new()
        .upstream("pair", &[&first.url(), &second.url()], "balance = \"first\"\nsticky = {}")
        .route("", "/", "pair", "hooks = { retry = { hedge = \"50ms\" } }")
        .set("timeouts.read", "300ms")
        .start();
    let answer = proxy.get();
    let cookie = answer.field("set-cookie").expect("a cookie").split(';').next().unwrap();
    let again = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: {cookie}\r\n\r\n");
    let before = hedges(&proxy);
    proxy.send(again).read_response().expect_status(504);
    assert_eq!((second.seen().requests.len(), hedges(&proxy)), (0, before));
}

#[test]
fn with_one_origin_there_is_no_second_attempt() {
    let (origin, is_open) = Origin::held();
    let setup =
        Setup::to(&origin).route("", "/", "origin", "hooks = { retry = { hedge = \"1ms\" } }");
    let proxy = setup.start();
    let mut client = proxy.send(GET);
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    is_open.open();
    client.read_response().expect_status(200);
    assert_eq!((origin.seen().connections.len(), hedges(&proxy)), (1, [0; 3]));
}

#[test]
fn an_error_that_is_complete_is_not_held_back_for_a_second_attempt_that_says_nothing() {
    let has_begun = Gate::default();
    let late = {
        let has_begun = has_begun.clone();
        Origin::start(move |mut peer| {
            while peer.next_request().is_some() {
                has_begun.wait();
                peer.send(ILL);
            }
        })
    };
    let silent = Origin::start(move |mut peer| {
        peer.expect_request();
        has_begun.open();
        peer.read_to_end();
    });
    // Longer than a test may take: the wait has to end by itself.
    let setup = between(&late, &silent, "hedge = \"50ms\"").set("timeouts.read", "10m");
    let proxy = setup.start();
    proxy.send(GET).read_response().expect_status(503).expect_body("ill");
    assert_eq!(hedges(&proxy), [0, 1, 0]);
}

#[test]
fn who_has_taken_over_is_blamed_for_its_own_failures_and_for_no_others() {
    let silent = Origin::silent();
    let broken = Origin::start(|mut peer| {
        while peer.next_request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n");
        }
    });
    let third = Origin::answering(OK);
    let urls = [silent.url(), broken.url(), third.url()];
    let more = "balance = \"first\"\neject = { errors = 1, pause = \"1h\" }";
    let proxy = Setup::new()
        .upstream("some", &[&urls[0], &urls[1], &urls[2]], more)
        .route("", "/", "some", "hooks = { retry = { hedge = \"400ms\" } }")
        .start();
    proxy.send(GET).read_response().expect_status(502);
    assert_eq!(hedges(&proxy), [1, 0, 0]);
    let known: serde_json::Value = serde_json::from_str(&proxy.admin("GET", "/upstreams")).unwrap();
    let state = |url: &str| {
        let mut targets = known["upstreams"][0]["targets"].as_array().unwrap().iter();
        targets.find(|target| target["origin"] == url).unwrap()["state"].clone()
    };
    assert_eq!([&urls[0], &urls[1]].map(|url| state(url)), ["up", "errors"]);
}

#[test]
fn who_has_taken_over_is_not_charged_with_the_wait_for_another() {
    let (silent, sound) = (Origin::silent(), Origin::answering(SPARE));
    let proxy = Setup::new()
        .upstream("pair", &[&silent.url(), &sound.url()], "balance = \"first\"\neject = {}")
        .route("", "/", "pair", "hooks = { retry = { hedge = \"2s\" } }")
        .start();
    proxy.send(GET).read_response().expect_status(200).expect_body("spare");
    let known: serde_json::Value = serde_json::from_str(&proxy.admin("GET", "/upstreams")).unwrap();
    let targets = known["upstreams"][0]["targets"].as_array().unwrap();
    let us = |url: String| {
        let target = targets.iter().find(|target| target["origin"] == *url).unwrap();
        target["latency_us"].as_u64().unwrap_or_default()
    };
    assert!(us(silent.url()) >= 1_900_000, "{known}");
    assert!((1..1_500_000).contains(&us(sound.url())), "{known}");
}
