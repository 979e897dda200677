//! `ringway bench --http2` against servers that behave and servers that do not.
//!
//! Comes in: origins that speak frames as a test writes them, the real proxy, and nghttpd where it
//! is installed. Goes out: the JSON report of the real command, held against what the server saw.

use std::process::Command;

use crate::bench::{answered, demo, only_error, report};
use crate::support::h2_origin::{Frames, block};
use crate::support::{Home, OK, Origin, Pair, Proxy, Setup, TlsOrigin};

/// An origin that does with each connection what it is told.
fn speaking(serve: impl Fn(usize, Frames<crate::support::Peer>) + Send + Sync + 'static) -> Origin {
    Origin::start(move |peer| {
        let number = peer.number;
        serve(number, Frames::serve(peer, &[]));
    })
}

#[test]
fn what_is_counted_is_what_the_origin_saw() {
    let origin = speaking(|_, mut frames| frames.answer_all("hello"));
    let url = origin.url();
    let report = answered(&[&url, "--http2", "--streams", "4", "-n", "203", "-c", "3"]);
    assert_eq!((&report["requests"], &report["status"]["2xx"]), (&203.into(), &203.into()));
    assert_eq!(report["http2"]["streams"], 4, "{report}");
    assert_eq!(only_error(&report, "connect"), 0);
    let seen = origin.seen();
    assert!(seen.connections.len() <= 3, "connections are kept");
    let received: usize = seen.connections.iter().map(|it| it.bytes.len()).sum();
    assert_eq!(report["bytes_written"], received, "{report}");
}

#[test]
fn a_connection_has_as_many_requests_under_way_as_it_is_told() {
    // Nobody is answered before all have asked: fewer at once would wait for ever.
    let origin = speaking(|_, mut frames| {
        while let Some(first) = frames.head() {
            let others: Vec<_> = (1..7).map_while(|_| frames.head()).collect();
            for head in std::iter::once(first).chain(others) {
                frames.answer(head.stream, 200, "x");
            }
        }
    });
    let url = origin.url();
    let report = answered(&[&url, "--http2", "--streams", "7", "-n", "70", "-c", "1"]);
    assert_eq!(report["requests"], 70, "{report}");
}

#[test]
fn what_the_server_allows_is_kept_to() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("http2.streams", 3).start();
    let url = format!("http://{}/", proxy.address());
    let report = answered(&[&url, "--http2", "--streams", "50", "-n", "300", "-c", "2"]);
    assert_eq!((&report["status"]["2xx"], only_error(&report, "connect")), (&300.into(), 0));
}

#[test]
fn each_error_is_counted_as_what_it_is_and_the_run_goes_on() {
    const REFUSED_STREAM: u32 = 7;
    const INTERNAL_ERROR: u32 = 2;
    for (kind, code) in [("stream_reset", INTERNAL_ERROR), ("refused_stream", REFUSED_STREAM)] {
        let origin = speaking(move |_, mut frames| {
            while let Some(head) = frames.head() {
                if head.stream % 4 == 1 {
                    frames.reset(head.stream, code);
                } else {
                    frames.answer(head.stream, 200, "x");
                }
            }
        });
        let report = answered(&[&origin.url(), "--http2", "-n", "40", "-c", "1"]);
        assert_eq!((&report["requests"], only_error(&report, kind)), (&20.into(), 20), "{report}");
    }
    let cut = speaking(|_, mut frames| {
        while let Some(head) = frames.head() {
            let announced = block(200, &[("content-length", "5")]);
            frames.send(1, 4, head.stream, &announced).send(0, 1, head.stream, b"abc");
        }
    });
    let (code, counted) = report(&[&cut.url(), "--http2", "-n", "6", "-c", "1"]);
    assert_eq!((code, only_error(&counted, "short_body")), (Some(1), 6), "{counted}");
    let silent = speaking(|_, mut frames| while frames.head().is_some() {});
    let (code, counted) =
        report(&[&silent.url(), "--http2", "-n", "6", "-c", "2", "--timeout", "300ms"]);
    assert_eq!((code, only_error(&counted, "timeout")), (Some(1), 6), "{counted}");
}

#[test]
fn a_connection_that_is_left_or_lost_is_opened_anew() {
    let leaving = speaking(|_, mut frames| {
        for _ in 0..5 {
            let Some(head) = frames.head() else { return };
            frames.answer(head.stream, 200, "x");
            if head.stream == 9 {
                frames.goaway(9, 0);
            }
        }
        while frames.next().is_some() {}
    });
    let shared = ["--http2", "--streams", "1", "-n", "20", "-c", "1"];
    let counted = answered(&[&[leaving.url().as_str()], &shared[..]].concat());
    let requests = counted["requests"].as_u64().unwrap();
    assert_eq!(requests + only_error(&counted, "goaway"), 20, "{counted}");
    assert!(leaving.seen().connections.len() >= 4, "{counted}");
    // The first connection is cut while two are under way.
    let cutting = speaking(|number, mut frames| {
        if number > 0 {
            return frames.answer_all("x");
        }
        let first = frames.head().expect("a request");
        frames.head();
        frames.answer(first.stream, 200, "x");
    });
    let shared = ["--http2", "--streams", "2", "-n", "20", "-c", "1"];
    let counted = answered(&[&[cutting.url().as_str()], &shared[..]].concat());
    let lost = only_error(&counted, "reset");
    assert!(matches!(lost, 1 | 2), "{counted}");
    assert_eq!(counted["requests"], 20 - lost, "{counted}");
}

#[test]
fn a_server_that_takes_nothing_is_not_asked_for_ever() {
    for (settings, last, kind) in
        [(&[(3, 0)][..], None, "refused_stream"), (&[], Some(0), "goaway")]
    {
        let origin = Origin::start(move |peer| {
            let mut frames = Frames::serve(peer, settings);
            if let Some(last) = last {
                frames.goaway(last, 0);
            }
            while frames.next().is_some() {}
        });
        let (code, counted) = report(&[&origin.url(), "--http2", "-n", "3", "-c", "1"]);
        assert_eq!((code, only_error(&counted, kind)), (Some(1), 3), "{counted}");
    }
}

#[test]
fn a_server_that_does_not_speak_it_is_an_error_of_its_own() {
    let origin = Origin::answering_and_closing("HTTP/1.1 400 Bad Request\r\n\r\n");
    let (code, counted) = report(&[&origin.url(), "--http2", "-n", "3", "-c", "1"]);
    assert_eq!((code, only_error(&counted, "http2")), (Some(1), 3), "{counted}");
    let pair = Pair::of(&["127.0.0.1"]);
    let secured = TlsOrigin::start(&pair, |mut peer| {
        let _ = peer.read_to_end();
    });
    let url = secured.url().replace("localhost", "127.0.0.1");
    let (code, counted) = report(&[&url, "--http2", "--insecure", "-n", "3", "-c", "1"]);
    assert_eq!((code, only_error(&counted, "http2")), (Some(1), 3), "{counted}");
}

#[test]
fn bodies_arrive_whole_however_small_the_windows_are() {
    let proxy = demo();
    let url = format!("http://{}/echo", proxy.address());
    for body in ["--chunked", "--quiet"] {
        let more = ["--body-bytes", "300k", body, "--http2", "--streams", "5", "-n", "20"];
        let counted = answered(&[&[url.as_str(), "-c", "2"], &more[..]].concat());
        assert_eq!((&counted["status"]["2xx"], only_error(&counted, "connect")), (&20.into(), 0));
        let least = 20 * 300 * 1024;
        assert!(counted["bytes_written"].as_u64().unwrap() > least, "{counted}");
    }
}

/// A proxy that speaks TLS, before an origin.
fn secured(origin: &Origin) -> Proxy {
    Setup::to(origin).listen_tls(&Pair::of(&["127.0.0.1"])).start()
}

fn tls_url(proxy: &Proxy) -> String {
    format!("https://{}/", proxy.addresses().last().expect("it listens"))
}

#[test]
fn over_tls_it_is_chosen_by_alpn() {
    let origin = Origin::answering(OK);
    let proxy = secured(&origin);
    let url = tls_url(&proxy);
    let shared = ["--http2", "--insecure", "-n", "200", "-c", "4", "--threads", "2"];
    let counted = answered(&[&[url.as_str()], &shared[..]].concat());
    assert_eq!((&counted["status"]["2xx"], only_error(&counted, "connect")), (&200.into(), 0));
    assert_eq!(
        counted["tls"]["full"].as_u64().unwrap() + counted["tls"]["resumed"].as_u64().unwrap(),
        4
    );
    assert_eq!(origin.seen().requests.len(), 200);
}

#[test]
fn a_tunnel_may_lead_to_it_and_a_proxy_may_speak_it() {
    let origin = speaking(|_, mut frames| frames.answer_all("hello"));
    let proxy = Setup::forward().start();
    let via = format!("http://{}", proxy.address());
    let shared = ["--http2", "-n", "30", "-c", "2", "--via", &via];
    let counted = answered(&[&[origin.url().as_str(), "--connect"], &shared[..]].concat());
    assert_eq!(counted["status"]["2xx"], 30, "{counted}");
    let plain = Origin::answering(OK);
    let counted = answered(&[&[plain.url().as_str()], &shared[..]].concat());
    assert_eq!(counted["status"]["2xx"], 30, "{counted}");
    assert_eq!(plain.seen().requests.len(), 30);
}

#[test]
fn an_open_loop_and_idle_connections_are_what_they_are_without_streams() {
    let origin = speaking(|_, mut frames| frames.answer_all("hello"));
    let url = origin.url();
    let open = answered(&[&url, "--http2", "--rate", "500", "-n", "100", "-c", "2"]);
    assert_eq!((&open["requests"], &open["late"]["unsent"]), (&100.into(), &0.into()), "{open}");
    let idle = answered(&[&url, "--http2", "--idle", "-c", "5", "-d", "200ms"]);
    assert_eq!((&idle["idle"]["held"], &idle["idle"]["lost"]), (&5.into(), &0.into()), "{idle}");
    assert_eq!(idle["requests"], 10, "{idle}");
}

#[test]
fn nghttpd_answers_it() {
    let home = Home::new();
    home.write("index.html", &"x".repeat(200_000));
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).unwrap();
    let folder = home.path().display().to_string();
    let arguments = ["--no-tls", "-a", "127.0.0.1", "-d", &folder, &port.port().to_string()];
    let Ok(mut server) = Command::new("nghttpd").args(arguments).spawn() else {
        eprintln!("skipped: nghttpd is not installed");
        return;
    };
    let url = format!("http://{port}/");
    let shared = ["--http2", "--streams", "8", "-n", "100", "-c", "3"];
    let is_up = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(25));
        std::net::TcpStream::connect(port).is_ok()
    });
    let counted = is_up.then(|| report(&[&[url.as_str()], &shared[..]].concat()));
    let _ = server.kill();
    let _ = server.wait();
    let (_, counted) = counted.expect("nghttpd listens");
    assert_eq!((&counted["status"]["2xx"], only_error(&counted, "connect")), (&100.into(), 0));
    assert!(counted["bytes_read"].as_u64().unwrap() > 20_000_000, "{counted}");
}
