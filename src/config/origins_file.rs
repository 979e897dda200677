//! A file of origins: `origins = ["http://a:80", ...]` in TOML, or the same in JSON.
//!
//! In goes a path; out come origins, or every mistake that one reading can find, each with its
//! place. An item is written as in `[[upstream]] origins`. The file may be replaced at any time, so
//! that what is read may be half of it: whoever reads keeps what was good before.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use toml::de::DeTable;

use super::error::{ConfigError, Location, Mistake, NOT_TEXT, Problem};
use super::kinds::{As, Each};
use super::origins::{Origin, OriginConfig};
use super::{hints, tree};

/// Ten thousand origins are below this.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// More than any upstream can make use of.
const ORIGINS_MAX: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OriginsFile {
    #[serde(with = "As::<Each<Origin>>")]
    origins: Vec<OriginConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile<'t> {
    #[serde(borrow)]
    origins: Vec<&'t RawValue>,
}

/// One item of a file, as serde reads it.
#[derive(Deserialize)]
#[serde(transparent)]
struct One(#[serde(with = "As::<Origin>")] OriginConfig);

/// Never waits for a writer, whatever the path leads to.
pub(crate) fn read(path: &Path) -> Result<Vec<OriginConfig>, ConfigError> {
    let at = |problem| ConfigError::new(Location::File(path.to_owned()), problem);
    parse(path, &text_of(path).map_err(at)?)
}

fn text_of(path: &Path) -> Result<String, Problem> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(Problem::Unreadable)?;
    if !file.metadata().map_err(Problem::Unreadable)?.is_file() {
        return Err(Problem::Said("is no file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Problem::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("is larger than {FILE_BYTES_MAX} bytes, which no list of origins is");
        return Err(Problem::Said(what));
    }
    String::from_utf8(bytes).map_err(|_| Problem::Said(NOT_TEXT.to_owned()))
}

fn parse(path: &Path, text: &str) -> Result<Vec<OriginConfig>, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut marks = Marks { path, text, mistakes: Vec::new() };
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let found = if is_json { marks.json() } else { marks.toml() };
    marks.rules(&found);
    if marks.mistakes.is_empty() {
        return Ok(found.into_iter().map(|(_, origin)| origin).collect());
    }
    Err(ConfigError::of(marks.mistakes))
}

/// A text, and what is wrong with it.
struct Marks<'t> {
    path: &'t Path,
    text: &'t str,
    mistakes: Vec<Mistake>,
}

impl Marks<'_> {
    fn put(&mut self, offset: usize, key: String, problem: Problem) {
        let location = Location::at(self.path, self.text, offset, key);
        self.mistakes.push(Mistake { location, problem, hint: None });
    }

    /// The origins with their places.
    fn toml(&mut self) -> Vec<(usize, OriginConfig)> {
        let text = self.text;
        let (table, errors) = DeTable::parse_recoverable(text);
        if let Some(error) = errors.first() {
            let broken = hints::broken(text, error);
            self.put(broken.offset, String::new(), Problem::Said(broken.message));
            return Vec::new();
        }
        match OriginsFile::deserialize(toml::Deserializer::from(table.clone())) {
            Ok(file) => {
                let table = table.into_inner();
                let place = |index: usize| {
                    let path = ["origins".to_owned(), index.to_string()];
                    tree::along(&table, &path).last().map_or(0, |value| value.span().start)
                };
                let places: Vec<usize> = (0..file.origins.len()).map(place).collect();
                places.into_iter().zip(file.origins).collect()
            }
            Err(error) => {
                let table = table.into_inner();
                let offset = error.span().map_or(0, |span| span.start);
                let (path, _) = tree::path_to(&table, offset);
                let key = tree::shown(&table, &path);
                self.put(offset, key, Problem::of_parser(error.message()));
                Vec::new()
            }
        }
    }

    fn json(&mut self) -> Vec<(usize, OriginConfig)> {
        let text = self.text;
        let items = match serde_json::from_str::<RawFile<'_>>(text) {
            Ok(file) => file.origins,
            Err(error) => {
                self.put_json(0, String::new(), &error);
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            // It is a part of the text.
            let offset = item.get().as_ptr().addr() - text.as_ptr().addr();
            match serde_json::from_str::<One>(item.get()) {
                Ok(One(origin)) => found.push((offset, origin)),
                Err(error) => self.put_json(offset, format!("origins[{index}]"), &error),
            }
        }
        found
    }

    /// `start` is where what was read begins.
    fn put_json(&mut self, start: usize, key: String, error: &serde_json::Error) {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
        let problem = Problem::of_parser(message);
        // Of an item, its beginning says more than where the reader gave up.
        let offset = if key.is_empty() {
            let lines = self.text.split_inclusive('\n').take(error.line().saturating_sub(1));
            lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1)
        } else {
            start
        };
        self.put(offset, key, problem);
    }

    fn rules(&mut self, found: &[(usize, OriginConfig)]) {
        if found.len() > ORIGINS_MAX {
            let what = format!("more than {ORIGINS_MAX} origins");
            self.put(found[ORIGINS_MAX].0, format!("origins[{ORIGINS_MAX}]"), Problem::Said(what));
        }
        let mut seen = HashSet::new();
        for (index, (offset, origin)) in found.iter().enumerate() {
            let url = origin.url();
            if !seen.insert((origin.host.as_str(), origin.port)) {
                let what = format!("there is already an origin {url:?}; `weight` gives it more");
                self.put(*offset, format!("origins[{index}]"), Problem::Said(what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, text: &str) -> Result<Vec<String>, String> {
        let found = parse(Path::new(name), text);
        let shown = |it: OriginConfig| format!("{} {} {}", it.url(), it.weight, it.priority);
        found.map(|found| found.into_iter().map(shown).collect()).map_err(|it| it.to_string())
    }

    #[test]
    fn both_forms_say_the_same() {
        let expected = ["http://a:81 1 0", "https://b 3 1", "srv+http://_http._tcp.c 1 0"];
        let toml = "# All of them.\norigins = [\n  \"http://a:81\",\n  { url = \"https://b\", weight \
                    = 3, priority = 1 },\n  \"srv+http://_http._tcp.c\",\n]\n";
        let json = r#"{"origins": ["http://a:81", {"url": "https://b", "weight": 3, "priority": 1},
                      "srv+http://_http._tcp.c"]}"#;
        assert_eq!(parsed("a.toml", toml).unwrap(), expected);
        assert_eq!(parsed("a.json", json).unwrap(), expected);
        assert_eq!(parsed("a.toml", "origins = []").unwrap(), [] as [&str; 0]);
        assert_eq!(parsed("a.json", "{\"origins\": []}").unwrap(), [] as [&str; 0]);
    }

    #[test]
    fn a_mistake_is_shown_at_its_place() {
        for (name, text, expected) in [
            ("a.toml", "", "a.toml:1:1: missing key `origins`"),
            ("a.toml", "origins = [\"http://a\",", "a.toml:1:"),
            ("a.toml", "origins = [\"http://a\", 5]", "a.toml:1:24: origins[1]: invalid type"),
            ("a.toml", "\norigins = [\"ftp://a\"]", "a.toml:2:12: origins[0]: found \"ftp://a\""),
            (
                "a.toml",
                "origins = [{ url = \"http://a\", weight = 0 }]",
                "a.toml:1:41: origins[0].weight: found 0, expected a whole number from 1",
            ),
            ("a.toml", "origin = []", "a.toml:1:1: origin: unknown key, did you mean `origins`?"),
            (
                "a.toml",
                "origins = [\"http://a\",\n\"http://a:80\"]",
                "a.toml:2:1: origins[1]: there is already an origin \"http://a\"",
            ),
            ("a.json", "", "a.json:1:1: EOF"),
            ("a.json", "{\"origins\": [\"http://a\",", "a.json:1:"),
            (
                "a.json",
                "{\"origins\": [\n \"ftp://a\"]}",
                "a.json:2:2: origins[0]: found \"ftp://a\"",
            ),
            ("a.json", "{\"origins\": [5]}", "a.json:1:14: origins[0]: invalid type: integer `5`"),
        ] {
            let error = parsed(name, text).unwrap_err();
            assert!(error.starts_with(expected), "{text}\n{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("ringway-origins-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let pipe = folder.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [pipe, folder.clone(), "/dev/zero".into(), folder.join("none")] {
            assert!(read(&path).is_err(), "{}", path.display());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
