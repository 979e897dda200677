//! How those stand that find origins while the process runs: files of origins, and an engine.
//!
//! In goes what each of them has to say; out come a report, and how much of it is an alert. Nothing
//! is found here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct DiscoveryState(Mutex<State>);

#[derive(Default)]
struct State {
    /// Why the engine cannot be followed.
    engine: Option<String>,
    /// Containers that are not served, and why: for their labels.
    refused: Vec<String>,
    /// The same, for what is configured or was found before.
    collisions: Vec<String>,
    /// What is wrong with which file.
    files: BTreeMap<PathBuf, String>,
}

impl DiscoveryState {
    pub(crate) fn set_engine(&self, trouble: Option<String>) {
        self.lock().engine = trouble;
    }

    pub(crate) fn is_engine_lost(&self) -> bool {
        self.lock().engine.is_some()
    }

    pub(crate) fn set_refused(&self, refused: Vec<String>) {
        self.lock().refused = refused;
    }

    pub(crate) fn set_collisions(&self, collisions: Vec<String>) {
        self.lock().collisions = collisions;
    }

    /// No engine is followed any more.
    pub(crate) fn forget_engine(&self) {
        let mut state = self.lock();
        state.engine = None;
        state.refused.clear();
    }

    /// Whether that is something new.
    pub(crate) fn set_file(&self, path: &Path, trouble: Option<String>) -> bool {
        let files = &mut self.lock().files;
        let before = match &trouble {
            Some(trouble) => files.insert(path.to_owned(), trouble.clone()),
            None => files.remove(path),
        };
        before != trouble
    }

    /// Files that are not followed any more are nobody's trouble.
    pub(crate) fn keep_files(&self, is_followed: impl Fn(&Path) -> bool) {
        self.lock().files.retain(|path, _| is_followed(path));
    }

    /// How many of them cannot do their work.
    pub(crate) fn troubles(&self) -> usize {
        let state = self.lock();
        state.files.len() + usize::from(state.engine.is_some())
    }

    /// `None` where there is nothing to say.
    pub(crate) fn report(&self) -> Option<Value> {
        let State { engine, refused, collisions, files } = &*self.lock();
        let refused: Vec<&String> = refused.iter().chain(collisions).collect();
        let is_silent = engine.is_none() && refused.is_empty() && files.is_empty();
        let files: BTreeMap<_, _> =
            files.iter().map(|(path, trouble)| (path.to_string_lossy(), trouble)).collect();
        (!is_silent).then(|| json!({ "engine": engine, "refused": refused, "files": files }))
    }

    /// A panic elsewhere leaves a state that is still true.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_reported_until_it_is_right() {
        let state = DiscoveryState::default();
        assert_eq!((state.troubles(), state.report()), (0, None));
        let path = Path::new("origins.toml");
        assert!(state.set_file(path, Some("a".to_owned())));
        assert!(!state.set_file(path, Some("a".to_owned())), "it has been said");
        state.set_engine(Some("gone".to_owned()));
        state.set_refused(vec!["b".to_owned()]);
        assert_eq!(state.troubles(), 2);
        let report =
            json!({ "engine": "gone", "refused": ["b"], "files": { "origins.toml": "a" } });
        assert_eq!(state.report(), Some(report));
        assert!(state.set_file(path, None));
        state.forget_engine();
        assert_eq!((state.troubles(), state.report()), (0, None));
    }
}
