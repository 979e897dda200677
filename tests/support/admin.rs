//! What the proxy says of itself, by its admin API.
//!
//! Comes in: a running proxy, whose log names the address. Goes out: figures of `GET /health`. Each
//! is asked for on a connection of its own, so that asking changes nothing on the data port.

use super::Proxy;
use std::io::{Read, Write};
use std::net::TcpStream;

impl Proxy {
    /// The bytes that its ledger holds.
    #[track_caller]
    pub fn ledger_bytes(&self) -> u64 {
        let line = self.wait_for_log(&["admin API"]);
        let address = line.split('"').nth(1).expect("an address");
        let mut stream = TcpStream::connect(address).expect("the admin API");
        let request =
            format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a reader");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        let health: serde_json::Value = serde_json::from_str(body).expect("JSON");
        health["memory"]["ledger_bytes"].as_u64().expect("a number")
    }
}
