//! What else becomes of the fields of a head while it is written.
//!
//! In go the lines of some of the fields that would be copied; out comes whether each is, and then
//! what is added. The editor is chosen when the program is compiled: a head that no route edits is
//! written by code that knows of none.

use super::names::FieldNameSet;

/// Edits one head.
pub trait Edit {
    /// The classes of fields about which it is to be asked.
    fn asks(&self) -> FieldNameSet;

    /// Whether the field is copied whose line this is, from its name to its CRLF.
    fn keeps(&mut self, line: &[u8]) -> bool;

    /// Everything but the empty line is in `out`. What was not copied, but is said anew, begins at
    /// `added`, behind the end of a line.
    fn finish(&mut self, out: &mut Vec<u8>, added: usize);
}

/// Nothing.
pub(crate) struct Unedited;

impl Edit for Unedited {
    #[inline]
    fn asks(&self) -> FieldNameSet {
        FieldNameSet::EMPTY
    }

    #[inline]
    fn keeps(&mut self, _: &[u8]) -> bool {
        true
    }

    #[inline]
    fn finish(&mut self, _: &mut Vec<u8>, _: usize) {}
}
