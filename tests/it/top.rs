//! `ringway top`, in a terminal of its own and for programs.
//!
//! In go keys by a pseudo-terminal; out come the bytes that the terminal was sent. What single
//! screens show is tested beside their code; here it is that keys arrive, that a connection ends,
//! and that the terminal is given back.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::{
    self, GET, OK, Origin, Proxy, Setup, installed, logged, ringway, run, wait_until,
};

fn admin_url(proxy: &Proxy) -> String {
    format!("http://{}", logged(&proxy.wait_for_log(&["admin API", "address="]), "address"))
}

/// `top` in a pseudo-terminal, which `script` makes.
struct Screen {
    child: Child,
    keys: ChildStdin,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    fn open(url: &str) -> Option<Self> {
        let script = installed("script")?;
        let words = format!(
            "stty rows 40 cols 120; exec {} top --every 100 --url '{url}'",
            support::BINARY
        );
        let mut child = Command::new(script)
            .args(["-qec", &words, "/dev/null"])
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a terminal");
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (mut output, all) = (child.stdout.take().expect("a pipe"), seen.clone());
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                all.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        let keys = child.stdin.take().expect("a pipe");
        Some(Self { child, keys, seen })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, part: &str) {
        let mut text = String::new();
        wait_until(part, || {
            text = self.text();
            text.contains(part)
        });
    }

    /// Presses keys on what is drawn from now on.
    fn press(&mut self, keys: &str) {
        self.seen.lock().unwrap().clear();
        self.keys.write_all(keys.as_bytes()).expect("a reader");
        self.keys.flush().expect("a reader");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_is_drawn_on_obeyed_and_given_back() {
    let (origin, gate) = Origin::held();
    let proxy = Setup::to(&origin).start();
    let Some(mut screen) = Screen::open(&admin_url(&proxy)) else { return };
    let mut client = proxy.connect();
    client.send(GET);
    screen.wait_for("\u{1b}[?1049h");
    screen.wait_for("1 overview");
    screen.press("2");
    screen.wait_for("p99");
    screen.press("4");
    screen.wait_for("exchange");
    screen.press("x");
    screen.wait_for("y / n");
    screen.press("y");
    screen.wait_for("ended");
    // It was cut: nothing of an answer came.
    assert!(client.read_to_end().0.is_empty());
    screen.press("q");
    screen.wait_for("\u{1b}[?1049l");
    gate.open();
    wait_until("it has ended", || screen.child.try_wait().unwrap().is_some());
}

#[test]
fn programs_get_the_snapshot_and_people_one_screen() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).start();
    let url = admin_url(&proxy);
    let look = |words: &[&str]| {
        let mut command = ringway();
        command.arg("top").args(words).args(["--url", &url]);
        run(command)
    };
    let output = look(&["--once", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let snapshot: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&snapshot["schema"], &snapshot["status"]), (&1.into(), &"ok".into()));
    let screen = String::from_utf8(look(&["--once"]).stdout).expect("text");
    assert!(screen.starts_with("ringway ok") && screen.contains("1 overview"), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen}");
    let output = look(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs a terminal"));
}

#[test]
fn a_unix_socket_is_asked_as_well() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("admin.address", "unix:admin.sock").start();
    proxy.wait_for_log(&["admin API"]);
    let mut command = ringway();
    let url = format!("unix:{}", proxy.home().join("admin.sock").display());
    command.args(["top", "--once", "--json", "--url", &url]);
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    assert!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["workers"].is_array());
}
