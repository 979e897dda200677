//! What the proxy says of itself, by its admin API.
//!
//! Comes in: a running proxy, whose log names the address. Goes out: its answers. Each is asked for
//! on a connection of its own, so that asking changes nothing on the data port.

use super::Proxy;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

impl Proxy {
    /// Ends the client connection from `peer`, which has to be there.
    #[track_caller]
    pub(crate) fn delete_connection(&self, peer: SocketAddr) {
        let list = self.admin("GET", "/connections?limit=10000");
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let list = list["connections"].as_array().expect("a list");
        let found = list.iter().find(|it| it["peer"] == peer.to_string()).expect("the connection");
        self.admin("DELETE", &format!("/connections/{}", found["id"]));
    }

    /// What the admin API says to a request that has to succeed.
    #[track_caller]
    pub(crate) fn admin(&self, method: &str, target: &str) -> String {
        let answer = self.ask_admin(method, target);
        assert!(answer.starts_with("HTTP/1.1 20"), "{method} {target}: {answer}");
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    /// The whole answer of the admin API, whatever its status.
    #[track_caller]
    pub(crate) fn ask_admin(&self, method: &str, target: &str) -> String {
        let line = self.wait_for_log(&["admin API"]);
        let address = line.split('"').nth(1).expect("an address");
        let mut stream = TcpStream::connect(address).expect("the admin API");
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a reader");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}
