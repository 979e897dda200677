//! The picture of a run: latency over percentiles, and over time.
//!
//! In comes a tally; out comes one SVG, whose letters are drawn by the program that shows it, so
//! that no font is needed here. It opens nothing but the file that was named.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::tally::Tally;

const SIZE: (u32, u32) = (1000, 900);

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
    let (upper, lower) = root.split_vertically(SIZE.1 / 2);
    percentiles(&upper, title, &tally.latency)?;
    course(&lower, tally)?;
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
        .build_cartesian_2d(0.0..NINES_MAX, (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency")
        .x_label_formatter(&|nines| format!("{}", percent(*nines)))
        .y_label_formatter(&|us| super::report::time(*us))
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
        .build_cartesian_2d(0.0..end, (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("latency")
        .y_label_formatter(&|us| super::report::time(*us))
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
    fn a_picture_has_both_charts_and_escapes_its_title() {
        let mut tally = Tally::new(true);
        for step in 0..1_000_u32 {
            let (latency, after) = (Duration::from_micros(50), Duration::from_millis(5));
            tally.answered(200, latency * (step % 40 + 1), after * step);
        }
        let svg = svg(&tally);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for part in ["percentile", "seconds", "p99", "a &lt;title&gt;", "<polyline"] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert!(svg(&Tally::new(true)).starts_with("<svg"));
        assert!(svg(&Tally::new(false)).starts_with("<svg"));
    }

    #[test]
    fn nines_are_percentiles() {
        for (nines, percentile) in [(0.0, 0.0), (1.0, 90.0), (2.0, 99.0), (3.0, 99.9)] {
            assert!((percent(nines) - percentile).abs() < 1e-9, "{nines}");
        }
    }
}
