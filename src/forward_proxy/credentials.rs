//! A user's name and password in a `Proxy-Authorization` field (RFC 7617).
//!
//! In: the field's value. Out: the name and the whole pair, or `None` for anything else: another
//! scheme, base64 that is not in its one canonical form, no colon, a control character, a name
//! that is not UTF-8. What was decoded lies in a `Room` that is wiped when it goes.
//!
//! The first colon ends the name, so a name has none and a password may. An empty name and an
//! empty password are legal here; no line of a users file has an empty name, so it is unknown.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroize;

/// More than 256 bytes of name and 512 of password are a flood, not a login.
const PAIR_BYTES_MAX: usize = 768;
const TEXT_BYTES_MAX: usize = PAIR_BYTES_MAX / 3 * 4;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Where a pair is decoded to.
pub(super) struct Room {
    bytes: [u8; PAIR_BYTES_MAX],
    /// What has to be wiped.
    used: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Credentials<'r> {
    pub(super) user: &'r str,
    /// The name, the colon and the password.
    pub(super) pair: &'r [u8],
}

impl Room {
    pub(super) fn new() -> Self {
        Self { bytes: [0; PAIR_BYTES_MAX], used: 0 }
    }

    pub(super) fn decode(&mut self, field: &[u8]) -> Option<Credentials<'_>> {
        let text = token(field)?;
        self.used = PAIR_BYTES_MAX;
        let length = BASE64.decode_slice(text, &mut self.bytes).ok()?;
        self.used = length;
        let pair = &self.bytes[..length];
        // RFC 7617 §2: neither part holds control characters.
        let is_plain = !pair.iter().any(u8::is_ascii_control);
        let colon = pair.iter().position(|&byte| byte == b':').filter(|_| is_plain)?;
        let user = std::str::from_utf8(&pair[..colon]).ok()?;
        Some(Credentials { user, pair })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bytes[..self.used].zeroize();
    }
}

/// What follows `Basic` and its spaces (RFC 9110 §11.4).
fn token(field: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Basic";
    let (scheme, rest) = field.trim_ascii().split_at_checked(SCHEME.len())?;
    let text = rest.trim_ascii_start();
    let is_basic = scheme.eq_ignore_ascii_case(SCHEME) && text.len() < rest.len();
    (is_basic && text.len() <= TEXT_BYTES_MAX).then_some(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The field for a name and a password.
    pub(in crate::forward_proxy) fn field(user: &str, password: &str) -> Vec<u8> {
        encoded(format!("{user}:{password}").as_bytes())
    }

    fn encoded(pair: &[u8]) -> Vec<u8> {
        format!("Basic {}", BASE64.encode(pair)).into_bytes()
    }

    fn decoded(field: &[u8]) -> Option<(String, Vec<u8>)> {
        let mut room = Room::new();
        let Credentials { user, pair } = room.decode(field)?;
        let password = pair.strip_prefix(user.as_bytes()).unwrap().strip_prefix(b":").unwrap();
        Some((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn a_pair_is_parted_at_its_first_colon() {
        let table: [(&[u8], &str, &[u8]); 10] = [
            // The example of RFC 7617 §2.
            (b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin", b"open sesame"),
            (b"basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin", b"open sesame"),
            (b"BASIC   QWxhZGRpbjpvcGVuIHNlc2FtZQ== ", "Aladdin", b"open sesame"),
            // The example of RFC 7617 §2.1, with a pound sign in UTF-8.
            (b"Basic dGVzdDoxMjPCow==", "test", b"123\xc2\xa3"),
            (&encoded(b"a:b:c:"), "a", b"b:c:"),
            (&encoded(b":"), "", b""),
            (&encoded(b":x"), "", b"x"),
            (&encoded(b"a:"), "a", b""),
            (&encoded("ä b:ü".as_bytes()), "ä b", "ü".as_bytes()),
            (&encoded(b"a:\xff\xfe"), "a", b"\xff\xfe"),
        ];
        for (field, user, password) in table {
            let expected = Some((user.to_owned(), password.to_owned()));
            assert_eq!(decoded(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn anything_else_is_nothing() {
        let table: [&[u8]; 24] = [
            b"",
            b"Basic",
            b"Basic ",
            b"QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            b"BasicQWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            b"Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            b"Digest username=\"a\"",
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=",
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ===",
            // The last letter has bits that belong to no byte.
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZR==",
            b"Basic QWxhZGRpbjpvcGVu IHNlc2FtZQ==",
            b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==, Basic YTpi",
            b"Basic YTpi\xff",
            b"Basic YT-i",
            b"Basic =",
            b"Basic realm=\"x\"",
            &encoded(b""),
            &encoded(b"no colon"),
            &encoded(b"a\0:b"),
            &encoded(b"a:b\n"),
            &encoded(b"a:b\x7f"),
            &encoded(b"\xff:b"),
            &encoded(b"a\r\n:b"),
        ];
        for field in table {
            assert_eq!(decoded(field), None, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn a_pair_has_a_largest_size() {
        let mut pair = vec![b'a'; PAIR_BYTES_MAX];
        pair[1] = b':';
        assert!(decoded(&encoded(&pair)).is_some());
        pair.push(b'a');
        assert!(decoded(&encoded(&pair)).is_none());
        assert!(decoded(&[b"Basic ".as_slice(), &vec![b'A'; 1 << 20]].concat()).is_none());
    }
}
