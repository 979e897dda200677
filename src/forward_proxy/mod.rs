//! Whether a client may use the forward proxy, and for which target.
//!
//! In: the authority of a request for another's server, the address that would be dialled
//! for it, and the `Proxy-Authorization` field. Out: a `Target`, a `Verdict` and who the client
//! is. Everything is compiled once per configuration and asked on the ring threads, where nothing
//! here waits: names are resolved elsewhere and passwords are hashed by threads of their own.
//! Nothing here dials, resolves or answers.
//!
//! The order of an exchange: `Target::of`, `Authenticator::log_in`, `Policy::judge_name` before a
//! name server is asked, `Policy::parent`, and `Policy::judge_address` for each address just
//! before it is dialled. Where a parent does the looking up, `Policy::judge_unresolved` takes the
//! place of the last.

pub(crate) mod access;
mod addresses;
pub(crate) mod auth;
mod credentials;
mod failures;
mod fair_queue;
mod groups;
pub(crate) mod lists;
pub(crate) mod lookup;
pub(crate) mod parent_health;
mod pending;
pub(crate) mod policy;
mod rules;
pub(crate) mod target;
pub(crate) mod user_rules;
pub(crate) mod users;

pub(crate) use self::auth::Authenticator;
pub(crate) use self::auth::Checked;
pub(crate) use self::pending::LoginOutcome;
pub(crate) use self::policy::{Asked, Policy, Verdict};
pub(crate) use self::target::Target;
pub(crate) use self::users::{UserId, Users};
