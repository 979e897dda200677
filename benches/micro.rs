//! What the parts of an exchange cost, in time: `cargo bench --bench micro`.
//!
//! In: the cases that `gate` counts the instructions of, and a pool with one connection. Out:
//! criterion's times and throughputs, which vary with the machine. `httparse` alone is there to
//! tell its share of a head from ours.

mod cases;

use std::hint::black_box;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::internals::ledger::{Budget, Ledger};
use ringway::internals::observe::metrics::WorkerMetrics;
use ringway::internals::ring::{Deadlines, HeadPool, runtime};
use ringway::internals::upstream::open_target;
use ringway::internals::upstream::origin_ids::OriginIds;
use ringway::internals::upstream::permits::{Limits, PoolShared};
use ringway::internals::upstream::pool::{Pool, PoolLimits};
use ringway::internals::upstream::queue::Holder;

fn pure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pure");
    for mut case in cases::all() {
        if let Some(bytes) = case.bytes {
            group.throughput(Throughput::Bytes(bytes));
        }
        group.bench_function(case.name, |bencher| bencher.iter(&mut case.work));
    }
    group.finish();
}

fn parser(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("httparse");
    for (name, text) in
        [("small_request", cases::SMALL_REQUEST), ("large_request", cases::LARGE_REQUEST)]
    {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut headers = [const { MaybeUninit::uninit() }; 100];
                let mut request = httparse::Request::new(&mut []);
                request.parse_with_uninit_headers(black_box(text), &mut headers).is_ok()
            });
        });
    }
    group.finish();
}

/// An origin that takes connections and never says anything.
fn silent_origin() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {});
        }
    });
    address
}

fn pool(shared: &Arc<PoolShared>) -> Rc<Pool> {
    let ledger = Arc::new(Ledger::default());
    let heads = HeadPool::new(8 * 1024, ledger.clone(), Rc::new(Budget::unlimited()));
    let limits = PoolLimits {
        max_idle: 20,
        idle_expiry: Duration::from_secs(600),
        acquire: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        keepalive: Duration::from_secs(30),
    };
    let metrics = Arc::new(WorkerMetrics::default());
    let deadlines = Rc::new(Deadlines::default());
    Pool::new(0, limits, shared.clone(), deadlines, heads, (ledger, metrics))
}

/// A connection's way out of the pool and back, with its watch.
fn checkout(criterion: &mut Criterion) {
    let address = silent_origin();
    let ring = match runtime::open(runtime::Driver::IoUring) {
        Ok(ring) => ring,
        Err(error) => {
            eprintln!("pool/checkout_and_return is left out: no ring: {error}");
            return;
        }
    };
    ring.block_on(async {
        let limits = Limits { each: 100, ceiling: 100, ..Limits::default() };
        let shared = PoolShared::new(limits, 1);
        let pool = pool(&shared);
        let group = || shared.group("origin");
        let origin_id = Rc::new(OriginIds::default()).hold("origin", group);
        let connected =
            open_target(&pool, &origin_id, pool.dial(&[address]), Holder::NOBODY, false).await;
        connected
            .unwrap_or_else(|fault| panic!("the origin is on loopback: {fault:?}"))
            .give_back();
        criterion.bench_function("pool/checkout_and_return", |bencher| {
            bencher.iter(|| {
                let lease = pool.take_idle(0, Holder::NOBODY);
                lease.expect("it has just been returned").give_back();
            });
        });
    });
    drop(ring);
}

criterion_group!(benches, pure, parser, checkout);
criterion_main!(benches);
