//! Texts with variables in them, such as `https://${host}${target}`.
//!
//! In: text from the file and what may stand in it. Out: a `Template`, or what was expected in its
//! place. `$$` is a dollar sign, and so is a `$` before anything but `{` and, in a replacement, a
//! digit. Nothing is filled in here: a value's bytes come from the network, and `crate::hooks`
//! knows which of them may stand where.

use std::fmt;

use crate::config::error::nearest;
use crate::config::names::is_token;

/// More parts are no template but a program.
const PARTS_MAX: usize = 64;

/// A text whose variables are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// No two texts stand side by side.
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    ClientIp,
    /// Of the request, without its port.
    Host,
    /// Without the query.
    Path,
    /// Without its question mark.
    Query,
    /// Path and query as they came.
    Target,
    Method,
    RequestId,
    Route,
    Upstream,
    Status,
    /// Of the request; in lower case.
    Header(Box<str>),
    /// Case matters.
    Cookie(Box<str>),
    /// Of the client's session; empty where it has none.
    Tls(TlsFact),
    /// A group of the pattern that this is a replacement for.
    Capture(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFact {
    Version,
    Cipher,
    /// The name that the client has asked for.
    Sni,
    /// Whether it has shown a certificate that is believed.
    ClientVerified,
    ClientSubject,
    ClientSan,
    ClientFingerprint,
}

/// Where a template stands, which says what is known there.
#[derive(Clone, Copy)]
pub enum Scope<'a> {
    /// Before an upstream has been chosen.
    Redirect,
    /// The same, with the groups of a pattern.
    Replacement(&'a regex::bytes::Regex),
    Request,
    Response,
}

const PLAIN: [(&str, Variable); 17] = [
    ("client_ip", Variable::ClientIp),
    ("host", Variable::Host),
    ("path", Variable::Path),
    ("query", Variable::Query),
    ("target", Variable::Target),
    ("method", Variable::Method),
    ("request_id", Variable::RequestId),
    ("route", Variable::Route),
    ("upstream", Variable::Upstream),
    ("status", Variable::Status),
    ("tls_version", Variable::Tls(TlsFact::Version)),
    ("tls_cipher", Variable::Tls(TlsFact::Cipher)),
    ("tls_sni", Variable::Tls(TlsFact::Sni)),
    ("tls_client_verified", Variable::Tls(TlsFact::ClientVerified)),
    ("tls_client_subject", Variable::Tls(TlsFact::ClientSubject)),
    ("tls_client_san", Variable::Tls(TlsFact::ClientSan)),
    ("tls_client_fingerprint", Variable::Tls(TlsFact::ClientFingerprint)),
];

impl Template {
    /// What was expected, in words, where `text` is no template.
    pub fn parse(text: &str, scope: Scope<'_>) -> Result<Self, String> {
        let mut template = Self::default();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            template.push_text(&rest[..dollar]);
            let after = &rest[dollar + 1..];
            let digits = match scope {
                Scope::Replacement(_) => after.bytes().take_while(u8::is_ascii_digit).count(),
                _ => 0,
            };
            if let Some(after) = after.strip_prefix('$') {
                template.push_text("$");
                rest = after;
            } else if let Some(after) = after.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or("a `}` behind every `${`")?;
                template.parts.push(Part::Variable(Variable::parse(name, scope)?));
                rest = after;
            } else if digits > 0 {
                let variable = Variable::parse(&after[..digits], scope)?;
                template.parts.push(Part::Variable(variable));
                rest = &after[digits..];
            } else {
                template.push_text("$");
                rest = after;
            }
            if template.parts.len() > PARTS_MAX {
                return Err(format!("at most {PARTS_MAX} variables and texts between them"));
            }
        }
        template.push_text(rest);
        Ok(template)
    }

    /// What is expected in place of a variable that has no value so early.
    pub(in crate::config) fn unknown_yet(name: &str) -> String {
        format!("no `{name}`, which is not known yet where this is used")
    }

    /// The text as it is: what stands in it is not known before `check` has seen the pattern that
    /// this is a replacement for.
    pub(in crate::config) fn unread(text: &str) -> Self {
        Self { parts: vec![Part::Text(text.into())] }
    }

    /// The text, if there is no variable in it.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text before the first variable.
    pub fn start(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    pub fn has(&self, wanted: &Variable) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Variable(variable) if variable == wanted))
    }

    fn push_text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(last)) => *last = format!("{last}{text}").into(),
            _ => self.parts.push(Part::Text(text.into())),
        }
    }
}

impl Variable {
    fn parse(name: &str, scope: Scope<'_>) -> Result<Self, String> {
        if let Scope::Replacement(regex) = scope
            && let Some(group) = group(regex, name)
        {
            return group.map(Self::Capture);
        }
        if let Some(field) = name.strip_prefix("header.") {
            let is_name = is_token(field);
            return is_name
                .then(|| Self::Header(field.to_ascii_lowercase().into()))
                .ok_or_else(|| "a field name behind `header.`".to_owned());
        }
        if let Some(cookie) = name.strip_prefix("cookie.") {
            let is_name = is_token(cookie);
            return is_name
                .then(|| Self::Cookie(cookie.into()))
                .ok_or_else(|| "a cookie's name behind `cookie.`".to_owned());
        }
        let known = PLAIN.iter().find(|(known, _)| *known == name).map(|(_, it)| it.clone());
        let is_known_here = |variable: &Self| match variable {
            Self::Status => matches!(scope, Scope::Response),
            Self::Upstream => matches!(scope, Scope::Request | Scope::Response),
            _ => true,
        };
        match known {
            Some(variable) if is_known_here(&variable) => Ok(variable),
            Some(_) => Err(Template::unknown_yet(name)),
            None => {
                let names = PLAIN.iter().map(|(known, _)| *known);
                Err(nearest(name, names.clone()).map_or_else(
                    || {
                        let names: Vec<_> = names.collect();
                        format!("one of {}, header.NAME, cookie.NAME", names.join(", "))
                    },
                    |nearest| format!("a known variable, did you mean `{nearest}`?"),
                ))
            }
        }
    }
}

impl fmt::Display for Template {
    /// As it could have been written.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_str(&text.replace('$', "$$"))?,
                Part::Variable(variable) => write!(out, "${{{variable}}}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(out, "header.{name}"),
            Self::Cookie(name) => write!(out, "cookie.{name}"),
            Self::Capture(group) => write!(out, "{group}"),
            plain => {
                let name = PLAIN.iter().find(|(_, variable)| variable == plain);
                out.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

/// The group that `name` means by its number or name, or what was expected of a number. `None` is
/// neither.
fn group(regex: &regex::bytes::Regex, name: &str) -> Option<Result<usize, String>> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return regex.capture_names().position(|group| group == Some(name)).map(Ok);
    }
    let count = regex.captures_len();
    let group = name.parse().ok().filter(|group| *group < count);
    Some(group.ok_or_else(|| format!("a group that the pattern has: 0 to {}", count - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn variable(variable: Variable) -> Part {
        Part::Variable(variable)
    }

    #[test]
    fn variables_stand_between_texts() {
        let table = [
            ("", vec![]),
            ("a", vec![text("a")]),
            ("${host}", vec![variable(Variable::Host)]),
            ("a${path}b", vec![text("a"), variable(Variable::Path), text("b")]),
            ("$$a$b$", vec![text("$a$b$")]),
            ("$${host}", vec![text("${host}")]),
            ("$1", vec![text("$1")]),
            ("${header.X-A}", vec![variable(Variable::Header("x-a".into()))]),
            ("${cookie.Sid}", vec![variable(Variable::Cookie("Sid".into()))]),
            (
                "${status}${upstream}",
                vec![variable(Variable::Status), variable(Variable::Upstream)],
            ),
        ];
        for (written, parts) in table {
            assert_eq!(
                Template::parse(written, Scope::Response).unwrap().parts,
                parts,
                "{written}"
            );
        }
    }

    #[test]
    fn a_replacement_names_the_groups_of_its_pattern() {
        let regex = regex::bytes::Regex::new("^/(a)/(?<host>b)$").unwrap();
        let scope = Scope::Replacement(&regex);
        let parsed = Template::parse("/$2/${1}x$0${host}${path}", scope).unwrap();
        let groups: Vec<_> = parsed
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Variable(Variable::Capture(group)) => Some(*group),
                _ => None,
            })
            .collect();
        assert_eq!(groups, [2, 1, 0, 2]);
        assert!(parsed.has(&Variable::Path) && !parsed.has(&Variable::Host));
        let error = Template::parse("/$3", scope).unwrap_err();
        assert_eq!(error, "a group that the pattern has: 0 to 2");
    }

    #[test]
    fn what_is_no_template_says_what_was_expected() {
        let table = [
            ("${host", "a `}` behind every `${`"),
            ("${}", "one of client_ip, host,"),
            ("${hots}", "a known variable, did you mean `host`?"),
            ("${header.}", "a field name behind `header.`"),
            ("${header.a b}", "a field name behind `header.`"),
            ("${cookie.;}", "a cookie's name behind"),
            ("${status}", "no `status`, which is not known yet"),
            (&"a${host}".repeat(50), "at most 64 variables"),
        ];
        for (written, expected) in table {
            let error = Template::parse(written, Scope::Request).unwrap_err();
            assert!(error.starts_with(expected), "{written}: {error}");
        }
        assert!(Template::parse("${upstream}", Scope::Request).is_ok());
        assert!(Template::parse("${upstream}", Scope::Redirect).is_err());
    }
}
