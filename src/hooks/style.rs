//! What our own responses on a route with hooks look like.
//!
//! In goes a response in ringway's own words; out comes the head and the body that the client gets,
//! with the page that the route has for it, and edited as its hooks edit those of origins.

use super::{HookState, Hooked, LocalResponse, RequestView};
use crate::http::rewrite::{self, Simple};

/// What our own answers on a route with hooks look like.
pub(crate) struct ResponseStyle<'a> {
    pub(crate) plan: &'a Hooked,
    pub(crate) view: RequestView<'a>,
    pub(crate) state: &'a HookState,
    /// What stands in it in place of our own words.
    pub(crate) page: Option<LocalResponse<'a>>,
}

impl<'a> ResponseStyle<'a> {
    /// What `answer` looks like, which may have been given in ringway's own words.
    pub(crate) fn new(
        plan: &'a Hooked,
        view: RequestView<'a>,
        state: &'a HookState,
        answer: &LocalResponse<'_>,
    ) -> Self {
        let page = if answer.is_stock { plan.page(answer.status.code) } else { None };
        Self { plan, view, state, page }
    }

    /// Appends an answer of our own, body included.
    pub(crate) fn put(&self, out: &mut Vec<u8>, simple: &Simple<'_>) {
        let (extra, body) = match &self.page {
            Some(page) => ([&*page.fields, simple.extra].concat(), &*page.body),
            None => (simple.extra.to_vec(), simple.body),
        };
        rewrite::simple_head(out, &Simple { extra: &extra, body, ..*simple });
        self.plan.edit_response(out, 0, &self.view, self.state);
        if !simple.is_head_only && rewrite::may_have_body(simple.status) {
            out.extend_from_slice(body.as_bytes());
        }
    }
}
