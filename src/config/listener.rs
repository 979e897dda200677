//! A listener: an address, and what it is beside that.
//!
//! In: a text such as `"127.0.0.1:8001"` or `"unix:/run/ringway/http.sock"`, or a table with that
//! as its `address`. Out: one struct for both, which is spelled back as briefly as it can be.
//! Nothing here binds.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::kinds::own::{ListenAddress, Mode};
use super::kinds::plain::{OneOf, Words};
use super::kinds::{As, Kind, Optional};
use super::names::{LISTEN_FORM, MODE_FORM, parse_listener};
use crate::address::Address;
use crate::proxy_protocol::Accepted;

/// Everybody of the group may connect, as it is with the sockets of most daemons.
const MODE: u32 = 0o660;

/// One of `server.listen`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    #[serde(with = "As::<ListenAddress>")]
    pub address: Address,
    /// Of the file of a Unix socket, which only who may write to it can connect to.
    #[serde(default, with = "Optional::<Mode>", skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// The versions of the PROXY protocol, one of which every connection has to begin with.
    #[serde(
        default,
        with = "Optional::<OneOf<Accepted>>",
        skip_serializing_if = "Option::is_none"
    )]
    pub proxy_protocol: Option<Accepted>,
    /// One of `server.listen_tls`.
    #[serde(skip)]
    pub is_tls: bool,
}

impl Words for Accepted {
    const WORDS: &'static [(&'static str, Self)] =
        &[("v1", Self::V1), ("v2", Self::V2), ("v1v2", Self::V1V2)];
}

impl ListenerConfig {
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self::at(address.into())
    }

    pub(crate) fn at(address: Address) -> Self {
        Self { address, mode: None, proxy_protocol: None, is_tls: false }
    }

    /// Of the file, where it has one.
    pub(crate) fn mode(&self) -> u32 {
        self.mode.unwrap_or(MODE)
    }
}

impl FromStr for ListenerConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_listener(text).map(Self::at)
    }
}

/// A text or a table.
pub(super) struct Listener;

impl Kind for Listener {
    type Value = ListenerConfig;

    fn schema() -> Json {
        let address = json!({ "type": "string", "x-form": LISTEN_FORM,
                              "description": "What is listened on." });
        let mode = json!({ "type": "string", "x-form": MODE_FORM, "default": "0660",
                           "description": "Of the file of a Unix socket." });
        let mut proxy_protocol = OneOf::<Accepted>::schema();
        proxy_protocol["description"] = "Which PROXY protocol headers trusted proxies send, \
                                         without which a connection is closed."
            .into();
        json!({
            "anyOf": [address, {
                "type": "object",
                "properties": {
                    "address": address,
                    "mode": mode,
                    "proxy_protocol": proxy_protocol,
                },
                "required": ["address"],
                "additionalProperties": false,
            }],
        })
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<ListenerConfig, D::Error> {
        from.deserialize_any(ListenerVisitor)
    }

    fn spell(value: &ListenerConfig) -> Json {
        match (value.mode, value.proxy_protocol) {
            (None, None) => ListenAddress::spell(&value.address),
            _ => json!(value),
        }
    }
}

// Written out because an untagged enum would lose the position of what is wrong inside it.
struct ListenerVisitor;

impl<'de> Visitor<'de> for ListenerVisitor {
    type Value = ListenerConfig;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{LISTEN_FORM}, or a table {{ address = \"...\", mode = \"0660\" }}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ListenerConfig, E> {
        let address = As::<ListenAddress>::deserialize(StrDeserializer::new(text))?;
        Ok(ListenerConfig::at(address))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenerConfig, A::Error> {
        ListenerConfig::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn a_listener_is_a_text_or_a_table_and_is_spelled_as_it_was() {
        let text = "[server]\nhost = \"\"\nlisten = [\"unix:/a\", \"unix:@b\", \"[::1]:8\", \
                    { address = \"unix:/c\", mode = \"0666\" }, { address = \"[::1]:9\" }]";
        let server = parse(text).unwrap().server;
        let spelled: Vec<_> = server.listen.iter().map(Listener::spell).collect();
        let table = json!({ "address": "unix:/c", "mode": "0666" });
        let expected = json!(["unix:/a", "unix:@b", "[::1]:8", table, "[::1]:9"]);
        assert_eq!(Json::from(spelled), expected);
        assert_eq!(server.listeners, server.listen);
        assert_eq!((server.listen[0].mode(), server.listen[3].mode()), (0o660, 0o666));
    }

    #[test]
    fn what_is_no_listener_is_refused_with_the_right_form() {
        let long = format!("[server]\nlisten = [\"unix:/{}\"]", "x".repeat(107));
        let unix = "2:11: server.listen[0]: found \"unix:";
        let table = [
            (long.as_str(), unix),
            (
                "[server]\nlisten = [\"unix:a\"]",
                "2:11: server.listen[0]: found \"unix:a\", expected \"u",
            ),
            (
                "[server]\nlisten = [{ address = \"unix:/a\", tsl = true }]",
                "2:34: server.listen[0].tsl: unknown key",
            ),
            ("[server]\nlisten = [{ mode = \"0660\" }]", "missing key `address`"),
            (
                "[server]\nlisten = [{ address = \"unix:/a\", mode = \"0888\" }]",
                "found \"0888\", expected an octal mode in quotes",
            ),
            (
                "[server]\nlisten = [{ address = \"unix:/a\", mode = 432 }]",
                "invalid type: integer `432`, expected a string",
            ),
            (
                "[server]\nlisten = [{ address = \"unix:/a\", mode = \"0066\" }]",
                "found \"0066\", expected an octal mode in quotes",
            ),
            (
                "[server]\nlisten = [{ address = \"127.0.0.1:1\", mode = \"0660\" }]",
                "server.listen[0]: `mode` is of the file of a Unix socket",
            ),
            (
                "[server]\nlisten = [\"unix:/a\", \"unix:/a\"]",
                "server.listen[1]: unix:/a is taken by the listener unix:/a",
            ),
            (
                "server.listen = [\"unix:/a\"]\nadmin.address = \"unix:/a\"",
                "the administrator's unix:/a is taken by the listener unix:/a",
            ),
            (
                "[server]\nhost = \"\"",
                "2:8: server.host: found \"\", which is no listener, and neither",
            ),
        ];
        for (text, expected) in table {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
