//! Bodies that wait in temporary files, because more of them has come than is to be in memory.
//!
//! In go pieces of memory and places in a file; the same pieces come out, written or filled. A file
//! has no name, so that nothing of it outlives the process, and all files of a process are under
//! one bound. What cannot be written stays with whoever wanted that. No thread of a ring opens,
//! writes, reads or closes a file: a thread of their own does, one thing after the other, and
//! nobody waits for a disk that hangs for longer than [`WITHIN`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::oneshot;

use super::held::{Held, Piece};
use crate::config::BuffersConfig;

/// What a disk may take for one piece.
const WITHIN: Duration = Duration::from_secs(10);

/// A thread that calls the kernel and nothing else.
const STACK_BYTES: usize = 128 * 1024;

/// How often a name that is taken is replaced by another one.
const NAMES_MAX: u32 = 16;

type Job = Box<dyn FnOnce() + Send>;

/// The temporary files of a process.
#[derive(Default)]
pub(crate) struct Spool {
    /// To the thread, which begins with the first file.
    jobs: Mutex<Option<Sender<Job>>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// In all files, or about to be.
    bytes: AtomicU64,
    files: AtomicU64,
    failures: AtomicU64,
    /// The thread is with something that the disk has not done in time.
    hangs: AtomicBool,
    /// The last failure has been told, and nothing has been written since.
    is_told: AtomicBool,
}

/// By what a body's file goes.
pub(crate) struct Terms {
    spool: Arc<Spool>,
    /// `None`: that of the system.
    folder: Option<PathBuf>,
    /// For all bodies together, and for one.
    bytes_max: u64,
    body_bytes_max: u64,
}

impl Terms {
    /// `None` where no body may have a file.
    pub(crate) fn of(spool: &Arc<Spool>, config: &BuffersConfig) -> Option<Self> {
        let (bytes_max, body_bytes_max) = (config.temp_bytes, config.temp_body_bytes);
        let is_off = bytes_max == 0 || body_bytes_max == 0;
        let folder = config.temp_folder.clone();
        (!is_off).then(|| Self { spool: spool.clone(), folder, bytes_max, body_bytes_max })
    }

    /// A file for one body; `None` where there can be none.
    pub(crate) async fn open(self) -> Option<Spooled> {
        if self.spool.counts.hangs.load(Ordering::Relaxed) || self.spool.bytes() >= self.bytes_max {
            return None;
        }
        let folder = self.folder.clone();
        let opened = self.spool.run(move || open(folder.as_deref())).await;
        let file = self.spool.heard("open", opened)?;
        self.spool.counts.files.fetch_add(1, Ordering::Relaxed);
        Some(Spooled { file: Some(Arc::new(file)), terms: self, reserved: 0 })
    }
}

impl Spool {
    /// In all files now.
    pub(crate) fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Files so far.
    pub(crate) fn files(&self) -> u64 {
        self.counts.files.load(Ordering::Relaxed)
    }

    /// What the kernel or the disk has refused, or not done in time.
    pub(crate) fn failures(&self) -> u64 {
        self.counts.failures.load(Ordering::Relaxed)
    }

    /// Has `work` done by the thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, is_done) = oneshot::channel();
        // Nobody may wait any more when it is done.
        self.send(Box::new(move || drop(done.send(work()))))?;
        if let Ok(outcome) = tokio::time::timeout(WITHIN, is_done).await {
            return outcome.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.counts.hangs.store(true, Ordering::Relaxed);
        // In case that it has come to an end just now.
        let counts = self.counts.clone();
        self.send(Box::new(move || counts.hangs.store(false, Ordering::Relaxed)))?;
        Err(io::ErrorKind::TimedOut.into())
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            let (sender, queued) = channel();
            let name = "temp-files".to_owned();
            thread::Builder::new()
                .name(name)
                .stack_size(STACK_BYTES)
                .spawn(move || work_off(&queued))?;
            *jobs = Some(sender);
        }
        let sent = jobs.as_ref().map(|jobs| jobs.send(job));
        sent.and_then(Result::ok).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Counts what has failed, and says so once until something succeeds.
    fn heard<T>(&self, what: &'static str, outcome: io::Result<T>) -> Option<T> {
        match outcome {
            Ok(done) => {
                if self.counts.is_told.load(Ordering::Relaxed) {
                    self.counts.is_told.store(false, Ordering::Relaxed);
                }
                Some(done)
            }
            Err(error) => {
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                if !self.counts.is_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        what,
                        %error,
                        "temporary files for bodies fail: bodies that need one go on as they come \
                         (`buffers.temp_folder` says where they are, `buffers.temp_bytes = 0` does \
                         without)"
                    );
                }
                None
            }
        }
    }
}

fn work_off(queued: &Receiver<Job>) {
    // A limit on the size of files is an error of the write, and no reason to end the process.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    if signals.thread_block().is_err() {
        return;
    }
    while let Ok(job) = queued.recv() {
        job();
    }
}

/// The file of one body.
pub(crate) struct Spooled {
    /// `None` when it is given up.
    file: Option<Arc<File>>,
    terms: Terms,
    /// Of the bound for all, so much is this one's.
    reserved: u64,
}

impl Spooled {
    /// Takes out of the bound what a file of `length` bytes needs; false where there is not so much
    /// left.
    pub(crate) fn reserve(&mut self, length: u64) -> bool {
        let more = length.saturating_sub(self.reserved);
        if more == 0 {
            return true;
        }
        if length > self.terms.body_bytes_max {
            return false;
        }
        let most = self.terms.bytes_max;
        let add = |bytes: u64| bytes.checked_add(more).filter(|bytes| *bytes <= most);
        let bytes = &self.terms.spool.counts.bytes;
        let is_reserved = bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if is_reserved {
            self.reserved = length;
        }
        is_reserved
    }

    /// Whoever writes and reads it, as long as it is there.
    pub(crate) fn handle(&self) -> Handle {
        Handle { file: self.file.clone(), spool: self.terms.spool.clone() }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let Self { file, terms, reserved } = self;
        let (counts, reserved) = (terms.spool.counts.clone(), *reserved);
        let file = file.take();
        // The last close gives the disk back, which may take its time.
        let closing: Job = Box::new(move || {
            drop(file);
            counts.bytes.fetch_sub(reserved, Ordering::Relaxed);
        });
        if terms.spool.send(closing).is_err() {
            terms.spool.counts.bytes.fetch_sub(reserved, Ordering::Relaxed);
        }
    }
}

/// A file that can be written to and read.
pub(crate) struct Handle {
    file: Option<Arc<File>>,
    spool: Arc<Spool>,
}

impl Handle {
    /// Writes what `pieces` are filled with at `at`; the pieces, where that failed.
    pub(crate) async fn write(&self, at: u64, pieces: Vec<Piece>) -> Result<(), Vec<Piece>> {
        let Some(file) = self.file.clone() else { return Err(pieces) };
        let pieces = Arc::new(pieces);
        let written = pieces.clone();
        let outcome = self.spool.run(move || {
            let mut at = at;
            for piece in &*written {
                file.write_all_at(piece.filled(), at)?;
                at += piece.filled().len() as u64;
            }
            Ok(())
        });
        match self.spool.heard("write", outcome.await) {
            Some(()) => Ok(()),
            // The thread may have them still.
            None => Err(Arc::try_unwrap(pieces).unwrap_or_else(|shared| shared.to_vec())),
        }
    }

    /// Fills `window`, which is empty and has room for some, with up to `most` bytes from `at` on,
    /// which have been written; how many that were.
    pub(crate) async fn read(&self, window: &mut Held, at: u64, most: u64) -> Option<u64> {
        let pieces = window.lend();
        let (count, pieces) = self.fill(pieces, at, most).await?;
        window.restore(pieces);
        Some(count)
    }

    /// The same for whoever has lent the `pieces` of a window.
    pub(crate) async fn fill(
        &self,
        mut pieces: Vec<Piece>,
        at: u64,
        most: u64,
    ) -> Option<(u64, Vec<Piece>)> {
        let file = self.file.clone()?;
        let outcome = self.spool.run(move || {
            let piece = pieces.first_mut().ok_or(io::ErrorKind::InvalidInput)?;
            let room = piece.room(usize::try_from(most).unwrap_or(usize::MAX));
            file.read_exact_at(room, at)?;
            let count = room.len();
            piece.fill(count);
            Ok((count as u64, pieces))
        });
        self.spool.heard("read", outcome.await)
    }
}

/// Opens a file that has no name.
fn open(folder: Option<&Path>) -> io::Result<File> {
    if let Some(folder) = folder {
        return open_in(folder);
    }
    if let Some(folder) = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty()) {
        return open_in(Path::new(&folder));
    }
    // Often /tmp is memory, of which there was not enough.
    open_in(Path::new("/var/tmp")).or_else(|_| open_in(Path::new("/tmp")))
}

fn open_in(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    match options.open(folder) {
        // Not every file system can do that.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL)
            ) =>
        {
            open_and_unlink(folder)
        }
        opened => opened,
    }
}

/// The same by a name, which is gone as soon as the file is open.
fn open_and_unlink(folder: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    for _ in 0..NAMES_MAX {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".ringway-{}-{number}", std::process::id()));
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => {
                let file = opened?;
                std::fs::remove_file(path)?;
                return Ok(file);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::ledger::{Budget, Kind, Ledger};
    use crate::ring::runtime;

    fn terms(spool: &Arc<Spool>, bytes_max: u64) -> Terms {
        let config = BuffersConfig { temp_bytes: bytes_max, ..BuffersConfig::default() };
        Terms::of(spool, &config).unwrap()
    }

    fn held(ledger: &Arc<Ledger>) -> Held {
        Held::new(1 << 20, (ledger, &Rc::new(Budget::unlimited())))
    }

    #[test]
    fn what_is_written_is_read_and_everything_goes_home() {
        let (spool, ledger) = (Arc::<Spool>::default(), Arc::<Ledger>::default());
        let body: Vec<u8> = (0..100_000_u32).map(|it| (it % 251) as u8).collect();
        runtime::tested().block_on(async {
            let mut file = terms(&spool, 1 << 20).open().await.unwrap();
            let mut tail = held(&ledger);
            assert!(tail.push(&body) && file.reserve(tail.len()));
            let pieces = tail.lend();
            assert!((tail.is_empty(), ledger.get(Kind::Bodies) > 0) == (true, true));
            assert!(file.handle().write(0, pieces).await.is_ok());
            tail.forget_lent();
            assert_eq!((ledger.get(Kind::Bodies), spool.bytes()), (0, 100_000));
            let (mut window, mut read) = (held(&ledger), Vec::new());
            while read.len() < body.len() {
                assert!(!window.room(1, 30_000).is_empty());
                let left = (body.len() - read.len()) as u64;
                file.handle().read(&mut window, read.len() as u64, left).await.unwrap();
                window.pieces().for_each(|piece| read.extend_from_slice(piece));
                window = held(&ledger);
            }
            assert!(read == body);
            assert!(file.handle().read(&mut window, 100_000, 1).await.is_none(), "nothing there");
        });
        while spool.bytes() > 0 {
            thread::yield_now();
        }
        assert_eq!((ledger.get(Kind::Bodies), spool.files()), (0, 1));
    }

    #[test]
    fn the_bound_is_for_all_files_and_comes_home_with_each() {
        let spool = Arc::<Spool>::default();
        runtime::tested().block_on(async {
            let mut one = terms(&spool, 1000).open().await.unwrap();
            let mut two = terms(&spool, 1000).open().await.unwrap();
            assert!(one.reserve(600) && one.reserve(600) && !two.reserve(401) && two.reserve(400));
            assert!(terms(&spool, 1000).open().await.is_none(), "there is nothing left");
            drop(one);
            while spool.bytes() > 400 {
                tokio::task::yield_now().await;
            }
            assert!(two.reserve(1000) && !two.reserve(1001));
        });
    }

    #[test]
    fn a_file_without_o_tmpfile_has_no_name_either() {
        let folder = std::env::temp_dir().join(format!("ringway-spool-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = open_and_unlink(&folder).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::remove_dir(&folder).unwrap();
        assert!(open(Some(&folder)).is_err(), "no such folder");
    }

    #[test]
    fn a_write_that_fails_gives_its_pieces_back() {
        let (spool, ledger) = (Arc::<Spool>::default(), Arc::<Ledger>::default());
        runtime::tested().block_on(async {
            let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
            let handle = Handle { file: Some(Arc::new(full)), spool: spool.clone() };
            let mut tail = held(&ledger);
            assert!(tail.push(b"abc"));
            let pieces = handle.write(0, tail.lend()).await.unwrap_err();
            tail.restore(pieces);
            assert_eq!((tail.front(), tail.len(), spool.failures()), (&b"abc"[..], 3, 1));
        });
    }
}
