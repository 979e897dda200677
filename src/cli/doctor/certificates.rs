//! Certificates: how long they last, what their keys cost, who may read those, and which names have
//! none.
//!
//! In: the files that the configuration names. Out: one finding per check, and none where nothing
//! speaks TLS. Nothing is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::config::{Config, HostPattern};
use crate::tls;
use crate::tls::certificates::covers;
use crate::tls::report::Report;

use super::facts::Facts;
use super::finding::{Cure, Finding, Severity};

fn read(config: &Config) -> Option<Result<Report, String>> {
    config.shows_certificates().then(|| tls::read_certificates(config))
}

/// Whether they can be used, and for how long.
pub(super) fn validity(_: &Facts, config: &Config) -> Option<Finding> {
    let wanted = "readable, and valid for 14 days or more";
    let report = match read(config)? {
        Ok(report) => report,
        Err(error) => {
            let cure = Cure::new("ringway check", "another file in [[tls.certificates]]");
            let finding = Finding::fine("certificates", error, wanted);
            return Some(finding.but(Severity::Error, "nobody could be shown it", cure));
        }
    };
    let finding = |current: String| Finding::fine("certificates", current, wanted);
    let due: Vec<_> = report.certificates.iter().filter(|shown| shown.is_due).collect();
    if due.is_empty() {
        return Some(finding(report.certificates.len().to_string()));
    }
    let current = due.iter().map(|shown| shown.summary()).collect::<Vec<_>>().join("; ");
    let cure = Cure::new(
        "ringway certificates",
        "renew them in time: files that change are read without a restart",
    );
    Some(finding(current).but(Severity::Warning, "clients refuse one that has ended", cure))
}

/// What a handshake costs.
pub(super) fn keys(_: &Facts, config: &Config) -> Option<Finding> {
    let report = read(config)?.ok()?;
    let of_kind = |is_rsa: bool| {
        let all = report.certificates.iter().filter(move |shown| shown.is_rsa() == is_rsa);
        all.flat_map(|shown| shown.names.iter().map(String::as_str))
    };
    let quick: Vec<_> = of_kind(false).collect();
    let slow: Vec<_> = of_kind(true).filter(|name| !quick.contains(name)).collect();
    let finding = |current: String| Finding::fine("certificate_keys", current, "ecdsa");
    if slow.is_empty() {
        return Some(finding("ecdsa".to_owned()));
    }
    let cure = Cure::new(
        "openssl ecparam -name prime256v1 -genkey -noout -out new.key",
        "a certificate for a key of P-256, beside the other one for clients of old",
    );
    let why = "a signature with RSA costs five times that of an elliptic curve";
    Some(finding(format!("rsa for {}", slow.join(", "))).but(Severity::Hint, why, cure))
}

/// Who may read the keys.
pub(super) fn key_files(_: &Facts, config: &Config) -> Option<Finding> {
    if !config.shows_certificates() {
        return None;
    }
    let wanted = "keys that only their owner, and its group, can read";
    let own = config.tls.certificates.iter().map(|files| &files.key);
    let upstreams = config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
    let keys = own.chain(upstreams.filter_map(|tls| tls.client_key.as_ref()));
    let mut open: Vec<_> = keys
        .filter(|key| fs::metadata(key).is_ok_and(|file| file.permissions().mode() & 0o007 != 0))
        .map(|key| key.display().to_string())
        .collect();
    open.dedup();
    if open.is_empty() {
        return Some(Finding::fine("key_files", "private", wanted));
    }
    let command = format!("chmod o= {}", open.join(" "));
    let cure = Cure::new(command, "have the one that writes them do that (umask 077)");
    let why = "whoever can read a key can stand in for this server";
    Some(Finding::fine("key_files", open.join(", "), wanted).but(Severity::Warning, why, cure))
}

/// Hosts of routes that no certificate is for.
pub(super) fn names(_: &Facts, config: &Config) -> Option<Finding> {
    if config.server.listen_tls.is_empty() {
        return None;
    }
    let report = read(config)?.ok()?;
    let all = || report.certificates.iter().flat_map(|shown| &shown.names);
    let shown: Vec<Box<str>> = all().map(|name| name.as_str().into()).collect();
    let is_bare = |host: &HostPattern| match host {
        HostPattern::Any => false,
        HostPattern::Exact(name) => !covers(&shown, name),
        HostPattern::Suffix(suffix) => !all().any(|name| {
            // One below it is enough to serve something.
            name.ends_with(suffix.as_str())
        }),
    };
    let mut bare: Vec<_> = config
        .routes
        .iter()
        .filter(|route| is_bare(&route.host))
        .map(|route| route.host.to_string())
        .collect();
    bare.dedup();
    let wanted = "a certificate for the host of each route";
    if bare.is_empty() {
        return Some(Finding::fine("certificate_names", "all", wanted));
    }
    let cure = Cure::new("ringway certificates", "a certificate that has these names as well");
    let why = "browsers refuse the certificate that is shown for them";
    let current = format!("none for {}", bare.join(", "));
    Some(Finding::fine("certificate_names", current, wanted).but(Severity::Warning, why, cure))
}
