//! What holds for every text that is read as a configuration: the checks behind the fuzz target and
//! behind `properties`.
//!
//! In goes text; a check panics where a mistake is not said in lines, or where what was accepted
//! does not come back from its own dump. Nothing here runs in the proxy.

use std::path::Path;

use super::access_format::AccessFormat;
use super::access_when::AccessWhen;
use super::change::diff;
use super::document::dump;
use super::effective::{Origins, values};
use super::environment::Environment;
use super::hooks::{Part, Scope, Template, pattern};
use super::names;
use super::{Config, ConfigError, Flags};

/// [`check`] of bytes that are text.
pub(crate) fn file(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        check(text);
    }
}

/// Templates: what is one is spelled so that the same is read again; what is none says what was
/// expected, in a line. What is before the first line's end is a pattern with groups to name.
pub(crate) fn template(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (first, text) = text.split_once('\n').unwrap_or(("(.)(?P<a>b)?", text));
    let Ok(regex) = pattern(first) else { return };
    for scope in [Scope::Redirect, Scope::Replacement(&regex), Scope::Request, Scope::Response] {
        match Template::parse(text, scope) {
            Ok(template) => {
                let spelled = template.to_string();
                let again = Template::parse(&spelled, scope);
                assert_eq!(again.as_ref(), Ok(&template), "{text:?} {spelled:?}");
                assert!(spelled.starts_with(template.start()) || template.start().contains('$'));
                let is_apart = |two: &[Part]| !matches!(two, [Part::Text(_), Part::Text(_)]);
                assert!(template.parts.windows(2).all(is_apart), "{text:?}");
            }
            Err(expected) => assert!(!expected.is_empty()),
        }
    }
}

/// Formats of the access log and conditions for its lines: each comes back as it was spelled, and
/// what it says is the same.
pub(crate) fn access_format(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(format) = AccessFormat::read(text) {
        assert_eq!(format.to_string(), text);
    }
    if let Ok(when) = text.parse::<AccessWhen>() {
        assert_eq!(when.to_string().parse(), Ok(when), "{text:?}");
    }
}

/// Names of hosts, origins, listeners and parents: what is accepted has one spelling, and that
/// means the same.
pub(crate) fn host(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some((host, port)) = names::split_authority(text) {
        assert!(names::is_host(host) && port != Some(0));
        assert!(!host.contains(['/', '@', '?', '#', ' ', '%']), "{text:?}");
    }
    if let Ok((is_tls, host, port)) = names::parse_origin(text) {
        let scheme = if is_tls { "https" } else { "http" };
        let spelled = format!("{scheme}://{}", names::authority(&host, port));
        let spelled = if port == 80 { format!("{spelled}:80") } else { spelled };
        assert_eq!(names::parse_origin(&spelled), Ok((is_tls, host, port)), "{text:?}");
    }
    if let Ok((origin, base)) = names::parse_origin_below(text) {
        assert!(base.is_empty() || base.starts_with('/') && !base.ends_with('/'), "{text:?}");
        let (is_tls, host, port) = &origin;
        let scheme = if *is_tls { "https" } else { "http" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let spelled = format!("{scheme}://{host}:{port}{base}");
        assert_eq!(names::parse_origin_below(&spelled), Ok((origin, base)), "{text:?}");
    }
    if let Some(address) = names::parse_listen(text) {
        assert_eq!(names::parse_listen(&address.to_string()), Some(address));
    }
    if let Ok(address) = names::parse_listener(text) {
        assert_eq!(names::parse_listener(&address.to_string()), Ok(address));
    }
    if let Some(pattern) = names::host_pattern(text) {
        assert_eq!(names::host_pattern(&pattern.to_string()), Some(pattern), "{text:?}");
    }
    let _ = names::parse_parent(text);
    let _ = names::parse_service(text);
}

/// Reads `text` as a file of TOML, and as a flat one.
pub(crate) fn check(text: &str) {
    for name in ["a.toml", "a.json"] {
        judge(load(name, text, &Environment::default()));
    }
}

pub(super) fn load(
    name: &str,
    text: &str,
    environment: &Environment,
) -> Result<Config, ConfigError> {
    let merged = Config::merge_traced(Path::new(name), text, environment, &Flags::default());
    merged.map(|(config, _)| config)
}

/// An error is a line for each mistake; what is accepted survives a dump.
pub(super) fn judge(loaded: Result<Config, ConfigError>) {
    let mut config = match loaded {
        Ok(config) => config,
        Err(error) => {
            let text = error.to_string();
            assert!(text.lines().all(|line| !line.is_empty()) && !text.is_empty(), "{text:?}");
            assert!(!format!("{error:#}").contains('\n'), "{text:?}");
            return;
        }
    };
    let text = dump(&values(&config, &Origins::default()), true);
    config.admin.token = None;
    config.admin.read_token = None;
    config.alerts.webhook = None;
    config.tracing.authorization = None;
    for parent in &mut config.parents {
        parent.credentials = None;
    }
    let again = load("dump.toml", &text, &Environment::default());
    let again = again.unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(again, config);
    assert_eq!(diff(&again, &config), []);
}
