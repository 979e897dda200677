//! Blocks of fields for scripted HTTP/2: read by RFC 7541's static table, written without any.
//!
//! Comes in: fields, or a block as ringway writes it. Goes out: the other form. It knows neither a
//! dynamic table nor Huffman's code: a block that uses them fails the test that received it,
//! because ringway promises to use neither.

use super::message::latin1;

/// RFC 7541, appendix A.
const STATIC: &str = "\
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|\
:status 200|:status 204|:status 206|:status 304|:status 400|:status 404|:status 500|\
accept-charset|accept-encoding gzip, deflate|accept-language|accept-ranges|accept|\
access-control-allow-origin|age|allow|authorization|cache-control|content-disposition|\
content-encoding|content-language|content-length|content-location|content-range|content-type|\
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|\
if-unmodified-since|last-modified|link|location|max-forwards|proxy-authenticate|\
proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|\
strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate";

pub(crate) type Fields = Vec<(String, String)>;

/// A block of literals that no table takes up.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    // One character is one byte, as in everything that tests write down.
    let bytes: Vec<u8> = text.chars().map(|it| u8::try_from(it).expect("a byte")).collect();
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(&bytes);
}

/// RFC 7541 §5.1.
pub(crate) fn integer(out: &mut Vec<u8>, first: u8, bits: u8, value: usize) {
    let max = (1 << bits) - 1;
    if value < max {
        out.push(first | value as u8);
        return;
    }
    out.push(first | max as u8);
    let mut rest = value - max;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads a block.
#[track_caller]
pub(crate) fn fields(block: &[u8]) -> Fields {
    let table: Vec<&str> = STATIC.split('|').collect();
    assert_eq!(table.len(), 61);
    let entry = |index: usize| {
        let entry = table.get(index - 1).expect("an index of the static table");
        entry.split_once(' ').unwrap_or((entry, ""))
    };
    let (mut fields, mut rest) = (Vec::new(), block);
    while let Some(&first) = rest.first() {
        if first & 0x80 != 0 {
            let (name, value) = entry(take_integer(&mut rest, 7));
            fields.push((name.to_owned(), value.to_owned()));
            continue;
        }
        if first & 0xe0 == 0x20 {
            assert_eq!(take_integer(&mut rest, 5), 0, "a table that is not empty");
            continue;
        }
        assert_eq!(first & 0x40, 0, "a field for the dynamic table");
        let name = match take_integer(&mut rest, 4) {
            0 => take_string(&mut rest),
            index => entry(index).0.to_owned(),
        };
        fields.push((name, take_string(&mut rest)));
    }
    fields
}

fn take_integer(rest: &mut &[u8], bits: u8) -> usize {
    let max = (1 << bits) - 1;
    let mut value = usize::from(rest[0]) & max;
    *rest = &rest[1..];
    let mut shift = 0;
    while value >= max {
        let byte = rest[0];
        *rest = &rest[1..];
        value += usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn take_string(rest: &mut &[u8]) -> String {
    assert_eq!(rest[0] & 0x80, 0, "Huffman's code");
    let length = take_integer(rest, 7);
    let (text, more) = rest.split_at(length);
    *rest = more;
    latin1(text)
}
