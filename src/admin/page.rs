//! The status page: one file, which asks for `GET /snapshot` and nothing else.
//!
//! In goes the Accept field of whoever asks for `/`; out comes the page for a browser, and for
//! everybody else the list of paths. The page runs its own script alone, which is named by its
//! hash; nothing from elsewhere is loaded, and it is shown in no frame.

use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::http::header::{
    ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page.html");

static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style"),
    )
});

/// How a policy names what stands between the tags of this name.
fn hash_of(tag: &str) -> String {
    let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
    let text = PAGE.split_once(&*start).and_then(|(_, rest)| rest.split_once(&*end));
    let text = text.map_or("", |(text, _)| text);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// The page, or `index` for who wants no page.
pub(super) fn answer(headers: &HeaderMap, index: &'static str) -> Response {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wants_page = accepts.flat_map(|value| value.split(',')).any(|range| {
        range.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("text/html"))
    });
    if !wants_page {
        return ([(VARY, "Accept")], index).into_response();
    }
    let fields = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, &**POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (VARY, "Accept"),
    ];
    (fields, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_no_other_place_and_makes_no_markup_of_what_it_is_told() {
        for banned in
            ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "src="]
        {
            assert!(!PAGE.contains(banned), "{banned}");
        }
        let places = PAGE.split("http").skip(1);
        let foreign: Vec<_> =
            places.filter(|rest| !rest.starts_with("://www.w3.org/2000/svg")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        // One script and one style, which the policy can name.
        for tag in ["<script", "<style"] {
            assert_eq!(PAGE.matches(tag).count(), 1, "{tag}");
        }
        assert!(!PAGE.contains(" style=") && !PAGE.contains(" onclick="));
    }

    #[test]
    fn the_policy_allows_the_page_alone() {
        let empty = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert!(
            POLICY.starts_with("default-src 'none'; ") && !POLICY.contains(empty),
            "{}",
            *POLICY
        );
        assert!(!POLICY.contains("unsafe") && !POLICY.contains('*'));
    }

    #[test]
    fn who_wants_no_page_gets_the_list_of_paths() {
        let of = |accept: Option<&'static str>| {
            let fields = accept.map(|accept| (ACCEPT, accept.parse().unwrap()));
            let answer = answer(&fields.into_iter().collect(), "index");
            answer.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("text/html")
        };
        assert!(of(Some("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")));
        assert!(of(Some("*/*;q=0.1, Text/HTML;q=0.5")));
        for accept in [None, Some("*/*"), Some("application/json"), Some("text/htmlx")] {
            assert!(!of(accept), "{accept:?}");
        }
    }
}
