//! At `limits.clients`, those with the least use for their places give way to new clients.
//!
//! Comes in: clients that rest, say nothing, or never finish a head, from several addresses. Goes
//! out: who is served, whose connection ends, and that nobody who has a request under way is ended.

use crate::support::{self, Client, GET, OK, Origin, Proxy, Setup};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// What a new client may have to wait for room, with a wide margin.
const SOON: Duration = Duration::from_secs(8);

/// Longer than the silence of a client whose next request is on its way, and than the clock's tick.
const STEP: Duration = Duration::from_millis(150);

fn from(host: u8, address: SocketAddr) -> Client {
    Client::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), address)
}

#[track_caller]
fn expect_served_soon(client: &mut Client) {
    let began = Instant::now();
    client.send(GET).expect_status(200);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// Connections that gave way, by reason.
fn gave_way(proxy: &Proxy, reason: &str) -> u64 {
    let line = proxy.wait_for_log(&["admin API", "address="]);
    let mut client = Client::plain(support::logged(&line, "address").parse().unwrap());
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = client.read_response();
    let text = response.text();
    let name = format!("ringway_clients_gave_way_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).expect("a sample");
    line.parse().unwrap()
}

#[test]
fn resting_connections_make_room_for_new_clients_the_oldest_first() {
    let origin = Origin::answering(OK);
    for workers in [1, 2] {
        let proxy = Setup::to(&origin)
            .set("limits.clients", 4)
            .set("server.workers", workers)
            .listen(&["127.0.0.2:0"])
            .start();
        let mut resting: Vec<_> = (0..4)
            .map(|_| {
                let mut client = proxy.send(GET);
                client.expect_status(200);
                thread::sleep(STEP);
                client
            })
            .collect();
        // Whoever has just been answered is the youngest.
        let mut second = resting.remove(1);
        second.send(GET).expect_status(200);
        thread::sleep(STEP);
        for round in 0..3 {
            let mut new = Client::connect(proxy.addresses()[round % 2]);
            expect_served_soon(&mut new);
            let mut oldest = resting.remove(0);
            oldest.expect_orderly_close();
            resting.push(new);
            thread::sleep(STEP);
        }
        expect_served_soon(&mut proxy.connect());
        second.expect_orderly_close();
        for client in &mut resting {
            client.send(GET).expect_status(200);
        }
        assert_eq!(gave_way(&proxy, "idle"), 4);
        assert_eq!(gave_way(&proxy, "slow_head"), 0);
        proxy.wait_for_log(&["limits.clients is reached", "rested"]);
    }
}

#[test]
fn clients_that_never_said_anything_make_room_as_well() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("limits.clients", 3).set("server.workers", 2).start();
    let mut silent: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
    for _ in 0..6 {
        let mut new = proxy.send(GET);
        new.expect_status(200);
    }
    silent[0].expect_orderly_close();
}

#[test]
fn busy_connections_outlive_any_number_of_new_clients() {
    let (origin, gate) = Origin::held();
    let quick = Origin::answering(OK);
    let proxy = Setup::new()
        .upstream("held", &[&origin.url()], "")
        .upstream("quick", &[&quick.url()], "")
        .route("", "/quick", "quick", "")
        .route("", "/", "held", "")
        .set("limits.clients", 3)
        .set("server.workers", 2)
        .start();
    let mut busy: Vec<_> = (0..2).map(|_| proxy.send(GET)).collect();
    origin.wait_for("the requests", |seen| seen.requests.len() == 2);
    // They stay, and rest, as far as they are let.
    let mut others = Vec::new();
    for _ in 0..8 {
        let mut new = proxy.send("GET /quick HTTP/1.1\r\nHost: test\r\n\r\n");
        new.expect_status(200);
        others.push(new);
    }
    gate.open();
    for client in &mut busy {
        client.expect_status(200);
    }
}

#[test]
fn slow_heads_of_the_address_that_holds_most_make_room_where_nothing_rests() {
    let origin = Origin::answering(OK);
    for workers in [1, 2] {
        let setup = Setup::to(&origin).set("limits.clients", 4).set("server.workers", workers);
        let proxy = setup.start();
        let address = proxy.address();
        // The oldest of all, and alone at its address.
        let mut modest = from(3, address);
        modest.send("GET / HTTP/1.1\r\nHo");
        thread::sleep(STEP);
        let mut greedy: Vec<_> = (0..3)
            .map(|_| {
                let mut client = from(2, address);
                client.send("GET / HTTP/1.1\r\nX: ");
                thread::sleep(STEP);
                client
            })
            .collect();
        // By now none of them gets on.
        thread::sleep(Duration::from_millis(1_200));
        expect_served_soon(&mut from(5, address));
        let ended: Vec<_> = greedy.iter_mut().map(|client| !client.is_quiet_for(STEP)).collect();
        assert_eq!(ended.iter().filter(|is_ended| **is_ended).count(), 1, "{ended:?}");
        assert_eq!(gave_way(&proxy, "slow_head"), 1, "{workers} workers");
        assert_eq!(gave_way(&proxy, "idle"), 0, "{workers} workers");
        proxy.wait_for_log(&["limits.clients is reached", "slow to send a head"]);
        modest.send("st: test\r\n\r\n").expect_status(200);
        let left = ended.iter().position(|is_ended| !is_ended).unwrap();
        greedy[left].send("y\r\nHost: test\r\n\r\n").expect_status(200);
    }
}
