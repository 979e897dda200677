//! What one check has found, and all of it as a table or as JSON.
//!
//! In: words and numbers of the checks. Out: text for people, one line per finding and three more
//! where something is to be done; JSON for programs; an exit code. Nothing here knows what any
//! check is about.

use std::fmt;

use serde::Serialize;

/// How bad it is. The order is that of the exit codes' importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    /// It costs a little, or only under a load that may never come.
    Hint,
    /// ringway runs with less than its configuration asks for.
    Warning,
    /// ringway would not run.
    Error,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Hint => "hint",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cure {
    /// Until the next start of the machine, or of ringway.
    pub now: String,
    /// For good.
    pub lasting: String,
}

impl Cure {
    pub(super) fn new(now: impl Into<String>, lasting: impl Into<String>) -> Self {
        Self { now: now.into(), lasting: lasting.into() }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub id: &'static str,
    pub severity: Severity,
    pub current: String,
    pub wanted: String,
    /// In one line.
    pub why: String,
    pub cure: Option<Cure>,
}

impl Finding {
    /// As it should be.
    pub(super) fn fine(id: &'static str, current: impl ToString, wanted: impl ToString) -> Self {
        Self {
            id,
            severity: Severity::Ok,
            current: current.to_string(),
            wanted: wanted.to_string(),
            why: String::new(),
            cure: None,
        }
    }

    /// What the kernel does not show to a process such as this one.
    pub(super) fn hidden(id: &'static str, wanted: impl ToString) -> Self {
        Self::fine(id, "not visible here", wanted)
    }

    pub(super) fn but(mut self, severity: Severity, why: impl Into<String>, cure: Cure) -> Self {
        self.severity = severity;
        self.why = why.into();
        self.cure = Some(cure);
        self
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The worst of all.
    pub severity: Severity,
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn of(findings: Vec<Finding>) -> Self {
        let severity = findings.iter().map(|finding| finding.severity).max();
        Self { severity: severity.unwrap_or(Severity::Ok), findings }
    }

    /// 0 where nothing needs to be done, 3 where ringway runs with less, 1 where it would not run.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.severity {
            Severity::Ok | Severity::Hint => 0,
            Severity::Warning => 3,
            Severity::Error => 1,
        }
    }

    /// One object, on one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Other people's processes and containers choose some of these words: none of them moves the
/// cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.id.len()).max().unwrap_or(0);
        for Finding { id, severity, current, wanted, why, cure } in &self.findings {
            let (severity, current) = (severity.name(), plain(current));
            write!(f, "{severity:<8} {id:<width$}  {current}")?;
            let Some(cure) = cure else {
                writeln!(f)?;
                continue;
            };
            writeln!(f, " (wanted: {})", plain(wanted))?;
            writeln!(f, "{:9}why: {}", "", plain(why))?;
            writeln!(f, "{:9}now: {}", "", plain(&cure.now))?;
            writeln!(f, "{:9}for good: {}", "", plain(&cure.lasting))?;
        }
        let [hints, warnings, errors] =
            [Severity::Hint, Severity::Warning, Severity::Error].map(|it| self.count(it));
        write!(
            f,
            "{} looked at: {errors} errors, {warnings} warnings, {hints} hints",
            self.findings.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(severities: &[Severity]) -> Report {
        let cure = || Cure::new("sysctl -w a=1", "echo a");
        let finding = |severity: &Severity| match severity {
            Severity::Ok => Finding::fine("short", 1, 1),
            other => Finding::fine("much_longer", 0, 1).but(*other, "because", cure()),
        };
        Report::of(severities.iter().map(finding).collect())
    }

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        use Severity::{Error, Hint, Ok, Warning};
        for (severities, code) in [
            (&[][..], 0),
            (&[Ok], 0),
            (&[Hint, Ok], 0),
            (&[Ok, Warning, Hint], 3),
            (&[Error, Warning], 1),
            (&[Warning, Error, Hint], 1),
        ] {
            assert_eq!(report(severities).exit_code(), code, "{severities:?}");
        }
    }

    #[test]
    fn a_table_says_what_to_do_only_where_something_is_to_be_done() {
        let expected = "ok       short        1\n\
                        hint     much_longer  0 (wanted: 1)\n         why: because\n         now: \
                        sysctl -w a=1\n         for good: echo a\n2 looked at: 0 errors, 0 \
                        warnings, 1 hints";
        assert_eq!(report(&[Severity::Ok, Severity::Hint]).to_string(), expected);
    }

    #[test]
    fn json_has_every_field() {
        let json: serde_json::Value =
            serde_json::from_str(&report(&[Severity::Warning]).json()).unwrap();
        let expected = serde_json::json!({
            "severity": "warning",
            "findings": [{
                "id": "much_longer",
                "severity": "warning",
                "current": "0",
                "wanted": "1",
                "why": "because",
                "cure": { "now": "sysctl -w a=1", "lasting": "echo a" },
            }],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_process_with_an_odd_name_does_not_move_the_cursor() {
        let report = Report::of(vec![Finding::fine("x", "\u{1b}[2Jname\n", "")]);
        assert!(report.to_string().starts_with("ok       x  ?[2Jname?\n"));
    }
}
