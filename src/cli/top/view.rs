//! The screen of `top`.
//!
//! In goes the model; out come a line of state, the screen that was chosen, and a line of keys.
//! What is not there is drawn as nothing, and whatever came from elsewhere is cleaned.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Gauge, Paragraph, Row, Sparkline, Table, TableState};
use serde_json::Value;

use super::model::{Model, Tab, figure};
use super::text::{bytes, clean, millis, number, percent, span};

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [head, tabs, body, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(state(model)), head);
    frame.render_widget(Paragraph::new(names(model)), tabs);
    // Who has scrolled beyond the end comes back to it.
    model.selected = model.selected.min(model.rows().len().saturating_sub(1));
    match model.tab {
        Tab::Overview => overview(frame, model, body),
        _ => list(frame, model, body),
    }
    frame.render_widget(Paragraph::new(keys(model)), foot);
}

fn word(value: &Value) -> String {
    clean(value.as_str().unwrap_or_default())
}

const SOFT: Style = Style::new().fg(Color::DarkGray);

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn state(model: &Model) -> Vec<Line<'static>> {
    let seen = &model.snapshot;
    let (status, colour) = match (&model.lost, seen["status"].as_str()) {
        (Some(error), _) => (error.lines().next().unwrap_or_default().to_owned(), Color::Red),
        (None, Some("ok")) => ("ok".to_owned(), Color::Green),
        (None, Some(other)) => (clean(other), Color::Yellow),
        (None, None) => ("asking…".to_owned(), Color::Yellow),
    };
    let (config, clients) = (&seen["configuration"], &seen["clients"]);
    let facts = format!(
        "  {}  generation {}  {}  up {}  {} of {} clients  {} tunnels{}",
        word(&seen["version"]),
        number(figure(config, "generation"), 0),
        word(&config["file"]),
        span(figure(seen, "uptime_seconds")),
        number(figure(clients, "clients"), 0),
        number(figure(clients, "max"), 0),
        number(figure(clients, "tunnels"), 0),
        if model.is_paused { "  PAUSED" } else { "" },
    );
    let now = &seen["now"];
    let figures = format!(
        "{}/s  p50 {}  p95 {}  p99 {}  5xx {}  cpu {} %  memory {} of {}",
        number(figure(now, "requestsPerSecond"), 0),
        millis(figure(now, "p50")),
        millis(figure(now, "p95")),
        millis(figure(now, "p99")),
        percent(figure(now, "errorRate")),
        number(figure(now, "cpu"), 0),
        bytes(figure(&seen["memory"], "rss_bytes")),
        bytes(figure(&seen["memory"], "max_bytes")),
    );
    let first = vec![
        Span::styled("ringway ", bold()),
        Span::styled(status, bold().fg(colour)),
        Span::styled(facts, SOFT),
    ];
    vec![Line::from(first), Line::from(figures)]
}

fn names(model: &Model) -> Line<'static> {
    let name = |(tab, name): (Tab, &'static str)| {
        let style = if tab == model.tab { bold().add_modifier(Modifier::REVERSED) } else { SOFT };
        [Span::styled(format!(" {name} "), style), Span::raw(" ")]
    };
    Tab::ALL.into_iter().flat_map(name).collect()
}

fn keys(model: &Model) -> Line<'static> {
    if let Some(id) = model.doomed {
        let text = format!("end connection {id}? y / n");
        return Line::from(Span::styled(text, bold().fg(Color::Red)));
    }
    if model.is_typing || !model.filter.is_empty() {
        let end = if model.is_typing { "_" } else { "  (Esc: all)" };
        return Line::from(format!("filter: {}{end}", clean(&model.filter)));
    }
    if !model.said.is_empty() {
        return Line::from(model.said.clone());
    }
    let sorted = model.order().map_or_else(String::new, |order| format!(" ({order})"));
    let end = if model.tab == Tab::Connections { "  x end" } else { "" };
    let text = format!("q quit  Tab next  / filter  s sort{sorted}  r reverse  p pause{end}");
    Line::from(Span::styled(text, SOFT))
}

fn overview(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let areas = Layout::vertical([
        Constraint::Length(5),
        Constraint::Length(3),
        Constraint::Min(3),
        Constraint::Length(8),
    ]);
    let [charts, memory, workers, events] = areas.areas(area);
    let columns: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4]).areas(charts);
    let history = &model.snapshot["history"];
    for (place, (title, key, colour)) in columns.into_iter().zip([
        ("requests/s", "requests_per_second", Color::Blue),
        ("p95", "p95", Color::Cyan),
        ("5xx/s", "errors_per_second", Color::Red),
        ("cpu", "cpu", Color::Magenta),
    ]) {
        chart(frame, place, title, &history[key], colour);
    }
    gauge(frame, memory, &model.snapshot["memory"]);
    table(frame, model, workers, false);
    let lines: Vec<Line<'_>> = model.snapshot["events"]
        .as_array()
        .into_iter()
        .flatten()
        .take(usize::from(events.height))
        .map(|event| Line::from(format!("{}  {}", word(&event["kind"]), word(&event["text"]))))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(titled("events")), events);
}

fn titled(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(title).border_style(SOFT)
}

fn chart(frame: &mut Frame<'_>, area: Rect, title: &str, values: &Value, colour: Color) {
    let values = values.as_array().into_iter().flatten();
    // Bars are whole numbers; a thousandth of a millisecond is one too.
    let values: Vec<u64> =
        values.map(|value| (value.as_f64().unwrap_or(0.0).max(0.0) * 1_000.0) as u64).collect();
    let most = values.iter().max().map_or(0.0, |most| *most as f64 / 1_000.0);
    let title = format!("{title}, at most {}", number(most, usize::from(most < 10.0)));
    let skipped = values.len().saturating_sub(usize::from(area.width));
    let bars = Sparkline::default().data(&values[skipped..]).style(Style::new().fg(colour));
    frame.render_widget(bars.block(titled(&title)), area);
}

fn gauge(frame: &mut Frame<'_>, area: Rect, memory: &Value) {
    let (used, most) = (figure(memory, "rss_bytes"), figure(memory, "max_bytes"));
    let share = if most > 0.0 { (used / most).clamp(0.0, 1.0) } else { 0.0 };
    let colour = match memory["state"].as_str() {
        Some("normal") | None => Color::Green,
        Some("light") => Color::Yellow,
        Some(_) => Color::Red,
    };
    let mut kinds: Vec<(&str, f64)> = memory["by_kind"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(kind, size)| Some((&**kind, size.as_f64()?)))
        .collect();
    kinds.sort_by(|one, other| other.1.total_cmp(&one.1));
    let kinds =
        kinds.iter().take(5).map(|(kind, size)| format!("{} {}", clean(kind), bytes(*size)));
    let title = format!("memory: {}", kinds.collect::<Vec<_>>().join(", "));
    let label = format!("{} of {}", bytes(used), bytes(most));
    let gauge = Gauge::default().ratio(share).label(label).gauge_style(Style::new().fg(colour));
    frame.render_widget(gauge.block(titled(&title)), area);
}

fn list(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    table(frame, model, area, true);
}

fn table(frame: &mut Frame<'_>, model: &Model, area: Rect, has_cursor: bool) {
    let (heads, widths, of) = columns(model.tab);
    let rows = model.rows();
    // Of thousands, only those that can be seen are made.
    let height = usize::from(area.height.max(2)) - 1;
    let first = (model.selected + 1).saturating_sub(height);
    let seen = rows.iter().skip(first).take(height).flat_map(|row| of(row));
    let head = Row::new(heads.iter().map(|head| Cell::from(*head))).style(SOFT);
    let table = Table::new(seen, widths).header(head).column_spacing(2);
    let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let cursor = (has_cursor && model.tab == Tab::Connections && !rows.is_empty())
        .then_some(model.selected - first);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(cursor));
}

type Rows = fn(&Value) -> Vec<Row<'static>>;

fn columns(tab: Tab) -> (&'static [&'static str], Vec<Constraint>, Rows) {
    let (fill, at) = (Constraint::Fill(1), Constraint::Length);
    match tab {
        Tab::Overview => (
            &["worker", "state", "clients", "requests", "in flight", "turns/request", "heard"],
            vec![at(6), at(9), at(8), at(14), at(9), at(13), fill],
            worker,
        ),
        Tab::Routes => (
            &["route", "to", "req/s", "5xx", "p50", "p95", "p99", "429"],
            vec![fill, at(14), at(9), at(8), at(9), at(9), at(9), at(6)],
            route,
        ),
        Tab::Upstreams => (
            &["upstream", "state", "req/s", "5xx", "p50", "p95", "p99", "open", "queue"],
            vec![fill, at(22), at(9), at(8), at(9), at(9), at(9), at(6), at(6)],
            upstream,
        ),
        Tab::Connections => (
            &["id", "client", "doing", "age", "memory", "moved", "route and target"],
            vec![at(9), at(20), at(16), at(10), at(9), at(9), fill],
            connection,
        ),
        Tab::Events => (&["kind", "what"], vec![at(14), fill], event),
    }
}

fn figures(row: &Value) -> [Cell<'static>; 5] {
    let errors = figure(row, "errorRate");
    let errors_style = if errors > 0.0 { Style::new().fg(Color::Red) } else { SOFT };
    [
        Cell::from(number(figure(row, "requestsPerSecond"), 1)),
        Cell::from(percent(errors)).style(errors_style),
        Cell::from(millis(figure(row, "p50"))),
        Cell::from(millis(figure(row, "p95"))),
        Cell::from(millis(figure(row, "p99"))),
    ]
}

fn worker(row: &Value) -> Vec<Row<'static>> {
    let is_silent = row["is_silent"].as_bool().unwrap_or(false);
    let state = if is_silent { "silent".to_owned() } else { word(&row["state"]) };
    vec![Row::new([
        number(figure(row, "worker"), 0),
        state,
        number(figure(row, "clients"), 0),
        number(figure(row, "requests"), 0),
        number(figure(row, "in_flight"), 0),
        number(figure(row, "turns_per_request"), 2),
        row["heard_ms"].as_f64().map_or_else(String::new, |ms| format!("{} ago", millis(ms))),
    ])]
}

fn route(row: &Value) -> Vec<Row<'static>> {
    let names = [Cell::from(word(&row["route"])), Cell::from(word(&row["to"]))];
    let limited = match figure(row, "limited") {
        0.0 => String::new(),
        count => number(count, 0),
    };
    vec![Row::new(names.into_iter().chain(figures(row)).chain([Cell::from(limited)]))]
}

fn upstream(row: &Value) -> Vec<Row<'static>> {
    let name = [Cell::from(word(&row["name"])).style(bold()), Cell::from("")];
    let ends = ["connections", "waiting"].map(|key| Cell::from(number(figure(row, key), 0)));
    let own = Row::new(name.into_iter().chain(figures(row)).chain(ends));
    let target = |target: &Value| {
        let (origin, address) = (word(&target["origin"]), word(&target["address"]));
        let at = if origin.ends_with(&address) { String::new() } else { format!(" {address}") };
        let state = word(&target["state"]);
        let error = match &*state {
            "connect" => word(&target["connect_error"]["error"]),
            _ => word(&target["check_error"]),
        };
        let style = Style::new().fg(if state == "up" { Color::Green } else { Color::Red });
        let names = [
            Cell::from(format!("  {origin}{at}")),
            Cell::from(format!("{state} {error}")).style(style),
        ];
        let open = Cell::from(number(figure(target, "connections"), 0));
        Row::new(names.into_iter().chain(figures(target)).chain([open]))
    };
    let targets = row["targets"].as_array().into_iter().flatten().map(target);
    std::iter::once(own).chain(targets).collect()
}

fn connection(row: &Value) -> Vec<Row<'static>> {
    let ends = [word(&row["route"]), word(&row["target"])];
    let ends: Vec<String> = ends.into_iter().filter(|end| !end.is_empty()).collect();
    vec![Row::new([
        number(figure(row, "id"), 0).replace(',', ""),
        word(&row["client"]),
        format!("{} {}", word(&row["phase"]), span(figure(row, "phase_ms") / 1_000.0)),
        span(figure(row, "age_ms") / 1_000.0),
        bytes(figure(row, "memory_bytes")),
        bytes(figure(row, "bytes_sent") + figure(row, "bytes_received")),
        ends.join(" > "),
    ])]
}

fn event(row: &Value) -> Vec<Row<'static>> {
    vec![Row::new([word(&row["kind"]), word(&row["text"])])]
}
