//! The access log: one record per exchange.
//!
//! In: a `Record` from a worker. Out: a line on standard output or in a file, if it is wanted. A
//! worker formats into a buffer of its own that a writer thread empties every few milliseconds;
//! a record costs no allocation, no system call and no wait. When the writer falls behind by
//! `log.queue_lines`, further lines are dropped and counted. How a line looks is
//! [`crate::observe::access_line`]'s.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::config::{AccessWhen, LogConfig};
use crate::memory::plan::LANE_LINE_BYTES;
use crate::observe::access_line::{LINE_BYTES_MAX, put_line};
use crate::observe::access_look::Look;
pub(crate) use crate::observe::access_record::{Phases, Record};
use crate::observe::logging::Output;

/// How long lines may gather before they are written together.
const GATHER: Duration = Duration::from_millis(20);

/// How long the end of the process waits for a log that cannot be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Between two notices about dropped lines.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// A queue of `log.queue_lines` holds at most this many bytes per line; most lines have 300.
const QUEUED_BYTES_PER_LINE: usize = LANE_LINE_BYTES as usize;

/// What a buffer keeps between two batches.
const BUFFER_BYTES_KEPT: usize = 256 * 1024;

/// Formatting writes and no more; the standard 2 MiB of stack are addresses for nothing.
const STACK_BYTES: usize = 256 * 1024;

/// A worker's end of the log. A clone is for another worker and has a buffer of its own.
#[derive(Debug)]
pub(crate) struct AccessLog {
    lane: Arc<Lane>,
    look: Arc<Look>,
    /// Which exchanges have a line; `None` is all.
    when: Option<AccessWhen>,
    /// Exchanges that asked for one.
    asked: AtomicU64,
    line_count_max: usize,
    writer: Arc<Writer>,
}

/// The lines of one worker. The writer takes one buffer at a time, so the other one is free.
#[derive(Debug, Default)]
struct Lane {
    buffers: [Mutex<Lines>; 2],
    /// The one that has the last line. Only the worker reads and writes it.
    current: AtomicUsize,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    count: usize,
}

/// The writer thread as the workers know it. Dropping the last reference ends the thread.
#[derive(Debug)]
struct Writer {
    queue: Arc<Queue>,
    thread: Thread,
    ended: Mutex<Receiver<()>>,
}

/// What workers and the writer share.
#[derive(Debug, Default)]
struct Queue {
    lanes: Mutex<Vec<Arc<Lane>>>,
    /// Set by the worker that wakes the writer, cleared by the writer before it collects.
    is_awake: AtomicBool,
    is_ending: AtomicBool,
    dropped: AtomicU64,
    /// What all buffers occupy, filled or not.
    bytes: AtomicU64,
}

impl AccessLog {
    /// `None` when `log.access` is off.
    pub(crate) fn start(config: &LogConfig) -> io::Result<Option<Self>> {
        if !config.access {
            return Ok(None);
        }
        let output = Output::open(config.access_target())?;
        let when = config.access_when.clone();
        Self::start_with(output, (Look::new(config), when), config.queue_lines).map(Some)
    }

    fn start_with(
        output: Output,
        (look, when): (Look, Option<AccessWhen>),
        line_count_max: usize,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let (ending, ended) = channel();
        let collected = queue.clone();
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || write_until_end(&collected, &output, &ending))?
            .thread()
            .clone();
        let lane = queue.add_lane();
        let writer = Arc::new(Writer { queue, thread, ended: Mutex::new(ended) });
        let look = Arc::new(look);
        Ok(Self { lane, look, when, asked: AtomicU64::new(0), line_count_max, writer })
    }

    /// What its lines quote.
    pub(crate) fn look(&self) -> &Look {
        &self.look
    }

    /// Queues one line, if `when` or, without one, the log's own condition wants it. Never waits.
    pub(crate) fn record(&self, record: &Record<'_>, when: Option<&AccessWhen>) {
        if let Some(when) = when.or(self.when.as_ref())
            && !when.holds(&record.facts(), scattered(self.asked.fetch_add(1, Ordering::Relaxed)))
        {
            return;
        }
        let queue = &self.writer.queue;
        let Some(mut lines) = self.lane.free() else {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let bytes_max = self.line_count_max.saturating_mul(QUEUED_BYTES_PER_LINE);
        if lines.count >= self.line_count_max || lines.bytes.len() >= bytes_max {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            queue.grew(lines.make_room(bytes_max));
            put_line(&mut lines.bytes, &self.look, record);
            lines.count += 1;
        }
        // The order matters: a writer that missed this line held the lock before us, and had
        // cleared the flag before that.
        drop(lines);
        if !queue.is_awake.load(Ordering::Acquire) && !queue.is_awake.swap(true, Ordering::AcqRel) {
            self.writer.thread.unpark();
        }
    }

    /// Writes what is queued and ends the log; for the end of the process, where not every handle
    /// is dropped.
    pub(crate) fn finish(&self) {
        self.writer.end();
    }

    /// Lines that could not be queued or written, of all workers.
    pub(crate) fn dropped_lines(&self) -> u64 {
        self.writer.queue.dropped.load(Ordering::Relaxed)
    }

    /// What the buffers of all workers and of the writer occupy.
    pub(crate) fn queue_bytes(&self) -> u64 {
        self.writer.queue.bytes.load(Ordering::Relaxed)
    }
}

impl Clone for AccessLog {
    fn clone(&self) -> Self {
        Self {
            lane: self.writer.queue.add_lane(),
            look: self.look.clone(),
            when: self.when.clone(),
            asked: AtomicU64::new(0),
            line_count_max: self.line_count_max,
            writer: self.writer.clone(),
        }
    }
}

impl Lane {
    /// The buffer for the next line. It is the one with the line before, unless the writer is about
    /// to take that one's lines and so to write them first: what the writer has not taken yet lies
    /// in one buffer, and lines stay in order however late a worker comes to the other one.
    fn free(&self) -> Option<MutexGuard<'_, Lines>> {
        let current = self.current.load(Ordering::Relaxed);
        // The writer may go to the other buffer while the worker goes the same way, but then this
        // one is free: it does not come back for a while.
        [current, 1 - current, current, 1 - current].into_iter().find_map(|at| {
            let lines = match self.buffers[at].try_lock() {
                Ok(lines) => lines,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return None,
            };
            self.current.store(at, Ordering::Relaxed);
            Some(lines)
        })
    }
}

impl Queue {
    fn add_lane(&self) -> Arc<Lane> {
        let lane = Arc::new(Lane::default());
        lock(&self.lanes).push(lane.clone());
        lane
    }

    /// Writes what every lane holds. A lane whose worker has gone is emptied and forgotten.
    fn collect(&self, output: &Output, spare: &mut Lines) -> io::Result<()> {
        let mut result = Ok(());
        lock(&self.lanes).retain(|lane| {
            let is_in_use = Arc::strong_count(lane) > 1;
            for lines in &lane.buffers {
                if let Err(error) = self.take(lines, output, spare) {
                    result = Err(error);
                }
            }
            if !is_in_use {
                self.shrank(lane.buffers.iter().map(|lines| lock(lines).bytes.capacity()).sum());
            }
            is_in_use
        });
        result
    }

    /// Writes what one buffer holds.
    fn take(&self, lines: &Mutex<Lines>, output: &Output, spare: &mut Lines) -> io::Result<()> {
        mem::swap(&mut *lock(lines), spare);
        let mut written = Ok(());
        if spare.count > 0 {
            written = output.write_lines(&spare.bytes);
            if written.is_err() {
                self.dropped.fetch_add(spare.count as u64, Ordering::Relaxed);
            }
        }
        self.shrank(spare.clear());
        written
    }

    fn grew(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn shrank(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl Lines {
    /// Makes room for any line; by how much the buffer has grown. Left to itself it would double,
    /// up to twice of what the queue may hold.
    fn make_room(&mut self, bytes_max: usize) -> usize {
        let before = self.bytes.capacity();
        let needed = self.bytes.len() + LINE_BYTES_MAX;
        if before < needed {
            let wanted = needed.max(before * 2).min(bytes_max.saturating_add(LINE_BYTES_MAX));
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.capacity() - before
    }

    /// Forgets the lines; by how much the buffer has shrunk.
    fn clear(&mut self) -> usize {
        let before = self.bytes.capacity();
        self.bytes.clear();
        self.bytes.shrink_to(BUFFER_BYTES_KEPT);
        self.count = 0;
        before - self.bytes.capacity()
    }
}

impl Writer {
    /// Ends the thread once everything queued has been written.
    fn end(&self) {
        self.queue.is_ending.store(true, Ordering::Release);
        self.queue.is_awake.store(true, Ordering::Release);
        self.thread.unpark();
        // An error means that the thread has ended, which is what is waited for.
        let _ = lock(&self.ended).recv_timeout(FLUSH_MAX);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The writer thread. `ending` is only there to be dropped with it.
fn write_until_end(queue: &Queue, output: &Output, _ending: &Sender<()>) {
    let mut spare = Lines::default();
    let mut notices = Notices::default();
    loop {
        while !queue.is_awake.load(Ordering::Acquire) {
            thread::park();
        }
        if !queue.is_ending.load(Ordering::Acquire) {
            thread::park_timeout(GATHER);
        }
        // A swap, so that the thread that set the flag is seen to have set `is_ending` as well.
        queue.is_awake.swap(false, Ordering::AcqRel);
        let is_ending = queue.is_ending.load(Ordering::Acquire);
        let written = queue.collect(output, &mut spare);
        notices.report(queue.dropped.load(Ordering::Relaxed), written);
        if is_ending {
            return;
        }
    }
}

/// Says that lines are lost, without becoming a flood itself.
#[derive(Debug, Default)]
struct Notices {
    dropped_before: u64,
    last: Option<Instant>,
}

impl Notices {
    fn report(&mut self, dropped: u64, written: io::Result<()>) {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= NOTICE_INTERVAL);
        if dropped == self.dropped_before || !is_due {
            return;
        }
        let lines = dropped - self.dropped_before;
        match written {
            Ok(()) => tracing::warn!(lines, "access log lines dropped: its output is too slow"),
            Err(error) => tracing::warn!(lines, %error, "access log lines dropped"),
        }
        self.dropped_before = dropped;
        self.last = Some(Instant::now());
    }
}

/// A number without a pattern, by which a sample is drawn: exchanges of two routes that take turns
/// would else be all of one route (splitmix64).
fn scattered(number: u64) -> u64 {
    let mut number = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A panic of another thread leaves lines that are whole or missing, never half.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use std::io::Write;

    use super::*;
    use crate::observe::access_line::{self, tests::look};

    /// An output that hands over what it is given, each write in one piece.
    struct Piece(mpsc::Sender<Vec<u8>>);

    impl Write for Piece {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Holds the writer until the test lets go of the other end.
    struct Stuck(Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record<'a>() -> Record<'a> {
        access_line::tests::record()
    }

    #[test]
    fn the_last_handle_to_go_leaves_everything_written_in_order() {
        let (output, written) = mpsc::channel();
        let first = AccessLog::start_with(
            Output::to(Box::new(Piece(output))),
            (look("text", &[]), None),
            100_000,
        )
        .unwrap();
        let workers: Vec<_> = (0..3_u16)
            .map(|worker| {
                let log = first.clone();
                thread::spawn(move || {
                    for turn in 0..5_000 {
                        log.record(&Record { status: worker, bytes_in: turn, ..record() }, None);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(first.dropped_lines(), 0);
        drop(first);
        let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
        let mut next = [0_u64; 3];
        for line in text.lines() {
            let field = |key: &str| {
                let value = line.split(' ').find_map(|field| field.strip_prefix(key)).unwrap();
                value.parse::<u64>().unwrap()
            };
            let worker = field("status=") as usize;
            assert_eq!(field("bytes_in="), next[worker]);
            next[worker] += 1;
        }
        assert_eq!(next, [5_000; 3]);
    }

    /// A log without a thread that writes.
    fn unwritten() -> AccessLog {
        let queue = Arc::new(Queue::default());
        let (_, ended) = channel();
        let lane = queue.add_lane();
        AccessLog {
            lane,
            look: Arc::new(look("{bytes_in}", &[])),
            when: None,
            asked: AtomicU64::new(0),
            line_count_max: 100,
            writer: Arc::new(Writer { queue, thread: thread::current(), ended: Mutex::new(ended) }),
        }
    }

    #[test]
    fn lines_stay_in_order_whichever_buffer_the_writer_holds_when_a_line_comes() {
        // Bit by bit: which buffer the writer holds while one line is queued, if it holds one, and
        // whether it takes what that buffer has, as it always does, or has done so before.
        for choices in 0_u32..3_u32.pow(6) {
            let log = unwritten();
            let (output, written) = mpsc::channel();
            let output = Output::to(Box::new(Piece(output)));
            let (mut spare, mut next_round) = (Lines::default(), 0);
            for turn in 0..6 {
                let line = |turn: u64| log.record(&Record { bytes_in: turn, ..record() }, None);
                let held = (choices / 3_u32.pow(turn) % 3) as usize;
                if held == 2 {
                    line(turn.into());
                    continue;
                }
                // The writer goes from the first buffer to the second, and so on.
                while next_round % 2 != held {
                    let lines = &log.lane.buffers[next_round % 2];
                    log.writer.queue.take(lines, &output, &mut spare).unwrap();
                    next_round += 1;
                }
                let mut lines = lock(&log.lane.buffers[held]);
                line(turn.into());
                mem::swap(&mut *lines, &mut spare);
                drop(lines);
                output.write_lines(&spare.bytes).unwrap();
                spare.clear();
                next_round += 1;
            }
            log.writer.queue.collect(&output, &mut spare).unwrap();
            log.writer.queue.collect(&output, &mut spare).unwrap();
            drop(output);
            let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
            assert_eq!(text, "0\n1\n2\n3\n4\n5\n", "{choices}");
        }
    }

    #[test]
    fn lines_stay_in_order_when_a_worker_comes_late_to_the_second_buffer() {
        let log = unwritten();
        let line = |turn| log.record(&Record { bytes_in: turn, ..record() }, None);
        {
            // The worker finds the first one held, and gets to the second one only when the writer
            // has passed that one too.
            let _held = lock(&log.lane.buffers[0]);
            line(1);
        }
        line(2);
        let (output, written) = mpsc::channel();
        let output = Output::to(Box::new(Piece(output)));
        log.writer.queue.collect(&output, &mut Lines::default()).unwrap();
        drop(output);
        let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
        assert_eq!(text, "1\n2\n");
    }

    #[test]
    fn a_sample_of_exchanges_that_take_turns_has_some_of_each() {
        let mut sampled = [0; 2];
        for number in 0..2000 {
            if scattered(number).is_multiple_of(2) {
                sampled[number as usize % 2] += 1;
            }
        }
        assert!(sampled.iter().all(|count| (400..600).contains(count)), "{sampled:?}");
    }

    #[test]
    fn a_line_is_written_without_another_one_behind_it() {
        let (output, written) = mpsc::channel();
        let log = AccessLog::start_with(
            Output::to(Box::new(Piece(output))),
            (look("text", &[]), None),
            10,
        )
        .unwrap();
        for _ in 0..3 {
            log.record(&record(), None);
            let line = written.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), access_line::tests::text(&record()));
        }
    }

    #[test]
    fn an_output_that_stands_still_costs_lines_and_no_time() {
        let (release, held) = channel::<()>();
        let log =
            AccessLog::start_with(Output::to(Box::new(Stuck(held))), (look("text", &[]), None), 10)
                .unwrap();
        for _ in 0..1_000 {
            log.record(&record(), None);
        }
        // At most what the writer took once, and what the lane's two buffers hold.
        assert!(log.dropped_lines() >= 970, "{}", log.dropped_lines());
        drop(release);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = AccessLog::start_with(Output::to(Box::new(Full)), (look("text", &[]), None), 10)
            .unwrap();
        let clone = log.clone();
        clone.record(&record(), None);
        drop(clone);
        let began = Instant::now();
        while log.dropped_lines() != 1 {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_buffers_are_counted_and_stay_within_the_queue() {
        const LINES: usize = 200;
        let (release, held) = channel::<()>();
        let log = AccessLog::start_with(
            Output::to(Box::new(Stuck(held))),
            (look("json", &[]), None),
            LINES,
        );
        let log = log.unwrap();
        let worker = log.clone();
        // The longest lines that there can be.
        let escaped = [1; 5_000];
        let longest = Record { method: &escaped, host: &escaped, target: &escaped, ..record() };
        for round in 0..1_000 {
            worker.record(&if round % 2 == 0 { longest } else { record() }, None);
            let bytes_max = 3 * (LINES * QUEUED_BYTES_PER_LINE + LINE_BYTES_MAX);
            assert!((1..=bytes_max as u64).contains(&log.queue_bytes()), "{}", log.queue_bytes());
        }
        drop((worker, release));
        let began = Instant::now();
        // The lane goes with its worker and its buffers with it: what is left is in the other lane,
        // and what a batch has left with the writer.
        let one_max = (LINES * QUEUED_BYTES_PER_LINE + LINE_BYTES_MAX) as u64;
        let in_lane = || log.lane.buffers.iter().map(|lines| lock(lines).bytes.capacity()).sum();
        let is_left = || {
            let in_lane: usize = in_lane();
            lock(&log.writer.queue.lanes).len() > 1 || log.queue_bytes() > in_lane as u64 + one_max
        };
        while is_left() {
            assert!(began.elapsed() < Duration::from_secs(10), "{}", log.queue_bytes());
            log.record(&record(), None);
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_log_is_off_unless_asked_for() {
        assert!(AccessLog::start(&LogConfig { access: false, ..log_config() }).unwrap().is_none());
    }

    fn log_config() -> LogConfig {
        crate::config::Config::default().log
    }
}
