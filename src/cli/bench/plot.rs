//! The picture of a run: latency over percentiles and over time, and answers per second.
//!
//! In comes a tally; out comes one SVG, whose letters are drawn by the program that shows it, so
//! that no font is needed here. It opens nothing but the file that was named.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints, LogCoord, WithKeyPoints};
use plotters::prelude::*;

use super::tally::Tally;

const SIZE: (u32, u32) = (1000, 1200);

/// On an axis of latencies; with more of them only powers of ten are left.
const MARKS_MAX: usize = 12;

const US: f64 = 1000.0;

/// As far as the percentiles go: to five nines.
const NINES_MAX: f64 = 5.0;

const NINES_STEPS: u32 = 200;

const BLUE_LINE: RGBColor = RGBColor(31, 119, 180);
const ORANGE_LINE: RGBColor = RGBColor(255, 127, 14);
const RED_LINE: RGBColor = RGBColor(214, 39, 40);

/// Draws `tally` into `path`.
pub(super) fn draw(path: &Path, title: &str, tally: &Tally) -> Result<(), String> {
    let mut text = String::new();
    compose(&mut text, title, tally).map_err(|error| format!("--plot: {error}"))?;
    std::fs::write(path, text).map_err(|error| format!("--plot {}: {error}", path.display()))
}

type Fault = Box<dyn std::error::Error>;

fn compose(text: &mut String, title: &str, tally: &Tally) -> Result<(), Fault> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, rest) = root.split_vertically(SIZE.1 / 3);
    let (middle, lower) = rest.split_vertically(SIZE.1 / 3);
    percentiles(&upper, title, &tally.latency)?;
    course(&middle, tally)?;
    rates(&lower, tally)?;
    root.present()?;
    Ok(())
}

/// The x axis gives each nine the same room, because the tail is what is looked at.
fn percentiles(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    latency: &Histogram<u64>,
) -> Result<(), Fault> {
    let top = (latency.max() as f64 / US).max(1.0) * 1.1;
    let bottom = (latency.min() as f64 / US).clamp(0.1, top / 2.0) * 0.9;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..NINES_MAX, latencies(bottom, top))?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency")
        // One mark for each nine.
        .x_labels(NINES_MAX as usize + 1)
        .y_labels(MARKS_MAX)
        .x_label_formatter(&|nines| format!("{}", percent(*nines)))
        .y_label_formatter(&|us| mark(*us))
        .draw()?;
    let points = (0..=NINES_STEPS).map(|step| {
        let nines = f64::from(step) / f64::from(NINES_STEPS) * NINES_MAX;
        let us = latency.value_at_quantile(percent(nines) / 100.0) as f64 / US;
        (nines, us.max(bottom))
    });
    chart.draw_series(LineSeries::new(points, BLUE_LINE.stroke_width(2)))?;
    Ok(())
}

/// 1 is 90 %, 2 is 99 %, and so on.
fn percent(nines: f64) -> f64 {
    let percent = 100.0 - 100.0 / 10_f64.powf(nines);
    // As many digits as there are nines, and one more.
    (percent * 10_000.0).round() / 10_000.0
}

fn course(area: &DrawingArea<SVGBackend<'_>, Shift>, tally: &Tally) -> Result<(), Fault> {
    type Line = (&'static str, f64, RGBColor);
    const LINES: [Line; 3] =
        [("p50", 0.5, BLUE_LINE), ("p99", 0.99, ORANGE_LINE), ("max", 1.0, RED_LINE)];
    let Some(course) = &tally.course else { return Ok(()) };
    let end = course.iter().last().map_or(1.0, |(middle, _)| middle).max(0.1);
    let top = (tally.latency.max() as f64 / US).max(1.0) * 1.1;
    let bottom = (tally.latency.min() as f64 / US).clamp(0.1, top / 2.0) * 0.9;
    let mut chart = ChartBuilder::on(area)
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..end, latencies(bottom, top))?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("latency")
        .y_labels(MARKS_MAX)
        .y_label_formatter(&|us| mark(*us))
        .draw()?;
    for (name, quantile, colour) in LINES {
        let points = course.iter().map(|(at, latencies)| {
            (at, (latencies.value_at_quantile(quantile) as f64 / US).max(bottom))
        });
        let line = LineSeries::new(points, colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}

/// An axis of latencies, marked at 1, 2 and 5 of each power of ten.
fn latencies(bottom: f64, top: f64) -> WithKeyPoints<LogCoord<f64>> {
    let (first, last) = (bottom.log10().floor() as i32, top.log10().ceil() as i32);
    let of = |steps: &[f64]| -> Vec<f64> {
        let all =
            (first..=last).flat_map(|power| steps.iter().map(move |it| it * 10_f64.powi(power)));
        all.filter(|mark| (bottom..=top).contains(mark)).collect()
    };
    let marks = Some(of(&[1.0, 2.0, 5.0])).filter(|marks| marks.len() <= MARKS_MAX);
    let axis: LogCoord<f64> = (bottom..top).log_scale().into();
    axis.with_key_points(marks.unwrap_or_else(|| of(&[1.0])))
}

/// Of a latency that is a round one.
fn mark(us: f64) -> String {
    match us {
        _ if us < 1e3 => format!("{} us", rounded(us)),
        _ if us < 1e6 => format!("{} ms", rounded(us / 1e3)),
        _ => format!("{} s", rounded(us / 1e6)),
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// A stall is a dip here, and a few late answers above.
fn rates(area: &DrawingArea<SVGBackend<'_>, Shift>, tally: &Tally) -> Result<(), Fault> {
    let Some(course) = &tally.course else { return Ok(()) };
    let end = course.rates().last().map_or(1.0, |(middle, _)| middle).max(0.1);
    let top = course.rates().map(|(_, rate)| rate).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("answers per second")
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .draw()?;
    chart.draw_series(LineSeries::new(course.rates(), BLUE_LINE.stroke_width(2)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn svg(tally: &Tally) -> String {
        let mut text = String::new();
        compose(&mut text, "a <title>", tally).unwrap();
        text
    }

    #[test]
    fn a_picture_has_all_charts_and_escapes_its_title() {
        let mut tally = Tally::new(true);
        for step in 0..1_000_u32 {
            let (latency, after) = (Duration::from_micros(50), Duration::from_millis(5));
            tally.answered(200, latency * (step % 40 + 1), after * step);
        }
        let svg = svg(&tally);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for part in [
            "percentile",
            "seconds",
            "answers per second",
            "p99",
            "\n99.9\n",
            "a &lt;title&gt;",
            "<polyline",
        ] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert!(svg(&Tally::new(true)).starts_with("<svg"));
        assert!(svg(&Tally::new(false)).starts_with("<svg"));
    }

    #[test]
    fn latencies_are_marked_at_round_figures() {
        for (us, text) in [(0.5, "0.5 us"), (200.0, "200 us"), (5e3, "5 ms"), (2e6, "2 s")] {
            assert_eq!(mark(us), text);
        }
        let axis = latencies(300.0, 30_000.0);
        let marks: Vec<_> = axis.bold_points().iter().copied().map(mark).collect();
        assert_eq!(marks, ["500 us", "1 ms", "2 ms", "5 ms", "10 ms", "20 ms"]);
    }

    #[test]
    fn nines_are_percentiles() {
        for (nines, percentile) in [(0.0, 0.0), (1.0, 90.0), (2.0, 99.0), (3.0, 99.9)] {
            assert!((percent(nines) - percentile).abs() < 1e-9, "{nines}");
        }
    }
}
