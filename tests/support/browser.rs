//! A tab of Chromium that a test looks at and presses buttons in, by the DevTools protocol.
//!
//! Comes in: addresses of pages, and expressions of JavaScript. Goes out: what these come to in the
//! page. The browser has a profile of its own, and ends with the value.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::installed;

/// For one step of a browser on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    serial: u64,
}

impl Browser {
    /// One with a tab of this width, whose profile is below `home`; `None` where there is none.
    pub(crate) fn start(home: &Path, width: u32) -> Option<Self> {
        let program = installed("chromium")?;
        let profile = home.join("tab");
        let mut command = Command::new(program);
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().expect("a browser");
        let port = port(&profile.join("DevToolsActivePort"));
        let asked = format!("PUT /json/new?about:blank HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("its protocol");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(asked.as_bytes()).expect("it reads");
        let tab = body(&mut stream);
        let url = tab["webSocketDebuggerUrl"].as_str().expect("a tab").to_owned();
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("its protocol");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let (socket, _) = tungstenite::client(&*url, stream).expect("a handshake");
        let mut browser = Self { child, socket, serial: 0 };
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        browser.call("Emulation.setDeviceMetricsOverride", &size);
        Some(browser)
    }

    pub(crate) fn open(&mut self, url: &str) {
        self.call("Page.navigate", &json!({ "url": url }));
    }

    /// What the expression comes to.
    #[track_caller]
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until the expression is true.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.eval(expression) != Value::Bool(true) {
            let text = self.eval("document.body.innerText");
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {expression}\n{text}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Asks the browser for something; its answer.
    #[track_caller]
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.serial += 1;
        let asked = json!({ "id": self.serial, "method": method, "params": params });
        self.socket.send(Message::text(asked.to_string())).expect("it reads");
        loop {
            let Message::Text(text) = self.socket.read().expect("an answer") else { continue };
            let said: Value = serde_json::from_str(&text).expect("JSON");
            // The others are events.
            if said["id"] == self.serial {
                assert!(said.get("error").is_none(), "{method}: {said}");
                return said["result"].clone();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The others of its processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port that the browser says it listens on, once it does.
fn port(file: &Path) -> u16 {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some(port) = text.lines().next().and_then(|line| line.parse().ok()) {
            return port;
        }
        assert!(Instant::now() < end, "the browser has not said where it listens");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The JSON of an answer with a length.
fn body(stream: &mut TcpStream) -> Value {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).expect("an answer");
        text.extend_from_slice(&piece[..count]);
        let said = String::from_utf8_lossy(&text);
        if let Some((_, body)) = said.split_once("\r\n\r\n")
            && let Ok(value) = serde_json::from_str(body)
        {
            return value;
        }
        assert!(count > 0, "{said}");
    }
}
