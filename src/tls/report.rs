//! The certificates of a process or of a configuration, for people and programs.
//!
//! In goes what is in use; out comes a list that can be sent, read back and shown as a table. Keys
//! are not part of it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::acceptor::Acceptor;
use super::certificates::Shown;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) certificates: Vec<Certificate>,
    /// Why the files of clients' authorities, as they are now, are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_trouble: Option<String>,
}

/// A certificate that clients are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) names: Vec<String>,
    subject: String,
    issuer: String,
    /// `rsa` or `ecdsa`, or what else it is.
    key: String,
    chain: String,
    /// Seconds since 1970.
    expires: u64,
    /// Until when its authority's answer is shown beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ocsp_until: Option<u64>,
    /// Whether somebody has to see to it.
    #[serde(default)]
    pub(crate) is_due: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Report {
    pub(crate) fn of(acceptor: Option<&Acceptor>, now: SystemTime) -> Self {
        let Some(acceptor) = acceptor else { return Self::default() };
        Self {
            certificates: acceptor
                .shown()
                .iter()
                .map(|shown| Certificate::of(shown, now))
                .collect(),
            client_trouble: acceptor.trouble().map(str::to_owned),
        }
    }

    pub(crate) fn is_due(&self) -> bool {
        self.client_trouble.is_some() || self.certificates.iter().any(|shown| shown.is_due)
    }
}

impl Certificate {
    pub(crate) fn is_rsa(&self) -> bool {
        self.key == "rsa"
    }

    /// Its file, and when it ends or what else there is to it.
    pub(crate) fn summary(&self) -> String {
        match &self.trouble {
            Some(trouble) => trouble.clone(),
            None => format!("{} ends {}", self.chain, Moment(self.expires)),
        }
    }

    fn of(shown: &Shown, now: SystemTime) -> Self {
        let trouble = shown.trouble.as_deref().or(shown.ocsp_trouble(now));
        Self {
            names: shown.names.iter().map(ToString::to_string).collect(),
            subject: shown.subject.clone(),
            issuer: shown.issuer.clone(),
            key: shown.key_kind().to_owned(),
            chain: shown.files.chain.to_string_lossy().into_owned(),
            expires: unix_seconds(shown.expires),
            ocsp_until: shown.ocsp_until().map(unix_seconds),
            is_due: shown.is_due(now),
            trouble: trouble.map(str::to_owned),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.certificates.is_empty() {
            writeln!(out, "no certificates: nothing speaks TLS")?;
        }
        for shown in &self.certificates {
            writeln!(out, "{}", shown.names.join(", "))?;
            writeln!(out, "  issuer   {}", shown.issuer)?;
            writeln!(out, "  key      {}", shown.key)?;
            writeln!(out, "  source   {}", shown.chain)?;
            writeln!(out, "  expires  {}", Moment(shown.expires))?;
            if let Some(until) = shown.ocsp_until {
                writeln!(out, "  ocsp     shown until {}", Moment(until))?;
            }
            if let Some(trouble) = &shown.trouble {
                writeln!(out, "  trouble  {trouble}")?;
            }
        }
        if let Some(trouble) = &self.client_trouble {
            writeln!(out, "certificates of clients: {trouble}")?;
        }
        Ok(())
    }
}

/// A date, and how far off it is.
struct Moment(u64);

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = UNIX_EPOCH + Duration::from_secs(self.0);
        // Such as `Mon, 30 Nov 2026 03:04:05 GMT`.
        let date = httpdate::fmt_http_date(at);
        let days = |span: Duration| span.as_secs() / 86_400;
        match at.duration_since(SystemTime::now()) {
            Ok(left) => write!(out, "{date} (in {} days)", days(left)),
            Err(past) => write!(out, "{date} ({} days ago)", days(past.duration())),
        }
    }
}
