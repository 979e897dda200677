//! An exchange with hooks and without them: the two heads of one request, read and written.
//!
//! In: nothing but whether the route has hooks. Out: a piece of work that can be repeated, in which
//! the two differ by the hooks and by nothing else.

use std::hint::black_box;

use ringway::hooks::custom::Hooks;
use ringway::hooks::{Choice, HookState, Plans, RequestView};
use ringway::internals::config::{Config, Flags};
use ringway::internals::http::Method;
use ringway::internals::http::forwarded_header::{ClientText, Introduction, Scheme};
use ringway::internals::http::head::{HeadLimits, RequestHead, ResponseHead};
use ringway::internals::http::rewrite::{
    self, BodyOut, ConnectionOut, ForwardedFor, HostRule, RequestRewrite, ResponseRewrite,
};

use super::{CLIENT, DATE};

/// What a browser sends.
const REQUEST: &[u8] = b"GET /en-US/docs/Web/HTTP HTTP/1.1\r\n\
    Host: developer.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://developer.example.org/en-US/\r\nX-Debug: 1\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\r\n";

/// What nginx answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\
    Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\n\r\n";

/// Five edits to fields, two of them with variables, and a rate limit.
const HOOKS: &str = "[[route]]\nupstream = \"demo\"\n[route.hooks]\n\
    rate_limit = { rate = \"1000000/s\" }\n\
    [route.hooks.request_headers]\nremove = [\"X-Debug\"]\n\
    set = { X-Real-IP = \"${client_ip}\", X-Host = \"${host}\" }\n\
    [route.hooks.response_headers]\nremove = [\"Server\"]\nset = { X-Frame-Options = \"DENY\" }\n";

/// Whose route it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hooking {
    None,
    FiveEditsAndARateLimit,
}

pub(crate) struct Exchange {
    plans: Plans,
    client: ClientText,
    request: RequestHead,
    response: ResponseHead,
    out: Vec<u8>,
    back: Vec<u8>,
    now_us: u64,
}

impl Exchange {
    pub(crate) fn new() -> Self {
        let plans = plans(HOOKS);
        let (mut request, mut response) = (RequestHead::new(), ResponseHead::new());
        let [of_requests, of_responses] = &plans.interest;
        request.want(of_requests.clone());
        response.want(of_responses.clone());
        let (out, back) = (Vec::with_capacity(8192), Vec::with_capacity(8192));
        let client = ClientText::new(CLIENT.into(), Scheme::Http, Introduction::default());
        Self { plans, client, request, response, out, back, now_us: 1_000_000 }
    }

    /// The same, read by code that has not been told of any hooks.
    #[allow(dead_code, reason = "only one of the programs reads heads again and again")]
    pub(crate) fn without_hooks() -> Self {
        Self { request: RequestHead::new(), response: ResponseHead::new(), ..Self::new() }
    }

    pub(crate) fn read(&mut self, limits: &HeadLimits) {
        assert_eq!(self.request.parse(black_box(REQUEST), limits), Ok(true));
        assert_eq!(self.response.parse(black_box(RESPONSE), limits, Method::Get), Ok(true));
    }

    /// From two heads that have been read to two that can be sent.
    pub(crate) fn pass_on(&mut self, hooking: Hooking) {
        let Self { plans, client, request, response, out, back, now_us } = self;
        let (request, response) = (black_box(&*request), black_box(&*response));
        out.clear();
        back.clear();
        *now_us += 1000;
        let asked = RequestRewrite {
            base: b"",
            path: request.path(REQUEST),
            host: HostRule::Pass,
            via: Some(b"ringway"),
            cdn_loop: None,
            length: None,
            passes_trailers: false,
            is_last: false,
            forwarded: Some(ForwardedFor::of(client)),
            extra: b"",
        };
        let answered = ResponseRewrite {
            seen: None,
            body: BodyOut::AsIs,
            connection: ConnectionOut::Implicit,
            date: DATE,
            via: None,
        };
        match plans.hooked(0).filter(|_| hooking == Hooking::FiveEditsAndARateLimit) {
            None => {
                rewrite::request(out, request, REQUEST, &asked);
                rewrite::response(back, response, RESPONSE, &answered);
            }
            Some(hooked) => {
                let view = RequestView {
                    head: request,
                    text: REQUEST,
                    client: CLIENT.into(),
                    client_text: client.address(),
                    is_trusted: false,
                    tls: None,
                    now_us: *now_us,
                };
                let mut state = HookState::default();
                assert!(hooked.enter(&view, &mut state).is_none());
                let choice = hooked.choose(asked.path, &view, &mut state);
                assert!(matches!(choice, Choice::Upstream(_)));
                hooked.put_request(out, &asked, &view, &state);
                state.status = 200;
                hooked.put_response(back, (response, RESPONSE), &answered, &view, &state);
            }
        }
        black_box((&*out, &*back));
    }
}

fn plans(text: &str) -> Plans {
    let path = std::env::temp_dir().join(format!("ringway-bench-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a temporary file");
    let config = Config::load(Some(&path), &Flags::default()).expect("a configuration");
    let _ = std::fs::remove_file(&path);
    Plans::load(&config, &Hooks::default(), None).expect("plans")
}
