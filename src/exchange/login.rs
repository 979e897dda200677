//! Who a client is, by the password that it sends to the forward proxy or to a route.
//!
//! In go the credentials of a request and those who know the users; out comes what they say of it,
//! once a thread has looked at the password. Wrong ones are counted here. Nothing here answers the
//! client.

use crate::address::ClientAddress;
use crate::exchange::peer::Peer;
use crate::fault::Fault;
use crate::forward_proxy::{Authenticator, Checked, LoginOutcome};
use crate::hooks::{HookState, LocalResponse, Login, RequestView};

/// `credentials` are the value of the one field of the request that has some.
pub(crate) async fn log_in(
    peer: &Peer<'_>,
    address: ClientAddress,
    authenticator: &Authenticator,
    credentials: Option<&[u8]>,
) -> Result<LoginOutcome, Fault> {
    let outcome = match authenticator.log_in(address, credentials) {
        Checked::Done(outcome) => outcome,
        Checked::Pending(verification) => peer.stats.unless_ended(verification.outcome()).await?,
    };
    if outcome == LoginOutcome::Wrong {
        peer.worker.metrics.auth_failures.add(1);
    }
    Ok(outcome)
}

/// An answer where the route with this login does not want the client; else who that is goes into
/// `state`.
pub(crate) async fn at_route(
    peer: &Peer<'_>,
    login: &Login,
    view: &RequestView<'_>,
    state: &mut HookState,
) -> Result<Option<LocalResponse<'static>>, Fault> {
    let credentials = login.credentials(view);
    Ok(match log_in(peer, view.client, &login.authenticator, credentials).await? {
        LoginOutcome::Known(user) => {
            state.user = Some(user);
            None
        }
        LoginOutcome::Missing | LoginOutcome::Wrong => Some(login.refused()),
        LoginOutcome::TooManyFailures { retry_after_s } => Some(LocalResponse::plain(
            429,
            format!("Retry-After: {retry_after_s}\r\n").into_bytes(),
        )),
        LoginOutcome::Busy => Some(LocalResponse::plain(503, b"Retry-After: 1\r\n".to_vec())),
    })
}
