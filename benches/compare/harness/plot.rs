//! The results as a picture: what each proxy costs, as a share of what the reference costs.
//!
//! In: results. Out: one SVG, whose letters are drawn by the program that shows it. Computes
//! nothing.

use plotters::prelude::*;

use super::report::headline;
use super::{Outcome, Results};

const HEIGHT: u32 = 520;

/// Of each scenario.
const WIDTH: u32 = 110;

const COLOURS: [RGBColor; 9] = [
    RGBColor(31, 119, 180),
    RGBColor(127, 127, 127),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(188, 189, 34),
];

/// Higher bars are cut off: one that is ten times as dear would hide all others.
const RATIO_MAX: f64 = 3.0;

pub(crate) fn draw(results: &Results) -> Result<String, String> {
    let mut text = String::new();
    compose(&mut text, results).map_err(|error| format!("the picture: {error}"))?;
    Ok(text)
}

fn ratio(outcome: &Outcome, peer: &str) -> Option<f64> {
    let row = outcome.rows.iter().find(|row| row.peer == peer)?;
    row.metrics.get(&headline(outcome.scenario.measure))?.ratio
}

fn compose(text: &mut String, results: &Results) -> Result<(), Box<dyn std::error::Error>> {
    let compared: Vec<_> =
        results.outcomes.iter().filter(|outcome| outcome.reference.is_some()).collect();
    let count = compared.len().max(1);
    let size = (WIDTH * count as u32 + 200, HEIGHT);
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "cost beside nginx, or Squid where nginx cannot (1 = the same)",
            ("sans-serif", 18),
        )
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..count as f64, 0.0..RATIO_MAX)?;
    let name = |place: &f64| {
        let outcome = compared.get((place - 0.5).max(0.0).round() as usize);
        let is_middle = (place.fract() - 0.5).abs() < 0.01;
        outcome.filter(|_| is_middle).map_or(String::new(), |it| it.scenario.name.to_owned())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(2 * count + 1)
        .x_label_formatter(&name)
        .y_desc("ratio")
        .draw()?;
    let peers: Vec<_> = results.peers.iter().map(|(name, _)| *name).collect();
    let width = 0.8 / peers.len().max(1) as f64;
    for (place, peer) in peers.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let bars = compared.iter().enumerate().filter_map(|(index, outcome)| {
            let left = index as f64 + 0.1 + width * place as f64;
            let height = ratio(outcome, peer)?.min(RATIO_MAX);
            Some(Rectangle::new([(left, 0.0), (left + width * 0.9, height)], colour.filled()))
        });
        let key = move |(x, y): (i32, i32)| {
            Rectangle::new([(x, y - 5), (x + 15, y + 5)], colour.filled())
        };
        chart.draw_series(bars)?.label(*peer).legend(key);
    }
    let line = [(0.0, 1.0), (count as f64, 1.0)];
    chart.draw_series(std::iter::once(PathElement::new(line, BLACK)))?;
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
