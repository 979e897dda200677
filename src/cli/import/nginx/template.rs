//! nginx's variables, as those of ringway.
//!
//! In goes a text of nginx's; out comes the same with ringway's variables, or the name of the one
//! that it does not have. Values are not filled in here.

/// What is known of the server that a text stands in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around<'t> {
    /// Of all its listeners, where they have one.
    pub(super) scheme: Option<&'t str>,
    pub(super) name: Option<&'t str>,
    /// Whether `$1` is a group of a pattern here.
    pub(super) has_groups: bool,
}

const PLAIN: [(&str, &str); 22] = [
    ("host", "${host}"),
    ("http_host", "${host}"),
    ("remote_addr", "${client_ip}"),
    ("realip_remote_addr", "${client_ip}"),
    ("request_uri", "${target}"),
    ("uri", "${path}"),
    ("document_uri", "${path}"),
    ("args", "${query}"),
    ("query_string", "${query}"),
    ("request_method", "${method}"),
    ("request_id", "${request_id}"),
    ("upstream_status", "${status}"),
    ("status", "${status}"),
    ("ssl_protocol", "${tls_version}"),
    ("ssl_cipher", "${tls_cipher}"),
    ("ssl_server_name", "${tls_sni}"),
    ("ssl_client_s_dn", "${tls_client_subject}"),
    ("http_user_agent", "${header.user-agent}"),
    ("http_referer", "${header.referer}"),
    ("http_cookie", "${header.cookie}"),
    ("content_type", "${header.content-type}"),
    ("content_length", "${header.content-length}"),
];

/// nginx's words for path and query as they came.
const WHOLE: [&str; 4] =
    ["$uri$is_args$args", "${uri}${is_args}${args}", "$uri$is_args$query_string", "$uri?$args"];

pub(super) fn template(text: &str, around: Around<'_>) -> Result<String, String> {
    let mut text = text.to_owned();
    for whole in WHOLE {
        text = text.replace(whole, "$request_uri");
    }
    let mut made = String::new();
    let mut rest = text.as_str();
    while let Some(dollar) = rest.find('$') {
        made.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        let (name, behind) = if let Some(braced) = after.strip_prefix('{') {
            braced.split_once('}').unwrap_or((braced, ""))
        } else {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let is_group = after.starts_with(|c: char| c.is_ascii_digit());
            let end = after.find(|c: char| !is_name(c)).unwrap_or(after.len());
            after.split_at(if is_group { 1 } else { end })
        };
        if name.is_empty() {
            // A dollar sign at the end of a pattern, say.
            made.push_str("$$");
        } else {
            made.push_str(&variable(name, around).ok_or_else(|| format!("${name}"))?);
        }
        rest = behind;
    }
    made.push_str(rest);
    Ok(made)
}

fn variable(name: &str, around: Around<'_>) -> Option<String> {
    if let Some((_, own)) = PLAIN.iter().find(|(known, _)| *known == name) {
        return Some((*own).to_owned());
    }
    match name {
        "scheme" => return around.scheme.map(str::to_owned),
        "server_name" => return around.name.map(str::to_owned),
        group if group.bytes().all(|byte| byte.is_ascii_digit()) => {
            return around.has_groups.then(|| format!("${{{group}}}"));
        }
        _ => {}
    }
    if let Some(cookie) = name.strip_prefix("cookie_") {
        return Some(format!("${{cookie.{cookie}}}"));
    }
    name.strip_prefix("http_").map(|field| format!("${{header.{}}}", field.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_ringway_has_are_spelled_as_its_own() {
        let around = Around { scheme: Some("https"), name: Some("a.test"), has_groups: false };
        for (text, expected) in [
            ("https://$host$request_uri", Ok("https://${host}${target}")),
            ("$scheme://$server_name/x", Ok("https://a.test/x")),
            ("/a$uri$is_args$args", Ok("/a${target}")),
            ("${http_x_key}-$cookie_a", Ok("${header.x-key}-${cookie.a}")),
            ("$backend", Err("$backend")),
            ("$1", Err("$1")),
        ] {
            let made = template(text, around);
            assert_eq!(made.as_deref().map_err(String::as_str), expected, "{text}");
        }
        let around = Around { has_groups: true, ..Around::default() };
        assert_eq!(template("/new/$1x", around).unwrap(), "/new/${1}x");
    }
}
