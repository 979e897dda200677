//! Traces that a request belongs to, as its fields say it (W3C Trace Context).
//!
//! In go values of traceparent and tracestate, which anybody may have written; out comes what they
//! mean, or nothing where they are not as they should be in every respect. Out the other way comes
//! the line for an origin. What is believed of whom is for others to say.

use std::io::Write;

/// Whose span a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub trace: u128,
    pub span: u64,
    pub is_sampled: bool,
}

/// A list of more members, or more bytes, is not passed on.
const MEMBERS_MAX: usize = 32;
const STATE_BYTES_MAX: usize = 512;

/// `00-` and three numbers in hexadecimal.
const BYTES: usize = 55;

impl TraceParent {
    /// `None` where there is no such span. A version that is to come may say more behind this.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(BYTES)?;
        if [known[2], known[35], known[52]] != [b'-'; 3] {
            return None;
        }
        let version = number(&known[..2])?;
        let is_right_end = match version {
            0xff => false,
            0 => rest.is_empty(),
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let (trace, span) = (number(&known[3..35])?, number(&known[36..52])? as u64);
        let flags = number(&known[53..55])?;
        let is_one = is_right_end && trace != 0 && span != 0;
        is_one.then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }

    /// Appends the line.
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        let Self { trace, span, is_sampled } = self;
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            "traceparent: 00-{trace:032x}-{span:016x}-{:02x}\r\n",
            u8::from(is_sampled)
        );
    }
}

/// Of lower-case hexadecimal digits alone.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Whether these values of tracestate are one list that may be passed on.
pub(crate) fn is_state<'v>(values: impl Iterator<Item = &'v [u8]>) -> bool {
    let (mut members, mut bytes) = (0, 0);
    for value in values {
        bytes += value.len();
        for member in value.split(|byte| *byte == b',') {
            let member = member.trim_ascii();
            if member.is_empty() {
                continue;
            }
            members += 1;
            if !is_member(member) {
                return false;
            }
        }
    }
    members <= MEMBERS_MAX && bytes <= STATE_BYTES_MAX
}

fn is_member(member: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', member) else { return false };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let is_key =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let is_value = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    (1..=256).contains(&key.len())
        && key[0].is_ascii_alphanumeric()
        && key.iter().all(is_key)
        && (1..=256).contains(&value.len())
        && value.iter().all(is_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_is_read_and_written() {
        let parent = TraceParent::read(GOOD.as_bytes()).unwrap();
        assert_eq!(parent.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((parent.span, parent.is_sampled), (0xb7ad_6b71_6920_3331, true));
        let mut out = Vec::new();
        parent.put(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("traceparent: {GOOD}\r\n"));
        let later = format!("cc{}-more", &GOOD[2..]);
        assert_eq!(TraceParent::read(later.as_bytes()), Some(parent));
        let unsampled = format!("{}fe", &GOOD[..53]);
        assert!(!TraceParent::read(unsampled.as_bytes()).unwrap().is_sampled);
    }

    #[test]
    fn what_is_no_parent_is_nothing() {
        for value in [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-"),
            format!("{GOOD} "),
            format!("ff{}", &GOOD[2..]),
            format!("0x{}", &GOOD[2..]),
            format!("cc{}.more", &GOOD[2..]),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            format!("00-{:032}-b7ad6b7169203331-01", 0),
            format!("00-0af7651916cd43dd8448eb211c80319c-{:016}-01", 0),
            "é".repeat(28),
            format!("{GOOD},{GOOD}"),
        ] {
            assert_eq!(TraceParent::read(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn a_state_is_a_list_of_few_members_or_nothing() {
        let is = |values: &[&str]| is_state(values.iter().map(|value| value.as_bytes()));
        assert!(is(&[]));
        assert!(is(&["a=1", "tenant@vendor=x y, ,b/c=;"]));
        let many = "a=1,".repeat(33);
        let long = format!("a={}", "x".repeat(257));
        let longer = format!("a={},", "x".repeat(200)).repeat(3);
        for value in ["a", "=1", "A=1", "a=", "a=b=c", "a=\x01", "a=é", &many, &long, &longer] {
            assert!(!is(&[value]), "{value}");
        }
    }
}
