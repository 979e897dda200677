//! Values of other programs' files, spelled as ringway's.
//!
//! In go times, sizes, networks and names; out come the texts of the keys, or nothing where there
//! is no such value. Nothing is known here of any directive.

use std::net::IpAddr;

/// A day: no timeout of ringway's is longer.
const DAY_MS: u64 = 86_400_000;

/// As nginx and haproxy have them: "60", "1m30s", "500ms". The first number has `unit_ms` where
/// none is written. In milliseconds.
pub(super) fn millis(text: &str, unit_ms: u64) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" => unit_ms,
            "us" => return Some((number / 1_000).max(1)),
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS,
            "w" => 7 * DAY_MS,
            "M" => 30 * DAY_MS,
            "y" => 365 * DAY_MS,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        rest = rest[letters..].trim_start();
    }
    (!text.is_empty()).then_some(sum)
}

/// A time as ringway has it, at most a day.
pub(super) fn time(ms: u64) -> String {
    let ms = ms.clamp(1, DAY_MS);
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

/// "1m", "512k" and "2g" of nginx, in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit).filter(|bytes| i64::try_from(*bytes).is_ok())
}

/// A size as ringway has it.
pub(super) fn size(bytes: u64) -> serde_json::Value {
    for (unit, name) in [(1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit).into();
        }
    }
    bytes.into()
}

/// An address or a network, as a network without bits behind its prefix.
pub(super) fn network(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }));
    }
    text.parse::<ipnet::IpNet>().ok().map(|network| network.trunc().to_string())
}

/// A name for an upstream, made of another text.
pub(super) fn name(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = text.chars().map(|c| if is_plain(c) { c } else { '-' }).take(56).collect();
    if name.is_empty() { "upstream".to_owned() } else { name }
}

/// Whether a route may have it as its host.
pub(super) fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_label = |label: &str| (1..=63).contains(&label.len());
    name.len() <= 253
        && name.bytes().all(is_plain)
        && name.split('.').all(is_label)
        && !name.starts_with('_')
}

/// Whether it may be a route's path.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_networks_are_read_as_they_are_meant() {
        for (text, expected) in [
            ("60", Some(60_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1h 5s", Some(3_605_000)),
            ("", None),
            ("x", None),
            ("99999999999999999999", None),
            ("5q", None),
        ] {
            assert_eq!(millis(text, 1_000), expected, "{text}");
        }
        assert_eq!(
            (time(90_000), time(1_500), time(u64::MAX)),
            ("90s".into(), "1500ms".into(), "86400s".into())
        );
        assert_eq!(
            (bytes("10m"), bytes("1k"), bytes("7"), bytes("m")),
            (Some(10 << 20), Some(1024), Some(7), None)
        );
        assert_eq!(size(10 << 20), "10MiB");
        assert_eq!(network("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("::1").as_deref(), Some("::1/128"));
        assert_eq!(network("all"), None);
    }
}
