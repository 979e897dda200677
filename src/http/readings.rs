//! What a path may mean to those who read it next: origins differ in what they decode, and when.
//!
//! In goes a path; out come the paths that common servers and frameworks make of it: percent codes
//! read once or several times, overlong and wide characters folded, `;` parameters cut off before
//! or after that (Tomcat, Jetty), a backslash taken for a slash (IIS), an end at a NUL, a control
//! byte or an encoded question mark, white space and dots at the end of a name dropped (Windows),
//! slashes counted or merged. Case is never folded. Which of them matter is for `routing` to say.

use std::collections::BTreeSet;

use super::path::{Slashes, encoded, normal, resolved, unreserved};

/// One of the paths that a path may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reading {
    /// Decoded; slashes are merged.
    pub path: Vec<u8>,
    pub kind: ReadingKind,
}

/// How its segments are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReadingKind {
    /// As in the normal form, of which it differs by what separates, ends or encodes.
    Usual,
    /// Several slashes in a row were not one while dot segments were resolved.
    Counted,
    /// Dot segments are still there: some readers know of none.
    Literal,
}

/// Codes within codes within codes: nobody decodes so often.
const DEPTH_MAX: usize = 4;

/// What all readings of a path take together, in bytes that are looked at.
const WORK_BYTES_MAX: usize = 256 * 1024;

/// The readings of `path`, which begins with a slash and has no query. `None`: there are more than
/// anybody could have meant.
pub(crate) fn readings(path: &[u8]) -> Option<BTreeSet<Reading>> {
    let mut bases = BTreeSet::from([unreserved(path), normal(path)]);
    if path.contains(&b';') {
        bases.insert(unreserved(&without_parameters(path)));
    }
    for depth in 0.. {
        let decoded: Vec<_> = bases.iter().flat_map(|base| decodings(base)).collect();
        let before = bases.len();
        bases.extend(decoded);
        if bases.len() == before {
            break;
        }
        if depth == DEPTH_MAX || bases.len() * path.len() > WORK_BYTES_MAX {
            return None;
        }
    }
    let mut readings = BTreeSet::new();
    let mut work = 0;
    for base in bases {
        for text in variants(base) {
            work += 3 * text.len();
            if work > WORK_BYTES_MAX {
                return None;
            }
            let path = resolved(&text, Slashes::Merged);
            readings.insert(Reading { path, kind: ReadingKind::Usual });
            let path = merged(&resolved(&text, Slashes::Counted));
            readings.insert(Reading { path, kind: ReadingKind::Counted });
            readings.insert(Reading { path: merged(&text), kind: ReadingKind::Literal });
        }
    }
    Some(readings)
}

/// `base`, and what is left of it where other bytes than slashes end or separate.
fn variants(base: Vec<u8>) -> BTreeSet<Vec<u8>> {
    let mut texts = BTreeSet::from([base]);
    let mut add = |applies: fn(u8) -> bool, change: fn(&[u8]) -> Vec<u8>| {
        let changed: Vec<_> = texts
            .iter()
            .filter(|text| text.iter().any(|byte| applies(*byte)))
            .map(|text| change(text))
            .collect();
        texts.extend(changed);
    };
    add(|byte| byte == b'\\', |text| text.iter().map(|byte| slash_of(*byte)).collect());
    add(|byte| byte == b';', without_parameters);
    add(is_end, |text| {
        text[..text.iter().position(|byte| is_end(*byte)).unwrap_or(text.len())].to_vec()
    });
    // A reader that drops such bytes, rather than to end there.
    add(is_control, |text| text.iter().copied().filter(|byte| !is_control(*byte)).collect());
    add(is_trimmed, without_tails);
    texts
}

fn slash_of(byte: u8) -> u8 {
    if byte == b'\\' { b'/' } else { byte }
}

fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}

fn is_end(byte: u8) -> bool {
    is_control(byte) || byte == b'?' || byte == b'#'
}

/// What some readers do not count at the end of a name; 0x85 and 0xa0 are white space in Latin-1.
fn is_trimmed(byte: u8) -> bool {
    matches!(byte, b' ' | b'.' | 0x85 | 0xa0)
}

/// Each segment without what stands at its end and does not count.
fn without_tails(text: &[u8]) -> Vec<u8> {
    let segments = text.split(|byte| *byte == b'/').map(|segment| {
        let is_space = |byte: &u8| is_trimmed(*byte) && *byte != b'.';
        let spaces = segment.iter().rev().take_while(|byte| is_space(byte)).count();
        let plain = &segment[..segment.len() - spaces];
        // Dots alone are a name of their own.
        let name = plain.iter().rposition(|byte| !is_trimmed(*byte)).map(|last| last + 1);
        name.map_or(plain, |end| &plain[..end])
    });
    segments.collect::<Vec<_>>().join(&b'/')
}

/// Each segment up to its first semicolon.
fn without_parameters(text: &[u8]) -> Vec<u8> {
    let mut is_parameter = false;
    let is_kept = |byte: &u8| {
        is_parameter = match byte {
            b';' => true,
            b'/' => false,
            _ => is_parameter,
        };
        !is_parameter
    };
    text.iter().copied().filter(is_kept).collect()
}

/// `text` with one slash for several.
fn merged(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    out.dedup_by(|next, before| (*next, *before) == (b'/', b'/'));
    out
}

/// `text` with its codes read once, strictly and leniently; what has none gives itself.
fn decodings(text: &[u8]) -> [Vec<u8>; 2] {
    let (mut strict, mut lenient) = (Vec::new(), Vec::new());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(byte) = encoded(first, behind) {
            strict.push(byte);
            lenient.push(byte);
            rest = &behind[2..];
        } else if let Some(byte) = wide(first, behind) {
            strict.extend_from_slice(&rest[..6]);
            lenient.push(byte);
            rest = &behind[5..];
        } else {
            strict.push(first);
            lenient.push(first);
            rest = behind;
        }
    }
    [strict, folded(&lenient)]
}

/// `%u002f`, as IIS reads it; of other planes, what folds to ASCII.
fn wide(first: u8, behind: &[u8]) -> Option<u8> {
    let (b'%', [b'u' | b'U', digits @ ..]) = (first, behind) else { return None };
    let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
    let code = u32::from_str_radix(digits, 16).ok()?;
    match code {
        0..=0x7f => Some(code as u8),
        // The full-width forms.
        0xff01..=0xff5e => Some((code - 0xff00 + 0x20) as u8),
        _ => None,
    }
}

/// ASCII in sequences that are longer than it needs, or in its full width, as plain ASCII.
fn folded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (byte, length) = match *rest {
            [] => return out,
            [first @ (0xc0 | 0xc1), next @ 0x80..=0xbf, ..] => ((first & 1) << 6 | next & 0x3f, 2),
            [0xe0, middle @ (0x80 | 0x81), next @ 0x80..=0xbf, ..] => {
                ((middle & 1) << 6 | next & 0x3f, 3)
            }
            [0xf0, 0x80, middle @ (0x80 | 0x81), next @ 0x80..=0xbf, ..] => {
                ((middle & 1) << 6 | next & 0x3f, 4)
            }
            [0xef, 0xbc, next @ 0x81..=0xbf, ..] => (next - 0x80 + 0x20, 3),
            [0xef, 0xbd, next @ 0x80..=0x9e, ..] => (next - 0x80 + 0x60, 3),
            [first, ..] => (first, 1),
        };
        out.push(byte);
        rest = &rest[length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads_as(path: &str, meant: &str) {
        let found = readings(path.as_bytes()).unwrap();
        let is_meant = |reading: &Reading| {
            reading.path == meant.as_bytes() && reading.kind != ReadingKind::Literal
        };
        assert!(found.iter().any(is_meant), "{path}: {found:?}");
    }

    #[test]
    fn every_common_reading_of_a_path_is_found() {
        let spellings = [
            "/admin",
            "//admin",
            "/./admin",
            "/x/../admin",
            "/x//..//admin",
            "/%61dmin",
            "/%2561dmin",
            "/%252561dmin",
            "/x/%2e%2e/admin",
            "/x/%252e%252e/admin",
            "/x%2f..%2fadmin",
            "/x%252f..%252fadmin",
            "/x/..%5cadmin",
            "/x\\..\\admin",
            "/\\admin",
            "/%5cadmin",
            "/%2fadmin",
            "/admin;x",
            "/admin;x=y;z",
            "/admin%3bx",
            "/;/admin",
            "/x/..;/admin",
            "/x/..;a=b/admin",
            "/x/%2e%2e;/admin",
            "/admin%00",
            "/admin%00.html",
            "/ad%00min",
            "/admin%3f",
            "/admin%3fx",
            "/admin%23x",
            "/admin%20",
            "/admin.",
            "/admin%0a",
            "/admin%09",
            "/admin%c2%85",
            "/%c0%afadmin",
            "/x/%c0%ae%c0%ae/admin",
            "/x/%e0%80%ae%e0%80%ae/admin",
            "/%ef%bc%8fadmin",
            "/x/..%u002fadmin",
            "/%u0061dmin",
            "/%uff41dmin",
            "/x;%2f../admin",
            "/x%3b/../admin",
        ];
        for path in spellings {
            match path {
                "/admin%c2%85" => reads_as("/admin%85", "/admin"),
                path => reads_as(path, "/admin"),
            }
        }
        // Those who do not merge slashes before they look for dots.
        reads_as("/admin//../x", "/admin/x");
        reads_as("/admin/../x", "/x");
    }

    #[test]
    fn another_path_stays_another() {
        for path in ["/ADMIN", "/administrator", "/x%2fadmin", "/adm;in", "/admi%6", "/x/admin"] {
            let found = readings(path.as_bytes()).unwrap();
            assert!(!found.iter().any(|reading| reading.path == b"/admin"), "{path}: {found:?}");
        }
    }

    #[test]
    fn what_is_too_much_to_read_is_not_read() {
        let deep = format!("/%{}61dmin", "25".repeat(10));
        assert_eq!(readings(deep.as_bytes()), None);
        let long = format!("/{}", "a;b%2f\\%25252e%c0%af%00/".repeat(300));
        assert_eq!(readings(long.as_bytes()), None);
        let usual = format!("/{}", "caf%C3%A9/".repeat(800));
        assert!(readings(usual.as_bytes()).is_some());
    }
}
