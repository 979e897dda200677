//! Names of fields that somebody wants to hear of, beside those that a proxy must know.
//!
//! In come names, once, when a configuration is loaded; out comes a table as the one of the known
//! names, with those in it as well. A reader of a head by it finds both with the one look that a
//! name costs anyway, so that a field of no interest costs nothing more. Not every name fits: who
//! wants one must ask whether it does, and look for it in another way if it does not.

use super::names::{CANDIDATES, Candidate, FieldName, NO_CANDIDATES, Row, is_name, is_shadow};

/// A set of names.
#[derive(Debug)]
pub struct FieldInterest {
    /// By length, as the table of the known names.
    candidates: Box<[Row]>,
    groups: Vec<Group>,
}

/// Names of one length with the same first letter.
#[derive(Debug, Default)]
struct Group {
    /// In lower case, each with its class.
    names: Vec<(Box<[u8]>, FieldName)>,
    /// The known name that stood in this place.
    known: Option<Candidate>,
}

/// By which names a head is read. Taken by value, so that the known ones alone are no argument.
pub(crate) trait Names: Copy {
    fn candidate(self, name: &[u8]) -> Option<Candidate>;

    /// The class of `name`, for which `candidate` was found.
    fn class(self, candidate: Candidate, name: &[u8]) -> FieldName;
}

/// The known names and no others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnlyKnown;

impl Names for OnlyKnown {
    #[inline]
    fn candidate(self, name: &[u8]) -> Option<Candidate> {
        Candidate::of(name)
    }

    #[inline]
    fn class(self, candidate: Candidate, name: &[u8]) -> FieldName {
        candidate.confirm(name)
    }
}

impl Names for &FieldInterest {
    #[inline]
    fn candidate(self, name: &[u8]) -> Option<Candidate> {
        Candidate::among(&self.candidates, name)
    }

    #[inline]
    fn class(self, candidate: Candidate, name: &[u8]) -> FieldName {
        match candidate.number() {
            Some(number) => self.confirm(number, name),
            None => candidate.confirm(name),
        }
    }
}

/// Every length has a row, so that a name of a kilobyte would take 32 of them.
const NAME_BYTES_MAX: usize = 63;

impl FieldInterest {
    /// `names` are tokens in lower case; those that are known by themselves are left out.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Self {
        let mut interest = Self { candidates: CANDIDATES.into(), groups: Vec::new() };
        names.into_iter().for_each(|name| interest.add(name, FieldName::OfInterest));
        interest
    }

    /// Has `name` have a class of its own. Comes before all that want it.
    pub fn add(&mut self, name: &[u8], class: FieldName) {
        // `is_name` takes `^` for `~`; no name that is in use has either. One with a `_` is not
        // found by it, and stands here for its shadows.
        let is_fit = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(&b'~');
        if !is_fit || !matches!(self.class(name), FieldName::Other | FieldName::Shadow) {
            return;
        }
        if name.len() >= self.candidates.len() {
            let mut grown = std::mem::take(&mut self.candidates).into_vec();
            grown.resize(name.len() + 1, NO_CANDIDATES);
            self.candidates = grown.into();
        }
        let found = Candidate::among(&self.candidates, name);
        let group = if let Some(number) = found.and_then(Candidate::number) {
            &mut self.groups[number]
        } else {
            // Some 220 groups are more than all the names of the registry make.
            let Some(candidate) = Candidate::group(self.groups.len()) else { return };
            candidate.put(&mut self.candidates, name);
            self.groups.push(Group { names: Vec::new(), known: found });
            let last = self.groups.len() - 1;
            &mut self.groups[last]
        };
        group.names.push((name.into(), class));
    }

    /// Whether there is no name but the known ones.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether fields called `name`, which is in lower case, are found by the table: as wanted, or
    /// as what they are known for.
    pub fn has(&self, name: &[u8]) -> bool {
        self.class(name) != FieldName::Other
    }

    /// As [`FieldName::of`].
    pub fn class(&self, name: &[u8]) -> FieldName {
        let found = self.candidate(name);
        found.map_or(FieldName::Other, |candidate| Names::class(self, candidate, name))
    }

    /// Memory that the table takes.
    pub fn bytes(&self) -> usize {
        let names = self.groups.iter().flat_map(|group| &group.names);
        size_of_val(&*self.candidates)
            + self.groups.len() * size_of::<Group>()
            + names.map(|name| size_of_val(name) + name.0.len()).sum::<usize>()
    }

    /// The class of `name`, of which length and first letter have led to this group.
    fn confirm(&self, group: usize, name: &[u8]) -> FieldName {
        let Some(group) = self.groups.get(group) else { return FieldName::Other };
        if let Some((_, class)) = group.names.iter().find(|(lower, _)| is_name(name, lower)) {
            return *class;
        }
        let known = group.known.map_or(FieldName::Other, |known| known.confirm(name));
        if known == FieldName::Other && group.names.iter().any(|(lower, _)| is_shadow(name, lower))
        {
            return FieldName::Shadow;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_names_are_found_in_any_case_and_known_ones_stay_known() {
        let names: [&[u8]; 6] = [
            b"x-debug",
            b"server",
            b"x-frame-options",
            b"x",
            b"access-control-allow-credentials",
            b"via",
        ];
        let interest = FieldInterest::new(names);
        for name in &names[..5] {
            assert_eq!(interest.class(name), FieldName::OfInterest, "{}", name.escape_ascii());
            assert_eq!(interest.class(&name.to_ascii_uppercase()), FieldName::OfInterest);
        }
        // As long as X-Frame-Options, with the same letter at its front.
        for known in [&b"X-Forwarded-For"[..], b"Via", b"host", b"Content-Length", b"Date"] {
            assert_eq!(interest.class(known), FieldName::of(known));
        }
        for other in [&b""[..], b"x-debuG2", b"y-debug", b"x-debut", b"serves", b"z", &[b'x'; 99]] {
            assert_eq!(interest.class(other), FieldName::Other, "{}", other.escape_ascii());
        }
        assert!(interest.bytes() > 33 * 32);
    }

    #[test]
    fn what_a_reader_may_take_for_a_wanted_name_is_its_shadow() {
        let mut interest = FieldInterest::new([&b"x-user"[..], b"x_tenant", b"x-frame-options"]);
        interest.add(b"cf-connecting-ip", FieldName::ClientIp);
        for shadow in [&b"X_User"[..], b"X-Tenant", b"x_Frame-Options", b"CF_Connecting_IP"] {
            let class = interest.class(shadow);
            assert_eq!(class, FieldName::Shadow, "{}", shadow.escape_ascii());
        }
        assert_eq!(interest.class(b"X_Forwarded_For"), FieldName::Shadow);
        // It is not found by the table, but neither is it its own shadow.
        assert_eq!(interest.class(b"x_tenant"), FieldName::Other);
        assert_eq!(interest.class(b"CF-Connecting-IP"), FieldName::ClientIp);
        assert_eq!(interest.class(b"x_usex"), FieldName::Other);
    }

    #[test]
    fn names_that_do_not_fit_are_not_claimed() {
        let long = [b'x'; NAME_BYTES_MAX + 1];
        let interest = FieldInterest::new([&long[..], b"", b"x-a~b", &long[1..]]);
        assert!(!interest.has(&long) && !interest.has(b"") && !interest.has(b"x-a~b"));
        assert!(!interest.has(b"x-a^b") && interest.has(&long[1..]));
    }

    #[test]
    fn names_that_are_alike_at_their_front_share_a_place() {
        let names: Vec<_> = (0..100).map(|number| format!("x-{number:03}")).collect();
        let interest = FieldInterest::new(names.iter().map(String::as_bytes));
        assert!(names.iter().all(|name| interest.class(name.as_bytes()) == FieldName::OfInterest));
        assert_eq!((interest.groups.len(), interest.class(b"x-100")), (1, FieldName::Other));
    }

    #[test]
    fn more_groups_than_a_byte_counts_are_not_claimed() {
        let names: Vec<_> = (1..=NAME_BYTES_MAX)
            .flat_map(|length| (b'a'..=b'z').map(move |letter| vec![letter; length]))
            .collect();
        let interest = FieldInterest::new(names.iter().map(Vec::as_slice));
        let count = names.iter().filter(|name| interest.has(name)).count();
        assert!((220..=255).contains(&count), "{count}");
        assert!(names.iter().all(|name| {
            let class = interest.class(name);
            class == FieldName::Other || class == FieldName::OfInterest
        }));
    }
}
