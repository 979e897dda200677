//! A ringway with a hook of its own: API keys.
//!
//! In: requests of the routes whose `custom` names the hook. Out: requests with the name of their
//! client in place of its key, or 401. It never blocks: what has to wait would be awaited.
//!
//! ```sh
//! cargo run --release --example custom_hook -- -c examples/custom_hook.toml
//! curl -i -H 'X-Api-Key: 5d41402abc4b2a76' http://127.0.0.1:8000/
//! ```

use std::process::ExitCode;

use ringway::hooks::custom::{
    Decision, Failure, Hook, HookError, Hooks, Page, Pending, Request, Response,
};

struct ApiKeys {
    /// Keys and whose they are.
    clients: Vec<(String, String)>,
}

impl Hook for ApiKeys {
    fn name(&self) -> &'static str {
        "api_keys"
    }

    fn on_request<'a>(&'a self, request: &'a mut Request<'_>) -> Pending<'a, Decision> {
        Box::pin(async move {
            let key = request.field("x-api-key").unwrap_or_default();
            let known = self.clients.iter().find(|(known, _)| known.as_bytes() == key);
            let Some((_, client)) = known else {
                return Ok(Decision::Answer(Page::text(401, "an API key, please\n")));
            };
            request.set("X-Client", client)?;
            request.remove("X-Api-Key")?;
            Ok(Decision::Continue)
        })
    }

    fn on_response(&self, response: &mut Response<'_>) -> Result<(), HookError> {
        response.remove("X-Powered-By")
    }

    fn on_error(&self, failure: &Failure) -> Result<Option<Page>, HookError> {
        let body = format!("{{\"error\":\"{}\"}}\n", failure.error);
        let page = Page { content_type: "application/json".to_owned(), ..Page::default() };
        Ok(Some(Page { status: failure.status, body, ..page }))
    }
}

fn main() -> ExitCode {
    let clients = vec![("5d41402abc4b2a76".to_owned(), "reports".to_owned())];
    ringway::run(Hooks::new(vec![Box::new(ApiKeys { clients })]))
}
