//! What the access log quotes of an answer, taken down where the answer is written.
//!
//! In goes a head as the client is sent it; out come notes for the line. The origin's head and our
//! own are noted alike, after every edit.

use std::cell::RefCell;

use crate::observe::access_notes::{Noted, Notes};

/// Where the head of an answer is noted.
#[derive(Clone, Copy)]
pub(crate) struct ResponseNotes<'a> {
    pub(super) notes: &'a RefCell<Notes>,
    /// Of headers, in lower case.
    pub(super) names: &'a [Box<str>],
}

impl ResponseNotes<'_> {
    /// Notes what `head`, which may have a body behind it, says.
    pub(crate) fn take(&self, head: &[u8]) {
        let lines = memchr::memchr(b'\n', head).map_or(&[][..], |end| &head[end + 1..]);
        self.notes.borrow_mut().put_headers(Noted::ResponseHeader, self.names, lines);
    }
}
