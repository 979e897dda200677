//! The event log: what happens to the process, as opposed to what happens to a request.
//!
//! In: tracing events from any thread. Out: lines of text or JSON on standard output or in a
//! file. A bounded queue and a thread of its own stand between: an event never waits for a disk
//! or a pipe, and what the queue cannot hold is dropped and counted. One line per exchange is
//! `access_log`'s part.

mod output;
mod queue;

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat, LogTarget};

pub(crate) use self::output::Output;
pub(crate) use self::output::reopen;
use self::queue::{Queue, Writing};

/// Why there is no event log.
#[derive(Debug)]
pub(crate) enum LoggingError {
    Unwritable { target: LogTarget, error: io::Error },
    NoThread(io::Error),
    AlreadyStarted,
}

/// Keeps the log's thread. Dropping it, at the very end of `main`, writes what is still queued.
#[derive(Debug)]
pub(crate) struct LogGuard {
    meter: LogMeter,
    _writing: Writing,
}

/// What of the event log can be measured, for the thread that reports it.
#[derive(Clone, Debug)]
pub struct LogMeter {
    queue: Queue,
    output: Output,
    queue_bytes: u64,
    level: LevelHandle,
}

/// The queue's places, which are there whether or not a line is in them: a `Vec` and a stamp each.
const PLACE_BYTES: usize = 32;

/// Makes the log the destination of every event of the process. Call it once.
pub(crate) fn start(config: &LogConfig) -> Result<LogGuard, LoggingError> {
    let output = Output::open(&config.target)
        .map_err(|error| LoggingError::Unwritable { target: config.target.clone(), error })?;
    let (queue, writing) =
        Queue::start(config.queue_lines, output.clone()).map_err(LoggingError::NoThread)?;
    let queue_bytes = (config.queue_lines * PLACE_BYTES) as u64;
    let is_terminal = config.target == LogTarget::StandardOutput && io::stdout().is_terminal();
    let (subscriber, level) = subscriber(config, queue.clone(), is_terminal);
    let meter = LogMeter { queue, output, queue_bytes, level };
    set_global_default(subscriber).map_err(|_| LoggingError::AlreadyStarted)?;
    Ok(LogGuard { meter, _writing: writing })
}

/// By which the level is changed.
type LevelHandle = reload::Handle<LevelFilter, Registry>;

fn subscriber<W>(
    config: &LogConfig,
    writer: W,
    is_coloured: bool,
) -> (Box<dyn Subscriber + Send + Sync>, LevelHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (level, handle) = reload::Layer::new(config.level);
    let lines = fmt::layer().with_target(false).with_ansi(is_coloured).with_writer(writer);
    let registry = tracing_subscriber::registry().with(level);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match config.format {
        LogFormat::Text => Box::new(registry.with(lines)),
        LogFormat::Json => Box::new(registry.with(lines.json().flatten_event(true))),
    };
    (subscriber, handle)
}

impl LogGuard {
    pub(crate) fn meter(&self) -> LogMeter {
        self.meter.clone()
    }
}

impl LogMeter {
    /// Lines that the queue had no room for, and lines that could not be written.
    pub fn dropped_lines(&self) -> u64 {
        self.queue.dropped_lines() + self.output.lost_lines()
    }

    /// The least that is logged.
    pub(crate) fn level(&self) -> LevelFilter {
        self.level.clone_current().unwrap_or(LevelFilter::OFF)
    }

    /// Changes it for all events to come.
    pub(crate) fn set_level(&self, level: LevelFilter) -> bool {
        self.level.reload(level).is_ok()
    }

    /// What the queue's places occupy; the lines that wait in them are few and not counted.
    pub fn queue_bytes(&self) -> u64 {
        self.queue_bytes
    }
}

impl std::error::Error for LoggingError {}

impl std::fmt::Display for LoggingError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unwritable { target: LogTarget::File(path), error } => {
                write!(out, "log.file: {} cannot be written: {error}", path.display())
            }
            Self::Unwritable { target: LogTarget::StandardOutput, error } => {
                write!(out, "standard output cannot be written: {error}")
            }
            Self::NoThread(error) => write!(out, "the log's thread cannot be started: {error}"),
            Self::AlreadyStarted => out.write_str("the event log was started twice"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;
    use crate::config::Config;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn captured(config: &LogConfig, events: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        with_default(subscriber(config, move || writer.clone(), false).0, events);
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_text_line_has_a_time_a_level_and_its_fields() {
        let line = captured(&Config::default().log, || {
            tracing::info!(address = %"127.0.0.1:80", "listening");
        });
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        assert_eq!(rest.trim_start(), "INFO listening address=127.0.0.1:80\n");
    }

    #[test]
    fn a_json_line_has_its_fields_at_the_top() {
        let config = LogConfig { format: LogFormat::Json, ..Config::default().log };
        let line = captured(&config, || tracing::warn!(lines = 3, "dropped \"x\"\n"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "dropped \"x\"\n");
        assert_eq!(value["lines"], 3);
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn events_below_the_level_are_not_written() {
        let config = LogConfig { level: LevelFilter::ERROR, ..Config::default().log };
        let lines = captured(&config, || {
            tracing::warn!("no");
            tracing::error!("yes");
        });
        assert_eq!(lines.lines().count(), 1);
        let config = LogConfig { level: LevelFilter::OFF, ..Config::default().log };
        assert_eq!(captured(&config, || tracing::error!("no")), "");
    }

    #[test]
    fn a_level_is_changed_while_events_come() {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = Config::default().log;
        let (subscriber, level) = subscriber(&config, move || writer.clone(), false);
        with_default(subscriber, || {
            tracing::debug!("first");
            level.reload(LevelFilter::DEBUG).unwrap();
            tracing::debug!("second");
            level.reload(LevelFilter::OFF).unwrap();
            tracing::error!("third");
        });
        let lines = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert!(lines.contains("second") && lines.lines().count() == 1, "{lines}");
    }

    #[test]
    fn a_file_is_appended_to_and_an_impossible_one_is_named() {
        let path = std::env::temp_dir().join(format!("ringway-logging-{}", std::process::id()));
        for line in ["one\n", "two\n"] {
            let output = Output::open(&LogTarget::File(path.clone())).unwrap();
            output.write_lines(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        std::fs::remove_file(&path).unwrap();
        let target = LogTarget::File(path.join("below"));
        let error = start(&LogConfig { target, ..Config::default().log }).unwrap_err().to_string();
        assert!(error.starts_with("log.file: "), "{error}");
        assert!(error.contains("below cannot be written: No such file"), "{error}");
    }
}
