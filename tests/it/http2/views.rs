//! What an operator sees of HTTP/2: connections and their streams, figures, and the access log.
//!
//! Comes in: frames of a scripted client. Goes out: frames to it, and what the origin got.

use super::figure;
use crate::support::h2::*;
use crate::support::{Origin, Proxy, Setup, logged, wait_until};

fn connections(proxy: &Proxy) -> Vec<serde_json::Value> {
    let list: serde_json::Value =
        serde_json::from_str(&proxy.admin("GET", "/connections")).expect("JSON");
    list["connections"].as_array().expect("a list").clone()
}

#[test]
fn connections_show_their_streams_and_streams_their_numbers() {
    let (origin, is_open) = Origin::held();
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    let plain = proxy.send(crate::support::GET);
    client.send(get(1, "/")).send(get(3, "/")).send(get(5, "/"));
    origin.wait_for("all of them", |seen| seen.requests.len() == 4);
    let list = connections(&proxy);
    let whole: Vec<_> = list.iter().filter(|it| it["streams"] == 3).collect();
    assert!(whole.len() == 1 && whole[0]["protocol"] == "h2", "{list:#?}");
    let mut streams: Vec<_> = list.iter().filter_map(|it| it["stream"].as_u64()).collect();
    streams.sort_unstable();
    assert_eq!(streams, [1, 3, 5], "{list:#?}");
    assert_eq!(list.iter().filter(|it| it["protocol"] == "http/1.1").count(), 1, "{list:#?}");
    assert_eq!(figure(&proxy, "ringway_http2_connections"), 1);
    assert_eq!(figure(&proxy, "ringway_http2_streams"), 3);
    // One of them is ended by hand: the others go on.
    let third = list.iter().find(|it| it["stream"] == 3).expect("it was there");
    proxy.admin("DELETE", &format!("/connections/{}", third["id"]));
    let reset = client.find_of(3);
    assert_eq!(reset.kind, RST_STREAM, "{reset:?}");
    is_open.open();
    for stream in [1, 5] {
        client.read_answer(stream).expect_status(200).expect_body("ok");
    }
    drop(plain);
}

#[test]
fn a_connection_that_is_ended_by_hand_ends_with_its_streams() {
    let origin = Origin::silent();
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(get(1, "/"));
    origin.wait_for("the request", |seen| !seen.bytes().is_empty());
    let list = connections(&proxy);
    let whole = list.iter().find(|it| it["streams"] == 1).expect("the connection");
    proxy.admin("DELETE", &format!("/connections/{}", whole["id"]));
    client.expect_end();
    origin.wait_for("the end", |seen| seen.open() == 0);
    wait_until("nothing is left", || connections(&proxy).is_empty());
}

#[test]
fn the_access_log_names_version_and_stream() {
    let origin = Origin::answering(crate::support::OK);
    let proxy = Setup::to(&origin).set("log.access", true).start();
    let mut client = H2Client::connect(proxy.address());
    client.get(1, "/first").expect_status(200);
    client.get(7, "/second").expect_status(200);
    for (target, stream) in [("/first", "1"), ("/second", "7")] {
        let line = proxy.wait_for_log(&[&format!("target={target}")]);
        assert_eq!(logged(&line, "http"), "2", "{line}");
        assert_eq!(logged(&line, "stream"), stream, "{line}");
        assert_eq!(logged(&line, "status"), "200", "{line}");
    }
    proxy.get().expect_status(200);
    let line = proxy.wait_for_log(&["target=/ "]);
    assert!(!line.contains(" stream="), "{line}");
}

#[test]
fn what_ends_streams_and_connections_is_counted() {
    let origin = Origin::answering(crate::support::OK);
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, END_STREAM, &[request("GET", "/"), vec![("A", "b")]].concat()));
    client.expect_reset(1, PROTOCOL_ERROR);
    assert_eq!(figure(&proxy, "ringway_http2_stream_errors_total"), 1);
    client.send(frame(PING, 0, 1, [0; 8]));
    client.expect_failure(PROTOCOL_ERROR);
    wait_until("it is counted", || {
        figure(&proxy, "ringway_http2_connection_errors_total") == 1
            && figure(&proxy, "ringway_http2_connections") == 0
    });
    assert_eq!(figure(&proxy, "ringway_http2_connections_opened_total"), 1);
}
