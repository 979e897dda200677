//! Where lines end up: standard output or a file, each opened once however many logs go there.
//!
//! In: whole lines, as many at once as there are. Out: the same in the file, one after the other: a
//! line is never split by a line of another thread, nor continued by one after a write that
//! failed. A file can be opened anew under its name, once `logrotate` has given the old one
//! another. Only the threads that write logs come here, and the one that handles signals.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::config::LogTarget;

/// A destination of lines. Clones write to the same place in turns.
#[derive(Clone)]
pub(crate) struct Output(Arc<Sink>);

struct Sink {
    target: LogTarget,
    stream: Mutex<Stream>,
    /// Lines of events that could not be written.
    lost_lines: AtomicU64,
}

struct Stream {
    writer: Box<dyn Write + Send>,
    /// The last write ended inside a line.
    is_torn: bool,
}

/// What is open. Two logs with one destination share it, and with it the lock.
static OPEN: Mutex<Vec<Weak<Sink>>> = Mutex::new(Vec::new());

/// A log file that could not be opened anew. Its lines go on to where they went.
#[derive(Debug)]
pub(crate) struct ReopenError {
    path: PathBuf,
    error: io::Error,
}

/// Opens every log file anew under its name, as SIGUSR1 asks for. Lines that were written before
/// are in the old file, lines that are written later in the new one, and no line is lost.
pub(crate) fn reopen() -> Vec<ReopenError> {
    let open: Vec<_> = lock(&OPEN).iter().filter_map(Weak::upgrade).collect();
    let mut errors = Vec::new();
    for sink in open {
        let LogTarget::File(path) = &sink.target else { continue };
        match append_to(path) {
            Ok(file) => sink.replace(Box::new(file)),
            Err(error) => errors.push(ReopenError { path: path.clone(), error }),
        }
    }
    errors
}

impl Output {
    /// Opens a destination for appending; a file is created if it is not there.
    pub(crate) fn open(target: &LogTarget) -> io::Result<Self> {
        let mut open = lock(&OPEN);
        open.retain(|sink| sink.strong_count() > 0);
        let is_same = |sink: &Arc<Sink>| sink.target == *target;
        if let Some(sink) = open.iter().filter_map(Weak::upgrade).find(is_same) {
            return Ok(Self(sink));
        }
        let writer: Box<dyn Write + Send> = match target {
            LogTarget::StandardOutput => Box::new(io::stdout()),
            LogTarget::File(path) => Box::new(append_to(path)?),
        };
        let sink = Sink::new(target.clone(), writer);
        open.push(Arc::downgrade(&sink));
        Ok(Self(sink))
    }

    /// Not shared, for tests.
    #[cfg(test)]
    pub(crate) fn to(writer: Box<dyn Write + Send>) -> Self {
        Self(Sink::new(LogTarget::StandardOutput, writer))
    }

    /// Writes whole lines.
    pub(crate) fn write_lines(&self, lines: &[u8]) -> io::Result<()> {
        lock(&self.0.stream).write_lines(lines)
    }

    /// Lines of events that could not be written.
    pub(crate) fn lost_lines(&self) -> u64 {
        self.0.lost_lines.load(Ordering::Relaxed)
    }
}

/// The event log's writer thread knows no other way to write. It forgets about errors.
impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.write_lines(line);
        if written.is_err() {
            self.0.lost_lines.fetch_add(1, Ordering::Relaxed);
        }
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn new(target: LogTarget, writer: Box<dyn Write + Send>) -> Arc<Self> {
        let stream = Mutex::new(Stream { writer, is_torn: false });
        Arc::new(Self { target, stream, lost_lines: AtomicU64::new(0) })
    }

    fn replace(&self, writer: Box<dyn Write + Send>) {
        let stream = Stream { writer, is_torn: false };
        // The old file is closed after the lock has been given back: that may take time.
        let old = mem::replace(&mut *lock(&self.stream), stream);
        drop(old);
    }
}

impl Stream {
    fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        if mem::take(&mut self.is_torn)
            && let Err(error) = self.writer.write_all(b"\n")
        {
            self.is_torn = true;
            return Err(error);
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(0) => return self.tear(lines, rest, io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.tear(lines, rest, error),
            }
        }
        self.writer.flush()
    }

    fn tear(&mut self, lines: &[u8], rest: &[u8], error: io::Error) -> io::Result<()> {
        let written = &lines[..lines.len() - rest.len()];
        self.is_torn = !written.is_empty() && !written.ends_with(b"\n");
        Err(error)
    }
}

/// O_APPEND: what other processes append to the file is not overwritten, nor split.
fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A panic of another thread leaves lines that are whole or missing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Output").field(&self.0.target).finish()
    }
}

impl fmt::Display for ReopenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, error } = self;
        let path = path.display();
        write!(out, "the log file {path} cannot be opened anew and is written on: {error}")
    }
}

impl std::error::Error for ReopenError {}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::fs;
    use std::thread;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ringway-output-{name}-{}", std::process::id()))
    }

    /// Opens all files of this process anew, those of other tests included; the errors about one.
    fn reopened(path: &Path) -> usize {
        let texts = reopen().iter().map(ToString::to_string).collect::<Vec<_>>();
        texts.iter().filter(|text| text.contains(&*path.to_string_lossy())).count()
    }

    #[test]
    fn lines_of_several_writers_to_one_file_stay_whole() {
        let path = path("shared");
        let target = LogTarget::File(path.clone());
        thread::scope(|scope| {
            for writer in 0..4_u8 {
                // Opened by each: that it is the same file is found out here.
                let output = Output::open(&target).unwrap();
                scope.spawn(move || {
                    let line = [vec![b'a' + writer; 5_000], vec![b'\n']].concat();
                    for _ in 0..200 {
                        output.write_lines(&line).unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().count(), 800);
        for line in text.lines() {
            assert!(line.len() == 5_000 && line.bytes().all(|byte| byte == line.as_bytes()[0]));
        }
    }

    #[test]
    fn a_renamed_file_is_left_for_a_new_one_without_losing_a_line() {
        const LINES: usize = 20_000;
        let (now, before) = (path("now"), path("before"));
        let output = Output::open(&LogTarget::File(now.clone())).unwrap();
        let writer = thread::spawn(move || {
            for number in 0..LINES {
                output.write_lines(format!("{number}\n").as_bytes()).unwrap();
            }
        });
        let mut old = String::new();
        while !writer.is_finished() {
            if fs::rename(&now, &before).is_ok() {
                assert_eq!(reopened(&now), 0);
                old += &fs::read_to_string(&before).unwrap();
            }
        }
        writer.join().unwrap();
        let text = old + &fs::read_to_string(&now).unwrap_or_default();
        for file in [&now, &before] {
            let _ = fs::remove_file(file);
        }
        let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..LINES).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_is_written_on() {
        let folder = path("folder");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("log");
        let output = Output::open(&LogTarget::File(file.clone())).unwrap();
        // Even root cannot create a file in a folder that has gone.
        let moved = path("moved");
        fs::rename(&folder, &moved).unwrap();
        assert_eq!(reopened(&file), 1);
        output.write_lines(b"still here\n").unwrap();
        assert_eq!(fs::read_to_string(moved.join("log")).unwrap(), "still here\n");
        fs::remove_dir_all(&moved).unwrap();
    }

    /// Writes as much as it is told to, then fails.
    struct Failing(VecDeque<usize>, Arc<Mutex<Vec<u8>>>);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.0.pop_front().unwrap_or(usize::MAX).min(bytes.len());
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.lock().unwrap().extend_from_slice(&bytes[..room]);
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_short_is_not_continued() {
        for (rooms, expected) in [
            (vec![5, 0], "one\nt\nthree\n"),
            (vec![2, 0], "on\nthree\n"),
            (vec![4, 4, 0], "one\ntwo\n"),
            (vec![0], "three\n"),
            (vec![5, 0, 0], "one\nt"),
            (vec![3, 3, 3], "one\ntwo\nthree\n"),
        ] {
            let written = Arc::default();
            let output = Output::to(Box::new(Failing(rooms.into(), Arc::clone(&written))));
            let mut events = output.clone();
            let results = [events.write(b"one\ntwo\n"), events.write(b"three\n")];
            let failed = results.iter().filter(|result| result.is_err()).count();
            assert_eq!(output.lost_lines(), failed as u64);
            let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            assert_eq!(text, expected);
        }
    }
}
