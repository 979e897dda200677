//! The real `ringway` process on port 0, with a configuration file in a directory of its own.
//!
//! Comes in: configuration keys. Goes out: an address to connect to, the log, what `/proc` says of
//! the process, and how it ended. Dropping a `Proxy` stops it with SIGTERM and fails the test
//! unless it left in order: status 0, and not one connection or lease still counted.

use super::tls::Pair;
use super::{Client, DEADLINE, GET, Message, Origin, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display, Formatter, Write as _};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A configuration in the making. Starts out with one worker, port 0 and nothing prewarmed.
pub(crate) struct Setup {
    /// Dotted keys with their values as TOML.
    keys: BTreeMap<String, String>,
    /// The `[[upstream]]` and `[[route]]` tables.
    tables: String,
    /// Files beside the configuration, by name.
    files: Vec<(String, String)>,
    /// How many listeners to await.
    listeners: usize,
    /// Shell text that starts the program as `"$0" "$@"`.
    launcher: Option<String>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let (keys, tables, files) = (BTreeMap::new(), String::new(), Vec::new());
        let setup = Self { keys, tables, files, listeners: 1, launcher: None };
        setup
            .driven_by(&driver())
            .set("server.host", "127.0.0.1")
            .set("server.port", 0)
            .set("server.workers", 1)
            .set("admin.address", "127.0.0.1:0")
            // Longer than any test waits: what does not end by itself is not cut, but found out.
            .set("server.drain_timeout", "1h")
            .set("pool.prewarm", 0)
            // Pinned pages are limited per user, and many proxies run at once.
            .set("buffers.chunks_per_worker", 8)
    }

    /// Waits by another driver than the one under test.
    pub(crate) fn driven_by(self, driver: &str) -> Self {
        self.set("server.driver", driver)
    }

    /// Everything goes to one origin.
    pub(crate) fn to(origin: &Origin) -> Self {
        Self::to_url(&origin.url())
    }

    pub(crate) fn to_url(url: &str) -> Self {
        Self::new().upstream("origin", &[url], "")
    }

    /// A forward proxy that may reach whatever listens on this machine.
    pub(crate) fn forward() -> Self {
        Self::new()
            .set("forward.enabled", true)
            .set("forward.allow_loopback", true)
            .set("forward.connect_ports", ["*"])
    }

    /// Sets one key, such as `timeouts.read`.
    pub(crate) fn set(mut self, key: &str, value: impl Debug) -> Self {
        // Plain strings, numbers, booleans and arrays of them look the same in Rust as in TOML.
        self.keys.insert(key.to_owned(), format!("{value:?}"));
        self
    }

    /// Adds an upstream with one origin per URL. `more` holds further lines of its table.
    pub(crate) fn upstream(self, name: &str, urls: &[&str], more: &str) -> Self {
        self.upstream_lines(name, &format!("origins = {urls:?}\n{more}"))
    }

    /// Adds an upstream whose table goes on as written.
    pub(crate) fn upstream_lines(mut self, name: &str, lines: &str) -> Self {
        write!(self.tables, "\n[[upstream]]\nname = {name:?}\n{lines}\n").unwrap();
        self
    }

    /// Adds a route. `more` holds further lines of its table.
    pub(crate) fn route(mut self, host: &str, path: &str, upstream: &str, more: &str) -> Self {
        let route = format!("host = {host:?}\npath = {path:?}\nupstream = {upstream:?}");
        write!(self.tables, "\n[[route]]\n{route}\n{more}\n").unwrap();
        self
    }

    /// Adds a parent proxy. `more` holds further lines of its table.
    pub(crate) fn parent(mut self, name: &str, url: &str, more: &str) -> Self {
        write!(self.tables, "\n[[parent]]\nname = {name:?}\nurl = {url:?}\n{more}\n").unwrap();
        self
    }

    /// Adds a file to the directory of the configuration, which is the working directory.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Adds listeners beside the one that every proxy has.
    pub(crate) fn listen(mut self, addresses: &[&str]) -> Self {
        self.listeners = 1 + addresses.len();
        self.set("server.listen", addresses)
    }

    /// Adds a listener that speaks TLS, behind all others.
    pub(crate) fn listens_with_tls(mut self) -> Self {
        self.listeners += 1;
        self.set("server.listen_tls", ["127.0.0.1:0"])
    }

    /// The same with a certificate for `names`.
    pub(crate) fn listen_tls(self, pair: &Pair) -> Self {
        self.listens_with_tls()
            .file("shown.pem", &pair.chain)
            .file("shown.key", &pair.key)
            .table("[[tls.certificates]]\nchain = \"shown.pem\"\nkey = \"shown.key\"")
    }

    /// Adds lines behind all keys, as written.
    pub(crate) fn table(mut self, lines: &str) -> Self {
        write!(self.tables, "\n{lines}\n").unwrap();
        self
    }

    /// Runs with a low limit of open files.
    pub(crate) fn open_files_max(self, count: u32) -> Self {
        self.launched_by(&format!("ulimit -n {count} && exec \"$0\" \"$@\""))
    }

    /// Starts the program, which is `"$0" "$@"`, from a shell.
    pub(crate) fn launched_by(mut self, launcher: &str) -> Self {
        self.launcher = Some(launcher.to_owned());
        self
    }

    pub(crate) fn text(&self) -> String {
        let keys = self.keys.iter().fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "{key} = {value}").unwrap();
            text
        });
        keys + &self.tables
    }

    fn command(&self, home: &Home) -> Command {
        let config = home.write("ringway.toml", &self.text());
        for (name, text) in &self.files {
            home.write(name, text);
        }
        let mut command = match &self.launcher {
            None => ringway(),
            Some(launcher) => {
                let mut shell = plain(Command::new("sh"));
                shell.args(["-c", launcher, BINARY]);
                shell
            }
        };
        command.arg("--config").arg(config).current_dir(home.path());
        command
    }

    #[track_caller]
    pub(crate) fn start(self) -> Proxy {
        let home = Home::new();
        let command = self.command(&home);
        Proxy::spawn(command, home, self.listeners)
    }

    /// Runs to the end, for configurations that cannot start.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        let home = Home::new();
        run(self.command(&home))
    }
}

/// Processes that have taken over from the first one, by what the log says of them.
struct Successors(Arc<Log>);

pub(crate) struct Proxy {
    child: Child,
    log: Arc<Log>,
    addresses: Vec<SocketAddr>,
    home: Home,
    /// Its end was seen, or is nobody's business.
    is_done: bool,
    _successors: Successors,
}

impl Proxy {
    #[track_caller]
    pub(crate) fn to(origin: &Origin) -> Self {
        Setup::to(origin).start()
    }

    /// Starts a command and waits until it has named `listeners` addresses.
    #[track_caller]
    pub(crate) fn spawn(command: Command, home: Home, listeners: usize) -> Self {
        Self::spawn_with_input(command, home, listeners, Stdio::null())
    }

    /// The same for a command that finds something on its standard input.
    #[track_caller]
    pub(crate) fn spawn_with_input(
        mut command: Command,
        home: Home,
        listeners: usize,
        input: Stdio,
    ) -> Self {
        command.env_remove(DRIVER_VARIABLE);
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary under test can be started");
        let log = Arc::<Log>::default();
        log.follow(child.stdout.take().expect("piped"));
        log.follow(child.stderr.take().expect("piped"));
        let successors = Successors(log.clone());
        let mut proxy = Self {
            child,
            log,
            addresses: Vec::new(),
            home,
            is_done: false,
            _successors: successors,
        };
        let all_named = |lines: &[String]| {
            let named = lines.iter().filter(|line| line.contains("listening")).count();
            (named >= listeners).then_some(())
        };
        proxy.log.wait_for("the listeners", all_named);
        proxy.addresses = addresses(&proxy.log.lines.lock().unwrap().text);
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The directory that holds the configuration and is the working directory.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Sends bytes on a new connection.
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut client = self.connect();
        client.send(bytes);
        client
    }

    /// A new connection that has become a tunnel to `target`.
    #[track_caller]
    pub(crate) fn tunnel(&self, target: impl Display) -> Client {
        let mut client = self.connect();
        client.tunnel(target);
        client
    }

    /// The answer to a plain request on a new connection.
    #[track_caller]
    pub(crate) fn get(&self) -> Message {
        self.send(GET).read_response()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is there");
        if signal == Signal::SIGSTOP {
            // Its threads stop one by one, the last of them some time later.
            wait_until("it has stopped", || self.has_stopped());
        }
    }

    /// Whether none of its threads runs on.
    fn has_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a process");
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // Behind the name, which may have anything in it.
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        })
    }

    /// Waits for a line of the log that contains every one of `parts`.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, parts: &[&str]) -> String {
        let is_wanted = |line: &&String| parts.iter().all(|part| line.contains(part));
        self.log.wait_for(&format!("{parts:?}"), |lines| lines.iter().find(is_wanted).cloned())
    }

    pub(crate) fn log_lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().text.clone()
    }

    /// Stops reading what the process says, or goes on with it, as a stuck terminal would.
    pub(crate) fn hear(&self, is_heard: bool) {
        self.log.lines.lock().unwrap().is_deaf = !is_heard;
        self.log.grown.notify_all();
    }

    pub(crate) fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        fs::read_dir(path).expect("the process is there").count()
    }

    /// Waits until no more files are open than before.
    #[track_caller]
    pub(crate) fn wait_for_open_files(&self, count: usize) {
        wait_until(&format!("{count} files are open"), || self.open_files() <= count);
    }

    /// Lowers the limit of open files while the process runs. Returns what sets it back, or nothing
    /// if the tool for that is missing.
    pub(crate) fn limit_open_files(&self, count: usize) -> Option<impl FnOnce()> {
        let pid = self.pid();
        let prlimit = move |soft: &str| {
            let limit = format!("--nofile={soft}:");
            let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
            status.is_ok_and(|status| status.success())
        };
        prlimit(&count.to_string()).then_some(move || {
            prlimit("1024");
        })
    }

    /// A file that tells about the process, such as `status`.
    pub(crate) fn file_of_process(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join(name)
    }

    /// Processor time that it has used, in the kernel too.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(self.file_of_process("stat")).expect("the process is there");
        let figures = stat.rsplit_once(") ").expect("a name in brackets").1;
        let ticks = figures.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|it| it.parse::<u64>().expect("a number")).sum();
        // USER_HZ is 100 on Linux.
        Duration::from_millis(ticks * 10)
    }

    /// Its threads, with those that the kernel has made for its rings.
    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(self.file_of_process("task")).expect("the process is there").count()
    }

    /// Resident memory.
    pub(crate) fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/statm", self.pid());
        let figures = fs::read_to_string(path).expect("the process is there");
        let pages = figures.split(' ').nth(1).expect("the second figure is the resident pages");
        pages.parse::<usize>().expect("a number") * 4096
    }

    /// Stops with SIGTERM and demands an orderly end.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        self.expect_orderly_end();
    }

    /// Waits for an end that something else caused, and demands that it is orderly.
    #[track_caller]
    pub(crate) fn expect_orderly_end(&mut self) {
        self.is_done = true;
        let status = self.wait_for_end();
        assert!(status.success(), "ended with {status}:\n{}", self.log);
        let stopped = self.wait_for_log(&["stopped ", "connections="]);
        let counts = stopped.split_whitespace().filter_map(|word| word.split_once('='));
        let left: Vec<_> = counts.filter(|(_, count)| *count != "0").collect();
        assert!(left.is_empty(), "left at the end: {left:?}:\n{}", self.log);
    }

    /// Waits for the end, however it turns out.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        self.is_done = true;
        let Some(status) = wait(&mut self.child) else {
            let _ = self.child.kill();
            panic!("still running after {DEADLINE:?}:\n{}", self.log);
        };
        status
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Successors {
    /// Ends those that still run: of a test that forgot, or did not come so far.
    fn drop(&mut self) {
        for line in &self.0.lines.lock().unwrap().text {
            let is_one = line.contains("a new process has taken over");
            let word = line.split_whitespace().find_map(|word| word.strip_prefix("pid="));
            let Some(pid) = word.filter(|_| is_one).and_then(|pid| pid.parse().ok()) else {
                continue;
            };
            // The number may be somebody else's by now.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mark = b"RINGWAY_UPGRADE_FD=";
            let is_ours = environment.windows(mark.len()).any(|part| part == mark);
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if is_ours && command.starts_with(BINARY) {
                let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("the log of the proxy:\n{}", self.log);
        } else if !self.is_done {
            self.signal(Signal::SIGTERM);
            self.expect_orderly_end();
        }
    }
}

/// What the process has said so far, on standard output and standard error.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    text: Vec<String>,
    /// Streams that have ended, of two.
    ended: usize,
    /// Nothing is read for now.
    is_deaf: bool,
}

impl Log {
    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                log.lines.lock().unwrap().text.push(line);
                log.grown.notify_all();
                let lines = log.lines.lock().unwrap();
                drop(log.grown.wait_while(lines, |lines| lines.is_deaf).unwrap());
            }
            log.lines.lock().unwrap().ended += 1;
            log.grown.notify_all();
        });
    }

    #[track_caller]
    fn wait_for<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(found) = find(&lines.text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended == 2 {
                let text = lines.text.join("\n");
                drop(lines);
                panic!("the log never said {what}:\n{text}");
            }
            lines = self.grown.wait_timeout(lines, left).unwrap().0;
        }
    }
}

impl Display for Log {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.lines.lock().unwrap().text.join("\n"))
    }
}

/// A directory that goes away with the test.
pub(crate) struct Home(PathBuf);

impl Home {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("the target directory is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("the directory is writable");
        path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where the binary under test is.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ringway");

/// Names the driver under test. The program itself would take it for a key.
pub(crate) const DRIVER_VARIABLE: &str = "RINGWAY_TEST_DRIVER";

/// The driver under test: `RINGWAY_TEST_DRIVER=epoll cargo test --test it` is for those machines
/// that have no other.
pub(crate) fn driver() -> String {
    std::env::var(DRIVER_VARIABLE).unwrap_or_else(|_| "io_uring".to_owned())
}

/// The binary under test.
pub(crate) fn ringway() -> Command {
    plain(Command::new(BINARY))
}

/// Takes from the environment what could change what the binary says.
fn plain(mut command: Command) -> Command {
    command.env_remove("RUST_LOG").env_remove("NO_COLOR");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RINGWAY_") || text.starts_with("PROXY_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command to its end. It must end by itself.
#[track_caller]
pub(crate) fn run(mut command: Command) -> Output {
    command.env_remove(DRIVER_VARIABLE);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary under test can be started");
    if wait(&mut child).is_none() {
        let _ = child.kill();
        panic!("still running: {:?}", child.wait_with_output());
    }
    child.wait_with_output().expect("it has ended")
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        // Nothing wakes a thread when a child ends, short of a handler for the whole process.
        thread::park_timeout(Duration::from_millis(2));
    }
    None
}

fn addresses(lines: &[String]) -> Vec<SocketAddr> {
    let lines = lines.iter().filter(|line| line.contains("listening"));
    let words = lines.flat_map(|line| line.split_whitespace());
    words.filter_map(|word| word.strip_prefix("address=")?.parse().ok()).collect()
}
