//! What an absolute request-target says beside its path.
//!
//! In goes a head with its buffer; out come the target as it may be told to others, and why a
//! server that is no proxy must refuse it. Nothing is sent or logged here.

use std::borrow::Cow;

use super::TargetForm;
use super::Version;
use super::error::HeadError;
use super::head::RequestHead;
use super::names::FieldName;
use super::target::scheme_bytes;

impl RequestHead {
    /// The target as it may be told to others: without user information and without a fragment.
    pub(crate) fn plain_target<'a>(&self, buf: &'a [u8]) -> Cow<'a, [u8]> {
        let target = self.target.of(buf);
        match self.form {
            TargetForm::Authority => Cow::Borrowed(target),
            TargetForm::Origin | TargetForm::Asterisk => Cow::Borrowed(self.path_span.of(buf)),
            TargetForm::Absolute
                if self.path_span.end == self.target.end && !self.has_user(buf) =>
            {
                Cow::Borrowed(target)
            }
            TargetForm::Absolute => {
                let scheme = &target[..scheme_bytes(target)];
                Cow::Owned([scheme, self.authority.of(buf), self.path_span.of(buf)].concat())
            }
        }
    }

    /// Why a server that is no proxy must refuse an absolute target that a proxy may take: there is
    /// no Host (RFC 9112 §3.2), or the target says who asks (RFC 9110 §4.2.4).
    pub(crate) fn fault_of_server(&self, buf: &[u8]) -> Option<HeadError> {
        if self.form != TargetForm::Absolute {
            return None;
        }
        match self.fields.find(FieldName::Host) {
            _ if self.has_user(buf) => Some(HeadError::TargetForm),
            None if self.version == Version::Http11 => Some(HeadError::HostMissing),
            Some(host) if host.value.is_empty() => Some(HeadError::HostInvalid),
            _ => None,
        }
    }

    /// Whether an absolute target has user information.
    fn has_user(&self, buf: &[u8]) -> bool {
        let scheme = scheme_bytes(self.target.of(buf)) as u32;
        self.authority.start != self.target.start + scheme
    }
}
