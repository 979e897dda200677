//! An origin of an upstream: a URL, or a table that says more of it.
//!
//! In: a text such as `"http://a:80"`, or `{ url = "http://a:80", weight = 3 }`. Out: one struct for
//! both, which is spelled back as briefly as it can be. Whether its name exists is not asked here.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::{Value as Json, json};

use super::kinds::plain::{Count, Whole};
use super::kinds::{As, Kind, Optional, number, text_kind};
use super::names::{
    ORIGIN_FORM, ORIGIN_OR_UNIX_FORM, authority_beside, parse_origin_below, parse_service,
};
use crate::address::{UnixAddress, is_unix, unix_form};

text_kind!(
    /// Of an origin.
    Url: OriginConfig,
    |text| {
        if is_unix(text) {
            let host = UnixAddress::parse(text).ok_or_else(|| unix_form(text))?.to_string();
            return Ok(OriginConfig { authority: host.clone(), host, ..OriginConfig::default() });
        }
        if let Some(scheme) = text.get(..SRV.len()).filter(|it| it.eq_ignore_ascii_case(SRV)) {
            let (is_tls, host, base) = parse_service(&text[scheme.len()..])?;
            let authority = host.clone();
            let service = OriginConfig { host, authority, is_tls, base, ..OriginConfig::default() };
            return Ok(OriginConfig { is_srv: true, ..service });
        }
        let ((is_tls, host, port), base) = parse_origin_below(text).map_err(|form| match form {
            ORIGIN_FORM => ORIGIN_OR_UNIX_FORM,
            form => form,
        })?;
        let authority = authority_beside(&host, port, if is_tls { 443 } else { 80 });
        Ok(OriginConfig { host, port, authority, is_tls, base, ..OriginConfig::default() })
    },
    OriginConfig::url
);

pub(super) const ZONE_FORM: &str = "a label of up to 64 letters, digits, \"-\", \"_\" and \".\"";

text_kind!(
    /// Empty where it is not said.
    Zone = |text: &str| is_zone(text),
    ZONE_FORM
);

fn is_zone(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// One address that requests can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginConfig {
    /// A name in lower case, an IP literal without brackets, or the address of a Unix socket.
    pub host: String,
    pub port: u16,
    /// At least 1.
    pub weight: u32,
    /// Of several, the lowest that has an origin that may be asked is asked.
    pub priority: u16,
    /// `host:port` as a Host field carries it: no port when it is the scheme's, IPv6 in brackets.
    /// `host` where that is a Unix socket.
    pub authority: String,
    /// It is spoken to over TLS.
    pub is_tls: bool,
    /// `host` is a service, of which DNS says the servers (RFC 2782); `port` is 0.
    pub is_srv: bool,
    /// What all its paths begin with, without a slash at the end; mostly nothing.
    pub base: String,
    /// Where it is, as operators call the places of their machines; mostly nothing.
    pub zone: String,
    /// Connections to it, busy and idle, over all workers; and idle ones.
    pub max_connections: Option<usize>,
    pub max_idle: Option<usize>,
}

/// Before the scheme of a service.
const SRV: &str = "srv+";

impl Default for OriginConfig {
    fn default() -> Self {
        let (host, authority) = (String::new(), String::new());
        let (base, zone) = (String::new(), String::new());
        let (max_connections, max_idle, is_tls) = (None, None, false);
        let is_srv = false;
        let (port, weight, priority) = (0, 1, 0);
        Self {
            host,
            port,
            weight,
            priority,
            authority,
            is_tls,
            is_srv,
            base,
            zone,
            max_connections,
            max_idle,
        }
    }
}

impl OriginConfig {
    /// As the configuration has it.
    pub(crate) fn url(&self) -> String {
        let scheme = match self.is_tls {
            true => "https://",
            false if is_unix(&self.authority) => "",
            false => "http://",
        };
        let service = if self.is_srv { SRV } else { "" };
        format!("{service}{scheme}{}{}", self.authority, self.base)
    }
}

/// `"http://a:80"` or `{ url = "http://a:80", weight = 3 }`.
pub(super) struct Origin;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    #[serde(with = "As::<Url>")]
    url: OriginConfig,
    #[serde(default = "number::<u32, 1>", with = "Count::<u32, 1, 1000>")]
    weight: u32,
    #[serde(default, with = "Count::<u16, 0, 100>")]
    priority: u16,
    #[serde(default, with = "As::<Zone>")]
    zone: String,
    #[serde(default, with = "Optional::<Whole<usize, 1, 1_000_000>>")]
    max_connections: Option<usize>,
    #[serde(default, with = "Optional::<Whole<usize, 0, 1_000_000>>")]
    max_idle: Option<usize>,
}

impl Kind for Origin {
    type Value = OriginConfig;

    const ONE: &'static str = "an origin: there must be one";

    fn schema() -> Json {
        let url = json!({ "type": "string", "x-form": ORIGIN_OR_UNIX_FORM,
                          "description": "Where it is." });
        let whole = |min, max, default: Option<u32>, text| {
            let mut own = json!({ "type": "integer", "minimum": min, "maximum": max,
                                  "description": text });
            if let Some(default) = default {
                own["default"] = default.into();
            }
            own
        };
        let weight = whole(1, 1000, Some(1), "Its share beside that of the others.");
        let priority = whole(0, 100, Some(0), "It is asked when nobody of a lower number can be.");
        let busy = whole(1, 1_000_000, None, "Connections to it, over all workers.");
        let idle = whole(0, 1_000_000, None, "Idle connections to it, over all workers.");
        json!({
            "anyOf": [url, {
                "type": "object",
                "properties": {
                    "url": url, "weight": weight, "priority": priority,
                    "zone": {
                        "type": "string", "x-form": ZONE_FORM, "default": "",
                        "description": "Where it is: that of server.zone is asked first.",
                    },
                    "max_connections": busy,
                    "max_idle": idle,
                },
                "required": ["url"],
                "additionalProperties": false,
            }],
        })
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<OriginConfig, D::Error> {
        from.deserialize_any(OriginVisitor)
    }

    fn spell(value: &OriginConfig) -> Json {
        let url = Url::spell(value);
        let is_limited = value.max_connections.is_some() || value.max_idle.is_some();
        if (value.weight, value.priority) == (1, 0) && value.zone.is_empty() && !is_limited {
            return url;
        }
        let mut spelled = json!({ "url": url, "weight": value.weight });
        if value.priority != 0 {
            spelled["priority"] = value.priority.into();
        }
        if !value.zone.is_empty() {
            spelled["zone"] = value.zone.clone().into();
        }
        for (key, limit) in
            [("max_connections", value.max_connections), ("max_idle", value.max_idle)]
        {
            if let Some(limit) = limit {
                spelled[key] = limit.into();
            }
        }
        spelled
    }
}

// Written out because an untagged enum would lose the position of what is wrong inside it.
struct OriginVisitor;

impl<'de> Visitor<'de> for OriginVisitor {
    type Value = OriginConfig;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(
            "a URL such as \"http://10.0.0.1:8080\" or a table { url = \"...\", weight = 1 }",
        )
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<OriginConfig, E> {
        As::<Url>::deserialize(serde::de::value::StrDeserializer::new(url))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OriginConfig, A::Error> {
        let Weighted { url, weight, priority, zone, max_connections, max_idle } =
            Weighted::deserialize(MapAccessDeserializer::new(map))?;
        Ok(OriginConfig { weight, priority, zone, max_connections, max_idle, ..url })
    }
}
