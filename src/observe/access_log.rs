//! The access log: one record per exchange.
//!
//! In: a `Record` from a worker. Out: a line of text or JSON on standard output or in a file. A
//! worker formats into a buffer of its own that a writer thread empties every few milliseconds;
//! a record costs no allocation, no system call and no wait. When the writer falls behind by
//! `log.queue_lines`, further lines are dropped and counted. Bytes from the network are escaped,
//! so that no request can forge a line or move a terminal's cursor.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::address::PeerAddress;
use crate::config::{LogConfig, LogFormat};
use crate::memory::plan::LANE_LINE_BYTES;
pub(crate) use crate::observe::access_record::{Phases, Record};
use crate::observe::date;
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

/// Longer values from the network are cut.
const VALUE_BYTES_MAX: usize = 2048;

/// Three values, each byte of which becomes six at most (`\u001f`), and everything else.
const LINE_BYTES_MAX: usize = 3 * 6 * VALUE_BYTES_MAX + 2048;

/// Formatting writes and no more; the standard 2 MiB of stack are addresses for nothing.
const STACK_BYTES: usize = 256 * 1024;

/// A worker's end of the log. A clone is for another worker and has a buffer of its own.
#[derive(Debug)]
pub(crate) struct AccessLog {
    lane: Arc<Lane>,
    format: LogFormat,
    line_count_max: usize,
    writer: Arc<Writer>,
}

/// The lines of one worker. The writer takes one buffer at a time, so the other one is free.
#[derive(Debug, Default)]
struct Lane([Mutex<Lines>; 2]);

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
        Self::start_with(output, config.access_format, config.queue_lines).map(Some)
    }

    fn start_with(output: Output, format: LogFormat, line_count_max: usize) -> io::Result<Self> {
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
        Ok(Self { lane, format, line_count_max, writer })
    }

    /// Queues one line. Never waits.
    pub(crate) fn record(&self, record: &Record<'_>) {
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
            put_line(&mut lines.bytes, self.format, record);
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
            format: self.format,
            line_count_max: self.line_count_max,
            writer: self.writer.clone(),
        }
    }
}

impl Lane {
    /// A worker is the only one to fill its lane and the writer holds one buffer at most. It may go
    /// from the first to the second while a worker goes the same way, but then the first is free:
    /// it does not come back for a while.
    fn free(&self) -> Option<MutexGuard<'_, Lines>> {
        let [first, second] = &self.0;
        [first, second, first, second].into_iter().find_map(|lines| match lines.try_lock() {
            Ok(lines) => Some(lines),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
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
            for lines in &lane.0 {
                mem::swap(&mut *lock(lines), spare);
                if spare.count > 0 {
                    let written = output.write_lines(&spare.bytes);
                    if written.is_err() {
                        self.dropped.fetch_add(spare.count as u64, Ordering::Relaxed);
                        result = written;
                    }
                }
                self.shrank(spare.clear());
            }
            if !is_in_use {
                self.shrank(lane.0.iter().map(|lines| lock(lines).bytes.capacity()).sum());
            }
            is_in_use
        });
        result
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

/// A panic of another thread leaves lines that are whole or missing, never half.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put_line(out: &mut Vec<u8>, format: LogFormat, record: &Record<'_>) {
    let Phases { head_us, pool_us, connect_us, first_byte_us, total_us } = record.phases;
    let mut line = Line { out, format, is_begun: false };
    line.text("time", Some(Rfc3339(record.time)));
    line.text("client", Some(Known(record.client)));
    if let Some(peer) = record.peer {
        line.text("peer", Some(peer));
    }
    if let Some(tls) = record.tls {
        line.text("tls", Some(tls.version));
        line.value("sni", tls.sni.as_bytes());
    }
    line.value("method", record.method);
    line.value("host", record.host);
    line.value("target", record.target);
    line.figure("status", record.status);
    line.figure("bytes_in", record.bytes_in);
    line.figure("bytes_out", record.bytes_out);
    line.value("upstream", record.upstream.as_bytes());
    line.text("origin", record.origin);
    line.figure("reused", record.is_reused);
    if let Some(hedged) = record.hedged {
        line.text("hedged", Some(hedged));
    }
    line.figure("head_us", head_us);
    line.figure("pool_us", pool_us);
    line.figure("connect_us", connect_us);
    line.figure("first_byte_us", first_byte_us);
    line.figure("total_us", total_us);
    line.value("error", record.error.unwrap_or_default().as_bytes());
    if let Some(details) = record.details {
        line.value("details", details.as_bytes());
    }
    out.extend_from_slice(match format {
        LogFormat::Text => b"\n",
        LogFormat::Json => b"}\n",
    });
}

/// A line that is being written, in either format.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
    is_begun: bool,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let (before, after): (&[u8], &[u8]) = match (self.format, is_first) {
            (LogFormat::Text, true) => (b"", b"="),
            (LogFormat::Text, false) => (b" ", b"="),
            (LogFormat::Json, true) => (b"{\"", b"\":"),
            (LogFormat::Json, false) => (b",\"", b"\":"),
        };
        for part in [before, key.as_bytes(), after] {
            self.out.extend_from_slice(part);
        }
    }

    /// What may have come from the network.
    fn value(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        match self.format {
            LogFormat::Text => put_text_value(self.out, value),
            LogFormat::Json => put_json_value(self.out, value),
        }
    }

    /// A number or a truth value, which are the same in both formats.
    fn figure(&mut self, key: &str, value: impl Display) {
        self.key(key);
        put(self.out, format_args!("{value}"));
    }

    /// Text of our own, in which nothing is to be escaped.
    fn text(&mut self, key: &str, value: Option<impl Display>) {
        self.key(key);
        match (self.format, value) {
            (LogFormat::Text, Some(value)) => put(self.out, format_args!("{value}")),
            (LogFormat::Text, None) => self.out.push(b'-'),
            (LogFormat::Json, Some(value)) => put(self.out, format_args!("\"{value}\"")),
            (LogFormat::Json, None) => self.out.extend_from_slice(b"null"),
        }
    }
}

/// With the port, where that is known.
struct Known(PeerAddress);

impl Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PeerAddress::Ip(known) if known.port() == 0 => known.ip().fmt(f),
            address => address.fmt(f),
        }
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec does not fail.
    let _ = out.write_fmt(text);
}

/// As it is when that cannot be misread, else in quotes with `\xNN` for what is not printable
/// ASCII. An empty value is `-`.
fn put_text_value(out: &mut Vec<u8>, value: &[u8]) {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\=".contains(byte);
    let (value, rest) = value.split_at(value.len().min(VALUE_BYTES_MAX));
    if value.is_empty() {
        return out.push(b'-');
    }
    if rest.is_empty() && value != b"-" && value.iter().all(is_plain) {
        return out.extend_from_slice(value);
    }
    out.push(b'"');
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => put(out, format_args!("\\x{byte:02x}")),
        }
    }
    if !rest.is_empty() {
        out.extend_from_slice(b"...");
    }
    out.push(b'"');
}

/// A JSON string, or `null` for an empty value. Bytes that are not UTF-8 become U+FFFD, because
/// JSON has no other place for them.
fn put_json_value(out: &mut Vec<u8>, value: &[u8]) {
    let (value, rest) = value.split_at(value.len().min(VALUE_BYTES_MAX));
    if value.is_empty() {
        return out.extend_from_slice(b"null");
    }
    out.push(b'"');
    for chunk in value.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                ..b' ' | 0x7f => put(out, format_args!("\\u{byte:04x}")),
                _ => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    if !rest.is_empty() {
        out.extend_from_slice(b"...");
    }
    out.push(b'"');
}

/// In UTC with milliseconds.
struct Rfc3339(SystemTime);

impl Display for Rfc3339 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = date::civil(seconds / 86_400);
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            since.subsec_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::tls::facts::TlsFacts;

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
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_767_323_045_678),
            client: PeerAddress::Ip("192.0.2.1:5555".parse().unwrap()),
            peer: None,
            tls: None,
            method: b"GET",
            host: b"example.org:8000",
            target: b"/a",
            status: 200,
            bytes_in: 78,
            bytes_out: 1234,
            upstream: "demo",
            origin: Some("[::1]:8080".parse().unwrap()),
            is_reused: true,
            hedged: None,
            phases: Phases { head_us: 1, pool_us: 2, connect_us: 3, first_byte_us: 4, total_us: 5 },
            error: None,
            details: None,
        }
    }

    fn text(record: &Record<'_>) -> String {
        let mut line = Vec::new();
        put_line(&mut line, LogFormat::Text, record);
        String::from_utf8(line).unwrap()
    }

    fn json(record: &Record<'_>) -> serde_json::Value {
        let mut line = Vec::new();
        put_line(&mut line, LogFormat::Json, record);
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_text_line_has_every_field() {
        assert_eq!(
            text(&record()),
            "time=2026-01-02T03:04:05.678Z client=192.0.2.1:5555 method=GET \
             host=example.org:8000 target=/a status=200 bytes_in=78 bytes_out=1234 \
             upstream=demo origin=[::1]:8080 reused=true head_us=1 pool_us=2 connect_us=3 \
             first_byte_us=4 total_us=5 error=-\n"
        );
    }

    #[test]
    fn a_json_line_has_every_field() {
        assert_eq!(
            json(&Record { origin: None, error: Some("timeout"), ..record() }),
            serde_json::json!({
                "time": "2026-01-02T03:04:05.678Z", "client": "192.0.2.1:5555",
                "method": "GET", "host": "example.org:8000", "target": "/a", "status": 200,
                "bytes_in": 78, "bytes_out": 1234, "upstream": "demo", "origin": null,
                "reused": true, "head_us": 1, "pool_us": 2, "connect_us": 3,
                "first_byte_us": 4, "total_us": 5, "error": "timeout",
            })
        );
    }

    #[test]
    fn a_line_of_a_connection_with_tls_says_which_and_for_what_name() {
        let mut facts = TlsFacts::default();
        (facts.version, facts.sni) = ("TLSv1.3", "a.test".to_owned());
        let line = text(&Record { tls: Some(&facts), ..record() });
        assert!(line.contains(":5555 tls=TLSv1.3 sni=a.test method=GET"), "{line}");
        facts.sni.clear();
        let line = json(&Record { tls: Some(&facts), ..record() });
        assert_eq!(line["tls"], "TLSv1.3");
        assert_eq!(line["sni"], serde_json::Value::Null);
    }

    #[test]
    fn a_text_value_cannot_forge_a_field_or_a_line() {
        let table: [(&[u8], &str); 9] = [
            (b"/x?y=1", "\"/x?y=1\""),
            (b"", "-"),
            (b"-", "\"-\""),
            (b"/a b", "\"/a b\""),
            (b"/\" status=200", "\"/\\\" status=200\""),
            (b"/\r\ntime=0", "\"/\\x0d\\x0atime=0\""),
            (b"/\x1b[2J\x9b\x7f", "\"/\\x1b[2J\\x9b\\x7f\""),
            (b"/\\x0a", "\"/\\\\x0a\""),
            ("/é".as_bytes(), "\"/\\xc3\\xa9\""),
        ];
        for (value, expected) in table {
            let mut shown = Vec::new();
            put_text_value(&mut shown, value);
            assert_eq!(String::from_utf8(shown).unwrap(), expected);
        }
    }

    #[test]
    fn every_byte_makes_valid_json() {
        let all: Vec<u8> = (0..=255).collect();
        let value = json(&Record { target: &all, host: b"", ..record() });
        assert!(value["target"].as_str().unwrap().starts_with("\0\u{1}"));
        assert!(value["target"].as_str().unwrap().ends_with('\u{fffd}'));
        assert_eq!(value["host"], serde_json::Value::Null);
        assert_eq!(json(&Record { target: "/é\"\\".as_bytes(), ..record() })["target"], "/é\"\\");
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = vec![b'a'; VALUE_BYTES_MAX + 1];
        assert!(text(&Record { target: &long, ..record() }).contains("aaa...\" status="));
        let value = json(&Record { target: &long, ..record() });
        assert_eq!(value["target"].as_str().unwrap().len(), VALUE_BYTES_MAX + 3);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let table = [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_088, (2024, 12, 31)),
            (47_541, (2100, 3, 1)),
        ];
        for (days, date) in table {
            assert_eq!(date::civil(days), date, "{days}");
        }
    }

    #[test]
    fn the_last_handle_to_go_leaves_everything_written_in_order() {
        let (output, written) = mpsc::channel();
        let first =
            AccessLog::start_with(Output::to(Box::new(Piece(output))), LogFormat::Text, 100_000)
                .unwrap();
        let workers: Vec<_> = (0..3_u16)
            .map(|worker| {
                let log = first.clone();
                thread::spawn(move || {
                    for turn in 0..5_000 {
                        log.record(&Record { status: worker, bytes_in: turn, ..record() });
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

    #[test]
    fn a_line_is_written_without_another_one_behind_it() {
        let (output, written) = mpsc::channel();
        let log = AccessLog::start_with(Output::to(Box::new(Piece(output))), LogFormat::Text, 10)
            .unwrap();
        for _ in 0..3 {
            log.record(&record());
            let line = written.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), text(&record()));
        }
    }

    #[test]
    fn an_output_that_stands_still_costs_lines_and_no_time() {
        let (release, held) = channel::<()>();
        let log =
            AccessLog::start_with(Output::to(Box::new(Stuck(held))), LogFormat::Text, 10).unwrap();
        for _ in 0..1_000 {
            log.record(&record());
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
        let log = AccessLog::start_with(Output::to(Box::new(Full)), LogFormat::Text, 10).unwrap();
        let clone = log.clone();
        clone.record(&record());
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
        let log = AccessLog::start_with(Output::to(Box::new(Stuck(held))), LogFormat::Json, LINES);
        let log = log.unwrap();
        let worker = log.clone();
        // The longest lines that there can be.
        let escaped = [1; 5_000];
        let longest = Record { method: &escaped, host: &escaped, target: &escaped, ..record() };
        for round in 0..1_000 {
            worker.record(&if round % 2 == 0 { longest } else { record() });
            let bytes_max = 3 * (LINES * QUEUED_BYTES_PER_LINE + LINE_BYTES_MAX);
            assert!((1..=bytes_max as u64).contains(&log.queue_bytes()), "{}", log.queue_bytes());
        }
        drop((worker, release));
        let began = Instant::now();
        // The lane goes with its worker, and what a batch has left with it.
        while log.queue_bytes() > BUFFER_BYTES_KEPT as u64 {
            assert!(began.elapsed() < Duration::from_secs(10), "{}", log.queue_bytes());
            log.record(&record());
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
