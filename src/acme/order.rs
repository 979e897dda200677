//! One certificate, from the account to the chain.
//!
//! In goes a name; out comes a key with its certificate, as PEM, or why there is none. What proves
//! whose the name is stands where workers answer for as long as the order goes on, and no longer.

use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::clockwork::Failure;
use super::http::{Http, Unreachable};
use crate::config::AcmeChallenge;
use crate::tls::directory;
use crate::tls::managed::{Managed, Proof};

/// How often a process looks for what it has to prove for others.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// How long an authority may take to validate a name, and then to make a certificate.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) cause: String,
    /// The authority does not know the account, or its key.
    is_account_lost: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Api(problem) => problem.r#type.as_deref().unwrap_or_default(),
            _ => "",
        };
        let failure = match &error {
            Error::Api(_) if kind.ends_with(":rateLimited") => Failure::TooOften,
            Error::Other(inner) if inner.is::<Unreachable>() => Failure::Unreachable,
            // Something answers in its place.
            Error::Json(_) => Failure::Unreachable,
            Error::Api(_) if kind.ends_with(":serverInternal") => Failure::Unreachable,
            // The client has asked thrice already; the directory may have lost its list, and says
            // nothing of the order (RFC 8555 §6.5).
            Error::Api(_) if kind.ends_with(":badNonce") => Failure::Unreachable,
            _ => Failure::Refused,
        };
        let is_account_lost = kind.ends_with(":accountDoesNotExist");
        Self { failure, cause: error.to_string(), is_account_lost }
    }
}

impl From<String> for Failed {
    fn from(cause: String) -> Self {
        Self { failure: Failure::Refused, cause, is_account_lost: false }
    }
}

/// The account at the directory; a new one where there is none.
pub(super) async fn account(managed: &Managed) -> Result<Account, Failed> {
    let acme = &managed.config;
    let agent = directory::agent(acme)?;
    let http = || Account::builder_with_http(Box::new(Http(agent.clone())));
    if let Some(stored) = managed.storage.account()? {
        match serde_json::from_slice::<AccountCredentials>(&stored) {
            Ok(stored) => return Ok(http().from_credentials(stored).await?),
            Err(error) => {
                tracing::warn!("the stored ACME account cannot be read: {error}; making a new one");
                managed.storage.put_account_aside()?;
            }
        }
    }
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount {
        contact: &contact,
        terms_of_service_agreed: acme.accept_terms,
        only_return_existing: false,
    };
    let (account, made) = http().create(&wanted, acme.directory.clone(), None).await?;
    let text = serde_json::to_vec(&made).map_err(|error| error.to_string())?;
    managed.storage.keep_account(&text)?;
    tracing::info!(directory = acme.directory, account = account.id(), "ACME account made");
    Ok(account)
}

/// A certificate for `name`; `tries` have failed before this one.
pub(super) async fn certificate(
    managed: &Managed,
    name: &str,
    tries: u32,
) -> Result<String, Failed> {
    match attempt(managed, name, tries).await {
        Err(failed) if failed.is_account_lost => {
            tracing::warn!("the authority does not know the ACME account: making a new one");
            managed.storage.put_account_aside()?;
            attempt(managed, name, tries).await
        }
        outcome => outcome,
    }
}

async fn attempt(managed: &Managed, name: &str, tries: u32) -> Result<String, Failed> {
    let account = account(managed).await?;
    let mut order = begin(&account, managed, name).await?;
    let _proof = Proving(managed);
    prove(managed, &mut order, tries).await?;
    let retries = RetryPolicy::default().timeout(PATIENCE);
    let state = order.poll_ready(&retries).await;
    if !matches!(state, Ok(OrderStatus::Ready)) {
        let cause = why_invalid(&mut order).await;
        let Some(cause) = cause else {
            let state = state?;
            return Err(format!("the order is {state:?}").into());
        };
        return Err(cause.into());
    }
    let said = |error: rcgen::Error| format!("no request can be made: {error}");
    let key = KeyPair::generate().map_err(said)?;
    let mut wanted = CertificateParams::new([name.to_owned()]).map_err(said)?;
    wanted.distinguished_name = DistinguishedName::new();
    let request = wanted.serialize_request(&key).map_err(said)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&retries).await?;
    Ok(format!("{}{chain}", key.serialize_pem()))
}

/// Tells the authority which certificate is replaced, where it can take that.
async fn begin(account: &Account, managed: &Managed, name: &str) -> Result<Order, Failed> {
    let names = [Identifier::Dns(name.to_owned())];
    let shown = managed.shown(name);
    let replaced = shown.as_ref().and_then(|shown| shown.end_entity());
    if let Some(Ok(replaced)) = replaced.map(CertificateIdentifier::try_from)
        && let Ok(order) = account.new_order(&NewOrder::new(&names).replaces(replaced)).await
    {
        return Ok(order);
    }
    Ok(account.new_order(&NewOrder::new(&names)).await?)
}

/// Answers the challenges of an order, and says so.
async fn prove(managed: &Managed, order: &mut Order, tries: u32) -> Result<(), Failed> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => return Err(format!("the authorization is {other:?}").into()),
        }
        let offered: Vec<_> = authorization.challenges.iter().map(|it| &it.r#type).collect();
        let kind = choose(managed.config.challenge, &offered, tries)?;
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else { continue };
        let answer = challenge.key_authorization();
        let proof = Proof {
            name: name.clone(),
            token: challenge.token.clone(),
            answer: answer.as_str().to_owned(),
            by_handshake: kind == ChallengeType::TlsAlpn01,
        };
        managed.prove(&proof)?;
        if managed.storage.is_shared() {
            // They may be asked in our place.
            tokio::time::sleep(3 * TICK).await;
        }
        tracing::info!(name, challenge = named(&kind), "the authority may validate the name");
        challenge.set_ready().await?;
    }
    Ok(())
}

const KINDS: [ChallengeType; 2] = [ChallengeType::Http01, ChallengeType::TlsAlpn01];

/// Where both may be used, they take turns.
fn choose(
    wanted: AcmeChallenge,
    offered: &[&ChallengeType],
    tries: u32,
) -> Result<ChallengeType, String> {
    let is_wanted = |kind: &ChallengeType| match wanted {
        AcmeChallenge::Auto => true,
        AcmeChallenge::Http01 => *kind == ChallengeType::Http01,
        AcmeChallenge::TlsAlpn01 => *kind == ChallengeType::TlsAlpn01,
    };
    let usable: Vec<_> =
        KINDS.into_iter().filter(|kind| is_wanted(kind) && offered.contains(&kind)).collect();
    if usable.is_empty() {
        return Err("the authority offers no challenge that can be answered here".to_owned());
    }
    Ok(usable[tries as usize % usable.len()].clone())
}

fn named(kind: &ChallengeType) -> &'static str {
    if *kind == ChallengeType::Http01 { "http-01" } else { "tls-alpn-01" }
}

/// What the authority says of the challenge that has failed.
async fn why_invalid(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        let failed = state.challenges.iter().find_map(|challenge| {
            let error = challenge.error.as_ref()?;
            let detail = error.detail.clone().unwrap_or_else(|| error.to_string());
            Some(format!("{} failed: {detail}", named(&challenge.r#type)))
        });
        if failed.is_some() {
            return failed;
        }
    }
    None
}

/// Takes back what was shown as a proof.
struct Proving<'a>(&'a Managed);

impl Drop for Proving<'_> {
    fn drop(&mut self) {
        self.0.stop_proving();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that rejects nonces made every thirtieth order wait for minutes.
    #[test]
    fn what_a_directory_says_decides_when_it_is_asked_again() {
        let failed = |kind: &str| {
            let text = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}"}}"#);
            Failed::from(Error::Api(serde_json::from_str(&text).unwrap())).failure
        };
        assert_eq!(failed("badNonce"), Failure::Unreachable);
        assert_eq!(failed("serverInternal"), Failure::Unreachable);
        assert_eq!(failed("rateLimited"), Failure::TooOften);
        assert_eq!(failed("rejectedIdentifier"), Failure::Refused);
    }

    #[test]
    fn challenges_take_turns_unless_one_is_named() {
        let (http, handshake) = (ChallengeType::Http01, ChallengeType::TlsAlpn01);
        let all = [&ChallengeType::Dns01, &http, &handshake];
        let auto = |tries| choose(AcmeChallenge::Auto, &all, tries).unwrap();
        assert_eq!([auto(0), auto(1), auto(2)], [http.clone(), handshake.clone(), http.clone()]);
        let named = choose(AcmeChallenge::TlsAlpn01, &all, 0).unwrap();
        assert_eq!(
            (named, choose(AcmeChallenge::Auto, &[&handshake], 0).unwrap()),
            (handshake.clone(), handshake)
        );
        assert!(choose(AcmeChallenge::TlsAlpn01, &[&http], 0).is_err());
    }
}
