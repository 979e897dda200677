//! Kinds of values that only ringway has: addresses, networks, files, names, and a few numbers of
//! the kernel's and of HTTP's.
//!
//! In: a text or a number. Out: what it means, or what was expected. Syntax only: nothing here
//! opens a file, binds a socket or asks DNS.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserializer;
use serde_json::{Value as Json, json};

use super::plain::{Bytes, duration, duration_schema, duration_spelled};
use super::{Each, Given, Kind, Wrong, scalar_kind, text_kind};
use crate::config::names::{
    ADDRESS_FORM, NAME_FORM, NETWORK_FORM, REALM_FORM, ROUTE_PATH_FORM, is_name, is_realm,
    is_route_path, is_token, parse_address, parse_listener, parse_mode,
};
use crate::config::rules::parse_network;
use crate::config::units::{BYTES_FORM, DURATION_FORM, bytes_text, duration_text};
use crate::config::{LogTarget, Networks, PoolStatus, Prewarm};
use crate::http::names::FieldName;

text_kind!(Address: IpAddr = parse_address, ADDRESS_FORM);
text_kind!(ListenAddress: crate::address::Address, parse_listener, ToString::to_string);
text_kind!(Mode: u32, parse_mode, |mode| format!("{mode:04o}"));
text_kind!(Network: IpNet = parse_network, NETWORK_FORM);
text_kind!(
    /// `None` is "unix".
    NetworkOrUnix: Option<IpNet>,
    |text| match text {
        "unix" => Ok(None),
        text => parse_network(text).map(Some).ok_or_else(|| NETWORK_FORM.to_owned()),
    },
    |network| network.map_or_else(|| "unix".to_owned(), |network| network.to_string())
);
text_kind!(Pseudonym = is_token, "a name of letters, digits, \"-\", \"_\", \".\"");
text_kind!(
    /// A field by which a proxy says who its client is.
    ClientHeader = is_client_header,
    "a field by which a proxy says who the client is, such as \"X-Forwarded-For\", \"Forwarded\" \
     or \"CF-Connecting-IP\""
);
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

fn is_client_header(name: &str) -> bool {
    use FieldName as K;
    let known = FieldName::of(name.as_bytes());
    let is_open = matches!(known, K::Other | K::XForwardedFor | K::Forwarded | K::XRealIp);
    is_token(name) && name.len() <= CLIENT_HEADER_BYTES_MAX && is_open
}

/// What a table of names holds.
const CLIENT_HEADER_BYTES_MAX: usize = 63;

pub(in crate::config) struct NetworkList;

impl Kind for NetworkList {
    type Value = Networks;

    fn schema() -> Json {
        Each::<NetworkOrUnix>::schema()
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Networks, D::Error> {
        let mut networks = Networks::default();
        for client in Each::<NetworkOrUnix>::read(from)? {
            match client {
                Some(network) => networks.networks.push(network),
                None => networks.has_unix = true,
            }
        }
        Ok(networks)
    }

    fn spell(value: &Networks) -> Json {
        let mut list: Vec<_> = value.networks.iter().map(Network::spell).collect();
        list.extend(value.has_unix.then(|| "unix".into()));
        list.into()
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

scalar_kind!(
    PrewarmCount: Prewarm, "\"auto\" or a whole number",
    json!({ "anyOf": [
        { "type": "string", "enum": ["auto"] },
        { "type": "integer", "minimum": 0, "maximum": 1000 },
    ] }),
    |given| match given {
        Given::Text("auto") => Ok(Prewarm::Auto),
        Given::Whole(count @ 0..=1000) => Ok(Prewarm::Count(count as usize)),
        Given::Real(_) | Given::Truth(_) => Err(Wrong::Type),
        _ => Err(given.unlike("\"auto\" or a whole number from 0 to 1000")),
    },
    |value| match value {
        Prewarm::Auto => "auto".into(),
        Prewarm::Count(count) => json!(count),
    }
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

text_kind!(
    /// A user or a group.
    Account = is_account,
    ACCOUNT_FORM
);

const ACCOUNT_FORM: &str =
    "a name of up to 32 letters, digits, \"-\", \"_\" and \".\", a number, or \"\"";

fn is_account(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= 32 && text.bytes().all(is_plain) && !text.starts_with('-')
}
