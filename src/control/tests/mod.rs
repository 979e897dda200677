//! The control thread as a whole: every route, over a real socket, before workers of straw.
//!
//! In go requests as bytes; what is checked are statuses, fields and what the workers were asked.
//! No ring and no real worker is started.

mod cleanups;
mod figures;
mod routes;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::body::Body;
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{Notify, Semaphore, oneshot};
use tower::ServiceExt;

use super::*;
use crate::ask::{Ask, Cleaned, ConnectionInfo};
use crate::config::AdminAddress;
use crate::config::Config;
use crate::gate::Gate;
use crate::generation::{History, Parts, Snapshot};
use crate::ledger::Ledgers;
use crate::upstream::permits::{Limits, PoolShared};
use crate::worker::{Mail, Place};

const WORKERS: usize = 2;

const PATIENCE: Duration = Duration::from_secs(20);

/// A control thread before two workers of straw.
struct Fixture {
    control: Option<Control>,
    shared: Arc<Shared>,
    cleaned: Arc<Mutex<Vec<Level>>>,
    caches_dropped: Arc<AtomicUsize>,
}

impl Fixture {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let (setup, mut fixture) = Self::prepare(change);
        fixture.control = Some(super::start(setup).unwrap());
        fixture
    }

    fn prepare(change: impl FnOnce(&mut Config)) -> (ControlSetup, Self) {
        let mut config = Config::default();
        config.admin.address = AdminAddress::Tcp(([127, 0, 0, 1], 0).into());
        change(&mut config);
        let (asks, asked): (Vec<_>, Vec<_>) =
            (0..WORKERS).map(|_| mpsc::unbounded_channel()).unzip();
        let (control, questions) = mpsc::unbounded_channel();
        let (orders, _) = mpsc::unbounded_channel();
        let parts = Parts {
            gate: Arc::new(Gate::prepare(&config, &[], &[], None).unwrap()),
            config: Arc::new(config.clone()),
            upstreams: Vec::new(),
            hooks: Arc::default(),
            listeners: vec![([127, 0, 0, 1], 8000).into()],
        };
        let mut snapshot = Snapshot::first(parts, WORKERS);
        snapshot.id = 7;
        let places = asks.into_iter().map(|asks| {
            let place = Place::default();
            place.occupy(mail(asks));
            place.activate();
            place
        });
        let each = config.pool.max_connections;
        let limits = Limits { each, ceiling: each, ..Limits::default() };
        let shared = Arc::new(Shared {
            pool: PoolShared::new(limits, WORKERS),
            clients: Arc::new(Semaphore::new(config.limits.clients)),
            room: crate::room::SharedRoom::default(),
            tunnels: Arc::new(Semaphore::new(config.limits.tunnels)),
            live: (0..WORKERS).map(|_| AtomicUsize::new(0)).collect(),
            places: places.collect(),
            history: History::new(&snapshot),
            snapshot: ArcSwap::from_pointee(snapshot),
            orders,
            reloads_refused: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_handed_over: AtomicBool::new(false),
            drain: (0..WORKERS).map(|_| Notify::new()).collect(),
            is_cutting: AtomicBool::new(false),
            ledgers: Ledgers::new(WORKERS),
            metrics: (0..WORKERS).map(|_| Arc::default()).collect(),
            rings: (0..WORKERS).map(|_| Arc::default()).collect(),
            pressure: 0.into(),
            is_ready: AtomicBool::new(true),
            control,
        });
        let cleaned = Arc::<Mutex<Vec<Level>>>::default();
        for (worker, asked) in asked.into_iter().enumerate() {
            let cleaned = cleaned.clone();
            thread::spawn(move || answer_asks(worker, asked, &cleaned));
        }
        let caches_dropped = Arc::<AtomicUsize>::default();
        let dropped = caches_dropped.clone();
        let door = Door::open(&config.admin, None).unwrap();
        let setup = ControlSetup {
            door,
            shared: shared.clone(),
            logs: Logs::default(),
            asks: questions,
            caches: vec![Box::new(move || {
                dropped.fetch_add(1, Ordering::Relaxed);
            })],
        };
        (setup, Self { control: None, shared, cleaned, caches_dropped })
    }

    fn address(&self) -> SocketAddr {
        self.control.as_ref().and_then(Control::admin_address).unwrap()
    }

    fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Answer::of(&text)
    }

    /// `GET /path`, or with any other method; `fields` are lines without their ends.
    fn ask(&self, request: &str, fields: &[&str]) -> Answer {
        let fields = [&["Connection: close"], fields, &["", ""]].concat().join("\r\n");
        self.send(&format!("{request} HTTP/1.1\r\n{fields}"))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &["Host: 127.0.0.1:9901"])
    }

    fn json(&self, request: &str) -> Value {
        let answer = self.ask(request, &["Host: localhost"]);
        assert_eq!(answer.status, 200, "{request}: {answer:?}");
        assert!(answer.head.contains("content-type: application/json\r\n"), "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    fn cleaned(&self) -> Vec<Level> {
        self.cleaned.lock().unwrap().clone()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            control.stop();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (head, body) = (format!("{head}\r\n"), body.to_owned());
        Self { status: status.expect("a status"), head, body }
    }

    /// The cause that a refusal gives.
    fn error(&self) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(json["status"], self.status);
        json["error"].as_str().unwrap().to_owned()
    }
}

/// Where connections would go, nobody listens.
fn mail(asks: mpsc::UnboundedSender<Ask>) -> Mail {
    Mail { inbox: mpsc::unbounded_channel().0, asks }
}

/// A worker of straw: three connections, and a pool that always has something to give.
fn answer_asks(worker: usize, mut asks: UnboundedReceiver<Ask>, cleaned: &Mutex<Vec<Level>>) {
    while let Some(ask) = asks.blocking_recv() {
        match ask {
            Ask::Connections { reply } => {
                let ids = (0..3).map(|index| (worker * 10 + index) as u64);
                drop(reply.send(ids.map(|id| connection(worker, id)).collect()));
            }
            Ask::Ping { reply } | Ask::Adopt { reply, .. } => drop(reply.send(())),
            // Nobody comes here, be it by a listener or to ask for room.
            Ask::Listen { .. }
            | Ask::Deafen { .. }
            | Ask::Return { .. }
            | Ask::Offer { .. }
            | Ask::GiveWay { .. }
            | Ask::Census { .. }
            | Ask::EndHeads { .. } => {}
            Ask::End { id, reply } => drop(reply.send(worker == 1 && id == 11)),
            Ask::Clean { level, reply } => {
                cleaned.lock().unwrap().push(level);
                let cleaned = Cleaned { closed_idle: 2 + worker, ..Cleaned::default() };
                let _ = reply.send(cleaned);
            }
        }
    }
}

fn connection(worker: usize, id: u64) -> ConnectionInfo {
    ConnectionInfo {
        id,
        worker,
        peer: ([10, 0, 0, 1], 1000 + id as u16).into(),
        phase: "exchange",
        age_ms: 1_000 - id,
        phase_ms: 5,
        requests: id,
        bytes_received: 1,
        bytes_sent: 2,
        memory_bytes: id * 100,
    }
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// One request to the router, without a socket; `peer` is where it seems to come from.
fn oneshot(proxy: &Arc<Proxy>, request: &str, peer: Option<admin::Peer>) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let mut request = axum::http::Request::builder().method(method).uri(path);
    if let Some(peer) = peer {
        request = request.extension(peer);
    }
    let request = request.body(Body::empty()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = admin::router(proxy.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let head = format!("{:?}", response.headers());
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answer { status, head, body: String::from_utf8(body.to_vec()).unwrap() }
    })
}
