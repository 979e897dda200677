//! The bytes of values, as a line of the access log has them.
//!
//! In go values, most of which come from the network; out come bytes that end neither a field nor
//! a quote nor a line, and move no terminal's cursor. Times are written here too. It never knows
//! which field a value is of.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::address::PeerAddress;
use crate::config::Escape;
use crate::observe::date;

/// Longer values from the network are cut.
pub(super) const VALUE_BYTES_MAX: usize = 2048;

/// The most bytes that one becomes: `\u001f`.
pub(super) const ESCAPED_BYTES_MAX: usize = 6;

/// What a field has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Nothing,
    Text(&'a [u8]),
    /// With a space between each two.
    Words([&'a [u8]; 3]),
    /// A number or a truth value, which JSON has without quotes.
    Figure(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        if text.is_empty() { Self::Nothing } else { Self::Text(text) }
    }
}

/// Appends a value where `escape` says it stands, cut to `bytes_max` of its bytes.
pub(super) fn put_value(out: &mut Vec<u8>, escape: Escape, value: Value<'_>, bytes_max: usize) {
    let words = match value {
        Value::Nothing => {
            return out.extend_from_slice(match escape {
                Escape::Json => b"null",
                Escape::JsonText => b"",
                Escape::Bare(_) | Escape::Quoted(_) => b"-",
            });
        }
        Value::Figure(text) if escape == Escape::Json => return out.extend_from_slice(text),
        Value::Text(text) | Value::Figure(text) => [text, b"", b""],
        Value::Words(words) => words,
    };
    if escape == Escape::Json {
        out.push(b'"');
    }
    let mut left = bytes_max;
    for (index, word) in words.into_iter().enumerate() {
        if index > 0 && !word.is_empty() {
            put_part(out, escape, b" ");
        }
        let (word, rest) = word.split_at(word.len().min(left));
        left -= word.len();
        // What stands for nothing is no value.
        if word == b"-" && rest.is_empty() && matches!(escape, Escape::Bare(_)) {
            out.extend_from_slice(b"\\x2d");
        } else {
            put_part(out, escape, word);
        }
        if !rest.is_empty() {
            put_part(out, escape, b"...");
            break;
        }
    }
    if escape == Escape::Json {
        out.push(b'"');
    }
}

fn put_part(out: &mut Vec<u8>, escape: Escape, part: &[u8]) {
    match escape {
        Escape::Json | Escape::JsonText => put_json_escaped(out, part),
        Escape::Bare(end) => {
            for byte in part {
                let is_plain = byte.is_ascii_graphic() && !b"\"\\".contains(byte) && *byte != end;
                put_byte(out, *byte, is_plain);
            }
        }
        Escape::Quoted(end) => {
            for byte in part {
                match byte {
                    b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                    byte => put_byte(out, *byte, matches!(byte, b' '..=b'~') && *byte != end),
                }
            }
        }
    }
}

/// As it is, or as `\xNN`.
fn put_byte(out: &mut Vec<u8>, byte: u8, is_plain: bool) {
    if is_plain { out.push(byte) } else { put(out, format_args!("\\x{byte:02x}")) }
}

pub(super) fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // Writing to a Vec does not fail.
    let _ = out.write_fmt(text);
}

/// As it is when that cannot be misread, else in quotes with `\xNN` for what is not printable
/// ASCII. An empty value is `-`.
pub(super) fn put_text_value(out: &mut Vec<u8>, value: &[u8], bytes_max: usize) {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\=".contains(byte);
    if value.is_empty() {
        return out.push(b'-');
    }
    if value.len() <= bytes_max && value != b"-" && value.iter().all(is_plain) {
        return out.extend_from_slice(value);
    }
    out.push(b'"');
    put_value(out, Escape::Quoted(b'"'), Value::Text(value), bytes_max);
    out.push(b'"');
}

/// What stands in a JSON string. Bytes that are not UTF-8 become U+FFFD, because JSON has no other
/// place for them. JSON would have let the control characters beyond ASCII stand, one of which is a
/// terminal's escape, and the two that some readers end a line at.
fn put_json_escaped(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\\' => out.extend_from_slice(&[b'\\', letter as u8]),
                '\u{2028}' | '\u{2029}' => put(out, format_args!("\\u{:04x}", letter as u32)),
                _ if letter.is_control() => put(out, format_args!("\\u{:04x}", letter as u32)),
                _ => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Where a value of our own is put together: the longest is the path of a Unix socket.
pub(super) struct Room {
    bytes: [u8; 128],
    length: usize,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { bytes: [0; 128], length: 0 }
    }

    /// The value as text, as far as there is room.
    pub(super) fn show(&mut self, value: impl Display) -> &[u8] {
        self.length = 0;
        // It is full, and what has room is shown.
        let _ = write!(self, "{value}");
        &self.bytes[..self.length]
    }
}

impl fmt::Write for Room {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = &mut self.bytes[self.length..];
        let count = text.len().min(free.len());
        free[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        if count < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// With the port, where that is known.
pub(super) struct Known(pub PeerAddress);

impl Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PeerAddress::Ip(known) if known.port() == 0 => known.ip().fmt(f),
            address => address.fmt(f),
        }
    }
}

/// In UTC with milliseconds.
pub(super) struct Rfc3339(pub SystemTime);

impl Display for Rfc3339 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = date::civil(seconds / 86_400);
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            since.subsec_millis()
        )
    }
}

/// As the common log format has it, in UTC.
pub(super) struct ClfTime(pub SystemTime);

impl Display for ClfTime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let seconds = self.0.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (year, month, day) = date::civil(seconds / 86_400);
        write!(
            out,
            "{day:02}/{}/{year:04}:{:02}:{:02}:{:02} +0000",
            MONTHS[(month as usize).clamp(1, 12) - 1],
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_value_cannot_forge_a_field_or_a_line() {
        let table: [(&[u8], &str); 9] = [
            (b"/x?y=1", "\"/x?y=1\""),
            (b"", "-"),
            (b"-", "\"-\""),
            (b"/a b", "\"/a b\""),
            (b"/\" status=200", "\"/\\\" status=200\""),
            (b"/\r\ntime=0", "\"/\\x0d\\x0atime=0\""),
            (b"/\x1b[2J\x9b\x7f", "\"/\\x1b[2J\\x9b\\x7f\""),
            (b"/\\x0a", "\"/\\\\x0a\""),
            ("/é".as_bytes(), "\"/\\xc3\\xa9\""),
        ];
        for (value, expected) in table {
            let mut shown = Vec::new();
            put_text_value(&mut shown, value, VALUE_BYTES_MAX);
            assert_eq!(String::from_utf8(shown).unwrap(), expected);
        }
    }

    #[test]
    fn no_control_character_beyond_ascii_stands_in_json() {
        for escape in [Escape::Json, Escape::JsonText] {
            let mut line = Vec::new();
            let value = "a\u{9b}2J\u{85}\u{2028}\u{2029}\u{7f}é".as_bytes();
            put_value(&mut line, escape, Value::Text(value), VALUE_BYTES_MAX);
            let line = String::from_utf8(line).unwrap();
            let line = line.trim_matches('"');
            assert_eq!(line, r"a\u009b2J\u0085\u2028\u2029\u007fé");
            let read: String = serde_json::from_str(&format!("\"{line}\"")).unwrap();
            assert_eq!(read.as_bytes(), value);
        }
    }

    #[test]
    fn a_value_ends_where_its_place_does_and_nowhere_else() {
        let hostile = b"a b|\"\\]\n\xc3\xa9";
        let table = [
            (Escape::Bare(b'|'), r"a\x20b\x7c\x22\x5c]\x0a\xc3\xa9"),
            (Escape::Bare(b' '), r"a\x20b|\x22\x5c]\x0a\xc3\xa9"),
            (Escape::Quoted(b'"'), r#"a b|\"\\]\x0a\xc3\xa9"#),
            (Escape::Quoted(b']'), r#"a b|\"\\\x5d\x0a\xc3\xa9"#),
            (Escape::Quoted(b' '), r#"a\x20b|\"\\]\x0a\xc3\xa9"#),
            (Escape::Json, "\"a b|\\\"\\\\]\\u000aé\""),
            (Escape::JsonText, "a b|\\\"\\\\]\\u000aé"),
        ];
        for (escape, expected) in table {
            let mut out = Vec::new();
            put_value(&mut out, escape, Value::Text(hostile), 100);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{escape:?}");
        }
    }

    #[test]
    fn nothing_is_told_from_a_dash_and_what_is_too_long_is_cut() {
        let table = [
            (Escape::Bare(b' '), Value::Nothing, "-"),
            (Escape::Bare(b' '), Value::Text(b"-"), "\\x2d"),
            (Escape::Json, Value::Nothing, "null"),
            (Escape::Json, Value::Figure(b"7"), "7"),
            (Escape::Json, Value::Text(b"7"), "\"7\""),
            (Escape::JsonText, Value::Nothing, ""),
            (Escape::Quoted(b'"'), Value::Words([b"GET", b"/a", b"HTTP/1.1"]), "GET /..."),
            (Escape::Bare(b' '), Value::Words([b"A", b"/", b""]), "A\\x20/"),
        ];
        for (escape, value, expected) in table {
            let mut out = Vec::new();
            put_value(&mut out, escape, value, 4);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{value:?}");
        }
        let mut room = Room::new();
        assert_eq!(room.show("a".repeat(200)).len(), 128);
        assert_eq!(room.show(1), b"1");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let table = [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_088, (2024, 12, 31)),
            (47_541, (2100, 3, 1)),
        ];
        for (days, date) in table {
            assert_eq!(date::civil(days), date, "{days}");
        }
    }
}
