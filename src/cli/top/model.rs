//! What `top` knows: the last snapshot, and how somebody wants to see it.
//!
//! In go snapshots and keys; out come rows in an order, and what a key asks for. It draws nothing
//! and asks nobody.

use std::cmp::Ordering;

use serde_json::Value;

use super::text::clean;

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Quit,
    /// The connection with this number is to be ended.
    End(u64),
}

/// The screens, in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Overview,
    Routes,
    Upstreams,
    Connections,
    Events,
}

impl Tab {
    pub(super) const ALL: [(Self, &str); 5] = [
        (Self::Overview, "1 overview"),
        (Self::Routes, "2 routes"),
        (Self::Upstreams, "3 upstreams"),
        (Self::Connections, "4 connections"),
        (Self::Events, "5 events"),
    ];

    /// By which its rows can be sorted: the keys of figures.
    pub(super) fn orders(self) -> &'static [&'static str] {
        match self {
            Self::Routes | Self::Upstreams => {
                &["requestsPerSecond", "errorRate", "p50", "p95", "p99", "name"]
            }
            Self::Connections => &["memory_bytes", "age_ms", "bytes_sent", "requests"],
            Self::Overview | Self::Events => &[],
        }
    }
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) snapshot: Value,
    pub(super) tab: Tab,
    /// Index into [`Tab::orders`], by tab.
    order: [usize; 5],
    is_reversed: [bool; 5],
    pub(super) filter: String,
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) selected: usize,
    /// The connection that somebody is about to end.
    pub(super) doomed: Option<u64>,
    /// Why there is no answer.
    pub(super) lost: Option<String>,
    pub(super) said: String,
}

impl Model {
    pub(super) fn take(&mut self, snapshot: Value) {
        self.lost = None;
        if !self.is_paused {
            self.snapshot = snapshot;
        }
    }

    pub(super) fn lose(&mut self, error: &str) {
        self.lost = Some(clean(error));
    }

    pub(super) fn say(&mut self, text: &str) {
        self.said = clean(text);
    }

    /// To the next screen, or the one before.
    pub(super) fn turn(&mut self, by: isize) -> Effect {
        let at = (self.tab as isize + by).rem_euclid(Tab::ALL.len().cast_signed());
        self.go(at.cast_unsigned())
    }

    pub(super) fn step(&mut self, by: isize) -> Effect {
        self.selected = self.selected.saturating_add_signed(by);
        Effect::None
    }

    fn go(&mut self, index: usize) -> Effect {
        self.tab = Tab::ALL[index].0;
        self.selected = 0;
        Effect::None
    }

    pub(super) fn press(&mut self, key: char) -> Effect {
        if let Some(id) = self.doomed.take() {
            return if key == 'y' { Effect::End(id) } else { Effect::None };
        }
        if self.is_typing {
            match key {
                '\n' => self.is_typing = false,
                '\u{1b}' => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                '\u{8}' => drop(self.filter.pop()),
                _ => self.filter.push(key),
            }
            return Effect::None;
        }
        let tab = self.tab as usize;
        match key {
            'q' => return Effect::Quit,
            '1'..='5' => return self.go(key as usize - '1' as usize),
            'p' => self.is_paused = !self.is_paused,
            '/' => self.is_typing = true,
            '\u{1b}' => self.filter.clear(),
            's' => self.order[tab] = (self.order[tab] + 1) % self.tab.orders().len().max(1),
            'r' => self.is_reversed[tab] = !self.is_reversed[tab],
            'j' => return self.step(1),
            'k' => return self.step(-1),
            'x' if self.tab == Tab::Connections => {
                let rows = self.rows();
                self.doomed = rows.get(self.selected).and_then(|row| row["id"].as_u64());
            }
            _ => {}
        }
        Effect::None
    }

    /// What the rows are sorted by.
    pub(super) fn order(&self) -> Option<&'static str> {
        self.tab.orders().get(self.order[self.tab as usize]).copied()
    }

    /// The rows of the screen in their order, as many as the filter leaves.
    pub(super) fn rows(&self) -> Vec<&Value> {
        let list = match self.tab {
            Tab::Overview => &self.snapshot["workers"],
            Tab::Routes => &self.snapshot["routes"],
            Tab::Upstreams => &self.snapshot["upstreams"],
            Tab::Events => &self.snapshot["events"],
            Tab::Connections => &self.snapshot["connections"]["largest"],
        };
        let mut rows: Vec<&Value> = list.as_array().into_iter().flatten().collect();
        if self.tab == Tab::Connections {
            let oldest = self.snapshot["connections"]["oldest"].as_array();
            for one in oldest.into_iter().flatten() {
                if !rows.iter().any(|row| row["id"] == one["id"]) {
                    rows.push(one);
                }
            }
        }
        if !self.filter.is_empty() {
            let wanted = self.filter.to_lowercase();
            rows.retain(|row| row.to_string().to_lowercase().contains(&wanted));
        }
        if let Some(order) = self.order() {
            rows.sort_by(|one, other| compare(one, other, order));
        }
        if self.is_reversed[self.tab as usize] {
            rows.reverse();
        }
        rows
    }
}

/// The largest first; names in their order.
fn compare(one: &Value, other: &Value, order: &str) -> Ordering {
    if order == "name" {
        let name = |row: &Value| row["route"].as_str().or(row["name"].as_str()).map(str::to_owned);
        return name(one).cmp(&name(other));
    }
    figure(other, order).total_cmp(&figure(one, order))
}

/// A figure of a row, of its own or among its figures.
pub(super) fn figure(row: &Value, key: &str) -> f64 {
    row[key].as_f64().or(row["figures"][key].as_f64()).unwrap_or(0.0)
}
