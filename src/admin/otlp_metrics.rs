//! The metrics of `/metrics`, as OTLP wants them.
//!
//! In goes the text that Prometheus reads; out come metrics with their points. The text is our own
//! and so well formed: that way each figure is gathered, named and explained once. What is not
//! understood is left out.

/// Names and values.
type Labels = Vec<(String, String)>;

/// One family of `/metrics`.
#[derive(Debug, PartialEq)]
pub(super) struct Metric {
    pub name: String,
    pub help: String,
    pub kind: Kind,
    pub points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    Histogram,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Point {
    pub labels: Labels,
    /// The sum, where it is a histogram.
    pub value: f64,
    pub buckets: Option<Buckets>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Buckets {
    pub count: u64,
    /// One more than bounds.
    pub counts: Vec<u64>,
    pub bounds: Vec<f64>,
    /// Up to the last bound.
    so_far: u64,
}

/// Reads the text format.
pub(super) fn read(text: &str) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    let mut help = "";
    let mut histogram = Point::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "gauge"));
            let kind = match kind {
                "counter" => Kind::Counter,
                "histogram" => Kind::Histogram,
                _ => Kind::Gauge,
            };
            let (name, help) = (name.to_owned(), help.to_owned());
            metrics.push(Metric { name, help, kind, points: Vec::new() });
        } else if let (Some(metric), Some((name, labels, value))) =
            (metrics.last_mut(), sample(line))
        {
            match (metric.kind, name.strip_prefix(metric.name.as_str())) {
                (Kind::Histogram, Some(part)) => {
                    if let Some(point) = put(&mut histogram, part, labels, value) {
                        metric.points.push(point);
                    }
                }
                (_, Some("")) => metric.points.push(Point { labels, value, buckets: None }),
                _ => {}
            }
        }
    }
    metrics.retain(|metric| !metric.points.is_empty());
    metrics
}

/// Takes one line of a histogram in; the histogram, where it was the last one.
fn put(histogram: &mut Point, part: &str, labels: Labels, value: f64) -> Option<Point> {
    let buckets = histogram.buckets.get_or_insert_default();
    match part {
        "_bucket" => {
            let (_, bound) = labels.iter().find(|(name, _)| name == "le")?;
            // Prometheus counts all up to a bound, OTLP those between two.
            let count = value as u64;
            buckets.counts.push(count.saturating_sub(buckets.so_far));
            buckets.so_far = count;
            if let Some(bound) = bound.parse().ok().filter(|bound: &f64| bound.is_finite()) {
                buckets.bounds.push(bound);
            }
            None
        }
        "_sum" => {
            histogram.value = value;
            None
        }
        _ => {
            buckets.count = value as u64;
            histogram.labels = labels;
            Some(std::mem::take(histogram))
        }
    }
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while let Some((label, after)) = rest.split_once("=\"") {
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = after;
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}')?;
    }
    Some((name, labels, rest.trim().parse().ok()?))
}

/// A label's value up to its quote, and what comes behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_family_is_read() {
        let text = "# HELP a_total All of it.\n# TYPE a_total counter\n\
                    a_total{to=\"x\\\"\\\\,}\\n\",by=\"y\"} 7\na_total 1\n\
                    # HELP b Some.\n# TYPE b gauge\nb 0.5\n\
                    # HELP c_seconds Times.\n# TYPE c_seconds histogram\n\
                    c_seconds_bucket{le=\"0.1\"} 1\nc_seconds_bucket{le=\"1\"} 3\n\
                    c_seconds_bucket{le=\"+Inf\"} 4\nc_seconds_sum 2.5\nc_seconds_count 4\n\
                    # HELP d None.\n# TYPE d gauge\n";
        let metrics = read(text);
        let names: Vec<_> = metrics.iter().map(|it| (it.name.as_str(), it.kind)).collect();
        assert_eq!(
            names,
            [("a_total", Kind::Counter), ("b", Kind::Gauge), ("c_seconds", Kind::Histogram)]
        );
        assert_eq!(metrics[0].help, "All of it.");
        let labels = [("to", "x\"\\,}\n"), ("by", "y")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(metrics[0].points[0].labels, labels);
        assert_eq!(metrics[0].points.len(), 2);
        assert!((metrics[1].points[0].value - 0.5).abs() < f64::EPSILON);
        let point = &metrics[2].points[0];
        let buckets = point.buckets.as_ref().unwrap();
        assert_eq!((buckets.count, &buckets.counts[..]), (4, &[1, 2, 1][..]));
        assert_eq!(buckets.bounds, [0.1, 1.0]);
        assert!((point.value - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        for line in ["", "a", "a{b=\"c} 1", "a{b=\"c\" 1", "a x"] {
            assert_eq!(sample(line), None, "{line}");
        }
    }
}
