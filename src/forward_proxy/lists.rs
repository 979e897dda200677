//! Lists of rules that lie in files of their own.
//!
//! In: a configuration in which some rules are `file:` and a path. Out: the same with the rules of
//! those files in their place, one a line; `#` begins a remark. Or one line that names the file,
//! the line and the right form. Files are read at the start and on a reload, never on a ring
//! thread.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::{Config, RULE_FORM, Rule, RuleTarget, parse_rule};

/// Half a million names.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// `config` with the rules of all files.
pub(crate) fn read(config: &Config) -> Result<Cow<'_, Config>, String> {
    if paths(config).next().is_none() {
        return Ok(Cow::Borrowed(config));
    }
    let mut config = config.clone();
    let forward = &mut config.forward;
    let of_parents = config.parents.iter_mut().flat_map(|it| [&mut it.domains, &mut it.except]);
    let of_users = forward.rules.iter_mut().map(|rule| &mut rule.targets);
    let of_all = [&mut forward.allow, &mut forward.deny].into_iter();
    for rules in of_all.chain(of_users).chain(of_parents) {
        *rules = expanded(rules)?;
    }
    Ok(Cow::Owned(config))
}

/// The files that are looked at for changes: those of lists, of the users and of groups.
pub(crate) fn followed(config: &Config) -> impl Iterator<Item = &Path> {
    let users = config.forward.users_file.as_deref();
    let groups = config.forward.groups_file.as_deref();
    paths(config)
        .map(PathBuf::as_path)
        .chain(users)
        .chain(groups)
        .filter(|_| config.forward.enabled)
}

fn paths(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let of_parents = config.parents.iter().flat_map(|it| [&it.domains, &it.except]);
    let of_users = config.forward.rules.iter().map(|rule| &rule.targets);
    let lists = [&config.forward.allow, &config.forward.deny].into_iter();
    let lists = lists.chain(of_users).chain(of_parents);
    lists.flatten().filter_map(|rule| match &rule.target {
        RuleTarget::File(path) => Some(path),
        _ => None,
    })
}

fn expanded(rules: &[Rule]) -> Result<Vec<Rule>, String> {
    let mut all = Vec::with_capacity(rules.len());
    for rule in rules {
        match &rule.target {
            RuleTarget::File(path) => {
                let text = text_of(path).map_err(|error| format!("{}: {error}", path.display()))?;
                add(&mut all, &text).map_err(|error| format!("{}:{error}", path.display()))?;
            }
            _ => all.push(rule.clone()),
        }
    }
    Ok(all)
}

fn add(rules: &mut Vec<Rule>, text: &str) -> Result<(), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let rule = line.split('#').next().unwrap_or_default().trim();
        if rule.is_empty() {
            continue;
        }
        let read = parse_rule(rule).filter(|rule| !matches!(rule.target, RuleTarget::File(_)));
        rules.push(read.ok_or_else(|| {
            let shown: String = rule.chars().take(64).collect();
            format!("{}: found {shown:?}, expected {RULE_FORM}", index + 1)
        })?);
    }
    Ok(())
}

/// A list, or a file of groups.
pub(super) fn text_of(path: &Path) -> Result<String, String> {
    text_within(path, FILE_BYTES_MAX, "")
}

/// What a file says, which is not to be larger than `bytes_max`; `so` is what follows if it is.
pub(super) fn text_within(path: &Path, bytes_max: u64, so: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is larger than {bytes_max} bytes{so}"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_rule_on_each_line_and_remarks() {
        let mut rules = Vec::new();
        add(&mut rules, "\u{feff}a.test\n\n# all below\n *.b.test:443 # mail\r\n10.0.0.0/8\n")
            .unwrap();
        let texts: Vec<&str> = rules.iter().map(|rule| rule.text.as_str()).collect();
        assert_eq!(texts, ["a.test", "*.b.test:443", "10.0.0.0/8"]);
        let wrong = add(&mut rules, "a.test\nhttp://b\n").unwrap_err();
        assert!(wrong.starts_with("2: found \"http://b\", expected a rule"), "{wrong}");
        assert!(add(&mut rules, "file:/another\n").is_err());
    }
}
