//! Paths: which are in their normal form, and what the normal form of any other is.
//!
//! In go the bytes of a path that begins with a slash; out comes its normal form (RFC 3986 §6):
//! unreserved bytes are not encoded, hexadecimal digits are in upper case, dot segments are gone
//! and slashes stand alone. What an encoded slash or a parameter means is for nobody to say here:
//! see `readings`. A path that is normal already costs one look at sixteen bytes at a time.

/// Whether `target`, a path and perhaps a query, has nothing in its path that a reader could change
/// or take for something else. A `false` may be wrong where the query has such a thing.
#[inline]
pub(crate) fn is_plain(target: &[u8]) -> bool {
    if is_calm(target) {
        return true;
    }
    let path = path_of(target);
    path.len() < target.len() && is_calm(path)
}

/// The part before the query.
#[inline]
pub(crate) fn path_of(target: &[u8]) -> &[u8] {
    &target[..memchr::memchr(b'?', target).unwrap_or(target.len())]
}

const LANES: usize = 16;

#[inline]
fn is_calm(text: &[u8]) -> bool {
    let Some(pairs) = text.len().checked_sub(1) else { return true };
    // What stands at the end is in no pair.
    if text[pairs] == b'.' || mask(text[pairs]) != 0 {
        return false;
    }
    let mut short = [0; LANES + 1];
    let Some(last) = pairs.checked_sub(LANES) else {
        short[..text.len()].copy_from_slice(text);
        return is_calm_block(&short);
    };
    let mut at = 0;
    loop {
        let Some(block) = text[at.min(last)..].first_chunk() else { return false };
        if !is_calm_block(block) {
            return false;
        }
        if at >= last {
            return true;
        }
        at += LANES;
    }
}

/// Of fixed size and without a branch, so that it becomes a few vector instructions.
#[inline]
fn is_calm_block(text: &[u8; LANES + 1]) -> bool {
    let odd: [u8; LANES] = std::array::from_fn(|lane| {
        let (here, next) = (text[lane], text[lane + 1]);
        let is = |byte: u8, known: u8| 0_u8.wrapping_sub(u8::from(byte == known));
        // Another slash, or what may begin a dot segment; and a dot at the end of a name.
        let behind_slash = is(next, b'/') | is(next, b'.');
        let behind_dot = is(next, b'/') | is(next, b'?');
        mask(here) | is(here, b'/') & behind_slash | is(here, b'.') & behind_dot
    });
    u128::from_ne_bytes(odd) == 0
}

/// Not 0 for a byte that may mean something else to somebody. Control bytes and spaces do not come
/// here as they are.
#[inline]
fn mask(byte: u8) -> u8 {
    let is = |known: u8| 0_u8.wrapping_sub(u8::from(byte == known));
    is(b'%') | is(b'\\') | is(b';') | is(b'#') | byte & 0x80
}

/// The normal form of `path`, which has no query.
pub(crate) fn normal(path: &[u8]) -> Vec<u8> {
    resolved(&unreserved(path), Slashes::Merged)
}

/// The normal form of a path, with the query of `target` as it is.
pub(crate) fn normal_target(target: &[u8]) -> Vec<u8> {
    let path = path_of(target);
    if path.first() != Some(&b'/') {
        return target.to_vec();
    }
    let mut out = normal(path);
    out.extend_from_slice(&target[path.len()..]);
    out
}

/// `path` with its unreserved bytes decoded, and upper case in what stays encoded.
pub(super) fn unreserved(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        match encoded(first, behind) {
            Some(byte) if is_unreserved(byte) => {
                out.push(byte);
                rest = &behind[2..];
            }
            Some(_) => {
                out.push(b'%');
                out.extend(behind[..2].iter().map(u8::to_ascii_uppercase));
                rest = &behind[2..];
            }
            None => out.push(first),
        }
    }
    out
}

/// `byte`, percent-encoded.
pub(crate) fn percent(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// The byte that `first` and what is behind it encode, if they do.
pub(crate) fn encoded(first: u8, behind: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    match (first, behind) {
        (b'%', [high, low, ..]) => Some((digit(*high)? * 16 + digit(*low)?) as u8),
        _ => None,
    }
}

/// `text` with every code read once.
pub(crate) fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let byte = encoded(first, behind);
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &behind[2..] } else { behind };
    }
    out
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What several slashes in a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slashes {
    Merged,
    /// A segment with an empty name stands between two, and `..` takes it away (RFC 3986 §5.2.4).
    Counted,
}

/// `path` without dot segments.
pub(super) fn resolved(path: &[u8], slashes: Slashes) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 1);
    let segments = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/');
    let mut segments = segments.peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b".." => {
                let parent = out.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                out.truncate(parent);
            }
            b"." => {}
            b"" if slashes == Slashes::Merged => {}
            b"" if is_last => {}
            name => {
                out.push(b'/');
                out.extend_from_slice(name);
                continue;
            }
        }
        if is_last {
            out.push(b'/');
        }
    }
    out
}

/// [`check`], of a path with these bytes behind its slash.
#[doc(hidden)]
pub(crate) fn check_behind_slash(input: &[u8]) {
    // A path has no query.
    if !input.contains(&b'?') {
        check(&[b"/", input].concat());
    }
}

/// What holds for any path, for the fuzz target and the tests below: a normal form is its own, and
/// what counts as plain is normal.
#[doc(hidden)]
pub(crate) fn check(path: &[u8]) {
    let once = normal(path);
    if is_plain(path) {
        assert_eq!(once, path);
    }
    assert_eq!(resolved(&once, Slashes::Merged), once);
    assert!(once.starts_with(b"/") && !once.windows(2).any(|two| two == b"//"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(path: &str) -> String {
        String::from_utf8(normal(path.as_bytes())).unwrap()
    }

    #[test]
    fn the_normal_form_is_that_of_the_rfc() {
        let table = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//admin", "/admin"),
            ("///a///b//", "/a/b/"),
            ("/./admin", "/admin"),
            ("/admin/.", "/admin/"),
            ("/admin/..", "/"),
            ("/x/../admin", "/admin"),
            ("/x//../admin", "/admin"),
            ("/../../admin", "/admin"),
            ("/x/%2e%2E/admin", "/admin"),
            ("/%2e/admin", "/admin"),
            ("/.%2e/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%7euser/%2D%5f", "/~user/-_"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2fb/%c3%a9", "/a%2Fb/%C3%A9"),
            ("/%2561", "/%2561"),
            ("/a%", "/a%"),
            ("/a%2", "/a%2"),
            ("/a%zz/..", "/"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/..c", "/a..b/..c"),
            ("/a;x/../b", "/b"),
            ("/ADMIN", "/ADMIN"),
        ];
        for (path, expected) in table {
            assert_eq!(text(path), expected, "{path}");
        }
    }

    #[test]
    fn a_query_is_left_as_it_is() {
        assert_eq!(normal_target(b"/a/../b?c=%61/../d"), b"/b?c=%61/../d");
        assert_eq!(normal_target(b"*"), b"*");
        assert_eq!(normal_target(b"?a"), b"?a");
    }

    #[test]
    fn a_plain_path_is_told_from_others_at_every_place() {
        for length in 1..70 {
            let plain = [b"/".to_vec(), vec![b'a'; length]].concat();
            assert!(is_plain(&plain));
            for at in 1..plain.len() {
                for odd in [&b"%"[..], b"\\", b";", b"//", b"/.", b"/./", b"/..", b"./"] {
                    let mut path = plain.clone();
                    path.splice(at..at, odd.iter().copied());
                    assert!(!is_plain(&path), "{}", String::from_utf8_lossy(&path));
                    let in_query = [plain.as_slice(), b"?", odd, b"x"].concat();
                    assert!(is_plain(&in_query), "{}", String::from_utf8_lossy(&in_query));
                }
            }
        }
        assert!(is_plain(b"/") && is_plain(b"/?x=//") && is_plain(b"*") && !is_plain(b"//"));
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_and_a_plain_path_is_normal(
            path in "/[a-c./%25\\\\;2eEfF01]{0,40}"
        ) {
            check(path.as_bytes());
        }
    }
}
