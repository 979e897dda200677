//! What the protocol code costs per message: heads, their rewriting, and chunked bodies.
//!
//! Times vary with the machine; for instructions, run one of these under `perf stat` with
//! `--profile-time`. `httparse` alone is there to tell its share of a head from ours.

use std::hint::black_box;
use std::mem::MaybeUninit;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::http::Method;
use ringway::http::chunked::ChunkScanner;
use ringway::http::head::{HeadLimits, RequestHead, ResponseHead};
use ringway::http::rewrite::{
    self, BodyOut, ConnectionOut, ForwardedFor, HostRule, RequestRewrite, ResponseRewrite, Scheme,
};

const LIMITS: HeadLimits =
    HeadLimits { head_bytes: 32 * 1024, target_bytes: 8 * 1024, header_count: 100 };

/// What curl sends.
const SMALL_REQUEST: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\
    User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";

/// What a browser sends.
const LARGE_REQUEST: &[u8] = b"GET /en-US/docs/Web/HTTP HTTP/1.1\r\n\
    Host: developer.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://developer.example.org/en-US/\r\nConnection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\nPriority: u=0, i\r\n\r\n";

/// What nginx answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\
    Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\nConnection: keep-alive\r\n\r\n";

const FORWARDED: ForwardedFor =
    ForwardedFor { client: "192.0.2.1", is_v6: false, is_trusted: false, scheme: Scheme::Http };

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    for (name, text) in [("small_request", SMALL_REQUEST), ("large_request", LARGE_REQUEST)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut head = RequestHead::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| head.parse(black_box(text), &LIMITS));
        });
        group.bench_function(format!("{name}_httparse"), |bencher| {
            bencher.iter(|| {
                let mut headers = [const { MaybeUninit::uninit() }; 100];
                let mut request = httparse::Request::new(&mut []);
                request.parse_with_uninit_headers(black_box(text), &mut headers).is_ok()
            });
        });
    }
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    let mut head = ResponseHead::new();
    group.bench_function("response", |bencher| {
        bencher.iter(|| head.parse(black_box(RESPONSE), &LIMITS, Method::Get));
    });
    group.finish();
}

fn rewrites(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite");
    let mut out = Vec::with_capacity(16 * 1024);
    let mut head = RequestHead::new();
    for (name, text) in [("small_request", SMALL_REQUEST), ("large_request", LARGE_REQUEST)] {
        assert_eq!(head.parse(text, &LIMITS), Ok(true));
        let path = head.path(text);
        let how = RequestRewrite {
            path,
            host: HostRule::Pass,
            via: b"ringway",
            forwarded: Some(FORWARDED),
            extra: b"",
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                rewrite::request(&mut out, black_box(&head), text, &how);
            });
        });
    }
    let mut head = ResponseHead::new();
    assert_eq!(head.parse(RESPONSE, &LIMITS, Method::Get), Ok(true));
    let how = ResponseRewrite {
        body: BodyOut::AsIs,
        connection: ConnectionOut::Implicit,
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        via: None,
    };
    group.bench_function("response", |bencher| {
        bencher.iter(|| {
            out.clear();
            rewrite::response(&mut out, black_box(&head), RESPONSE, &how);
        });
    });
    group.finish();
}

fn bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunked");
    for chunk_bytes in [16, 4096] {
        let chunk = format!("{chunk_bytes:x}\r\n{}\r\n", "x".repeat(chunk_bytes));
        let body = chunk.repeat(64 * 1024 / chunk_bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("64KiB_in_{chunk_bytes}"), |bencher| {
            bencher.iter(|| ChunkScanner::new().advance(black_box(body.as_bytes())));
        });
    }
    group.finish();
}

criterion_group!(benches, heads, rewrites, bodies);
criterion_main!(benches);
