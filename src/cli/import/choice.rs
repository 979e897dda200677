//! The order in which nginx asks its locations, as routes that are asked in the same order.
//!
//! In go the locations of one server: exact, prefix and pattern, some within others. Out come the
//! path, and the pattern, of each route that it takes. nginx looks for an exact path, then for the
//! longest prefix; unless that says `^~`, the first pattern in the file that fits comes before it.
//! A route's prefix ends at a slash and nginx's anywhere, so that a prefix without a slash at its
//! end takes two routes. Nothing is known here of what a location does.

/// What a location takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Exact(String),
    Prefix {
        path: String,
        /// `^~`: no pattern comes before it.
        is_final: bool,
    },
    Pattern(String),
}

#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) takes: Takes,
    /// The location that it stands in.
    pub(super) parent: Option<usize>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) path: String,
    pub(super) pattern: Option<String>,
    /// The index of the location.
    pub(super) location: usize,
    /// It takes what nginx's prefix fits beyond a name, as `/api` does `/apix`.
    pub(super) is_rest: bool,
}

/// What routes cannot say, as the index of a location.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) routes: Vec<Chosen>,
    pub(super) inexact: Vec<usize>,
}

pub(super) fn ordered(locations: &[Location]) -> Order {
    let mut order = Order::default();
    for (index, location) in locations.iter().enumerate() {
        if let Takes::Exact(path) = &location.takes {
            order.push(&format!("={path}"), None, index, false);
        }
    }
    let mut prefixes: Vec<(usize, &str, bool)> =
        locations.iter().enumerate().filter_map(prefix).collect();
    prefixes.sort_by_key(|(_, path, _)| std::cmp::Reverse(path.len()));
    let mut folders: Vec<&str> = Vec::new();
    for (_, path, _) in &prefixes {
        for folder in [path, folder_of(path)] {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for folder in folders {
        group(locations, &prefixes, folder, &mut order);
    }
    order
}

fn prefix((index, location): (usize, &Location)) -> Option<(usize, &str, bool)> {
    match &location.takes {
        Takes::Prefix { path, is_final } => Some((index, path, *is_final)),
        Takes::Exact(_) | Takes::Pattern(_) => None,
    }
}

/// Up to the last slash, which is part of it.
fn folder_of(path: &str) -> &str {
    &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
}

/// The routes with one path.
fn group(
    locations: &[Location],
    prefixes: &[(usize, &str, bool)],
    folder: &str,
    order: &mut Order,
) {
    let own = prefixes.iter().find(|(_, path, _)| *path == folder);
    let rests: Vec<_> = prefixes
        .iter()
        .filter(|(_, path, _)| !path.ends_with('/') && folder_of(path) == folder)
        .collect();
    let rest = |order: &mut Order, (index, path, _): &(usize, &str, bool)| {
        order.push(folder, Some(format!("^{}", regex::escape(path))), *index, true);
    };
    rests.iter().filter(|(_, _, is_final)| *is_final).for_each(|it| rest(order, it));
    let mut open: Vec<_> = rests.iter().filter(|(_, _, is_final)| !is_final).collect();
    open.sort_by_key(|(_, path, _)| std::cmp::Reverse(path.len()));
    let of = |index: usize| patterns(locations, index, folder);
    let first = own.map(|it| it.0).or_else(|| open.first().map(|it| it.0));
    let patterns = first.map(of).unwrap_or_default();
    let clashes = |path: &str| {
        let mut finals = rests.iter().filter(|(_, _, is_final)| *is_final);
        finals.any(|(_, other, _)| path.starts_with(other) || other.starts_with(path))
    };
    order.inexact.extend(open.iter().filter(|it| clashes(it.1)).map(|it| it.0));
    if open.first().is_some_and(|it| of(it.0) != patterns) {
        // Patterns would have to hold for some names of a folder and not for others.
        order.inexact.extend(open.iter().map(|it| it.0));
    }
    order.patterns(folder, patterns);
    for it in open {
        rest(order, it);
    }
    if let Some((index, path, _)) = own {
        order.push(path, None, *index, false);
    }
}

/// The patterns that are asked before the prefix at `index`, in their order.
fn patterns<'l>(locations: &'l [Location], index: usize, folder: &str) -> Vec<(usize, &'l str)> {
    let mut found = Vec::new();
    let mut within = Some(index);
    // The prefix of each level shuts out the patterns beside it.
    let mut beside = None;
    loop {
        let is_shut = beside.is_some_and(|index: usize| {
            matches!(locations[index].takes, Takes::Prefix { is_final: true, .. })
        });
        let of_level = locations.iter().enumerate().filter(|(_, it)| it.parent == within);
        found.extend(of_level.filter(|_| !is_shut).filter_map(|(index, it)| match &it.takes {
            Takes::Pattern(pattern) if can_fit(pattern, folder) => Some((index, pattern.as_str())),
            _ => None,
        }));
        let Some(level) = within else { break };
        beside = Some(level);
        within = locations[level].parent;
    }
    found
}

/// Whether a path that begins with `folder` may fit. Wrong only where it says that it may.
fn can_fit(pattern: &str, folder: &str) -> bool {
    let Some(anchored) = pattern.strip_prefix('^') else { return true };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
    let end = anchored.find(|c| !is_plain(c)).unwrap_or(anchored.len());
    // What stands before one of these may be there several times, or not at all; and a `|` makes
    // the beginning one of several.
    let is_repeated = anchored[end..].starts_with(['?', '*', '{']);
    let literal = if is_repeated { &anchored[..end.saturating_sub(1)] } else { &anchored[..end] };
    pattern.contains('|') || literal.starts_with(folder) || folder.starts_with(literal)
}

impl Order {
    fn push(&mut self, path: &str, pattern: Option<String>, location: usize, is_rest: bool) {
        self.routes.push(Chosen { path: path.to_owned(), pattern, location, is_rest });
    }

    fn patterns(&mut self, folder: &str, patterns: Vec<(usize, &str)>) {
        for (index, pattern) in patterns {
            self.push(folder, Some(pattern.to_owned()), index, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locations(words: &[&str]) -> Vec<Location> {
        let takes = |word: &&str| {
            let (kind, path) = word.split_once(' ').unwrap_or(("", word));
            let path = path.to_owned();
            let takes = match kind {
                "=" => Takes::Exact(path),
                "~" => Takes::Pattern(path),
                kind => Takes::Prefix { path, is_final: kind == "^~" },
            };
            Location { takes, parent: None }
        };
        words.iter().map(takes).collect()
    }

    #[test]
    fn patterns_stand_before_every_prefix_that_does_not_shut_them_out() {
        let order = ordered(&locations(&["/", "^~ /static/", r"~ \.php$", "/api/", "= /x"]));
        let routes: Vec<_> = order
            .routes
            .iter()
            .map(|it| (it.path.as_str(), it.pattern.as_deref(), it.location))
            .collect();
        assert_eq!(
            routes,
            [
                ("=/x", None, 4),
                ("/static/", None, 1),
                ("/api/", Some(r"\.php$"), 2),
                ("/api/", None, 3),
                ("/", Some(r"\.php$"), 2),
                ("/", None, 0),
            ]
        );
        assert!(order.inexact.is_empty());
    }

    #[test]
    fn a_final_prefix_shuts_out_patterns_beside_it_and_not_those_within_it() {
        let mut all = locations(&["/", "^~ /a/", "~ x$", "~ y$"]);
        all[2].parent = Some(1);
        let order = ordered(&all);
        let of = |path: &str| -> Vec<usize> {
            order.routes.iter().filter(|it| it.path == path).map(|it| it.location).collect()
        };
        assert_eq!((of("/a/"), of("/")), (vec![2, 1], vec![3, 0]));
    }

    #[test]
    fn a_prefix_that_ends_within_a_name_takes_longer_names_too() {
        let order = ordered(&locations(&["/", "/a.b"]));
        let rest = order.routes.iter().find(|it| it.is_rest).unwrap();
        assert_eq!((rest.path.as_str(), rest.pattern.as_deref()), ("/", Some(r"^/a\.b")));
    }

    #[test]
    fn a_pattern_that_cannot_fit_below_a_prefix_is_not_repeated_there() {
        assert!(!can_fit("^/static/", "/api/"));
        for pattern in ["^/ap", "^/api/v[0-9]", "^/b?api", "^/x|/api", r"\.php$", "^(/x|/api)"] {
            assert!(can_fit(pattern, "/api/"), "{pattern}");
        }
    }
}
