//! Other programs' configurations, imported: each is usable as it comes out, says what it left out,
//! and sends requests where the other program does.
//!
//! Comes in: files as they are found in the field (`tests/import`), and for those whose choice of a
//! route matters, the same questions to a real nginx and to ringway. Goes out: TOML that `check`
//! takes, remarks with their places, exit codes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{
    Client, Daemon, Home, Message, Pair, Proxy, free_address, installed, ringway,
};

/// A user with a password, as bcrypt.
const USERS: &str = "ann:$2y$05$bvIG6Nmid91Mu9RcmmWZfO5HJIMCT8riNW0hEp8f6/FuA2/mHZFpe\n";

/// A file of `tests/import` in a home of its own, with what it names beside it.
fn home(name: &str) -> Home {
    let home = Home::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(name);
    home.write(name, &fs::read_to_string(path).unwrap());
    fs::create_dir(home.path().join("certs")).unwrap();
    let pair = Pair::of(&["example.org"]);
    home.write("certs/site.pem", &pair.chain);
    home.write("certs/site.key", &pair.key);
    home.write("certs/both.pem", &format!("{}{}", pair.chain, pair.key));
    home.write("users", USERS);
    home
}

fn import(home: &Home, arguments: &[&str]) -> Output {
    ringway().arg("import").args(arguments).current_dir(home.path()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The TOML and the remarks.
#[track_caller]
fn imported(home: &Home, name: &str) -> (String, String) {
    let output = import(home, &[name]);
    let (toml, remarks) = (text(&output.stdout), text(&output.stderr));
    let code = if remarks.is_empty() { 0 } else { 3 };
    assert_eq!(output.status.code(), Some(code), "{name}: {remarks}\n{toml}");
    home.write("config.toml", &toml);
    let mut check = ringway();
    let checked = check.args(["check", "--file-only"]).current_dir(home.path()).output().unwrap();
    let errors = text(&checked.stderr);
    assert_eq!(checked.status.code(), Some(0), "{name}: {errors}\n{toml}\n{remarks}");
    (toml, remarks)
}

/// A file, parts of what it becomes, and parts of what is said to be left out.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

const CASES: &[Case] = &[
    (
        "two-apps.nginx.conf",
        &[
            "host = \"www.shop.example\"",
            "host = \"*.api.example\"",
            "add_real_ip = true",
            "timeouts = { connect = \"5s\", read = \"300s\" }",
            "body_bytes = \"50MiB\"",
        ],
        &["server_name ~^(?<tenant>.+)"],
    ),
    (
        "certbot.nginx.conf",
        &[
            "redirect_https = true",
            "unix:/run/app/app.sock",
            "Strict-Transport-Security",
            "names = [\"example.org\", \"www.example.org\"]",
        ],
        &["include proxy_params: ", "cannot be read"],
    ),
    (
        "balanced.nginx.conf",
        &[
            "balance = \"least_connections\"",
            "weight = 3",
            "priority = 1",
            "hash = \"path\"",
            "max_idle = 32",
            "max_connections = 50",
            "fail_timeout = \"30s\"",
            "trusted_proxies = [\"10.0.0.0/8\", \"192.168.1.7/32\"]",
            "family = \"v4\"",
            "\"502\", \"503\"",
        ],
        &[":16: server 10.0.0.4:8080 down: ", "proxy_cache media: ringway keeps no answers"],
    ),
    (
        "websocket.nginx.conf",
        &[
            "strip_prefix = true",
            "\"86400s\"",
            "remove = [\"X-Powered-By\"]",
            "X-Tenant = \"${header.x-tenant}-${cookie.tenant}\"",
            "\"/app/${1}\"",
        ],
        &[],
    ),
    (
        "guarded.nginx.conf",
        &[
            "connections_per_client = 20",
            "realm = \"Only us\"",
            "key = \"header:x-api-key\"",
            "methods = [\"GET\", \"POST\", \"HEAD\"]",
        ],
        &["auth_request /auth: the question quotes", "deny 10.0.0.0/8: hooks.deny is asked before"],
    ),
    (
        "gunicorn.nginx.conf",
        &["unix:/tmp/gunicorn.sock", "fail_timeout = \"0s\"", "workers = 2"],
        &["try_files $uri @proxy_to_app: ", "fastcgi_pass unix:/run/php/php-fpm.sock: "],
    ),
    (
        "grpc.nginx.conf",
        &[
            "min_version = \"1.3\"",
            "http = \"2\"",
            "http = \"auto\"",
            "redirect_https = true",
            "https://grpc.example${target}",
        ],
        &["stream: ringway carries HTTP"],
    ),
    (
        "subpath.nginx.conf",
        &["to = \"/grafana/\"", "replacement = \"/${1}\"", "path = \"/prometheus\""],
        &[
            "content_by_lua_block: ringway runs no scripts",
            "proxy_pass $to: ",
            "proxy_pass http://users-$name.internal: where it goes is known only when",
        ],
    ),
    (
        "apps.haproxy.cfg",
        &[
            "redirect_https = true",
            "clients = 4096",
            "balance = \"least_connections\"",
            "cookie = \"SRV\"",
            "max_connections = 100",
            "X-Request-From = \"${client_ip}\"",
        ],
        &["!{ src 10.0.0.0/8 }: a route does not ask what a request is not; ", "for everybody now"],
    ),
    (
        "listen.haproxy.cfg",
        &[
            "proxy_protocol = \"v1v2\"",
            "path = \"=/haproxy_test\"",
            "hash = \"header:x-session\"",
            "unix:/run/app.sock",
            "port = 7101",
        ],
        &["listen mysql: it is of mode tcp", "server b 127.0.0.1:7002 check disabled: "],
    ),
];

#[test]
fn files_of_nginx_and_haproxy_become_what_check_takes_and_say_what_they_left_out() {
    for (name, taken, remarked) in CASES {
        let home = home(name);
        let (toml, remarks) = imported(&home, name);
        for part in *taken {
            assert!(toml.contains(part), "{name}: no {part} in\n{toml}");
        }
        for part in *remarked {
            assert!(remarks.contains(part), "{name}: no {part} in\n{remarks}");
        }
        // Each remark stands in the result too.
        for line in remarks.lines() {
            let remark = line.strip_prefix("ringway: not taken: ").expect("a remark");
            assert!(toml.contains(&format!("#   {remark}")), "{name}: {remark}\n{toml}");
        }
    }
}

#[test]
fn what_was_shut_stays_shut_where_its_guard_cannot_be_imported() {
    let home = home("guarded.nginx.conf");
    let (toml, _) = imported(&home, "guarded.nginx.conf");
    for (path, expected) in [
        ("/sso", "forward_auth = { "),
        ("/nobody", "respond = { status = 501 }"),
        ("/odd", "deny = [\"10.0.0.0/8\"]"),
    ] {
        // Before it stands the one of the pattern, which nginx asks first.
        let start = format!("path = \"{path}\"\nupstream");
        let route = toml.split("[[route]]").find(|it| it.contains(&start));
        assert!(route.unwrap().contains(expected), "{path}: {toml}");
    }
}

#[test]
fn a_file_that_was_taken_whole_ends_with_0_and_one_that_is_none_with_2() {
    let home = Home::new();
    home.write("good", "server { listen 80; location / { proxy_pass http://127.0.0.1:9; } }");
    let output = import(&home, &["good"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    for (text, flags, expected) in [
        ("server {\n listen 80", &[][..], "bad:2: the file ends within a block"),
        ("bind :80", &["--from", "haproxy"], "bad:1: \"bind\" stands in no section"),
    ] {
        home.write("bad", text);
        let output = import(&home, &[&["bad"], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(self::text(&output.stderr).contains(expected), "{output:?}");
    }
}

/// Six origins in an nginx of their own, each of which answers with its letter and what it was
/// asked for; and what stands for them in a file.
struct Origins(Daemon, Vec<(String, String)>);

fn temporary(home: &Home) -> String {
    let path = home.path().display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    kinds.map(|kind| format!("{kind}_temp_path {path}/{kind};\n")).concat()
}

fn nginx(home: &Home, file: &Path) -> Option<Command> {
    let mut command = Command::new(installed("nginx")?);
    let user = if nix::unistd::geteuid().is_root() { "user root; " } else { "" };
    let globals =
        format!("{user}pid {}/{}.pid;", home.path().display(), file.file_name()?.display());
    command.arg("-p").arg(home.path()).arg("-c").arg(file).arg("-g").arg(globals);
    Some(command)
}

fn origins(home: &Home) -> Option<Origins> {
    let places: Vec<_> = ["A", "B", "C", "D", "E", "F"].map(|it| (it, free_address())).into();
    let server = |(name, at): &(&str, SocketAddr)| {
        format!("server {{ listen {at}; return 200 \"{name} $request_uri\"; }}\n")
    };
    let servers = places.iter().map(server).collect::<Vec<_>>().concat();
    let text = format!(
        "daemon off; worker_processes 1; error_log stderr; events {{}}\n\
         http {{ access_log off; {} {servers} }}",
        temporary(home)
    );
    let file = home.write("origins.conf", &text);
    let daemon = Daemon::at(places[5].1, nginx(home, &file)?);
    let named = places.into_iter().map(|(name, at)| (format!("ORIGIN_{name}"), at.to_string()));
    Some(Origins(daemon, named.collect()))
}

/// What matters of an answer: its status, and who it is from or where it leads.
fn essence(answer: &Message) -> (u16, String) {
    let status = answer.status();
    if let Some(location) = answer.field("Location") {
        let place = location.split_once("://").map_or(location, |(_, rest)| rest);
        // nginx names its own host and port where it leads to itself.
        let own = place.starts_with("one.test") && !place.starts_with("one.test/from");
        let place = if own || location.starts_with('/') {
            place.find('/').map_or("", |slash| &place[slash..])
        } else {
            place
        };
        return (status, place.to_owned());
    }
    (status, if status == 200 { text(&answer.body) } else { String::new() })
}

const QUESTIONS: [(&str, &str); 47] = [
    ("one.test", "/"),
    ("one.test", "/nothing/here?a=b"),
    ("one.test", "/exact"),
    ("one.test", "/exact?x"),
    ("one.test", "/exact/"),
    ("one.test", "/exactly"),
    ("one.test", "/images/"),
    ("one.test", "/images/a.svg"),
    ("one.test", "/images/a.gif"),
    ("one.test", "/images/a.GIF"),
    ("one.test", "/images"),
    ("one.test", "/images?q=1"),
    ("one.test", "/imagesx"),
    ("one.test", "/final/a.gif"),
    ("one.test", "/final"),
    ("one.test", "/a.jpg"),
    ("one.test", "/word"),
    ("one.test", "/word.gif"),
    ("one.test", "/word/x"),
    ("one.test", "/wordy"),
    ("one.test", "/wordy/x.jpg"),
    ("one.test", "/words/long"),
    ("one.test", "/words/longer"),
    ("one.test", "/words/l"),
    ("one.test", "/strip/"),
    ("one.test", "/strip/a/b?c"),
    ("one.test", "/strip"),
    ("one.test", "/base/x/y?z"),
    ("one.test", "/bare"),
    ("one.test", "/bare/x"),
    ("one.test", "/barely"),
    ("one.test", "/one"),
    ("one.test", "/one?q"),
    ("one.test", "/re/a/b"),
    ("one.test", "/shut"),
    ("one.test", "/shutter"),
    ("one.test", "/gone"),
    ("one.test", "/moved/a?b"),
    ("one.test", "/outer/x"),
    ("one.test", "/outer/x.txt"),
    ("one.test", "/outer/inner/x"),
    ("one.test", "/outer/inner/x.txt"),
    ("one.test", "/outer/x.gif"),
    ("unknown.test", "/exact"),
    ("two.test", "/only/x"),
    ("a.two.test", "/only/x"),
    ("deep.two.test", "/x"),
];

#[test]
fn imported_routes_choose_as_nginx_does() {
    let home = home("choice.nginx.conf");
    let Some(Origins(_origins, places)) = origins(&home) else { return };
    let address = free_address();
    let mut file = fs::read_to_string(home.path().join("choice.nginx.conf")).unwrap();
    for (name, place) in &places {
        file = file.replace(name, place);
    }
    let file = home.write("choice.nginx.conf", &file.replace("LISTEN", &address.to_string()));
    home.write("temporary.conf", &temporary(&home));
    let (toml, remarks) = {
        let output = import(&home, &["choice.nginx.conf"]);
        (text(&output.stdout), text(&output.stderr))
    };
    let toml = toml.replace(&format!("listen = [\"{address}\"]"), "listen = [\"127.0.0.1:0\"]");
    home.write("config.toml", &format!("{toml}\n[admin]\nenabled = false\n"));
    let nginx = Daemon::at(address, nginx(&home, &file).expect("it is there"));
    let mut command = ringway();
    command.current_dir(home.path());
    let proxy = Proxy::spawn(command, home, 1);
    let mut wrong = Vec::new();
    for (host, path) in QUESTIONS {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let [theirs, ours] = [address, proxy.address()].map(|address| {
            let mut client = Client::connect(address);
            client.send(&request);
            essence(&client.read_response())
        });
        if theirs != ours {
            wrong.push(format!("{host}{path}: nginx {theirs:?}, ringway {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{remarks}\n{toml}", wrong.join("\n"));
    drop(nginx);
}

#[test]
fn rules_of_haproxy_are_asked_in_their_order() {
    let home = home("order.haproxy.cfg");
    let output = import(&home, &["order.haproxy.cfg"]);
    home.write("config.toml", &text(&output.stdout));
    for (arguments, upstream) in [
        (&["GET", "/items"][..], "items"),
        (&["GET", "/items/late"], "items"),
        (&["GET", "/itemsx"], "items"),
        (&["POST", "/items/1"], "writes"),
        (&["POST", "/items/1", "-H", "X-Version: 2"], "beta"),
        (&["GET", "/img/7"], "images"),
        (&["GET", "/img/x"], "rest"),
    ] {
        let mut command = ringway();
        command.args(["explain", "--json", "-c", "config.toml"]).args(arguments);
        let output = command.current_dir(home.path()).output().unwrap();
        let said = text(&output.stdout);
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let sections = said["sections"].as_array().expect("sections");
        let of = sections.iter().find(|section| section["name"] == "upstream");
        assert_eq!(of.unwrap()["facts"]["name"], upstream, "{arguments:?}: {said:#}");
    }
}

#[test]
fn a_server_that_listened_on_this_machine_alone_lets_nobody_else_in() {
    let home = Home::new();
    home.write(
        "nginx.conf",
        "server { listen 80; server_name a.example; location / { proxy_pass http://127.0.0.1:1; } }\n\
         server { listen 127.0.0.1:81; server_name b.example;\n\
         location / { proxy_pass http://127.0.0.1:2; } }\n",
    );
    let (toml, remarks) = imported(&home, "nginx.conf");
    let route = toml.split("[[route]]").find(|it| it.contains("b.example")).expect("a route");
    assert!(route.contains("allow = [\"127.0.0.0/8\", \"::1/128\"]"), "{toml}");
    let route = toml.split("[[route]]").find(|it| it.contains("upstream = \"127.0.0.1-1\""));
    let route = route.expect("a route");
    assert!(!route.contains("allow"), "{toml}");
    assert!(remarks.contains("listen 127.0.0.1:81: routes do not know listeners"), "{remarks}");
}

#[test]
fn a_question_to_a_location_becomes_one_to_its_upstream() {
    let home = Home::new();
    home.write(
        "nginx.conf",
        "server { listen 80; location / { auth_request /ask;\n\
         auth_request_set $who $upstream_http_x_user; proxy_set_header X-User $who;\n\
         proxy_pass http://127.0.0.1:1; }\n\
         location = /ask { internal; proxy_pass http://127.0.0.1:2/verify;\n\
         proxy_pass_request_body off; proxy_set_header Content-Length \"\";\n\
         proxy_set_header X-Api-Key $http_x_api_key;\n\
         proxy_set_header X-Original-URI $request_uri; } }\n",
    );
    let (toml, remarks) = imported(&home, "nginx.conf");
    for part in [
        "path = \"/verify\"",
        "request_headers = [\"Authorization\", \"Cookie\", \"X-Api-Key\"]",
        "response_headers = [\"X-User\"]",
    ] {
        assert!(toml.contains(part), "{part}: {toml}");
    }
    assert!(remarks.contains("and not [\"X-Original-URI\"]"), "{remarks}");
    assert!(!toml.contains("status = 501"), "{toml}");
}
