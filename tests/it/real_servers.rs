//! Servers that people run, as origins, at the places where others were misread.
//!
//! Comes in: requests that hide others in their bodies, claims of strangers, logins by connection.
//! Goes out: what wsgiref, cheroot, gunicorn, uvicorn and Node understood of them. The servers of
//! Python are installed once, below `target`. What is missing is named, and its test does nothing.

use crate::support::python::environment;
use crate::support::{Daemon, GET, Home, Proxy, Setup, free_address, installed};
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// A server in a process of its own, with its files around it.
pub(crate) struct Server {
    _daemon: Daemon,
    pub(crate) address: SocketAddr,
    pub(crate) home: Home,
}

impl Server {
    /// `PORT` among the arguments becomes one that is free.
    pub(crate) fn start(program: &Path, files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let home = Home::new();
        for (name, text) in files {
            home.write(name, text);
        }
        let address = free_address();
        let mut command = Command::new(program);
        command.args(arguments.iter().map(|a| a.replace("PORT", &address.port().to_string())));
        command.current_dir(home.path());
        Self { _daemon: Daemon::at(address, command), address, home }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn proxied(&self) -> Setup {
        Setup::to_url(&self.url())
    }
}

/// The Python that has the servers: from an environment that is made once and kept.
static PYTHON: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let packages = ["cheroot", "gunicorn", "uvicorn"];
    environment("python-servers", "import cheroot, gunicorn, uvicorn", &packages)
});

/// The same for other modules.
pub(crate) fn python() -> Option<&'static Path> {
    PYTHON.as_deref()
}

/// Tells what it has been asked, and how the server has understood the last request. Reads the body
/// for `/read` only.
const APP: &str = "
import json
asked = []
def wsgi(environ, start):
    path, body = environ['PATH_INFO'], environ['wsgi.input']
    asked.append(path)
    if path == '/read':
        body.read(int(environ['CONTENT_LENGTH'])) if environ.get('CONTENT_LENGTH') else body.read()
    seen = {name: value for name, value in environ.items() if name.startswith('HTTP_')}
    seen.update(asked=asked, scheme=environ['wsgi.url_scheme'], client=environ['REMOTE_ADDR'])
    text = json.dumps(seen).encode()
    start('200 OK', [('Content-Length', str(len(text)))])
    return [text]
async def asgi(scope, receive, send):
    asked.append(scope['path'])
    while scope['path'] == '/read' and (await receive()).get('more_body'):
        pass
    seen = {}
    for name, value in scope['headers']:
        seen['HTTP_' + name.decode().upper().replace('-', '_')] = value.decode()
    seen.update(asked=asked, scheme=scope['scheme'], client=scope['client'][0])
    text = json.dumps(seen).encode()
    fields = [(b'content-length', str(len(text)).encode())]
    await send({'type': 'http.response.start', 'status': 200, 'headers': fields})
    await send({'type': 'http.response.body', 'body': text})
";

const WSGIREF: &str = "
import sys, wsgiref.simple_server, app
wsgiref.simple_server.make_server('127.0.0.1', int(sys.argv[1]), app.wsgi).serve_forever()
";

const CHEROOT: &str = "
import sys, cheroot.wsgi, app
cheroot.wsgi.Server(('127.0.0.1', int(sys.argv[1])), app.wsgi, numthreads=4).start()
";

const GUNICORN: [&str; 8] =
    ["-m", "gunicorn", "--bind=127.0.0.1:PORT", "-k", "gthread", "--threads", "4", "app:wsgi"];
const UVICORN: [&str; 7] =
    ["-m", "uvicorn", "--port", "PORT", "--lifespan=off", "--log-level=error", "app:asgi"];

/// Python's servers, one after the other.
fn with_each_python_server(mut test: impl FnMut(&str, &Server)) {
    let Some(python) = &*PYTHON else { return };
    let files = [("app.py", APP), ("wsgiref_.py", WSGIREF), ("cheroot_.py", CHEROOT)];
    for (name, arguments) in [
        ("wsgiref", &["wsgiref_.py", "PORT"][..]),
        ("cheroot", &["cheroot_.py", "PORT"]),
        ("gunicorn", &GUNICORN),
        ("uvicorn", &UVICORN),
    ] {
        test(name, &Server::start(python, &files, arguments));
    }
}

/// What the application says that it has seen.
#[track_caller]
fn told(name: &str, proxy: &Proxy, path: &str, lines: &str) -> Json {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n");
    let response = proxy.send(request).read_response();
    assert_eq!(response.status(), 200, "{name}: {response}");
    serde_json::from_str(&response.text()).expect("JSON")
}

#[test]
fn no_server_is_asked_what_a_body_or_a_trailer_hides() {
    const ROUNDS: usize = 5;
    let hidden = "GET /admin HTTP/1.1\r\nHost: test\r\n\r\n";
    let length = hidden.len();
    with_each_python_server(|name, server| {
        let proxy = server.proxied().start();
        let mut requests: Vec<String> = ["GET", "DELETE", "POST"]
            .iter()
            .map(|method| format!("{method} /open HTTP/1.1\r\nContent-Length: {length}\r\n"))
            .map(|head| format!("{head}Host: test\r\n\r\n{hidden}"))
            .collect();
        // wsgiref knows of no chunks. cheroot leaves trailers where they are.
        if name != "wsgiref" {
            let head = "POST /read HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
            let extension = "e".repeat(length);
            for trailers in ["X-Sum: GET /admin HTTP/1.1\r\n", "X-A: 1\r\nX-B: 2\r\n"] {
                let body = format!("{length:x};e={extension}\r\n{hidden}\r\n0;e\r\n{trailers}");
                requests.push(format!("{head}{body}\r\n"));
            }
        }
        let mut asked = 0;
        for request in (0..ROUNDS).flat_map(|_| &requests) {
            let mut client = proxy.send(request);
            // By the one who has hidden something, and by somebody else.
            for response in [client.read_response(), client.send(GET).read_response(), proxy.get()]
            {
                asked += 1;
                assert_eq!(response.status(), 200, "{name}: {request} {response}");
            }
        }
        let told = told(name, &proxy, "/last", "");
        let paths: Vec<&str> =
            told["asked"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
        let is_known = |path: &&str| ["/", "/open", "/read", "/last"].contains(path);
        assert!(paths.iter().all(is_known), "{name}: {paths:?}");
        assert_eq!(paths.len(), asked + 1, "{name}: {paths:?}");
    });
}

/// What Python's own server does with a body that nobody reads: it is the next request, although
/// the server has said `100 Continue` by itself.
const UNREAD: &str = "
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
asked = []
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        asked.append(self.path)
        body = ' '.join(asked).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

#[test]
fn leave_to_send_a_body_does_not_show_that_it_is_read() {
    let Some(python) = installed("python3") else { return };
    let server = Server::start(&python, &[("unread.py", UNREAD)], &["unread.py", "PORT"]);
    let proxy = server.proxied().start();
    let hidden = "GET /admin HTTP/1.1\r\nHost: test\r\n\r\n";
    for _ in 0..3 {
        let mut client = proxy.send(format!(
            "GET /open HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            hidden.len()
        ));
        assert_eq!(client.read_exact(25), b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send(hidden).read_response().expect_status(200);
        proxy.send(GET).expect_status(200);
    }
    let asked = proxy.get().text();
    assert_eq!(asked, "/open / /open / /open / /");
}

#[test]
fn servers_believe_a_balancer_and_hear_no_claim_of_a_stranger() {
    let claims = "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n";
    let false_ones = "X-Forwarded-Ssl: on\r\nX-Forwarded-Protocol: ssl\r\nX-Real-IP: 6.6.6.6\r\n\
                      X_Forwarded_For: 6.6.6.6\r\nX_Forwarded_Proto: https\r\n\
                      Proxy: http://evil.test\r\nRemote_User: root\r\nPath_Info: /admin\r\n";
    with_each_python_server(|name, server| {
        let trusting = server.proxied().set("server.trusted_proxies", ["127.0.0.1"]).start();
        let seen = told(name, &trusting, "/", claims);
        assert_eq!(seen["HTTP_X_FORWARDED_PROTO"], "https", "{name}: {seen}");
        let forwarded = seen["HTTP_FORWARDED"].as_str().unwrap();
        assert!(forwarded.contains("proto=https") && !forwarded.contains("=http;"), "{seen}");
        if ["gunicorn", "uvicorn"].contains(&name) {
            assert_eq!(seen["scheme"], "https", "{name}: {seen}");
        }
        if name == "uvicorn" {
            assert_eq!(seen["client"], "198.51.100.7", "{seen}");
        }
        let proxy = server.proxied().start();
        let seen = told(name, &proxy, "/", &format!("{claims}{false_ones}"));
        let facts = [&seen["scheme"], &seen["HTTP_X_FORWARDED_PROTO"]];
        assert_eq!(facts, ["http", "http"], "{name}: {seen}");
        let facts = [&seen["client"], &seen["HTTP_X_FORWARDED_FOR"]];
        assert_eq!(facts, ["127.0.0.1", "127.0.0.1"], "{name}: {seen}");
        for field in ["X_REAL_IP", "X_FORWARDED_SSL", "PROXY", "REMOTE_USER", "PATH_INFO"] {
            assert!(seen[format!("HTTP_{field}")].is_null(), "{name}: {field} in {seen}");
        }
    });
}

/// gunicorn takes `SCRIPT_NAME` from whom it trusts, and cuts it off the path.
#[test]
fn a_guarded_path_is_not_reached_by_a_script_name_of_the_client() {
    with_each_python_server(|name, server| {
        let proxy = server
            .proxied()
            .route("", "/", "origin", "")
            .route("", "/admin", "origin", "hooks = { deny = [\"127.0.0.0/8\"] }")
            .start();
        for spelling in ["SCRIPT_NAME", "Script_Name", "Script-Name", "script-NAME", "script_name"]
        {
            let seen = told(name, &proxy, "/open/admin", &format!("{spelling}: /open\r\n"));
            let last = seen["asked"].as_array().unwrap().last().unwrap();
            assert_eq!(last, "/open/admin", "{name} {spelling}");
        }
    });
}

/// Knows people by their connection, as NTLM has it.
const LOGIN: &str = "
const users = new WeakMap();
require('http').createServer((request, response) => {
    const login = request.headers.authorization;
    if (login) users.set(request.socket, login.split(' ').pop());
    const user = users.get(request.socket);
    if (!user) response.writeHead(401, { 'WWW-Authenticate': ['Negotiate', 'NTLM'] });
    response.end(user || 'who?');
}).listen(Number(process.argv[2]), '127.0.0.1');
";

#[test]
fn node_that_knows_people_by_their_connection_takes_nobody_for_another() {
    let Some(node) = installed("node") else { return };
    let server = Server::start(&node, &[("login.js", LOGIN)], &["login.js", "PORT"]);
    let proxy = server.proxied().start();
    let by = |scheme, user| {
        format!("GET / HTTP/1.1\r\nHost: test\r\nAuthorization: {scheme} {user}\r\n\r\n")
    };
    for (scheme, name) in [("NTLM", "ann"), ("Negotiate", "bob")] {
        let mut client = proxy.send(GET);
        client.expect_status(401);
        client.send(by(scheme, name)).read_response().expect_body(name);
        // Without a challenge first.
        let mut other = proxy.send(by(scheme, "eve"));
        other.read_response().expect_body("eve");
        for _ in 0..5 {
            proxy.send(GET).expect_status(401);
            client.send(GET).read_response().expect_body(name);
            other.send(GET).read_response().expect_body("eve");
        }
    }
}
