//! `ringway import`: other programs' configurations as one of ringway's.
//!
//! In goes a file of nginx or haproxy, a flat JSON file, or a TOML file; out come TOML, and a line
//! on standard error for each thing that was not taken, with its place, the reason and what to do.
//! Exit codes: 0 all was taken, 3 something was not, 2 the file is none. Nothing is written to a
//! disk, and no file is opened but those that the first one names.

mod choice;
mod draft;
mod haproxy;
mod nginx;
mod values;

use std::io::{self, Write};
use std::path::Path;

use self::draft::Draft;
use super::output::{Done, Failure};
use crate::config::{Config, document};

/// Something was not taken.
const EXIT_PARTLY: u8 = 3;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum From {
    Nginx,
    Haproxy,
    /// Flat JSON, by the names of older proxies
    Json,
    Toml,
}

pub(super) fn run(path: &Path, from: Option<From>) -> Result<Done, Failure> {
    let own = || document::import(path).map(Done::from).map_err(Failure::from);
    let from = match from {
        Some(From::Json | From::Toml) => return own(),
        Some(from) => from,
        // Its name says it.
        None if path.extension().is_some_and(|it| it == "json" || it == "toml") => return own(),
        None => match std::fs::read_to_string(path).ok().and_then(|text| kind(&text)) {
            Some(from) => from,
            // Whoever reads configurations says best what is wrong with it.
            None => return own(),
        },
    };
    let text = Config::text_of(path)?;
    let draft = drawn(path, &text, from).map_err(Failure::wrong)?;
    Ok(told(path, &draft))
}

/// By its content; `None` is a file of ringway's own.
fn kind(text: &str) -> Option<From> {
    let line = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let mut lines = text.lines().map(line).filter(|line| !line.is_empty());
    let first = lines.next()?;
    let word = first.split_whitespace().next().unwrap_or_default();
    let is_section = haproxy::sections::is_section(word);
    if is_section && !first.ends_with(['{', ';']) && !first.contains('=') {
        return Some(From::Haproxy);
    }
    let is_table = first.starts_with(['[', '{']);
    let is_pair = first.split_once('=').is_some_and(|(key, _)| !key.trim().contains([' ', '~']));
    let is_nginx = text.contains(';') || text.contains('{');
    (!is_table && !is_pair && is_nginx).then_some(From::Nginx)
}

fn drawn(path: &Path, text: &str, from: From) -> Result<Draft, String> {
    let mut draft = Draft::default();
    match from {
        From::Haproxy => haproxy::import(path, text, &mut draft)?,
        From::Nginx | From::Json | From::Toml => nginx::import(path, text, &mut draft)?,
    }
    Ok(draft)
}

fn told(path: &Path, draft: &Draft) -> Done {
    let text = draft.text(&path.display().to_string());
    let mut remarks = draft.remarks();
    // What was made is held to the same rules as what is written by hand.
    if let Err(error) = Config::of_text(Path::new("imported"), &text) {
        remarks.extend(error.to_string().lines().map(|line| format!("not usable yet: {line}")));
    }
    let mut stderr = io::stderr().lock();
    for remark in &remarks {
        let _ = writeln!(stderr, "ringway: not taken: {remark}");
    }
    Done { text, code: if remarks.is_empty() { 0 } else { EXIT_PARTLY } }
}

/// Any text, as a file of each kind: no panic, an end, and TOML if there is a result.
pub(crate) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut draft = Draft::default();
    if nginx::import_text(&text, &mut draft).is_ok() {
        assert!(toml::from_str::<toml::Table>(&draft.text("nginx.conf")).is_ok());
    }
    let mut draft = Draft::default();
    if haproxy::import(Path::new("haproxy.cfg"), &text, &mut draft).is_ok() {
        assert!(toml::from_str::<toml::Table>(&draft.text("haproxy.cfg")).is_ok());
    }
    let _ = kind(&text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_known_by_what_is_in_it() {
        for (text, expected) in [
            ("# one\nuser www-data;\nhttp {}", Some(From::Nginx)),
            ("server { listen 80; }", Some(From::Nginx)),
            ("map $a $b { default 1; }", Some(From::Nginx)),
            ("global\n  daemon", Some(From::Haproxy)),
            ("frontend www # x\n bind :80", Some(From::Haproxy)),
            ("[server]\nport = 1", None),
            ("route = [{ path = \"/\" }]", None),
            ("{\"port\": 1}", None),
            ("", None),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    /// Words that such files are made of, in any order.
    fn words() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            Just("server"),
            Just("location"),
            Just("upstream"),
            Just("http"),
            Just("listen 80 ssl"),
            Just("/a"),
            Just("~"),
            Just("^~"),
            Just("="),
            Just("{"),
            Just("}"),
            Just(";"),
            Just("\n"),
            Just("proxy_pass http://a/b/"),
            Just("return 301 https://$host$request_uri"),
            Just("server_name *.a.b a"),
            Just("'"),
            Just("\\"),
            Just("$"),
            Just("${"),
            Just("if"),
            Just("rewrite ^/(.*)$ /$1 break"),
            Just("deny all"),
            Just("allow ::1"),
            Just("\u{e9}"),
            Just("frontend"),
            Just("backend b"),
            Just("acl x path_beg /"),
            Just("use_backend b if x"),
            Just("or !{ ssl_fc }"),
            Just("bind :1 ssl crt"),
            Just("server s 1:1 check"),
            Just("global"),
            Just("timeout client 1"),
            Just("99999999999999999999m"),
            Just("try_files $uri @x"),
            Just("location @x"),
            Just("\u{7f}\u{1}"),
        ];
        prop::collection::vec(word, 0..60).prop_map(|words| words.join(" "))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_text_makes_an_import_panic(text in words(), bytes in any::<Vec<u8>>()) {
            check(text.as_bytes());
            check(&bytes);
        }
    }
}
