//! The control thread: admin API, statistics, alerts and the watch on memory.
//!
//! In go the configuration and what the workers share; out come answers on the admin address and
//! to the data port, log lines, alerts, and orders to workers to give memory back. It runs beside
//! the workers on a thread with a plain tokio runtime, and a worker never waits for it.
// Counters become figures for people here, and 52 bits are more than anybody reads.
#![allow(clippy::cast_precision_loss)]
// What the tests compare is exact: small numbers, and quotients that are rounded.
#![cfg_attr(test, allow(clippy::float_cmp))]

mod accounting;
mod admin;
mod alerts;
mod exposition;
mod health;
mod hooks;
mod listen;
mod process;
mod prometheus;
mod proxy;
mod serve;
mod stats;
#[cfg(test)]
mod tests;
mod webhook;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::ask::{Ask, ControlAsk, Level};
use crate::logging::LogMeter;
use crate::supervisor;
use crate::worker::Shared;

use self::health::Health;
pub use self::listen::Door;
use self::proxy::Proxy;
use self::webhook::Webhook;

/// What the control thread is started with, after the workers.
pub struct ControlSetup {
    pub shared: Arc<Shared>,
    /// Where the admin API listens, if anywhere.
    pub door: Option<Door>,
    /// What can be measured of the event log and of the access log.
    pub logs: Logs,
    /// Questions of the data port.
    pub asks: UnboundedReceiver<ControlAsk>,
    /// Each drops one cache. They must not block.
    pub caches: Vec<Box<dyn Fn() + Send>>,
}

/// The logs, as far as they can be measured.
#[derive(Clone, Default)]
pub struct Logs {
    pub events: Option<LogMeter>,
    pub access: Option<AccessLog>,
}

impl Logs {
    /// Lines that were not written, by log.
    fn dropped_lines(&self) -> [(&'static str, u64); 2] {
        let events = self.events.as_ref().map_or(0, LogMeter::dropped_lines);
        let access = self.access.as_ref().map_or(0, AccessLog::dropped_lines);
        [("events", events), ("access", access)]
    }

    /// What their queues take.
    fn queue_bytes(&self) -> u64 {
        let events = self.events.as_ref().map_or(0, LogMeter::queue_bytes);
        events + self.access.as_ref().map_or(0, AccessLog::queue_bytes)
    }
}

/// The control thread.
pub struct Control {
    admin_address: Option<SocketAddr>,
    /// A descriptor of the admin API's socket, for whoever takes over.
    admin_socket: Option<OwnedFd>,
    /// The admin API ends, and the thread does.
    closing: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    runtime: Handle,
    thread: JoinHandle<()>,
}

/// Starts the thread. An error is one line with cause and cure.
pub fn start(mut setup: ControlSetup) -> Result<Control, String> {
    let mut door = setup.door.take();
    door.iter_mut().for_each(Door::claim);
    let admin_address = door.as_ref().and_then(Door::address);
    if let Some(door) = &door {
        tracing::info!(address = door.name(), "admin API");
    }
    let webhook =
        setup.shared.snapshot.load().config.alerts.webhook.clone().map(Webhook::start).transpose();
    let webhook = webhook.map_err(|error| format!("the webhook got no thread: {error}"))?;
    let (_, none) = tokio::sync::mpsc::unbounded_channel();
    let asks = std::mem::replace(&mut setup.asks, none);
    // Here and not on the thread: the first window begins before anything is counted.
    let proxy = Arc::new(Proxy::new(setup, webhook));
    accounting::measure(&proxy, &proxy.snapshot());
    let (stopping, is_stopping) = watch::channel(false);
    let (closing, is_closing) = watch::channel(false);
    let admin_socket = door.as_ref().map(Door::share).transpose();
    let admin_socket = admin_socket.map_err(|error| format!("no admin API: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the control thread got no runtime: {error}"))?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || runtime.block_on(run(proxy, asks, door, is_closing, is_stopping)))
        .map_err(|error| format!("the control thread did not start: {error}"))?;
    Ok(Control { admin_address, admin_socket, closing, stopping, runtime: handle, thread })
}

impl Control {
    /// The admin address, with the port that was chosen for port 0. `None` for a Unix socket, and
    /// where there is no admin API.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The admin API's socket, for a process that takes over.
    pub fn admin_socket(&self) -> Option<BorrowedFd<'_>> {
        self.admin_socket.as_ref().map(AsFd::as_fd)
    }

    /// Ends the admin API and leaves its socket to the process that has taken over.
    pub fn hand_over(&self) {
        self.closing.send_replace(true);
    }

    /// Carries a task out beside all others of the thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Ends the thread; answers under way have a second. The socket's file is removed.
    pub fn stop(self) {
        self.stopping.send_replace(true);
        self.closing.send_replace(true);
        // A panic has been reported where it happened.
        let _ = self.thread.join();
    }
}

async fn run(
    proxy: Arc<Proxy>,
    asks: UnboundedReceiver<ControlAsk>,
    door: Option<Door>,
    closing: watch::Receiver<bool>,
    mut stopping: watch::Receiver<bool>,
) {
    tokio::spawn(stats::run(proxy.clone()));
    tokio::spawn(alerts::run(proxy.clone()));
    tokio::spawn(accounting::run(proxy.clone()));
    tokio::spawn(answer(proxy.clone(), asks));
    tokio::spawn(watch_dog(proxy.clone()));
    if let Some(door) = door {
        let file = serve::run(door, admin::router(proxy), closing).await;
        // Where only the API ends, somebody else goes on with its socket.
        if let Some(file) = file
            && !*stopping.borrow()
        {
            file.leave();
        }
    }
    // An error means that there is nobody left to stop us.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// Tells the service manager that all is well, for as long as every worker answers.
async fn watch_dog(proxy: Arc<Proxy>) {
    let Some(interval) = supervisor::watchdog_interval() else { return };
    loop {
        let silent = proxy.ask(|reply| Ask::Ping { reply }).await.silent;
        if silent.is_empty() {
            supervisor::alive();
        } else {
            tracing::error!(?silent, "workers do not answer: no sign of life for the watchdog");
        }
        tokio::time::sleep(interval).await;
    }
}

/// Answers the data port, each question beside the others.
async fn answer(proxy: Arc<Proxy>, mut asks: UnboundedReceiver<ControlAsk>) {
    while let Some(ask) = asks.recv().await {
        match ask {
            // Who has stopped waiting needs no answer.
            ControlAsk::Health { reply } => drop(reply.send(Health::of(&proxy).to_json())),
            ControlAsk::Cleanup { reply } => {
                let proxy = proxy.clone();
                tokio::spawn(async move {
                    let outcome = accounting::clean(&proxy, Level::Light, "asked").await;
                    // Cannot fail: every key is text and no number is infinite.
                    let text = serde_json::to_string(&outcome.answer()).unwrap_or_default();
                    drop(reply.send(text));
                });
            }
        }
    }
}
