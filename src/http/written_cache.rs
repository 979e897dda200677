//! What was written for the head that came last, so that it need not be written again.
//!
//! In goes a head as it was sent on, with all that it depended on; out comes the same where all of
//! that is as it was. Nothing is kept before a head has come twice in a row: those that never
//! repeat cost a look.

/// Longer heads are not kept. They come from heads of at most 512 bytes, with our lines.
pub(crate) const WRITTEN_BYTES_MAX: usize = 768;

/// A head that was sent on, and what it depended on.
#[derive(Debug)]
pub(crate) struct WrittenCache<K> {
    key: Option<K>,
    bytes: Vec<u8>,
}

impl<K: PartialEq> WrittenCache<K> {
    pub(crate) fn nothing() -> Self {
        Self { key: None, bytes: Vec::new() }
    }

    /// Appends the head that depends on `key` to `out`: as it was written for that key, or as
    /// `write` appends it. Without a key nothing is known, and nothing is kept.
    #[inline]
    pub(crate) fn put(
        &mut self,
        key: Option<K>,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if key.is_some() && self.key == key {
            return out.extend_from_slice(&self.bytes);
        }
        let start = out.len();
        write(out);
        if key.is_some() {
            self.keep(key, &out[start..]);
        }
    }

    fn keep(&mut self, key: Option<K>, head: &[u8]) {
        self.key = None;
        if head.len() <= WRITTEN_BYTES_MAX {
            self.bytes.clear();
            self.bytes.reserve_exact(head.len());
            self.bytes.extend_from_slice(head);
            self.key = key;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_is_the_same() {
        let mut written = WrittenCache::nothing();
        let put = |written: &mut WrittenCache<u32>, key: Option<u32>, head: &[u8]| {
            let mut out = b"before ".to_vec();
            let mut is_written = false;
            written.put(key, &mut out, |out| {
                is_written = true;
                out.extend_from_slice(head);
            });
            (out.split_off(7), is_written)
        };
        let said = |text: &[u8], is_written: bool| (text.to_vec(), is_written);
        assert_eq!(put(&mut written, None, b"none"), said(b"none", true));
        assert_eq!(put(&mut written, Some(1), b"head"), said(b"head", true));
        assert_eq!(put(&mut written, None, b"none"), said(b"none", true));
        assert_eq!(put(&mut written, Some(1), b"other"), said(b"head", false));
        assert_eq!(put(&mut written, Some(2), b"two"), said(b"two", true));
        assert_eq!(put(&mut written, Some(1), b"one"), said(b"one", true));
        let large = [0; WRITTEN_BYTES_MAX + 1];
        for key in [2, 2] {
            assert_eq!(put(&mut written, Some(key), &large), said(&large, true));
        }
        assert_eq!(put(&mut written, Some(1), b"anew"), said(b"anew", true));
        assert!(written.bytes.capacity() <= WRITTEN_BYTES_MAX);
    }
}
