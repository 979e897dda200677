//! Groups of users: `forward.groups`, and the file of `forward.groups_file`.
//!
//! In: tables of names, and a file with lines of `group: user user` as Apache's `AuthGroupFile`
//! has them; empty lines and lines that begin with `#` say nothing. Out: who belongs to a group,
//! or one line that names the file and the line. A group that stands in several places has the
//! members of all. Whether there are such users is not asked here.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ForwardConfig;

use super::lists;

/// By name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Groups(BTreeMap<String, BTreeSet<String>>);

impl Groups {
    /// Reads a file, so it is for the start and for a reload.
    pub(super) fn read(forward: &ForwardConfig) -> Result<Self, String> {
        let mut all = Self::default();
        for (name, members) in &forward.groups {
            all.add(name, members.iter().map(String::as_str));
        }
        if let Some(path) = &forward.groups_file {
            let text = lists::text_of(path).map_err(|why| format!("{}: {why}", path.display()))?;
            all.parse(&text).map_err(|why| format!("{}:{why}", path.display()))?;
        }
        Ok(all)
    }

    pub(super) fn members(&self, group: &str) -> Option<impl Iterator<Item = &str>> {
        self.0.get(group).map(|members| members.iter().map(String::as_str))
    }

    /// For an error text.
    pub(super) fn names(&self) -> String {
        const SHOWN_MAX: usize = 16;
        let names: Vec<&str> = self.0.keys().take(SHOWN_MAX).map(String::as_str).collect();
        if names.is_empty() { "none, for there are none".to_owned() } else { names.join(", ") }
    }

    fn parse(&mut self, text: &str) -> Result<(), String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let named = line.split_once(':').map(|(name, members)| (name.trim(), members));
            let Some((name, members)) = named.filter(|(name, _)| !name.is_empty()) else {
                let shown: String = line.chars().take(64).collect();
                return Err(format!("{}: found {shown:?}, expected GROUP: USER USER", index + 1));
            };
            self.add(name, members.split_whitespace());
        }
        Ok(())
    }

    fn add<'m>(&mut self, name: &str, members: impl Iterator<Item = &'m str>) {
        self.0.entry(name.to_owned()).or_default().extend(members.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_group_on_each_line_and_one_that_comes_again_grows() {
        let mut groups = Groups::default();
        let text =
            "\u{feff}# all\n\nstaff: ann bob\r\nnobody:\n  admins :\tcarl\nstaff: dora ann\n";
        groups.parse(text).unwrap();
        let members = |name: &str| groups.members(name).map(|it| it.collect::<Vec<_>>().join(" "));
        assert_eq!(members("staff").as_deref(), Some("ann bob dora"));
        assert_eq!(members("nobody").as_deref(), Some(""));
        assert_eq!(members("admins").as_deref(), Some("carl"));
        assert_eq!(members("others"), None);
        assert_eq!(groups.names(), "admins, nobody, staff");
        for (text, expected) in [
            ("a: b\nno colon", "2: found \"no colon\", expected GROUP: USER USER"),
            (": ann", "1: found \": ann\", expected GROUP: USER USER"),
        ] {
            assert_eq!(Groups::default().parse(text).unwrap_err(), expected);
        }
    }
}
