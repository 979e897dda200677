//! The admin API as an operator uses it: one request per connection.
//!
//! Comes in: a method and a path. Goes out: the status and the body, or one figure of `/metrics`.
//! It never retries: an admin API that does not answer while others attack is a failure.

use crate::support::{DEADLINE, Proxy};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

#[derive(Clone, Copy)]
pub(crate) struct Admin(SocketAddr);

impl Admin {
    #[track_caller]
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let line = proxy.wait_for_log(&["admin API"]);
        let address = line.split('"').nth(1).expect("an address");
        Self(address.parse().expect("an address"))
    }

    #[track_caller]
    pub(crate) fn ask(self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect_timeout(&self.0, DEADLINE).expect("the admin API");
        stream.set_read_timeout(Some(DEADLINE)).expect("a stream");
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.0);
        stream.write_all(request.as_bytes()).expect("a reader");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// The sum of all samples of a family whose labels contain `labels`, or nothing if there is no
    /// such family.
    #[track_caller]
    pub(crate) fn metric(self, name: &str, labels: &str) -> Option<u64> {
        Metrics(self.ask("GET", "/metrics").1).sum(name, labels)
    }

    #[track_caller]
    pub(crate) fn metrics(self) -> Metrics {
        Metrics(self.ask("GET", "/metrics").1)
    }

    /// The clients' connections: id, address and phase.
    #[track_caller]
    pub(crate) fn connections(self) -> Vec<(u64, String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let one = |one: &serde_json::Value| {
            (one["id"].as_u64().expect("a number"), text(&one["peer"]), text(&one["phase"]))
        };
        self.listed().iter().map(one).collect()
    }

    /// Bytes that have gone out to the clients that are connected now.
    #[track_caller]
    pub(crate) fn sent(self) -> u64 {
        self.listed().iter().filter_map(|one| one["bytes_sent"].as_u64()).sum()
    }

    #[track_caller]
    fn listed(self) -> Vec<serde_json::Value> {
        let (_, body) = self.ask("GET", "/connections?limit=10000");
        let listed: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        listed["connections"].as_array().expect("a list").clone()
    }

    /// Ends a connection, and demands that this is acknowledged.
    #[track_caller]
    pub(crate) fn end(self, id: u64) {
        let (status, body) = self.ask("DELETE", &format!("/connections/{id}"));
        assert!(status == 204, "ending connection {id}: {status} {body}");
    }
}

pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) fn sum(&self, name: &str, labels: &str) -> Option<u64> {
        let samples = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_wanted = rest.starts_with(['{', ' ']) && rest.contains(labels);
            is_wanted.then(|| rest.rsplit(' ').next()?.parse::<u64>().ok()).flatten()
        });
        let samples: Vec<_> = samples.collect();
        (!samples.is_empty()).then(|| samples.iter().sum())
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str, labels: &str) -> u64 {
        self.sum(name, labels).unwrap_or_else(|| panic!("no {name} {labels} in\n{}", self.0))
    }
}
