//! Spans on their way to whoever collects them.
//!
//! In go the spans of exchanges that have ended, from the workers; out they come on the thread that
//! sends them. The queue has a bound: what finds it full is dropped and counted, and no worker
//! waits. What a span looks like on the wire is not known here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// How long the end of the process waits for a receiver.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// By what the span of an exchange is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceIds {
    pub trace: u128,
    pub span: u64,
    pub is_sampled: bool,
}

/// What a span is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanKind {
    Internal,
    /// A request that was served.
    Server,
    /// A request that was made.
    Client,
}

/// Something that took a while.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub trace: u128,
    pub id: u64,
    /// 0 where it has none.
    pub parent: u64,
    pub kind: SpanKind,
    pub name: String,
    /// Nanoseconds since 1970.
    pub began: u64,
    pub ended: u64,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// What happened when, in the same time.
    pub events: Vec<(&'static str, u64)>,
    pub is_error: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Text(String),
    Number(i64),
}

/// What the thread that sends is given.
pub(crate) enum Parcel {
    /// Those of one exchange.
    Spans(Vec<Span>),
    /// Metrics, as Prometheus reads them.
    Metrics(String),
    /// Whoever waits for the end of the other is told that all has been sent, or given up.
    Finish(Sender<()>),
}

/// What became of spans.
#[derive(Debug, Default)]
pub(crate) struct SpanCounts {
    pub sent: AtomicU64,
    pub dropped: AtomicU64,
}

impl SpanCounts {
    pub(crate) fn lost(&self, spans: usize) {
        self.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// The workers' end.
pub(crate) struct SpanQueue {
    sender: SyncSender<Parcel>,
    pub counts: Arc<SpanCounts>,
}

impl SpanQueue {
    /// With room for `bound` parcels.
    pub(crate) fn new(bound: usize) -> (Self, Receiver<Parcel>) {
        let (sender, parcels) = sync_channel(bound);
        (Self { sender, counts: Arc::default() }, parcels)
    }

    /// Never waits.
    pub(crate) fn send(&self, spans: Vec<Span>) {
        let count = spans.len();
        if self.sender.try_send(Parcel::Spans(spans)).is_err() {
            self.counts.lost(count);
        }
    }

    /// Likewise: the next ones say it all again.
    pub(crate) fn send_metrics(&self, text: String) {
        let _ = self.sender.try_send(Parcel::Metrics(text));
    }

    /// Has sent what waits, for the end of the process.
    pub(crate) fn finish(&self) {
        let (sender, finished) = channel();
        if self.sender.try_send(Parcel::Finish(sender)).is_ok() {
            // An error means that all has been sent, or that it takes too long.
            let _ = finished.recv_timeout(FINISH_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_queue_full_is_counted_and_nobody_waits() {
        let (queue, parcels) = SpanQueue::new(1);
        let span = || Span {
            trace: 1,
            id: 1,
            parent: 0,
            kind: SpanKind::Server,
            name: String::new(),
            began: 0,
            ended: 0,
            attributes: Vec::new(),
            events: Vec::new(),
            is_error: false,
        };
        queue.send(vec![span()]);
        queue.send(vec![span(), span()]);
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), 2);
        assert!(matches!(parcels.try_recv(), Ok(Parcel::Spans(spans)) if spans.len() == 1));
        drop(parcels);
        queue.finish();
    }
}
