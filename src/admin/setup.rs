//! What the control thread is started with.
//!
//! In goes what the workers share, with the logs and the socket of the API. Nothing is started
//! here.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tracing::level_filters::LevelFilter;

use crate::admin::listen::AdminSocket;
use crate::observe::access_log::AccessLog;
use crate::observe::logging::LogMeter;
use crate::worker::mailbox::ControlQuery;
use crate::worker::shared::Shared;

/// What the control thread is started with, after the workers.
pub(crate) struct ControlSetup {
    pub shared: Arc<Shared>,
    /// Where the admin API listens, if anywhere.
    pub socket: Option<AdminSocket>,
    /// What can be measured of the event log and of the access log.
    pub logs: Logs,
    /// Questions of the data port.
    pub queries: UnboundedReceiver<ControlQuery>,
    /// Each drops one cache. They must not block.
    pub caches: Vec<Box<dyn Fn() + Send>>,
}

/// The logs, as far as they can be measured.
#[derive(Clone, Default)]
pub(crate) struct Logs {
    pub events: Option<LogMeter>,
    pub access: Option<AccessLog>,
}

impl Logs {
    /// Lines that were not written, by log.
    pub(super) fn dropped_lines(&self) -> [(&'static str, u64); 2] {
        let events = self.events.as_ref().map_or(0, LogMeter::dropped_lines);
        let access = self.access.as_ref().map_or(0, AccessLog::dropped_lines);
        [("events", events), ("access", access)]
    }

    /// The least that the event log takes.
    pub(super) fn level(&self) -> Option<String> {
        self.events.as_ref().map(|log| log.level().to_string())
    }

    pub(super) fn set_level(&self, level: LevelFilter) -> bool {
        self.events.as_ref().is_some_and(|log| log.set_level(level))
    }

    /// What their queues take.
    pub(super) fn queue_bytes(&self) -> u64 {
        let events = self.events.as_ref().map_or(0, LogMeter::queue_bytes);
        events + self.access.as_ref().map_or(0, AccessLog::queue_bytes)
    }
}
