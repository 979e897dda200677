//! Reads the head of a request or a response.
//!
//! In comes a receive buffer that starts at the message; out comes, once all of the head is there,
//! what a proxy must know of it, as ranges of that buffer. httparse finds the lines; everything
//! that RFC 9112 leaves to the recipient's care is refused here and never repaired. Nothing is
//! copied or decoded, and a head that is re-used from message to message allocates nothing.
//!
//! Which error is reported depends on the bytes alone, not on how they were split: see `lines`.

use std::mem::MaybeUninit;
use std::sync::Arc;

pub(crate) use super::error::HeadError;
use super::fields::{ConnectionOptions, Fields, Lifetime, Underscores};
use super::framing::{decimal, is_bodiless_framed, request_body, response_body};
use super::interest::FieldInterest;
pub use super::limits::HeadLimits;
use super::lines::{HeadLines, Kind};
use super::names::{FieldName, elements};
use super::parsed_cache::ParsedCache;
use super::repair::{Repair, Repairs};
use super::target::{Port, Target, is_authority, refusal};
use super::{BodyLength, Method, Span, TargetForm, Version};
use crate::limits::{EMPTY_LINES_MAX, HEADER_COUNT_MAX, METHOD_BYTES_MAX};

/// One request head. Meant to be re-used: `parse` allocates only when a head has more fields than
/// any before it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct RequestHead {
    pub method: Method,
    pub method_text: Span,
    pub target: Span,
    pub form: TargetForm,
    /// The part of the target that is sent on: path and query. See [`RequestHead::path`], which
    /// also knows what an empty one means.
    pub path_span: Span,
    /// The effective `host[:port]`: from the target if that has one (RFC 9112 §3.2.2), else from
    /// Host. Empty for an HTTP/1.0 request without either.
    pub authority: Span,
    pub version: Version,
    pub fields: Fields,
    /// Length of the head from the buffer's start, leading empty lines included.
    pub bytes: usize,
    /// Never [`BodyLength::UntilClose`].
    pub body: BodyLength,
    /// Whether the client lets the connection live on after this exchange.
    pub is_persistent: bool,
    /// The client waits for a 100 before it sends the body. Never so for HTTP/1.0, whose
    /// expectations are to be ignored (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// What it expects is nothing, or has been granted: no origin is told of it.
    pub has_empty_expect: bool,
    /// Read for OPTIONS and TRACE only. Zero: the request is not to be forwarded.
    pub max_forwards: Option<u64>,
    /// The client offers to change to another protocol: an Upgrade field is there, Connection names
    /// it, and it does not ask for HTTP/2, with which a request could hide in what looks like a
    /// tunnel. Never so for HTTP/1.0 (RFC 9110 §7.8).
    pub is_upgrade: bool,
    lines: HeadLines,
    /// What all the rest was read from, as long as it holds.
    cache: ParsedCache,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestHead {
    pub fn new() -> Self {
        Self {
            method: Method::default(),
            method_text: Span::EMPTY,
            target: Span::EMPTY,
            form: TargetForm::default(),
            path_span: Span::EMPTY,
            authority: Span::EMPTY,
            version: Version::default(),
            fields: Fields::default(),
            bytes: 0,
            body: BodyLength::Empty,
            is_persistent: false,
            expects_continue: false,
            has_empty_expect: false,
            max_forwards: None,
            is_upgrade: false,
            lines: HeadLines::new(Kind::Request),
            cache: ParsedCache::nothing(),
        }
    }

    /// Has the fields called so noted in every head that is read from now on.
    pub fn want(&mut self, interest: Option<Arc<FieldInterest>>) {
        self.fields.want(interest);
        self.cache.forget();
    }

    /// Says what becomes of fields in heads that are read from now on whose names have a `_`.
    pub fn set_underscores(&mut self, underscores: Underscores) {
        self.fields.set_underscores(underscores);
        self.cache.forget();
    }

    /// The client has been sent the 100 that it waited for, which holds for this message alone.
    pub fn grant_continue(&mut self) {
        (self.expects_continue, self.has_empty_expect) = (false, true);
        self.cache.forget();
    }

    /// Gives the message up, and what was seen of an incomplete one. Only needed to give up a head
    /// half-way: after `parse` gave `Ok(true)` or an error, the next call starts a message.
    pub fn reset(&mut self) {
        self.lines = HeadLines::new(Kind::Request);
        self.cache.end();
    }

    /// Says nothing any more, if nothing has been read since [`RequestHead::reset`]: what is said
    /// of a head that could not be read must not be said of the one before it.
    pub fn settle(&mut self) {
        if self.cache.begin() {
            self.cache.forget();
            self.method = Method::Get;
            self.version = Version::Http11;
            self.fields.clear();
            self.bytes = 0;
        }
    }

    /// Reads the head that `buf` starts with. `Ok(false)`: it is not complete; call again when
    /// `buf` holds more. Bytes seen before are not looked at again until the head is complete.
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        if self.lines.is_new() && self.cache.begins(buf, limits) {
            self.cache.begin();
            return Ok(true);
        }
        self.settle();
        self.cache.forget();
        let parsed = self.parse_on(buf, limits);
        if parsed != Ok(false) && !self.lines.is_new() {
            self.lines = HeadLines::new(Kind::Request);
        }
        if parsed == Ok(true) {
            self.cache.keep(&buf[..self.bytes], limits);
        }
        parsed
    }

    /// The number of the last head where it is, byte by byte, the one that was read before it.
    #[inline]
    pub(crate) fn repeated(&self) -> Option<u32> {
        self.cache.repeated()
    }

    fn parse_on(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        // A head in one piece needs no look at its lines, unless something is wrong with it.
        if !self.lines.is_new() && !self.lines.advance(buf, limits)? {
            return Ok(false);
        }
        if self.read(buf, limits) {
            return self.judge(buf).map(|()| true);
        }
        if self.lines.advance(buf, limits)? {
            // httparse also wants the target to be UTF-8, which lines do not show.
            debug_assert!(std::str::from_utf8(buf).is_err(), "httparse and lines disagree");
            return Err(HeadError::Target);
        }
        Ok(false)
    }

    /// The path to route by and to send on. `*` for the asterisk form and for what means the same
    /// (an OPTIONS request for a server as a whole, RFC 9112 §3.2.4); empty for CONNECT; may begin
    /// with `?` where an absolute target had a query and no path.
    #[inline]
    pub fn path<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        match (self.form, self.method) {
            (TargetForm::Absolute, Method::Options) if self.path_span.is_empty() => b"*",
            (TargetForm::Absolute, _) if self.path_span.is_empty() => b"/",
            _ => self.path_span.of(buf),
        }
    }

    /// The syntax. False: incomplete or refused.
    fn read(&mut self, buf: &[u8], limits: &HeadLimits) -> bool {
        let start = after_empty_lines(buf);
        let mut headers = [const { MaybeUninit::uninit() }; HEADER_COUNT_MAX];
        let headers = &mut headers[..limits.header_count.min(HEADER_COUNT_MAX)];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(&buf[start..], headers);
        let (Ok(httparse::Status::Complete(length)), Some(method), Some(target)) =
            (parsed, request.method, request.path)
        else {
            return false;
        };
        self.bytes = start + length;
        self.method = Method::of(method.as_bytes());
        self.method_text = Span::within(buf, method.as_bytes());
        self.target = Span::within(buf, target.as_bytes());
        self.version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
        // httparse skips empty lines of its own, ended by a bare LF.
        self.method_text.start as usize == start
            && self.bytes <= limits.head_bytes
            && method.len() <= METHOD_BYTES_MAX
            && target.len() <= limits.target_bytes
            && self.fields.read(&buf[..self.bytes], request.headers)
    }

    /// The meaning.
    fn judge(&mut self, buf: &[u8]) -> Result<(), HeadError> {
        let target = self.target.of(buf);
        let target = Target::of(self.method, target).ok_or_else(|| refusal(self.method, target))?;
        self.form = target.form;
        self.path_span = self.target.slice(target.path.0, target.path.1);
        self.authority = self.target.slice(target.authority.0, target.authority.1);
        self.check_host(buf)?;
        if self.fields.has_refused_name() {
            return Err(HeadError::Underscore);
        }
        let (coding, length) = (self.fields.coding(buf), self.fields.length(buf));
        self.body = request_body(self.version, self.method, coding, length)?;
        let options = self.fields.options;
        if options.is_excessive {
            return Err(HeadError::ConnectionOptions);
        }
        self.is_persistent = is_persistent(self.version, options);
        self.is_upgrade = options.has_upgrade
            && self.version == Version::Http11
            && self.fields.has(FieldName::Upgrade)
            && self.offers_a_tunnel(buf);
        self.expects_continue = false;
        self.has_empty_expect = false;
        if self.fields.has(FieldName::Expect) && self.version == Version::Http11 {
            self.read_expect(buf)?;
        }
        self.max_forwards = None;
        if self.fields.has(FieldName::MaxForwards)
            && matches!(self.method, Method::Options | Method::Trace)
        {
            self.read_max_forwards(buf)?;
        }
        Ok(())
    }

    /// One valid Host. None at all, or an empty one, is for a target that names the host itself,
    /// see [`RequestHead::fault_of_server`]; and none for HTTP/1.0 (RFC 9112 §3.2).
    fn check_host(&mut self, buf: &[u8]) -> Result<(), HeadError> {
        match self.fields.find(FieldName::Host) {
            None if self.version == Version::Http10 || !self.authority.is_empty() => Ok(()),
            None => Err(HeadError::HostMissing),
            Some(_) if self.fields.has_many(FieldName::Host) => Err(HeadError::HostRepeated),
            Some(host) if is_authority(host.value.of(buf), Port::Optional) => {
                if self.authority.is_empty() {
                    self.authority = host.value;
                }
                Ok(())
            }
            Some(host) if host.value.is_empty() && !self.authority.is_empty() => Ok(()),
            Some(_) => Err(HeadError::HostInvalid),
        }
    }

    /// Whether no protocol that is offered is HTTP itself.
    fn offers_a_tunnel(&self, buf: &[u8]) -> bool {
        let is_http = |protocol: &[u8]| {
            let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            is(b"h2c") || is(b"h2") || is(b"http") || is(b"tls")
        };
        let mut offers = self.fields.all(FieldName::Upgrade).map(|field| field.value.of(buf));
        offers
            .all(|value| elements(value).all(|protocol| !protocol.is_empty() && !is_http(protocol)))
    }

    fn read_max_forwards(&mut self, buf: &[u8]) -> Result<(), HeadError> {
        for field in self.fields.all(FieldName::MaxForwards) {
            let forwards = decimal(field.value.of(buf)).ok_or(HeadError::MaxForwards)?;
            if self.max_forwards.replace(forwards).is_some() {
                return Err(HeadError::MaxForwards);
            }
        }
        Ok(())
    }
}

/// One response head. Meant to be re-used, as [`RequestHead`] is.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// May be empty, and need not be UTF-8.
    pub reason: Span,
    pub version: Version,
    pub fields: Fields,
    /// Length of the head.
    pub bytes: usize,
    pub body: BodyLength,
    /// Whether the origin lets the connection live on after this exchange.
    pub is_persistent: bool,
    pub has_date: bool,
    /// An Upgrade field is there and Connection names it.
    pub is_upgrade: bool,
    /// What of it was not as it should be, and taken all the same.
    pub repairs: Repairs,
    /// Why the last one was refused, and how it began.
    pub refused: Option<Box<str>>,
    lines: HeadLines,
    /// What all the rest was read from, as an answer to a request with this method.
    cache: ParsedCache,
    seen_for: Method,
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseHead {
    pub fn new() -> Self {
        Self {
            status: 0,
            reason: Span::EMPTY,
            version: Version::default(),
            fields: Fields::default(),
            bytes: 0,
            body: BodyLength::Empty,
            is_persistent: false,
            has_date: false,
            is_upgrade: false,
            repairs: Repairs::NONE,
            refused: None,
            lines: HeadLines::new(Kind::Response),
            cache: ParsedCache::nothing(),
            seen_for: Method::default(),
        }
    }

    /// As [`RequestHead::want`].
    pub fn want(&mut self, interest: Option<Arc<FieldInterest>>) {
        self.fields.want(interest);
        self.cache.forget();
    }

    /// As [`RequestHead::reset`].
    pub fn reset(&mut self) {
        self.lines = HeadLines::new(Kind::Response);
    }

    /// As [`RequestHead::parse`]. `request` is the method of the request that is answered: what
    /// follows the head depends on it.
    pub fn parse(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        request: Method,
    ) -> Result<bool, HeadError> {
        if self.lines.is_new() && self.seen_for == request && self.cache.begins(buf, limits) {
            return Ok(true);
        }
        if self.lines.is_new() {
            self.cache.forget();
            self.fields.clear();
            self.bytes = 0;
        }
        let parsed = self.parse_on(buf, limits, request);
        if parsed != Ok(false) && !self.lines.is_new() {
            self.lines = HeadLines::new(Kind::Response);
        }
        if parsed == Ok(true) {
            self.cache.keep(&buf[..self.bytes], limits);
            self.seen_for = request;
        }
        parsed
    }

    /// Reads a head in normal form, whose sender had written it in another.
    pub(crate) fn parse_mended(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        request: Method,
        repairs: Repairs,
    ) -> Result<(), HeadError> {
        self.reset();
        let parsed = self.parse(buf, limits, request);
        // What looks the same may come from a sender that means it.
        self.cache.forget();
        if parsed? {
            self.repairs = self.repairs.and(repairs);
            self.is_persistent &= !repairs.touch_framing();
            return Ok(());
        }
        debug_assert!(false, "a mended head is complete");
        Err(HeadError::StatusLine)
    }

    /// As [`RequestHead::repeated`].
    #[inline]
    pub(crate) fn repeated(&self) -> Option<u32> {
        self.cache.repeated()
    }

    fn parse_on(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        request: Method,
    ) -> Result<bool, HeadError> {
        if !self.lines.is_new() && !self.lines.advance(buf, limits)? {
            return Ok(false);
        }
        if self.read(buf, limits) {
            return self.judge(buf, request).map(|()| true);
        }
        if self.lines.advance(buf, limits)? {
            debug_assert!(false, "httparse and lines disagree");
            return Err(HeadError::StatusLine);
        }
        Ok(false)
    }

    /// The syntax. False: incomplete or refused.
    fn read(&mut self, buf: &[u8], limits: &HeadLimits) -> bool {
        let mut headers = [const { MaybeUninit::uninit() }; HEADER_COUNT_MAX];
        let headers = &mut headers[..limits.header_count.min(HEADER_COUNT_MAX)];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            buf,
            headers,
        );
        let (Ok(httparse::Status::Complete(length)), Some(status)) = (parsed, response.code) else {
            return false;
        };
        self.bytes = length;
        self.status = status;
        self.version = if response.version == Some(0) { Version::Http10 } else { Version::Http11 };
        // httparse would skip empty lines, which nothing allows a response to begin with.
        let is_strict = buf[0] == b'H'
            && length <= limits.head_bytes
            && (100..1000).contains(&status)
            && self.fields.read(&buf[..length], response.headers);
        if is_strict {
            // httparse gives no reason that is not ASCII. Its range follows from the line's:
            // "HTTP/1.1 200" has twelve bytes, and the fields follow the line's CRLF.
            let end = self.fields.lines.start - 2;
            self.reason = Span { start: end.min(13), end };
        }
        is_strict
    }

    /// The meaning.
    fn judge(&mut self, buf: &[u8], request: Method) -> Result<(), HeadError> {
        let (coding, length) = (self.fields.coding(buf), self.fields.length(buf));
        self.body = response_body(self.version, request, self.status, coding, length)?;
        let options = self.fields.options;
        if options.is_excessive {
            return Err(HeadError::ConnectionOptions);
        }
        self.is_persistent =
            is_persistent(self.version, options) && self.body != BodyLength::UntilClose;
        self.has_date = self.fields.has(FieldName::Date);
        self.repairs = Repairs::of_status(self.status);
        if is_bodiless_framed(self.status, coding, length) {
            // A body may follow that has no place here.
            self.repairs.add(Repair::BodilessFraming);
            self.is_persistent = false;
        }
        self.is_upgrade = options.has_upgrade && self.fields.has(FieldName::Upgrade);
        Ok(())
    }
}

/// Where the request line starts, behind the few empty lines that may come before it.
#[inline]
fn after_empty_lines(buf: &[u8]) -> usize {
    let mut start = 0;
    while start < 2 * EMPTY_LINES_MAX as usize && buf[start..].starts_with(b"\r\n") {
        start += 2;
    }
    start
}

/// RFC 9112 §9.3.
fn is_persistent(version: Version, options: ConnectionOptions) -> bool {
    match version {
        Version::Http11 | Version::Http2 => options.lifetime != Lifetime::Close,
        Version::Http10 => options.lifetime == Lifetime::KeepAlive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::framing::FramingError;

    const LIMITS: HeadLimits =
        HeadLimits { head_bytes: 4096, target_bytes: 1024, header_count: 100 };

    fn request(text: &[u8]) -> Result<RequestHead, HeadError> {
        let mut head = RequestHead::new();
        match head.parse(text, &LIMITS) {
            Ok(true) => Ok(head),
            Ok(false) => panic!("incomplete: {:?}", String::from_utf8_lossy(text)),
            Err(error) => Err(error),
        }
    }

    fn response(text: &[u8], method: Method) -> Result<ResponseHead, HeadError> {
        let mut head = ResponseHead::new();
        match head.parse(text, &LIMITS, method) {
            Ok(true) => Ok(head),
            Ok(false) => panic!("incomplete: {:?}", String::from_utf8_lossy(text)),
            Err(error) => Err(error),
        }
    }

    /// A request with a valid Host and these further lines.
    fn with_lines(lines: &str) -> Result<RequestHead, HeadError> {
        request(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes())
    }

    #[test]
    fn a_plain_request_is_taken_apart() {
        let text = b"GET /p?q=1 HTTP/1.1\r\nHost: example.org:80\r\nAccept:  */* \r\n\r\nrest";
        let head = request(text).unwrap();
        assert_eq!(head.method, Method::Get);
        assert_eq!(head.method_text.of(text), b"GET");
        assert_eq!(head.target.of(text), b"/p?q=1");
        assert_eq!(head.path(text), b"/p?q=1");
        assert_eq!(head.form, TargetForm::Origin);
        assert_eq!(head.authority.of(text), b"example.org:80");
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.bytes, text.len() - 4);
        assert_eq!(head.body, BodyLength::Empty);
        assert!(head.is_persistent);
        assert_eq!(head.fields.lines.of(text), b"Host: example.org:80\r\nAccept:  */* \r\n");
        let host = head.fields.find(FieldName::Host).unwrap();
        assert_eq!(host.line.of(text), b"Host: example.org:80\r\n");
        assert_eq!(host.value.of(text), b"example.org:80");
        assert!(!head.fields.has(FieldName::Connection));
    }

    #[test]
    fn syntax_that_readers_could_see_differently_is_refused() {
        use HeadError as E;
        let cases: &[(&str, E)] = &[
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", E::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", E::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", E::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\n\n", E::BareLf),
            ("GET / HTTP/1.1\r\nHost:\n a\r\n\r\n", E::BareLf),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::BareLf),
            ("GET / HTTP/1.1\r\nHost: a\r\n\rx", E::BareCr),
            ("GET / HTTP/1.1\rHost: a\r\n\r\n", E::BareCr),
            ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", E::BareCr),
            ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", E::BareCr),
            ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::BareCr),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\nHost: a\r\n\r\n", E::FoldedLine),
            ("GET / HTTP/1.1\r\nA: b\r\n\tc\r\nHost: a\r\n\r\n", E::FoldedLine),
            ("GET / HTTP/1.1\r\n A: b\r\nHost: a\r\n\r\n", E::FoldedLine),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", E::FieldName),
            ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", E::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", E::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n", E::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n", E::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nA\0: c\r\n\r\n", E::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nA\u{e9}: c\r\n\r\n", E::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n", E::FieldValue),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\x0bc\r\n\r\n", E::FieldValue),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\x7f\r\n\r\n", E::FieldValue),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", E::BadVersion),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", E::BadVersion),
            (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
            ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
            ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
            ("GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
            ("GET /\r\n", E::BadVersion),
            ("GET\r\n", E::Method),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", E::BadVersion),
            ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", E::BadVersion),
            ("GET / HTTP/11\r\nHost: a\r\n\r\n", E::BadVersion),
            ("GET / HTTP/1,1\r\nHost: a\r\n\r\n", E::BadVersion),
            ("GET / ICY/1.1\r\nHost: a\r\n\r\n", E::BadVersion),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::OtherVersion),
            ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", E::OtherVersion),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::OtherVersion),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::OtherVersion),
            ("\x16\x03\x01\x02", E::Method),
            ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::EmptyLines),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n", E::MethodTooLong),
        ];
        for &(text, error) in cases {
            assert_eq!(request(text.as_bytes()).err(), Some(error), "{text:?}");
        }
    }

    /// The last byte of each text is the wrong one.
    #[test]
    fn a_wrong_byte_is_refused_when_it_arrives() {
        let texts: &[&[u8]] = &[
            b"\x16",
            b"GET / HTTP/1.1\r\nA: b\n",
            b"GET / HTTP/1.1\r\nA: b\rc",
            b"GET / HTTP/1.1\r\nA: b\r\n ",
            b"GET / HTTP/1.1\r\nA: b\0",
            b"GET / HTTP/1.1\r\nA ",
            b"GET / HTTP/2.0",
            b"GET / X",
        ];
        for text in texts {
            let mut head = RequestHead::new();
            let (wrong, start) = text.split_last().unwrap();
            assert_eq!(head.parse(start, &LIMITS), Ok(false));
            assert!(head.parse(text, &LIMITS).is_err(), "{wrong} after {start:?}");
        }
    }

    #[test]
    fn host_is_there_once_and_valid() {
        use HeadError as E;
        let valid = [
            "a",
            "a.b",
            "a:1",
            "a:65535",
            "a:",
            "A-b_c~.d",
            "127.0.0.1:80",
            "[::1]",
            "[::ffff:1.2.3.4]:80",
            "!$&'()*+;=",
        ];
        for host in valid {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let head = request(text.as_bytes()).unwrap();
            assert_eq!(head.authority.of(text.as_bytes()), host.as_bytes());
        }
        let invalid = [
            "",
            ":80",
            "a:0",
            "a:65536",
            "a:123456",
            "a:+1",
            "a:8a",
            "a:80:80",
            "u@a",
            "u:p@a",
            "a b",
            "a/",
            "a?",
            "a#",
            "a\\b",
            "a,b",
            "a%20",
            "\u{e9}",
            "[::1",
            "::1",
            "[]",
            "[::1]x",
            "[::1%25eth0]",
            "[v1.a]",
            "[1.2.3.4]",
            "a\"b",
            "<a>",
            "a|b",
            "{a}",
        ];
        for host in invalid {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(request(text.as_bytes()).err(), Some(E::HostInvalid), "{host:?}");
        }
        let cases: &[(&str, E)] = &[
            ("GET / HTTP/1.1\r\n\r\n", E::HostMissing),
            ("GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n", E::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", E::HostRepeated),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhOST: b\r\n\r\n", E::HostRepeated),
            ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", E::HostRepeated),
            ("GET / HTTP/1.0\r\nHost:\r\n\r\n", E::HostInvalid),
        ];
        for &(text, error) in cases {
            assert_eq!(request(text.as_bytes()).err(), Some(error), "{text:?}");
        }
        // A target may name the host alone, and whether that will do is not for a parser.
        for (target, error) in [("GET http://a/", true), ("CONNECT a:1", false)] {
            for (host, fault) in [("", E::HostMissing), ("Host:\r\n", E::HostInvalid)] {
                let text = format!("{target} HTTP/1.1\r\n{host}\r\n");
                let head = request(text.as_bytes()).unwrap();
                assert_eq!(head.fault_of_server(text.as_bytes()), error.then_some(fault));
            }
        }
        assert!(request(b"GET / HTTP/1.0\r\n\r\n").unwrap().authority.is_empty());
    }

    #[test]
    fn who_asks_and_a_fragment_are_told_to_nobody() {
        let table = [
            ("http://a:1/b?c", "http://a:1/b?c", false),
            ("HTTPS://u:p@a:1/b?c", "HTTPS://a:1/b?c", true),
            ("http://u@a", "http://a", true),
            ("http://a#f", "http://a", false),
            ("http://u@a/b@c#f", "http://a/b@c", true),
            ("/a@b#f", "/a@b", false),
        ];
        for (target, expected, is_refused) in table {
            let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            let head = request(text.as_bytes()).unwrap();
            assert_eq!(*head.plain_target(text.as_bytes()), *expected.as_bytes());
            let fault = head.fault_of_server(text.as_bytes());
            assert_eq!(fault, is_refused.then_some(HeadError::TargetForm), "{target}");
        }
    }

    #[test]
    fn the_target_has_a_form_that_fits_the_method() {
        // Method, target, path, authority; Host is always "h".
        let valid = [
            ("GET", "/", "/", "h"),
            ("GET", "//b/c", "//b/c", "h"),
            ("GET", "/%00?a=b?c", "/%00?a=b?c", "h"),
            ("GET", "http://a", "/", "a"),
            ("GET", "HTTPS://a:1/b", "/b", "a:1"),
            ("GET", "http://a?b", "?b", "a"),
            ("GET", "http://[::1]:8/", "/", "[::1]:8"),
            ("GET", "http://u:p@a:1/b", "/b", "a:1"),
            ("GET", "http://@a", "/", "a"),
            ("GET", "http://u%40b@a?c@d", "?c@d", "a"),
            ("GET", "http://a#b", "/", "a"),
            ("GET", "http://a/b#c?d#e", "/b", "a"),
            ("GET", "/a#b", "/a", "h"),
            ("GET", "/#", "/", "h"),
            ("OPTIONS", "*#a", "*", "h"),
            ("OPTIONS", "*", "*", "h"),
            ("OPTIONS", "http://a", "*", "a"),
            ("OPTIONS", "http://a/", "/", "a"),
            ("CONNECT", "a:443", "", "a:443"),
            ("CONNECT", "[::1]:443", "", "[::1]:443"),
        ];
        for (method, target, path, authority) in valid {
            let text = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            let buf = text.as_bytes();
            let head = request(buf).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
            assert_eq!(head.path(buf), path.as_bytes(), "{text:?}");
            assert_eq!(head.authority.of(buf), authority.as_bytes(), "{text:?}");
        }
        let invalid = [
            ("GET", "*"),
            ("GET", "a"),
            ("GET", "a/b"),
            ("GET", "?a"),
            ("GET", "a:443"),
            ("GET", "/\u{e9}"),
            ("GET", "http:///a"),
            ("GET", "http://"),
            ("GET", "http:/a"),
            ("GET", "http:a"),
            ("GET", "ftp://a/"),
            ("GET", "http://u@b@a/"),
            ("GET", "http://u@/"),
            ("GET", "#a"),
            ("CONNECT", "u@a:1"),
            ("CONNECT", "a:1#b"),
            ("GET", "http://a b/"),
            ("GET", "http://a:99999/"),
            ("GET", "http://a\\@b/"),
            ("OPTIONS", "*a"),
            ("OPTIONS", "**"),
            ("CONNECT", "/"),
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "a:0"),
            ("CONNECT", "http://a:1/"),
            ("CONNECT", "a:1/"),
            ("CONNECT", "*"),
        ];
        for (method, target) in invalid {
            let text = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            let status = request(text.as_bytes()).err().map(HeadError::status);
            assert_eq!(status, Some(400), "{text:?}");
        }
        let named = request(b"CONNECT user:word@a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
        assert_eq!(named.err(), Some(HeadError::TargetUser));
        let not_utf8 = request(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(not_utf8.err(), Some(HeadError::Target));
    }

    #[test]
    fn request_framing_is_one_of_three_or_refused() {
        use FramingError as F;
        let valid = [
            ("", BodyLength::Empty),
            ("Content-Length: 0\r\n", BodyLength::Exact(0)),
            ("content-length:5 \r\n", BodyLength::Exact(5)),
            ("Content-Length: 0005\r\n", BodyLength::Exact(5)),
            ("Content-Length: 9223372036854775807\r\n", BodyLength::Exact(i64::MAX as u64)),
            ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
            ("tRANSFER-eNCODING: \tCHUNKED\t\r\n", BodyLength::Chunked),
        ];
        for (lines, body) in valid {
            assert_eq!(with_lines(lines).map(|head| head.body), Ok(body), "{lines:?}");
        }
        let refused = [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", F::LengthAndCoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", F::LengthAndCoding),
            ("Transfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n", F::LengthAndCoding),
            ("Transfer-Encoding:\r\nContent-Length: 5\r\n", F::LengthAndCoding),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", F::LengthRepeated),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", F::LengthRepeated),
            ("Content-Length: 5, 5\r\n", F::LengthRepeated),
            ("Content-Length: 5,6\r\n", F::LengthRepeated),
            ("Content-Length: +5\r\n", F::LengthInvalid),
            ("Content-Length: -1\r\n", F::LengthInvalid),
            ("Content-Length: 0x5\r\n", F::LengthInvalid),
            ("Content-Length: 5 5\r\n", F::LengthInvalid),
            ("Content-Length: 5.0\r\n", F::LengthInvalid),
            ("Content-Length: \"5\"\r\n", F::LengthInvalid),
            ("Content-Length:\r\n", F::LengthInvalid),
            ("Content-Length: \t \r\n", F::LengthInvalid),
            ("Content-Length: 5;\r\n", F::LengthInvalid),
            ("Content-Length: \u{665}\r\n", F::LengthInvalid),
            ("Content-Length: 9223372036854775808\r\n", F::LengthInvalid),
            ("Content-Length: 18446744073709551621\r\n", F::LengthInvalid),
            ("Content-Length: 99999999999999999999999\r\n", F::LengthInvalid),
            ("Transfer-Encoding: identity\r\n", F::CodingInvalid),
            ("Transfer-Encoding: xchunked\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunkedx\r\n", F::CodingInvalid),
            ("Transfer-Encoding: \"chunked\"\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked;x\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked;q=1\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked, chunked\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked, identity\r\n", F::CodingInvalid),
            ("Transfer-Encoding: identity, chunked\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked,\r\n", F::CodingInvalid),
            ("Transfer-Encoding: ,chunked\r\n", F::CodingInvalid),
            ("Transfer-Encoding:\r\n", F::CodingInvalid),
            ("Transfer-Encoding: gzip\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked, gzip\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked\u{b}\r\n", F::CodingInvalid),
            ("Transfer-Encoding: gzip, chunked, gzip\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", F::CodingInvalid),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n", F::CodingInvalid),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", F::CodingUnsupported),
            ("Transfer-Encoding: gzip, chunked\r\n", F::CodingUnsupported),
            ("Transfer-Encoding: X-GZIP ,\tChunked\r\n", F::CodingUnsupported),
        ];
        for (lines, error) in refused {
            match with_lines(lines) {
                // The vertical tab stops it before framing is looked at.
                Err(HeadError::FieldValue) if lines.contains('\u{b}') => {}
                Err(refusal) => assert_eq!(refusal, HeadError::Framing(error), "{lines:?}"),
                Ok(_) => panic!("taken: {lines:?}"),
            }
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(request(old).err(), Some(HeadError::Framing(F::CodingInHttp10)));
        let trace = b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(request(trace).err(), Some(HeadError::Framing(F::BodyForbidden)));
    }

    #[test]
    fn bounds_hold_from_both_sides() {
        let limits = HeadLimits { head_bytes: 60, target_bytes: 5, header_count: 2 };
        let parse = |text: &str| RequestHead::new().parse(text.as_bytes(), &limits);
        assert_eq!(parse("GET /1234 HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(true));
        assert_eq!(parse("GET /12345 HTTP/1.1\r\nHost: a\r\n\r\n"), Err(HeadError::TargetTooLong));
        assert_eq!(parse("GET /12345"), Err(HeadError::TargetTooLong));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"), Ok(true));
        assert_eq!(
            parse("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\n\r\n"),
            Err(HeadError::TooManyFields)
        );
        let sized = |bytes: usize| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\nA: ";
            format!("{start}{}\r\n\r\n", "b".repeat(bytes - start.len() - 4))
        };
        assert_eq!(parse(&sized(60)), Ok(true));
        assert_eq!(parse(&sized(61)), Err(HeadError::HeadTooLarge));
        assert_eq!(parse(&sized(80)[..60]), Ok(false));
        assert_eq!(parse(&sized(80)[..61]), Err(HeadError::HeadTooLarge));
    }

    #[test]
    fn more_fields_than_the_hard_bound_are_refused_whatever_the_limit_says() {
        let limits = HeadLimits { head_bytes: 1 << 20, target_bytes: 5, header_count: 100_000 };
        let parse = |count: usize| {
            let text = format!("GET / HTTP/1.0\r\n{}\r\n", "A: b\r\n".repeat(count));
            RequestHead::new().parse(text.as_bytes(), &limits)
        };
        assert_eq!(parse(HEADER_COUNT_MAX), Ok(true));
        assert_eq!(parse(HEADER_COUNT_MAX + 1), Err(HeadError::TooManyFields));
    }

    #[test]
    fn persistence_follows_version_and_connection() {
        let cases = [
            ("HTTP/1.1", "", true),
            ("HTTP/1.1", "Connection: close\r\n", false),
            ("HTTP/1.1", "Connection: Keep-Alive, CLOSE\r\n", false),
            ("HTTP/1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("HTTP/1.1", "Connection: closed\r\n", true),
            ("HTTP/1.0", "", false),
            ("HTTP/1.0", "Connection: keep-alive\r\n", true),
            ("HTTP/1.0", "Connection: close, keep-alive\r\n", false),
            ("HTTP/1.0", "Proxy-Connection: keep-alive\r\n", false),
        ];
        for (version, lines, is_persistent) in cases {
            let text = format!("GET / {version}\r\nHost: a\r\n{lines}\r\n");
            let head = request(text.as_bytes()).unwrap();
            assert_eq!(head.is_persistent, is_persistent, "{text:?}");
        }
    }

    #[test]
    fn connection_names_only_what_is_not_essential() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nX-B: 3\r\nCookie: c\r\n\
            X-Forwarded-Foo: d\r\nConnection: X-a, host, cookie,,x-forwarded-foo, close\r\n\r\n";
        let head = request(text).unwrap();
        let named: Vec<_> =
            head.fields.all(FieldName::Named).map(|field| field.line.of(text)).collect();
        assert_eq!(named, [&b"X-A: 1\r\n"[..], b"x-a: 2\r\n"]);

        let many = format!("Connection: {}\r\n", "a,".repeat(31));
        assert!(with_lines(&many).is_ok());
        let too_many = format!("Connection: {}\r\n", "a,".repeat(32));
        assert_eq!(with_lines(&too_many).err(), Some(HeadError::ConnectionOptions));
    }

    #[test]
    fn expectations_upgrades_and_max_forwards_are_read() {
        let expects = |text: &str| request(text.as_bytes()).map(|head| head.expects_continue);
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n";
        assert_eq!(expects(&format!("{post}Expect: 100-Continue\r\n\r\n")), Ok(true));
        assert_eq!(expects(&format!("{post}Expect: 200-ok\r\n\r\n")), Err(HeadError::Expectation));
        assert_eq!(
            expects("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"),
            Ok(false)
        );
        assert_eq!(
            expects("POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"),
            Ok(false)
        );

        let upgrade = with_lines("Connection: upgrade\r\nUpgrade: websocket\r\n").unwrap();
        assert!(upgrade.is_upgrade);
        assert!(!with_lines("Upgrade: websocket\r\n").unwrap().is_upgrade);
        assert!(!with_lines("Connection: upgrade\r\n").unwrap().is_upgrade);

        let forwards = |method: &str, value: &str| {
            let text = format!("{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {value}\r\n\r\n");
            request(text.as_bytes()).map(|head| head.max_forwards)
        };
        assert_eq!(forwards("TRACE", "3"), Ok(Some(3)));
        assert_eq!(forwards("OPTIONS", "0"), Ok(Some(0)));
        assert_eq!(forwards("GET", "x"), Ok(None));
        assert_eq!(forwards("TRACE", "x"), Err(HeadError::MaxForwards));
    }

    #[test]
    fn a_plain_response_is_taken_apart() {
        let text = b"HTTP/1.1 200 Very OK\r\nContent-Length: 3\r\nDate: today\r\n\r\nabc";
        let head = response(text, Method::Get).unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.reason.of(text), b"Very OK");
        assert_eq!(head.body, BodyLength::Exact(3));
        assert_eq!(head.bytes, text.len() - 3);
        assert!(head.is_persistent && head.has_date);
        for (line, reason) in [
            (&b"HTTP/1.1 200"[..], &b""[..]),
            (b"HTTP/1.1 200 ", b""),
            (b"HTTP/1.0 200 \xe9t\xe9", b"\xe9t\xe9"),
        ] {
            for fields in [&b""[..], b"A: b\r\n"] {
                let text = [line, b"\r\n", fields, b"\r\n"].concat();
                let head = response(&text, Method::Get).unwrap();
                assert_eq!(head.reason.of(&text), reason);
                assert_eq!(head.body, BodyLength::UntilClose);
                assert!(!head.is_persistent && !head.has_date);
            }
        }
    }

    #[test]
    fn responses_are_held_to_the_same_syntax() {
        use HeadError as E;
        let cases: &[(&str, E)] = &[
            ("HTTP/1.1 200 OK\n\r\n", E::BareLf),
            ("HTTP/1.1 200\n\r\n", E::BareLf),
            ("HTTP/1.1 200 OK\r\nA: b\n\r\n", E::BareLf),
            ("HTTP/1.1 200 OK\r\nA: b\r\n\n", E::BareLf),
            ("HTTP/1.1 200 OK\rA: b\r\n\r\n", E::BareCr),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", E::FoldedLine),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", E::FieldName),
            ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", E::FieldValue),
            ("HTTP/1.1 200 O\0K\r\n\r\n", E::StatusLine),
            ("HTTP/1.1 099 OK\r\n\r\n", E::StatusLine),
            ("HTTP/1.1 000 OK\r\n\r\n", E::StatusLine),
            ("HTTP/1.1 2000 OK\r\n\r\n", E::StatusLine),
            ("HTTP/1.1 20 OK\r\n\r\n", E::StatusLine),
            ("HTTP/1.1  200 OK\r\n\r\n", E::StatusLine),
            ("HTTP/1.1\t200 OK\r\n\r\n", E::BadVersion),
            ("HTTP/1.2 200 OK\r\n\r\n", E::OtherVersion),
            ("HTTP/2 200 OK\r\n\r\n", E::BadVersion),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", E::BadVersion),
            ("ICY 200 OK\r\n\r\n", E::BadVersion),
            ("<html>", E::BadVersion),
        ];
        for &(text, error) in cases {
            assert_eq!(response(text.as_bytes(), Method::Get).err(), Some(error), "{text:?}");
        }
    }

    #[test]
    fn response_framing_depends_on_status_and_method() {
        use BodyLength as B;
        use FramingError as F;
        let chunked = "Transfer-Encoding: chunked\r\n";
        let length = "Content-Length: 5\r\n";
        let cases = [
            (Method::Get, 200, "", Ok(B::UntilClose)),
            (Method::Get, 200, length, Ok(B::Exact(5))),
            (Method::Get, 200, chunked, Ok(B::Chunked)),
            (Method::Head, 200, length, Ok(B::Empty)),
            (Method::Head, 200, chunked, Ok(B::Empty)),
            (Method::Head, 200, "", Ok(B::Empty)),
            (Method::Get, 304, length, Ok(B::Empty)),
            (Method::Get, 304, chunked, Ok(B::Empty)),
            (Method::Get, 204, length, Ok(B::Empty)),
            (Method::Get, 204, "", Ok(B::Empty)),
            (Method::Get, 204, chunked, Err(F::BodyForbidden)),
            (Method::Get, 100, "", Ok(B::Empty)),
            (Method::Get, 103, chunked, Err(F::BodyForbidden)),
            (Method::Get, 200, "Content-Length: 5, 5\r\n", Err(F::LengthRepeated)),
            (Method::Get, 200, "Content-Length: x\r\n", Err(F::LengthInvalid)),
            (Method::Head, 200, "Content-Length: x\r\n", Err(F::LengthInvalid)),
            (Method::Get, 200, "Transfer-Encoding: gzip, chunked\r\n", Err(F::CodingUnsupported)),
            (Method::Get, 200, "Transfer-Encoding: gzip\r\n", Err(F::CodingInvalid)),
        ];
        for (method, status, lines, body) in cases {
            let text = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
            let found = response(text.as_bytes(), method).map(|head| head.body);
            assert_eq!(found, body.map_err(HeadError::Framing), "{method:?} {text:?}");
        }
        let both = format!("HTTP/1.1 200 X\r\n{length}{chunked}\r\n");
        let refusal = response(both.as_bytes(), Method::Get).err();
        assert_eq!(refusal, Some(HeadError::Framing(F::LengthAndCoding)));
        let old = format!("HTTP/1.0 200 X\r\n{chunked}\r\n");
        let refusal = response(old.as_bytes(), Method::Get).err();
        assert_eq!(refusal, Some(HeadError::Framing(F::CodingInHttp10)));
    }

    /// What a parse of `text` leads to, cut into two parts and byte by byte.
    fn every_split<T: PartialEq + std::fmt::Debug>(text: &[u8], parse: impl Fn(&[usize]) -> T) {
        let whole = parse(&[text.len()]);
        for cut in 1..text.len() {
            assert_eq!(parse(&[cut, text.len()]), whole, "cut at {cut} of {text:?}");
        }
        let bytes: Vec<usize> = (1..=text.len()).collect();
        assert_eq!(parse(&bytes), whole, "byte by byte: {text:?}");
    }

    fn parse_request_to(text: &[u8], ends: &[usize]) -> Result<Option<(usize, Span)>, HeadError> {
        let mut head = RequestHead::new();
        for &end in ends {
            if head.parse(&text[..end], &LIMITS)? {
                return Ok(Some((head.bytes, head.fields.lines)));
            }
        }
        Ok(None)
    }

    fn parse_response_to(text: &[u8], ends: &[usize]) -> Result<Option<(usize, Span)>, HeadError> {
        let mut head = ResponseHead::new();
        for &end in ends {
            if head.parse(&text[..end], &LIMITS, Method::Get)? {
                return Ok(Some((head.bytes, head.fields.lines)));
            }
        }
        Ok(None)
    }

    /// httparse and `lines` must agree on every byte at every place, or a head's fate would
    /// depend on how it was split.
    #[test]
    fn every_byte_at_every_place_means_the_same_for_every_split() {
        let request =
            b"\r\nPUT /a?b HTTP/1.1\r\nHost: a:1\r\nX-Y:\t z \r\nContent-Length: 3\r\n\r\nabc";
        let response = b"HTTP/1.1 200 O K\r\nX-Y:\t z \r\nConnection: close\r\n\r\nabc";
        for at in 0..request.len() {
            for byte in 0..=255 {
                let mut text = request.to_vec();
                text[at] = byte;
                let whole = parse_request_to(&text, &[text.len()]);
                let bytes: Vec<usize> = (1..=text.len()).collect();
                assert_eq!(parse_request_to(&text, &bytes), whole, "{byte} at {at}");
            }
        }
        for at in 0..response.len() {
            for byte in 0..=255 {
                let mut text = response.to_vec();
                text[at] = byte;
                let whole = parse_response_to(&text, &[text.len()]);
                let bytes: Vec<usize> = (1..=text.len()).collect();
                assert_eq!(parse_response_to(&text, &bytes), whole, "{byte} at {at}");
            }
        }
        every_split(request, |ends| parse_request_to(request, ends));
        every_split(response, |ends| parse_response_to(response, ends));
    }

    #[test]
    fn a_head_is_reusable_after_success_and_after_failure() {
        let mut head = RequestHead::new();
        let first = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let second = b"GET /2 HTTP/1.1\r\nHost: b\r\n\r\n";
        assert_eq!(head.parse(&first[..20], &LIMITS), Ok(false));
        assert_eq!(head.parse(first, &LIMITS), Ok(true));
        assert!(!head.is_persistent);
        assert_eq!(head.parse(b"GET / HTTP/1.1\r\n\n", &LIMITS), Err(HeadError::BareLf));
        assert_eq!(head.parse(second, &LIMITS), Ok(true));
        assert!(head.is_persistent);
        assert_eq!(head.authority.of(second), b"b");
    }

    fn facts(head: &RequestHead) -> String {
        let RequestHead { method, form, target, authority, version, fields, bytes, body, .. } =
            head;
        format!(
            "{method:?} {form:?} {target:?} {authority:?} {version:?} {fields:?} {bytes} {body:?} \
             {} {} {:?} {}",
            head.is_persistent, head.expects_continue, head.max_forwards, head.is_upgrade
        )
    }

    const HEADS: [&str; 8] = [
        "GET /p?q=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
        "GET /p?q=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        "GET /p?q=2 HTTP/1.1\r\nHost: b\r\nAccept: */*\r\n\r\n",
        "\r\nGET /p?q=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 007\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ];

    #[test]
    fn what_a_head_says_does_not_depend_on_the_one_before_it() {
        for before in HEADS {
            for text in HEADS {
                let mut head = RequestHead::new();
                let _ = head.parse(before.as_bytes(), &LIMITS);
                for _ in 0..2 {
                    head.reset();
                    let parsed = head.parse(format!("{text}behind it").as_bytes(), &LIMITS);
                    let fresh = request(text.as_bytes());
                    assert_eq!(parsed.map(|_| facts(&head)), fresh.map(|fresh| facts(&fresh)));
                }
            }
        }
    }

    #[test]
    fn a_head_that_differs_in_one_byte_is_read_anew() {
        for text in HEADS {
            for at in 0..text.len() {
                let mut other = text.as_bytes().to_vec();
                other[at] ^= 1;
                let mut head = RequestHead::new();
                let _ = head.parse(text.as_bytes(), &LIMITS);
                head.reset();
                let mut fresh = RequestHead::new();
                let parsed = head.parse(&other, &LIMITS);
                assert_eq!(parsed, fresh.parse(&other, &LIMITS), "{}", other.escape_ascii());
                if parsed == Ok(true) {
                    assert_eq!(facts(&head), facts(&fresh), "{}", other.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn a_head_that_was_seen_is_held_to_the_limits_of_now() {
        let mut head = RequestHead::new();
        let text = HEADS[0].as_bytes();
        assert_eq!(head.parse(text, &LIMITS), Ok(true));
        assert_eq!(head.parse(text, &LIMITS), Ok(true));
        let short = HeadLimits { target_bytes: 3, ..LIMITS };
        assert_eq!(head.parse(text, &short), Err(HeadError::TargetTooLong));
        assert_eq!(head.parse(text, &LIMITS), Ok(true));
    }

    #[test]
    fn nothing_of_the_message_before_is_left_when_none_has_come() {
        let mut head = RequestHead::new();
        assert_eq!(head.parse(HEADS[4].as_bytes(), &LIMITS), Ok(true));
        head.reset();
        head.settle();
        assert_eq!((head.method, head.bytes), (Method::Get, 0));
        assert!(!head.fields.has(FieldName::Host));
        assert_eq!(head.parse(HEADS[4].as_bytes(), &LIMITS), Ok(true));
        assert_eq!(head.method, Method::Post);
    }

    #[test]
    fn the_same_answer_means_something_else_for_another_method() {
        let mut head = ResponseHead::new();
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        for _ in 0..2 {
            for (method, body) in
                [(Method::Get, BodyLength::Exact(5)), (Method::Head, BodyLength::Empty)]
            {
                for _ in 0..2 {
                    head.reset();
                    assert_eq!(head.parse(text, &LIMITS, method), Ok(true));
                    assert_eq!(head.body, body);
                }
            }
        }
    }
}
