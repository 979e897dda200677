//! A Docker engine whose containers a test decides.
//!
//! Comes in: requests for the list of containers and for events, on a Unix socket. Goes out: what
//! the test wants to be said, true, bad or without end.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};

use super::wait_until;

/// Answers until it is dropped.
pub(crate) struct Engine {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    containers: Vec<Value>,
    /// In place of the list: an answer as it is on the wire.
    instead: Option<Vec<u8>>,
    /// The answer never ends.
    is_endless: bool,
    lists: usize,
    events: Vec<UnixStream>,
}

/// A container that wants to be served, at a port of this machine.
pub(crate) fn container(id: &str, port: u16, labels: &[(&str, &str)]) -> Value {
    let mut all = json!({ "ringway.enable": "true", "ringway.port": port.to_string() });
    for (label, value) in labels {
        all[*label] = (*value).into();
    }
    json!({
        "Id": id,
        "Names": [format!("/{id}")],
        "Labels": all,
        "State": "running",
        "Status": "Up 3 minutes",
        "Created": 5,
        "Ports": [],
        "HostConfig": { "NetworkMode": "default" },
        "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "127.0.0.1" } } },
    })
}

impl Engine {
    /// A path at which none listens yet.
    pub(crate) fn path() -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("ringway-engine-{}-{count}", std::process::id()))
    }

    pub(crate) fn start(containers: &[Value]) -> Self {
        Self::start_at(Self::path(), containers)
    }

    pub(crate) fn start_at(socket: PathBuf, containers: &[Value]) -> Self {
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let state = State { containers: containers.to_vec(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let told = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), told) = (stream, Arc::clone(&told)) else { return };
                // Whoever hangs up is gone.
                thread::spawn(move || drop(answer(stream, &told)));
            }
        });
        Self { socket, state }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// How often the list has been asked for.
    pub(crate) fn lists(&self) -> usize {
        self.lock().lists
    }

    /// Has these from now on, and says that something has changed.
    pub(crate) fn has(&self, containers: &[Value]) {
        self.lock().containers = containers.to_vec();
        self.say("{\"Type\":\"container\",\"Action\":\"start\"}\n");
    }

    /// Has these from now on, and says nothing.
    pub(crate) fn has_silently(&self, containers: &[Value]) {
        self.lock().containers = containers.to_vec();
    }

    /// Says this where events are listened to, and waits until somebody does.
    pub(crate) fn say(&self, event: &str) {
        wait_until("somebody to listen to events", || !self.lock().events.is_empty());
        for mut stream in &self.lock().events {
            // Whoever has hung up does not hear it.
            let _ = stream.write_all(event.as_bytes());
        }
    }

    /// Ends all connections on which events are listened to.
    pub(crate) fn hang_up(&self) {
        wait_until("somebody to listen to events", || !self.lock().events.is_empty());
        self.lock().events.clear();
    }

    /// Answers every question for the list with this.
    pub(crate) fn answers(&self, instead: Option<&str>) {
        self.lock().instead = instead.map(|text| text.as_bytes().to_vec());
    }

    /// Answers never end from now on, or they do again.
    pub(crate) fn is_endless(&self, is_endless: bool) {
        self.lock().is_endless = is_endless;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn answer(mut stream: UnixStream, state: &Mutex<State>) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("GET /events?") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")?;
        state.lock().expect("no panic").events.push(stream);
        return Ok(());
    }
    if !head.starts_with("GET /containers/json?") {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    let (body, instead, is_endless) = {
        let mut state = state.lock().expect("no panic");
        state.lists += 1;
        (Value::from(state.containers.clone()).to_string(), state.instead.clone(), state.is_endless)
    };
    if is_endless {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[")?;
        loop {
            stream.write_all(&[b' '; 8 * 1024])?;
        }
    }
    let plain = || format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(&instead.unwrap_or_else(|| plain().into_bytes()))
}
