//! Files with passwords or keys that others can read.
//!
//! In go a configuration and the file that it comes from; out comes a line for each file that
//! everybody on the machine may read, with the cure. No content is read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::Config;

pub(crate) fn exposed(config: &Config, source: Option<&Path>) -> Vec<String> {
    let mut files: Vec<(&str, &Path)> = Vec::new();
    files.extend(config.tls.certificates.iter().map(|it| ("a key of TLS", it.key.as_path())));
    for tls in config.upstreams.iter().filter_map(|it| it.tls.as_ref()) {
        files.extend(tls.client_key.as_deref().map(|key| ("a key of TLS", key)));
    }
    for tls in config.parents.iter().filter_map(|it| it.tls.as_ref()) {
        files.extend(tls.client_key.as_deref().map(|key| ("a key of TLS", key)));
    }
    if config.forward.enabled {
        files
            .extend(config.forward.users_file.as_deref().map(|file| ("hashes of passwords", file)));
    }
    let own = config.routes.iter().filter_map(|route| route.hooks.as_deref());
    for hooks in config.hooks.as_deref().into_iter().chain(own) {
        let users = hooks.basic_auth.as_ref().map(|auth| auth.users_file.as_path());
        files.extend(users.map(|file| ("hashes of passwords", file)));
    }
    for upstream in &config.upstreams {
        let secret = upstream.sticky.as_ref().and_then(|sticky| sticky.secret_file.as_deref());
        files.extend(secret.map(|file| ("the secret of cookies", file)));
    }
    let has_secret = config.admin.token.is_some()
        || config.admin.read_token.is_some()
        || config.parents.iter().any(|parent| parent.credentials.is_some());
    files.extend(source.filter(|_| has_secret).map(|file| ("a token or a password", file)));
    files.sort_unstable_by_key(|(_, path)| *path);
    files.dedup_by_key(|(_, path)| *path);
    files
        .into_iter()
        .filter(|(_, path)| is_open_to_all(path))
        .map(|(what, path)| told(what, path))
        .collect()
}

fn is_open_to_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

fn told(what: &str, path: &Path) -> String {
    let path = path.display();
    format!("{path} has {what}, and everybody on this machine can read it: chmod o= {path}")
}
