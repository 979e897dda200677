//! The head that was read last, so that the same bytes need not be read again.
//!
//! In goes a head whose meaning is known; out comes whether a buffer begins with just that head,
//! in which case everything that was found of it holds again. Clients that poll, health checks and
//! load tests ask the same thing over and over, and within a second most origins answer with the
//! same head. Comparing costs a twentieth of reading; a head that differs is told by its first
//! words. Only equality of all bytes counts, so that nothing can be taken for something else.

use super::limits::HeadLimits;

/// Longer heads are not kept: those of browsers with cookies hardly ever repeat, and every busy
/// connection has room for two.
const SEEN_BYTES_MAX: usize = 512;

/// A head that has been read, and the limits that it was held to.
#[derive(Clone, Debug)]
pub(crate) struct ParsedCache {
    bytes: [u8; SEEN_BYTES_MAX],
    /// `0 <= length <= SEEN_BYTES_MAX`; 0: none.
    length: usize,
    limits: HeadLimits,
    /// The message that it began is over, and no other has been read since.
    is_over: bool,
    /// How many heads have been kept, with wrap-around: the number of this one.
    number: u32,
    /// It has come again.
    is_repeated: bool,
}

impl ParsedCache {
    pub(crate) fn nothing() -> Self {
        let limits = HeadLimits { head_bytes: 0, target_bytes: 0, header_count: 0 };
        Self {
            bytes: [0; SEEN_BYTES_MAX],
            length: 0,
            limits,
            is_over: false,
            number: 0,
            is_repeated: false,
        }
    }

    /// Whether `buf` begins with it, and is held to the same limits: then it has come again.
    #[inline]
    pub(crate) fn begins(&mut self, buf: &[u8], limits: &HeadLimits) -> bool {
        self.is_repeated = self.length > 0
            && self.limits == *limits
            && buf.starts_with(&self.bytes[..self.length]);
        self.is_repeated
    }

    /// The number of the head that has come again; `None` where it has come for the first time.
    #[inline]
    pub(crate) fn repeated(&self) -> Option<u32> {
        self.is_repeated.then_some(self.number)
    }

    #[inline]
    pub(crate) fn keep(&mut self, head: &[u8], limits: &HeadLimits) {
        match self.bytes.get_mut(..head.len()) {
            Some(bytes) => {
                bytes.copy_from_slice(head);
                self.length = head.len();
                self.limits = *limits;
                self.number = self.number.wrapping_add(1);
            }
            None => self.forget(),
        }
    }

    #[inline]
    pub(crate) fn forget(&mut self) {
        self.length = 0;
        self.is_repeated = false;
    }

    /// Says that its message is over.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// Says that a message begins; whether one was over.
    #[inline]
    pub(crate) fn begin(&mut self) -> bool {
        std::mem::take(&mut self.is_over)
    }
}
