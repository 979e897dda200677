//! The control thread: admin API, statistics, alerts and the watch on memory.
//!
//! In go the configuration and what the workers share; out come answers on the admin address and to
//! the data port, log lines, alerts, and commands to workers to give memory back. It runs beside
//! the workers on a thread with a plain tokio runtime, and a worker never waits for it.
// Counters become figures for people here, and 52 bits are more than anybody reads.
#![allow(clippy::cast_precision_loss)]
// What the tests compare is exact: small numbers, and quotients that are rounded.
#![cfg_attr(test, allow(clippy::float_cmp))]

mod accounting;
mod alerting;
mod alerts;
mod answer;
mod api;
mod arms;
mod cleaning;
mod course;
mod exposition;
mod guard;
mod health;
mod hooks;
mod http2;
mod listen;
mod messages;
mod named;
mod neighbour;
mod operate;
mod otlp;
mod otlp_metrics;
mod otlp_wire;
mod page;
mod process;
mod prometheus;
mod proxy;
mod reporting;
mod sampling;
mod series;
mod serve;
mod setup;
mod snapshot;
mod stats;
mod tally;
#[cfg(test)]
mod tests;
mod tls;
mod units;
mod upstreams;
mod webhook;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::health::Health;
use self::proxy::Proxy;
use self::webhook::Webhook;
use crate::systemd;
use crate::worker::mailbox::{ControlQuery, WorkerCommand};

pub(crate) use self::listen::AdminSocket;
pub(crate) use self::setup::{ControlSetup, Logs};

/// The control thread.
pub(crate) struct Control {
    admin_address: Option<SocketAddr>,
    /// A descriptor of the admin API's socket, for the process that takes over.
    admin_socket: Option<OwnedFd>,
    /// The admin API ends, and the thread does.
    closing: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    runtime: Handle,
    thread: JoinHandle<()>,
}

/// Starts the thread. An error is one line with cause and cure.
pub(crate) fn start(mut setup: ControlSetup) -> Result<Control, String> {
    let mut socket = setup.socket.take();
    socket.iter_mut().for_each(AdminSocket::claim);
    let admin_address = socket.as_ref().and_then(AdminSocket::address);
    if let Some(socket) = &socket {
        tracing::info!(address = socket.name(), "admin API");
    }
    let webhook = Webhook::of(&setup.shared.snapshot.load().config.alerts);
    let webhook = webhook.map_err(|error| format!("the webhook got no thread: {error}"))?;
    otlp::start(&setup.shared.snapshot.load().config.tracing, &setup.shared)
        .map_err(|error| format!("the sender of spans got no thread: {error}"))?;
    let (_, none) = tokio::sync::mpsc::unbounded_channel();
    let queries = std::mem::replace(&mut setup.queries, none);
    // Here and not on the thread: the first window begins before anything is counted.
    let proxy = Arc::new(Proxy::new(setup, webhook));
    cleaning::measure(&proxy, &proxy.snapshot());
    let (stopping, is_stopping) = watch::channel(false);
    let (closing, is_closing) = watch::channel(false);
    let admin_socket = socket.as_ref().map(AdminSocket::share).transpose();
    let admin_socket = admin_socket.map_err(|error| format!("no admin API: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the control thread got no runtime: {error}"))?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            runtime.block_on(run(proxy, queries, socket, is_closing, is_stopping));
            // A request to somebody who does not answer must not hold the end up.
            runtime.shutdown_background();
        })
        .map_err(|error| format!("the control thread did not start: {error}"))?;
    Ok(Control { admin_address, admin_socket, closing, stopping, runtime: handle, thread })
}

impl Control {
    /// The admin address, with the port that was chosen for port 0. `None` for a Unix socket, and
    /// where there is no admin API.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The admin API's socket, for a process that takes over.
    pub(crate) fn admin_socket(&self) -> Option<BorrowedFd<'_>> {
        self.admin_socket.as_ref().map(AsFd::as_fd)
    }

    /// Ends the admin API and leaves its socket to the process that has taken over.
    pub(crate) fn hand_over(&self) {
        self.closing.send_replace(true);
    }

    /// Carries a task out beside all others of the thread, until it ends or is ended.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.runtime.spawn(task).abort_handle()
    }

    /// Ends the thread; answers under way have a second. The socket's file is removed.
    pub(crate) fn stop(self) {
        self.stopping.send_replace(true);
        self.closing.send_replace(true);
        // A panic has been reported where it happened.
        let _ = self.thread.join();
    }
}

async fn run(
    proxy: Arc<Proxy>,
    queries: UnboundedReceiver<ControlQuery>,
    socket: Option<AdminSocket>,
    closing: watch::Receiver<bool>,
    mut stopping: watch::Receiver<bool>,
) {
    tokio::spawn(reporting::run(proxy.clone()));
    tokio::spawn(alerting::run(proxy.clone()));
    tokio::spawn(cleaning::run(proxy.clone()));
    tokio::spawn(sampling::run(proxy.clone()));
    tokio::spawn(otlp::send_metrics(proxy.clone()));
    tokio::spawn(answer(proxy.clone(), queries));
    tokio::spawn(watch_dog(proxy.clone()));
    if let Some(socket) = socket {
        let shared = proxy.shared.clone();
        let secured = secured(&proxy);
        let file = serve::run(socket, api::router(proxy), secured, closing).await;
        // Somebody else goes on with its socket.
        if let Some(file) = file
            && shared.is_handed_over.load(Ordering::Acquire)
        {
            file.leave();
        }
    }
    // An error means that no thread is left to stop us.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// What the sessions of the admin address are made from, where it speaks TLS.
fn secured(proxy: &Arc<Proxy>) -> Option<serve::Secured> {
    // It is that for as long as the process lives: the key needs a restart.
    if !proxy.snapshot().config.admin.is_tls() {
        return None;
    }
    let proxy = proxy.clone();
    Some(Arc::new(move || proxy.snapshot().tls.as_ref().map(|tls| tls.admin().into())))
}

/// Tells the service manager that all is well, for as long as every worker answers.
async fn watch_dog(proxy: Arc<Proxy>) {
    let Some(interval) = systemd::watchdog_interval() else { return };
    loop {
        let silent = proxy.ask(|reply| WorkerCommand::Ping { reply }).await.silent;
        if silent.is_empty() {
            systemd::alive();
        } else {
            tracing::error!(?silent, "workers do not answer: no sign of life for the watchdog");
        }
        tokio::time::sleep(interval).await;
    }
}

/// Between two cleanups that the data port asks for: it is open to more than the administrator.
const DATA_PORT_PAUSE: Duration = Duration::from_secs(10);

/// Answers the data port, each question beside the others.
async fn answer(proxy: Arc<Proxy>, mut queries: UnboundedReceiver<ControlQuery>) {
    while let Some(query) = queries.recv().await {
        match query {
            // Who has stopped waiting needs no answer.
            ControlQuery::Health { is_whole, reply } => {
                let health = Health::of(&proxy);
                let text = if is_whole { health.to_json() } else { health.outline() };
                drop(reply.send(text));
            }
            ControlQuery::Cleanup { reply } => {
                let proxy = proxy.clone();
                tokio::spawn(async move {
                    let outcome = cleaning::clean_again(&proxy, "asked", DATA_PORT_PAUSE).await;
                    // Cannot fail: every key is text and no number is infinite.
                    let text = serde_json::to_string(&outcome.answer()).unwrap_or_default();
                    drop(reply.send(text));
                });
            }
        }
    }
}
