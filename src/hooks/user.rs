//! Who has sent a request, as far as the hooks of its route have found out.
//!
//! In goes what they have left behind; out comes a name for the logs. Nothing is asked or decided
//! here.

use super::plan::Hooked;
use super::request_view::HookState;

impl Hooked {
    /// Who has sent the request: by a password here, or as the upstream says that was asked.
    pub fn user<'s>(&'s self, state: &'s HookState) -> Option<&'s [u8]> {
        let by_password = self.login.as_ref().zip(state.user);
        by_password
            .map(|(login, user)| login.authenticator.name(user).as_bytes())
            .or_else(|| self.auth_request.as_ref()?.user(&state.granted))
    }
}
