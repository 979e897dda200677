//! Numbers and names as a terminal shows them.
//!
//! In go figures of any size and text of anybody; out comes what fits a column and moves no cursor.

use std::fmt::Write;

/// Text without what a terminal obeys: characters that control it, or turn or hide what is beside
/// them, are shown by their numbers.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        let is_odd = letter.is_control()
            || matches!(letter,
                '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}');
        if is_odd {
            // Writing to a String does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
    out
}

/// With commas, and so many digits behind the point.
pub(super) fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((&*text, None), |(one, two)| (one, Some(two)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    rest.map_or_else(|| format!("{sign}{out}"), |rest| format!("{sign}{out}.{rest}"))
}

pub(super) fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(value < 10.0 && unit != "B");
            return format!("{} {unit}", number(value, digits));
        }
        value /= 1024.0;
    }
    format!("{} TiB", number(value, 1))
}

pub(super) fn millis(value: f64) -> String {
    if value >= 1_000.0 {
        format!("{} s", number(value / 1_000.0, 2))
    } else {
        format!("{} ms", number(value, usize::from(value < 100.0)))
    }
}

pub(super) fn percent(share: f64) -> String {
    if share > 0.0 { format!("{} %", number(share * 100.0, 2)) } else { "-".to_owned() }
}

pub(super) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_their_columns() {
        assert_eq!(number(1_234_567.0, 0), "1,234,567");
        assert_eq!(number(-1_000.26, 1), "-1,000.3");
        assert_eq!([bytes(512.0), bytes(1536.0), bytes(5e9)], ["512 B", "1.5 KiB", "4.7 GiB"]);
        assert_eq!([millis(0.5), millis(250.0), millis(2_500.0)], ["0.5 ms", "250 ms", "2.50 s"]);
        assert_eq!([span(5.0), span(3_700.0), span(90_000.0)], ["5 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([percent(0.0), percent(0.015)], ["-", "1.50 %"]);
    }
}
