//! The last minute, second by second, and what is needed to say how things are just now.
//!
//! In go the workers' totals, once a second; out come points for a picture of the last minute, and
//! totals of some seconds ago to compare those of now with. It holds a fixed amount, and asks no
//! worker.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::stats::{Totals, Window};
use crate::admin::units::rounded;

/// Between two points.
pub(super) const STEP: Duration = Duration::from_secs(1);

const POINTS_MAX: usize = 60;

/// Between two totals that are kept, of which the older one is that long to twice as long ago.
pub(super) const BASE_STEPS: usize = 5;

#[derive(Default)]
pub(super) struct Course {
    points: VecDeque<Point>,
    bases: VecDeque<Totals>,
}

/// One second.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    requests: f64,
    errors: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    cpu: f64,
}

/// The points as columns, the oldest first.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct History {
    interval_seconds: f64,
    requests_per_second: Vec<f64>,
    /// Answers of 5xx.
    errors_per_second: Vec<f64>,
    /// Milliseconds.
    p50: Vec<f64>,
    p95: Vec<f64>,
    p99: Vec<f64>,
    /// Percent of one core.
    cpu: Vec<f64>,
}

impl Course {
    pub(super) fn point(&mut self, window: &Window) {
        if self.points.len() >= POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            requests: window.requests_per_second,
            errors: rounded(window.error_rate * window.requests_per_second),
            p50: window.p50,
            p95: window.p95,
            p99: window.p99,
            cpu: window.cpu,
        });
    }

    pub(super) fn base(&mut self, totals: Totals) {
        if self.bases.len() >= 2 {
            self.bases.pop_front();
        }
        self.bases.push_back(totals);
    }

    /// Totals of some seconds ago; right after the start, of that.
    pub(super) fn earlier(&self) -> Option<&Totals> {
        self.bases.front()
    }

    pub(super) fn history(&self) -> History {
        let column = |of: fn(&Point) -> f64| self.points.iter().map(of).collect();
        History {
            interval_seconds: STEP.as_secs_f64(),
            requests_per_second: column(|point| point.requests),
            errors_per_second: column(|point| point.errors),
            p50: column(|point| point.p50),
            p95: column(|point| point.p95),
            p99: column(|point| point.p99),
            cpu: column(|point| point.cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_kept_and_no_more() {
        let mut course = Course::default();
        for second in 0..100 {
            let requests_per_second = f64::from(second);
            let window = Window { requests_per_second, error_rate: 0.5, ..Window::default() };
            course.point(&window);
        }
        let history = course.history();
        assert_eq!(history.requests_per_second.len(), POINTS_MAX);
        assert_eq!(history.requests_per_second[0], 40.0);
        assert_eq!(history.errors_per_second[59], 49.5);
    }
}
