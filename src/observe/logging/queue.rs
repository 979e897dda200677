//! The queue between whoever logs an event and the thread that writes it.
//!
//! In go lines from any thread; out they come in the same order at an `Output`, on a thread of its
//! own. Never does a line wait: what the queue has no room for is dropped and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long the end of the process waits for a log that cannot be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Lines are written here and made elsewhere.
const STACK_BYTES: usize = 256 * 1024;

/// Where events put their lines.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    lines: SyncSender<Option<Vec<u8>>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    dropped: AtomicU64,
    is_ending: AtomicBool,
}

/// The thread that empties the queue. Dropping this writes what is still queued, unless that takes
/// too long.
#[derive(Debug)]
pub(super) struct Writing {
    queue: Queue,
    ended: Mutex<Receiver<()>>,
}

impl Queue {
    pub(super) fn start<W>(lines_max: usize, output: W) -> io::Result<(Self, Writing)>
    where
        W: Write + Send + 'static,
    {
        let (lines, queued) = sync_channel(lines_max);
        let (ending, ended) = channel();
        let queue = Self { lines, state: Arc::default() };
        let state = Arc::clone(&queue.state);
        thread::Builder::new()
            .name("event-log".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || write_until_end(&queued, &state, output, &ending))?;
        Ok((queue.clone(), Writing { queue, ended: Mutex::new(ended) }))
    }

    pub(super) fn dropped_lines(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }
}

impl<'w> MakeWriter<'w> for Queue {
    type Writer = &'w Self;

    fn make_writer(&'w self) -> Self::Writer {
        self
    }
}

impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Some(line.to_vec())).is_err() {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // A queue that is full has no place for the end of it, but its thread does not sleep: it
        // sees the flag behind the last line.
        self.queue.state.is_ending.store(true, Ordering::SeqCst);
        let _ = self.queue.lines.try_send(None);
        // An error means that the thread has ended, which is what is waited for.
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(FLUSH_MAX);
    }
}

/// `_ending` is only there to be dropped with the thread. The output counts what it cannot write.
fn write_until_end(
    queued: &Receiver<Option<Vec<u8>>>,
    state: &State,
    mut output: impl Write,
    _ending: &Sender<()>,
) {
    while let Ok(Some(line)) = queued.recv() {
        let _ = output.write_all(&line);
        while let Ok(Some(line)) = queued.try_recv() {
            let _ = output.write_all(&line);
        }
        if state.is_ending.load(Ordering::SeqCst) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::SyncSender;

    use super::*;

    /// Says what it is about to write, then waits for permission.
    struct Slow(SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_has_no_room_is_dropped_and_counted_and_the_rest_is_written_in_order() {
        let (slow, written) = sync_channel(0);
        let (queue, writing) = Queue::start(3, Slow(slow)).unwrap();
        for number in 0..10 {
            write!(&queue, "{number}").unwrap();
        }
        // Three are queued, and the thread may have taken one more.
        let dropped = queue.dropped_lines();
        assert!((6..=7).contains(&dropped), "{dropped}");
        let lines: Vec<_> = (dropped..10).map(|_| written.recv().unwrap()).collect();
        assert_eq!(lines.first().unwrap(), b"0");
        assert!(lines.is_sorted() && lines.len() as u64 == 10 - dropped);
        drop(writing);
        assert!(written.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn a_full_queue_is_written_to_its_end() {
        let (slow, written) = sync_channel(100);
        let (queue, writing) = Queue::start(100, Slow(slow)).unwrap();
        for number in 0..100 {
            write!(&queue, "{number}").unwrap();
        }
        drop(writing);
        assert_eq!(written.iter().count(), 100);
        assert_eq!(queue.dropped_lines(), 0);
    }

    #[test]
    fn an_end_does_not_wait_for_ever_for_what_cannot_be_written() {
        let (slow, written) = sync_channel(0);
        let (queue, writing) = Queue::start(1, Slow(slow)).unwrap();
        write!(&queue, "stuck").unwrap();
        drop(writing);
        assert_eq!(written.recv().unwrap(), b"stuck");
    }
}
