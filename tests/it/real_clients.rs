//! Programs that people use, sent through the proxy as their manuals say.
//!
//! Comes in: a folder of files behind a server of Python's, in plain text and with TLS. Goes out:
//! the same bytes by curl, wget, git, Python and Node, as absolute-form requests and through
//! tunnels; and WebSockets of a real library. A program that is missing is named, and its test does
//! nothing.

use crate::support::{DEADLINE, Home, Origin, Peer, Proxy, Setup, installed, pattern, run};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tungstenite::{Message, WebSocket};

/// Answers with the files of its working directory; names its port first. With the name of a
/// certificate it speaks TLS.
const SERVER: &str = r#"
import http.server, ssl, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_PUT = do_POST
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if len(sys.argv) > 1:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// A server of Python's with files below `www`.
struct Server {
    child: Child,
    port: u16,
    is_secure: bool,
    home: Home,
}

impl Server {
    fn start(is_secure: bool) -> Option<Self> {
        let python = installed("python3")?;
        let home = Home::new();
        let www = home.path().join("www");
        fs::create_dir(&www).expect("a new directory");
        fs::write(www.join("file"), pattern(SIZE)).expect("a new file");
        fs::write(www.join("small"), "small").expect("a new file");
        let mut command = Command::new(python);
        command.arg(home.write("server.py", SERVER)).current_dir(&www);
        if is_secure {
            let (certificate, key) = certify(&home)?;
            command.args([certificate, key]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python3 can be started");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("the server names its port");
        let port = line.trim().parse().expect("a port");
        Some(Self { child, port, is_secure, home })
    }

    fn url(&self, path: &str) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://localhost:{}/{path}", self.port)
    }

    fn certificate(&self) -> PathBuf {
        self.home.path().join("certificate.pem")
    }

    fn www(&self) -> PathBuf {
        self.home.path().join("www")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SIZE: usize = 3_000_000;

/// A certificate for `localhost` and its key.
fn certify(home: &Home) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (home.path().join("certificate.pem"), home.path().join("key.pem"));
    let mut openssl = Command::new(installed("openssl")?);
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key);
    let output = run(openssl);
    assert!(output.status.success(), "{output:?}");
    Some((certificate, key))
}

/// The same files in plain text and with TLS.
fn servers() -> Option<[Server; 2]> {
    Some([Server::start(false)?, Server::start(true)?])
}

/// A command that knows of no other proxy.
pub(crate) fn client(program: &Path, home: &Home) -> Command {
    let mut command = Command::new(program);
    // No variable may name another proxy, or other certificates.
    let kept =
        ["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept).current_dir(home.path());
    command
}

#[track_caller]
fn succeed(command: Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} ended with {}: {said}", output.status);
    output
}

#[track_caller]
fn expect_file(home: &Home, name: &str) {
    let path = home.path().join(name);
    assert!(fs::read(&path).expect("a file") == pattern(SIZE), "{name} holds other bytes");
    fs::remove_file(path).expect("a file");
}

/// A proxy that asks for a password: `ann` has `U*U`.
fn with_users() -> Proxy {
    let users = "ann:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
    Setup::forward().file("users", users).set("forward.users_file", "users").start()
}

#[test]
fn curl_with_and_without_a_tunnel() {
    let Some(program) = installed("curl") else { return };
    let Some(servers) = servers() else { return };
    let proxy = Setup::forward().start();
    let home = Home::new();
    let curl = |server: &Server, flags: &[&str]| {
        let mut command = client(&program, &home);
        command.args(["-q", "-sS", "--fail", "--max-time", "15"]).args(flags);
        command.arg("--cacert").arg(server.certificate());
        command.arg("--proxy").arg(format!("http://{}", proxy.address()));
        command
    };
    for server in &servers {
        for flags in [
            &["--output", "got"][..],
            &["--output", "got", "--proxytunnel"],
            &["--output", "got", "--proxy1.0", "--proxytunnel"],
            &["--output", "got", "--http1.0"],
            &["--output", "got", "--compressed", "--header", "Connection: close"],
        ] {
            let mut command = curl(server, flags);
            command.arg(server.url("file"));
            succeed(command);
            expect_file(&home, "got");
        }
        // Several requests of one connection.
        let url = server.url("small");
        let mut command = curl(server, &["--write-out", "%{num_connects} "]);
        command.args([&url, &url, &url]);
        let output = succeed(command);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "small1 small0 small0 ");
        // A body in the other direction, with and without `Expect`.
        let upload = home.path().join("upload");
        fs::write(&upload, pattern(SIZE)).expect("a new file");
        for flags in [&["--output", "got"][..], &["--output", "got", "--header", "Expect:"]] {
            let mut command = curl(server, flags);
            command.arg("--data-binary").arg(format!("@{}", upload.display()));
            command.arg(server.url("post"));
            succeed(command);
            expect_file(&home, "got");
        }
        let mut command = curl(server, &["--write-out", "%{http_code}"]);
        command.arg(server.url("missing"));
        assert!(String::from_utf8_lossy(&run(command).stdout).ends_with("404"));
    }
}

#[test]
fn curl_with_a_password() {
    let Some(program) = installed("curl") else { return };
    let Some(servers) = servers() else { return };
    let proxy = with_users();
    let home = Home::new();
    for server in &servers {
        for (flags, expected) in [
            (&["--proxy-user", "ann:U*U"][..], "small 200"),
            (&["--proxy-user", "ann:U*U", "--proxy-anyauth"], "small 200"),
            (&["--proxy-user", "ann:U*U", "--proxytunnel"], "small 200"),
            (&["--proxy-user", "ann:U*U", "--proxytunnel", "--proxy-anyauth"], "small 200"),
        ] {
            let mut command = client(&program, &home);
            command.args(["-q", "-sS", "--max-time", "15", "--write-out", " %{http_code}"]);
            command.args(flags).arg("--cacert").arg(server.certificate());
            command.arg("--proxy").arg(format!("http://{}", proxy.address()));
            command.arg(server.url("small"));
            let output = run(command);
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{flags:?} {output:?}");
        }
        for flags in [&["--proxy-user", "ann:no"][..], &["--proxytunnel"]] {
            let mut command = client(&program, &home);
            command.args(["-q", "-sS", "--max-time", "15", "--output", "refused"]);
            command.args(["--write-out", "%{http_code} %{http_connect}"]).args(flags);
            command.arg("--proxy").arg(format!("http://{}", proxy.address()));
            command.arg(server.url("small"));
            let codes = String::from_utf8_lossy(&run(command).stdout).into_owned();
            assert!(codes.contains("407"), "{flags:?}: {codes}");
        }
    }
}

#[test]
fn wget_with_and_without_a_password() {
    let Some(program) = installed("wget") else { return };
    let Some(servers) = servers() else { return };
    let home = Home::new();
    for (proxy, flags) in [
        (Setup::forward().start(), &[][..]),
        (with_users(), &["--proxy-user=ann", "--proxy-password=U*U"]),
    ] {
        for server in &servers {
            let mut command = client(&program, &home);
            let url = format!("http://{}", proxy.address());
            command.env("http_proxy", &url).env("https_proxy", &url);
            command.args(["--no-config", "-q", "--tries=1", "--timeout=15", "-O", "got"]);
            command.arg(format!("--ca-certificate={}", server.certificate().display()));
            succeed_with(command, flags, &server.url("file"));
            expect_file(&home, "got");
        }
    }
}

#[track_caller]
fn succeed_with(mut command: Command, flags: &[&str], url: &str) -> Output {
    command.args(flags).arg(url);
    succeed(command)
}

#[test]
fn git_clones_through_the_proxy() {
    let Some(program) = installed("git") else { return };
    let Some(servers) = servers() else { return };
    let home = Home::new();
    let git = |folder: &Path, arguments: &[&str]| {
        let mut command = client(&program, &home);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1");
        command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
        command.args(arguments).current_dir(folder);
        succeed(command)
    };
    let work = home.path().join("work");
    fs::create_dir(&work).expect("a new directory");
    git(&work, &["init", "-q", "-b", "trunk"]);
    for number in 0..20 {
        let name = format!("file{number}");
        fs::write(work.join(&name), pattern(20_000 + number)).expect("a new file");
        git(&work, &["add", &name]);
        git(&work, &["commit", "-q", "-m", &name]);
    }
    let original = git(&work, &["rev-parse", "HEAD"]).stdout;
    for (proxy, login) in [(Setup::forward().start(), ""), (with_users(), "ann:U%2AU@")] {
        for server in &servers {
            let bare = server.www().join("repository.git");
            if !bare.exists() {
                let (from, to) = (work.to_string_lossy(), bare.to_string_lossy());
                git(home.path(), &["clone", "-q", "--bare", &from, &to]);
                git(&bare, &["update-server-info"]);
            }
            let through = format!("http.proxy=http://{login}{}", proxy.address());
            let trust = format!("http.sslCAInfo={}", server.certificate().display());
            let url = server.url("repository.git");
            git(home.path(), &["-c", &through, "-c", &trust, "clone", "-q", &url, "copy"]);
            let copy = home.path().join("copy");
            assert_eq!(git(&copy, &["rev-parse", "HEAD"]).stdout, original);
            assert!(git(&copy, &["status", "--porcelain"]).stdout.is_empty());
            fs::remove_dir_all(copy).expect("a directory");
        }
    }
}

/// Reads `url` as often as it is told; through `proxy` where there is one.
const URLLIB: &str = r#"
import ssl, sys, urllib.request
proxy, certificate, url = sys.argv[1:4]
context = ssl.create_default_context(cafile=certificate) if url.startswith("https") else None
handlers = [urllib.request.ProxyHandler({"http": proxy, "https": proxy})]
if context:
    handlers.append(urllib.request.HTTPSHandler(context=context))
opener = urllib.request.build_opener(*handlers)
for _ in range(3):
    with opener.open(url, timeout=15) as answer:
        body = answer.read()
open("got", "wb").write(body)
"#;

const REQUESTS: &str = r#"
import sys
try:
    import requests
except ImportError:
    sys.exit(77)
proxy, certificate, url = sys.argv[1:4]
session = requests.Session()
session.trust_env = False
session.proxies = {"http": proxy, "https": proxy}
session.verify = certificate if url.startswith("https") else True
for _ in range(3):
    answer = session.get(url, timeout=15)
    answer.raise_for_status()
body = answer.content
for data in (body, (body[at:at + 100000] for at in range(0, len(body), 100000))):
    if isinstance(data, bytes):
        answer = session.post(url, data=data, timeout=15)
        assert answer.content == body
try:
    session.get("http://nowhere.invalid/", timeout=15).raise_for_status()
except requests.HTTPError as error:
    assert error.response.status_code == 502, error
else:
    raise SystemExit("no such host, and yet an answer")
open("got", "wb").write(body)
"#;

/// How the scripts below say that something they need is missing.
const MISSING: i32 = 77;

/// How Node says that it does not know a flag.
const BAD_FLAG: i32 = 9;

#[test]
fn python_with_and_without_a_password() {
    let Some(program) = installed("python3") else { return };
    let Some(servers) = servers() else { return };
    let home = Home::new();
    for (proxy, login) in [(Setup::forward().start(), ""), (with_users(), "ann:U%2AU@")] {
        for server in &servers {
            for (name, script) in [("urllib", URLLIB), ("requests", REQUESTS)] {
                let mut command = client(&program, &home);
                command.arg("-c").arg(script).arg(format!("http://{login}{}", proxy.address()));
                command.arg(server.certificate()).arg(server.url("file"));
                let output = run(command);
                if output.status.code() == Some(MISSING) {
                    eprintln!("skipped: Python has no module {name}");
                    continue;
                }
                assert!(output.status.success(), "{name}: {output:?}");
                expect_file(&home, "got");
            }
        }
    }
}

/// Asks for absolute targets with an agent that keeps its connection, then through CONNECT.
const NODE: &str = r"
const http = require('http'), https = require('https'), tls = require('tls');
const fs = require('fs');
const [host, port, credentials, certificate, plain, secure] = process.argv.slice(1);
const headers = credentials ? {
  'Proxy-Authorization': 'Basic ' + Buffer.from(credentials).toString('base64') } : {};
const fail = (error) => { console.error(error); process.exit(1); };
const read = (answer) => new Promise((done) => {
  const parts = [];
  answer.on('data', (part) => parts.push(part)).on('error', fail);
  answer.on('end', () => done({ status: answer.statusCode, body: Buffer.concat(parts) }));
});
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const absolute = (url) => new Promise((done) => {
  const options = { host, port, path: url, agent, timeout: 15000,
    headers: { ...headers, Host: new URL(url).host } };
  http.get(options, (answer) => read(answer).then(done)).on('error', fail);
});
const tunnel = (url) => new Promise((done) => {
  const { hostname, port: to } = new URL(url);
  const authority = `${hostname}:${to}`;
  const options = { host, port, method: 'CONNECT', path: authority, agent: false, timeout: 15000,
    headers: { ...headers, Host: authority } };
  http.request(options).on('error', fail).on('connect', (answer, socket, head) => {
    if (answer.statusCode !== 200 || head.length) fail(`CONNECT: ${answer.statusCode}`);
    done(socket);
  }).end();
});
const through = async (url) => {
  const socket = await tunnel(url);
  const isSecure = url.startsWith('https');
  const inner = isSecure
    ? tls.connect({ socket, servername: 'localhost', ca: fs.readFileSync(certificate) }) : socket;
  return new Promise((done) => {
    const { host: authority, pathname } = new URL(url);
    // Without an agent, so that the request takes this very connection.
    const options = { createConnection: () => inner, path: pathname,
      headers: { Host: authority } };
    http.get(options, (answer) => read(answer).then((got) => { inner.destroy(); done(got); }))
      .on('error', fail);
  });
};
(async () => {
  let got;
  for (let round = 0; round < 3; round++) got = await absolute(plain);
  fs.writeFileSync('absolute', got.body);
  fs.writeFileSync('tunnelled', (await through(plain)).body);
  fs.writeFileSync('secure', (await through(secure)).body);
  const gone = await absolute('http://nowhere.invalid/');
  if (gone.status !== 502) fail(`no such host: ${gone.status}`);
  agent.destroy();
})().catch(fail);
";

#[test]
fn node_with_an_agent_and_through_connect() {
    let Some(program) = installed("node") else { return };
    let Some([plain, secure]) = servers() else { return };
    let home = Home::new();
    for (proxy, credentials) in [(Setup::forward().start(), ""), (with_users(), "ann:U*U")] {
        let address = proxy.address();
        let mut command = client(&program, &home);
        command.args(["-e", NODE, "--", &address.ip().to_string(), &address.port().to_string()]);
        command.arg(credentials).arg(secure.certificate());
        command.args([plain.url("file"), secure.url("file")]);
        succeed(command);
        for name in ["absolute", "tunnelled", "secure"] {
            expect_file(&home, name);
        }
    }
}

const FETCH: &str = r"
if (typeof fetch !== 'function') process.exit(77);
const fs = require('fs');
const url = process.argv[1];
(async () => {
  let body;
  for (let round = 0; round < 5; round++) {
    const answer = await fetch(url + 'file', { signal: AbortSignal.timeout(15000) });
    body = Buffer.from(await answer.arrayBuffer());
    const echo = await fetch(url + 'post', { method: 'POST', body });
    if (!Buffer.from(await echo.arrayBuffer()).equals(body)) throw new Error('other bytes');
  }
  fs.writeFileSync('got', body);
})().catch((error) => { console.error(error); process.exit(1); });
";

#[test]
fn node_fetches_from_a_route() {
    let Some(program) = installed("node") else { return };
    let Some(server) = Server::start(false) else { return };
    let home = Home::new();
    let proxy = Setup::to_url(&format!("http://127.0.0.1:{}", server.port)).start();
    let mut command = client(&program, &home);
    command.args(["-e", FETCH, "--", &format!("http://{}/", proxy.address())]);
    let output = run(command);
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: this Node has no fetch");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    expect_file(&home, "got");
}

// WebSockets.

/// Sends back what it is sent, by a library that checks every bit of the protocol.
pub(crate) fn echo(peer: &Peer) {
    let stream = peer.stream().try_clone().expect("a connected stream");
    stream.set_read_timeout(Some(DEADLINE)).expect("a connected stream");
    let mut socket = tungstenite::accept(stream).expect("a handshake");
    // Pings are answered by the library while it reads.
    while let Ok(message) = socket.read() {
        match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).expect("an open socket"),
            _ => {}
        }
    }
}

/// Says things of many sizes, hears them again, and closes as the protocol wants it.
#[track_caller]
fn converse(mut socket: WebSocket<TcpStream>) {
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000, 10_000_000] {
        let message = Message::Binary(pattern(size).into());
        socket.send(message.clone()).expect("an open socket");
        assert!(socket.read().expect("an echo") == message, "another message of {size} bytes");
    }
    let ping = Message::Ping("are you there?".into());
    socket.send(ping).expect("an open socket");
    assert_eq!(socket.read().expect("an answer"), Message::Pong("are you there?".into()));
    for number in 0..100 {
        socket.send(Message::Text(number.to_string().into())).expect("an open socket");
    }
    for number in 0..100 {
        assert_eq!(socket.read().expect("an echo"), Message::Text(number.to_string().into()));
    }
    socket.close(None).expect("an open socket");
    let end = loop {
        match socket.read() {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
}

/// A stream that is read no longer than any other wait.
fn bounded(stream: &TcpStream) -> TcpStream {
    let stream = stream.try_clone().expect("a connected stream");
    stream.set_read_timeout(Some(DEADLINE)).expect("a connected stream");
    stream
}

#[test]
fn websockets_of_a_library_by_a_route_and_through_a_tunnel() {
    let origin = Origin::start(|peer| echo(&peer));
    let proxy = Setup::forward().upstream("origin", &[&origin.url()], "").start();
    let before = proxy.open_files();
    let url = format!("ws://{}/chat", origin.address());
    for _ in 0..3 {
        let client = proxy.connect();
        let (socket, answer) =
            tungstenite::client(&url, bounded(client.stream())).expect("a handshake");
        assert_eq!(answer.status(), 101);
        converse(socket);
        let client = proxy.tunnel(origin.address());
        let (socket, _) = tungstenite::client(&url, bounded(client.stream())).expect("a handshake");
        converse(socket);
    }
    proxy.wait_for_open_files(before);
}

const WEBSOCKET: &str = r"
if (typeof WebSocket !== 'function') process.exit(77);
const socket = new WebSocket(process.argv[1]);
const big = 'x'.repeat(1000000);
const sent = ['a', '', 'b'.repeat(70000), big];
let at = 0;
socket.onopen = () => socket.send(sent[0]);
socket.onerror = (event) => { console.error(event.message); process.exit(1); };
socket.onmessage = (event) => {
  if (event.data !== sent[at]) { console.error('another message'); process.exit(1); }
  at += 1;
  if (at === sent.length) socket.close(1000, 'done');
  else socket.send(sent[at]);
};
socket.onclose = (event) => process.exit(event.code === 1000 && at === sent.length ? 0 : 1);
";

#[test]
fn websockets_of_node_by_a_route() {
    let Some(program) = installed("node") else { return };
    let origin = Origin::start(|peer| echo(&peer));
    let proxy = Proxy::to(&origin);
    let home = Home::new();
    // Node has it from version 22 on, and in version 20 for those who ask for it.
    let converse = |flag: Option<&str>| {
        let mut command = client(&program, &home);
        command.args(flag);
        command.args(["-e", WEBSOCKET, "--", &format!("ws://{}/chat", proxy.address())]);
        run(command)
    };
    let mut output = converse(Some("--experimental-websocket"));
    if output.status.code() == Some(BAD_FLAG) {
        output = converse(None);
    }
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: this Node has no WebSocket of its own");
        return;
    }
    assert!(output.status.success(), "{output:?}");
}
