//! Bytes of TLS that end where they should not, come in pieces, or are not what was asked for.
//!
//! In go answers of scripted origins, cut after each of their bytes, split at each of them, and
//! made of records that no library makes; out come answers that a client can tell from whole ones.
//! The rule is one: what is cut for the proxy is cut for its client, and what is whole is whole.

use crate::support::{
    Alert, Forger, GET, OK, Origin, Pair, Proxy, Setup, Terms, TlsClient, TlsEnd, TlsOrigin, Trust,
    pattern, show, wait_until,
};
use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const HEAD_SIZED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
const HEAD_CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const HEAD_ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// A proxy with a listener for TLS, before an origin with TLS.
struct Between {
    proxy: Proxy,
    trust: Trust,
}

impl Between {
    fn start(pair: &Pair, origin: &TlsOrigin) -> Self {
        let lines = "[upstream.tls]\nca = \"origin.pem\"";
        let setup = Setup::new().file("origin.pem", &pair.chain);
        let setup = setup.upstream("origin", &[&origin.url()], lines);
        Self { proxy: setup.listen_tls(pair).start(), trust: Trust::in_pair(pair) }
    }

    fn over_tls(&self) -> TlsClient {
        let address = *self.proxy.addresses().last().expect("it listens");
        TlsClient::connect(address, "localhost", &self.trust)
    }
}

/// How an answer of an origin is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    End,
    Reset,
}

/// An origin whose answers end after so many bytes of the wire.
fn cutting(
    pair: &Pair,
    pieces: &'static [&'static [u8]],
    cut: Cut,
) -> (TlsOrigin, Arc<AtomicUsize>) {
    let after = Arc::new(AtomicUsize::new(usize::MAX));
    let limit = after.clone();
    let config = Terms::of(pair).sending_tickets(0).config();
    let origin = TlsOrigin::with(config, move |mut peer| {
        if peer.read_head().is_none() {
            return;
        }
        let records = peer.seal(pieces);
        let end = limit.load(Ordering::SeqCst).min(records.len());
        let mut socket = peer.socket();
        let _ = socket.write_all(&records[..end]);
        if cut == Cut::Reset {
            let _ = socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
        } else {
            let _ = socket.shutdown(Shutdown::Both);
        }
    });
    (origin, after)
}

/// Where records of so many plain bytes each end on the wire of TLS 1.3.
fn ends(pieces: &[&[u8]]) -> Vec<usize> {
    let lengths = pieces.iter().map(|piece| piece.len() + 22);
    let sum = |sum: &mut usize, length: usize| {
        *sum += length;
        Some(*sum)
    };
    lengths.scan(0, sum).collect()
}

/// A close_notify: an alert of two bytes in a record.
const GOODBYE_BYTES: usize = 24;

#[track_caller]
fn expect_cuts(pieces: &'static [&'static [u8]], is_endless: bool, cut: Cut) {
    let pair = Pair::of(&["localhost"]);
    let (origin, after) = cutting(&pair, pieces, cut);
    let between = Between::start(&pair, &origin);
    let ends = ends(pieces);
    let body_end = *ends.last().expect("a body");
    let whole = if is_endless { body_end + GOODBYE_BYTES } else { body_end };
    for end in 0..=body_end + GOODBYE_BYTES {
        after.store(end, Ordering::SeqCst);
        let mut client = between.proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let (bytes, _) = client.read_to_end();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The head came in the first record.
        if end < ends[0] {
            assert!(text.starts_with("HTTP/1.1 502 "), "{end} of {whole}: {text}");
            continue;
        }
        if cut == Cut::Reset && !text.starts_with("HTTP/1.1 200 ") {
            // A reset may overtake what was sent before it.
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 502 "), "{text}");
            continue;
        }
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{end} of {whole}: {text}");
        let is_whole = if text.contains("Content-Length: 10") {
            text.ends_with("\r\n\r\n0123456789")
        } else {
            text.ends_with("\r\n0\r\n\r\n")
        };
        if cut == Cut::End {
            assert_eq!(is_whole, end >= whole, "{end} of {whole}: {text}");
        } else {
            assert!(!is_whole || end >= whole, "{end} of {whole}: {text}");
        }
    }
}

#[test]
fn a_sized_answer_that_is_cut_anywhere_is_cut_for_its_client() {
    expect_cuts(&[HEAD_SIZED, b"01234", b"56789"], false, Cut::End);
}

#[test]
fn a_chunked_answer_that_is_cut_anywhere_is_cut_for_its_client() {
    expect_cuts(&[HEAD_CHUNKED, b"a\r\n01234", b"56789\r\n", b"0\r\n\r\n"], false, Cut::End);
}

#[test]
fn an_endless_answer_that_is_cut_anywhere_is_cut_for_its_client() {
    expect_cuts(&[HEAD_ENDLESS, b"01234", b"56789"], true, Cut::End);
}

#[test]
fn an_answer_that_a_reset_cuts_is_cut_for_its_client() {
    expect_cuts(&[HEAD_ENDLESS, b"0123456789"], true, Cut::Reset);
}

#[test]
fn no_goodbye_of_the_proxy_makes_a_cut_answer_whole() {
    let pieces: &'static [&'static [u8]] = &[HEAD_ENDLESS, b"0123456789"];
    let pair = Pair::of(&["localhost"]);
    let (origin, after) = cutting(&pair, pieces, Cut::End);
    let between = Between::start(&pair, &origin);
    let ends = ends(pieces);
    let whole = ends[1] + GOODBYE_BYTES;
    for end in ends[0]..=whole {
        after.store(end, Ordering::SeqCst);
        // HTTP/1.0 has nothing else that says how long a body is.
        let mut client = between.over_tls();
        let (bytes, said) = client.send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").read_to_end();
        assert!(bytes.starts_with(b"HTTP/1.1 200"), "{end}: {}", show(&bytes));
        let is_whole = bytes.ends_with(b"0123456789") && end >= whole;
        assert_eq!(said == TlsEnd::Said, is_whole, "{end} of {whole}: {}", show(&bytes));
    }
}

#[test]
fn an_answer_that_is_split_at_any_byte_of_the_wire_is_the_same() {
    let pair = Pair::of(&["localhost"]);
    let at = Arc::new(AtomicUsize::new(0));
    let place = at.clone();
    // One connection for all: each answer is split at the next byte.
    let origin = TlsOrigin::with(Terms::of(&pair).telling_secrets().config(), move |mut peer| {
        peer.shake_hands().expect("a session");
        let mut forger = Forger::of(peer);
        while forger.read_head().is_some() {
            let pieces = [HEAD_SIZED, b"01234", b"", b"56789"];
            let records: Vec<u8> = pieces.iter().flat_map(|piece| forger.data(piece)).collect();
            let end = place.fetch_add(1, Ordering::SeqCst).min(records.len());
            forger.send(&records[..end]);
            forger.wait_until_read();
            forger.send(&records[end..]);
        }
    });
    let between = Between::start(&pair, &origin);
    let mut client = between.proxy.connect();
    for _ in 0..=HEAD_SIZED.len() + 10 + 4 * 22 {
        client.send(GET).read_response().expect_status(200).expect_body("0123456789");
    }
    assert_eq!(origin.accepted(), 1);
}

/// An origin that answers each request with what `answer` forges.
fn forging(
    pair: &Pair,
    answer: impl Fn(&mut Forger, &str) -> Vec<u8> + Send + Sync + 'static,
) -> TlsOrigin {
    TlsOrigin::with(Terms::of(pair).telling_secrets().config(), move |mut peer| {
        peer.shake_hands().expect("a session");
        let mut forger = Forger::of(peer);
        while let Some(head) = forger.read_head() {
            let records = answer(&mut forger, &head);
            forger.send(records);
            if head.starts_with("GET /last") {
                return forger.end();
            }
        }
    })
}

#[test]
fn records_of_nothing_and_of_all_that_fits_are_records() {
    let pair = Pair::of(&["localhost"]);
    let body = pattern(2 * 16_384);
    let sent = body.clone();
    let origin = forging(&pair, move |forger, _| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len());
        [
            forger.data(b""),
            forger.data(head.as_bytes()),
            forger.padded(b"", 1000),
            forger.data(&sent[..16_384]),
            forger.data(b""),
            forger.data(b""),
            forger.data(&sent[16_384..]),
            forger.data(b""),
        ]
        .concat()
    });
    let between = Between::start(&pair, &origin);
    for _ in 0..3 {
        between.proxy.get().expect_status(200).expect_body(&body);
    }
    let mut client = between.over_tls();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").read_head();
    assert!(client.read_exactly(body.len()) == body);
    assert_eq!(origin.accepted(), 1, "nothing of it is a reason to give a connection up");
}

#[test]
fn what_is_larger_than_a_record_ends_the_connection() {
    let pair = Pair::of(&["localhost"]);
    let origin = forging(&pair, |forger, _| {
        let head = forger.data(b"HTTP/1.1 200 OK\r\nContent-Length: 16385\r\n\r\n");
        [head, forger.data(&vec![b'x'; 16_385])].concat()
    });
    let between = Between::start(&pair, &origin);
    let mut client = between.proxy.send(GET);
    let (bytes, _) = client.read_to_end();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(!text.contains('x') && text.len() < 400, "{}", text.len());
}

#[test]
fn an_alert_in_mid_body_cuts_the_answer() {
    let pair = Pair::of(&["localhost"]);
    let origin = forging(&pair, |forger, head| {
        let answer = forger.data(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
        let mut alerts = |alerts: &[Alert]| -> Vec<u8> {
            alerts.iter().flat_map(|alert| forger.alert(*alert)).collect()
        };
        let alerts = match head.split(' ').nth(1) {
            Some("/last/error") => alerts(&[Alert::InternalError]),
            Some("/last/goodbye") => alerts(&[Alert::CloseNotify]),
            Some("/last/canceled") => alerts(&[Alert::UserCanceled, Alert::CloseNotify]),
            _ => alerts(&[Alert::UserCanceled]),
        };
        let rest = forger.data(b"56789");
        [answer, alerts, rest].concat()
    });
    let between = Between::start(&pair, &origin);
    for path in ["error", "goodbye", "canceled"] {
        let mut client =
            between.proxy.send(format!("GET /last/{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.read_cut_response().expect_status(200);
        let mut client = between.over_tls();
        client.send(format!("GET /last/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let (bytes, end) = client.read_to_end();
        assert!(!bytes.ends_with(b"56789") && end == TlsEnd::Cut, "{path}: {}", show(&bytes));
    }
}

#[test]
fn what_came_whole_before_an_alert_or_garbage_is_whole() {
    let pair = Pair::of(&["localhost"]);
    let origin = forging(&pair, |forger, head| {
        let answer = forger.data(OK.as_bytes());
        let behind = match head.split(' ').nth(1) {
            Some("/last/error") => forger.alert(Alert::InternalError),
            Some("/last/garbage") => {
                b"\x17\x03\x03\x00\x20 garbage garbage garbage garbage".to_vec()
            }
            _ => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        };
        [answer, behind].concat()
    });
    let between = Between::start(&pair, &origin);
    for path in ["error", "garbage", "plain"] {
        let request = format!("GET /last/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut client = between.proxy.send(&request);
        client.read_response().expect_status(200).expect_body("ok");
        let mut client = between.over_tls();
        client.send(&request);
        assert!(client.read_until(b"\r\n\r\nok").starts_with(b"HTTP/1.1 200"), "{path}");
    }
    // None of them was used again.
    assert_eq!(origin.accepted(), 6);
}

#[test]
fn tickets_that_come_late_leave_an_idle_connection_alone() {
    let pair = Pair::of(&["localhost"]);
    let (send, tickets) = std::sync::mpsc::channel::<usize>();
    let tickets = std::sync::Mutex::new(tickets);
    let origin = TlsOrigin::with(Terms::of(&pair).telling_secrets().config(), move |mut peer| {
        peer.shake_hands().expect("a session");
        let mut forger = Forger::of(peer);
        while forger.read_head().is_some() {
            let answer = forger.data(OK.as_bytes());
            forger.send(answer);
            let count = tickets.lock().unwrap().recv().unwrap_or(0);
            for _ in 0..count {
                // One by one, and in two pieces each.
                let ticket = forger.ticket();
                forger.send(&ticket[..9]);
                forger.wait_until_read();
                forger.send(&ticket[9..]);
                forger.wait_until_read();
            }
            // The last comes with the next answer.
            let ticket = forger.ticket();
            forger.send(ticket);
        }
    });
    let between = Between::start(&pair, &origin);
    for count in [1, 3, 0, 10, 2] {
        between.proxy.get().expect_status(200).expect_body("ok");
        send.send(count).unwrap();
    }
    // A rested connection is watched in another way.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    between.proxy.get().expect_status(200);
    send.send(3).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    between.proxy.get().expect_status(200);
    send.send(0).unwrap();
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_flood_of_tickets_ends_an_idle_connection_and_nothing_else() {
    let pair = Pair::of(&["localhost"]);
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let origin = TlsOrigin::with(Terms::of(&pair).telling_secrets().config(), move |mut peer| {
        peer.shake_hands().expect("a session");
        let mut forger = Forger::of(peer);
        forger.read_head();
        let answer = forger.data(OK.as_bytes());
        forger.send(answer);
        for _ in 0..100_000 {
            let ticket = forger.ticket();
            if !forger.try_send(&ticket) {
                count.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    });
    let between = Between::start(&pair, &origin);
    for _ in 0..3 {
        between.proxy.get().expect_status(200).expect_body("ok");
    }
    wait_until("all are given up", || ended.load(Ordering::SeqCst) == origin.accepted());
}

#[test]
fn keys_that_change_in_mid_body_go_unnoticed() {
    let pair = Pair::of(&["localhost"]);
    let origin = TlsOrigin::start(&pair, |mut peer| {
        while peer.read_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n");
            for part in pattern(40_000).chunks(10_000) {
                peer.send(part);
                peer.change_keys();
            }
        }
    });
    let between = Between::start(&pair, &origin);
    for _ in 0..3 {
        between.proxy.get().expect_status(200).expect_body(pattern(40_000));
    }
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn an_upload_that_is_cut_is_cut_for_its_origin() {
    let origin = Origin::start(|mut peer| {
        peer.read_to_end();
    });
    let pair = Pair::of(&["localhost"]);
    let proxy = Setup::to(&origin).listen_tls(&pair).start();
    let address = *proxy.addresses().last().unwrap();
    let trust = Trust::in_pair(&pair);
    // More than is waited for before an origin is asked.
    let half = String::from_utf8_lossy(&pattern(100_000)).replace(['0', '\r', '\n'], "x");
    let half = &half.as_bytes()[..100_000];
    for framing in ["Content-Length: 200000", "Transfer-Encoding: chunked"] {
        for said in [false, true] {
            let mut client = TlsClient::connect(address, "localhost", &trust);
            let begin = if framing.starts_with('C') { "" } else { "30D40\r\n" };
            client.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{begin}"));
            client.send(half);
            origin.wait_for("the first half", |seen| seen.bytes().ends_with(half));
            if said {
                client.finish();
            }
            client.socket().shutdown(Shutdown::Write).unwrap();
            let _ = client.try_read_to_end();
        }
    }
    wait_until("all have ended", || origin.seen().open() == 0);
    assert!(origin.seen().bytes().ends_with(half), "nothing may follow what was cut");
}

/// What clients that read slowly get of bodies that are framed in each way, while others hold the
/// buffers.
#[test]
fn clients_that_read_slowly_get_all_of_it_whatever_is_short() {
    const SIZE: usize = 1_500_000;
    let body = pattern(SIZE);
    let sent = body.clone();
    let origin = Origin::start(move |mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/sized" {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
                peer.send(&sent);
            } else {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for part in sent.chunks(33_333) {
                    peer.send(format!("{:x}\r\n", part.len()));
                    peer.send(part);
                    peer.send("\r\n");
                }
                peer.send("0\r\n\r\n");
            }
        }
    });
    let pair = Pair::of(&["localhost"]);
    let proxy = Setup::to(&origin).listen_tls(&pair).start();
    let address = *proxy.addresses().last().unwrap();
    let trust = Trust::in_pair(&pair);
    std::thread::scope(|scope| {
        for index in 0..16_usize {
            let (trust, body) = (&trust, &body);
            scope.spawn(move || {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
                let socket = socket.unwrap();
                socket.set_recv_buffer_size(4096 << (index % 4)).unwrap();
                socket.connect(&address.into()).unwrap();
                let mut client = TlsClient::over(socket.into(), "localhost", trust).unwrap();
                // HTTP/1.0 gets the payload of chunks and the end.
                let (path, version) = [("sized", 1), ("chunked", 0), ("sized", 0)][index % 3];
                client.send(format!("GET /{path} HTTP/1.{version}\r\nHost: localhost\r\n\r\n"));
                client.read_head();
                let mut received = 0;
                for step in (1_usize..).map(|step| 1 + step * 7919 % 40_000) {
                    let step = step.min(SIZE - received);
                    let came = client.read_exactly(step);
                    assert!(came == body[received..received + step], "{index}: other bytes");
                    received += step;
                    if received == SIZE {
                        break;
                    }
                    if step % 5 == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(3));
                    }
                }
                if version == 0 {
                    assert_eq!(client.read_to_end(), (Vec::new(), TlsEnd::Said), "{index}");
                }
            });
        }
    });
}
