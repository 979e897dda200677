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
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::body::Body;
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{Notify, Semaphore, oneshot};
use tower::ServiceExt;

use super::*;
use crate::address::PeerAddress;
use crate::admin_guard::TokenTries;
use crate::config::{AdminAddress, Config};
use crate::forward_proxy::access::Access;
use crate::ledger::Ledgers;
use crate::memory::SharedPressure;
use crate::upstream::permits::{Limits, PoolShared};
use crate::worker::generation::{Snapshot, SnapshotParts};
use crate::worker::history::{History, Source};
use crate::worker::mailbox::{Cleaned, ConnectionInfo, Level, WorkerCommand};
use crate::worker::shared::{Shared, WorkerHandle, WorkerSlot};

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
        let (commands, asked): (Vec<_>, Vec<_>) =
            (0..WORKERS).map(|_| mpsc::unbounded_channel()).unzip();
        let (control, questions) = mpsc::unbounded_channel();
        let (server_commands, _) = mpsc::unbounded_channel();
        let parts = SnapshotParts {
            access: Arc::new(Access::prepare(&config, &[], &[], None).unwrap()),
            config: Arc::new(config.clone()),
            upstreams: Vec::new(),
            hooks: Arc::default(),
            proxy_protocol: Vec::new(),
            listeners: vec!["127.0.0.1:8000".parse().unwrap()],
            tls: None,
        };
        let snapshot = Snapshot { id: 7, ..Snapshot::first(parts, WORKERS) };
        let slots = commands.into_iter().map(|commands| {
            let slot = WorkerSlot::default();
            slot.occupy(handle(commands));
            slot.activate();
            slot
        });
        let each = config.pool.max_connections;
        let limits = Limits { each, ceiling: each, ..Limits::default() };
        let shared = Arc::new(Shared {
            pool: PoolShared::new(limits, WORKERS),
            clients: Arc::new(Semaphore::new(config.limits.clients)),
            room: crate::worker::census::SharedRoom::default(),
            tunnels: Arc::new(Semaphore::new(config.limits.tunnels)),
            streams: Arc::new(Semaphore::new(config.limits.streams)),
            live: (0..WORKERS).map(|_| AtomicUsize::new(0)).collect(),
            slots: slots.collect(),
            history: History::new(&snapshot, Source::default()),
            snapshot: ArcSwap::from_pointee(snapshot),
            server_commands,
            reloads_refused: AtomicUsize::new(0),
            spans: OnceLock::new(),
            token_tries: TokenTries::new(),
            is_closing: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_handed_over: AtomicBool::new(false),
            discovery: Arc::default(),
            drain: (0..WORKERS).map(|_| Notify::new()).collect(),
            is_cutting: AtomicBool::new(false),
            ledgers: Ledgers::new(WORKERS),
            metrics: (0..WORKERS).map(|_| Arc::default()).collect(),
            rings: (0..WORKERS).map(|_| Arc::default()).collect(),
            pressure: SharedPressure::default(),
            spool: Arc::default(),
            is_ready: AtomicBool::new(true),
            control,
        });
        let cleaned = Arc::<Mutex<Vec<Level>>>::default();
        for (worker, asked) in asked.into_iter().enumerate() {
            let cleaned = cleaned.clone();
            thread::spawn(move || answer_commands(worker, asked, &cleaned));
        }
        let caches_dropped = Arc::<AtomicUsize>::default();
        let dropped = caches_dropped.clone();
        let setup = ControlSetup {
            socket: AdminSocket::open(&config.admin, None).unwrap(),
            shared: shared.clone(),
            logs: Logs::default(),
            queries: questions,
            caches: vec![Box::new(move || _ = dropped.fetch_add(1, Ordering::Relaxed))],
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

/// No worker listens where connections would go.
fn handle(commands: mpsc::UnboundedSender<WorkerCommand>) -> WorkerHandle {
    WorkerHandle { inbox: mpsc::unbounded_channel().0, commands }
}

/// A worker of straw: three connections, and a pool that always has something to give.
fn answer_commands(
    worker: usize,
    mut commands: UnboundedReceiver<WorkerCommand>,
    cleaned: &Mutex<Vec<Level>>,
) {
    while let Some(command) = commands.blocking_recv() {
        match command {
            WorkerCommand::Connections { reply } => {
                let ids = (0..3).map(|index| (worker * 10 + index) as u64);
                drop(reply.send(ids.map(|id| connection(worker, id)).collect()));
            }
            WorkerCommand::Extremes { reply, .. } => {
                drop(reply.send(vec![connection(worker, worker as u64 * 10)]));
            }
            WorkerCommand::Idle { reply } => drop(reply.send(Vec::new())),
            WorkerCommand::Ping { reply } | WorkerCommand::Adopt { reply, .. } => {
                let _ = reply.send(());
            }
            // No client comes here, and no worker asks for room.
            WorkerCommand::Listen { .. }
            | WorkerCommand::StopListening { .. }
            | WorkerCommand::Resume { .. }
            | WorkerCommand::Offer { .. }
            | WorkerCommand::GiveWay { .. }
            | WorkerCommand::Census { .. }
            | WorkerCommand::EndHeads { .. } => {}
            WorkerCommand::End { id, reply } => drop(reply.send(worker == 1 && id == 11)),
            WorkerCommand::Clean { level, reply } => {
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
        peer: PeerAddress::Ip(([10, 0, 0, 1], 1000 + id as u16).into()),
        client: [192, 0, 2, 1].into(),
        phase: "exchange",
        age_ms: 1_000 - id,
        phase_ms: 5,
        requests: id,
        protocol: "http/1.1",
        streams: None,
        stream: None,
        bytes_received: 1,
        bytes_sent: 2,
        memory_bytes: id * 100,
        route: None,
        target: None,
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
fn oneshot(proxy: &Arc<Proxy>, request: &str, peer: Option<guard::Peer>) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let mut request = axum::http::Request::builder().method(method).uri(path);
    if let Some(peer) = peer {
        request = request.extension(peer);
    }
    let request = request.body(Body::empty()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = api::router(proxy.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let head = format!("{:?}", response.headers());
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answer { status, head, body: String::from_utf8(body.to_vec()).unwrap() }
    })
}
