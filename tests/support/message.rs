//! One HTTP/1.1 message as a test sees it.
//!
//! Comes in: the text of a head, then the body that the reader found. Goes out: look-ups that panic
//! with the whole message when a test is disappointed. It never repairs what it was given: a head
//! that is not exactly `name: value` lines ending in CRLF fails the test that received it.

use super::show;

/// How the end of a message was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The head says that there is no body.
    Empty,
    /// As many bytes as `Content-Length` promised.
    Length,
    /// The last chunk and the trailers.
    Chunked,
    /// The orderly end of the connection, which is how the head said that it would end.
    Closed,
    /// The connection ended before the message did.
    Cut,
}

/// A request or a response.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The head as it came, with the empty line that ends it.
    pub(crate) raw_head: Vec<u8>,
    /// The request line or status line.
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The size of each chunk, in order, when the body was chunked.
    pub(crate) chunks: Vec<usize>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) ending: Ending,
}

impl Message {
    pub(crate) fn parse_head(raw_head: Vec<u8>) -> Self {
        let text = latin1(&raw_head);
        let lines = text.strip_suffix("\r\n\r\n").expect("a head ends in an empty line");
        let (start, fields) = lines.split_once("\r\n").unwrap_or((lines, ""));
        assert!(
            !start.contains(['\r', '\n']),
            "stray line end in a head:\n    {}",
            show(&raw_head)
        );
        let (start, fields) = (start.to_owned(), parse_fields(fields));
        let (body, chunks, trailers) = (Vec::new(), Vec::new(), Vec::new());
        Self { raw_head, start, fields, body, chunks, trailers, ending: Ending::Empty }
    }

    /// The status of a response.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        let code = self.start.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {self}"))
    }

    /// The method of a request.
    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let wanted = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(wanted).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that must not occur twice.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} occurs {} times in {self}", values.len());
        values.first().copied()
    }

    /// The items of a list field, however they are spread over lines.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let items = self.all(name).into_iter().flat_map(|value| value.split(','));
        items.map(str::trim).filter(|item| !item.is_empty()).collect()
    }

    pub(crate) fn text(&self) -> String {
        latin1(&self.body)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.ending != Ending::Cut
    }

    #[track_caller]
    pub(crate) fn expect_status(&self, status: u16) -> &Self {
        assert!(self.status() == status, "expected status {status} in {self}");
        self
    }

    #[track_caller]
    pub(crate) fn expect_field(&self, name: &str, value: &str) -> &Self {
        assert!(self.field(name) == Some(value), "expected {name}: {value} in {self}");
        self
    }

    #[track_caller]
    pub(crate) fn expect_no_field(&self, name: &str) -> &Self {
        assert!(self.all(name).is_empty(), "expected no {name} in {self}");
        self
    }

    #[track_caller]
    pub(crate) fn expect_body(&self, body: impl AsRef<[u8]>) -> &Self {
        // Not assert_eq: a body may be far longer than anybody wants to see twice.
        assert!(self.body == body.as_ref(), "expected body {} in {self}", show(body.as_ref()));
        self
    }

    /// An answer that ringway made up itself: short plain text and a `Proxy-Status` (RFC 9209).
    #[track_caller]
    pub(crate) fn expect_own_error(&self, status: u16, reason: &str, error: &str) -> &Self {
        self.expect_status(status);
        assert!(self.start == format!("HTTP/1.1 {status} {reason}"), "wrong reason in {self}");
        assert!(self.text().trim_end() == reason, "expected the body {reason:?} in {self}");
        let kind = self.field("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/plain"), "expected plain text in {self}");
        let proxy_status = self.field("proxy-status").unwrap_or_default();
        assert!(proxy_status.starts_with("ringway"), "expected a Proxy-Status in {self}");
        let has_error = proxy_status.split(';').any(|item| item.trim() == format!("error={error}"));
        assert!(has_error, "expected error={error} as the Proxy-Status in {self}");
        self
    }
}

impl std::fmt::Display for Message {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (head, body) = (show(&self.raw_head), show(&self.body));
        write!(out, "\n    {head}{body}\n    (ending: {:?}", self.ending)?;
        if !self.trailers.is_empty() {
            write!(out, ", trailers: {:?}", self.trailers)?;
        }
        write!(out, ")")
    }
}

/// Field lines or trailer lines, joined by CRLF.
pub(crate) fn parse_fields(lines: &str) -> Vec<(String, String)> {
    let lines = lines.split("\r\n").filter(|line| !line.is_empty());
    lines
        .map(|line| {
            assert!(!line.contains(['\r', '\n']), "stray line end in {line:?}");
            let (name, value) =
                line.split_once(':').unwrap_or_else(|| panic!("no colon: {line:?}"));
            assert!(!name.is_empty() && !name.contains([' ', '\t']), "bad field name: {line:?}");
            (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
        })
        .collect()
}

/// Any byte is one character, so that a look at a head cannot fail on what it contains.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}
