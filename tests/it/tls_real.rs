//! Real programs that speak TLS, as clients, as origins and through the forward proxy.
//!
//! Comes in: curl, openssl, Python, Node, Java and Chromium on one side, nginx, openssl, Python and
//! Node on the other. Goes out: the bytes that they got, whether they went on with a session, and
//! how many connections it took. A program that is missing is named, and its test does nothing.

use crate::real_servers::Server;
use crate::support::{Home, OK, Origin, Pair, Proxy, Setup, Terms, TlsOrigin, installed, pattern};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const SIZE: usize = 1_000_000;

/// A proxy that clients reach over TLS, with all that they need beside it.
struct Secured {
    proxy: Proxy,
    url: String,
}

impl Secured {
    fn start(setup: Setup) -> Self {
        let pair = Pair::of_authority(&["localhost"]);
        let proxy = setup.listen_tls(&pair).start();
        let url = format!("https://localhost:{}", secure_address(&proxy).port());
        Self { proxy, url }
    }

    fn address(&self) -> SocketAddr {
        secure_address(&self.proxy)
    }

    fn ca(&self) -> PathBuf {
        self.proxy.home().join("shown.pem")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.proxy.home().join(name);
        fs::write(&path, text).expect("a new file");
        path
    }
}

fn secure_address(proxy: &Proxy) -> SocketAddr {
    *proxy.addresses().last().expect("it listens")
}

/// Answers with a body of [`SIZE`] bytes, and to a POST with what came.
fn bodies() -> Origin {
    Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let body =
                if request.method() == "POST" { request.body.clone() } else { pattern(SIZE) };
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.send(&body);
        }
    })
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("it can be started");
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn curl_gets_and_sends_in_every_version() {
    let Some(curl) = installed("curl") else { return };
    let origin = bodies();
    let secured = Secured::start(Setup::to(&origin).set("pool.idle_expiry", "5s"));
    let body = secured.proxy.home().join("body");
    fs::write(&body, pattern(SIZE)).unwrap();
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"], &["--http1.1"], &["--http1.0"]] {
        let mut get = Command::new(&curl);
        get.args(["-sSf", "--max-time", "20", "--cacert"]).arg(secured.ca()).args(version);
        // Two on one connection.
        let output = run(get.args([&secured.url, &secured.url]));
        assert!(output.stdout == [pattern(SIZE), pattern(SIZE)].concat(), "{version:?}");
        let mut post = Command::new(&curl);
        post.args(["-sSf", "--max-time", "20", "--cacert"]).arg(secured.ca()).args(version);
        post.arg("--data-binary").arg(format!("@{}", body.display())).arg(&secured.url);
        assert!(run(&mut post).stdout == pattern(SIZE), "{version:?}");
    }
}

#[test]
fn curl_shows_its_certificate() {
    let Some(curl) = installed("curl") else { return };
    let (origin, own) = (Origin::answering(OK), Pair::of(&["client.test"]));
    let setup = Setup::to(&origin)
        .file("clients.pem", &own.chain)
        .file("own.key", &own.key)
        .set("tls.client_auth", "required")
        .set("tls.client_ca", "clients.pem");
    let secured = Secured::start(setup);
    let curl = |more: &[&str]| {
        let mut command = Command::new(&curl);
        command.args(["-sSf", "--max-time", "20", "--cacert"]).arg(secured.ca()).args(more);
        command.current_dir(secured.proxy.home()).arg(&secured.url).output().expect("curl")
    };
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let shown = [version, &["--cert", "clients.pem", "--key", "own.key"]].concat();
        assert_eq!(text(&curl(&shown).stdout), "ok", "{version:?}");
        assert!(!curl(version).status.success(), "{version:?}");
    }
}

#[test]
fn openssl_goes_on_with_its_session() {
    let Some(openssl) = installed("openssl") else { return };
    let origin = Origin::answering(OK);
    let secured = Secured::start(Setup::to(&origin).set("pool.idle_expiry", "5s"));
    let address = secured.address().to_string();
    let visit = |arguments: &[&str]| {
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-ign_eof", "-servername", "localhost", "-connect", &address]);
        command.arg("-CAfile").arg(secured.ca()).args(["-verify_return_error"]).args(arguments);
        command.current_dir(secured.proxy.home()).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("openssl can be started");
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = text(&output.stdout) + &text(&output.stderr);
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
        text
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let first = visit(&[version, "-sess_out", "session"]);
        assert!(!first.contains("Reused, "), "{version}: {first}");
        let again = visit(&[version, "-sess_in", "session"]);
        assert!(again.contains("Reused, "), "{version}: {again}");
    }
    // A full handshake each, and then one for all.
    for reuse in ["-new", "-reuse"] {
        let mut command = Command::new(&openssl);
        command.args(["s_time", "-connect", &address, "-www", "/", "-time", "1", reuse]);
        let output = command.stdin(Stdio::null()).output().expect("s_time can be started");
        let text = text(&output.stdout);
        assert!(text.contains("connections in"), "{reuse}: {output:?}");
    }
}

const PYTHON_CLIENT: &str = r#"
import http.client, socket, ssl, sys
port, ca, size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["http/1.1"])
    client = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
    for _ in range(3):
        client.request("GET", "/")
        assert len(client.getresponse().read()) == size
        client.request("POST", "/", b"x" * 300000)
        assert client.getresponse().read() == b"x" * 300000
    print(client.sock.version(), client.sock.selected_alpn_protocol())
    client.close()
    # With its session again, and a close that is said by both.
    first = None
    for _ in range(2):
        raw = socket.create_connection(("localhost", port), 20)
        secure = context.wrap_socket(raw, server_hostname="localhost", session=first)
        secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        count = 0
        while piece := secure.recv(65536):
            count += len(piece)
        assert count > size
        print("reused", secure.session_reused)
        first = secure.session
        secure.unwrap()
"#;

#[test]
fn python_gets_and_sends_and_goes_on_with_its_session() {
    let Some(python) = installed("python3") else { return };
    let origin = bodies();
    let secured = Secured::start(Setup::to(&origin).set("pool.idle_expiry", "5s"));
    let script = secured.write("client.py", PYTHON_CLIENT);
    let mut command = Command::new(python);
    command.arg(script).arg(secured.address().port().to_string()).arg(secured.ca());
    let output = text(&run(command.arg(SIZE.to_string())).stdout);
    let expected = "TLSv1.2 http/1.1\nreused False\nreused True\n\
                    TLSv1.3 http/1.1\nreused False\nreused True\n";
    assert_eq!(output, expected);
}

const NODE_CLIENT: &str = r#"
const https = require("https"), fs = require("fs");
const [port, ca, size] = process.argv.slice(2);
const ask = (agent, version, method, body) => new Promise((resolve, reject) => {
    const options = { host: "localhost", port, ca: fs.readFileSync(ca), agent, method,
        minVersion: version, maxVersion: version };
    const request = https.request(options, answer => {
        let count = 0;
        const isReused = answer.socket.isSessionReused();
        answer.on("data", piece => count += piece.length);
        answer.on("end", () => resolve([answer.statusCode, count,
            isReused]));
        answer.on("aborted", reject);
    });
    request.on("error", reject);
    request.end(body);
});
(async () => {
    for (const version of ["TLSv1.2", "TLSv1.3"]) {
        const kept = new https.Agent({ keepAlive: true, maxSockets: 1 });
        for (let i = 0; i < 3; i++) await ask(kept, version, "GET");
        const [status, count] = await ask(kept, version, "POST", Buffer.alloc(300000));
        console.log(version, status, count);
        kept.destroy();
        const each = new https.Agent({ keepAlive: false });
        await ask(each, version, "GET");
        const again = await ask(each, version, "GET");
        console.log(again[0], again[1] == size, again[2]);
    }
})().catch(error => { console.error(error); process.exit(1); });
"#;

#[test]
fn node_gets_and_sends_and_goes_on_with_its_session() {
    let Some(node) = installed("node") else { return };
    let origin = bodies();
    let secured = Secured::start(Setup::to(&origin).set("pool.idle_expiry", "5s"));
    let script = secured.write("client.js", NODE_CLIENT);
    let mut command = Command::new(node);
    command.arg(script).arg(secured.address().port().to_string()).arg(secured.ca());
    let output = text(&run(command.arg(SIZE.to_string())).stdout);
    let expected = "TLSv1.2 200 300000\n200 true true\nTLSv1.3 200 300000\n200 true true\n";
    assert_eq!(output, expected);
}

const JAVA_CLIENT: &str = r#"
import java.io.*;
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.*;
import javax.net.ssl.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var file = Files.newInputStream(Path.of(arguments[1]))) {
            store.setCertificateEntry("ca",
                CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        for (var version : new String[] { "TLSv1.2", "TLSv1.3" }) {
            var context = SSLContext.getInstance(version);
            context.init(null, trust.getTrustManagers(), null);
            var parameters = new SSLParameters();
            parameters.setProtocols(new String[] { version });
            // It offers h2, too.
            var client = HttpClient.newBuilder().sslContext(context)
                .sslParameters(parameters).build();
            var uri = URI.create(arguments[0]);
            for (int i = 0; i < 3; i++) {
                var answer = client.send(HttpRequest.newBuilder(uri).build(),
                    HttpResponse.BodyHandlers.ofByteArray());
                var sent = client.send(HttpRequest.newBuilder(uri)
                    .POST(HttpRequest.BodyPublishers.ofByteArray(new byte[300000])).build(),
                    HttpResponse.BodyHandlers.ofByteArray());
                System.out.println(version + " " + answer.version() + " " + answer.body().length
                    + " " + sent.body().length);
            }
        }
    }
}
"#;

#[test]
fn java_gets_and_sends() {
    let Some(java) = installed("java") else { return };
    let origin = bodies();
    let secured = Secured::start(Setup::to(&origin).set("pool.idle_expiry", "5s"));
    let source = secured.write("Client.java", JAVA_CLIENT);
    let output = Command::new(java).arg(source).arg(&secured.url).arg(secured.ca()).output();
    let output = output.expect("java can be started");
    let errors = text(&output.stderr);
    if errors.contains("Module jdk.compiler") || errors.contains("jdk.compiler not found") {
        eprintln!("skipped: this java cannot run a source file");
        return;
    }
    assert!(output.status.success(), "{errors}");
    let line = |version| format!("{version} HTTP_2 {SIZE} 300000\n");
    let expected = line("TLSv1.2").repeat(3) + &line("TLSv1.3").repeat(3);
    assert_eq!(text(&output.stdout), expected);
}

/// An origin of another's making behind the proxy, and the certificate that it shows.
fn behind(server: &Server, certificate: &str) -> Setup {
    // One target: `localhost` is two.
    let url = format!("https://{}", server.address);
    let lines = "[upstream.tls]\nca = \"origin.pem\"\nsni = \"localhost\"";
    Setup::new().file("origin.pem", certificate).upstream("origin", &[&url], lines)
}

#[track_caller]
fn metric(proxy: &Proxy, name: &str) -> u64 {
    let text = proxy.admin("GET", "/metrics");
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn nginx_is_an_origin_on_one_connection() {
    let Some(nginx) = installed("nginx") else { return };
    for (versions, tickets) in [("TLSv1.2", "on"), ("TLSv1.3", "on"), ("TLSv1.2 TLSv1.3", "off")] {
        let pair = Pair::of_authority(&["localhost"]);
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; {user} pid nginx.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; client_body_temp_path b; proxy_temp_path p;\n\
             fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
             server {{ listen 127.0.0.1:PORT ssl;\n\
             ssl_certificate a.pem; ssl_certificate_key a.key;\n\
             ssl_protocols {versions}; ssl_session_tickets {tickets}; keepalive_timeout 60s;\n\
             location / {{ root .; }} location = /reused {{ return 200 $ssl_session_reused; }}\n\
             location = /close {{ keepalive_timeout 0; return 200 $ssl_session_reused; }} }} }}\n"
        );
        // It takes its port from a file.
        let start = "sed -i s/POR[T]/$1/ n.conf && exec \"$0\" -p . -c n.conf";
        let files = [
            ("n.conf", config.as_str()),
            ("a.pem", pair.chain.as_str()),
            ("a.key", pair.key.as_str()),
        ];
        let nginx = nginx.to_string_lossy();
        let server = Server::start(Path::new("/bin/sh"), &files, &["-c", start, &nginx, "PORT"]);
        fs::write(server.home.path().join("big"), pattern(SIZE)).unwrap();
        let proxy = behind(&server, &pair.chain).start();
        let get = |path: &str| {
            let mut client = proxy.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client.read_response()
        };
        for _ in 0..3 {
            get("/big").expect_status(200).expect_body(pattern(SIZE));
        }
        // A rested one, too.
        std::thread::sleep(Duration::from_millis(1500));
        get("/reused").expect_status(200).expect_body(".");
        assert_eq!(metric(&proxy, "ringway_pool_opened_total"), 1, "{versions}");
        get("/close").expect_status(200).expect_body(".");
        // The next connection goes on with the session of the first.
        if tickets == "on" {
            get("/reused").expect_status(200).expect_body("r");
        }
    }
}

#[test]
fn openssl_is_an_origin() {
    let Some(openssl) = installed("openssl") else { return };
    let pair = Pair::of_authority(&["localhost"]);
    let files = [("a.pem", pair.chain.as_str()), ("a.key", pair.key.as_str()), ("page", "a page")];
    for (version, mode) in
        [("-tls1_2", "-www"), ("-tls1_3", "-www"), ("-tls1_2", "-WWW"), ("-tls1_3", "-HTTP")]
    {
        let arguments = [
            "s_server",
            "-accept",
            "127.0.0.1:PORT",
            "-cert",
            "a.pem",
            "-key",
            "a.key",
            version,
            mode,
            "-quiet",
            "-num_tickets",
            "4",
        ];
        let server = Server::start(&openssl, &files, &arguments);
        let proxy = behind(&server, &pair.chain).start();
        for _ in 0..3 {
            if mode == "-www" {
                let answer = proxy.get();
                answer.expect_status(200);
                assert!(answer.text().contains("</pre>") || answer.text().contains("</HTML>"));
                continue;
            }
            let mut client = proxy.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
            let answer = client.read_response();
            if mode == "-HTTP" {
                continue;
            }
            answer.expect_status(200).expect_body("a page");
        }
    }
}

const PYTHON_SERVER: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = str(self.connection.session_reused).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/close":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("a.pem", "a.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

const NODE_SERVER: &str = r#"
const https = require("https"), fs = require("fs");
const options = { key: fs.readFileSync("a.key"), cert: fs.readFileSync("a.pem") };
https.createServer(options, (request, answer) => {
    if (request.url == "/close") answer.setHeader("Connection", "close");
    answer.end(request.socket.isSessionReused() ? "True" : "False");
}).listen(process.argv[2], "127.0.0.1");
"#;

#[test]
fn python_and_node_are_origins_that_go_on_with_sessions() {
    for (program, name, script) in
        [("python3", "server.py", PYTHON_SERVER), ("node", "server.js", NODE_SERVER)]
    {
        let Some(program) = installed(program) else { continue };
        let pair = Pair::of_authority(&["localhost"]);
        let files = [(name, script), ("a.pem", pair.chain.as_str()), ("a.key", pair.key.as_str())];
        let server = Server::start(&program, &files, &[name, "PORT"]);
        let proxy = behind(&server, &pair.chain).start();
        let get = |path: &str| {
            let mut client = proxy.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client.read_response().expect_status(200).text()
        };
        assert_eq!([get("/"), get("/"), get("/close")], ["False"; 3], "{name}");
        assert_eq!(metric(&proxy, "ringway_pool_opened_total"), 1, "{name}");
        assert_eq!(get("/close"), "True", "{name}");
    }
}

#[test]
fn curl_uses_the_forward_proxy_over_tls() {
    let Some(curl) = installed("curl") else { return };
    let (plain, pair) = (bodies(), Pair::of_authority(&["localhost"]));
    let secure = TlsOrigin::with(Terms::of(&pair).config(), |mut peer| {
        while peer.read_head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            peer.send(pattern(SIZE));
        }
    });
    let secured = Secured::start(Setup::forward().set("pool.idle_expiry", "5s"));
    let ca = secured.write("origin.pem", &pair.chain);
    for version in [&["--proxy-tlsv1", "--tls-max", "1.2"][..], &[]] {
        // In absolute form, by a tunnel, and by a tunnel with TLS in it.
        for (url, more) in [
            (format!("http://{}", plain.address()), &[][..]),
            (format!("http://{}", plain.address()), &["-p"]),
            (secure.url(), &[]),
        ] {
            let mut command = Command::new(&curl);
            command.args(["-sSf", "--max-time", "20", "--noproxy", "", "-x", &secured.url]);
            command.arg("--proxy-cacert").arg(secured.ca()).arg("--cacert").arg(&ca);
            let output = run(command.args(version).args(more).args([&url, &url]));
            assert!(output.stdout == [pattern(SIZE), pattern(SIZE)].concat(), "{url} {more:?}");
        }
    }
}

/// Chromium without a window, whose certificates are not looked at.
fn chromium(home: &Home, more: &[&str], url: &str) -> Option<String> {
    let program = installed("chromium")?;
    let mut command = Command::new(program);
    let profile = format!("--user-data-dir={}", home.path().join("profile").display());
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--disable-background-networking", "--no-first-run", "--disable-quic"]);
    command.args(["--ignore-certificate-errors", "--virtual-time-budget=20000", "--dump-dom"]);
    command.args([profile.as_str(), "--timeout=15000"]).args(more).arg(url);
    command.env("HOME", home.path()).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().expect("chromium can be started");
    Some(text(&output.stdout))
}

/// A page with many images that says how many of them have come.
fn page_with_images() -> Origin {
    // One transparent dot.
    const DOT: &[u8] =
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\
                         \x01\0\x01\0\0\x02\x01D\0;";
    Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let (kind, body) = if request.target() == "/" {
                let page = "<!doctype html><title>a</title><p id=n>0</p><script>let n = 0;\n\
                            for (let i = 0; i < 100; i++) { const image = new Image();\n\
                            image.onload = () => document.getElementById('n').textContent = ++n;\n\
                            image.src = '/' + i + '.gif'; document.body.append(image); }</script>";
                ("text/html", page.as_bytes())
            } else {
                ("image/gif", DOT)
            };
            let length = body.len();
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
            ));
            peer.send(body);
        }
    })
}

#[test]
fn chromium_gets_a_page_with_many_images() {
    let origin = page_with_images();
    let secured = Secured::start(Setup::to(&origin).set("pool.idle_expiry", "5s"));
    let home = Home::new();
    let Some(page) = chromium(&home, &[], &secured.url) else { return };
    assert!(page.contains("<p id=\"n\">100</p>"), "{page}");
    assert!(metric(&secured.proxy, "ringway_tls_handshakes_total") > 0);
}

#[test]
fn chromium_uses_the_forward_proxy_over_tls() {
    let origin = page_with_images();
    let inner = Secured::start(Setup::to(&origin).set("pool.idle_expiry", "5s"));
    let outer = Secured::start(Setup::forward().set("pool.idle_expiry", "5s"));
    let home = Home::new();
    let proxy = format!("--proxy-server={}", outer.url);
    // Else it goes to this machine without one.
    let more = [proxy.as_str(), "--proxy-bypass-list=<-loopback>"];
    let Some(page) = chromium(&home, &more, &inner.url) else { return };
    assert!(page.contains("<p id=\"n\">100</p>"), "{page}");
    let plain = format!("http://{}", origin.address());
    let page = chromium(&home, &more, &plain).unwrap_or_default();
    assert!(page.contains("<p id=\"n\">100</p>"), "{page}");
    assert!(metric(&outer.proxy, "ringway_tunnels_opened_total") > 0);
}
