//! The text format of Prometheus, version 0.0.4, as a writer.
//!
//! In go families, samples and histograms; out comes text in which every family stands in one
//! piece with its help and its type. A family without a sample leaves nothing behind. It knows
//! nothing of what the numbers mean.

use std::fmt::{Display, Write};

use hdrhistogram::Histogram;

use super::tally::Tally;
use crate::observe::traffic;

/// What the format is called.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of a histogram's buckets, in microseconds and as Prometheus has them.
const BOUNDS: [(u64, &str); 15] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
];

/// A label's name and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// The text that has been written so far.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// One family, as long as samples are added to it.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    is_begun: bool,
}

impl Exposition {
    /// A number that only grows. Its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.family(name, "counter", help)
    }

    /// A number that also falls.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// Durations in microseconds, as seconds.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        durations: &Histogram<u64>,
        sum_us: u64,
    ) {
        self.durations(name, help).durations(&[], durations, sum_us);
    }

    /// A family of histograms of durations.
    pub(super) fn durations(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    fn family(&mut self, name: &'static str, kind: &'static str, help: &'static str) -> Family<'_> {
        Family { text: &mut self.text, name, kind, help, is_begun: false }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    pub(super) fn put(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.sample("", labels, value);
    }

    /// Durations in microseconds, as seconds.
    pub(super) fn durations(
        &mut self,
        labels: &[Label<'_>],
        durations: &Histogram<u64>,
        sum_us: u64,
    ) {
        let with = |le: &'static str| [labels, &[("le", le)]].concat();
        for (bound_us, le) in BOUNDS {
            let count = durations.count_between(0, bound_us);
            self.sample("_bucket", &with(le), count);
        }
        self.sample("_bucket", &with("+Inf"), durations.len());
        self.sample("_sum", labels, sum_us as f64 / 1e6);
        self.sample("_count", labels, durations.len());
    }

    /// Durations that were counted by the bounds that are told.
    pub(super) fn buckets(&mut self, labels: &[Label<'_>], tally: &Tally) {
        let with = |le: &'static str| [labels, &[("le", le)]].concat();
        let bounds = traffic::BOUNDS.map(|(_, le)| le).into_iter().chain(["+Inf"]);
        let mut count = 0;
        for (le, more) in bounds.zip(tally.buckets) {
            count += more;
            self.sample("_bucket", &with(le), count);
        }
        self.sample("_sum", labels, tally.sum_us as f64 / 1e6);
        self.sample("_count", labels, count);
    }

    fn sample(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        let Self { text, name, kind, help, is_begun } = self;
        // Writing to a String does not fail.
        if !*is_begun {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            *is_begun = true;
        }
        text.push_str(name);
        text.push_str(suffix);
        for (index, (label, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(text, "{before}{label}=\"");
            put_escaped(text, value);
            text.push('"');
        }
        let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

fn put_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::observe::metrics::Latency;

    /// The samples of an exposition, by name with labels as written. Panics at what the format
    /// forbids.
    pub(in super::super) fn parse(text: &str) -> BTreeMap<String, f64> {
        assert!(text.ends_with('\n') || text.is_empty(), "no newline at the end");
        let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut family, mut kind) = ("", "");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(!help.contains('\\') && help.ends_with('.'), "{line}");
                assert!(families.insert(name), "{name} comes twice");
                assert!(is_name(name) && name.starts_with("ringway_"), "{name}");
                let rest = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).unwrap();
                (family, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(family, name);
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} in {family}"));
            let expected: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(expected.contains(&suffix), "{line}");
            check_labels(&series[name.len()..]);
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
        samples
    }

    fn is_name(name: &str) -> bool {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    }

    /// `{name="value",...}` or nothing.
    fn check_labels(labels: &str) {
        if labels.is_empty() {
            return;
        }
        let mut rest = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap();
        let mut names = BTreeSet::new();
        loop {
            let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
            assert!(is_name(name) && names.insert(name), "{labels}");
            let mut escaped = false;
            let end = after.find(|character| {
                let is_end = character == '"' && !escaped;
                escaped = character == '\\' && !escaped;
                is_end
            });
            rest = &after[end.unwrap_or_else(|| panic!("{labels}")) + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        assert_eq!(rest, "", "{labels}");
    }

    #[test]
    fn families_are_written_as_the_format_wants_them() {
        let mut out = Exposition::default();
        out.gauge("ringway_clients", "Connections.").put(&[], 3_u64);
        let mut family = out.counter("ringway_requests_total", "Requests.");
        family.put(&[("class", "2xx"), ("name", "a\"b\\c\nd")], 7_u64);
        family.put(&[("class", "5xx"), ("name", "é")], 0.5);
        let _ = out.gauge("ringway_nothing", "Without a sample.");
        let text = out.into_text();
        assert_eq!(
            text,
            "# HELP ringway_clients Connections.\n# TYPE ringway_clients gauge\n\
             ringway_clients 3\n\
             # HELP ringway_requests_total Requests.\n# TYPE ringway_requests_total counter\n\
             ringway_requests_total{class=\"2xx\",name=\"a\\\"b\\\\c\\nd\"} 7\n\
             ringway_requests_total{class=\"5xx\",name=\"é\"} 0.5\n"
        );
        assert_eq!(parse(&text).len(), 3);
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let latency = Latency::default();
        for us in [100, 400, 900, 2_000, 40_000, 700_000, 90_000_000] {
            latency.record(us);
        }
        let mut out = Exposition::default();
        let name = "ringway_request_duration_seconds";
        out.histogram(name, "Durations.", &latency.snapshot(), latency.sum_us());
        let samples = parse(&out.into_text());
        let bucket = |le: &str| samples[&format!("{name}_bucket{{le=\"{le}\"}}")];
        let expected = [
            ("0.0005", 2.0),
            ("0.001", 3.0),
            ("0.0025", 4.0),
            ("0.025", 4.0),
            ("0.05", 5.0),
            ("0.5", 5.0),
            ("1", 6.0),
            ("60", 6.0),
            ("+Inf", 7.0),
        ];
        for (le, count) in expected {
            assert_eq!(bucket(le), count, "{le}");
        }
        assert_eq!(samples[&format!("{name}_count")], 7.0);
        assert_eq!(samples[&format!("{name}_sum")], 90.7434);
        assert_eq!(samples.len(), BOUNDS.len() + 3);
        for (us, le) in BOUNDS {
            assert!((le.parse::<f64>().unwrap() * 1e6 - us as f64).abs() < 1e-3, "{le}");
        }
    }
}
