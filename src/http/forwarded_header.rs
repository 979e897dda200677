//! What a request says of its client to the server that it is sent to.
//!
//! In goes a client's address, once for its connection; out come X-Forwarded-For, -Proto and -Host,
//! and Forwarded (RFC 7239), appended to a head. All of them but the host is the same for every
//! request of a connection, so that only the host is put between two pieces that lie ready.

use std::net::IpAddr;

use crate::address::ClientAddress;

use super::head::RequestHead;
use super::names::FieldName;

/// How the client reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// A client's address as text, in the lines that repeat it.
#[derive(Clone, Debug)]
pub struct ClientText {
    /// The lines up to the first host, and those from there up to the second.
    lines: String,
    address_bytes: usize,
    /// Where the first host goes.
    host_at: usize,
}

const FOR: &str = "X-Forwarded-For: ";
const UNIX: &str = "unix:";
const HOST: &str = "X-Forwarded-Host: ";
const FORWARDED: &str = "Forwarded: ";
const QUOTED_HOST: &str = ";host=\"";
const LINE_END: &str = "\r\n";

impl ClientText {
    /// A client without an address is `unix:` in X-Forwarded-For, as nginx has it, and `unknown` in
    /// Forwarded (RFC 7239 §6.2): both say that nobody knows.
    pub fn new(client: ClientAddress, scheme: Scheme) -> Self {
        let mut lines = String::with_capacity(128);
        lines.push_str(FOR);
        match client {
            ClientAddress::Ip(address) => push_address(&mut lines, address),
            ClientAddress::Unix => lines.push_str(UNIX),
        }
        let address_bytes = lines.len() - FOR.len();
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        for part in ["\r\nX-Forwarded-Proto: ", scheme, LINE_END, HOST] {
            lines.push_str(part);
        }
        let host_at = lines.len();
        // Colons want quotes.
        let is_v6 = matches!(client, ClientAddress::Ip(IpAddr::V6(_)));
        let (opening, closing) = if is_v6 { ("\"[", "]\"") } else { ("", "") };
        for part in [LINE_END, FORWARDED, "for=", opening] {
            lines.push_str(part);
        }
        match client {
            ClientAddress::Ip(_) => {
                lines.extend_from_within(FOR.len()..FOR.len() + address_bytes);
            }
            ClientAddress::Unix => lines.push_str("unknown"),
        }
        for part in [closing, ";proto=", scheme, QUOTED_HOST] {
            lines.push_str(part);
        }
        Self { lines, address_bytes, host_at }
    }

    /// The address, without a port or brackets.
    pub fn address(&self) -> &str {
        &self.lines[FOR.len()..FOR.len() + self.address_bytes]
    }

    /// X-Forwarded-Proto, as a line.
    fn proto_line(&self) -> &str {
        let start = FOR.len() + self.address_bytes + LINE_END.len();
        &self.lines[start..self.host_at - HOST.len()]
    }

    /// The parameters of Forwarded but for the host.
    fn node(&self) -> &str {
        let start = self.host_at + LINE_END.len() + FORWARDED.len();
        &self.lines[start..self.lines.len() - QUOTED_HOST.len()]
    }

    /// Appends the lines to `out`. What a client that is trusted has said of those before it is
    /// kept; of one that is not, it has to be left out of the lines that are copied.
    pub(super) fn put(&self, out: &mut Vec<u8>, head: &RequestHead, buf: &[u8], is_trusted: bool) {
        // No authority that was let in holds a quote or a backslash.
        let host = head.authority.of(buf);
        if !is_trusted && !host.is_empty() {
            let (first, second) = self.lines.as_bytes().split_at(self.host_at);
            return put(out, [first, host, second, host, b"\"\r\n"]);
        }
        let is_kept = |known| is_trusted && head.fields.has(known);
        put(out, [FOR.as_bytes()]);
        if is_kept(FieldName::XForwardedFor) {
            put_values(out, head, buf, FieldName::XForwardedFor);
        }
        put(out, [self.address().as_bytes(), b"\r\n"]);
        if !is_kept(FieldName::XForwardedProto) {
            put(out, [self.proto_line().as_bytes()]);
        }
        if !is_kept(FieldName::XForwardedHost) && !host.is_empty() {
            put(out, [HOST.as_bytes(), host, b"\r\n"]);
        }
        put(out, [FORWARDED.as_bytes()]);
        if is_kept(FieldName::Forwarded) {
            put_values(out, head, buf, FieldName::Forwarded);
        }
        put(out, [self.node().as_bytes()]);
        if !host.is_empty() {
            put(out, [QUOTED_HOST.as_bytes(), host, b"\""]);
        }
        put(out, [b"\r\n"]);
    }
}

/// All values of one kind of field, each with a comma behind it: more follows.
fn put_values(out: &mut Vec<u8>, head: &RequestHead, buf: &[u8], known: FieldName) {
    for field in head.fields.all(known) {
        if !field.value.is_empty() {
            put(out, [field.value.of(buf), b", "]);
        }
    }
}

#[inline]
pub(super) fn put<const N: usize>(out: &mut Vec<u8>, parts: [&[u8]; N]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// An address as text. Those of IPv4 are written by hand: `Display` takes 1,300 instructions, a
/// tenth of what ringway itself spends on a connection for one request.
fn push_address(text: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else { return text.push_str(&address.to_string()) };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        if octet >= 100 {
            text.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            text.push(char::from(b'0' + octet / 10 % 10));
        }
        text.push(char::from(b'0' + octet % 10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        let written = |address| {
            ClientText::new(ClientAddress::Ip(address), Scheme::Http).address().to_owned()
        };
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255 - octet, 0, octet / 3]);
            assert_eq!(written(address), address.to_string());
        }
        assert_eq!(written(IpAddr::from([0; 16])), "::");
    }

    #[test]
    fn the_scheme_is_that_by_which_the_client_came() {
        let text = ClientText::new([192, 0, 2, 1].into(), Scheme::Https);
        assert_eq!(text.proto_line(), "X-Forwarded-Proto: https\r\n");
        assert_eq!(text.node(), "for=192.0.2.1;proto=https");
    }

    #[test]
    fn nothing_is_claimed_of_a_client_without_an_address() {
        let text = ClientText::new(ClientAddress::Unix, Scheme::Http);
        assert_eq!((text.address(), text.node()), ("unix:", "for=unknown;proto=http"));
    }
}
