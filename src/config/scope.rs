//! What a value's spelling depends on beside the value: the names of the upstreams, and whether
//! secrets may be seen.
//!
//! In: the names, for as long as one reading or one spelling lasts. Out: the index of a name, the
//! name of an index, a secret or `HIDDEN` in its place. serde hands nothing through to the fields
//! of a derived struct, so this stands beside it, per thread. Outside of a scope there are no
//! names, and secrets are hidden.

use std::cell::RefCell;
use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::effective::HIDDEN;
use super::error::{nearest, quoted};
use super::kinds::{Given, Wrong, scalar_kind};
use super::names::{
    CREDENTIALS_FORM, TOKEN_FORM, WEBHOOK_FORM, is_admin_token, is_credentials, is_webhook,
};
use super::{Secret, UpstreamConfig};

#[derive(Default)]
struct Scope {
    names: Vec<String>,
    indexes: HashMap<String, usize>,
    has_secrets: bool,
}

thread_local! {
    static SCOPE: RefCell<Scope> = RefCell::default();
}

/// Ends a scope, also where what it is for panics.
struct Restored(Scope);

impl Drop for Restored {
    fn drop(&mut self) {
        SCOPE.replace(std::mem::take(&mut self.0));
    }
}

fn within<R>(names: Vec<String>, has_secrets: bool, work: impl FnOnce() -> R) -> R {
    // The first of several that are called the same.
    let indexes = names.iter().cloned().enumerate().rev();
    let indexes = indexes.map(|(index, name)| (name, index)).collect();
    let _restored = Restored(SCOPE.replace(Scope { names, indexes, has_secrets }));
    work()
}

/// Reads something in which upstreams are named.
pub(super) fn reading<R>(upstreams: Vec<String>, work: impl FnOnce() -> R) -> R {
    within(upstreams, false, work)
}

/// Spells something in which upstreams are numbered.
pub(super) fn spelling<R>(
    upstreams: &[UpstreamConfig],
    has_secrets: bool,
    work: impl FnOnce() -> R,
) -> R {
    let upstreams = upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    within(upstreams, has_secrets, work)
}

scalar_kind!(
    /// The name of an upstream; its index in `Config::upstreams` to the program.
    UpstreamName: usize, "a string", json!({ "type": "string" }),
    |given| index_of(given.text()?),
    |value| name_of(*value).into()
);

pub(super) fn index_of(name: &str) -> Result<usize, Wrong> {
    SCOPE.with_borrow(|scope| {
        scope.indexes.get(name).copied().ok_or_else(|| {
            let nearest = nearest(name, scope.names.iter().map(String::as_str));
            let meant = nearest.map(|nearest| format!(", did you mean {nearest:?}?"));
            let meant = meant.unwrap_or_default();
            Wrong::Because(format!("there is no upstream {}{meant}", quoted(name)))
        })
    })
}

pub(super) fn name_of(index: usize) -> String {
    SCOPE.with_borrow(|scope| scope.names.get(index).cloned().unwrap_or_default())
}

fn spelled(secret: &str) -> Json {
    let may_be_seen = SCOPE.with_borrow(|scope| scope.has_secrets);
    if may_be_seen { secret.into() } else { HIDDEN.into() }
}

fn is_field_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// No refusal of a secret shows it, not even a number that was meant as one.
fn secret(
    given: Given<'_>,
    is_right: fn(&str) -> bool,
    expected: &'static str,
) -> Result<Secret, Wrong> {
    match given {
        Given::Text(text) if is_right(text) => Ok(Secret::new(text)),
        Given::Text(_) => Err(Wrong::unlike("***", expected)),
        _ => Err(Wrong::Because("invalid type: number, expected a string".to_owned())),
    }
}

scalar_kind!(
    /// What the administration is asked with.
    Token: Secret, "a string", json!({ "type": "string" }),
    |given| secret(given, is_admin_token, TOKEN_FORM),
    |value| spelled(value.reveal())
);
scalar_kind!(
    /// `user:password`.
    Credentials: Secret, "a string", json!({ "type": "string" }),
    |given| secret(given, is_credentials, CREDENTIALS_FORM),
    |value| spelled(value.reveal())
);
scalar_kind!(
    /// What a receiver is told of who sends.
    Authorization: Secret, "a string", json!({ "type": "string" }),
    |given| secret(given, is_field_value, "printable ASCII"),
    |value| spelled(value.reveal())
);
scalar_kind!(
    /// A URL. Whoever knows it can post there.
    Webhook: String, "a string", json!({ "type": "string" }),
    |given| {
        let text = given.text()?;
        is_webhook(text).then(|| text.to_owned()).ok_or_else(|| given.unlike(WEBHOOK_FORM))
    },
    |value| spelled(value)
);

/// A secret anywhere else.
impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(HIDDEN)
    }
}
