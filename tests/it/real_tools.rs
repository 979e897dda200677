//! Programs that people use, at the places where they were refused or understood wrongly.
//!
//! Comes in: pushes and uploads of some megabytes with right and with wrong logins, packages in a
//! row, targets that are not encoded, offers of HTTP/2. Goes out: what git, Python, curl, apt, Node
//! and Java got to read. A program that is missing is named, and its test does nothing.

use super::real_servers::Server;
use crate::support::{Home, Message, OK, Origin, Proxy, Setup, installed, pattern, run};
use std::fs;
use std::process::Command;

/// A proxy that asks for a password: `ann` has `U*U`.
fn with_users() -> Proxy {
    let users = "ann:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
    Setup::forward().file("users", users).set("forward.users_file", "users").start()
}

/// Files and repositories of its working directory, the latter by git's own program.
const FILES: &str = "
import http.server, os, subprocess, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def body(self):
        if self.headers.get('Transfer-Encoding') != 'chunked':
            return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        body = b''
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
    def do_GET(self):
        if '.git' in self.path:
            self.do_POST()
        else:
            super().do_GET()
    def do_POST(self):
        body = self.body()
        path, _, query = self.path.partition('?')
        said = {'CONTENT_TYPE': 'Content-Type', 'HTTP_CONTENT_ENCODING': 'Content-Encoding'}
        said = {name: self.headers.get(field, '') for name, field in said.items()}
        cgi = dict(os.environ, GIT_PROJECT_ROOT=os.getcwd(), GIT_HTTP_EXPORT_ALL='1',
            REMOTE_USER='ann', PATH_INFO=path, QUERY_STRING=query, REQUEST_METHOD=self.command,
            CONTENT_LENGTH=str(len(body)), **said)
        backend = ['git', 'http-backend']
        out = subprocess.run(backend, input=body, env=cgi, stdout=subprocess.PIPE).stdout
        head, _, body = out.partition(b'\\r\\n\\r\\n')
        fields = dict(line.split(': ', 1) for line in head.decode().split('\\r\\n'))
        self.send_response(int(fields.pop('Status', '200')[:3]))
        for field in fields.items():
            self.send_header(*field)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

fn files() -> Option<Server> {
    let python = installed("python3")?;
    Some(Server::start(&python, &[("files.py", FILES)], &["files.py", "PORT"]))
}

#[test]
fn git_pushes_through_the_proxy_and_reads_that_its_login_is_refused() {
    let Some(program) = installed("git") else { return };
    let Some(server) = files() else { return };
    let git = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env_remove("no_proxy").env_remove("NO_PROXY");
        command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
        run({
            command.args(arguments).current_dir(server.home.path());
            command
        })
    };
    let succeed = |arguments: &[&str]| {
        let output = git(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    };
    succeed(&["init", "-q", "--bare", "far.git"]);
    succeed(&["init", "-q", "work"]);
    fs::write(server.home.path().join("work/file"), pattern(4_000_000)).expect("a new file");
    succeed(&["-C", "work", "add", "file"]);
    succeed(&["-C", "work", "commit", "-q", "-m", "file"]);
    let proxy = with_users();
    let push = |login: &str, branch: &str| {
        let through = format!("http.proxy=http://{login}@{}", proxy.address());
        let url = format!("http://localhost:{}/far.git", server.address.port());
        let to = format!("HEAD:{branch}");
        git(&["-C", "work", "-c", &through, "push", "-q", &url, &to])
    };
    let refused = push("ann:no", "refused");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("407") || said.contains("Proxy Authentication Required"), "{said}");
    let pushed = push("ann:U%2AU", "trunk");
    assert!(pushed.status.success(), "{pushed:?}");
    let far = succeed(&["-C", "far.git", "rev-parse", "trunk"]);
    assert_eq!(far, succeed(&["-C", "work", "rev-parse", "HEAD"]));
}

const UPLOAD: &str = "
import http.client, sys
body = b'a' * 20_000_000
for chunked in (False, True):
    connection = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=15)
    pieces = (body[at:at + 100_000] for at in range(0, len(body), 100_000))
    login = {'Proxy-Authorization': 'Basic YW5uOm5v'}
    url = 'http://localhost:1/'
    connection.request('POST', url, body=pieces if chunked else body, headers=login)
    answer = connection.getresponse()
    print(answer.status, answer.read().decode().strip())
";

#[test]
fn python_and_curl_read_why_their_large_upload_is_refused() {
    let proxy = with_users();
    if let Some(python) = installed("python3") {
        let mut command = Command::new(python);
        command.args(["-c", UPLOAD, &proxy.address().port().to_string()]);
        let output = run(command);
        let said = "407 Proxy Authentication Required\n".repeat(2);
        assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{output:?}");
    }
    let Some(curl) = installed("curl") else { return };
    let home = Home::new();
    let upload = home.path().join("upload");
    fs::write(&upload, pattern(20_000_000)).expect("a new file");
    for header in ["Expect:", "Transfer-Encoding: chunked"] {
        let mut command = Command::new(&curl);
        command.args(["-q", "-sS", "--max-time", "15", "-o", "/dev/null", "-w", "%{http_code}"]);
        command.args(["--noproxy", "", "-H", header, "-H", "Expect:", "-T"]).arg(&upload);
        command.arg("--proxy").arg(format!("http://ann:no@{}", proxy.address()));
        let output = run({
            command.arg("http://localhost:1/");
            command
        });
        assert_eq!(String::from_utf8_lossy(&output.stdout), "407", "{header} {output:?}");
    }
}

/// A repository of six packages below the working directory, and a place for apt's own files.
const REPOSITORY: &str = "
set -e
mkdir -p apt/lists/partial apt/archives/partial apt/etc/preferences.d got
touch apt/status
for n in 1 2 3 4 5 6; do
    mkdir -p p$n/DEBIAN
    printf 'Package: ringway-test-%s\\nVersion: 1\\nArchitecture: all\\n' $n > p$n/DEBIAN/control
    printf 'Maintainer: a <a@b.test>\\nDescription: a\\n' >> p$n/DEBIAN/control
    head -c 100000 /dev/urandom > p$n/payload
    dpkg-deb --build p$n $n.deb > /dev/null
    cat p$n/DEBIAN/control >> Packages
    printf 'Filename: ./%s.deb\\nSize: %s\\n' $n $(stat -c %s $n.deb) >> Packages
    printf 'SHA256: %s\\n\\n' $(sha256sum < $n.deb | cut -d' ' -f1) >> Packages
done
";

#[test]
fn apt_fetches_its_packages_through_the_proxy() {
    let (Some(apt), Some(_)) = (installed("apt-get"), installed("dpkg-deb")) else { return };
    let Some(server) = files() else { return };
    let here = server.home.path();
    let mut shell = Command::new("sh");
    shell.args(["-c", REPOSITORY]).current_dir(here);
    let made = run(shell);
    assert!(made.status.success(), "{made:?}");
    let source = format!("deb [trusted=yes] http://localhost:{}/ ./\n", server.address.port());
    server.home.write("sources.list", &source);
    let proxy = with_users();
    // Nothing of the system's own configuration, and nothing of its state.
    let (at, to) = (here.display(), proxy.address());
    let config = format!(
        "Dir \"{at}/apt\"; Dir::Etc \"{at}/apt/etc\"; Dir::Etc::main \"none\";
         Dir::Etc::parts \"preferences.d\"; Dir::Etc::sourcelist \"{at}/sources.list\";
         Dir::Etc::sourceparts \"preferences.d\"; Dir::State \"{at}/apt\";
         Dir::State::status \"{at}/apt/status\"; Dir::Cache \"{at}/apt\"; APT::Sandbox::User \"\";
         Acquire::Retries \"0\"; Acquire::Languages \"none\";
         Acquire::http::Proxy \"http://ann:U*U@{to}\";"
    );
    let config = server.home.write("apt.conf", &config);
    let packages: Vec<String> = (1..=6).map(|number| format!("ringway-test-{number}")).collect();
    for arguments in [vec!["update".to_owned()], [&["download".to_owned()], &*packages].concat()] {
        let mut command = Command::new(&apt);
        command.env("APT_CONFIG", &config).env_remove("http_proxy").env_remove("no_proxy");
        command.args(&arguments).current_dir(here.join("got"));
        let output = run(command);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    for number in 1..=6 {
        let got = fs::read(here.join(format!("got/ringway-test-{number}_1_all.deb")));
        let sent = fs::read(here.join(format!("{number}.deb"))).expect("a package");
        assert!(got.expect("a package") == sent, "package {number} has other bytes");
    }
}

const KEPT: &str = "
const http = require('http');
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (method, path, body) => new Promise((done, fail) => {
    // Without a length, Node sends a body of DELETE as the beginning of what comes next.
    const headers = body ? { 'Content-Length': body.length } : {};
    const options = { host: '127.0.0.1', port: process.argv[1], method, path, agent, headers };
    const request = http.request({ ...options, timeout: 15000 }, (answer) => {
        answer.resume();
        answer.on('end', () => done(`${answer.statusCode} ${request.reusedSocket}`));
    });
    request.on('error', fail).end(body);
});
(async () => {
    console.log(await ask('GET', '/open#fragment'));
    console.log(await ask('POST', '/read', 'a'.repeat(1e6)));
    console.log(await ask('GET', '/caf\\u00e9?\\u00e9'));
    console.log(await ask('DELETE', '/open', 'abc'));
    console.log(await ask('HEAD', '/open'));
    console.log(await ask('GET', '/open'));
    agent.destroy();
})();
";

#[test]
fn node_keeps_one_connection_for_targets_that_it_does_not_encode() {
    let Some(node) = installed("node") else { return };
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            peer.send(if request.method() == "HEAD" { &OK[..OK.len() - 2] } else { OK });
        }
    });
    let proxy = Proxy::to(&origin);
    let mut command = Command::new(node);
    command.args(["-e", KEPT, "--", &proxy.address().port().to_string()]);
    let output = run(command);
    let said = "200 false\n".to_owned() + &"200 true\n".repeat(5);
    assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{output:?}");
    let seen = origin.seen();
    let targets: Vec<&str> = seen.requests.iter().map(Message::target).collect();
    assert_eq!(targets, ["/open", "/read", "/caf%E9?%E9", "/open", "/open", "/open"]);
    assert_eq!(seen.requests[1].body.len(), 1_000_000);
}

#[test]
fn curl_may_name_a_user_and_a_fragment_in_a_target() {
    let Some(curl) = installed("curl") else { return };
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().start();
    let mut command = Command::new(curl);
    let target = format!("http://ann:secret@{}/path?q#fragment", origin.address());
    command.args(["-q", "-sS", "--fail", "--max-time", "15", "--noproxy", "", "--proxy"]);
    command.arg(format!("http://{}", proxy.address()));
    command.args(["--request-target", &target, &origin.url()]);
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(origin.only_request().target(), "/path?q");
    assert!(!String::from_utf8_lossy(&origin.seen().bytes()).contains("secret"));
}

const JAVA: &str = r#"
import java.net.*;
import java.net.http.*;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
class Ask {
    public static void main(String[] arguments) throws Exception {
        var builder = HttpClient.newBuilder();
        if (arguments.length > 1) {
            var port = Integer.parseInt(arguments[1]);
            builder.proxy(ProxySelector.of(new InetSocketAddress("127.0.0.1", port)));
        }
        var client = builder.build();
        for (int round = 0; round < 3; round++) {
            var request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .timeout(Duration.ofSeconds(15));
            var got = client.send(request.GET().build(), BodyHandlers.ofString());
            var body = BodyPublishers.ofByteArray(new byte[300000]);
            var posted = client.send(request.POST(body).build(), BodyHandlers.ofString());
            System.out.println(got.statusCode() + got.body() + posted.statusCode());
        }
    }
}
"#;

/// It asks for HTTP/2 by an upgrade, with every request that it has no connection for.
#[test]
fn java_is_served_by_a_route_and_through_the_forward_proxy() {
    let Some(java) = installed("java") else { return };
    let home = Home::new();
    home.write("Ask.java", JAVA);
    for is_forward in [false, true] {
        let origin = Origin::answering(OK);
        let proxy = if is_forward { Setup::forward() } else { Setup::to(&origin) }.start();
        let mut command = Command::new(&java);
        command.args(["-XX:TieredStopAtLevel=1", "Ask.java"]).current_dir(home.path());
        let port = proxy.address().port().to_string();
        if is_forward {
            command.args([&origin.url(), &port]);
        } else {
            command.arg(format!("http://127.0.0.1:{port}/"));
        }
        let output = run(command);
        if String::from_utf8_lossy(&output.stderr).contains("jdk.compiler") {
            eprintln!("skipped: this Java has no compiler");
            return;
        }
        let said = "200ok200\n".repeat(3);
        assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{output:?}");
        let seen = origin.seen();
        assert_eq!(seen.requests.len(), 6);
        for request in &seen.requests {
            request.expect_no_field("Upgrade").expect_no_field("HTTP2-Settings");
            let is_post = request.method() == "POST";
            assert_eq!(request.body.len(), if is_post { 300_000 } else { 0 }, "{request}");
        }
    }
}
