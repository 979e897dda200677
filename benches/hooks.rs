//! What hooks cost per request: a plan's work from the facts of a request to the two edited heads.
//!
//! For instructions, run it under `valgrind --tool=callgrind` with `--profile-time 1` and look at
//! the inclusive cost of `one_request` and of the calls below it, divided by the number of calls.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::config::{Config, Flags};
use ringway::hooks::custom::Hooks;
use ringway::hooks::{Facts, Hooked, Passage, Plans};
use ringway::http::head::{HeadLimits, RequestHead};

const LIMITS: HeadLimits =
    HeadLimits { head_bytes: 32 * 1024, target_bytes: 8 * 1024, header_count: 100 };

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

fn plans(text: &str) -> Plans {
    let path = std::env::temp_dir().join(format!("ringway-bench-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a temporary file");
    let config = Config::load(Some(&path), &Flags::default()).expect("a configuration");
    let _ = std::fs::remove_file(&path);
    Plans::load(&config, &Hooks::default(), None).expect("plans")
}

/// All that the hooks of a request do. The two heads are put back by the caller.
#[inline(never)]
fn one_request(
    hooked: &Hooked,
    facts: &Facts<'_>,
    passage: &mut Passage,
    out: &mut Vec<u8>,
    back: &mut Vec<u8>,
) {
    assert!(hooked.enter(facts, passage).is_none());
    black_box(hooked.choose(facts.path_and_query(), facts, passage));
    hooked.edit_request(out, 0, facts, passage);
    passage.status = 200;
    hooked.edit_response(back, 0, facts, passage);
}

fn hooks(criterion: &mut Criterion) {
    let plans = plans(HOOKS);
    let hooked = plans.hooked(0).expect("a route with hooks");
    let mut head = RequestHead::new();
    assert_eq!(head.parse(REQUEST, &LIMITS), Ok(true));
    let (mut out, mut back) = (Vec::with_capacity(8192), Vec::with_capacity(8192));
    let mut now_us = 1_000_000;
    criterion.bench_function("hooks/five_edits_and_a_rate_limit", |bencher| {
        bencher.iter(|| {
            now_us += 1000;
            out.clear();
            out.extend_from_slice(REQUEST);
            back.clear();
            back.extend_from_slice(RESPONSE);
            let facts = Facts {
                head: &head,
                text: REQUEST,
                client: [192, 0, 2, 1].into(),
                client_text: "192.0.2.1",
                is_trusted: false,
                now_us,
            };
            one_request(hooked, &facts, &mut Passage::default(), &mut out, &mut back);
            black_box((&out, &back));
        });
    });
}

criterion_group!(benches, hooks);
criterion_main!(benches);
