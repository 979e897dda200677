//! What a line of the access log quotes of an exchange, kept until the line is written.
//!
//! In go values while they are at hand: a user, the headers that the format names. Out they come
//! again, at the end. Nothing is allocated once the notes are warm, and nothing is escaped here.

use super::access_escape::VALUE_BYTES_MAX;
use crate::http::names::trim;

/// What a note is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    User,
    RequestId,
    /// The header with that number among those that the format names.
    RequestHeader(u8),
    ResponseHeader(u8),
}

/// Longer values are cut when they are written; the byte too many says that they were.
const NOTE_BYTES_MAX: usize = VALUE_BYTES_MAX + 1;

/// What is kept for the next exchange.
const KEPT_BYTES_MAX: usize = 1024;

/// The notes of one exchange.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    text: Vec<u8>,
    /// In the order in which they were taken, with their ends.
    notes: Vec<(Noted, usize)>,
}

impl Notes {
    pub(crate) const fn none() -> Self {
        Self { text: Vec::new(), notes: Vec::new() }
    }

    /// Notes a value, in place of what was noted of the same before.
    pub(crate) fn put(&mut self, noted: Noted, value: &[u8]) {
        if self.find(noted).is_some_and(|before| before == value) {
            return;
        }
        self.text.extend_from_slice(&value[..value.len().min(NOTE_BYTES_MAX)]);
        self.notes.push((noted, self.text.len()));
    }

    /// Notes the values of `names`, in lower case, in the field lines that `text` begins with: the
    /// first of each. `of` says what the one with a number is.
    pub(crate) fn put_headers(&mut self, of: fn(u8) -> Noted, names: &[Box<str>], text: &[u8]) {
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(colon) = memchr::memchr(b':', line) else { return };
            let mut lower = names.iter().map(|name| name.as_bytes());
            if let Some(number) = lower.position(|name| name.eq_ignore_ascii_case(&line[..colon])) {
                let noted = of(number as u8);
                if self.find(noted).is_none() {
                    self.put(noted, trim(&line[colon + 1..]));
                }
            }
        }
    }

    /// What was noted last.
    pub(crate) fn find(&self, noted: Noted) -> Option<&[u8]> {
        let at = self.notes.iter().rposition(|(found, _)| *found == noted)?;
        let start = at.checked_sub(1).map_or(0, |before| self.notes[before].1);
        Some(&self.text[start..self.notes[at].1])
    }

    /// Forgets all of them, and keeps a little room.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES_MAX);
        self.notes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_until_it_is_forgotten() {
        let mut notes = Notes::default();
        notes.put(Noted::User, b"ann");
        notes.put(Noted::RequestId, b"7");
        notes.put(Noted::User, b"bob");
        assert_eq!(notes.find(Noted::User), Some(&b"bob"[..]));
        assert_eq!(notes.find(Noted::RequestId), Some(&b"7"[..]));
        notes.put(Noted::RequestId, &[b'x'; 5000]);
        assert_eq!(notes.find(Noted::RequestId).unwrap().len(), NOTE_BYTES_MAX);
        notes.clear();
        assert_eq!(notes.find(Noted::User), None);
        assert!(notes.text.capacity() <= KEPT_BYTES_MAX);
    }

    #[test]
    fn headers_are_found_by_name_and_only_in_the_head() {
        let names = ["etag", "x-a"].map(Into::into);
        let head = b"ETag:  \"1\" \r\nX-AB: 0\r\nX-a: 1\r\nX-A: 2\r\n\r\nx-a: 3";
        let mut notes = Notes::default();
        notes.put_headers(Noted::ResponseHeader, &names, head);
        assert_eq!(notes.find(Noted::ResponseHeader(0)), Some(&b"\"1\""[..]));
        assert_eq!(notes.find(Noted::ResponseHeader(1)), Some(&b"1"[..]));
        let mut notes = Notes::default();
        notes.put_headers(Noted::ResponseHeader, &names, b"\r\nx-a: 3\r\n");
        assert_eq!(notes.find(Noted::ResponseHeader(1)), None);
    }
}
