//! What is found while a configuration is in use: origins in files of their own, and upstreams of
//! containers.
//!
//! In goes what was found; it is laid behind what is configured, which always wins. Out come the
//! configuration with it and without it, and what was refused, each in a line. Nothing here reads a
//! file or asks an engine.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::{Config, ConfigError, OriginConfig, RouteConfig, UpstreamConfig, origins_file};

/// An upstream that nobody has configured, with the routes that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUpstream {
    pub upstream: UpstreamConfig,
    /// The upstream that they name has no meaning yet.
    pub routes: Vec<RouteConfig>,
}

impl UpstreamConfig {
    /// Those that are configured, and those that were found.
    pub(crate) fn all_origins(&self) -> impl Iterator<Item = &OriginConfig> {
        self.origins.iter().chain(&self.found)
    }
}

impl Config {
    /// The files of origins.
    pub(crate) fn origin_files(&self) -> impl Iterator<Item = &Path> {
        self.upstreams.iter().filter_map(|upstream| upstream.file.as_deref())
    }

    /// Whether anything is found while it is in use.
    pub(crate) fn discovers(&self) -> bool {
        self.docker.socket.is_some() || self.origin_files().next().is_some()
    }

    fn has_found(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.is_found || !upstream.found.is_empty())
    }

    /// The same without what was found, which stands behind all that is configured.
    pub(crate) fn as_configured(&self) -> Cow<'_, Self> {
        if !self.has_found() {
            return Cow::Borrowed(self);
        }
        let mut config = self.clone();
        config.forget_found();
        Cow::Owned(config)
    }

    fn forget_found(&mut self) {
        self.routes.retain(|route| !route.is_found);
        self.upstreams.retain(|upstream| !upstream.is_found);
        self.upstreams.iter_mut().for_each(|upstream| upstream.found.clear());
    }

    /// Adds what the files of origins say now; by the index of its upstream, what is wrong with
    /// one.
    pub(crate) fn lay_files(&mut self) -> Vec<(usize, ConfigError)> {
        let (mut files, mut wrong) = (HashMap::new(), Vec::new());
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let Some(file) = upstream.file.clone() else { continue };
            match origins_file::read(&file) {
                Ok(origins) => drop(files.insert(file, origins)),
                Err(error) => wrong.push((index, error)),
            }
        }
        self.lay_found(|file| files.get(file).map_or(&[], Vec::as_slice), &[]);
        wrong
    }

    /// Puts what is found now in the place of what was; what of it is refused, and why.
    pub(crate) fn lay_found<'f>(
        &mut self,
        in_file: impl Fn(&PathBuf) -> &'f [OriginConfig],
        upstreams: &[FoundUpstream],
    ) -> Vec<String> {
        self.forget_found();
        for upstream in &mut self.upstreams {
            let Some(file) = &upstream.file else { continue };
            let is_new = |found: &&OriginConfig| {
                let is_same = |own: &OriginConfig| own.url() == found.url();
                !upstream.origins.iter().any(is_same)
            };
            upstream.found = in_file(file).iter().filter(is_new).cloned().collect();
        }
        let mut refused = Vec::new();
        let mut names: HashSet<String> =
            self.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
        let mut routes: HashSet<String> = self.routes.iter().map(RouteConfig::name).collect();
        for found in upstreams {
            let name = &found.upstream.name;
            if !names.insert(name.clone()) {
                refused.push(format!("{name}: there is already an upstream with this name"));
                continue;
            }
            let index = self.upstreams.len();
            self.upstreams.push(found.upstream.clone());
            for route in &found.routes {
                let route = RouteConfig { upstream: index, ..route.clone() };
                let what = route.name();
                if routes.insert(what.clone()) {
                    self.routes.push(route);
                } else {
                    refused.push(format!("{name}: there is already a route {what}, which stays"));
                }
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostPattern;
    use crate::config::docker::{origin_of, upstream_of};

    fn found(name: &str, hosts: &[&str], address: &str) -> FoundUpstream {
        let origins = vec![origin_of(address, 80, 1).unwrap()];
        let route = |host: &&str| RouteConfig {
            is_found: true,
            host: match *host {
                "" => HostPattern::Any,
                host => HostPattern::Exact(host.to_owned()),
            },
            ..RouteConfig::everything_to_the_first()
        };
        FoundUpstream {
            upstream: upstream_of(name, None, origins).unwrap(),
            routes: hosts.iter().map(route).collect(),
        }
    }

    fn names(config: &Config) -> Vec<String> {
        let of = |route: &RouteConfig| {
            format!("{} > {}", route.name(), config.upstreams[route.upstream].name)
        };
        config.routes.iter().map(of).collect()
    }

    #[test]
    fn what_is_configured_wins_and_what_is_found_leaves_no_trace() {
        let configured = Config::default();
        let mut config = configured.clone();
        let refused = config.lay_found(
            |_| &[],
            &[
                found("docker.a", &["", "a.example"], "10.0.0.1"),
                found("demo", &["demo.example"], "10.0.0.2"),
                found("docker.b", &["a.example", "b.example"], "10.0.0.3"),
            ],
        );
        assert_eq!(names(&config), ["*/ > demo", "a.example/ > docker.a", "b.example/ > docker.b"]);
        assert_eq!(
            refused,
            [
                "docker.a: there is already a route */, which stays",
                "demo: there is already an upstream with this name",
                "docker.b: there is already a route a.example/, which stays",
            ]
        );
        assert_eq!(*config.as_configured(), configured);
        config.lay_found(|_| &[], &[]);
        assert_eq!(config, configured);
    }

    #[test]
    fn origins_of_a_file_are_added_to_those_that_are_configured() {
        let mut config = Config::default();
        let own = origin_of("10.0.0.1", 80, 5).unwrap();
        config.upstreams[0].origins = vec![own.clone()];
        config.upstreams[0].file = Some("origins.toml".into());
        let listed =
            [origin_of("10.0.0.1", 80, 1), origin_of("10.0.0.2", 80, 1)].map(Result::unwrap);
        config.lay_found(|_| &listed, &[]);
        let all: Vec<_> = config.upstreams[0].all_origins().cloned().collect();
        assert_eq!(all, [own, listed[1].clone()]);
        assert!(config.as_configured().upstreams[0].found.is_empty());
    }
}
