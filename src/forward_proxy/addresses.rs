//! What kind of place an IP address is, and which IPv4 addresses hide in an IPv6 one.
//!
//! In: an address about to be dialled. Out: its `Readings` (every address that a packet to it may
//! end up at) and the `Class` of each. Pure; which classes are open is for `policy`.
//!
//! A translator or a tunnel turns some IPv6 addresses into IPv4 addresses on the way. The ways
//! that an address shows are known here; a NAT64 or 6rd prefix of an operator's own does not
//! show, and needs a rule in `deny`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use Class::{LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved, Unspecified};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Public,
    /// Within a site: RFC 1918, RFC 6598, RFC 4193 and the site-local addresses before it.
    Private,
    Loopback,
    /// Dialled, most of them end up at this machine.
    Unspecified,
    LinkLocal,
    /// Where a cloud tells a machine its credentials, outside the link-local networks.
    Metadata,
    Multicast,
    /// Of no use yet, or leading to unknown places.
    Reserved,
}

/// Alibaba, Oracle and Azure. All others of IPv4 are link-local.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// Google, Oracle and Scaleway. Amazon has a network of them, see `of_v6`.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

impl Class {
    /// `address` is canonical: an IPv4 address is not one mapped into IPv6.
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            _ if METADATA_V4.contains(&address) => Metadata,
            [0, ..] => Unspecified,
            [127, ..] => Loopback,
            [169, 254, ..] => LinkLocal,
            // RFC 1918, RFC 6598, and the networks of test laboratories (RFC 2544).
            [10, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [100, 64..=127, ..]
            | [198, 18..=19, ..] => Private,
            [224..=239, ..] => Multicast,
            // The broadcast address among them.
            [240..=255, ..] => Reserved,
            _ => Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        match address.segments() {
            _ if METADATA_V6.contains(&address) => Metadata,
            [0xfd00, 0x0ec2, ..] => Metadata,
            [0, 0, 0, 0, 0, 0, 0, 0] => Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Loopback,
            // RFC 8215: NAT64 in a site's own layout, so the IPv4 address cannot be found.
            [0x64, 0xff9b, 1, ..] => Reserved,
            [0xfe80..=0xfebf, ..] => LinkLocal,
            [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Private,
            [0xff00..=0xffff, ..] => Multicast,
            _ => Public,
        }
    }

    /// For the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Public => "public",
            Private => "private",
            Loopback => "loopback",
            Unspecified => "unspecified",
            LinkLocal => "link_local",
            Metadata => "metadata",
            Multicast => "multicast",
            Reserved => "reserved",
        }
    }
}

/// An address and the IPv4 addresses in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readings {
    /// Canonical.
    pub(super) address: IpAddr,
    embedded: [Option<Ipv4Addr>; 3],
}

impl Readings {
    pub(super) fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let embedded = match address {
            IpAddr::V4(_) => [None; 3],
            IpAddr::V6(address) => embedded(address),
        };
        Self { address, embedded }
    }

    pub(super) fn embedded(self) -> impl Iterator<Item = IpAddr> {
        self.embedded.into_iter().flatten().map(IpAddr::V4)
    }

    pub(super) fn all(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.embedded())
    }
}

fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 3] {
    let octets = address.octets();
    let at = |index: usize| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|offset| octets[index + offset]);
        Some(Ipv4Addr::new(a, b, c, d))
    };
    let segments = address.segments();
    let [first, second] = match segments {
        // `::` and `::1` are older than the IPv4-compatible addresses around them.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // IPv4-compatible (RFC 4291 §2.5.5.1), IPv4-translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => [at(12), None],
        // 6to4 (RFC 3056).
        [0x2002, ..] => [at(2), None],
        // Teredo (RFC 4380): the server, and the client with its bits inverted.
        [0x2001, 0, ..] => {
            let client = at(12).map(|client| Ipv4Addr::from_bits(!client.to_bits()));
            [at(4), client]
        }
        _ => [None, None],
    };
    // ISATAP (RFC 5214 §6.1), below any prefix.
    let is_isatap = matches!(segments, [_, _, _, _, 0 | 0x0200, 0x5efe, ..]);
    [first, second, at(12).filter(|_| is_isatap)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn classes_end_where_their_networks_end() {
        let table = [
            ("0.0.0.0", Unspecified),
            ("0.255.255.255", Unspecified),
            ("1.0.0.0", Public),
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Private),
            ("100.100.100.199", Private),
            ("100.100.100.200", Metadata),
            ("100.127.255.255", Private),
            ("100.128.0.0", Public),
            ("126.255.255.255", Public),
            ("127.0.0.0", Loopback),
            ("127.255.255.255", Loopback),
            ("128.0.0.0", Public),
            ("168.63.129.15", Public),
            ("168.63.129.16", Metadata),
            ("169.253.255.255", Public),
            ("169.254.0.0", LinkLocal),
            ("169.254.169.254", LinkLocal),
            ("169.255.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.0.0.192", Metadata),
            ("192.167.255.255", Public),
            ("198.17.255.255", Public),
            ("198.18.0.0", Private),
            ("198.19.255.255", Private),
            ("198.20.0.0", Public),
            ("192.168.0.0", Private),
            ("192.169.0.0", Public),
            ("223.255.255.255", Public),
            ("224.0.0.0", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.0", Reserved),
            ("255.255.255.255", Reserved),
            ("::", Unspecified),
            ("::1", Loopback),
            ("64:ff9b:1::1", Reserved),
            ("64:ff9b:2::1", Public),
            ("2001:db8::1", Public),
            ("2600::1", Public),
            ("fbff::1", Public),
            ("fc00::", Private),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd00:ec3::254", Private),
            ("fd00:c1::a9fe:a9fe", Metadata),
            ("fd00:42::42", Metadata),
            ("fd20:ce::254", Metadata),
            ("fdff::1", Private),
            ("fe00::1", Public),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Private),
            ("ff02::1", Multicast),
        ];
        for (text, expected) in table {
            assert_eq!(Class::of(address(text)), expected, "{text}");
        }
    }

    #[test]
    fn hidden_ipv4_addresses_are_found() {
        let table: [(&str, &[&str]); 18] = [
            ("10.0.0.1", &["10.0.0.1"]),
            ("::ffff:10.0.0.1", &["10.0.0.1"]),
            ("::", &["::"]),
            ("::1", &["::1"]),
            ("::2", &["::2", "0.0.0.2"]),
            ("::10.0.0.1", &["::10.0.0.1", "10.0.0.1"]),
            ("::ffff:0:10.0.0.1", &["::ffff:0:10.0.0.1", "10.0.0.1"]),
            ("64:ff9b::a9fe:a9fe", &["64:ff9b::a9fe:a9fe", "169.254.169.254"]),
            ("64:ff9b::1:a9fe:a9fe", &["64:ff9b::1:a9fe:a9fe"]),
            ("2002:7f00:1::", &["2002:7f00:1::", "127.0.0.1"]),
            ("2002:a00:1:ffff::1", &["2002:a00:1:ffff::1", "10.0.0.1"]),
            ("2001:0:102:304::f5ff:fffe", &["2001:0:102:304::f5ff:fffe", "1.2.3.4", "10.0.0.1"]),
            ("2001:1:102:304::f5ff:fffe", &["2001:1:102:304::f5ff:fffe"]),
            ("2600::5efe:10.0.0.1", &["2600::5efe:10.0.0.1", "10.0.0.1"]),
            ("2600::200:5efe:10.0.0.1", &["2600::200:5efe:10.0.0.1", "10.0.0.1"]),
            ("2002:102:304::5efe:10.0.0.1", &["2002:102:304::5efe:a00:1", "1.2.3.4", "10.0.0.1"]),
            ("2600::5efd:10.0.0.1", &["2600::5efd:10.0.0.1"]),
            ("2001:db8::10.0.0.1", &["2001:db8::10.0.0.1"]),
        ];
        for (text, expected) in table {
            let readings: Vec<IpAddr> = Readings::of(address(text)).all().collect();
            let expected: Vec<IpAddr> = expected.iter().map(|text| address(text)).collect();
            assert_eq!(readings, expected, "{text}");
        }
    }
}
