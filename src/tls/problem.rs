//! What went wrong with a session, in a closed set.
//!
//! In goes the error of a call on a socket; out comes a name for logs and metrics.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerMisbehaved};

/// Why a handshake did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The peer's bytes are no TLS, or break its rules.
    Protocol,
    /// Nothing that both sides speak: versions, suites, kinds of keys, applications.
    Incompatible,
    /// There is no certificate for the name that was asked for.
    Name,
    /// The peer has to show a certificate and did not.
    NoCertificate,
    /// The peer's certificate is not believed.
    Certificate,
    /// The peer ended it with an alert.
    Alert,
    /// The peer sent what costs work and brings nothing, again and again.
    Flood,
    /// The peer has gone.
    Gone,
    /// `timeouts.handshake`, or that of the connection, has passed.
    Timeout,
    /// There were too many of them, and this one had made the least progress.
    Crowded,
    /// There is no memory for it.
    NoMemory,
    /// A request without TLS where TLS is spoken.
    Plain,
}

impl Problem {
    pub(crate) const ALL: [Self; 12] = [
        Self::Protocol,
        Self::Incompatible,
        Self::Name,
        Self::NoCertificate,
        Self::Certificate,
        Self::Alert,
        Self::Flood,
        Self::Gone,
        Self::Timeout,
        Self::Crowded,
        Self::NoMemory,
        Self::Plain,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Incompatible => "incompatible",
            Self::Name => "name",
            Self::NoCertificate => "no_certificate",
            Self::Certificate => "certificate",
            Self::Alert => "alert",
            Self::Flood => "flood",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
            Self::NoMemory => "no_memory",
            Self::Plain => "plain",
        }
    }

    /// What `error`, which a socket has said, means.
    pub(crate) fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(error) => Self::of_session(error),
            None if error.kind() == io::ErrorKind::InvalidData => Self::Protocol,
            None => Self::Gone,
        }
    }

    /// What `error`, which a session has come to, means.
    pub(crate) fn of_session(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => Self::Certificate,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::AlertReceived(_) => Self::Alert,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            // What rustls says where nobody could name a certificate.
            Error::General(text) if text.contains("certificate") => Self::Name,
            Error::PeerMisbehaved(
                PeerMisbehaved::TooManyKeyUpdateRequests
                | PeerMisbehaved::TooManyRenegotiationRequests
                | PeerMisbehaved::TooManyWarningAlertsReceived
                | PeerMisbehaved::TooManyEmptyFragments,
            ) => Self::Flood,
            _ => Self::Protocol,
        }
    }
}

/// Whether `error` is a session's and not the connection's below.
pub(crate) fn is_of_session(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).is_some()
}

/// What a certificate that is not believed lacks, in a word or two; the alert's name where the peer
/// said no.
pub(crate) fn detail(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its issuer is not known".to_owned()
        }
        Some(Error::AlertReceived(alert)) => alert_name(*alert),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

fn alert_name(alert: AlertDescription) -> String {
    format!("alert {}", alert.as_str().unwrap_or("unknown"))
}
