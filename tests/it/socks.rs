//! SOCKS5 (RFC 1928, RFC 1929), as a client speaks it to the proxy and as the proxy speaks it to a
//! parent: under the policy, the users, the limits and the log of CONNECT.
//!
//! Messages are written byte by byte. Real clients are curl and, as a parent, another ringway.

use crate::support::{
    Blackhole, Client, GET, Message, OK, Origin, Proxy, Refusal, Setup, Target, Wire, connect, get,
    installed, run,
};
use std::net::SocketAddr;
use std::process::Command;

/// The password is `U*U`; from the tests of `crypt_blowfish`.
const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// It speaks HTTP at its first listener and SOCKS at the second.
fn setup() -> Setup {
    Setup::forward().listen(&["127.0.0.2:0"]).set("forward.socks_listeners", ["127.0.0.2:0"])
}

fn with_users() -> Setup {
    setup().file("users", &format!("ann:{BCRYPT}\n")).set("forward.users_file", "users")
}

fn socks(proxy: &Proxy) -> Client {
    Client::connect(proxy.addresses()[1])
}

const OFFER: &[u8] = &[5, 1, 0];
const GRANTED: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

fn to_address(target: SocketAddr) -> Vec<u8> {
    let mut out = vec![5, 1, 0];
    match target {
        SocketAddr::V4(target) => {
            out.push(1);
            out.extend(target.ip().octets());
        }
        SocketAddr::V6(target) => {
            out.push(4);
            out.extend(target.ip().octets());
        }
    }
    out.extend(target.port().to_be_bytes());
    out
}

fn to_name(name: &str, port: u16) -> Vec<u8> {
    let mut out = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    out.extend(name.as_bytes());
    out.extend(port.to_be_bytes());
    out
}

fn login(user: &str, password: &str) -> Vec<u8> {
    let mut out = vec![1, u8::try_from(user.len()).unwrap()];
    out.extend(user.as_bytes());
    out.push(u8::try_from(password.len()).unwrap());
    out.extend(password.as_bytes());
    out
}

/// Sends and awaits an answer.
#[track_caller]
fn step<'c>(client: &'c mut Client, sent: impl AsRef<[u8]>, expected: &[u8]) -> &'c mut Client {
    client.send(sent).expect_stream(expected);
    client
}

/// The code of a refusal, after which the connection ends.
#[track_caller]
fn refusal(client: &mut Client) -> u8 {
    let reply = client.read_exact(10);
    assert_eq!((reply[0], &reply[2..]), (5, &GRANTED[2..]));
    client.expect_closed();
    reply[1]
}

#[test]
fn a_tunnel_is_opened_by_address_and_by_name() {
    let target = Target::new();
    let proxy = setup().set("log.access", true).start();
    let port = target.address().port();
    for wish in
        [to_address(target.address()), to_name("localhost", port), to_name("127.0.0.1", port)]
    {
        let mut client = socks(&proxy);
        step(&mut client, OFFER, &[5, 0]);
        step(&mut client, &wish, GRANTED);
        client.send("to the target");
        let mut far = target.accept();
        far.expect_stream(b"to the target");
        far.send("to the client");
        client.expect_stream(b"to the client");
        client.half_close();
        far.half_close();
        proxy.wait_for_log(&["method=CONNECT", "status=200"]);
    }
    let v6 = Target::at("[::1]:0".parse().unwrap());
    let mut client = socks(&proxy);
    client.send(OFFER).send(to_address(v6.address()));
    client.expect_stream(&[&[5, 0], GRANTED].concat());
    v6.accept();
}

#[test]
fn what_a_client_sends_ahead_reaches_the_target_and_pieces_are_put_together() {
    let target = Target::new();
    let proxy = setup().start();
    let all = [OFFER, &to_address(target.address()), b"early"].concat();
    let mut client = socks(&proxy);
    step(&mut client, &all, &[&[5, 0], GRANTED].concat());
    target.accept().expect_stream(b"early");
    let mut client = socks(&proxy);
    for byte in &all {
        client.send([*byte]);
        client.wait_until_read();
    }
    client.expect_stream(&[&[5, 0], GRANTED].concat());
    target.accept().expect_stream(b"early");
}

#[test]
fn the_policy_is_that_of_connect() {
    let (refused, silent) = (Refusal::new(), Blackhole::new());
    let proxy =
        setup().set("forward.deny", ["denied.test"]).set("timeouts.connect", "300ms").start();
    let bind = [&[5, 2, 0, 1][..], &[127, 0, 0, 1, 0, 80]].concat();
    for (wish, code) in [
        (to_name("denied.test", 443), 2),
        (to_address("169.254.169.254:80".parse().unwrap()), 2),
        (to_name("127.1", 80), 2),
        (to_name("a b", 80), 2),
        (to_name("a\r\nX: y", 80), 2),
        (to_name("nowhere.invalid", 443), 4),
        (to_address(refused.address()), 5),
        (to_address(silent.address()), 6),
        (bind, 7),
        (vec![5, 1, 0, 2], 8),
    ] {
        let mut client = socks(&proxy);
        step(&mut client, OFFER, &[5, 0]);
        client.send(&wish);
        assert_eq!(refusal(&mut client), code, "{wish:?}");
    }
    let proxy = setup().set("forward.connect_ports", [443]).start();
    let mut client = socks(&proxy);
    step(&mut client, OFFER, &[5, 0]).send(to_name("localhost", 80));
    assert_eq!(refusal(&mut client), 2);
    let proxy = setup().set("forward.allow_clients", ["192.0.2.1"]).start();
    let mut client = socks(&proxy);
    step(&mut client, OFFER, &[5, 0xff]).expect_closed();
}

#[test]
fn users_say_who_they_are() {
    let target = Target::new();
    let proxy = with_users().set("log.access", true).set("forward.auth_failures", 2).start();
    let mut client = socks(&proxy);
    step(&mut client, [5, 2, 0, 2], &[5, 2]);
    step(&mut client, login("ann", "U*U"), &[1, 0]);
    step(&mut client, to_address(target.address()), GRANTED);
    target.accept();
    let mut client = socks(&proxy);
    step(&mut client, OFFER, &[5, 0xff]).expect_closed();
    proxy.wait_for_log(&["error=login_required"]);
    for user in ["ann", "an:n"] {
        let mut client = socks(&proxy);
        step(&mut client, [5, 1, 2], &[5, 2]);
        step(&mut client, login(user, "wrong"), &[1, 1]).expect_closed();
    }
    // A pair that is known to be right is no guess.
    let mut client = socks(&proxy);
    step(&mut client, [5, 1, 2], &[5, 2]);
    step(&mut client, login("ann", "U*U"), &[1, 0]);
    target.expect_nobody();
    assert!(!proxy.log_lines().join("\n").contains("U*U"));
}

#[test]
fn where_nobody_is_asked_a_client_may_say_who_it_is() {
    let target = Target::new();
    let proxy = setup().start();
    let mut client = socks(&proxy);
    step(&mut client, [5, 1, 2], &[5, 2]);
    step(&mut client, login("anybody", ""), &[1, 0]);
    step(&mut client, to_address(target.address()), GRANTED);
    target.accept();
}

#[test]
fn what_is_no_socks_is_closed_without_a_word_and_counted() {
    let proxy = setup().set("log.access", true).start();
    for garbage in [GET.as_bytes(), &[4, 1, 0, 80, 127, 0, 0, 1, 0], &[22, 3, 1, 0, 5], &[0; 600]] {
        let mut client = socks(&proxy);
        client.send(garbage).expect_closed();
    }
    proxy.wait_for_log(&["error=client_bad_socks"]);
    // HTTP is spoken where it was.
    proxy.get().expect_status(404);
}

#[test]
fn each_message_has_a_deadline() {
    let proxy = setup().set("timeouts.client_head", "200ms").start();
    for before in [&[][..], &[5], OFFER, &[5, 1, 0, 5, 1, 0, 3, 200]] {
        let mut client = socks(&proxy);
        client.send(before);
        client.read_to_end();
    }
    let before = proxy.open_files();
    drop((0..20).map(|_| socks(&proxy)).collect::<Vec<_>>());
    proxy.wait_for_open_files(before);
}

#[test]
fn tunnels_have_one_limit() {
    let proxy = setup().set("limits.tunnels", 1).start();
    let target = Target::new();
    let _tunnel = proxy.tunnel(target.address());
    let mut client = socks(&proxy);
    step(&mut client, OFFER, &[5, 0]).send(to_address(target.address()));
    assert_eq!(refusal(&mut client), 1);
}

#[test]
fn curl_speaks_socks_through_it() {
    let Some(program) = installed("curl") else { return };
    let origin = Origin::answering(OK);
    let port = origin.address().port();
    for (proxy, user) in [(setup().start(), ""), (with_users().start(), "ann:U*U@")] {
        let at = proxy.addresses()[1];
        for (scheme, host) in
            [("socks5h", "localhost"), ("socks5", "127.0.0.1"), ("socks5h", "127.0.0.1")]
        {
            let mut curl = Command::new(&program);
            curl.args(["-q", "-sS", "--fail", "--max-time", "15", "--proxy"]);
            curl.arg(format!("{scheme}://{user}{at}")).arg(format!("http://{host}:{port}/"));
            let output = run(curl);
            assert!(output.status.success(), "{scheme} {host}: {output:?}");
        }
    }
}

// Towards a parent.

/// The parent's end of a connection, once it has been asked for a tunnel to `wish`.
#[track_caller]
fn asked(parent: &Target, wish: &[u8]) -> Wire {
    let mut far = parent.accept();
    far.expect_stream(OFFER);
    far.send([5, 0]);
    far.expect_stream(wish);
    far
}

#[test]
fn a_parent_that_speaks_socks_is_asked_for_a_name_or_an_address() {
    let parent = Target::new();
    for (scheme, host, wish) in [
        ("socks5h", "far.test", to_name("far.test", 443)),
        ("socks5h", "127.0.0.1", to_address("127.0.0.1:443".parse().unwrap())),
        ("socks5", "localhost", to_address("127.0.0.1:443".parse().unwrap())),
    ] {
        let url = format!("{scheme}://{}", parent.address());
        let proxy = Setup::forward().parent("office", &url, "").start();
        let mut client = proxy.send(connect(format!("{host}:443")));
        let mut far = asked(&parent, &wish);
        far.send([GRANTED, b"early"].concat());
        client.expect_tunnel().expect_stream(b"early");
        client.send("x");
        far.expect_stream(b"x");
    }
    // What a name leads to is judged where it is resolved.
    let url = format!("socks5://{}", parent.address());
    let proxy = Setup::new().set("forward.enabled", true).parent("office", &url, "").start();
    proxy.send(connect("localhost:443")).expect_status(403);
    parent.expect_nobody();
}

#[test]
fn plain_requests_go_through_socks_in_the_form_for_origins_and_share_connections() {
    let origin = Origin::answering(OK);
    let far = setup().start();
    let url = format!("socks5h://{}", far.addresses()[1]);
    let proxy = Setup::forward().parent("office", &url, "").start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(get(origin.address())).expect_status(200);
    }
    let seen = origin.seen();
    assert_eq!((seen.requests.len(), seen.connections.len()), (3, 1));
    assert_eq!(seen.requests[0].start, "GET / HTTP/1.1");
    proxy.send(connect(origin.address())).expect_tunnel();
}

#[test]
fn a_socks_parent_is_told_who_asks() {
    let origin = Origin::answering(OK);
    let far = with_users().start();
    let url = format!("socks5h://{}", far.addresses()[1]);
    for (credentials, status) in [("ann:U*U", 200), ("ann:wrong", 502), ("", 502)] {
        let more = format!("credentials = {credentials:?}");
        let proxy = Setup::forward().parent("office", &url, &more).start();
        proxy.send(get(origin.address())).expect_status(status);
    }
}

#[test]
fn a_socks_parent_that_refuses_is_a_bad_gateway() {
    let parent = Target::new();
    let url = format!("socks5h://{}", parent.address());
    let proxy = Setup::forward().parent("office", &url, "direct_fallback = true").start();
    for code in [1_u8, 2, 3, 5, 200] {
        let mut client = proxy.send(connect("far.test:443"));
        let mut far = asked(&parent, &to_name("far.test", 443));
        far.send([5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        client.expect_refusal(502, "Bad Gateway", "http_protocol_error");
    }
    let mut client = proxy.send(connect("far.test:443"));
    parent.accept().send("HTTP/1.1 400 Bad Request\r\n\r\n");
    client.expect_refusal(502, "Bad Gateway", "http_protocol_error");
}

#[test]
fn a_socks_parent_that_says_nothing_is_a_gateway_timeout() {
    let parent = Target::new();
    let url = format!("socks5h://{}", parent.address());
    let proxy =
        Setup::forward().set("timeouts.connect", "300ms").parent("office", &url, "").start();
    let mut client = proxy.send(connect("far.test:443"));
    let _far = parent.accept();
    client.expect_refusal(504, "Gateway Timeout", "http_response_timeout");
}

// Backups.

#[test]
fn a_backup_is_asked_when_a_parent_cannot_be_reached() {
    let (dead, spare) = (Refusal::new(), Origin::answering(OK));
    let more = format!("backups = [{:?}]", spare.url());
    let url = format!("http://{}", dead.address());
    let proxy = Setup::forward().parent("office", &url, &more).start();
    for _ in 0..3 {
        proxy.send(get("far.test")).expect_status(200);
    }
    proxy.wait_for_log(&["WARN", "office", "not reached"]);
    let tunnel_spare = Target::new();
    let more = format!("backups = [\"http://{}\"]", tunnel_spare.address());
    let proxy = Setup::forward().parent("office", &url, &more).start();
    let mut client = proxy.send(connect("far.test:443"));
    let mut far = tunnel_spare.accept();
    let request: Message = far.read_head().expect("a request");
    assert_eq!(request.start, "CONNECT far.test:443 HTTP/1.1");
    far.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
}

#[test]
fn a_parent_that_could_not_be_reached_is_asked_last_for_a_while() {
    let (silent, spare) = (Blackhole::new(), Target::new());
    let more = format!("backups = [\"http://{}\"]", spare.address());
    let url = format!("http://{}", silent.address());
    let proxy =
        Setup::forward().set("timeouts.connect", "1s").parent("office", &url, &more).start();
    for _ in 0..3 {
        let mut client = proxy.send(connect("far.test:443"));
        let mut far = spare.accept();
        far.read_head().expect("a request");
        far.send("HTTP/1.1 200 OK\r\n\r\n");
        client.expect_tunnel();
    }
    proxy.wait_for_log(&["not reached"]);
    let lines = proxy.log_lines();
    let missed = lines.iter().filter(|line| line.contains("not reached")).count();
    assert_eq!(missed, 1, "{lines:#?}");
}
