//! What was written for the head that came last, so that it need not be written again.
//!
//! In goes a head as it was sent on, with all that it depended on; out comes the same where all of
//! that is as it was. Nothing is kept before a head has come twice in a row: those that never
//! repeat cost a look.

/// Longer heads are not kept. They come from heads of at most 512 bytes, with our lines.
pub(crate) const WRITTEN_BYTES_MAX: usize = 768;

/// A head that was sent on, and what it depended on.
#[derive(Debug)]
pub(crate) struct Written<K> {
    key: Option<K>,
    bytes: Vec<u8>,
}

impl<K: PartialEq> Written<K> {
    pub(crate) fn nothing() -> Self {
        Self { key: None, bytes: Vec::new() }
    }

    /// Appends the head that depended on `key` to `out`; false where it is not known.
    #[inline]
    pub(crate) fn put(&self, key: &K, out: &mut Vec<u8>) -> bool {
        let is_known = self.key.as_ref() == Some(key);
        if is_known {
            out.extend_from_slice(&self.bytes);
        }
        is_known
    }

    /// Remembers `head`, which depended on `key`.
    pub(crate) fn keep(&mut self, key: K, head: &[u8]) {
        self.key = None;
        if head.len() <= WRITTEN_BYTES_MAX {
            self.bytes.clear();
            self.bytes.reserve_exact(head.len());
            self.bytes.extend_from_slice(head);
            self.key = Some(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_is_the_same() {
        let mut written = Written::nothing();
        let mut out = b"before ".to_vec();
        assert!(!written.put(&1, &mut out));
        written.keep(1, b"head");
        assert!(!written.put(&2, &mut out));
        assert!(written.put(&1, &mut out));
        assert_eq!(out, b"before head");
        written.keep(2, &[0; WRITTEN_BYTES_MAX + 1]);
        assert!(!written.put(&1, &mut out) && !written.put(&2, &mut out));
        assert!(written.bytes.capacity() <= WRITTEN_BYTES_MAX);
    }
}
