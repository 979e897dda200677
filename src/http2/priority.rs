//! Extensible priorities (RFC 9218): the `priority` field, and what PRIORITY_UPDATE carries.
//!
//! In goes a dictionary of structured fields, out come urgency and whether the response is of use
//! in parts. What is not understood is what was not said; nothing is an error.

/// How soon a response is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Priority {
    /// 0 is the most urgent, 7 the least.
    pub urgency: u8,
    /// Parts of it are of use: it shares the connection with others like it.
    pub is_incremental: bool,
}

impl Default for Priority {
    fn default() -> Self {
        Self { urgency: 3, is_incremental: false }
    }
}

impl Priority {
    /// Reads `u=1, i`. Of a key that stands twice the last one counts (RFC 8941 §3.2).
    pub(crate) fn read(value: &[u8]) -> Self {
        Self::default().and(value)
    }

    /// The same, as the rest of what was said before.
    pub(crate) fn and(self, value: &[u8]) -> Self {
        let mut priority = self;
        for member in value.split(|byte| *byte == b',') {
            let member = member.split(|byte| *byte == b';').next().unwrap_or_default();
            match member.trim_ascii() {
                [b'u', b'=', digit @ b'0'..=b'7'] => priority.urgency = digit - b'0',
                b"i" | b"i=?1" => priority.is_incremental = true,
                b"i=?0" => priority.is_incremental = false,
                _ => {}
            }
        }
        priority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_read_as_far_as_it_is_understood() {
        let cases: [(&[u8], u8, bool); 12] = [
            (b"", 3, false),
            (b"u=0", 0, false),
            (b"u=7, i", 7, true),
            (b"i", 3, true),
            (b"i=?0", 3, false),
            (b"i=?1;x=1,\tu=5", 5, true),
            (b"u=8", 3, false),
            (b"u=-1", 3, false),
            (b"u=1,u=2", 2, false),
            (b"u = 1", 3, false),
            (b"\xff,,;,u=1;a;b", 1, false),
            (b"x=\"u=1\"", 3, false),
        ];
        for (value, urgency, is_incremental) in cases {
            let expected = Priority { urgency, is_incremental };
            assert_eq!(Priority::read(value), expected, "{}", value.escape_ascii());
        }
    }
}
