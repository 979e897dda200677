//! `ringway plan OLD NEW`: what a reload would do.
//!
//! In go two files, read without the environment and flags; out comes a line for each key that
//! differs in meaning, a sentence about all of them, and an exit code that says what they take.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::Config;
use crate::config::change::{Change, Effect, diff, effect_of_all};

use super::output::{Done, Failure};

const EXIT_RELOAD: u8 = 3;
const EXIT_RESTART: u8 = 4;

/// Longer values are cut: a list may be long.
const SHOWN_CHARS_MAX: usize = 40;

/// For a side on which there is no such key.
const NOTHING: &str = "-";

pub(super) fn run(old: &Path, new: &Path) -> Result<Done, Failure> {
    let (old, _) = Config::of_file(old)?;
    let (new, _) = Config::of_file(new)?;
    let changes = diff(&old, &new);
    let code = match effect_of_all(&changes) {
        None => 0,
        Some(Effect::Hot | Effect::Drain) => EXIT_RELOAD,
        Some(Effect::Restart) => EXIT_RESTART,
    };
    Ok(Done { text: table(&changes) + &verdict(&changes), code })
}

fn table(changes: &[Change]) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let side = |value: &Option<String>| value.as_deref().map_or(NOTHING.to_owned(), cut);
    let head = ["key", "old", "new", "effect"].map(str::to_owned);
    let row = |change: &Change| {
        [change.key.clone(), side(&change.old), side(&change.new), change.effect.to_string()]
    };
    let rows: Vec<[String; 4]> = [head].into_iter().chain(changes.iter().map(row)).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let [key, old, new] = [0, 1, 2].map(width);
    let mut text = String::new();
    for [a, b, c, effect] in &rows {
        let _ = writeln!(text, "{a:key$}  {b:old$}  {c:new$}  {effect}");
    }
    text
}

fn cut(value: &str) -> String {
    if value.chars().count() <= SHOWN_CHARS_MAX {
        return value.to_owned();
    }
    let start: String = value.chars().take(SHOWN_CHARS_MAX - 1).collect();
    start + "…"
}

fn verdict(changes: &[Change]) -> String {
    let of = |effect| changes.iter().filter(move |change| change.effect == effect);
    match effect_of_all(changes) {
        None => "Nothing changes: a reload would do nothing.\n".to_owned(),
        Some(Effect::Hot) => "A reload makes all of them at once and closes nothing.\n".to_owned(),
        Some(Effect::Drain) => format!(
            "A reload makes all of them; with {} of {}, what is in use may finish before it is \
             closed.\n",
            of(Effect::Drain).count(),
            changes.len()
        ),
        Some(Effect::Restart) => {
            let keys: Vec<&str> = of(Effect::Restart).map(|change| change.key.as_str()).collect();
            format!("A reload is not enough: restart ringway for {}.\n", keys.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, effect: Effect) -> Change {
        let (old, new) = (Some("1".to_owned()), None);
        Change { key: key.to_owned(), old, new, effect }
    }

    #[test]
    fn the_last_line_says_what_a_reload_does() {
        let (hot, drain) = (change("a.b", Effect::Hot), change("c.d", Effect::Drain));
        let restart = change("e.f", Effect::Restart);
        for (changes, expected) in [
            (&[][..], "Nothing changes: a reload would do nothing.\n"),
            (
                &[change("a.b", Effect::Hot)],
                "A reload makes all of them at once and closes nothing.\n",
            ),
            (
                &[hot.clone(), drain.clone(), hot.clone()],
                "A reload makes all of them; with 1 of 3, what is in use may finish before it is \
                 closed.\n",
            ),
            (&[hot, drain, restart], "A reload is not enough: restart ringway for e.f.\n"),
        ] {
            assert_eq!(verdict(changes), expected);
        }
    }

    #[test]
    fn the_table_has_straight_columns_and_cuts_what_is_long() {
        let long = Change { new: Some("ö".repeat(100)), ..change("a.long.key", Effect::Hot) };
        let text = table(&[long, change("b", Effect::Restart)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let at = |line: &str, word: &str| {
            line.char_indices().position(|(index, _)| line[index..].starts_with(word))
        };
        assert_eq!(at(lines[0], "effect"), at(lines[1], "hot"));
        assert_eq!(at(lines[0], "effect"), at(lines[2], "restart"));
        assert!(lines[1].contains(&("ö".repeat(39) + "…")), "{text}");
        assert!(lines[2].contains("1    -"), "{text}");
    }
}
