//! How a line of the access log looks.
//!
//! In goes what is known of an exchange; out come bytes of one line, in one of several formats.
//! Bytes from the network are escaped, so that no request can forge a line or a field, or move a
//! terminal's cursor.

use std::fmt::Display;

use super::access_escape::{
    ESCAPED_BYTES_MAX, Known, Rfc3339, Room, VALUE_BYTES_MAX, Value, put, put_text_value, put_value,
};
use super::access_look::{Look, Shape, Style};
use super::access_record::{Phases, Record};
use crate::config::{AccessField, AccessPiece, AccessTemplate, Escape, FORMAT_BYTES_MAX};

/// Five values at least, each byte of which becomes six at most, and everything else.
pub(super) const LINE_BYTES_MAX: usize =
    5 * ESCAPED_BYTES_MAX * VALUE_BYTES_MAX + OWN_BYTES_MAX + 2048;

/// The text of a format, and the values that are our own.
const OWN_BYTES_MAX: usize = FORMAT_BYTES_MAX + 64 * 128;

/// Appends the line of an exchange.
pub(super) fn put_line(out: &mut Vec<u8>, look: &Look, record: &Record<'_>) {
    match &look.shape {
        Shape::Fields(style, further) => put_fields(out, *style, further, (look, record)),
        Shape::Pieces(template) => put_pieces(out, template, (look, record)),
    }
}

fn put_pieces(out: &mut Vec<u8>, template: &AccessTemplate, (look, record): (&Look, &Record<'_>)) {
    let start = out.len();
    let mut room = Room::new();
    for piece in &template.pieces {
        match piece {
            AccessPiece::Text(text) => out.extend_from_slice(text.as_bytes()),
            AccessPiece::Field(field, escape) => {
                let bytes_max = value_bytes_max(out.len() - start);
                put_value(out, *escape, record.value(field, look, &mut room), bytes_max);
            }
        }
    }
    out.push(b'\n');
}

/// How much of a value goes into a line that has `bytes` already.
fn value_bytes_max(bytes: usize) -> usize {
    let left = LINE_BYTES_MAX.saturating_sub(OWN_BYTES_MAX + bytes) / ESCAPED_BYTES_MAX;
    left.min(VALUE_BYTES_MAX)
}

fn put_fields(
    out: &mut Vec<u8>,
    style: Style,
    further: &[AccessField],
    (look, record): (&Look, &Record<'_>),
) {
    let Phases { head_us, pool_us, connect_us, first_byte_us, total_us } = record.phases;
    let mut line = Line { start: out.len(), out, style, is_begun: false };
    line.text("time", Some(Rfc3339(record.time)));
    line.text("client", Some(Known(record.client)));
    if let Some(peer) = record.peer {
        line.text("peer", Some(peer));
    }
    if let Some(tls) = record.tls {
        line.text("tls", Some(tls.version));
        line.value("sni", tls.sni.as_bytes());
    }
    if let Some(stream) = record.stream {
        line.text("http", Some("2"));
        line.figure("stream", stream);
    }
    line.value("method", record.method);
    line.value("host", record.host);
    line.value("target", record.target);
    line.figure("status", record.status);
    line.figure("bytes_in", record.bytes_in);
    line.figure("bytes_out", record.bytes_out);
    line.value("upstream", record.upstream.as_bytes());
    line.text("origin", record.origin);
    line.figure("reused", record.is_reused);
    if let Some(hedged) = record.hedged {
        line.text("hedged", Some(hedged));
    }
    line.figure("head_us", head_us);
    line.figure("pool_us", pool_us);
    line.figure("connect_us", connect_us);
    line.figure("first_byte_us", first_byte_us);
    line.figure("total_us", total_us);
    line.value("error", record.error.unwrap_or_default().as_bytes());
    if let Some(details) = record.details {
        line.value("details", details.as_bytes());
    }
    if style != Style::Text {
        line.value("route", record.route.as_bytes());
        line.value("version", record.version.as_bytes());
        line.value("user_agent", record.user_agent);
        line.value("referer", record.referer);
    }
    let mut room = Room::new();
    for field in further {
        line.further(field, (look, record), &mut room);
    }
    let end: &[u8] = if style == Style::Json { b"}\n" } else { b"\n" };
    out.extend_from_slice(end);
}

/// A line that is being written, in one of the styles.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    style: Style,
    is_begun: bool,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        self.begin_key();
        self.out.extend_from_slice(key.as_bytes());
        self.end_key();
    }

    fn begin_key(&mut self) {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        self.out.extend_from_slice(match (self.style, is_first) {
            (Style::Json, true) => b"{\"",
            (Style::Json, false) => b",\"",
            (_, true) => b"",
            (_, false) => b" ",
        });
    }

    fn end_key(&mut self) {
        let end: &[u8] = if self.style == Style::Json { b"\":" } else { b"=" };
        self.out.extend_from_slice(end);
    }

    /// What may have come from the network.
    fn value(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        match self.style {
            Style::Json => put_value(self.out, Escape::Json, Value::of(value), VALUE_BYTES_MAX),
            _ => put_text_value(self.out, value, VALUE_BYTES_MAX),
        }
    }

    /// One that the configuration has added.
    fn further(&mut self, field: &AccessField, about: (&Look, &Record<'_>), room: &mut Room) {
        let bytes_max = value_bytes_max(self.out.len() - self.start);
        self.begin_key();
        put(self.out, format_args!("{field}"));
        self.end_key();
        let value = about.1.value(field, about.0, room);
        match (self.style, value) {
            (Style::Json, value) => put_value(self.out, Escape::Json, value, bytes_max),
            (_, Value::Text(text) | Value::Figure(text)) => {
                put_text_value(self.out, text, bytes_max);
            }
            (_, Value::Nothing) => self.out.push(b'-'),
            (_, value @ Value::Words(_)) => {
                self.out.push(b'"');
                put_value(self.out, Escape::Quoted(b'"'), value, bytes_max);
                self.out.push(b'"');
            }
        }
    }

    /// A number or a truth value, which are the same in both formats.
    fn figure(&mut self, key: &str, value: impl Display) {
        self.key(key);
        put(self.out, format_args!("{value}"));
    }

    /// Text of our own, in which nothing is to be escaped.
    fn text(&mut self, key: &str, value: Option<impl Display>) {
        self.key(key);
        match (self.style, value) {
            (Style::Json, Some(value)) => put(self.out, format_args!("\"{value}\"")),
            (Style::Json, None) => self.out.extend_from_slice(b"null"),
            (_, Some(value)) => put(self.out, format_args!("{value}")),
            (_, None) => self.out.push(b'-'),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::address::PeerAddress;
    use crate::observe::access_notes::{Noted, Notes};
    pub(crate) use crate::observe::invariants::record;
    use crate::tls::facts::TlsFacts;

    pub(crate) fn look(format: &str, fields: &[&str]) -> Look {
        let text = serde_json::json!({ "access_format": format, "access_fields": fields });
        Look::new(&serde_json::from_value(text).unwrap())
    }

    fn line(look: &Look, record: &Record<'_>) -> String {
        let mut line = Vec::new();
        put_line(&mut line, look, record);
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        String::from_utf8(line).unwrap()
    }

    pub(crate) fn text(record: &Record<'_>) -> String {
        line(&look("text", &[]), record)
    }

    fn json(record: &Record<'_>) -> serde_json::Value {
        serde_json::from_str(&line(&look("json", &[]), record)).unwrap()
    }

    #[test]
    fn a_text_line_has_every_field() {
        assert_eq!(
            text(&record()),
            "time=2026-01-02T03:04:05.678Z client=192.0.2.1:5555 method=GET \
             host=example.org:8000 target=/a status=200 bytes_in=78 bytes_out=1234 \
             upstream=demo origin=[::1]:8080 reused=true head_us=1 pool_us=2 connect_us=3 \
             first_byte_us=4 total_us=5 error=-\n"
        );
    }

    #[test]
    fn a_json_line_has_every_field() {
        assert_eq!(
            json(&Record { origin: None, error: Some("timeout"), ..record() }),
            serde_json::json!({
                "time": "2026-01-02T03:04:05.678Z", "client": "192.0.2.1:5555",
                "method": "GET", "host": "example.org:8000", "target": "/a", "status": 200,
                "bytes_in": 78, "bytes_out": 1234, "upstream": "demo", "origin": null,
                "reused": true, "head_us": 1, "pool_us": 2, "connect_us": 3,
                "first_byte_us": 4, "total_us": 5, "error": "timeout", "route": "*/a",
                "version": "HTTP/1.1", "user_agent": "curl/8", "referer": null,
            })
        );
    }

    #[test]
    fn a_line_of_a_connection_with_tls_says_which_and_for_what_name() {
        let mut facts = TlsFacts::default();
        (facts.version, facts.sni) = ("TLSv1.3", "a.test".to_owned());
        let line = text(&Record { tls: Some(&facts), ..record() });
        assert!(line.contains(":5555 tls=TLSv1.3 sni=a.test method=GET"), "{line}");
        facts.sni.clear();
        let line = json(&Record { tls: Some(&facts), ..record() });
        assert_eq!(line["tls"], "TLSv1.3");
        assert_eq!(line["sni"], serde_json::Value::Null);
    }

    #[test]
    fn every_byte_makes_valid_json() {
        let all: Vec<u8> = (0..=255).collect();
        let value = json(&Record { target: &all, host: b"", ..record() });
        assert!(value["target"].as_str().unwrap().starts_with("\0\u{1}"));
        assert!(value["target"].as_str().unwrap().ends_with('\u{fffd}'));
        assert_eq!(value["host"], serde_json::Value::Null);
        assert_eq!(json(&Record { target: "/é\"\\".as_bytes(), ..record() })["target"], "/é\"\\");
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = vec![b'a'; VALUE_BYTES_MAX + 1];
        assert!(text(&Record { target: &long, ..record() }).contains("aaa...\" status="));
        let value = json(&Record { target: &long, ..record() });
        assert_eq!(value["target"].as_str().unwrap().len(), VALUE_BYTES_MAX + 3);
    }

    fn combined(record: &Record<'_>) -> String {
        line(&look("combined", &[]), record)
    }

    #[test]
    fn the_combined_format_is_that_of_other_servers() {
        assert_eq!(
            combined(&record()),
            "192.0.2.1 - - [02/Jan/2026:03:04:05 +0000] \"GET /a HTTP/1.1\" 200 1234 \"-\" \
             \"curl/8\"\n"
        );
        let refused = Record { method: b"", target: b"", status: 400, ..record() };
        assert!(combined(&refused).contains("] \"-\" 400 1234 "), "{}", combined(&refused));
    }

    #[test]
    fn a_logfmt_line_has_route_and_agent() {
        let line = line(&look("logfmt", &[]), &record());
        assert!(line.starts_with("time=2026-01-02T03:04:05.678Z client="), "{line}");
        assert!(
            line.ends_with(" route=*/a version=HTTP/1.1 user_agent=curl/8 referer=-\n"),
            "{line}"
        );
    }

    #[test]
    fn no_value_ends_a_quote_or_a_line_in_any_format() {
        let hostile = b"a\" 200 0\n127.0.0.1 - - \x1b[2J\xe2\x80\xae\\";
        let record = Record {
            method: hostile,
            host: hostile,
            target: hostile,
            user_agent: hostile,
            referer: hostile,
            ..record()
        };
        for format in ["text", "json", "logfmt", "combined", OWN, OWN_JSON] {
            let line = line(&look(format, &[]), &record);
            assert!(!line.contains('\x1b'), "{format}");
            assert!(line.is_ascii() || format.contains("json") || format == OWN_JSON, "{format}");
        }
        let line = combined(&record);
        let bare = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(bare.matches('"').count(), 6, "{line}");
    }

    const OWN: &str = "{client_ip}|{host}|{user} \"{request}\" {status} [{time_clf}] {total_s}";
    const OWN_JSON: &str = r#"{{"t":{time_unix},"what":"{method} {target}","ua":{user_agent}}}"#;

    #[test]
    fn a_format_of_ones_own_is_a_line_of_its_pieces() {
        let mut notes = Notes::default();
        notes.put(Noted::User, b"ann|bob");
        let record = Record { notes: &notes, ..record() };
        assert_eq!(
            line(&look(OWN, &[]), &record),
            "192.0.2.1|example.org:8000|ann|bob \"GET /a HTTP/1.1\" 200 \
             [02/Jan/2026:03:04:05 +0000] 0.000005\n"
        );
        let hostile = Record { user_agent: b"\"}\n{", target: b"/\"", ..record };
        let value: serde_json::Value =
            serde_json::from_str(&line(&look(OWN_JSON, &[]), &hostile)).unwrap();
        let expected = serde_json::json!({
            "t": 1_767_323_045.678, "what": "GET /\"", "ua": "\"}\n{",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn further_fields_stand_behind_those_of_a_preset_and_none_twice() {
        let mut notes = Notes::default();
        notes.put(Noted::User, b"a b");
        notes.put(Noted::ResponseHeader(0), b"\"1\"");
        let record = Record { notes: &notes, retries: 2, ..record() };
        let fields =
            ["status", "user", "retries", "request_id", "user", "response.header.ETag", "request"];
        let shown = line(&look("text", &fields), &record);
        assert!(
            shown.ends_with(
                " error=- user=\"a b\" retries=2 request_id=- response.header.etag=\"\\\"1\\\"\" \
                 request=\"GET /a HTTP/1.1\"\n"
            ),
            "{shown}"
        );
        let shown = line(&look("json", &fields), &record);
        assert_eq!(shown.matches("\"user\":").count(), 1, "{shown}");
        let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["retries"], 2);
        assert_eq!(value["response.header.etag"], "\"1\"");
        assert_eq!(value["request_id"], serde_json::Value::Null);
    }

    #[test]
    fn every_field_has_its_place_in_a_line() {
        let mut facts = TlsFacts::default();
        (facts.version, facts.cipher, facts.sni) = ("TLSv1.3", "C".to_owned(), "a.test".to_owned());
        let peer = "192.0.2.9:1".parse().unwrap();
        let record = Record {
            peer: Some(PeerAddress::Ip(peer)),
            tls: Some(&facts),
            stream: Some(3),
            target: b"/a?b=c",
            arm: "canary",
            hedged: Some("won"),
            details: Some("d"),
            error: Some("e"),
            ..record()
        };
        for (name, expected) in [
            ("time", "2026-01-02T03:04:05.678Z"),
            ("time_unix", "1767323045.678"),
            ("client", "192.0.2.1:5555"),
            ("client_port", "5555"),
            ("peer", "192.0.2.9:1"),
            ("scheme", "https"),
            ("path", "/a"),
            ("query", "b=c"),
            ("route", "*/a"),
            ("arm", "canary"),
            ("origin", "[::1]:8080"),
            ("reused", "true"),
            ("hedged", "won"),
            ("stream", "3"),
            ("tls_version", "TLSv1.3"),
            ("tls_cipher", "C"),
            ("tls_sni", "a.test"),
            ("tls_client_verified", "false"),
            ("tls_client_subject", "-"),
            ("first_byte_us", "4"),
            ("memory_peak", "4096"),
            ("error", "e"),
            ("details", "d"),
            ("request.header.x-a", "-"),
        ] {
            let shown = line(&look(&format!("{{{name}}}"), &[]), &record);
            assert_eq!(shown.trim_end(), expected, "{name}");
        }
    }

    #[test]
    fn the_longest_line_of_any_format_stays_within_its_room() {
        let many: Vec<String> = (0..64).map(|at| format!("{{request.header.x-{at}}}")).collect();
        let format = many.join("|");
        let mut notes = Notes::default();
        for number in 0..64 {
            notes.put(Noted::RequestHeader(number), &[1; 3000]);
        }
        let record = Record { notes: &notes, ..record() };
        assert!(line(&look(&format, &[]), &record).len() <= LINE_BYTES_MAX);
        let fields: Vec<String> = (0..64).map(|at| format!("request.header.x-{at}")).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let escaped = [1; 5_000];
        let record = Record {
            method: &escaped,
            host: &escaped,
            target: &escaped,
            user_agent: &escaped,
            referer: &escaped,
            ..record
        };
        assert!(line(&look("json", &fields), &record).len() <= LINE_BYTES_MAX);
    }
}
