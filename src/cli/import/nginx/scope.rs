//! Which directive holds in a block, with those around it.
//!
//! In go blocks, from the outermost on; out come the directives that hold in the innermost. nginx
//! takes a value, or a whole list, from the innermost block that has any.

use super::lexer::Directive;

#[derive(Clone, Debug)]
pub(super) struct Scope<'t>(Vec<&'t [Directive]>);

impl<'t> Scope<'t> {
    pub(super) fn new(outermost: &'t [Directive]) -> Self {
        Self(vec![outermost])
    }

    pub(super) fn within(&self, block: &'t [Directive]) -> Self {
        let mut levels = self.0.clone();
        levels.push(block);
        Self(levels)
    }

    /// The one that holds.
    pub(super) fn last(&self, name: &str) -> Option<&'t Directive> {
        self.all(&[name]).pop()
    }

    /// Those that hold, of a list that has all `names`.
    pub(super) fn all(&self, names: &[&str]) -> Vec<&'t Directive> {
        let of = |level: &&'t [Directive]| -> Vec<&'t Directive> {
            level.iter().filter(|it| names.contains(&it.name.as_str())).collect()
        };
        self.0.iter().rev().map(of).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// The first one of the innermost block.
    pub(super) fn own(&self, name: &str) -> Option<&'t Directive> {
        self.innermost().iter().find(|it| it.name == name)
    }

    /// The one that holds, where it does not stand in the outermost block.
    pub(super) fn inner(&self, name: &str) -> Option<&'t Directive> {
        Self(self.0.get(1..).unwrap_or_default().to_vec()).last(name)
    }

    /// Of a location, that of its server.
    pub(super) fn server(&self) -> Self {
        Self(self.0.iter().take(2).copied().collect())
    }

    pub(super) fn innermost(&self) -> &'t [Directive] {
        self.0.last().copied().unwrap_or_default()
    }
}
