//! Certificates by themselves: ordered, kept and renewed while everything else goes on.
//!
//! In goes `[tls.acme]` of the configuration in use; out come certificates in its storage and in
//! the hands of the workers, log lines, and how the orders stand. It runs on the control thread:
//! no worker waits for it, and nothing that fails here takes away what is in use.

mod clockwork;
mod http;
mod order;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use instant_acme::CertificateIdentifier;

use self::order::{Failed, TICK};
use crate::tls::certificates::Shown;
use crate::tls::managed::{Managed, Trouble};
use crate::worker::shared::Shared;

/// How often the storage is looked at for what another process has brought.
const LOOK: Duration = Duration::from_secs(10);

/// How often the lock is tried for that another process holds.
const LOCKED: Duration = Duration::from_secs(1);

/// What is planned for a name.
#[derive(Default)]
struct Plan {
    /// The certificate that it was made for.
    shown: Option<Arc<Shown>>,
    is_made: bool,
    next: Option<SystemTime>,
    /// When the authority is asked for its wish.
    next_wish: Option<SystemTime>,
    next_look: Option<SystemTime>,
    failures: u32,
}

/// Looks after the certificates of the configuration in use, until the process ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut plans: HashMap<String, Plan> = HashMap::new();
    let (mut directory, mut proof) = (None, None);
    while !shared.is_draining.load(Ordering::Acquire) {
        let newest = shared.snapshot.load().tls.as_ref().and_then(|tls| tls.managed.clone());
        if let Some(managed) = newest {
            if directory.as_ref() != Some(&managed.config.directory) {
                directory = Some(managed.config.directory.clone());
                tracing::info!(
                    directory = managed.config.directory,
                    domains = managed.config.domains.join(","),
                    "certificates are ordered by ACME; the directory's terms of service are \
                     accepted, by --https or tls.acme.accept_terms"
                );
            }
            proof = managed.prove_for_others(proof);
            plans.retain(|name, _| managed.is_for(name));
            for name in &managed.config.domains {
                let plan = plans.entry(name.clone()).or_default();
                // Whoever takes over goes on with it.
                tokio::select! {
                    () = plan.turn(&managed, name) => {}
                    () = drained(&shared) => return,
                }
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn drained(shared: &Shared) {
    while !shared.is_draining.load(Ordering::Acquire) {
        tokio::time::sleep(TICK / 4).await;
    }
}

impl Plan {
    /// Does what is due for `name`.
    async fn turn(&mut self, managed: &Managed, name: &str) {
        let now = SystemTime::now();
        if is_due(self.next_look, now) {
            look(managed, name);
            self.next_look = Some(now + LOOK);
        }
        self.follow(managed, name);
        if self.shown.is_some() && is_due(self.next_wish, now) {
            self.ask_for_wish(managed, name).await;
        }
        if !is_due(self.next, now) {
            return;
        }
        match managed.storage.lock() {
            Ok(Some(_lock)) => {
                // The one that had it may have brought what was missing.
                look(managed, name);
                self.follow(managed, name);
                if is_due(self.next, now) {
                    self.order(managed, name).await;
                }
            }
            Ok(None) => {
                self.next = Some(now + LOCKED);
                self.next_look = None;
                if self.failures == 0 && self.shown.is_none() {
                    self.set_trouble(managed, name, "another process orders it".to_owned());
                }
            }
            Err(error) => self.failed(managed, name, error.into()),
        }
    }

    /// Makes a new plan where there is another certificate than the last time.
    fn follow(&mut self, managed: &Managed, name: &str) {
        let shown = managed.shown(name);
        let is_same = match (&self.shown, &shown) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if self.is_made && is_same {
            return;
        }
        self.is_made = true;
        self.failures = 0;
        self.next = shown.as_ref().map(|it| clockwork::renewal(it.began, it.expires, chance()));
        self.next_wish = None;
        self.shown = shown;
        if self.shown.is_some() {
            managed.orders.set_trouble(name, None);
        } else {
            self.set_trouble(managed, name, "it is being ordered".to_owned());
        }
    }

    /// Asks the authority when it wants the certificate to be renewed; many have no wish.
    async fn ask_for_wish(&mut self, managed: &Managed, name: &str) {
        let Some(shown) = self.shown.clone() else { return };
        let wish = async {
            let certificate = CertificateIdentifier::try_from(shown.end_entity()?).ok()?;
            let account = order::account(managed).await.ok()?;
            account.renewal_info(&certificate).await.ok()
        };
        let (wish, said) = wish.await.unzip();
        self.next_wish = Some(SystemTime::now() + clockwork::next_wish(said));
        let Some(window) = wish.map(|wish| wish.suggested_window) else { return };
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        };
        let (start, end) = (at(window.start.unix_timestamp()), at(window.end.unix_timestamp()));
        // A plan that lies within the window stays: chance is asked once.
        let is_within = self.next.is_some_and(|next| (start..=end).contains(&next));
        if self.failures == 0 && !is_within {
            self.next = Some(clockwork::within(start, end, chance()));
            tracing::debug!(name, "the authority suggests another time for the renewal");
        }
    }

    async fn order(&mut self, managed: &Managed, name: &str) {
        tracing::info!(name, directory = managed.config.directory, "ordering a certificate");
        let ordered = order::certificate(managed, name, self.failures).await;
        let kept = match ordered {
            Ok(pem) => managed.keep(name, &pem).map_err(Failed::from),
            Err(failed) => Err(failed),
        };
        match kept {
            Ok(()) => {
                managed.orders.done.fetch_add(1, Ordering::Relaxed);
                self.follow(managed, name);
                tracing::info!(name, "the certificate was issued, and is in use");
            }
            Err(failed) => self.failed(managed, name, failed),
        }
    }

    fn failed(&mut self, managed: &Managed, name: &str, failed: Failed) {
        self.failures += 1;
        managed.orders.failed.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now();
        let left = self.shown.as_ref().map(|it| it.expires.duration_since(now).unwrap_or_default());
        let pause = clockwork::pause(failed.failure, self.failures, left, chance());
        self.next = Some(now + pause);
        let in_use = self.shown.is_some();
        tracing::warn!(
            name,
            in_use,
            failures = self.failures,
            retry_in_s = pause.as_secs(),
            "no certificate was issued: {}",
            failed.cause
        );
        self.set_trouble(managed, name, failed.cause);
    }

    fn set_trouble(&self, managed: &Managed, name: &str, cause: String) {
        let next = self.next.unwrap_or_else(SystemTime::now);
        let trouble = Trouble { cause, failures: self.failures, next };
        managed.orders.set_trouble(name, Some(trouble));
    }
}

/// Takes what another process has stored for `name`.
fn look(managed: &Managed, name: &str) {
    let before = managed.shown(name);
    if let Err(error) = managed.reread(name) {
        tracing::debug!("{error}");
        return;
    }
    let (Some(before), Some(now)) = (before, managed.shown(name)) else { return };
    if !Arc::ptr_eq(&before, &now) {
        tracing::info!(name, "another process has stored a newer certificate: it is in use");
    }
}

fn is_due(time: Option<SystemTime>, now: SystemTime) -> bool {
    time.is_none_or(|time| time <= now)
}

/// From 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without chance, all processes do it at the same time, and nothing worse.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
