//! `[upstream.sticky]`: what keeps a client with an origin.
//!
//! In: TOML, JSON and texts, by way of serde. Out: which cookie, whose it is, and for how long. The
//! file of the secret is not read here.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kinds::own::File;
use super::kinds::plain::{Time, Word, Words};
use super::kinds::{As, Switched, text_kind};
use crate::http::names::is_token;

text_kind!(
    CookieName = |text: &str| !text.is_empty() && text.len() <= 64 && text.bytes().all(is_token),
    "the name of a cookie: 1 to 64 letters, digits and other bytes of a token"
);

/// To whom a browser shows a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameSite {
    #[default]
    Lax,
    Strict,
    None,
}

impl Words for SameSite {
    const WORDS: &'static [(&'static str, Self)] =
        &[("lax", Self::Lax), ("strict", Self::Strict), ("none", Self::None)];
}

/// What keeps a client with an origin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StickyConfig {
    /// Its name.
    #[serde(with = "As::<CookieName>")]
    pub cookie: String,
    /// It is a cookie of the origins' own, and the client goes where it got it.
    pub learn: bool,
    /// 1s to 365d.
    #[serde(with = "Time::<1_000, 31_536_000_000>")]
    pub ttl: Duration,
    /// "lax", "strict" or "none".
    #[serde(with = "Word::<SameSite>")]
    pub same_site: SameSite,
    /// A file with what signs the cookie; "" is a secret that ends with the process.
    #[serde(with = "Switched::<File>")]
    pub secret_file: Option<PathBuf>,
}

impl Default for StickyConfig {
    fn default() -> Self {
        Self {
            cookie: "ringway_origin".to_owned(),
            learn: false,
            ttl: Duration::from_secs(3600),
            same_site: SameSite::Lax,
            secret_file: None,
        }
    }
}
