//! Three servers of somebody else's, one of which falls ill under load: killed, stopped, behind a
//! wire that is cut, restarted; what clients see of it.
//!
//! Clients ask as fast as they are answered, each on a connection of its own. What counts are
//! failures after `fall` checks have failed, and who has answered when all are well again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Client, Daemon, GET, Home, Proxy, Setup, free_address, installed, wait_until,
};

const SCRIPT: &str = "
const http = require('http');
const [port, name] = process.argv.slice(2);
http.createServer((request, response) => response.end(name)).listen(Number(port), '127.0.0.1');
";

const HEALTH: &str =
    "health = { path = \"/\", interval = \"200ms\", timeout = \"400ms\", fall = 2 }";

/// A server by Node, at an address that it keeps.
struct Server {
    program: PathBuf,
    script: PathBuf,
    address: SocketAddr,
    daemon: Option<Daemon>,
}

impl Server {
    fn start(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg(&self.script).arg(self.address.port().to_string());
        command.arg(self.address.to_string());
        self.daemon = Some(Daemon::at(self.address, command));
    }

    fn signal(&self, signal: Signal) {
        self.daemon.as_ref().expect("it runs").signal(signal);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Three of them; `None` where Node is missing.
fn three(home: &Home) -> Option<Vec<Server>> {
    let program = installed("node")?;
    let script = home.write("app.js", SCRIPT);
    let servers = (0..3).map(|_| {
        let (program, script) = (program.clone(), script.clone());
        let mut server = Server { program, script, address: free_address(), daemon: None };
        server.start();
        server
    });
    Some(servers.collect())
}

fn before(servers: &[Server], more: &str) -> Proxy {
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let setup = Setup::new().upstream("app", &urls, &format!("{HEALTH}\n{more}"));
    setup.set("timeouts.read", "2s").set("timeouts.connect", "2s").route("", "/", "app", "").start()
}

/// An answer: when its request began, and who gave it, if anybody did.
type Answer = (Instant, Option<String>);

/// Clients that ask for as long as this lives.
struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Answer>>>,
}

impl Load {
    fn on(proxy: &Proxy, count: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = (0..count).map(|_| {
            let (is_over, mut client) = (is_over.clone(), proxy.connect());
            thread::spawn(move || {
                let mut answers = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    answers.push(ask(&mut client));
                    // A load, and no trial of strength.
                    thread::sleep(Duration::from_millis(1));
                }
                answers
            })
        });
        let clients = clients.collect();
        Self { is_over, clients }
    }

    fn end(self) -> Vec<Answer> {
        self.is_over.store(true, Ordering::Relaxed);
        let answers = self.clients.into_iter().map(|client| client.join().expect("a client"));
        answers.flatten().collect()
    }
}

fn ask(client: &mut Client) -> Answer {
    let began = Instant::now();
    let response = client.send(GET).read_response();
    (began, (response.status() == 200).then(|| response.text()))
}

fn state(proxy: &Proxy, server: &Server) -> String {
    let answer: Value = serde_json::from_str(&proxy.admin("GET", "/upstreams")).expect("JSON");
    let targets = answer["upstreams"][0]["targets"].as_array().expect("targets").clone();
    let target = targets.iter().find(|it| it["origin"] == server.url()).expect("the target");
    target["state"].as_str().expect("a state").to_owned()
}

/// At most one in a thousand of those that began after `known` has failed; how many there were.
#[track_caller]
fn expect_answers(answers: &[Answer], known: Instant) -> usize {
    let after: Vec<_> = answers.iter().filter(|(began, _)| *began > known).collect();
    let failed = after.iter().filter(|(_, name)| name.is_none()).count();
    assert!(failed * 1_000 <= after.len(), "{failed} of {} failed", after.len());
    after.len()
}

/// Of those that began after `since`, every server has given its third, within a tenth.
#[track_caller]
fn expect_even(answers: &[Answer], since: Instant) {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (_, name) in answers.iter().filter(|(began, _)| *began > since) {
        *counts.entry(name.as_deref().unwrap_or("nobody")).or_default() += 1;
    }
    let third = counts.values().sum::<usize>() / 3;
    let is_even = |count: &usize| count.abs_diff(third) * 10 <= third;
    assert!(counts.len() == 3 && counts.values().all(is_even), "{counts:?}");
}

#[test]
fn one_of_three_that_is_killed_costs_nobody_an_answer_and_gets_its_share_when_it_is_back() {
    let home = Home::new();
    let Some(mut servers) = three(&home) else { return };
    let proxy = before(&servers, "");
    let load = Load::on(&proxy, 4);
    thread::sleep(Duration::from_millis(500));
    let killed = Instant::now();
    servers[1].signal(Signal::SIGKILL);
    wait_until("it is out", || state(&proxy, &servers[1]) != "up");
    thread::sleep(Duration::from_millis(500));
    servers[1].daemon = None;
    servers[1].start();
    wait_until("it is back", || state(&proxy, &servers[1]) == "up");
    let back = Instant::now();
    thread::sleep(Duration::from_secs(1));
    let answers = load.end();
    // A connection that ends before a byte of an answer is another origin's affair.
    assert!(expect_answers(&answers, killed) > 100);
    expect_even(&answers, back);
}

#[test]
fn one_of_three_that_stands_still_is_asked_by_nobody_once_its_checks_have_failed() {
    let home = Home::new();
    let Some(servers) = three(&home) else { return };
    for balance in ["round_robin", "least_connections", "p2c_ewma"] {
        let proxy = before(&servers, &format!("balance = \"{balance}\""));
        let load = Load::on(&proxy, 4);
        thread::sleep(Duration::from_millis(300));
        servers[2].signal(Signal::SIGSTOP);
        wait_until("it is out", || state(&proxy, &servers[2]) == "check");
        let known = Instant::now();
        thread::sleep(Duration::from_millis(800));
        servers[2].signal(Signal::SIGCONT);
        wait_until("it is back", || state(&proxy, &servers[2]) == "up");
        let back = Instant::now();
        thread::sleep(Duration::from_secs(1));
        let answers = load.end();
        assert!(expect_answers(&answers, known) > 100, "{balance}");
        if balance == "round_robin" {
            expect_even(&answers, back);
        }
    }
}

#[test]
fn three_that_are_restarted_one_by_one_cost_nobody_an_answer() {
    let home = Home::new();
    let Some(mut servers) = three(&home) else { return };
    let proxy = before(&servers, "");
    let load = Load::on(&proxy, 4);
    let began = Instant::now();
    for server in &mut servers {
        // As whoever rolls a new version out does it: nothing new, then the end.
        let path = format!("/upstreams/app?origin={}&state=", server.url());
        proxy.admin("POST", &format!("{path}down"));
        thread::sleep(Duration::from_millis(200));
        server.daemon = None;
        server.start();
        proxy.admin("POST", &format!("{path}up"));
        wait_until("it is back", || state(&proxy, server) == "up");
    }
    let back = Instant::now();
    thread::sleep(Duration::from_secs(1));
    let answers = load.end();
    let failed = answers.iter().filter(|(_, name)| name.is_none()).count();
    assert_eq!(failed, 0);
    assert!(expect_answers(&answers, began) > 100);
    expect_even(&answers, back);
}
