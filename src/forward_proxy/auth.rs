//! Who a client of the forward proxy is.
//!
//! In: the value of a `Proxy-Authorization` field and the address it came from. Out: a user, or
//! why there is none. A password is hashed on threads of their own, from a bounded queue; the
//! ring threads look at the cache, leave a job and await its `Verification`. They hold the one
//! lock for a few look-ups and never while anything is hashed. Nothing here answers a client.
//!
//! - A pair of name and password that was right is known again for `KNOWN_MS` without hashing. The
//!   cache holds a keyed digest of it, made with a key of this process, and never the password.
//! - The same pair from many connections is hashed once for all of them.
//! - A name that does not exist costs the hashing of one that does.
//! - A client address that failed too often is refused before its pair is hashed, see `failures`.
//!   One that is known to be right is never refused. A field that is no name and password, which is
//!   how clients begin with other schemes, is no failure.
//! - Passwords wait in a queue in which addresses take turns, see `fair_queue`.
//! - A password counts in UTF-8 and in Latin-1, whichever of them its hash was made of.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use hmac::{Hmac, KeyInit, Mac};
use lru::LruCache;
use sha2::Sha256;
use tokio::sync::oneshot;
use zeroize::{Zeroize, Zeroizing};

use crate::address::ClientAddress;
use crate::config::ForwardConfig;
use crate::ring::clock;

use super::credentials::{Credentials, Room, as_latin_1};
use super::failures::{Client, Failures, Standing};
use super::fair_queue::FairQueue;
use super::pending::{Job, Known, LoginOutcome, Recalled, State, Tag, Waiter};
use super::users::{Hash, UserId, Users, cut};

/// Two, so that one slow hash does not hold up all clients. They compete with the ring threads.
const THREADS: usize = 2;

/// Pairs that may wait for a thread. At 250 ms each, the last one waits for half a minute.
const QUEUE_MAX: usize = 256;

/// Users whose last right pair is known.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const KNOWN_MS: u64 = 5 * 60 * 1000;

/// How many waiters are settled without letting others have the lock.
const SETTLED_AT_ONCE: usize = 64;

/// Lines on failures per interval; further ones are counted.
const LINES_MAX: u32 = 10;
const LINES_INTERVAL_MS: u64 = 10_000;

/// Knows the users. Dropping it ends its threads, each after the hash that it is at.
pub struct Authenticator {
    shared: Arc<Shared>,
    challenge: String,
}

/// What is known at once.
#[derive(Debug)]
pub enum Checked {
    Done(LoginOutcome),
    /// A thread has to look at the password first.
    Pending(Verification),
}

/// The outcome to come. Dropping it gives up on it.
#[derive(Debug)]
pub struct Verification(oneshot::Receiver<LoginOutcome>);

type Verify = dyn Fn(&Hash, &[u8]) -> bool + Send + Sync;

struct Shared {
    users: Users,
    /// With the key of this process.
    mac: Hmac<Sha256>,
    verify: Box<Verify>,
    state: Mutex<State>,
    lines: Mutex<Lines>,
    /// A job has come, or the end.
    is_changed: Condvar,
    verifications: AtomicU64,
}

/// How much has been said about failures lately.
#[derive(Default)]
struct Lines {
    begun_ms: u64,
    said: u32,
    unsaid: u64,
}

impl Authenticator {
    pub fn start(users: Users, config: &ForwardConfig) -> io::Result<Arc<Self>> {
        let verify = Box::new(|hash: &Hash, password: &[u8]| hash.is_of(password));
        Self::start_with(users, config, THREADS, verify)
    }

    /// Takes the place of `before`: what is still right is still known, and failures count on.
    pub(super) fn start_after(
        before: &Self,
        users: Users,
        config: &ForwardConfig,
    ) -> io::Result<Arc<Self>> {
        let started = Self::start(users, config)?;
        let (old, new) = (&before.shared, &started.shared);
        let known: Vec<(UserId, Known)> = {
            let state = old.lock();
            let same = |id: UserId| {
                new.users
                    .find(old.users.name(id))
                    .filter(|it| new.users.hash(*it) == old.users.hash(id))
            };
            let known = state.known.iter().rev();
            known.filter_map(|(id, known)| Some((same(*id)?, *known))).collect()
        };
        let mut state = new.lock();
        state.failures = old.lock().failures.kept(config.auth_failures);
        for (id, known) in known {
            state.known.put(id, known);
        }
        drop(state);
        Ok(started)
    }

    fn start_with(
        users: Users,
        config: &ForwardConfig,
        threads: usize,
        verify: Box<Verify>,
    ) -> io::Result<Arc<Self>> {
        let mac = process_mac()?;
        let state = State {
            known: LruCache::sparse(KNOWN_MAX),
            failures: Failures::new(config.auth_failures),
            queue: FairQueue::new(QUEUE_MAX),
            waiters: HashMap::new(),
            waiter_count: 0,
            waiters_of: HashMap::new(),
            is_stopping: false,
        };
        let shared = Arc::new(Shared {
            users,
            mac,
            verify,
            state: Mutex::new(state),
            lines: Mutex::default(),
            is_changed: Condvar::new(),
            verifications: AtomicU64::new(0),
        });
        let challenge = challenge(config);
        // Made before its threads, so that it ends them if one of them cannot be had.
        let authenticator = Arc::new(Self { shared: shared.clone(), challenge });
        for number in 0..threads {
            let shared = shared.clone();
            thread::Builder::new().name(format!("auth-{number}")).spawn(move || shared.work())?;
        }
        Ok(authenticator)
    }

    /// Whether another one for these would know the same.
    pub fn is_for(&self, users: &Users, config: &ForwardConfig) -> bool {
        self.challenge == challenge(config)
            && self.shared.lock().failures.limit == config.auth_failures
            && self.shared.users == *users
    }

    /// `field` is the value of the one field of a request that has credentials. Never waits.
    pub fn log_in(&self, client: ClientAddress, field: Option<&[u8]>) -> Checked {
        field.map_or(Checked::Done(LoginOutcome::Missing), |field| self.check(client, field))
    }

    fn check(&self, client: ClientAddress, field: &[u8]) -> Checked {
        self.check_at(client, field, clock::coarse_ms())
    }

    fn check_at(&self, client: ClientAddress, field: &[u8], now_ms: u64) -> Checked {
        let mut room = Room::new();
        match room.decode(field) {
            Some(credentials) => self.shared.check(client, credentials, now_ms),
            None => Checked::Done(self.shared.refuse_unreadable(client, field, now_ms)),
        }
    }

    /// The value of the `Proxy-Authenticate` field (RFC 7617 §2).
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// `id` must come from this authenticator.
    pub fn name(&self, id: UserId) -> &str {
        self.shared.users.name(id)
    }

    /// The user who is called so.
    pub fn find(&self, name: &str) -> Option<UserId> {
        self.shared.users.find(name)
    }

    /// Forgets every pair that was right. Failures are not forgotten.
    pub fn drop_cache(&self) {
        let known = std::mem::replace(&mut self.shared.lock().known, LruCache::sparse(KNOWN_MAX));
        drop(known);
    }

    /// What the cache and the table of failures take, give or take a table's spare room.
    pub fn cache_bytes(&self) -> u64 {
        // An entry on the heap with the links of its list, and its place in the table.
        const LINKS_BYTES: usize = 4 * size_of::<usize>();
        let state = self.shared.lock();
        let known = state.known.len() * (size_of::<(UserId, Known)>() + LINKS_BYTES);
        (known + state.failures.bytes()) as u64
    }

    /// What the threads allocate at most, all of them hashing.
    pub fn hashing_bytes_max(&self) -> u64 {
        THREADS as u64 * self.shared.users.check_bytes_max()
    }

    /// Passwords hashed so far.
    pub fn verifications(&self) -> u64 {
        self.shared.verifications.load(Ordering::Relaxed)
    }
}

/// With one key for all of the process: pairs that are known outlive their authenticator.
fn process_mac() -> io::Result<Hmac<Sha256>> {
    static MAC: OnceLock<Hmac<Sha256>> = OnceLock::new();
    if let Some(mac) = MAC.get() {
        return Ok(mac.clone());
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key)?;
    let mac = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
    key.zeroize();
    Ok(MAC.get_or_init(|| mac).clone())
}

fn challenge(config: &ForwardConfig) -> String {
    format!("Basic realm=\"{}\", charset=\"UTF-8\"", config.realm)
}

impl Drop for Authenticator {
    fn drop(&mut self) {
        // The threads are not waited for: this may be a ring thread.
        self.shared.lock().is_stopping = true;
        self.shared.is_changed.notify_all();
    }
}

impl Checked {
    pub async fn outcome(self) -> LoginOutcome {
        match self {
            Self::Done(outcome) => outcome,
            Self::Pending(verification) => verification.outcome().await,
        }
    }
}

impl Verification {
    pub async fn outcome(self) -> LoginOutcome {
        // Without a reply the threads have ended: there is a newer configuration, or no more.
        self.0.await.unwrap_or(LoginOutcome::Busy)
    }
}

// On a ring thread.
impl Shared {
    fn check(&self, client: ClientAddress, credentials: Credentials, now_ms: u64) -> Checked {
        let tag = self.tag(credentials.pair);
        let user = self.users.find(credentials.user);
        let mut state = self.lock();
        let standing = match user.and_then(|id| state.recalled(id, &tag, now_ms)) {
            Some(Recalled::Right(id)) => return Checked::Done(LoginOutcome::Known(id)),
            // It was right, so that it is no guess.
            Some(Recalled::Stale) => Standing::MayTry,
            None => state.failures.standing(client, now_ms),
        };
        if let Standing::Blocked { retry_after_s } = standing {
            return Checked::Done(LoginOutcome::TooManyFailures { retry_after_s });
        }
        let is_new = !state.waiters.contains_key(&tag);
        if !state.has_room_for(Client::of(client)) || (is_new && standing != Standing::MayTry) {
            return Checked::Done(LoginOutcome::Busy);
        }
        let mut evicted = None;
        if is_new {
            let pair = Zeroizing::new(credentials.pair.into());
            let job = Job { tag, pair, colon: credentials.user.len(), user, client };
            let has_failed = state.failures.has_failed(client, now_ms);
            match state.queue.push(Client::of(client), has_failed, job) {
                Ok(job) => evicted = job,
                Err(_) => return Checked::Done(LoginOutcome::Busy),
            }
            state.failures.begin(client);
        }
        let (reply, outcome) = oneshot::channel();
        state.add_waiter(tag, Waiter { client, reply });
        let refused = evicted.map(|job| state.give_up(&job));
        drop(state);
        if is_new {
            self.is_changed.notify_one();
        }
        // Whoever waited for it is told that it is busy.
        drop(refused);
        Checked::Pending(Verification(outcome))
    }

    /// A field of another scheme says nothing of a password: clients begin with those.
    fn refuse_unreadable(&self, client: ClientAddress, field: &[u8], now_ms: u64) -> LoginOutcome {
        let is_basic = field.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Basic"));
        let (reason, outcome) = if is_basic {
            ("no name and password", LoginOutcome::Wrong)
        } else {
            ("another scheme than Basic", LoginOutcome::Missing)
        };
        self.report(client, "", reason, now_ms);
        outcome
    }

    fn tag(&self, pair: &[u8]) -> Tag {
        let mut mac = self.mac.clone();
        mac.update(pair);
        mac.finalize().into_bytes().into()
    }

    /// A panic elsewhere leaves a state in which every entry is still true.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// On a thread that hashes.
impl Shared {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            let hash = job.user.unwrap_or_else(|| self.users.stand_in(job.name()));
            let is_right = self.is_right(self.users.hash(hash), job.password());
            // Whatever the password is, it is not that of a user who does not exist.
            let user = job.user.filter(|_| is_right);
            self.settle(&job, user, clock::coarse_ms());
        }
    }

    fn is_right(&self, hash: &Hash, password: &[u8]) -> bool {
        let verify = |password: &[u8]| {
            self.verifications.fetch_add(1, Ordering::Relaxed);
            (self.verify)(hash, password)
        };
        verify(password) || as_latin_1(password).is_some_and(|password| verify(&password))
    }

    /// Waits. `None` at the end.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_stopping {
                state.queue.clear();
                state.waiters.clear();
                state.waiters_of.clear();
                return None;
            }
            match state.queue.pop() {
                Some(job) if state.is_awaited(&job.tag) => return Some(job),
                Some(job) => {
                    let gone = state.give_up(&job);
                    drop(state);
                    drop(gone);
                    state = self.lock();
                }
                None => {
                    let waited = self.is_changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn settle(&self, job: &Job, user: Option<UserId>, now_ms: u64) {
        let mut state = self.lock();
        state.failures.settle(job.client);
        let waiters = state.take_waiters(&job.tag);
        if let Some(id) = user {
            state.known.put(id, Known { tag: job.tag, until_ms: now_ms + KNOWN_MS });
        }
        drop(state);
        if user.is_none() {
            self.charge(&waiters, now_ms);
            let reason = if job.user.is_some() { "wrong password" } else { "no such user" };
            self.report(job.client, job.name(), reason, now_ms);
        }
        let outcome = user.map_or(LoginOutcome::Wrong, LoginOutcome::Known);
        for waiter in waiters {
            // Who has gone needs no outcome.
            let _ = waiter.reply.send(outcome);
        }
    }

    fn charge(&self, waiters: &[Waiter], now_ms: u64) {
        for some in waiters.chunks(SETTLED_AT_ONCE) {
            let mut blocked = Vec::new();
            let mut state = self.lock();
            for waiter in some {
                if state.failures.fail(waiter.client, now_ms) {
                    blocked.push(waiter.client);
                }
            }
            drop(state);
            for client in blocked {
                self.report_blocked(client, now_ms);
            }
        }
    }
}

// The log.
impl Shared {
    fn next_line(&self, now_ms: u64) -> Option<u64> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).next(now_ms)
    }

    fn report(&self, client: ClientAddress, user: &str, reason: &str, now_ms: u64) {
        let Some(unsaid) = self.next_line(now_ms) else { return };
        let user = cut(user);
        tracing::warn!(%client, ?user, unsaid, "a login to the forward proxy failed: {reason}");
    }

    fn report_blocked(&self, client: ClientAddress, now_ms: u64) {
        let Some(unsaid) = self.next_line(now_ms) else { return };
        tracing::warn!(
            %client, unsaid,
            "logins from this address are refused for the rest of the minute: it has failed \
             forward.auth_failures times"
        );
    }
}

impl Lines {
    /// How many lines were left out before this one, or `None` if this one is left out too.
    fn next(&mut self, now_ms: u64) -> Option<u64> {
        if now_ms.saturating_sub(self.begun_ms) >= LINES_INTERVAL_MS {
            self.begun_ms = now_ms;
            self.said = 0;
        }
        if self.said >= LINES_MAX {
            self.unsaid += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::credentials::tests::field;
    use super::super::pending::WAITERS_MAX;
    use super::*;
    use crate::config::Config;

    fn users(names: &[(&str, &str)]) -> Users {
        let line = |(name, password): &(&str, &str)| {
            // The least that bcrypt takes.
            format!("{name}:{}", bcrypt::hash(password, 4).unwrap())
        };
        Users::of(&names.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    fn config(auth_failures: u32) -> ForwardConfig {
        ForwardConfig { auth_failures, ..Config::default().forward }
    }

    fn start(auth_failures: u32) -> Arc<Authenticator> {
        let users = users(&[("alice", "open sesame"), ("bob", "x:y")]);
        Authenticator::start(users, &config(auth_failures)).unwrap()
    }

    /// For what comes at once, unless it never comes.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Nothing is ever hashed.
    fn stalled(auth_failures: u32) -> Arc<Authenticator> {
        let verify = Box::new(|_: &Hash, _: &[u8]| unreachable!("there is no thread"));
        let users = users(&[("alice", "open sesame")]);
        Authenticator::start_with(users, &config(auth_failures), 0, verify).unwrap()
    }

    /// One thread, which says which password it has begun with and waits until it is told the
    /// outcome.
    struct Gated {
        authenticator: Arc<Authenticator>,
        begun: mpsc::Receiver<Vec<u8>>,
        outcomes: mpsc::Sender<bool>,
    }

    fn gated(names: &[(&str, &str)]) -> Gated {
        let (started, begun) = mpsc::channel();
        let (outcomes, outcome) = mpsc::channel();
        let outcome = Mutex::new(outcome);
        let verify = move |_: &Hash, password: &[u8]| {
            started.send(password.to_owned()).unwrap();
            outcome.lock().unwrap().recv().unwrap()
        };
        let authenticator =
            Authenticator::start_with(users(names), &config(10), 1, Box::new(verify)).unwrap();
        Gated { authenticator, begun, outcomes }
    }

    fn address(last: u32) -> ClientAddress {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 | last).into()
    }

    fn settled(checked: Checked) -> LoginOutcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = async { tokio::time::timeout(PATIENCE, checked.outcome()).await };
        runtime.block_on(outcome).expect("an outcome")
    }

    /// What a login gets, and that nothing was hashed for it.
    #[track_caller]
    fn at_once(checked: Checked) -> LoginOutcome {
        match checked {
            Checked::Done(outcome) => outcome,
            Checked::Pending(_) => panic!("a password is being hashed"),
        }
    }

    #[track_caller]
    fn assert_pending(checked: &Checked) {
        assert!(matches!(checked, Checked::Pending(_)), "{checked:?}");
    }

    fn name<'a>(authenticator: &'a Authenticator, outcome: &LoginOutcome) -> Option<&'a str> {
        match outcome {
            LoginOutcome::Known(id) => Some(authenticator.name(*id)),
            _ => None,
        }
    }

    #[test]
    fn a_user_is_known_by_the_right_password_only() {
        let authenticator = start(1000);
        let table = [
            ("alice", "open sesame", Some("alice")),
            ("alice", "open sesame ", None),
            ("alice", "", None),
            ("Alice", "open sesame", None),
            ("bob", "x:y", Some("bob")),
            ("bob", "open sesame", None),
            // The same bytes.
            ("bob:x", "y", Some("bob")),
            ("carol", "open sesame", None),
            ("", "", None),
        ];
        for _ in 0..2 {
            for (user, password, expected) in table {
                let outcome = settled(authenticator.check(address(1), &field(user, password)));
                assert_eq!(name(&authenticator, &outcome), expected, "{user} {password}");
                assert!(expected.is_some() || outcome == LoginOutcome::Wrong, "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_known_pair_is_not_hashed_again_until_its_time_is_over() {
        let authenticator = start(10);
        let right = field("alice", "open sesame");
        let before_ms = clock::coarse_ms();
        let check = |now_ms| authenticator.check_at(address(1), &right, now_ms);
        assert_pending(&check(before_ms));
        let outcome = settled(check(before_ms));
        assert_eq!(name(&authenticator, &outcome), Some("alice"));
        let hashed = authenticator.verifications();
        assert_eq!(at_once(check(before_ms)), outcome);
        assert_eq!(at_once(check(before_ms + KNOWN_MS - 1)), outcome);
        assert_eq!(authenticator.verifications(), hashed);
        // Another password is hashed, and leaves the right one known.
        let wrong = authenticator.check(address(1), &field("alice", "open sesamf"));
        assert_pending(&wrong);
        assert_eq!(settled(wrong), LoginOutcome::Wrong);
        assert_eq!(at_once(check(before_ms)), outcome);
        let after_ms = clock::coarse_ms() + KNOWN_MS;
        assert_eq!(settled(check(after_ms)), outcome);
        assert_eq!(authenticator.verifications(), hashed + 2);
    }

    #[test]
    fn a_dropped_cache_is_empty_and_fills_again() {
        let authenticator = start(10);
        let right = field("bob", "x:y");
        let check = || authenticator.check(address(1), &right);
        let outcome = settled(check());
        assert!(authenticator.cache_bytes() > 0);
        authenticator.drop_cache();
        assert_eq!(authenticator.cache_bytes(), 0);
        let again = check();
        assert_pending(&again);
        assert_eq!(settled(again), outcome);
        assert_eq!(at_once(check()), outcome);
    }

    #[test]
    fn the_cache_has_a_largest_size() {
        let mut text = String::new();
        let hash = bcrypt::hash("same", 4).unwrap();
        for number in 0..=KNOWN_MAX.get() {
            writeln!(text, "user{number}:{hash}").unwrap();
        }
        let verify = Box::new(|_: &Hash, _: &[u8]| true);
        let authenticator =
            Authenticator::start_with(Users::of(&text), &config(10), 1, verify).unwrap();
        for number in 0..=KNOWN_MAX.get() {
            let field = field(&format!("user{number}"), "same");
            settled(authenticator.check(address(1), &field));
        }
        assert_eq!(authenticator.shared.lock().known.len(), KNOWN_MAX.get());
        at_once(authenticator.check(address(1), &field("user1", "same")));
        assert_pending(&authenticator.check(address(1), &field("user0", "same")));
    }

    #[test]
    fn an_unknown_name_is_hashed_for_and_never_right() {
        let everything_fits = Box::new(|_: &Hash, _: &[u8]| true);
        let users = users(&[("alice", "a")]);
        let authenticator =
            Authenticator::start_with(users, &config(10), 1, everything_fits).unwrap();
        let outcome = settled(authenticator.check(address(1), &field("mallory", "a")));
        assert_eq!(outcome, LoginOutcome::Wrong);
        assert_eq!(authenticator.verifications(), 1);
        let outcome = settled(authenticator.check(address(1), &field("alice", "b")));
        assert_eq!(name(&authenticator, &outcome), Some("alice"));
    }

    #[test]
    fn a_pair_from_many_connections_is_hashed_once() {
        let gated = gated(&[("alice", "a")]);
        let right = field("alice", "a");
        let checks: Vec<_> =
            (0..50).map(|last| gated.authenticator.check(address(last), &right)).collect();
        assert_eq!(gated.begun.recv_timeout(PATIENCE).unwrap(), b"a");
        let late = gated.authenticator.check(address(99), &right);
        gated.outcomes.send(true).unwrap();
        for check in checks.into_iter().chain([late]) {
            assert_pending(&check);
            assert_eq!(name(&gated.authenticator, &settled(check)), Some("alice"));
        }
        assert_eq!(gated.authenticator.verifications(), 1);
        let state = gated.authenticator.shared.lock();
        assert_eq!((state.waiters.len(), state.waiter_count, state.queue.len()), (0, 0, 0));
    }

    #[test]
    fn every_connection_with_a_wrong_pair_is_a_failure_of_its_client() {
        let gated = gated(&[("alice", "a")]);
        let wrong = field("alice", "b");
        // One client has the tenth failure with it, another one only nine.
        let checks: Vec<_> = [1; 10].into_iter().chain([2; 9]).collect();
        let checks: Vec<_> = checks
            .into_iter()
            .map(|last| gated.authenticator.check(address(last), &wrong))
            .collect();
        gated.outcomes.send(false).unwrap();
        for check in checks {
            assert_eq!(settled(check), LoginOutcome::Wrong);
        }
        let first = at_once(gated.authenticator.check(address(1), &wrong));
        assert!(matches!(first, LoginOutcome::TooManyFailures { .. }), "{first:?}");
        assert_pending(&gated.authenticator.check(address(2), &wrong));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_hashed() {
        let gated = gated(&[("alice", "a")]);
        let check = |password| gated.authenticator.check(address(1), &field("alice", password));
        let first = check("first");
        assert_eq!(gated.begun.recv_timeout(PATIENCE).unwrap(), b"first");
        drop(check("given up"));
        let last = check("last");
        gated.outcomes.send(false).unwrap();
        assert_eq!(gated.begun.recv_timeout(PATIENCE).unwrap(), b"last");
        gated.outcomes.send(true).unwrap();
        assert_eq!(settled(first), LoginOutcome::Wrong);
        assert_eq!(name(&gated.authenticator, &settled(last)), Some("alice"));
        assert_eq!(gated.authenticator.verifications(), 2);
        let mut state = gated.authenticator.shared.lock();
        assert_eq!((state.waiters.len(), state.waiter_count), (0, 0));
        // One failure, and nothing that is still open.
        let now_ms = clock::coarse_ms();
        for _ in 0..8 {
            state.failures.fail(address(1), now_ms);
        }
        assert_eq!(state.failures.standing(address(1), now_ms), Standing::MayTry);
    }

    #[test]
    fn too_many_failures_refuse_a_client_without_a_look_at_its_password() {
        let authenticator = start(2);
        let right = field("alice", "open sesame");
        let known = settled(authenticator.check(address(1), &right));
        for password in ["a", "b"] {
            let outcome = settled(authenticator.check(address(1), &field("alice", password)));
            assert_eq!(outcome, LoginOutcome::Wrong);
        }
        let hashed = authenticator.verifications();
        for field in [field("alice", "c"), field("bob", "x:y")] {
            let outcome = at_once(authenticator.check(address(1), &field));
            let LoginOutcome::TooManyFailures { retry_after_s } = outcome else {
                panic!("{outcome:?}");
            };
            assert!((1..=60).contains(&retry_after_s), "{retry_after_s}");
        }
        assert_eq!(at_once(authenticator.check(address(1), &right)), known);
        assert_eq!(authenticator.verifications(), hashed);
        assert_eq!(at_once(authenticator.check(address(2), &right)), known);
        let later_ms = clock::coarse_ms() + 60_000;
        assert_eq!(at_once(authenticator.check_at(address(1), &right, later_ms)), known);
    }

    #[test]
    fn a_pair_that_was_right_is_looked_at_again_whatever_its_address_has_failed() {
        let authenticator = start(1);
        let right = field("alice", "open sesame");
        let known = settled(authenticator.check(address(1), &right));
        settled(authenticator.check(address(1), &field("alice", "a")));
        let much_later_ms = clock::coarse_ms() + KNOWN_MS;
        settled(authenticator.check_at(address(1), &field("alice", "b"), much_later_ms));
        authenticator.shared.lock().failures.fail(address(1), much_later_ms);
        let again = authenticator.check_at(address(1), &right, much_later_ms);
        assert_pending(&again);
        assert_eq!(settled(again), known);
    }

    #[test]
    fn only_wrong_passwords_are_failures() {
        let authenticator = stalled(1);
        let fields: [(&[u8], LoginOutcome); 7] = [
            (b"", LoginOutcome::Missing),
            (b"Bearer abc", LoginOutcome::Missing),
            (b"Negotiate YII=", LoginOutcome::Missing),
            (b"NTLM TlRMTVNTUAAB", LoginOutcome::Missing),
            (b"Digest a=b", LoginOutcome::Missing),
            (b"Basic YTpi=", LoginOutcome::Wrong),
            (b"Basic !", LoginOutcome::Wrong),
        ];
        for (field, outcome) in fields.into_iter().cycle().take(50) {
            assert_eq!(at_once(authenticator.check(address(1), field)), outcome);
        }
        assert_pending(&authenticator.check(address(1), b"Basic YTpi"));
    }

    #[test]
    fn a_password_counts_in_utf_8_and_in_latin_1() {
        let utf8 = bcrypt::hash("m\u{fc}ll", 4).unwrap();
        let latin1 = bcrypt::hash(b"m\xfcll", 4).unwrap();
        let users = Users::of(&format!("a:{utf8}\nb:{latin1}\n\u{e4}:{utf8}"));
        let authenticator = Authenticator::start(users, &config(100)).unwrap();
        let pairs: [(&[u8], &str); 6] = [
            (b"a:m\xc3\xbcll", "a"),
            (b"a:m\xfcll", "a"),
            (b"b:m\xc3\xbcll", "b"),
            (b"b:m\xfcll", "b"),
            (b"\xe4:m\xfcll", "\u{e4}"),
            (b"\xc3\xa4:m\xc3\xbcll", "\u{e4}"),
        ];
        for (pair, user) in pairs {
            let field = super::super::credentials::tests::encoded(pair);
            let outcome = settled(authenticator.check(address(1), &field));
            assert_eq!(name(&authenticator, &outcome), Some(user), "{}", pair.escape_ascii());
        }
        let wrong = authenticator.check(address(1), &field("a", "m\u{fb}ll"));
        assert_eq!(settled(wrong), LoginOutcome::Wrong);
    }

    #[test]
    fn a_flood_of_wrong_passwords_leaves_room_for_other_addresses() {
        let gated = gated(&[("alice", "a")]);
        let check = |last: u32, password: String| {
            gated.authenticator.check(address(last), &field("alice", &password))
        };
        // One is at the thread; the others fill the queue, ten of an address.
        let flood: Vec<_> = (0..=QUEUE_MAX as u32)
            .map(|number| check(number / 10, format!("wrong{number}")))
            .collect();
        flood.iter().for_each(assert_pending);
        assert_eq!(gated.begun.recv_timeout(PATIENCE).unwrap(), b"wrong0");
        let right = check(99, "a".to_owned());
        assert_pending(&right);
        gated.outcomes.send(false).unwrap();
        // Each address in the queue has one turn at most before it.
        for _ in 0..=QUEUE_MAX / 10 + 1 {
            let password = gated.begun.recv_timeout(PATIENCE).unwrap();
            gated.outcomes.send(password == b"a").unwrap();
            if password == b"a" {
                assert_eq!(name(&gated.authenticator, &settled(right)), Some("alice"));
                return;
            }
        }
        panic!("the right password had no turn");
    }

    #[test]
    fn what_is_known_of_users_that_stay_survives_a_change_of_the_others() {
        let hash = bcrypt::hash("open sesame", 4).unwrap();
        let file = |more: &str| Users::of(&format!("{more}alice:{hash}"));
        let first = Authenticator::start(file(""), &config(2)).unwrap();
        let right = field("alice", "open sesame");
        settled(first.check(address(1), &right));
        settled(first.check(address(2), &field("alice", "x")));
        let bob = format!("bob:{}\n", bcrypt::hash("b", 4).unwrap());
        let second = Authenticator::start_after(&first, file(&bob), &config(2)).unwrap();
        let outcome = at_once(second.check(address(1), &right));
        assert_eq!(name(&second, &outcome), Some("alice"));
        settled(second.check(address(2), &field("alice", "y")));
        let blocked = at_once(second.check(address(2), &field("alice", "z")));
        assert!(matches!(blocked, LoginOutcome::TooManyFailures { .. }), "{blocked:?}");
        // Another password of the same name is looked at.
        let changed = Users::of(&format!("alice:{}", bcrypt::hash("new", 4).unwrap()));
        let third = Authenticator::start_after(&second, changed, &config(2)).unwrap();
        assert_eq!(settled(third.check(address(1), &right)), LoginOutcome::Wrong);
    }

    #[test]
    fn a_client_has_no_more_attempts_under_way_than_failures_left() {
        let authenticator = stalled(3);
        let check = |password| authenticator.check(address(1), &field("alice", password));
        let pending: Vec<_> = ["a", "b", "c"].map(check).into_iter().collect();
        pending.iter().for_each(assert_pending);
        assert_eq!(at_once(check("d")), LoginOutcome::Busy);
        // One that is under way already gives no further guess.
        assert_pending(&check("b"));
        assert_pending(&authenticator.check(address(2), &field("alice", "d")));
    }

    #[test]
    fn a_flood_of_attempts_is_bounded() {
        let authenticator = stalled(10);
        let check = |last: u32| {
            let field = field(&format!("user{last}"), "x");
            authenticator.check(address(last), &field)
        };
        let pending: Vec<_> = (0..QUEUE_MAX as u32).map(check).collect();
        pending.iter().for_each(assert_pending);
        for last in 0..1_000_000 {
            let last = QUEUE_MAX as u32 + last;
            assert_eq!(at_once(check(last)), LoginOutcome::Busy);
        }
        let state = authenticator.shared.lock();
        assert_eq!((state.queue.len(), state.waiters.len()), (QUEUE_MAX, QUEUE_MAX));
    }

    #[test]
    fn a_flood_of_connections_with_one_pair_is_bounded() {
        let authenticator = stalled(10);
        let check = || authenticator.check(address(1), &field("alice", "x"));
        let pending: Vec<_> = (0..WAITERS_MAX).map(|_| check()).collect();
        pending.iter().for_each(assert_pending);
        assert_eq!(at_once(check()), LoginOutcome::Busy);
        assert_eq!(authenticator.shared.lock().waiter_count, WAITERS_MAX);
    }

    #[test]
    fn a_flood_of_clients_is_bounded() {
        let authenticator = stalled(10);
        for last in 0..1_000_000 {
            authenticator.shared.lock().failures.fail(address(last), 0);
        }
        assert!(authenticator.cache_bytes() < 1_000_000, "{}", authenticator.cache_bytes());
    }

    #[test]
    fn who_waits_at_the_end_is_told() {
        let gated = gated(&[("alice", "a")]);
        let check = |password| gated.authenticator.check(address(1), &field("alice", password));
        let (hashing, queued) = (check("a"), check("b"));
        assert_eq!(gated.begun.recv_timeout(PATIENCE).unwrap(), b"a");
        let shared = Arc::downgrade(&gated.authenticator.shared);
        drop(gated.authenticator);
        gated.outcomes.send(true).unwrap();
        assert!(matches!(settled(hashing), LoginOutcome::Known(_)));
        assert_eq!(settled(queued), LoginOutcome::Busy);
        // The thread has let go of the gate: it has ended.
        let gone = gated.begun.recv_timeout(PATIENCE);
        assert_eq!(gone, Err(mpsc::RecvTimeoutError::Disconnected));
        assert!(shared.upgrade().is_none());
        let orphan = stalled(1).check(address(1), &field("a", "b"));
        assert_eq!(settled(orphan), LoginOutcome::Busy);
    }

    #[test]
    fn the_challenge_names_the_realm() {
        let config = ForwardConfig { realm: "my proxy".to_owned(), ..config(10) };
        let authenticator = Authenticator::start(users(&[("a", "b")]), &config).unwrap();
        let expected = "Basic realm=\"my proxy\", charset=\"UTF-8\"";
        assert_eq!(authenticator.challenge(), expected);
    }

    #[test]
    fn lines_on_failures_are_few_and_count_the_others() {
        let mut lines = Lines::default();
        let now_ms = 1_000_000;
        for _ in 0..LINES_MAX {
            assert_eq!(lines.next(now_ms), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(lines.next(now_ms + LINES_INTERVAL_MS - 1), None);
        }
        assert_eq!(lines.next(now_ms + LINES_INTERVAL_MS), Some(7));
        assert_eq!(lines.next(now_ms + LINES_INTERVAL_MS), Some(0));
    }

    #[test]
    fn a_line_on_a_failure_shows_the_name_on_one_line_and_cut() {
        #[derive(Clone, Default)]
        struct Captured(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Captured {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        let authenticator = stalled(10);
        tracing::subscriber::with_default(subscriber.finish(), || {
            let name = format!("a\"\r\n\x1b[2J\u{202e}{}", "b".repeat(1000));
            authenticator.shared.report(address(1), &name, "wrong password", 1_000_000);
        });
        let line = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        let expected = r#"client=10.0.0.1 user="a\"\r\n\u{1b}[2J\u{202e}bbb"#;
        assert!(line.contains(expected), "{line}");
        assert!(line.len() < 300, "{line}");
    }
}
