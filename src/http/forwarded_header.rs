//! What a request says of its client to the server that it is sent to.
//!
//! In goes a client's address, once for its connection; out come X-Forwarded-For, -Proto and -Host,
//! Forwarded (RFC 7239) and their like, appended to a head. All of them but the host is the same
//! for every request of a stranger's connection, so that only the host is put between two pieces
//! that lie ready. What a trusted peer says is kept, and carried over from one form to the other;
//! what it does not say is not made up: by which scheme its client came, we cannot know.

use std::io::Write;
use std::net::IpAddr;

use crate::address::ClientAddress;

use super::client_chain::{Trust, address, address_in, elements_from_end, parameter};
use super::head::RequestHead;
use super::names::{FieldName, FieldNameSet, elements};
use super::target::{Port, is_authority};

/// How the client reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What origins are told of clients, as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field that is said or not")]
pub struct Introduction {
    /// X-Forwarded-For, -Proto and -Host.
    pub says_x: bool,
    /// Forwarded.
    pub says_rfc: bool,
    pub says_real_ip: bool,
    pub says_port: bool,
    pub says_ssl: bool,
    /// The class of the field by which a trusted peer says who the client is. Where the two forms
    /// contradict each other, the one that it belongs to wins: a peer that knows one form alone
    /// passes on what a stranger has written in the other.
    pub believed: FieldName,
}

impl Introduction {
    /// Whether a head that is sent on may have a line of this class that did not come with it.
    pub(crate) fn may_say(self, class: FieldName) -> bool {
        match class {
            FieldName::XRealIp => self.says_real_ip,
            FieldName::XForwardedPort => self.says_port,
            FieldName::XForwardedSsl => self.says_ssl,
            FieldName::OfInterest
            | FieldName::Authorization
            | FieldName::Claim
            | FieldName::ClientIp
            | FieldName::Proxy
            | FieldName::Shadow => false,
            _ => true,
        }
    }
}

impl Default for Introduction {
    fn default() -> Self {
        Self {
            says_x: true,
            says_rfc: true,
            says_real_ip: false,
            says_port: false,
            says_ssl: false,
            believed: FieldName::XForwardedFor,
        }
    }
}

/// What the origin is told of the client.
#[derive(Clone, Copy, Debug)]
pub struct ForwardedFor<'a> {
    /// Who sends the request to us.
    pub client: &'a ClientText,
    /// Who is trusted, where the peer is: what it says is kept, and appended to.
    pub trust: Option<&'a dyn Trust>,
    /// The client's address: the peer's, or what a trusted peer has said.
    pub address: &'a str,
    /// What of the path the origin does not see.
    pub prefix: &'a [u8],
}

/// The address of a peer as text, in the lines that repeat it.
#[derive(Clone, Debug)]
pub struct ClientText {
    /// The lines up to the first host, and those from there up to the second.
    lines: String,
    address: Box<str>,
    /// Where the first host goes.
    host_at: usize,
    scheme: Scheme,
    introduction: Introduction,
    /// The lines are all that is said of a stranger.
    is_ready: bool,
    /// In X-Forwarded-Host and in Forwarded.
    says_host_twice: bool,
}

const FOR: &str = "X-Forwarded-For: ";
const PROTO: &str = "X-Forwarded-Proto: ";
const UNIX: &str = "unix:";
const HOST: &str = "X-Forwarded-Host: ";
const FORWARDED: &str = "Forwarded: ";
const QUOTED_HOST: &str = ";host=\"";
const LINE_END: &str = "\r\n";

impl ClientText {
    /// A client without an address is `unix:` in X-Forwarded-For, as nginx has it, and `unknown` in
    /// Forwarded (RFC 7239 §6.2): both say that nobody knows.
    pub fn new(client: ClientAddress, scheme: Scheme, introduction: Introduction) -> Self {
        let mut address = String::new();
        match client {
            ClientAddress::Ip(ip) => push_address(&mut address, ip),
            ClientAddress::Unix => address.push_str(UNIX),
        }
        let mut lines = String::with_capacity(160);
        let scheme_text = scheme.text();
        if introduction.says_x {
            for part in [FOR, &address, LINE_END, PROTO, scheme_text, LINE_END, HOST] {
                lines.push_str(part);
            }
        }
        let mut host_at = lines.len();
        if introduction.says_rfc {
            if introduction.says_x {
                lines.push_str(LINE_END);
            }
            lines.push_str(FORWARDED);
            let facts = [";proto=", scheme_text, QUOTED_HOST];
            node(&address).into_iter().chain(facts).for_each(|part| lines.push_str(part));
        }
        match (introduction.says_x, introduction.says_rfc) {
            (true, true) => {}
            (true, false) => lines.push_str(LINE_END),
            (false, _) => {
                host_at = lines.len();
                lines.push_str("\"\r\n");
            }
        }
        let Introduction { says_x, says_rfc, says_real_ip, says_port, says_ssl, .. } = introduction;
        Self {
            lines,
            address: address.into(),
            host_at,
            scheme,
            introduction,
            is_ready: !(says_real_ip | says_port | says_ssl),
            says_host_twice: says_x && says_rfc,
        }
    }

    /// The address, without a port or brackets.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl<'a> ForwardedFor<'a> {
    /// Of a client that speaks for itself.
    pub fn of(client: &'a ClientText) -> Self {
        Self { client, trust: None, address: client.address(), prefix: b"" }
    }

    /// The fields that are not copied as they came.
    #[inline]
    pub(super) fn dropped(&self) -> FieldNameSet {
        /// What is said anew, and what nobody may say.
        const ALWAYS: FieldNameSet = FieldNameSet::EMPTY
            .with(FieldName::XForwardedFor)
            .with(FieldName::Forwarded)
            .with(FieldName::Proxy);
        /// What a stranger may not.
        const CLAIMS: FieldNameSet = ALWAYS
            .with(FieldName::XForwardedHost)
            .with(FieldName::XForwardedProto)
            .with(FieldName::XForwardedPort)
            .with(FieldName::XForwardedPrefix)
            .with(FieldName::XForwardedSsl)
            .with(FieldName::Claim)
            .with(FieldName::XRealIp)
            .with(FieldName::ClientIp);
        if self.trust.is_none() {
            return CLAIMS;
        }
        let Introduction { says_x, says_real_ip, .. } = self.client.introduction;
        let mut dropped = ALWAYS;
        if !says_x {
            dropped = dropped.with(FieldName::XForwardedHost).with(FieldName::XForwardedProto);
        }
        if says_real_ip {
            dropped = dropped.with(FieldName::XRealIp);
        }
        if !self.prefix.is_empty() {
            dropped = dropped.with(FieldName::XForwardedPrefix);
        }
        dropped
    }

    /// Appends the lines to `out`.
    #[inline]
    pub(super) fn put(&self, out: &mut Vec<u8>, head: &RequestHead, buf: &[u8]) {
        // No authority that was let in holds a quote or a backslash.
        let host = head.authority.of(buf);
        let is_ready = self.client.is_ready && self.prefix.is_empty() && self.trust.is_none();
        if !is_ready || host.is_empty() {
            return self.put_each(out, head, buf);
        }
        let (first, second) = self.client.lines.as_bytes().split_at(self.client.host_at);
        if self.client.says_host_twice {
            put(out, [first, host, second, host, b"\"\r\n"]);
        } else {
            put(out, [first, host, second]);
        }
    }

    /// The same, line by line.
    fn put_each(&self, out: &mut Vec<u8>, head: &RequestHead, buf: &[u8]) {
        let told = Told::of(self, head, buf);
        let Introduction { says_x, says_rfc, says_real_ip, says_port, says_ssl, .. } =
            self.client.introduction;
        if says_x {
            self.put_x(out, &told);
        }
        if says_rfc {
            self.put_rfc(out, &told);
        }
        if says_real_ip {
            put(out, [b"X-Real-IP: ", self.address.as_bytes(), b"\r\n"]);
        }
        if says_port
            && !told.keeps(FieldName::XForwardedPort)
            && let Some(port) = told.port()
        {
            put(out, [b"X-Forwarded-Port: ", port, b"\r\n"]);
        }
        if says_ssl
            && !told.keeps(FieldName::XForwardedSsl)
            && let Some(is_secure) = told.is_secure()
        {
            put(out, [b"X-Forwarded-Ssl: ", if is_secure { b"on" } else { b"off" }, b"\r\n"]);
        }
        if !self.prefix.is_empty() {
            put(out, [b"X-Forwarded-Prefix: "]);
            if told.keeps(FieldName::XForwardedPrefix) {
                put_values(out, head, buf, FieldName::XForwardedPrefix);
            }
            put(out, [self.prefix, b"\r\n"]);
        }
    }

    fn put_x(&self, out: &mut Vec<u8>, told: &Told<'_>) {
        put(out, [FOR.as_bytes()]);
        if told.keeps_x {
            put_values(out, told.head, told.buf, FieldName::XForwardedFor);
        } else if told.keeps_rfc {
            let mut addresses: Vec<_> = told.addresses(FieldName::Forwarded).collect();
            addresses.reverse();
            for address in addresses {
                match address {
                    Some(address) => put_text(out, format_args!("{address}, ")),
                    None => put(out, [b"unknown, "]),
                }
            }
        }
        put(out, [self.client.address().as_bytes(), b"\r\n"]);
        if !told.keeps(FieldName::XForwardedProto)
            && let Some(proto) = told.proto
        {
            put(out, [PROTO.as_bytes(), proto, b"\r\n"]);
        }
        if !told.keeps(FieldName::XForwardedHost) && !told.host.is_empty() {
            put(out, [HOST.as_bytes(), told.host, b"\r\n"]);
        }
    }

    fn put_rfc(&self, out: &mut Vec<u8>, told: &Told<'_>) {
        let Told { head, buf, .. } = *told;
        // Said once, of the first hop: some readers ask the first element, and others the last.
        let mut facts = (told.proto, Some(told.host).filter(|host| !host.is_empty()));
        put(out, [FORWARDED.as_bytes()]);
        if told.keeps_rfc {
            put_values(out, head, buf, FieldName::Forwarded);
            facts.0 = facts.0.filter(|_| !told.says(b"proto"));
            facts.1 = facts.1.filter(|_| !told.says(b"host"));
        } else if told.keeps_x {
            for field in head.fields.all(FieldName::XForwardedFor) {
                for element in elements(field.value.of(buf)).filter(|it| !it.is_empty()) {
                    match address(element) {
                        Some(IpAddr::V4(v4)) => put_text(out, format_args!("for={v4}")),
                        Some(IpAddr::V6(v6)) => put_text(out, format_args!("for=\"[{v6}]\"")),
                        None => put(out, [b"for=unknown"]),
                    }
                    put_facts(out, std::mem::take(&mut facts));
                    put(out, [b", "]);
                }
            }
        }
        put_node(out, self.client.address());
        put_facts(out, facts);
        put(out, [LINE_END.as_bytes()]);
    }
}

/// What a request says of its way to us, as far as that is believed.
struct Told<'a> {
    head: &'a RequestHead,
    buf: &'a [u8],
    is_trusted: bool,
    /// X-Forwarded-For is appended to; without `keeps_rfc`, Forwarded is made of it.
    keeps_x: bool,
    /// The same, the other way round.
    keeps_rfc: bool,
    /// The scheme by which the client came, where that is known.
    proto: Option<&'a [u8]>,
    /// The host that the client asked.
    host: &'a [u8],
}

impl<'a> Told<'a> {
    fn of(forwarded: &ForwardedFor<'a>, head: &'a RequestHead, buf: &'a [u8]) -> Self {
        let mut told = Self {
            head,
            buf,
            is_trusted: forwarded.trust.is_some(),
            keeps_x: false,
            keeps_rfc: false,
            proto: Some(forwarded.client.scheme.text().as_bytes()),
            host: head.authority.of(buf),
        };
        let Some(trust) = forwarded.trust else { return told };
        let has = |class| head.fields.has(class);
        (told.keeps_x, told.keeps_rfc) = (has(FieldName::XForwardedFor), has(FieldName::Forwarded));
        if told.keeps_x && told.keeps_rfc && !told.is_of_one_mind() {
            told.keeps_rfc = forwarded.client.introduction.believed == FieldName::Forwarded;
            told.keeps_x = !told.keeps_rfc;
        }
        let said = told.keeps_rfc.then(|| told.said_by(trust));
        let (proto, host) = said.unwrap_or_default();
        told.proto = told.first(FieldName::XForwardedProto).filter(|it| is_scheme(it)).or(proto);
        let host = told.first(FieldName::XForwardedHost).filter(|it| is_host(it)).or(host);
        told.host = host.unwrap_or(told.host);
        told
    }

    /// Whether a field of this class that the peer has sent goes on as it came.
    fn keeps(&self, class: FieldName) -> bool {
        self.is_trusted && self.head.fields.has(class)
    }

    /// The addresses in all fields of this class, the last first.
    fn addresses(&self, class: FieldName) -> impl Iterator<Item = Option<IpAddr>> {
        let elements = elements_from_end(&self.head.fields, self.buf, class);
        elements.map(move |element| address_in(class, element))
    }

    /// Whether both forms name the same addresses.
    fn is_of_one_mind(&self) -> bool {
        self.addresses(FieldName::XForwardedFor).eq(self.addresses(FieldName::Forwarded))
    }

    /// What the proxy that met the client says in Forwarded: the scheme, and the host.
    fn said_by(&self, trust: &dyn Trust) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
        let (mut proto, mut host) = (None, None);
        for element in elements_from_end(&self.head.fields, self.buf, FieldName::Forwarded) {
            proto = parameter(element, b"proto").filter(|it| is_scheme(it)).or(proto);
            host = parameter(element, b"host").filter(|it| is_host(it)).or(host);
            let address = address_in(FieldName::Forwarded, element);
            if !address.is_some_and(|address| trust.trusts(address)) {
                break;
            }
        }
        (proto, host)
    }

    /// Whether an element of Forwarded has this parameter.
    fn says(&self, name: &[u8]) -> bool {
        let mut elements = elements_from_end(&self.head.fields, self.buf, FieldName::Forwarded);
        elements.any(|element| parameter(element, name).is_some())
    }

    /// The first element of the first field of this class.
    fn first(&self, class: FieldName) -> Option<&'a [u8]> {
        elements(self.head.fields.find(class)?.value.of(self.buf)).next()
    }

    fn is_secure(&self) -> Option<bool> {
        self.proto.map(|proto| proto.eq_ignore_ascii_case(b"https"))
    }

    /// The port that the client asked: it says another one than that of the scheme.
    fn port(&self) -> Option<&'a [u8]> {
        let digits = self.host.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        match self.host.split_at(self.host.len() - digits) {
            ([.., b':'], port) if digits > 0 => Some(port),
            _ => self.is_secure().map(|is_secure| if is_secure { &b"443"[..] } else { b"80" }),
        }
    }
}

/// The scheme by which its client came to a trusted peer, where that has said it.
pub(crate) fn scheme_said<'a>(head: &'a RequestHead, buf: &'a [u8]) -> Option<&'a [u8]> {
    let fields = &head.fields;
    let said =
        fields.find(FieldName::XForwardedProto).and_then(|it| elements(it.value.of(buf)).next());
    let last = || elements_from_end(fields, buf, FieldName::Forwarded).next();
    let scheme = said.or_else(|| parameter(last()?, b"proto"));
    scheme.filter(|scheme| is_scheme(scheme))
}

/// RFC 3986 §3.1.
fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// Whether `text` can stand between quotes and be a host.
fn is_host(text: &[u8]) -> bool {
    is_authority(text, Port::Optional)
}

/// The scheme by which the client of an element came, and the host that it asked.
fn put_facts(out: &mut Vec<u8>, (proto, host): (Option<&[u8]>, Option<&[u8]>)) {
    if let Some(proto) = proto {
        put(out, [b";proto=", proto]);
    }
    if let Some(host) = host {
        put(out, [QUOTED_HOST.as_bytes(), host, b"\""]);
    }
}

fn put_text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec does not fail.
    let _ = out.write_fmt(text);
}

/// A client by its address, as [`ClientText::address`] has it, or as a chain does.
fn put_node(out: &mut Vec<u8>, address: &str) {
    put(out, node(address).map(str::as_bytes));
}

/// A node identifier (RFC 7239 §6): colons want quotes.
fn node(address: &str) -> [&str; 3] {
    match address {
        UNIX => ["for=unknown", "", ""],
        _ if address.contains(':') => ["for=\"[", address, "]\""],
        _ => ["for=", address, ""],
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
pub(crate) fn push_address(text: &mut String, address: IpAddr) {
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
        let written = |address: IpAddr| {
            ClientText::new(address.into(), Scheme::Http, Introduction::default())
                .address()
                .to_owned()
        };
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 255 - octet, 0, octet / 3]);
            assert_eq!(written(address), address.to_string());
        }
        assert_eq!(written(IpAddr::from([0; 16])), "::");
    }

    #[test]
    fn the_scheme_is_that_by_which_the_client_came() {
        let introduction = Introduction::default();
        let text = ClientText::new([192, 0, 2, 1].into(), Scheme::Https, introduction);
        assert!(text.lines.contains("X-Forwarded-Proto: https\r\n"));
        assert!(text.lines.contains("for=192.0.2.1;proto=https"));
    }

    #[test]
    fn nothing_is_claimed_of_a_client_without_an_address() {
        let text = ClientText::new(ClientAddress::Unix, Scheme::Http, Introduction::default());
        assert_eq!(text.address(), "unix:");
        assert!(text.lines.contains("Forwarded: for=unknown;proto=http"));
    }
}
