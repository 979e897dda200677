//! `ringway top`: what a running ringway does, in a terminal, second by second.
//!
//! In go snapshots of the administration and keys; out comes a screen, and perhaps an order to end
//! a connection. A thread asks, so that a ringway that is slow to answer does not hold up the keys.
//! It is a client in a process of its own: nothing here is part of what it watches.

// Figures for people: fifteen digits are more than anybody counts.
#![allow(clippy::cast_precision_loss)]

mod model;
mod text;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;

use self::model::{Effect, Model};
use super::args::TopFlags;
use super::client::{self, Target};
use super::output::{Done, Failure};
use crate::config::{Config, Secret};

/// How often keys are looked for where none comes.
const LOOK: Duration = Duration::from_millis(100);

/// What `--once` is drawn on.
const SHEET: (u16, u16) = (120, 50);

/// Whom to ask, and what to show them.
#[derive(Clone)]
struct Whom {
    targets: Vec<Target>,
    reader: Option<String>,
    owner: Option<String>,
}

pub(crate) fn run(
    config: &Config,
    named: Option<Result<Target, String>>,
    flags: &TopFlags,
) -> ExitCode {
    let targets = match named {
        Some(target) => target.map(|target| vec![target]),
        None => Ok(Target::admin(config).into_iter().collect()),
    };
    let own = |secret: Option<&Secret>| secret.map(|secret| secret.reveal().to_owned());
    let whom = targets.map(|targets| Whom {
        targets,
        reader: own(config.admin.reader()),
        owner: own(config.admin.token.as_ref()),
    });
    let done = whom.map_err(Failure::wrong).and_then(|whom| {
        if flags.once { once(&whom, flags.json) } else { live(whom, flags.every) }
    });
    done.and_then(Done::print).unwrap_or_else(Failure::print)
}

impl Whom {
    fn ask(&self) -> Result<String, String> {
        let report = client::ask_for(&self.targets, "/snapshot", self.reader.as_deref())?;
        if report.code == 200 { Ok(report.body) } else { Err(report.to_string()) }
    }

    fn snapshot(&self) -> Result<Value, String> {
        let text = self.ask()?;
        serde_json::from_str(&text).map_err(|error| format!("the answer is not ringway's: {error}"))
    }

    /// Ends a connection; what came of it.
    fn end(&self, id: u64) -> String {
        let path = format!("/connections/{id}");
        match client::change(&self.targets, "DELETE", &path, self.owner.as_deref()) {
            Ok(report) if report.code == 204 => format!("connection {id} ended"),
            Ok(report) => report.body.trim_end().to_owned(),
            Err(error) => error,
        }
    }
}

fn once(whom: &Whom, is_json: bool) -> Result<Done, Failure> {
    if is_json {
        let text = whom.ask().map_err(Failure::unable)?;
        return Ok(Done::from(format!("{}\n", text.trim_end())));
    }
    let mut model = Model::default();
    model.take(whom.snapshot().map_err(Failure::unable)?);
    Ok(Done::from(drawn(&mut model, SHEET)))
}

/// The screen as text.
fn drawn(model: &mut Model, (width, height): (u16, u16)) -> String {
    let backend = TestBackend::new(width, height);
    // It has no terminal that could fail, which its type says.
    let Ok(mut terminal) = Terminal::new(backend);
    let Ok(frame) = terminal.draw(|frame| view::draw(frame, model));
    lines(frame.buffer)
}

fn lines(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in 0..buffer.area.height {
        let line: String =
            (0..buffer.area.width).map(|column| buffer[(column, row)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// What the thread that asks has to say.
enum News {
    Snapshot(Result<Value, String>),
    Said(String),
}

fn live(whom: Whom, every_ms: u64) -> Result<Done, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let cure = "top needs a terminal; for programs there is `ringway top --once --json`";
        return Err(Failure::wrong(cure));
    }
    let (news, heard) = mpsc::channel();
    let (orders, ordered) = mpsc::channel::<u64>();
    let every = Duration::from_millis(every_ms);
    thread::spawn(move || {
        loop {
            if news.send(News::Snapshot(whom.snapshot())).is_err() {
                return;
            }
            match ordered.recv_timeout(every) {
                Ok(id) => drop(news.send(News::Said(whom.end(id)))),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    let mut terminal = ratatui::try_init().map_err(Failure::unable)?;
    let mut model = Model::default();
    let ended = watch(&mut terminal, &mut model, &heard, &orders);
    ratatui::restore();
    ended.map(|()| Done::from(String::new())).map_err(Failure::unable)
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    heard: &Receiver<News>,
    orders: &mpsc::Sender<u64>,
) -> std::io::Result<()> {
    let mut drawn: Option<Instant> = None;
    loop {
        let mut is_stale = drawn.is_none_or(|at| at.elapsed() >= Duration::from_secs(1));
        while let Ok(news) = heard.try_recv() {
            is_stale = true;
            match news {
                News::Snapshot(Ok(snapshot)) => model.take(snapshot),
                News::Snapshot(Err(error)) => model.lose(&error),
                News::Said(text) => model.say(&text),
            }
        }
        if event::poll(if is_stale { Duration::ZERO } else { LOOK })? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match press(model, key) {
                    Effect::None => {}
                    Effect::Quit => return Ok(()),
                    Effect::End(id) => drop(orders.send(id)),
                },
                _ => {}
            }
            is_stale = true;
        }
        if is_stale {
            terminal.draw(|frame| view::draw(frame, model))?;
            drawn = Some(Instant::now());
        }
    }
}

fn press(model: &mut Model, key: KeyEvent) -> Effect {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if is_control => Effect::Quit,
        KeyCode::Char(letter) if !is_control => model.press(letter),
        KeyCode::Enter => model.press('\n'),
        KeyCode::Esc => model.press('\u{1b}'),
        KeyCode::Backspace => model.press('\u{8}'),
        KeyCode::Tab | KeyCode::Right => model.turn(1),
        KeyCode::BackTab | KeyCode::Left => model.turn(-1),
        KeyCode::Down => model.step(1),
        KeyCode::Up => model.step(-1),
        KeyCode::PageDown => model.step(20),
        KeyCode::PageUp => model.step(-20),
        _ => Effect::None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot() -> Value {
        let figures = |rate: f64, errors: f64| {
            json!({ "requests": 10, "requestsPerSecond": rate, "errorRate": errors, "p50": 1.0,
                    "p95": 2.0, "p99": 3.0, "classes": [0, 0, 9, 0, 0, 1] })
        };
        let route = |name: &str, rate: f64, errors: f64| {
            let mut route = figures(rate, errors);
            route["route"] = name.into();
            route["to"] = "app".into();
            route
        };
        json!({
            "status": "ok", "version": "0.1.0", "uptime_seconds": 90,
            "configuration": { "generation": 3, "file": "/etc/ringway.toml" },
            "clients": { "clients": 12, "max": 100, "tunnels": 1 },
            "now": { "requestsPerSecond": 1234.0, "errorRate": 0.01, "p50": 1.0, "p95": 2.0,
                     "p99": 3.0, "cpu": 20.0 },
            "history": { "requests_per_second": [1.0, 5.0, 3.0], "p95": [2.0], "cpu": [1.0],
                         "errors_per_second": [0.0] },
            "memory": { "rss_bytes": 1 << 20, "max_bytes": 4 << 20, "by_kind": { "pool": 1000 },
                        "state": "normal" },
            "workers": [{ "worker": 0, "state": "active", "clients": 3, "requests": 5,
                          "in_flight": 1, "turns_per_request": 0.5 }],
            "routes": [
                route("slow.example/", 1.0, 0.0),
                route("busy.example/\u{1b}[2J\u{202e}x", 9.0, 0.5),
            ],
            "upstreams": [{ "name": "app", "figures": figures(10.0, 0.0), "connections": 2,
                "waiting": 0, "targets": [{ "origin": "http://a:80", "address": "10.0.0.1:80",
                "state": "check", "check_error": "refused", "figures": figures(10.0, 0.0) }] }],
            "connections": { "largest": [{ "id": 7, "client": "192.0.2.1", "phase": "exchange",
                "age_ms": 5000, "memory_bytes": 4096, "bytes_sent": 1, "bytes_received": 2,
                "requests": 3, "route": "busy.example/" }], "oldest": [] },
            "events": [{ "at": 5, "kind": "alert", "text": "p95 begun\u{1b}]0;owned\u{7}" }],
            "alerts": [],
        })
    }

    fn shown(keys: &str) -> (String, Effect) {
        let mut model = Model::default();
        model.take(snapshot());
        let mut effect = Effect::None;
        for key in keys.chars() {
            effect = model.press(key);
        }
        (drawn(&mut model, (110, 30)), effect)
    }

    #[test]
    fn the_first_screen_says_how_things_are() {
        let (screen, _) = shown("");
        for part in ["ok", "generation 3", "/etc/ringway.toml", "1,234", "worker", "active"] {
            assert!(screen.contains(part), "{part}: {screen}");
        }
    }

    #[test]
    fn no_name_moves_the_cursor_of_a_terminal() {
        for keys in ["1", "2", "3", "4", "5"] {
            let (screen, _) = shown(keys);
            let is_odd =
                |letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}';
            assert!(!screen.contains(is_odd), "{screen:?}");
        }
        assert!(shown("2").0.contains("\\u001b[2J\\u202ex"), "{}", shown("2").0);
    }

    #[test]
    fn lists_are_sorted_and_filtered() {
        let at = |screen: &str, text: &str| screen.find(text).unwrap_or(usize::MAX);
        let (screen, _) = shown("2");
        assert!(at(&screen, "busy.example") < at(&screen, "slow.example"), "{screen}");
        let (screen, _) = shown("2r");
        assert!(at(&screen, "slow.example") < at(&screen, "busy.example"), "{screen}");
        let (screen, _) = shown("2/slow\n");
        assert!(screen.contains("slow.example") && !screen.contains("busy.example"), "{screen}");
        let (screen, effect) = shown("2/q");
        assert_eq!(effect, Effect::None, "{screen}");
    }

    #[test]
    fn a_connection_is_ended_once_it_has_been_confirmed() {
        assert_eq!(shown("4x").1, Effect::None);
        assert!(shown("4x").0.contains("end connection 7"), "{}", shown("4x").0);
        assert_eq!(shown("4xn").1, Effect::None);
        assert_eq!(shown("4xy").1, Effect::End(7));
        assert_eq!(shown("q").1, Effect::Quit);
    }

    #[test]
    fn a_pause_keeps_what_was_seen() {
        let mut model = Model::default();
        model.take(snapshot());
        model.press('p');
        let mut later = snapshot();
        later["status"] = "degraded".into();
        model.take(later.clone());
        assert!(!drawn(&mut model, (110, 30)).contains("degraded"));
        model.press('p');
        model.take(later);
        assert!(drawn(&mut model, (110, 30)).contains("degraded"));
        model.lose("no answer\u{1b}[31m");
        let screen = drawn(&mut model, (110, 30));
        assert!(screen.contains("no answer\\u001b[31m"), "{screen}");
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        for size in [(1, 1), (20, 5), (40, 12), (300, 80)] {
            let mut model = Model::default();
            drawn(&mut model, size);
            model.take(snapshot());
            for tab in ['1', '2', '3', '4', '5'] {
                model.press(tab);
                drawn(&mut model, size);
            }
            model.take(serde_json::json!({ "routes": "nonsense" }));
            drawn(&mut model, size);
        }
    }
}
