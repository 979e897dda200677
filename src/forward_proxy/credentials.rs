//! A user's name and password in a `Proxy-Authorization` field (RFC 7617).
//!
//! In: the field's value. Out: the name and the whole pair, or `None` for anything else: another
//! scheme, base64 that is not in its one canonical form, no colon, a control character. What was
//! decoded lies in a `Room` that is wiped when it goes.
//!
//! A pair that is not UTF-8 is taken for Latin-1, which is what many clients write (RFC 7617 §2.1
//! came late), and comes out as UTF-8: one pair has one spelling.
//!
//! The first colon ends the name, so a name has none and a password may. An empty name and an
//! empty password are legal here; no line of a users file has an empty name, so it is unknown.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::{Zeroize, Zeroizing};

/// More than 256 bytes of name and 512 of password are a flood, not a login.
const PAIR_BYTES_MAX: usize = 768;
const TEXT_BYTES_MAX: usize = PAIR_BYTES_MAX / 3 * 4;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Where a pair is decoded to: a byte of Latin-1 has up to two of UTF-8.
pub(super) struct Room {
    bytes: [u8; 2 * PAIR_BYTES_MAX],
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
        Self { bytes: [0; 2 * PAIR_BYTES_MAX], used: 0 }
    }

    pub(super) fn decode(&mut self, field: &[u8]) -> Option<Credentials<'_>> {
        let text = token(field)?;
        self.used = self.bytes.len();
        let length = BASE64.decode_slice(text, &mut self.bytes[..PAIR_BYTES_MAX]).ok()?;
        self.used = self.as_utf8(length);
        let pair = &self.bytes[..self.used];
        // RFC 7617 §2: neither part holds control characters.
        let is_plain = !pair.iter().any(u8::is_ascii_control);
        let colon = pair.iter().position(|&byte| byte == b':').filter(|_| is_plain)?;
        let user = std::str::from_utf8(&pair[..colon]).ok()?;
        Some(Credentials { user, pair })
    }
}

impl Room {
    /// Makes UTF-8 of the first `length` bytes, in place; how many there are then.
    fn as_utf8(&mut self, length: usize) -> usize {
        let pair = &self.bytes[..length];
        if std::str::from_utf8(pair).is_ok() {
            return length;
        }
        let whole = length + pair.iter().filter(|byte| !byte.is_ascii()).count();
        let mut end = whole;
        // From the end, so that nothing is written over what is still to be read.
        for index in (0..length).rev() {
            let mut letter = [0; 2];
            let letter = char::from(self.bytes[index]).encode_utf8(&mut letter).as_bytes();
            end -= letter.len();
            self.bytes[end..end + letter.len()].copy_from_slice(letter);
        }
        whole
    }
}

/// The same text in Latin-1, where it has another spelling there.
pub(super) fn as_latin_1(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if text.is_ascii() {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    for letter in text.chars() {
        bytes.push(u8::try_from(letter).ok()?);
    }
    Some(bytes)
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

    pub(in crate::forward_proxy) fn encoded(pair: &[u8]) -> Vec<u8> {
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
        let table: [(&[u8], &str, &[u8]); 11] = [
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
            // In Latin-1.
            (&encoded(b"a:\xff\xfe"), "a", "\u{ff}\u{fe}".as_bytes()),
            (&encoded(b"\xe4 b:\xfc"), "ä b", "ü".as_bytes()),
        ];
        for (field, user, password) in table {
            let expected = Some((user.to_owned(), password.to_owned()));
            assert_eq!(decoded(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn anything_else_is_nothing() {
        let table: [&[u8]; 23] = [
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
            &encoded(b"a\r\n:b"),
        ];
        for field in table {
            assert_eq!(decoded(field), None, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn the_longest_pair_in_latin_1_fits() {
        let mut pair = vec![0xe9; PAIR_BYTES_MAX];
        pair[1] = b':';
        let (user, password) = decoded(&encoded(&pair)).unwrap();
        assert_eq!((user.as_str(), password.len()), ("é", 2 * (PAIR_BYTES_MAX - 2)));
        assert_eq!(as_latin_1(&password).unwrap().len(), PAIR_BYTES_MAX - 2);
        assert!(as_latin_1(b"plain").is_none() && as_latin_1("€".as_bytes()).is_none());
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
