//! Kinds of values that only ringway has: addresses, networks, files, names, and a few numbers of
//! the kernel's and of HTTP's.
//!
//! In: a text or a number. Out: what it means, or what was expected. Syntax only: nothing here
//! opens a file, binds a socket or asks DNS.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserializer;
use serde_json::{Value as Json, json};

use super::plain::{Bytes, duration, duration_schema, duration_spelled};
use super::{Each, Given, Kind, Wrong, scalar_kind, text_kind};
use crate::config::names::{
    ADDRESS_FORM, LISTEN_FORM, NAME_FORM, NETWORK_FORM, REALM_FORM, ROUTE_PATH_FORM, is_name,
    is_realm, is_route_path, is_token, parse_address, parse_listen,
};
use crate::config::rules::parse_network;
use crate::config::units::{BYTES_FORM, DURATION_FORM, bytes_text, duration_text};
use crate::config::{LogTarget, Networks, PoolStatus};

text_kind!(Address: IpAddr = parse_address, ADDRESS_FORM);
text_kind!(Listener: SocketAddr = parse_listen, LISTEN_FORM);
text_kind!(Network: IpNet = parse_network, NETWORK_FORM);
text_kind!(Pseudonym = is_token, "a name of letters, digits, \"-\", \"_\", \".\"");
text_kind!(Name = is_name, NAME_FORM);
text_kind!(Path = is_route_path, ROUTE_PATH_FORM);
text_kind!(Realm = is_realm, REALM_FORM);
text_kind!(
    /// A file that is read.
    File: PathBuf, |text| Ok(text.into()), |path| path.to_string_lossy().into_owned()
);
text_kind!(
    /// A file that is written to; "" is none.
    Output: LogTarget,
    |text| Ok(match text {
        "" => LogTarget::StandardOutput,
        path => LogTarget::File(path.into()),
    }),
    |target| match target {
        LogTarget::StandardOutput => String::new(),
        LogTarget::File(path) => path.to_string_lossy().into_owned(),
    }
);

pub(in crate::config) struct NetworkList;

impl Kind for NetworkList {
    type Value = Networks;

    fn schema() -> Json {
        Each::<Network>::schema()
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Networks, D::Error> {
        Each::<Network>::read(from).map(Networks)
    }

    fn spell(value: &Networks) -> Json {
        Each::<Network>::spell(&value.0)
    }
}

scalar_kind!(
    PoolStatusCode: PoolStatus, "a whole number", json!({ "type": "integer", "enum": [504, 503] }),
    |given| match given {
        Given::Whole(504) => Ok(PoolStatus::GatewayTimeout),
        Given::Whole(503) => Ok(PoolStatus::ServiceUnavailable),
        Given::Real(_) | Given::Truth(_) => Err(Wrong::Type),
        _ => Err(given.unlike("504 or 503")),
    },
    |value| value.code().into()
);

/// `TCP_KEEPIDLE` counts whole seconds, and not more of them than this.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

scalar_kind!(
    Keepalive: Duration, DURATION_FORM, duration_schema(0, 32_767_000),
    |given| {
        let time = duration(given)?;
        if time.is_zero() || (Duration::from_secs(1)..=KEEPALIVE_MAX).contains(&time) {
            return Ok(Duration::from_secs(time.as_secs()));
        }
        Err(Wrong::unlike(&duration_text(time), "0, or a duration from 1s to 32767s"))
    },
    |value| duration_spelled(*value)
);

/// Registered memory is pinned page by page.
const PAGE_BYTES: usize = 4096;

type Chunk = Bytes<usize, 4096, 1_048_576>;

scalar_kind!(
    Pages: usize, BYTES_FORM, Chunk::schema(),
    |given| {
        let size = Chunk::take(given)?;
        if size.is_multiple_of(PAGE_BYTES) {
            return Ok(size);
        }
        Err(Wrong::unlike(&bytes_text(size as u64), "a multiple of 4KiB, the page size"))
    },
    |value| Chunk::spell(value)
);
