//! Clients that people use, by HTTP/2 and over TLS: Node, Python's httpx, Chromium, gRPC-Web.
//!
//! Comes in: scripts of theirs, as their manuals have them. Goes out: what they got, and what the
//! origin behind the proxy saw, which speaks HTTP/1.1. A program that is missing and cannot be
//! installed is named, and its test does nothing.

use crate::real_clients::{client, echo};
use crate::support::python::environment;
use crate::support::{Home, Origin, Pair, Proxy, Setup, installed, run, wait_until};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// A proxy that speaks TLS too, and a file with whom to believe.
fn secured(setup: Setup) -> (Proxy, Home, PathBuf) {
    let pair = Pair::of(&["localhost"]);
    let home = Home::new();
    let authority = home.write("authority.pem", &pair.chain);
    (setup.listen_tls(&pair).start(), home, authority)
}

fn urls(proxy: &Proxy) -> [String; 2] {
    let port = proxy.addresses().last().expect("it listens").port();
    [format!("http://{}", proxy.address()), format!("https://localhost:{port}")]
}

/// Sends every body back.
fn echoing() -> Origin {
    Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let length = request.body.len();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            peer.send(&request.body);
        }
    })
}

const NODE: &str = r"
const http2 = require('http2'), fs = require('fs');
const [url, certificate] = process.argv.slice(1);
// What it holds for all its streams is more than it allows itself at first.
const options = { ca: fs.readFileSync(certificate), maxSessionMemory: 200 };
const session = http2.connect(url, options);
session.on('error', (error) => { console.error(error); process.exit(1); });
const ask = (method, body) => new Promise((done, fail) => {
  const stream = session.request({ ':path': '/', ':method': method });
  const parts = [];
  let status;
  stream.on('response', (head) => { status = head[':status']; });
  stream.on('data', (part) => parts.push(part)).on('error', fail);
  stream.on('end', () => done({ status, body: Buffer.concat(parts) }));
  stream.end(body);
});
(async () => {
  const bodies = [...Array(100).keys()].map((number) => Buffer.alloc(number * 5000, number));
  bodies.push(Buffer.alloc(5000000, 'u'));
  const answers = await Promise.all(bodies.map((body) => ask('POST', body)));
  answers.forEach(({ status, body }, at) => {
    if (status !== 200 || !body.equals(bodies[at])) throw new Error(`${at}: ${status}`);
  });
  session.close();
})().catch((error) => { console.error(error); process.exit(1); });
";

#[test]
fn node_by_http2() {
    let Some(program) = installed("node") else { return };
    let origin = echoing();
    let (proxy, home, authority) = secured(Setup::to(&origin));
    for url in urls(&proxy) {
        let mut command = client(&program, &home);
        command.args(["-e", NODE, "--", &url]).arg(&authority);
        let output = run(command);
        assert!(output.status.success(), "{url}: {output:?}");
    }
    assert_eq!(origin.seen().requests.len(), 202);
}

/// The Python that has httpx with HTTP/2: from an environment that is made once and kept.
static HTTPX: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| environment("python-httpx", "import httpx, h2", &["httpx[http2]"]));

/// Many at once, then bodies whose length nobody says.
const SCRIPT: &str = r"
import asyncio, ssl, sys, httpx
url, authority = sys.argv[1:]
async def parts():
    for _ in range(50):
        yield b'u' * 100_000
async def main():
    context = ssl.create_default_context(cafile=authority)
    async with httpx.AsyncClient(http1=False, http2=True, verify=context, timeout=20) as client:
        bodies = [bytes([number]) * number * 3000 for number in range(100)]
        answers = await asyncio.gather(*[client.post(url, content=body) for body in bodies])
        for body, answer in zip(bodies, answers):
            assert (answer.status_code, answer.http_version) == (200, 'HTTP/2'), answer
            assert answer.content == body
        for _ in range(3):
            answer = await client.post(url, content=parts())
            assert answer.status_code == 200 and answer.content == b'u' * 5_000_000, answer
asyncio.run(main())
";

#[test]
fn httpx_by_http2() {
    let Some(python) = HTTPX.as_deref() else { return };
    let origin = echoing();
    let (proxy, home, authority) = secured(Setup::to(&origin));
    for url in urls(&proxy) {
        let mut command = client(python, &home);
        command.args(["-c", SCRIPT, &url]).arg(&authority);
        let output = run(command);
        assert!(output.status.success(), "{url}: {output:?}");
    }
}

/// Loads a hundred images, talks by a WebSocket, and says how that went.
const PAGE: &str = "<html><body><script>
(async () => {
  let said = '';
  try {
    await Promise.all([...Array(100).keys()].map((number) => new Promise((done, fail) => {
      const image = new Image();
      image.onload = done;
      image.onerror = () => fail(`image ${number}`);
      image.src = `/image/${number}`;
    })));
    const hops = performance.getEntriesByType('resource').map((entry) => entry.nextHopProtocol);
    said = [...new Set(hops)].join();
    const socket = new WebSocket(`wss://${location.host}/chat`);
    const big = 'x'.repeat(200000);
    said += await new Promise((done, fail) => {
      socket.onopen = () => socket.send(big);
      socket.onmessage = ({ data }) => done(data === big ? '-echo' : '-other');
      socket.onerror = () => fail('socket');
    });
  } catch (error) {
    said += `-failed-${error}`;
  }
  fetch(`/done/${encodeURIComponent(said)}`);
})();
</script></body></html>";

const IMAGE: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1\" height=\"1\"/>";

#[test]
fn chromium_loads_a_page_of_many_images_and_talks_by_a_websocket() {
    let Some(program) = installed("chromium") else { return };
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let (kind, body) = match request.target() {
                "/" => ("text/html", PAGE),
                target if target.starts_with("/image") => ("image/svg+xml", IMAGE),
                _ => ("text/plain", "ok"),
            };
            let length = body.len();
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        }
    });
    let chat = Origin::start(|peer| echo(&peer));
    let setup = Setup::new()
        .upstream("pages", &[&origin.url()], "")
        .upstream("chat", &[&chat.url()], "")
        .route("", "/chat", "chat", "")
        .route("", "/", "pages", "")
        .set("log.access", true);
    let (proxy, home, _) = secured(setup);
    let mut command = client(&program, &home);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update"]);
    command.args(["--disable-sync", "--disable-default-apps", "--ignore-certificate-errors"]);
    // It may speak to this machine only.
    command.arg("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost");
    command.arg(format!("--user-data-dir={}", home.path().join("profile").display()));
    command.args(["--remote-debugging-port=0", &format!("{}/", urls(&proxy)[1])]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut browser = command.spawn().expect("chromium can be started");
    let said = || {
        let seen = origin.seen();
        let targets = seen.requests.iter().filter_map(|it| it.target().strip_prefix("/done/"));
        targets.map(str::to_owned).next()
    };
    let began = std::time::Instant::now();
    while said().is_none() && began.elapsed().as_secs() < 60 {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    let _ = browser.kill();
    let _ = browser.wait();
    assert_eq!(said().as_deref(), Some("h2-echo"));
    let images =
        origin.seen().requests.iter().filter(|it| it.target().starts_with("/image")).count();
    assert_eq!(images, 100);
    wait_until("the line of the WebSocket", || {
        proxy.log_lines().iter().any(|it| it.contains("/chat") && it.contains("http=2"))
    });
}

/// Serves, or asks for, two methods of a service by Connect's own library.
const GRPC_WEB: &str = r"
const { fromJson, createFileRegistry } = require('@bufbuild/protobuf');
const { FileDescriptorSetSchema } = require('@bufbuild/protobuf/wkt');
const { createClient, ConnectError, Code } = require('@connectrpc/connect');
const { connectNodeAdapter, createGrpcWebTransport } = require('@connectrpc/connect-node');
const field = { name: 'text', number: 1, label: 'LABEL_OPTIONAL', type: 'TYPE_STRING' };
const method = (name, more) => ({ name, inputType: '.e.Text', outputType: '.e.Text', ...more });
const file = { name: 'e.proto', package: 'e', syntax: 'proto3',
  messageType: [{ name: 'Text', field: [{ ...field, jsonName: 'text' }] }],
  service: [{ name: 'Echo',
    method: [method('Say'), method('Count', { serverStreaming: true })] }] };
const files = createFileRegistry(fromJson(FileDescriptorSetSchema, { file: [file] }));
const Echo = files.getService('e.Echo');
const routes = (router) => router.service(Echo, {
  say: ({ text }) => {
    if (text === 'no') throw new ConnectError('none of that', Code.NotFound);
    return { text: text + '!' };
  },
  async *count() { for (let number = 0; number < 50; number++) yield { text: String(number) }; },
});
const serve = () => {
  const server = require('http').createServer(connectNodeAdapter({ routes }));
  server.listen(0, '127.0.0.1', () => console.log(server.address().port));
};
const expect = (is, what) => { if (!is) throw new Error(what); };
const ask = async (baseUrl) => {
  for (const httpVersion of ['1.1', '2']) {
    const client = createClient(Echo, createGrpcWebTransport({ baseUrl, httpVersion }));
    const many = [...Array(50).keys()].map((number) => client.say({ text: 'a' + number }));
    (await Promise.all(many)).forEach(({ text }, at) => expect(text === `a${at}!`, text));
    const big = 'x'.repeat(1000000);
    expect((await client.say({ text: big })).text === big + '!', 'another text');
    let count = 0;
    for await (const { text } of client.count({})) expect(text === String(count++), text);
    expect(count === 50, `${count} of 50`);
    const error = await client.say({ text: 'no' }).then(() => undefined, (error) => error);
    expect(error?.code === Code.NotFound && error.rawMessage === 'none of that', error);
  }
  process.exit(0);
};
if (process.argv[2] === 'serve') serve();
else ask(process.argv[2]).catch((error) => { console.error(error); process.exit(1); });
";

/// The folder with the library, and the script in it.
fn grpc_web() -> Option<PathBuf> {
    let npm = installed("npm")?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc-web");
    std::fs::create_dir_all(&folder).ok()?;
    let packages = ["@connectrpc/connect@2", "@connectrpc/connect-node@2", "@bufbuild/protobuf@2"];
    if !folder.join("node_modules/@connectrpc/connect-node/package.json").is_file() {
        std::fs::write(folder.join("package.json"), "{}").ok()?;
        let mut command = Command::new(npm);
        command.args(["install", "--silent", "--no-audit", "--no-fund", "--fetch-retries=1"]);
        command.args(packages).current_dir(&folder).stdin(Stdio::null());
        if !command.output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: @connectrpc/connect-node cannot be installed by npm");
            return None;
        }
    }
    let script = folder.join("echo.js");
    std::fs::write(&script, GRPC_WEB).ok()?;
    Some(script)
}

#[test]
fn grpc_web_passes_to_an_origin_of_http_1_from_both() {
    let (Some(node), Some(script)) = (installed("node"), grpc_web()) else { return };
    let home = Home::new();
    let mut command = client(&node, &home);
    command.arg(&script).arg("serve").stdout(Stdio::piped()).stdin(Stdio::null());
    let mut server = command.spawn().expect("Node can be started");
    let mut port = String::new();
    let output = server.stdout.take().expect("piped");
    let read = BufReader::new(output).read_line(&mut port);
    let asked = read.is_ok_and(|count| count > 0).then(|| {
        let proxy = Setup::to_url(&format!("http://127.0.0.1:{}", port.trim())).start();
        let mut command = client(&node, &home);
        command.arg(&script).arg(&urls(&proxy)[0]);
        run(command)
    });
    let _ = server.kill();
    let _ = server.wait();
    let output = asked.expect("the server names its port");
    assert!(output.status.success(), "{output:?}");
}
