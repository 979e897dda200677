//! The results as text: a table, JSON, Markdown.
//!
//! In: outcomes. Out: strings, and the table on the screen. Computes nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::peers::Origin;
use super::scenarios::Measure;
use super::{Metric, Outcome, Results, Row};

/// Where it was measured, and when.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    date: String,
    has_counters: bool,
    /// Of the minute before the start.
    load_average: f64,
    origin: &'static str,
}

impl Machine {
    pub(crate) fn read(has_counters: bool, origin: &Origin) -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processor.lines().find_map(|line| line.strip_prefix("model name"));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load_average = load.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0);
        if load_average > 1.0 {
            eprintln!("compare: load average {load_average}: something else is running here");
        }
        Self {
            load_average,
            processor: model.unwrap_or("unknown").trim_start_matches(['\t', ' ', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            // What follows the number names a build, not a kernel.
            kernel: kernel.split('-').next().unwrap_or_default().trim().to_owned(),
            date: date
                .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
                .unwrap_or_default(),
            has_counters,
            origin: origin.text(),
        }
    }
}

/// A column: heading, metric, and by what the figure is divided.
type Column = (&'static str, Metric, f64);

const LOAD: &[Column] = &[
    ("CPU µs", Metric::CpuUs, 1.0),
    ("user", Metric::UserUs, 1.0),
    ("system", Metric::SystemUs, 1.0),
    ("kinstr user", Metric::InstructionsUser, 1e3),
    ("kinstr kernel", Metric::InstructionsKernel, 1e3),
    ("kcycles user", Metric::CyclesUser, 1e3),
    ("kcycles kernel", Metric::CyclesKernel, 1e3),
    ("requests/s", Metric::RequestsPerSecond, 1.0),
    ("MB/s", Metric::MbPerSecond, 1.0),
    ("p50 ms", Metric::P50Us, 1e3),
    ("p99 ms", Metric::P99Us, 1e3),
    ("switches", Metric::Switches, 1.0),
    ("peak MB", Metric::PeakBytes, 1e6),
];

const OPEN: &[Column] = &[
    ("offered/s", Metric::OfferedPerSecond, 1.0),
    ("CPU µs", Metric::CpuUs, 1.0),
    ("p50 ms", Metric::P50Us, 1e3),
    ("p99 ms", Metric::P99Us, 1e3),
    ("p99.9 ms", Metric::P999Us, 1e3),
    ("peak MB", Metric::PeakBytes, 1e6),
];

const HELD: &[Column] =
    &[("bytes each", Metric::HeldBytes, 1.0), ("peak MB", Metric::PeakBytes, 1e6)];

/// The columns of a scenario, the first of which is what its ratios are about.
fn columns(outcome: &Outcome) -> impl Iterator<Item = &'static Column> {
    let all = match outcome.scenario.measure {
        Measure::Load => LOAD,
        Measure::Idle | Measure::Slow => HELD,
        Measure::Open(_) => OPEN,
    };
    let is_known = |metric| outcome.rows.iter().any(|row: &Row| row.metrics.contains_key(metric));
    let known: Vec<_> = all.iter().filter(|(_, metric, _)| is_known(metric)).collect();
    known.into_iter()
}

/// What the ratio of a scenario is of.
pub(crate) fn headline(measure: Measure) -> Metric {
    match measure {
        Measure::Load => Metric::CpuUs,
        Measure::Idle | Measure::Slow => Metric::HeldBytes,
        Measure::Open(_) => Metric::P999Us,
    }
}

/// Heading and rows as cells.
fn cells(outcome: &Outcome) -> Vec<Vec<String>> {
    let headline = headline(outcome.scenario.measure);
    let mut heading = vec!["proxy".to_owned()];
    heading.extend(columns(outcome).map(|(name, ..)| (*name).to_owned()));
    heading.extend([
        "spread".to_owned(),
        outcome.reference.map_or_else(|| "ratio".to_owned(), |name| format!("to {name}")),
    ]);
    let mut table = vec![heading];
    for row in &outcome.rows {
        let mut cells = vec![row.peer.to_owned()];
        cells.extend(columns(outcome).map(|(_, metric, unit)| {
            row.metrics.get(metric).map_or_else(dash, |summary| figure(summary.median / unit))
        }));
        let main = row.metrics.get(&headline);
        cells.push(main.map_or_else(dash, |main| format!("±{:.0} %", main.spread_percent)));
        cells.push(main.and_then(|main| main.ratio).map_or_else(dash, |it| format!("{it:.2}")));
        table.push(cells);
    }
    table
}

fn dash() -> String {
    "-".to_owned()
}

/// Three digits that mean something, and no more after the point than that.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn failures(outcome: &Outcome) -> impl Iterator<Item = String> {
    outcome.rows.iter().filter(|row| row.failures > 0).map(|row| {
        let reason = row.reason.as_deref().unwrap_or("no reason");
        format!("{}: {} runs failed, the first because: {reason}", row.peer, row.failures)
    })
}

/// The table of one scenario, as soon as it is done.
pub(crate) fn print(outcome: &Outcome) {
    let table = cells(outcome);
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..table[0].len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = format!("\n{}: {}\n", outcome.scenario.name, outcome.scenario.text);
    for row in &table {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String does not fail.
            let _ = write!(text, "{cell:>width$}  ");
        }
        text.push('\n');
    }
    for failure in failures(outcome) {
        let _ = writeln!(text, "  {failure}");
    }
    // Whoever closed the pipe does not want the table.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The part of a recorded report that no run writes, with the line before it.
pub(crate) fn written_by_hand(report: &str) -> &str {
    report.find("\n## TLS: the budgets\n").map_or("", |start| &report[start..])
}

pub(crate) fn json(results: &Results) -> String {
    let metrics = |row: &Row| -> Map<String, Value> {
        let name = |metric: &Metric| json!(metric).as_str().unwrap_or_default().to_owned();
        row.metrics.iter().map(|(metric, summary)| (name(metric), json!(summary))).collect()
    };
    let row = |row: &Row| {
        json!({
            "peer": row.peer,
            "failures": row.failures,
            "reason": row.reason,
            "metrics": metrics(row),
        })
    };
    let scenario = |outcome: &Outcome| {
        json!({
            "name": outcome.scenario.name,
            "text": outcome.scenario.text,
            "reference": outcome.reference,
            "peers": outcome.rows.iter().map(row).collect::<Vec<_>>(),
        })
    };
    let version = |(name, version): &(&str, String)| ((*name).to_owned(), json!(version));
    let all = json!({
        "machine": results.machine,
        "rounds": results.rounds,
        "seconds": results.seconds,
        "versions": results.peers.iter().map(version).collect::<Map<_, _>>(),
        "absent": results.absent,
        "scenarios": results.outcomes.iter().map(scenario).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}

pub(crate) fn markdown(results: &Results) -> String {
    let machine = &results.machine;
    let versions: Vec<_> =
        results.peers.iter().map(|(name, version)| format!("- {name}: {version}")).collect();
    let counters = if machine.has_counters {
        "Instructions and cycles are those of the processor's counters."
    } else {
        "Instructions: not available on this machine, which has no hardware counters."
    };
    let mut text = format!(
        "# Results\n\nWritten by `cargo bench --bench compare` on {}, Linux {}, {} cores of {}. \
         Proxies on one core, load (`ringway bench`) and origin ({}) on another. Medians of \
         {} interleaved rounds of {:.1} s (bulk, idle and slow have lengths of their own). The \
         ratio, and the spread as half the range in percent of the median, are of the first \
         column; for open-* of p99.9. CPU is that of the proxy's processes for one request. The \
         load average was {} at the start: above 1, something else was running, and rates and \
         latencies are not to be trusted. {counters}\n\n{}\n",
        machine.date,
        machine.kernel,
        machine.cores,
        machine.processor,
        machine.origin,
        results.rounds,
        results.seconds,
        machine.load_average,
        versions.join("\n"),
    );
    if !results.absent.is_empty() {
        let _ = writeln!(text, "- not installed: {}", results.absent.join(", "));
    }
    text += "\n![ratios](results.svg)\n";
    for outcome in &results.outcomes {
        let _ = writeln!(text, "\n## {}: {}\n", outcome.scenario.name, outcome.scenario.text);
        for (index, row) in cells(outcome).iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
        for failure in failures(outcome) {
            let _ = writeln!(text, "\n{failure}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (12_345.6, "12346")]
        {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn a_record_keeps_what_was_written_by_hand() {
        let by_hand = "\n## TLS: the budgets\n\nFigures.\n";
        assert_eq!(written_by_hand(&format!("# Results\n\n## idle\n{by_hand}")), by_hand);
        assert_eq!(written_by_hand("# Results\n"), "");
    }
}
