//! What of the file system the process goes on needing once it runs.
//!
//! In go a configuration, the file that it comes from and the program; out come paths: to read, to
//! append to, to make files in. Nothing is opened here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::address::UnixAddress;
use crate::config::{AdminAddress, Config, HooksConfig, LogTarget, PageSource};
use crate::forward_proxy::lists;

/// Each with the key that names it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Needs {
    pub(super) read: Vec<(String, PathBuf)>,
    /// Logs, which are opened anew in the same place.
    pub(super) append: Vec<(String, PathBuf)>,
    /// Folders in which files are made and removed.
    pub(super) folders: Vec<(String, PathBuf)>,
    pub(super) program: PathBuf,
}

impl Needs {
    pub(super) fn of(config: &Config, source: Option<&Path>, program: &Path) -> Self {
        let mut needs = Self { program: program.to_owned(), ..Self::default() };
        if let Some(path) = source {
            needs.read("the configuration", path);
        }
        for path in config.tls_files() {
            needs.read("tls", &path);
        }
        for path in lists::followed(config) {
            needs.read("forward", path);
        }
        let own = config.routes.iter().filter_map(|route| route.hooks.as_deref());
        for hooks in config.hooks.as_deref().into_iter().chain(own) {
            needs.hooks(hooks);
        }
        for upstream in &config.upstreams {
            if let Some(path) = &upstream.file {
                needs.read("upstream.file", path);
            }
            let secret = upstream.sticky.as_ref().and_then(|sticky| sticky.secret_file.as_deref());
            if let Some(path) = secret {
                needs.read("upstream.sticky.secret_file", path);
            }
        }
        for (key, target) in
            [("log.file", &config.log.target), ("log.access_file", &config.log.access_file)]
        {
            if let LogTarget::File(path) = target {
                needs.append.push((key.to_owned(), absolute(path)));
                needs.folder(key, absolute(path).parent());
            }
        }
        if let Some(acme) = &config.tls.acme {
            needs.folder("tls.acme.storage", Some(&acme.storage));
        }
        for listener in &config.server.listeners {
            let path = listener.address.unix().and_then(UnixAddress::path);
            needs.folder("server.listen", path.map(absolute).as_deref().and_then(Path::parent));
        }
        if let (true, AdminAddress::Unix(path)) = (config.admin.enabled, &config.admin.address) {
            needs.folder("admin.address", absolute(path).parent());
        }
        needs
    }

    fn hooks(&mut self, hooks: &HooksConfig) {
        if let Some(auth) = &hooks.basic_auth {
            self.read("hooks.basic_auth.users_file", &auth.users_file);
        }
        for (_, page) in hooks.error_pages.iter().flat_map(|pages| &pages.pages) {
            if let PageSource::File(path) = page {
                self.read("hooks.error_pages", path);
            }
        }
    }

    fn read(&mut self, key: &str, path: &Path) {
        self.read.push((key.to_owned(), absolute(path)));
    }

    fn folder(&mut self, key: &str, path: Option<&Path>) {
        self.folders.extend(path.map(|path| (key.to_owned(), absolute(path))));
    }
}

/// Where it is whatever folder a process is in.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
