//! Edits to a head that is about to be sent.
//!
//! In: what the configuration wants done to fields, compiled once. Out: a head edited, in one of
//! two ways that come to the same. A head that is passed on is edited while it is written, by a
//! [`Pen`]: the reader has noted the fields that edits name, so that nothing is looked for again.
//! Any other is edited when it is there ([`Edits::apply`]), in one pass over its lines. Fields that
//! frame the message are never among those edited (the configuration refuses them), no value ends
//! its line, and a value that comes out empty leaves its field out. Nothing is allocated but the
//! growth of the buffer, and of a second one for fields that are renamed.

use std::sync::Arc;

use super::changes::{edit_lines, is_called};
use super::request_view::{Context, HookState, RequestView, put_field};
use crate::config::HeadersConfig;
use crate::config::hooks::{Part, Template};
use crate::http::edit::Edit;
use crate::http::fields::Fields;
use crate::http::forwarded_header::Introduction;
use crate::http::interest::FieldInterest;
use crate::http::names::{FieldName, FieldNameSet, is_name};

/// The edits to one head.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    fates: Vec<Fate>,
    tail: Vec<Piece>,
    /// The classes of the fields that have a fate.
    asks: FieldNameSet,
    /// Fields that the proxy says by itself have one.
    names_ours: bool,
    noting: Noting,
}

/// Which heads can be edited without a look for the fields that have a fate.
#[derive(Clone, Debug, Default)]
enum Noting {
    /// None: not every name can be noted.
    #[default]
    None,
    /// Those that were read by these names.
    OfInterest(Arc<FieldInterest>),
    /// All: the reader of a head notes these fields anyway.
    All,
}

/// What becomes of the fields with one name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fate {
    /// In lower case.
    name: Box<[u8]>,
    /// `None`: they go.
    renamed: Option<Box<[u8]>>,
}

/// Lines that are added, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Whole lines, rendered once.
    Block(Box<[u8]>),
    Line {
        /// With the colon and space behind it.
        name: Box<[u8]>,
        value: Template,
    },
    Own(Own),
}

/// Lines that only a request can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// Those in `HookState::granted` with this name, which is in lower case.
    Granted(Box<[u8]>),
    /// What is left of a rate limit: the one of this layer, and its policy line.
    RateLimit { layer: usize, policy: Box<[u8]> },
    /// The origin that may read the answer.
    AllowedOrigin { origins: Box<[Box<str>]>, rest: Box<[u8]> },
    /// The cookie of a new cohort: what stands before its value, and behind it.
    Cohort { before: Box<[u8]>, behind: Box<[u8]> },
}

/// What was wanted, in the order in which it is to be done.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// With the name as it was given.
    fates: Vec<Fate>,
    /// In lower case: of whom the lines are, where they have one name.
    tail: Vec<(Box<[u8]>, Wish)>,
}

#[derive(Debug)]
enum Wish {
    Value(Box<str>, Template),
    Own(Own),
}

impl Wishes {
    /// The fields called so go, and those that would have been added.
    pub(crate) fn remove(&mut self, name: &str) {
        let lower = lower(name);
        // What was to be called so by now goes too.
        for fate in &mut self.fates {
            let is_target =
                fate.renamed.as_deref().is_some_and(|to| to.eq_ignore_ascii_case(&lower));
            if is_target {
                fate.renamed = None;
            }
        }
        self.decide(&lower, None);
        self.tail.retain(|(owner, _)| *owner != lower);
    }

    pub(crate) fn set(&mut self, name: &str, value: Template) {
        self.remove(name);
        self.add(name, value);
    }

    pub(crate) fn add(&mut self, name: &str, value: Template) {
        self.tail.push((lower(name), Wish::Value(name.into(), value)));
    }

    pub(crate) fn add_own(&mut self, name: &str, own: Own) {
        self.tail.push((lower(name), Wish::Own(own)));
    }

    /// The fields called `from` are called `to`, and take the place of any that were.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if from.eq_ignore_ascii_case(to) {
            return;
        }
        self.remove(to);
        let (from, lower_to) = (lower(from), lower(to));
        for fate in &mut self.fates {
            if fate.renamed.as_deref().is_some_and(|it| it.eq_ignore_ascii_case(&from)) {
                fate.renamed = Some(to.as_bytes().into());
            }
        }
        self.decide(&from, Some(to.as_bytes().into()));
        for (owner, wish) in &mut self.tail {
            if *owner == from
                && let Wish::Value(name, _) = wish
            {
                *name = to.into();
                owner.clone_from(&lower_to);
            }
        }
    }

    pub(crate) fn all(&mut self, config: &HeadersConfig) {
        for (from, to) in &config.rename {
            self.rename(from, to);
        }
        for name in &config.remove {
            self.remove(name);
        }
        for (name, value) in &config.set {
            self.set(name, value.clone());
        }
        for (name, value) in &config.add {
            self.add(name, value.clone());
        }
    }

    /// What has been decided of a name stays: by now its fields are gone, or called otherwise.
    fn decide(&mut self, name: &[u8], renamed: Option<Box<[u8]>>) {
        if !self.fates.iter().any(|fate| *fate.name == *name) {
            self.fates.push(Fate { name: name.into(), renamed });
        }
    }

    pub(crate) fn compile(self) -> Edits {
        let mut edits = Edits { fates: self.fates, ..Edits::default() };
        for (_, wish) in self.tail {
            match wish {
                Wish::Value(name, value) => edits.push_line(&name, value),
                Wish::Own(own) => edits.tail.push(Piece::Own(own)),
            }
        }
        edits
    }
}

fn lower(name: &str) -> Box<[u8]> {
    name.to_ascii_lowercase().into_bytes().into()
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.fates.is_empty() && self.tail.is_empty()
    }

    /// Memory that the compiled edits take.
    pub fn bytes(&self) -> usize {
        let fates = self.fates.iter().map(|fate| {
            size_of::<Fate>() + fate.name.len() + fate.renamed.as_ref().map_or(0, |it| it.len())
        });
        let pieces = self.tail.iter().map(|piece| {
            size_of::<Piece>()
                + match piece {
                    Piece::Block(text) => text.len(),
                    Piece::Line { name, value } => name.len() + value.parts.len() * 32,
                    Piece::Own(_) => 0,
                }
        });
        fates.sum::<usize>() + pieces.sum::<usize>()
    }

    fn push_line(&mut self, name: &str, value: Template) {
        let Some(text) = value.fixed() else {
            let name = format!("{name}: ").into_bytes().into();
            self.tail.push(Piece::Line { name, value });
            return;
        };
        let line = format!("{name}: {text}\r\n").into_bytes();
        match self.tail.last_mut() {
            Some(Piece::Block(block)) => *block = [block, line.as_slice()].concat().into(),
            _ => self.tail.push(Piece::Block(line.into())),
        }
    }

    /// The names of fields that have a fate, in lower case.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.fates.iter().map(|fate| &*fate.name)
    }

    /// Says by which names heads will be read, and what the proxy tells of clients by itself.
    pub(super) fn read_by(&mut self, interest: &Arc<FieldInterest>, said: Introduction) {
        let classes = self.fates.iter().map(|fate| interest.class(&fate.name));
        self.asks = classes.clone().fold(FieldNameSet::EMPTY, FieldNameSet::with);
        self.names_ours = classes.clone().any(|class| said.may_say(class));
        self.noting = if self.asks.has(FieldName::Other) {
            Noting::None
        } else if self.asks.has(FieldName::OfInterest) || self.asks.has(FieldName::ClientIp) {
            Noting::OfInterest(interest.clone())
        } else {
            Noting::All
        };
    }

    /// What edits a head while it is written, if the reader of `fields` has noted all that it
    /// takes.
    pub(super) fn pen<'a>(
        &'a self,
        fields: &Fields,
        route: &'a str,
        view: &'a RequestView<'a>,
        state: &'a HookState,
    ) -> Option<Pen<'a>> {
        let is_noted = match &self.noting {
            Noting::None => false,
            Noting::OfInterest(interest) => fields.notes(interest),
            Noting::All => true,
        };
        is_noted.then(|| Pen { edits: self, route, view, state, renamed: Vec::new() })
    }

    /// Edits the head that `out` ends with and that begins at `start`.
    pub fn apply(
        &self,
        out: &mut Vec<u8>,
        start: usize,
        route: &str,
        view: &RequestView<'_>,
        state: &HookState,
    ) {
        let mut renamed = Vec::new();
        if !self.fates.is_empty() {
            edit_lines(out, start, |line| self.keeps(line, is_called, &mut renamed));
        }
        if self.tail.is_empty() && renamed.is_empty() {
            return;
        }
        out.truncate(out.len() - LINE_END.len());
        out.extend_from_slice(&renamed);
        self.put_tail(out, route, view, state);
        out.extend_from_slice(LINE_END);
    }

    /// Whether a line stays; one that is renamed goes to `renamed`.
    #[inline]
    fn keeps(
        &self,
        line: &[u8],
        is_called: impl Fn(&[u8], &[u8]) -> bool,
        renamed: &mut Vec<u8>,
    ) -> bool {
        let Some(fate) = self.fates.iter().find(|fate| is_called(line, &fate.name)) else {
            return true;
        };
        if let Some(name) = &fate.renamed {
            renamed.extend_from_slice(name);
            renamed.extend_from_slice(&line[fate.name.len()..]);
        }
        false
    }

    fn put_tail(&self, out: &mut Vec<u8>, route: &str, view: &RequestView<'_>, state: &HookState) {
        for piece in &self.tail {
            match piece {
                Piece::Block(lines) => out.extend_from_slice(lines),
                Piece::Line { name, value } => {
                    // Most values are those of one variable, as they are.
                    if let [Part::Variable(variable)] = value.parts.as_slice()
                        && state.put_line(name, variable, route, view, out)
                    {
                        continue;
                    }
                    let line = out.len();
                    out.extend_from_slice(name);
                    let is_whole = state.expand(value, Context::Field, route, view, out);
                    end_line(out, line, name.len(), is_whole);
                }
                Piece::Own(own) => own.put(view, state, out),
            }
        }
    }
}

/// Edits for one head that is being written.
pub(super) struct Pen<'a> {
    edits: &'a Edits,
    route: &'a str,
    view: &'a RequestView<'a>,
    state: &'a HookState,
    /// Lines that stand at the end under other names.
    renamed: Vec<u8>,
}

impl Edit for Pen<'_> {
    #[inline]
    fn asks(&self) -> FieldNameSet {
        self.edits.asks
    }

    #[inline]
    fn keeps(&mut self, line: &[u8]) -> bool {
        self.edits.keeps(line, is_noted, &mut self.renamed)
    }

    #[inline]
    fn finish(&mut self, out: &mut Vec<u8>, added: usize) {
        if self.edits.names_ours {
            // The line end before them takes the place of a first line, which is never edited.
            let renamed = &mut self.renamed;
            edit_lines(out, added - 1, |line| self.edits.keeps(line, is_noted, renamed));
        }
        if !self.renamed.is_empty() {
            out.extend_from_slice(&self.renamed);
        }
        self.edits.put_tail(out, self.route, self.view, self.state);
    }
}

/// The same for names that [`FieldInterest`] has.
#[inline]
fn is_noted(line: &[u8], lower: &[u8]) -> bool {
    line.get(lower.len()) == Some(&b':') && is_name(&line[..lower.len()], lower)
}

/// Ends the line that began at `line`, or takes it back where there is no value behind its name.
fn end_line(out: &mut Vec<u8>, line: usize, name_bytes: usize, is_whole: bool) {
    let value = line + name_bytes;
    while out.len() > value && matches!(out.last(), Some(b' ' | b'\t')) {
        out.pop();
    }
    if is_whole && out.len() > value {
        out.extend_from_slice(LINE_END);
    } else {
        out.truncate(line);
    }
}

impl Own {
    fn put(&self, view: &RequestView<'_>, state: &HookState, out: &mut Vec<u8>) {
        match self {
            Self::Granted(name) => {
                for line in state.granted.split_inclusive(|byte| *byte == b'\n') {
                    if is_called(line, name) {
                        out.extend_from_slice(line);
                    }
                }
            }
            Self::RateLimit { layer, policy } => {
                if let Some(standing) = state.standings[*layer] {
                    out.extend_from_slice(policy);
                    standing.put(out);
                }
            }
            Self::AllowedOrigin { origins, rest } => {
                let Some(origin) = view.field("origin") else { return };
                if origins.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(origin)) {
                    out.extend_from_slice(b"Access-Control-Allow-Origin: ");
                    put_field(origin, out);
                    out.extend_from_slice(LINE_END);
                    out.extend_from_slice(rest);
                }
            }
            Self::Cohort { before, behind } => {
                if let Some(cohort) = &state.cohort {
                    out.extend_from_slice(before);
                    out.extend_from_slice(cohort);
                    out.extend_from_slice(behind);
                }
            }
        }
    }
}

const LINE_END: &[u8] = b"\r\n";

#[cfg(test)]
mod tests {
    use super::super::request_view::tests::with_facts;
    use super::*;
    use crate::config::hooks::Scope;

    fn template(text: &str) -> Template {
        Template::parse(text, Scope::Response).unwrap()
    }

    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nx-two: 2\r\nX-ONE: 3\r\n\
        X-Ones: 4\r\nAccept: */*\r\n\r\n";

    /// What `HEAD` is after the edits that `wish` makes.
    #[track_caller]
    fn edited(request: &str, wish: impl FnOnce(&mut Wishes)) -> String {
        let mut wishes = Wishes::default();
        wish(&mut wishes);
        let edits = wishes.compile();
        with_facts(request, |view| {
            let mut out = format!("before\r\n\r\n{HEAD}").into_bytes();
            edits.apply(&mut out, 10, "r", view, &HookState::default());
            let text = String::from_utf8(out).unwrap();
            text.strip_prefix("before\r\n\r\n").expect("untouched").to_owned()
        })
    }

    const REQUEST: &str = "GET /p HTTP/1.1\r\nHost: a\r\nX-Q: q\r\n\r\n";

    fn lines(text: &str) -> Vec<&str> {
        text.strip_suffix("\r\n\r\n").expect("the end of a head").split("\r\n").collect()
    }

    #[test]
    fn each_edit_does_what_it_says() {
        type Case = (fn(&mut Wishes), &'static [&'static str]);
        let table: [Case; 9] = [
            (|_| {}, &["Host: a", "X-One: 1", "x-two: 2", "X-ONE: 3", "X-Ones: 4", "Accept: */*"]),
            (|w| w.remove("X-One"), &["Host: a", "x-two: 2", "X-Ones: 4", "Accept: */*"]),
            (
                |w| w.set("X-Two", template("b")),
                &["Host: a", "X-One: 1", "X-ONE: 3", "X-Ones: 4", "Accept: */*", "X-Two: b"],
            ),
            (
                |w| w.add("X-Two", template("b")),
                &[
                    "Host: a",
                    "X-One: 1",
                    "x-two: 2",
                    "X-ONE: 3",
                    "X-Ones: 4",
                    "Accept: */*",
                    "X-Two: b",
                ],
            ),
            (
                |w| w.rename("X-One", "X-Much-Longer-Than-Before"),
                &[
                    "Host: a",
                    "x-two: 2",
                    "X-Ones: 4",
                    "Accept: */*",
                    "X-Much-Longer-Than-Before: 1",
                    "X-Much-Longer-Than-Before: 3",
                ],
            ),
            // A renamed field takes the place of those that were called so.
            (|w| w.rename("X-Two", "X-One"), &["Host: a", "X-Ones: 4", "Accept: */*", "X-One: 2"]),
            (|w| w.remove("accept"), &["Host: a", "X-One: 1", "x-two: 2", "X-ONE: 3", "X-Ones: 4"]),
            (
                |w| w.set("X-New", template("${path}")),
                &[
                    "Host: a",
                    "X-One: 1",
                    "x-two: 2",
                    "X-ONE: 3",
                    "X-Ones: 4",
                    "Accept: */*",
                    "X-New: /p",
                ],
            ),
            (
                |w| w.set("X-Two", template("${header.none}")),
                &["Host: a", "X-One: 1", "X-ONE: 3", "X-Ones: 4", "Accept: */*"],
            ),
        ];
        for (number, (wish, expected)) in table.into_iter().enumerate() {
            let text = edited(REQUEST, wish);
            assert_eq!(lines(&text)[1..], *expected, "{number}");
        }
    }

    #[test]
    fn a_later_edit_sees_what_an_earlier_one_did() {
        type Case = (fn(&mut Wishes), &'static [&'static str]);
        let table: [Case; 7] = [
            (
                |w| {
                    w.rename("X-One", "X-A");
                    w.set("X-One", template("5"));
                },
                &["X-A: 1", "X-A: 3"],
            ),
            (
                |w| {
                    w.set("X-A", template("1"));
                    w.remove("x-a");
                },
                &[],
            ),
            (
                |w| {
                    w.set("X-A", template("1"));
                    w.rename("X-A", "X-B");
                },
                &["X-B: 1"],
            ),
            (
                |w| {
                    w.rename("X-One", "X-A");
                    w.remove("X-A");
                },
                &[],
            ),
            (
                |w| {
                    w.rename("X-One", "X-A");
                    w.rename("X-A", "X-B");
                },
                &["X-B: 1", "X-B: 3"],
            ),
            (
                |w| {
                    w.remove("X-One");
                    w.rename("X-One", "X-A");
                },
                &[],
            ),
            (
                |w| {
                    w.add("X-A", template("1"));
                    w.set("X-A", template("2"));
                    w.add("X-A", template("3"));
                },
                &["X-A: 2", "X-A: 3"],
            ),
        ];
        for (number, (wish, expected)) in table.into_iter().enumerate() {
            let text = edited(REQUEST, wish);
            let added: Vec<_> = lines(&text)
                .into_iter()
                .filter(|line| line.starts_with("X-A") || line.starts_with("X-B"))
                .collect();
            assert_eq!(added, *expected, "{number}");
        }
    }

    #[test]
    fn fixed_lines_are_one_block() {
        let mut wishes = Wishes::default();
        wishes.add("X-A", template("1"));
        wishes.add("X-B", template("2"));
        wishes.add("X-C", template("${path}"));
        wishes.add("X-D", template("4"));
        let edits = wishes.compile();
        let [Piece::Block(first), Piece::Line { .. }, Piece::Block(last)] = edits.tail.as_slice()
        else {
            panic!("{edits:?}")
        };
        assert_eq!((&**first, &**last), (&b"X-A: 1\r\nX-B: 2\r\n"[..], &b"X-D: 4\r\n"[..]));
        assert!(edits.bytes() > 30);
    }

    #[test]
    fn no_request_can_bring_a_line_of_its_own() {
        // The parser lets none of these in; an edit must not rely on it.
        let hostile: [&[u8]; 6] = [
            b"a\r\nX-Evil: 1",
            b"a\nX-Evil: 1",
            b"a\rX-Evil: 1",
            b"a\0b",
            b"\r\n\r\n",
            b"\x7f\x1b",
        ];
        for value in hostile {
            let mut wishes = Wishes::default();
            wishes.set("X-A", template("${request_id}${upstream}"));
            let edits = wishes.compile();
            let state = HookState {
                upstream: Some(String::from_utf8_lossy(value).into()),
                ..HookState::default()
            };
            with_facts(REQUEST, |view| {
                let mut out = HEAD.as_bytes().to_vec();
                edits.apply(&mut out, 0, "r", view, &state);
                let text = String::from_utf8(out).unwrap();
                assert_eq!(text.matches("\r\n\r\n").count(), 1);
                let fields = lines(&text);
                assert!(fields.len() <= 8, "{text:?}");
                assert!(fields.iter().all(|line| !line.starts_with("X-Evil")), "{text:?}");
                assert!(!text.contains(['\0', '\x1b', '\x7f']));
            });
        }
    }

    #[test]
    fn a_line_is_found_wherever_it_lies() {
        let names: [&[&str]; 3] =
            [&["x-a"], &["x-a", "x-b", "via"], &["x-a", "via", "age", "te-x"]];
        for names in names {
            let mut wishes = Wishes::default();
            for name in names {
                wishes.remove(name);
            }
            wishes.rename("X-Old", "X-New");
            let edits = wishes.compile();
            for pad in 0..96 {
                let pad = "p".repeat(pad);
                let all = [
                    format!("Pad: {pad}"),
                    "X-A: 1".to_owned(),
                    "x-a: 2".to_owned(),
                    "X-Ab: 3".to_owned(),
                    format!("VIA: {pad}"),
                    "Age:".to_owned(),
                    "X-OLD: 4".to_owned(),
                    "Te-X: 5".to_owned(),
                    "X-A: 6".to_owned(),
                ];
                let head = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", all.join("\r\n"));
                let is_kept = |line: &String| {
                    let name = line.split(':').next().unwrap().to_ascii_lowercase();
                    name != "x-old" && !names.contains(&name.as_str())
                };
                let mut expected: Vec<_> = all.into_iter().filter(is_kept).collect();
                expected.push("X-New: 4".to_owned());
                with_facts(REQUEST, |view| {
                    let mut out = head.into_bytes();
                    edits.apply(&mut out, 0, "r", view, &HookState::default());
                    let text = String::from_utf8(out).unwrap();
                    assert_eq!(lines(&text)[1..], expected, "{names:?} {}", pad.len());
                });
            }
        }
    }

    #[test]
    fn a_head_of_any_shape_keeps_its_shape() {
        for head in ["GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 \r\nX-A: \r\n\r\n"] {
            let mut wishes = Wishes::default();
            wishes.remove("X-A");
            wishes.add("X-B", template("b"));
            let edits = wishes.compile();
            with_facts(REQUEST, |view| {
                let mut out = head.as_bytes().to_vec();
                edits.apply(&mut out, 0, "r", view, &HookState::default());
                let text = String::from_utf8(out).unwrap();
                assert_eq!(lines(&text)[1..], ["X-B: b"]);
            });
        }
    }
}
