//! What hooks cost per request: a request and its answer, from bytes to bytes, with five edits and
//! a rate limit and without any hooks.
//!
//! For instructions, run it under `valgrind --tool=callgrind` with `--profile-time 1`: what hooks
//! cost is the inclusive cost of `with_hooks` less that of `without_hooks`, each divided by the
//! number of its calls. Both read the two heads anew, so that what is noted of them while they are
//! read is counted too.

#[allow(dead_code, reason = "the cases are those of the gate, whose fixture this is")]
mod cases;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::internals::http::head::HeadLimits;

use cases::hooks::{Exchange, Hooking};

#[inline(never)]
fn with_hooks(exchange: &mut Exchange, limits: &HeadLimits) {
    exchange.read(limits);
    exchange.pass_on(Hooking::FiveEditsAndARateLimit);
}

#[inline(never)]
fn without_hooks(exchange: &mut Exchange, limits: &HeadLimits) {
    exchange.read(limits);
    exchange.pass_on(Hooking::None);
}

fn hooks(criterion: &mut Criterion) {
    let (mut hooked, mut plain) = (Exchange::new(), Exchange::without_hooks());
    let mut limits = cases::LIMITS;
    criterion.bench_function("hooks/five_edits_and_a_rate_limit", |bencher| {
        bencher.iter(|| {
            // Under other limits a head that comes again is not known from before.
            limits.target_bytes ^= 1;
            with_hooks(&mut hooked, &limits);
        });
    });
    criterion.bench_function("hooks/none", |bencher| {
        bencher.iter(|| {
            limits.target_bytes ^= 1;
            without_hooks(&mut plain, &limits);
        });
    });
}

criterion_group!(benches, hooks);
criterion_main!(benches);
