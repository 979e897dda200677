//! What holds for any format of the access log and for any values: the check behind a fuzz target.
//!
//! In go a format and values from the network; the check panics where a line is not one line, moves
//! a terminal's cursor, or is no JSON where it says it is. Nothing here runs in the proxy.

use std::time::{Duration, UNIX_EPOCH};

use super::access_line::put_line;
use super::access_look::Look;
use super::access_notes::Notes;
use super::access_record::{Phases, Record};
use crate::address::PeerAddress;
use crate::config::LogConfig;

static NO_NOTES: Notes = Notes::none();

/// An exchange of which nothing is remarkable.
pub(crate) fn record<'a>() -> Record<'a> {
    Record {
        time: UNIX_EPOCH + Duration::from_millis(1_767_323_045_678),
        client: PeerAddress::Ip(([192, 0, 2, 1], 5555).into()),
        peer: None,
        tls: None,
        stream: None,
        method: b"GET",
        host: b"example.org:8000",
        target: b"/a",
        status: 200,
        bytes_in: 78,
        bytes_out: 1234,
        upstream: "demo",
        origin: "[::1]:8080".parse().ok(),
        is_reused: true,
        hedged: None,
        phases: Phases { head_us: 1, pool_us: 2, connect_us: 3, first_byte_us: 4, total_us: 5 },
        error: None,
        details: None,
        route: "*/a",
        version: "HTTP/1.1",
        user_agent: b"curl/8",
        referer: b"",
        arm: "",
        retries: 0,
        memory_peak: 4096,
        trace: None,
        notes: &NO_NOTES,
    }
}

/// The first line is a format, or the name of one, and the rest are a method, a host, a target and
/// a client's name for itself, with a 0xff between each two.
pub(crate) fn access_line(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (format, rest) = input.split_at(end);
    let Ok(format) = std::str::from_utf8(format) else { return };
    let mut values = rest.get(1..).unwrap_or_default().split(|byte| *byte == 0xff);
    let mut value = || values.next().unwrap_or_default();
    let record = Record {
        method: value(),
        host: value(),
        target: value(),
        user_agent: value(),
        referer: value(),
        ..record()
    };
    let text = serde_json::json!({ "access_format": format });
    let Ok(config) = serde_json::from_value::<LogConfig>(text) else { return };
    let mut line = Vec::new();
    put_line(&mut line, &Look::new(&config), &record);
    let line = std::str::from_utf8(&line).expect("text");
    let line = line.strip_suffix('\n').expect("a line has an end");
    let is_plain = |letter: char| letter == '\t' || !letter.is_control();
    assert!(line.chars().all(is_plain), "{line:?}");
    if format == "json" || format.starts_with("{{") {
        let read = serde_json::from_str::<serde_json::Value>(line);
        assert!(read.is_ok(), "{line}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_every_shape_hold_hostile_values() {
        let evil = b"G\"\nET\xff\x1b[2Ja\xff/\\\"}{\r\n\0\xc2\x9b\xffx\ny\xff-";
        for format in [
            "text",
            "json",
            "logfmt",
            "combined",
            "{method}|{target} \"{host}\" [{user_agent}]",
            r#"{{"a":{target},"b":"{host} {user_agent}"}}"#,
        ] {
            access_line(&[format.as_bytes(), b"\n", evil].concat());
        }
    }

    // A failure is kept as a test with a name, not as a file of seeds.
    fn rules() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(rules())]

        #[test]
        fn any_values_make_a_line(bytes: Vec<u8>) {
            access_line(&[b"json\n", &bytes[..]].concat());
            access_line(&[b"{target} {host}\n", &bytes[..]].concat());
        }
    }
}
