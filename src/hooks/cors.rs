//! Which pages of other origins may use a route: the CORS protocol of the Fetch standard.
//!
//! In: the `Origin` of a request. Out: the answer to a preflight, and the edits that tell a browser
//! who may read an answer. Without an `Origin` that is known, a browser is told nothing, and keeps
//! the answer from the page: this protects users, not the origin, which answers every client.

use super::edits::{Own, Wishes};
use super::request_view::RequestView;
use super::responses::{LocalResponse, status};
use crate::config::CorsConfig;
use crate::config::hooks::{Part, Template};
use crate::http::Method;
use crate::http::names::is_token;

/// A policy, rendered.
#[derive(Clone, Debug)]
pub(crate) struct Cors {
    /// Empty: any.
    origins: Box<[Box<str>]>,
    /// What a preflight is told, but for the fields that are only known from it.
    allowed: Box<str>,
    /// Whether the fields that a preflight asks for are allowed as they are.
    is_reflecting: bool,
}

impl Cors {
    pub(crate) fn new(config: &CorsConfig) -> Self {
        let mut allowed =
            format!("Access-Control-Allow-Methods: {}\r\n", config.methods.join(", "));
        if !config.headers.is_empty() {
            let headers = config.headers.join(", ");
            allowed.extend(["Access-Control-Allow-Headers: ", headers.as_str(), "\r\n"]);
        }
        let seconds = config.max_age.as_secs().to_string();
        allowed.extend(["Access-Control-Max-Age: ", seconds.as_str(), "\r\n"]);
        Self {
            origins: config.origins.iter().map(|origin| origin.as_str().into()).collect(),
            allowed: allowed.into(),
            is_reflecting: config.headers.is_empty(),
        }
    }

    /// The edits to answers. What an origin says for itself goes: two policies are none.
    pub(crate) fn edit(&self, config: &CorsConfig, wishes: &mut Wishes) {
        const ORIGIN: &str = "Access-Control-Allow-Origin";
        const CREDENTIALS: &str = "Access-Control-Allow-Credentials";
        const EXPOSE: &str = "Access-Control-Expose-Headers";
        for name in [ORIGIN, CREDENTIALS, EXPOSE] {
            wishes.remove(name);
        }
        let expose = config.expose.join(", ");
        if self.origins.is_empty() {
            wishes.add(ORIGIN, fixed("*"));
            if !expose.is_empty() {
                wishes.add(EXPOSE, fixed(&expose));
            }
            return;
        }
        // Caches must keep the answers for different origins apart.
        wishes.add("Vary", fixed("Origin"));
        let mut rest = String::new();
        if config.credentials {
            rest.extend([CREDENTIALS, ": true\r\n"]);
        }
        if !expose.is_empty() {
            rest.extend([EXPOSE, ": ", expose.as_str(), "\r\n"]);
        }
        let rest = rest.into_bytes().into();
        wishes.add_own(ORIGIN, Own::AllowedOrigin { origins: self.origins.clone(), rest });
    }

    /// The answer, if the request is a preflight. Who may read it is an edit's business.
    pub(crate) fn preflight(&self, view: &RequestView<'_>) -> Option<LocalResponse<'static>> {
        if view.head.method != Method::Options {
            return None;
        }
        let origin = view.field("origin")?;
        view.field("access-control-request-method")?;
        let mut fields = Vec::new();
        if self.knows(origin) {
            fields.extend_from_slice(self.allowed.as_bytes());
            let asked = view.field("access-control-request-headers").unwrap_or_default();
            let is_list = |byte: &u8| is_token(*byte) || b", \t".contains(byte);
            if self.is_reflecting && !asked.is_empty() && asked.iter().all(is_list) {
                fields.extend_from_slice(b"Access-Control-Allow-Headers: ");
                fields.extend_from_slice(asked);
                fields.extend_from_slice(b"\r\n");
            }
        }
        fields.extend_from_slice(
            b"Vary: Access-Control-Request-Method, Access-Control-Request-Headers\r\n",
        );
        Some(LocalResponse {
            status: status(204),
            fields: fields.into(),
            body: "".into(),
            is_stock: false,
        })
    }

    fn knows(&self, origin: &[u8]) -> bool {
        self.origins.is_empty()
            || self.origins.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(origin))
    }
}

/// A template without a variable.
pub(super) fn fixed(text: &str) -> Template {
    Template { parts: vec![Part::Text(text.into())] }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::request_view::HookState;
    use super::super::request_view::tests::with_facts;
    use super::*;

    fn config(origins: &[&str], headers: &[&str], credentials: bool) -> CorsConfig {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        CorsConfig {
            origins: list(origins),
            methods: list(&["GET", "PUT"]),
            headers: list(headers),
            expose: list(&["X-Total"]),
            credentials,
            max_age: Duration::from_secs(600),
        }
    }

    fn request(method: &str, fields: &str) -> String {
        format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    }

    fn preflight(config: &CorsConfig, fields: &str) -> Option<String> {
        with_facts(&request("OPTIONS", fields), |view| {
            let answer = Cors::new(config).preflight(view)?;
            assert_eq!(answer.status.code, 204);
            Some(String::from_utf8(answer.fields.into_owned()).unwrap())
        })
    }

    /// The field lines of an answer to a request with `fields`.
    fn answered(config: &CorsConfig, fields: &str) -> Vec<String> {
        let mut wishes = Wishes::default();
        Cors::new(config).edit(config, &mut wishes);
        let edits = wishes.compile();
        with_facts(&request("GET", fields), |view| {
            let mut out =
                b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: null\r\nVary: A\r\n\r\n".to_vec();
            edits.apply(&mut out, 0, "r", view, &HookState::default());
            let text = String::from_utf8(out).unwrap();
            text.trim_end().split("\r\n").skip(1).map(str::to_owned).collect()
        })
    }

    const ASK: &str = "Origin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\n";

    #[test]
    fn a_preflight_is_answered_here() {
        let named = config(&["https://app.example"], &["X-A", "X-B"], true);
        assert_eq!(
            preflight(&named, ASK).unwrap(),
            "Access-Control-Allow-Methods: GET, PUT\r\nAccess-Control-Allow-Headers: X-A, X-B\r\n\
             Access-Control-Max-Age: 600\r\n\
             Vary: Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
        );
        let other = ASK.replace("app", "evil");
        assert!(preflight(&named, &other).unwrap().starts_with("Vary: "));
        assert_eq!(preflight(&named, "Origin: https://app.example\r\n"), None);
        assert_eq!(preflight(&named, "Access-Control-Request-Method: PUT\r\n"), None);
        with_facts(&request("GET", ASK), |view| {
            assert_eq!(Cors::new(&named).preflight(view), None);
        });
    }

    #[test]
    fn fields_are_reflected_only_if_they_are_a_list_of_names() {
        let any = config(&[], &[], false);
        let asked = |list: &str| {
            preflight(&any, &format!("{ASK}Access-Control-Request-Headers: {list}\r\n")).unwrap()
        };
        assert!(asked("x-a, x-b").contains("Access-Control-Allow-Headers: x-a, x-b\r\n"));
        for list in ["x-a: b", "<b>", "a;b", "a\"b"] {
            assert!(!asked(list).contains("Allow-Headers: "), "{list}");
        }
    }

    #[test]
    fn an_answer_names_the_one_origin_that_may_read_it() {
        let named = config(&["https://app.example", "https://b.example"], &[], true);
        assert_eq!(
            answered(&named, "Origin: https://b.example\r\n"),
            [
                "Vary: A",
                "Vary: Origin",
                "Access-Control-Allow-Origin: https://b.example",
                "Access-Control-Allow-Credentials: true",
                "Access-Control-Expose-Headers: X-Total",
            ]
        );
        for fields in ["", "Origin: https://evil.example\r\n", "Origin: null\r\n"] {
            assert_eq!(answered(&named, fields), ["Vary: A", "Vary: Origin"], "{fields}");
        }
    }

    #[test]
    fn any_origin_is_a_star() {
        let any = config(&[], &[], false);
        for fields in ["", "Origin: https://evil.example\r\n"] {
            assert_eq!(
                answered(&any, fields),
                [
                    "Vary: A",
                    "Access-Control-Allow-Origin: *",
                    "Access-Control-Expose-Headers: X-Total",
                ]
            );
        }
    }
}
