//! The command line's flags that are part of the configuration.
//!
//! In: what clap has read. Out: settings, each marked with its flag. Nothing here checks a range:
//! a flag's value goes through `check` like a file's.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{ConfigError, Location, Problem, quoted};
use super::sources::{Origin, Setting, Value};

/// Name of the upstream that `--upstream` flags make up.
pub(crate) const FLAG_UPSTREAM: &str = "default";

/// What the command line sets. All but the profile overrides every other source.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// Address to listen on, in place of server.host
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on, in place of server.port; 0 lets the system choose
    #[arg(long, global = true, value_name = "PORT")]
    pub port: Option<u16>,
    /// Origin to forward to; may be repeated. Replaces every upstream and route of the file,
    /// and without --config no file is read
    #[arg(long, global = true, value_name = "URL")]
    pub upstream: Vec<String>,
    /// Name to serve by HTTPS with a certificate of its own; may be repeated. Listens on port 443
    /// with TLS and on port 80, which sends requests there, and orders the certificate from Let's
    /// Encrypt, whose terms of service (https://letsencrypt.org/repository/) you accept by it
    #[arg(long, global = true, value_name = "NAME")]
    pub https: Vec<String>,
    /// Port to listen on with TLS where --https is given, in place of 443
    #[arg(long, global = true, value_name = "PORT", requires = "https")]
    pub https_port: Option<u16>,
    /// Threads, each with its own ring, in place of server.workers; 0 is one per core
    #[arg(long, global = true, value_name = "COUNT")]
    pub workers: Option<u32>,
    /// Offer the forward proxy, in place of forward.enabled
    #[arg(long, global = true)]
    pub forward: bool,
    /// Any key, such as log.access=true; may be repeated. VALUE is TOML or a plain text
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Sizes to start from; the file overrides them
    #[arg(long, global = true, value_enum)]
    pub profile: Option<Profile>,
    /// The variables of the process that is meant, in place of this one's.
    #[arg(skip)]
    pub variables: Option<Vec<(OsString, OsString)>>,
}

/// Sizes that go together. Weaker than the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// 50 connections to origins, 10 idle, 1 MiB of chunks per worker
    Small,
    /// 100 connections to origins, 20 idle, 2 MiB of chunks per worker
    Default,
    /// 200 connections to origins, 40 idle, 4 MiB of chunks per worker
    Large,
}

impl Flags {
    /// Whether nothing was typed.
    pub(crate) fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// The flags that have a key of their own, and then `--set`, which can refine them.
    pub(super) fn settings(&self) -> Result<Vec<Setting>, ConfigError> {
        let mut settings = Vec::new();
        self.https(&mut settings, Path::new("/proc/net/if_inet6").exists());
        let mut typed = |flag, path: [&str; 2], text: Option<String>| {
            settings.extend(text.map(|text| setting(Origin::Flag(flag), path, text)));
        };
        typed("--host", ["server", "host"], self.host.clone());
        typed("--port", ["server", "port"], self.port.map(|port| port.to_string()));
        typed("--workers", ["server", "workers"], self.workers.map(|count| count.to_string()));
        typed("--forward", ["forward", "enabled"], self.forward.then(|| "true".to_owned()));
        if !self.upstream.is_empty() {
            let mut table = |key: &str, value| {
                let path = vec![key.to_owned()];
                let value = Value::Exact(DeValue::Array(value));
                settings.push(Setting { path, value, origin: Origin::Flag("--upstream") });
            };
            table("upstream", DeArray::from_iter([unplaced(upstream(&self.upstream))]));
            table("route", DeArray::new());
        }
        for assignment in &self.set {
            settings.push(set(assignment)?);
        }
        Ok(settings)
    }

    /// What `--https` says, which the other flags can refine.
    fn https(&self, settings: &mut Vec<Setting>, has_ipv6: bool) {
        if self.https.is_empty() {
            return;
        }
        let mut say = |path: &[&str], text: String| {
            let path = path.iter().map(|step| (*step).to_owned()).collect();
            let value = Value::Typed(text);
            settings.push(Setting { path, value, origin: Origin::Flag("--https") });
        };
        let (port, tls_port) = (self.port.unwrap_or(80), self.https_port.unwrap_or(443));
        let (host, tls) = match &self.host {
            Some(host) => {
                let bare = host.trim_matches(['[', ']']);
                let bare = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
                (host.as_str(), format!("{bare}:{tls_port}"))
            }
            // An authority comes to a name's IPv6 address first.
            None if has_ipv6 => {
                say(&["server", "listen"], format!("[\"[::]:{port}\"]"));
                ("0.0.0.0", format!("0.0.0.0:{tls_port},[::]:{tls_port}"))
            }
            None => ("0.0.0.0", format!("0.0.0.0:{tls_port}")),
        };
        say(&["server", "host"], host.to_owned());
        say(&["server", "port"], port.to_string());
        say(&["server", "listen_tls"], tls);
        say(&["server", "redirect_https"], "true".to_owned());
        say(&["tls", "acme", "domains"], self.https.join(","));
        say(&["tls", "acme", "accept_terms"], "true".to_owned());
    }
}

/// One upstream with these origins.
fn upstream(urls: &[String]) -> DeValue<'static> {
    let text = |text: &str| DeValue::String(Cow::Owned(text.to_owned()));
    let origins = urls.iter().map(|url| unplaced(text(url))).collect();
    let mut table = DeTable::new();
    table.insert(Spanned::new(0..0, "name".into()), unplaced(text(FLAG_UPSTREAM)));
    table.insert(Spanned::new(0..0, "origins".into()), unplaced(DeValue::Array(origins)));
    DeValue::Table(table)
}

/// `Sources` says where a setting is.
fn unplaced(value: DeValue<'static>) -> Spanned<DeValue<'static>> {
    Spanned::new(0..0, value)
}

fn set(assignment: &str) -> Result<Setting, ConfigError> {
    let parts = assignment.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    let Some((key, value)) = parts.filter(|(key, _)| !key.is_empty()) else {
        let problem = Problem::unlike(&quoted(assignment), "SECTION.KEY=VALUE");
        return Err(ConfigError::new(Location::Setting("--set".to_owned()), problem));
    };
    let path = key.split('.').map(str::to_owned).collect();
    Ok(Setting { path, value: Value::Typed(value.to_owned()), origin: Origin::Set(key.to_owned()) })
}

fn setting(origin: Origin, path: [&str; 2], text: String) -> Setting {
    Setting { path: path.map(str::to_owned).to_vec(), value: Value::Typed(text), origin }
}

impl Profile {
    pub(super) fn settings(self) -> Vec<Setting> {
        let (name, connections, idle, chunks) = match self {
            Self::Small => ("small", 50, 10, 16),
            Self::Default => ("default", 100, 20, 32),
            Self::Large => ("large", 200, 40, 64),
        };
        let number = |path, number: u32| setting(Origin::Profile(name), path, number.to_string());
        vec![
            number(["pool", "max_connections"], connections),
            number(["pool", "max_idle"], idle),
            number(["buffers", "chunks_per_worker"], chunks),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(flags: &Flags, has_ipv6: bool) -> Vec<String> {
        let mut settings = Vec::new();
        flags.https(&mut settings, has_ipv6);
        let text = |setting: Setting| match setting.value {
            Value::Typed(text) => format!("{}={text}", setting.path.join(".")),
            Value::Exact(_) => setting.path.join("."),
        };
        settings.into_iter().map(text).collect()
    }

    #[test]
    fn https_is_two_ports_of_both_families_and_a_certificate() {
        assert_eq!(said(&Flags::default(), true), Vec::<String>::new());
        let names = vec!["a.example".to_owned(), "b.example".to_owned()];
        let mut flags = Flags { https: names, ..Flags::default() };
        let rest = [
            "server.redirect_https=true",
            "tls.acme.domains=a.example,b.example",
            "tls.acme.accept_terms=true",
        ];
        let first = [
            "server.listen=[\"[::]:80\"]",
            "server.host=0.0.0.0",
            "server.port=80",
            "server.listen_tls=0.0.0.0:443,[::]:443",
        ];
        assert_eq!(said(&flags, true), [&first[..], &rest].concat());
        let first = ["server.host=0.0.0.0", "server.port=80", "server.listen_tls=0.0.0.0:443"];
        assert_eq!(said(&flags, false), [&first[..], &rest].concat());
        (flags.host, flags.https_port) = (Some("::1".to_owned()), Some(8443));
        let first = ["server.host=::1", "server.port=80", "server.listen_tls=[::1]:8443"];
        assert_eq!(said(&flags, true), [&first[..], &rest].concat());
    }
}
