//! Answers without an origin, prepared when the configuration is loaded.
//!
//! In: what the configuration says of answers and error pages, and the files that it names. Out:
//! answers whose lines and bodies are rendered already. Reading a file takes time: this is for the
//! start and for a reload, never for a ring thread.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::config::{ErrorPagesConfig, PageSource, RespondConfig, Statuses};
use crate::fault::{self, Status};

/// Pages are kept in memory, by every route that names them.
const PAGE_BYTES_MAX: u64 = 64 * 1024;

/// An answer that is given in place of an origin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalResponse<'p> {
    pub status: Status,
    /// Whole lines, the Content-Type first where the body has one.
    pub fields: Cow<'p, [u8]>,
    pub body: Cow<'p, str>,
    /// In ringway's own words, which an error page may take the place of.
    pub is_stock: bool,
}

/// An answer, rendered once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    status: Status,
    fields: Box<[u8]>,
    body: Box<str>,
}

/// What stands in answers that are errors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    /// Exact statuses before classes.
    pages: Vec<(Statuses, Prepared)>,
    pub(crate) is_intercepting: bool,
}

impl LocalResponse<'_> {
    /// With the reason phrase as its body.
    pub(crate) fn plain(code: u16, fields: Vec<u8>) -> Self {
        let status = status(code);
        let (fields, body) = (Cow::Owned(fields), Cow::Borrowed(status.reason));
        Self { status, fields, body, is_stock: true }
    }

    pub(crate) fn into_owned(self) -> LocalResponse<'static> {
        LocalResponse {
            status: self.status,
            fields: Cow::Owned(self.fields.into_owned()),
            body: Cow::Owned(self.body.into_owned()),
            is_stock: self.is_stock,
        }
    }
}

impl Prepared {
    pub(crate) fn respond(config: &RespondConfig) -> Self {
        let mut fields = format!("Content-Type: {}\r\n", config.content_type);
        for (name, value) in &config.headers {
            fields.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
        }
        Self {
            status: status(config.status),
            fields: fields.into_bytes().into(),
            body: config.body.as_str().into(),
        }
    }

    pub(crate) fn answer(&self) -> LocalResponse<'_> {
        LocalResponse {
            status: self.status,
            fields: Cow::Borrowed(&self.fields),
            body: Cow::Borrowed(&self.body),
            is_stock: false,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.fields.len() + self.body.len()
    }
}

impl Pages {
    /// The error names the key, the file and what is wrong with it.
    pub(crate) fn load(config: &ErrorPagesConfig) -> Result<Self, String> {
        let mut pages = Vec::with_capacity(config.pages.len());
        for (statuses, source) in &config.pages {
            let (content_type, body) = match source {
                PageSource::Inline(text) => (type_of_text(text), text.as_str().into()),
                PageSource::File(path) => {
                    let text = read(path);
                    let text = text.map_err(|error| format!("error_pages.{statuses}: {error}"))?;
                    (type_of_file(path), text.into())
                }
            };
            let code = match statuses {
                Statuses::Exact(code) => *code,
                Statuses::Class(class) => class * 100,
            };
            let fields = format!("Content-Type: {content_type}\r\n").into_bytes().into();
            pages.push((*statuses, Prepared { status: status(code), fields, body }));
        }
        pages.sort_by_key(|(statuses, _)| matches!(statuses, Statuses::Class(_)));
        Ok(Self { pages, is_intercepting: config.intercept })
    }

    /// The page for an answer with this status, which it keeps.
    pub(crate) fn page(&self, code: u16) -> Option<LocalResponse<'_>> {
        let fits = |statuses: &Statuses| match statuses {
            Statuses::Exact(exact) => *exact == code,
            Statuses::Class(class) => *class == code / 100,
        };
        let (_, page) = self.pages.iter().find(|(statuses, _)| fits(statuses))?;
        Some(LocalResponse { status: status(code), ..page.answer() })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pages.iter().map(|(_, page)| page.bytes()).sum()
    }
}

pub(crate) fn status(code: u16) -> Status {
    Status { code, reason: fault::reason(code) }
}

fn type_of_text(text: &str) -> &'static str {
    match text.trim_start().as_bytes().first() {
        Some(b'<') => "text/html; charset=utf-8",
        Some(b'{' | b'[') => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}

fn type_of_file(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}

fn read(path: &Path) -> Result<String, String> {
    let refuse = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PAGE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| refuse(&format_args!("the error page cannot be read: {error}")))?;
    if bytes.len() as u64 > PAGE_BYTES_MAX {
        return Err(refuse(&format_args!("an error page has at most {PAGE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| refuse(&"the error page is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pages(table: &[(Statuses, &str)]) -> Pages {
        let page = |(statuses, text): &(Statuses, &str)| {
            (*statuses, PageSource::Inline((*text).to_owned()))
        };
        let pages = table.iter().map(page).collect();
        Pages::load(&ErrorPagesConfig { pages, intercept: false }).unwrap()
    }

    #[test]
    fn a_status_of_its_own_comes_before_its_class() {
        let pages = pages(&[
            (Statuses::Class(5), "<p>sorry"),
            (Statuses::Exact(503), "{}"),
            (Statuses::Exact(404), "nothing"),
        ]);
        let found: BTreeMap<_, _> = [400, 404, 500, 502, 503]
            .into_iter()
            .filter_map(|code| Some((code, pages.page(code)?.body.into_owned())))
            .collect();
        let expected = [(404, "nothing"), (500, "<p>sorry"), (502, "<p>sorry"), (503, "{}")];
        assert_eq!(found, expected.map(|(code, text)| (code, text.to_owned())).into());
        let page = pages.page(502).unwrap();
        assert_eq!((page.status.code, page.status.reason), (502, "Bad Gateway"));
        assert_eq!(&*page.fields, b"Content-Type: text/html; charset=utf-8\r\n");
    }

    #[test]
    fn a_page_that_cannot_be_had_is_named() {
        let directory = std::env::temp_dir().join(format!("ringway-pages-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (large, binary) = (directory.join("large.html"), directory.join("binary.html"));
        std::fs::write(&large, vec![b'a'; PAGE_BYTES_MAX as usize + 1]).unwrap();
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        let table = [
            (directory.join("absent.html"), "the error page cannot be read: No such file"),
            (large, "an error page has at most 65536 bytes"),
            (binary, "the error page is not UTF-8 text"),
        ];
        for (path, expected) in table {
            let pages = vec![(Statuses::Class(5), PageSource::File(path.clone()))];
            let error = Pages::load(&ErrorPagesConfig { pages, intercept: true }).unwrap_err();
            assert!(
                error.starts_with(&format!("error_pages.5xx: {}: {expected}", path.display())),
                "{error}"
            );
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_answer_has_its_fields_in_order() {
        let config = RespondConfig {
            status: 418,
            body: "teapot".to_owned(),
            content_type: "text/x".to_owned(),
            headers: vec![("X-A".to_owned(), "b".to_owned())],
        };
        let prepared = Prepared::respond(&config);
        let answer = prepared.answer();
        assert_eq!(&*answer.fields, b"Content-Type: text/x\r\nX-A: b\r\n");
        assert_eq!((answer.status.code, &*answer.body), (418, "teapot"));
    }
}
