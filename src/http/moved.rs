//! The head of an answer whose origin is not where its client sees it: below another path, or one
//! that this client is to come back to.
//!
//! In go the lines of a head as they are copied; out come `Location`, `Content-Location` and the
//! paths of cookies as the client has to see them, and a cookie of ours. What names another server,
//! or a path that is not the origin's, stays as it is. Pure.

use super::edit::Edit;
use super::names::{FieldName, FieldNameSet, trim};

/// The fields that say where something is.
pub(crate) const NAMES: [&[u8]; 3] = [b"location", b"content-location", b"set-cookie"];

/// Where an origin is, and where its client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Moved<'a> {
    /// `host` or `host:port`, as the origin's own URLs have it; empty where it has none.
    pub authority: &'a [u8],
    /// The beginning of its paths, without a slash at the end; often empty.
    pub base: &'a [u8],
    /// What stands there for the client, likewise.
    pub prefix: &'a [u8],
}

/// Edits a head so, and then as `inner` does.
pub(crate) struct MovedEdit<'a, E> {
    pub moved: Option<Moved<'a>>,
    /// The value of a Set-Cookie; empty where there is none.
    pub cookie: &'a [u8],
    pub inner: E,
    changed: Vec<u8>,
}

impl<'a, E: Edit> MovedEdit<'a, E> {
    pub(crate) fn new(moved: Option<Moved<'a>>, cookie: &'a [u8], inner: E) -> Self {
        Self { moved, cookie, inner, changed: Vec::new() }
    }
}

impl<E: Edit> Edit for MovedEdit<'_, E> {
    fn asks(&self) -> FieldNameSet {
        match self.moved {
            // The head has been read by [`NAMES`].
            Some(_) => self.inner.asks().with(FieldName::OfInterest),
            None => self.inner.asks(),
        }
    }

    fn keeps(&mut self, line: &[u8]) -> bool {
        if !self.inner.keeps(line) {
            return false;
        }
        let Some(moved) = &self.moved else { return true };
        let Some((name, value)) = split(line) else { return true };
        let at = self.changed.len();
        self.changed.extend_from_slice(name);
        self.changed.extend_from_slice(b": ");
        let is_changed = if is(name, b"location") || is(name, b"content-location") {
            moved.put_url(value, &mut self.changed)
        } else if is(name, b"set-cookie") {
            moved.put_cookie(value, &mut self.changed)
        } else {
            false
        };
        if is_changed {
            self.changed.extend_from_slice(b"\r\n");
        } else {
            self.changed.truncate(at);
        }
        !is_changed
    }

    fn finish(&mut self, out: &mut Vec<u8>, added: usize) {
        out.extend_from_slice(&self.changed);
        if !self.cookie.is_empty() {
            for part in [b"Set-Cookie: ", self.cookie, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        self.inner.finish(out, added);
    }
}

impl Moved<'_> {
    /// Appends the URL as the client has to see it; whether it is another one.
    fn put_url(&self, url: &[u8], out: &mut Vec<u8>) -> bool {
        let path = match self.own_path(url) {
            Some([]) => b"/",
            Some(path) => path,
            None => return false,
        };
        let Some(rest) = below(path, self.base) else { return false };
        let before = out.len();
        out.extend_from_slice(self.prefix);
        // What begins with two slashes would name a host, and browsers take a backslash for one and
        // a tab for nothing.
        let names_host = matches!(rest, [b'/', b'/' | b'\\' | b'\t', ..]);
        if names_host && self.prefix.is_empty() || !rest.starts_with(b"/") {
            out.extend_from_slice(if names_host { b"/." } else { b"/" });
        }
        out.extend_from_slice(rest);
        out[before..] != *url
    }

    /// The path of a URL that leads to the origin; `None` where it leads elsewhere or is relative.
    fn own_path<'u>(&self, url: &'u [u8]) -> Option<&'u [u8]> {
        let authority_on = match url {
            [b'/', b'/', rest @ ..] => rest,
            [b'/', ..] => return Some(url),
            _ => {
                let end = url.windows(3).position(|three| three == b"://")?;
                let scheme = &url[..end];
                let is_http = is(scheme, b"http") || is(scheme, b"https");
                is_http.then_some(&url[end + 3..])?
            }
        };
        let is_end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
        let end = authority_on.iter().position(is_end).unwrap_or(authority_on.len());
        let (authority, path) = authority_on.split_at(end);
        let is_own = !self.authority.is_empty() && is(authority, self.authority);
        is_own.then_some(path)
    }

    /// Appends a cookie with the path that the client has to see; whether it is another one.
    fn put_cookie(&self, cookie: &[u8], out: &mut Vec<u8>) -> bool {
        let mut is_changed = false;
        for (index, part) in cookie.split(|byte| *byte == b';').enumerate() {
            if index > 0 {
                out.push(b';');
            }
            let path = (index > 0).then(|| path_of(part)).flatten();
            match path.and_then(|path| below(path, self.base)) {
                Some(rest) => {
                    out.extend_from_slice(b" Path=");
                    let at = out.len();
                    out.extend_from_slice(self.prefix);
                    if self.prefix.is_empty() || rest.len() > 1 {
                        out.extend_from_slice(if rest.is_empty() { b"/" } else { rest });
                    }
                    is_changed |= path.is_some_and(|path| out[at..] != *path);
                }
                None => out.extend_from_slice(part),
            }
        }
        is_changed
    }
}

/// What is left of `path` behind `base`, on the boundary of a segment.
fn below<'p>(path: &'p [u8], base: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(base)?;
    matches!(rest.first(), None | Some(b'/' | b'?' | b'#')).then_some(rest)
}

/// The value of the attribute `Path`.
fn path_of(attribute: &[u8]) -> Option<&[u8]> {
    let attribute = trim(attribute);
    let (name, value) = attribute.split_at(attribute.iter().position(|byte| *byte == b'=')?);
    let value = trim(&value[1..]);
    (is(trim(name), b"path") && value.starts_with(b"/")).then_some(value)
}

fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = line[colon + 1..].strip_suffix(b"\n")?;
    Some((&line[..colon], trim(value.strip_suffix(b"\r").unwrap_or(value))))
}

fn is(text: &[u8], other: &[u8]) -> bool {
    text.eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests {
    use super::super::edit::Unedited;
    use super::super::interest::FieldInterest;
    use super::*;

    const APP: Moved<'static> = Moved { authority: b"app:8080", base: b"/base", prefix: b"/shop" };
    const ROOT: Moved<'static> = Moved { prefix: b"", ..APP };
    const BELOW: Moved<'static> = Moved { base: b"", ..APP };

    /// The line as the client gets it.
    fn seen(moved: Moved<'_>, line: &str) -> String {
        let line = format!("{line}\r\n");
        let mut edit = MovedEdit::new(Some(moved), b"", Unedited);
        let is_kept = edit.keeps(line.as_bytes());
        let mut out = if is_kept { line.into_bytes() } else { Vec::new() };
        edit.finish(&mut out, 0);
        String::from_utf8(out).unwrap().trim_end().to_owned()
    }

    #[test]
    fn heads_can_be_read_by_all_of_the_names() {
        let mut interest = FieldInterest::new([]);
        for name in NAMES {
            interest.add(name, FieldName::OfInterest);
        }
        assert!(NAMES.iter().all(|name| interest.class(name) == FieldName::OfInterest));
    }

    #[test]
    fn urls_of_the_origin_are_seen_where_the_client_sees_them() {
        let table = [
            (APP, "/base/x?y#z", "/shop/x?y#z"),
            (APP, "/base", "/shop/"),
            (APP, "/base/", "/shop/"),
            (APP, "http://app:8080/base/x", "/shop/x"),
            (APP, "HTTPS://APP:8080/base/x", "/shop/x"),
            (APP, "//app:8080/base?q", "/shop/?q"),
            (ROOT, "/base/x", "/x"),
            (ROOT, "/base", "/"),
            (ROOT, "/base//evil.example/", "/.//evil.example/"),
            (ROOT, "/base/\\evil.example/", "/./\\evil.example/"),
            (ROOT, "/base/\t/evil.example/", "/./\t/evil.example/"),
            (BELOW, "/x", "/shop/x"),
            (BELOW, "http://app:8080", "/shop/"),
        ];
        for (moved, url, expected) in table {
            for name in ["Location", "content-location"] {
                let line = seen(moved, &format!("{name}: {url}"));
                assert_eq!(line, format!("{name}: {expected}"), "{url}");
            }
        }
    }

    #[test]
    fn what_leads_elsewhere_stays_as_it_is() {
        let urls = [
            "/basement/x",
            "/other",
            "x/y",
            "?q",
            "http://app/base/x",
            "http://app:8080.evil.example/base/x",
            "http://user@app:8080/base/x",
            "mailto:a@b",
            "",
        ];
        for url in urls {
            let line = format!("Location: {url}");
            assert_eq!(seen(APP, &line), line.trim_end(), "{url}");
        }
        assert_eq!(seen(APP, "X-Location: /base/x"), "X-Location: /base/x");
        assert_eq!(seen(ROOT, "Location: /x"), "Location: /x");
    }

    #[test]
    fn the_path_of_a_cookie_follows() {
        let table = [
            (APP, "a=/base; Path=/base/x; Secure", "a=/base; Path=/shop/x; Secure"),
            (APP, "a=b; path=/base", "a=b; Path=/shop"),
            (APP, "a=b; Path=/base/", "a=b; Path=/shop"),
            (APP, "a=b; Path=/other", "a=b; Path=/other"),
            (APP, "path=/base", "path=/base"),
            (APP, "a=b", "a=b"),
            (ROOT, "a=b; Path=/base", "a=b; Path=/"),
            (BELOW, "a=b; Path=/", "a=b; Path=/shop"),
            (BELOW, "a=b;Path=/x;HttpOnly", "a=b; Path=/shop/x;HttpOnly"),
        ];
        for (moved, cookie, expected) in table {
            let line = seen(moved, &format!("Set-Cookie: {cookie}"));
            assert_eq!(line, format!("Set-Cookie: {expected}"), "{cookie}");
        }
    }

    #[test]
    fn a_cookie_of_ours_stands_beside_those_of_the_origin() {
        let mut edit = MovedEdit::new(None, b"rw=1; Path=/", Unedited);
        assert!(edit.keeps(b"Set-Cookie: a=b\r\n"));
        let mut out = b"Set-Cookie: a=b\r\n".to_vec();
        edit.finish(&mut out, 0);
        assert_eq!(out, b"Set-Cookie: a=b\r\nSet-Cookie: rw=1; Path=/\r\n");
    }
}
