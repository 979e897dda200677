//! Finds the fields of a head that a proxy must know, in one pass.
//!
//! In come the lines that httparse found; out come, as ranges, the few of them that frame, route or
//! concern the connection, and those that hooks ask for. All others are lines between
//! these and are sent on as they came. What is not there costs one test of a bit. Nothing is
//! copied.

use std::sync::Arc;

use httparse::Header;

use super::Span;
use super::framing::{Coding, Length};
use super::interest::{FieldInterest, Names, OnlyKnown};
use super::names::{Candidate, FieldName, FieldNameSet, elements, is_essential, is_name, trim};
use crate::limits::CONNECTION_OPTIONS_MAX;

/// One field line, as ranges of the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// From the name to the CRLF, which is included.
    pub line: Span,
    /// Without the white space around it.
    pub value: Span,
    pub known: FieldName,
}

/// The fields of one head that a proxy must know, in their order.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// All field lines of the head, the unknown ones included.
    pub lines: Span,
    list: Vec<Field>,
    /// The classes in `list`.
    known: FieldNameSet,
    /// The classes that more than one field in `list` has.
    repeated: FieldNameSet,
    pub(crate) options: ConnectionOptions,
    /// Names that are noted beside the known ones, in this head and those read after it.
    interest: Option<Arc<FieldInterest>>,
    /// What becomes of names with a `_`.
    underscores: Underscores,
}

/// What becomes of a request's fields whose names have a `_`, which readers of CGI's kind take for
/// a `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They are fields like any other.
    Keep,
    /// Those that would be taken for a field that is known or wanted are noted as shadows.
    #[default]
    DropShadowing,
    /// All are noted so.
    DropAll,
    /// A head that has one is refused.
    Refuse,
}

impl Fields {
    /// Whether the fields called as `wanted` has it are noted.
    #[inline]
    pub fn notes(&self, interest: &Arc<FieldInterest>) -> bool {
        self.interest.as_ref().is_some_and(|own| Arc::ptr_eq(own, interest))
    }

    pub(crate) fn want(&mut self, interest: Option<Arc<FieldInterest>>) {
        self.interest = interest;
    }

    pub(crate) fn set_underscores(&mut self, underscores: Underscores) {
        self.underscores = underscores;
    }

    /// Whether the head has a name that is not let in.
    #[inline]
    pub(crate) fn has_refused_name(&self) -> bool {
        self.underscores == Underscores::Refuse && self.has(FieldName::Shadow)
    }

    /// Whether there is a field of this class.
    #[inline]
    pub fn has(&self, known: FieldName) -> bool {
        self.known.has(known)
    }

    /// Whether there is a field of one of these classes.
    #[inline]
    pub(crate) fn has_any(&self, classes: FieldNameSet) -> bool {
        self.known.meets(classes)
    }

    /// Whether there is more than one.
    #[inline]
    pub fn has_many(&self, known: FieldName) -> bool {
        self.repeated.has(known)
    }

    /// The first field of this class.
    #[inline]
    pub fn find(&self, known: FieldName) -> Option<&Field> {
        self.all(known).next()
    }

    /// As [`Fields::find`], for what is mostly not there.
    #[inline]
    pub(crate) fn find_if_any(&self, known: FieldName) -> Option<&Field> {
        if self.has(known) { self.find(known) } else { None }
    }

    /// The field of this class, where there is one and no more.
    pub fn only(&self, known: FieldName) -> Option<&Field> {
        self.find(known).filter(|_| !self.has_many(known))
    }

    /// The fields of this class.
    #[inline]
    pub fn all(&self, known: FieldName) -> impl DoubleEndedIterator<Item = &Field> {
        self.list.iter().filter(move |field| field.known == known)
    }

    /// The fields of these classes.
    #[inline]
    pub fn any(&self, classes: FieldNameSet) -> impl Iterator<Item = &Field> {
        self.list.iter().filter(move |field| classes.has(field.known))
    }

    /// The values of all fields called `name`, for names that no class is for: a walk over every
    /// line of the head.
    pub fn values<'a>(&self, head: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.lines.of(head).split(|byte| *byte == b'\n');
        lines.filter_map(move |line| {
            let (start, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            let value = value.strip_suffix(b"\r").unwrap_or(value);
            start.eq_ignore_ascii_case(name).then(|| trim(value))
        })
    }

    /// The value of the field called `name`, where there is one and no more.
    pub fn only_value<'a>(&self, head: &'a [u8], name: &'a [u8]) -> Option<&'a [u8]> {
        let mut values = self.values(head, name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }

    pub(crate) fn clear(&mut self) {
        self.lines = Span::EMPTY;
        if self.list.capacity() > FIELDS_KEPT {
            self.list = Vec::new();
        }
        self.list.clear();
        self.known = FieldNameSet::EMPTY;
        self.repeated = FieldNameSet::EMPTY;
        self.options = ConnectionOptions::default();
    }

    /// Reads the fields of `head`, which ends where the last line does. False: a line does not end
    /// in CRLF.
    pub(crate) fn read(&mut self, head: &[u8], headers: &[Header]) -> bool {
        let Some(interest) = self.interest.take() else {
            return self.read_by(OnlyKnown, head, headers);
        };
        let is_strict = self.read_by(&*interest, head, headers);
        self.interest = Some(interest);
        is_strict
    }

    fn read_by(&mut self, names: impl Names, head: &[u8], headers: &[Header]) -> bool {
        self.clear();
        // httparse lets a bare LF end a line. No CR can stand in a line, so the byte before a
        // line's LF tells; a field line starts with its name.
        let end = head.len() - 2;
        let mut is_strict = head[end] == b'\r' && line_ends(head, end);
        for (at, header) in headers.iter().enumerate() {
            let name = header.name.as_bytes();
            is_strict &= line_ends(head, offset(head, name));
            if let Some(candidate) = names.candidate(name) {
                self.note(names, candidate, head, headers, at);
            }
        }
        self.lines = Span { start: line_start(head, headers, 0), end: end as u32 };
        if self.has(FieldName::Connection) {
            self.read_connection(head, headers);
        }
        if matches!(self.underscores, Underscores::DropAll | Underscores::Refuse) {
            self.add_underscored(head, headers);
        }
        is_strict
    }

    /// Notes one field. Kept out of the loop over all fields, most of which are of no interest:
    /// inlined, it costs that loop its registers.
    #[inline(never)]
    fn note(
        &mut self,
        names: impl Names,
        candidate: Candidate,
        head: &[u8],
        headers: &[Header],
        at: usize,
    ) {
        let known = names.class(candidate, headers[at].name.as_bytes());
        let is_passed_over = match known {
            FieldName::Other => true,
            FieldName::Shadow => self.underscores == Underscores::Keep,
            _ => false,
        };
        if !is_passed_over {
            if self.known.has(known) {
                self.repeated = self.repeated.with(known);
            }
            self.push(known, head, headers, at);
        }
    }

    fn push(&mut self, known: FieldName, head: &[u8], headers: &[Header], at: usize) {
        let line =
            Span { start: line_start(head, headers, at), end: line_start(head, headers, at + 1) };
        self.known = self.known.with(known);
        self.list.push(Field { line, value: Span::within(head, headers[at].value), known });
    }

    fn read_connection(&mut self, head: &[u8], headers: &[Header]) {
        let mut options = ConnectionOptions::default();
        for field in self.all(FieldName::Connection) {
            options.add(field.value.of(head));
        }
        self.options = options;
        if options.has_names && !options.is_excessive {
            self.add_named(head, headers);
        }
    }

    /// Adds the fields that Connection names.
    fn add_named(&mut self, head: &[u8], headers: &[Header]) {
        for (at, header) in headers.iter().enumerate() {
            let name = header.name.as_bytes();
            let is_named = self.all(FieldName::Connection).any(|field| {
                elements(field.value.of(head)).any(|option| option.eq_ignore_ascii_case(name))
            });
            if is_named && !is_essential(name) {
                self.push(FieldName::Named, head, headers, at);
            }
        }
        self.list.sort_unstable_by_key(|field| (field.line.start, field.known as u8));
        // What is wanted and named as well is hop-by-hop first of all, and stands before itself.
        self.list.dedup_by_key(|field| field.line.start);
    }

    /// Adds all fields whose names have a `_`.
    fn add_underscored(&mut self, head: &[u8], headers: &[Header]) {
        for (at, header) in headers.iter().enumerate() {
            if header.name.contains('_') {
                self.push(FieldName::Shadow, head, headers, at);
            }
        }
        // The class of a shadow comes before all but hop-by-hop ones, which go as well.
        self.list.sort_unstable_by_key(|field| (field.line.start, field.known as u8));
        self.list.dedup_by_key(|field| field.line.start);
    }

    /// What the Content-Length fields say. One with leading zeros is legal, but not sent on as it
    /// came.
    #[inline]
    pub(crate) fn length(&mut self, head: &[u8]) -> Length {
        if self.has_many(FieldName::ContentLength) {
            return Length::Repeated;
        }
        if !self.has(FieldName::ContentLength) {
            return Length::Absent;
        }
        let found = self.list.iter_mut().find(|field| field.known == FieldName::ContentLength);
        let Some(field) = found else { return Length::Absent };
        let value = field.value.of(head);
        if value.len() > 1 && value[0] == b'0' {
            field.known = FieldName::PaddedLength;
            self.known = self.known.with(FieldName::PaddedLength);
        }
        Length::of(value)
    }

    /// What the Transfer-Encoding fields say.
    #[inline]
    pub(crate) fn coding(&self, head: &[u8]) -> Coding {
        if !self.has(FieldName::TransferEncoding) {
            return Coding::Absent;
        }
        let fields = self.all(FieldName::TransferEncoding);
        fields.fold(Coding::Absent, |coding, field| coding.and(field.value.of(head)))
    }
}

/// Room for so many fields is kept from head to head, in every connection. Heads with more are rare
/// and mostly hostile: they pay for it themselves.
const FIELDS_KEPT: usize = 16;

/// Where `part`, a sub-slice of `head`, starts in it.
#[inline]
fn offset(head: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - head.as_ptr() as usize
}

/// Where a field's line starts, or the empty line behind all of them.
#[inline]
fn line_start(head: &[u8], headers: &[Header], at: usize) -> u32 {
    match headers.get(at) {
        Some(header) => offset(head, header.name.as_bytes()) as u32,
        None => head.len() as u32 - 2,
    }
}

/// Whether a CRLF ends right before `at`, given that an LF does.
#[inline]
fn line_ends(head: &[u8], at: usize) -> bool {
    head.get(at.wrapping_sub(2)) == Some(&b'\r')
}

/// What the Connection fields of one head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionOptions {
    pub lifetime: Lifetime,
    pub has_upgrade: bool,
    /// It names fields that are not hop-by-hop anyway, nor essential.
    has_names: bool,
    /// It has more elements than are looked at.
    pub is_excessive: bool,
    /// Elements seen so far, empty ones included.
    count: usize,
}

/// Whether the sender means to go on with the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lifetime {
    #[default]
    Unsaid,
    KeepAlive,
    /// Wins over `KeepAlive` (RFC 9112 §9.3).
    Close,
}

impl ConnectionOptions {
    /// Adds what one field with this value says.
    fn add(&mut self, value: &[u8]) {
        // Nearly every value there is.
        if is_name(value, b"keep-alive") || is_name(value, b"close") {
            self.add_option(value);
        } else {
            elements(value).take(CONNECTION_OPTIONS_MAX + 1).for_each(|it| self.add_option(it));
        }
    }

    fn add_option(&mut self, option: &[u8]) {
        self.count += 1;
        self.is_excessive |= self.count > CONNECTION_OPTIONS_MAX;
        if is_name(option, b"close") {
            self.lifetime = Lifetime::Close;
        } else if is_name(option, b"keep-alive") {
            if self.lifetime == Lifetime::Unsaid {
                self.lifetime = Lifetime::KeepAlive;
            }
        } else if is_name(option, b"upgrade") {
            self.has_upgrade = true;
        } else if !option.is_empty() && !is_essential(option) {
            self.has_names = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{HeadLimits, RequestHead};

    const LIMITS: HeadLimits =
        HeadLimits { head_bytes: 1 << 16, target_bytes: 100, header_count: 256 };

    #[test]
    fn a_head_full_of_known_fields_does_not_keep_its_memory() {
        let mut head = RequestHead::new();
        let full = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "Via: 1.1 b\r\n".repeat(200));
        assert_eq!(head.parse(full.as_bytes(), &LIMITS), Ok(true));
        assert_eq!(head.fields.all(FieldName::Via).count(), 200);
        assert_eq!(head.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &LIMITS), Ok(true));
        assert!(head.fields.list.capacity() <= FIELDS_KEPT);
    }

    #[test]
    fn a_few_known_fields_keep_their_place() {
        let mut head = RequestHead::new();
        let text = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-a\r\nX-A: 1\r\nVia: 1.1 b\r\n\r\n";
        assert_eq!(head.parse(text, &LIMITS), Ok(true));
        let place = head.fields.list.as_ptr();
        for _ in 0..10 {
            assert_eq!(head.parse(text, &LIMITS), Ok(true));
            assert_eq!(
                head.fields.list.as_ptr(),
                place,
                "a head that is re-used allocates nothing"
            );
        }
    }

    #[test]
    fn named_fields_stand_among_the_others_in_their_order() {
        let mut head = RequestHead::new();
        let text = b"GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nX-B: 2\r\nConnection: x-b, x-a\r\n\r\n";
        assert_eq!(head.parse(text, &LIMITS), Ok(true));
        let known: Vec<FieldName> = head.fields.list.iter().map(|field| field.known).collect();
        assert_eq!(
            known,
            [FieldName::Named, FieldName::Host, FieldName::Named, FieldName::Connection]
        );
    }
}
