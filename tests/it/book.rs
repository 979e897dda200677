//! What the book says that only a running ringway can confirm.
//!
//! Comes in: pages of `docs/` and files of `examples/`. Goes out: what `check` prints, what a
//! scrape has, and what the examples do with requests, with origins of this machine in place of
//! theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{BINARY, Client, Home, Message, OK, Origin, Proxy, Setup, ringway, run};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn page(name: &str) -> String {
    fs::read_to_string(path("docs").join(name)).unwrap()
}

/// An example as it stands, on port 0 and with these origins, one for each of its upstreams.
fn example(name: &str, origins: &[&Origin]) -> Proxy {
    example_of(ringway(), name, origins)
}

/// The same for a binary of its own.
fn example_of(mut command: Command, name: &str, origins: &[&Origin]) -> Proxy {
    let home = Home::new();
    command.current_dir(path(".")).arg("--config").arg(path("examples").join(name));
    command.args(["--host", "127.0.0.1", "--port", "0", "--workers", "1"]);
    let set = |command: &mut Command, key: &str, value: &str| {
        command.arg("--set").arg(format!("{key}={value}"));
    };
    set(&mut command, "admin.address", "127.0.0.1:0");
    set(&mut command, "buffers.chunks_per_worker", "8");
    for (index, origin) in origins.iter().enumerate() {
        set(&mut command, &format!("upstream.{index}.origins"), &format!("[{:?}]", origin.url()));
    }
    Proxy::spawn(command, home, 1)
}

fn ask(client: &mut Client, target: &str, fields: &str) -> Message {
    client.send(format!("GET {target} HTTP/1.1\r\n{fields}\r\n")).read_response()
}

fn named(name: &str) -> Origin {
    Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()))
}

#[test]
fn the_memory_that_a_page_adds_up_is_what_check_adds_up() {
    let home = Home::new();
    let mut command = ringway();
    command.args(["check", "--file-only", "--workers", "2"]).current_dir(home.path());
    let output = String::from_utf8(run(command).stdout).unwrap();
    let (_, table) = output.split_once("memory, at worst").expect("a table");
    let (_, table) = table.split_once('\n').unwrap();
    let page = page("operate/memory.md");
    for line in table.lines() {
        assert!(page.contains(line), "docs/operate/memory.md: no {line:?}");
    }
}

/// Rows of the page of metrics: type, and labels with the values that are written out.
fn documented() -> BTreeMap<String, (String, BTreeMap<String, BTreeSet<String>>)> {
    let page = page("reference/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `ringway_"));
    let read = |row: &str| {
        let cells: Vec<_> = row.split(" | ").collect();
        let labels = cells[2].split(';').filter(|label| label.contains('`')).map(|label| {
            let mut words = label.split('`').skip(1).step_by(2).map(str::to_owned);
            (words.next().expect("a label"), words.collect())
        });
        (
            format!("ringway_{}", cells[0].trim_end_matches('`')),
            (cells[1].to_owned(), labels.collect()),
        )
    };
    rows.map(read).collect()
}

#[test]
fn a_scrape_has_the_types_and_labels_that_the_page_of_metrics_has() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin)
        .upstream("other", &[&origin.url()], "")
        .set("alerts.webhook", "http://127.0.0.1:9/")
        .route("", "/", "origin", "hooks = { split = { weights = { origin = 1, other = 1 } } }")
        .start();
    proxy.get().expect_status(200);
    let documented = documented();
    let answer = proxy.ask_admin("GET", "/metrics");
    let (mut count, mut family) = (0, String::new());
    for line in answer.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let known = documented.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
            assert_eq!(known.0, kind, "the type of {name}");
            (family, count) = (name.to_owned(), count + 1);
        }
        let Some((_, labels)) = line.split_once('{').filter(|_| line.starts_with("ringway_"))
        else {
            continue;
        };
        let known = &documented[&family].1;
        for label in labels.split("\",").filter(|label| label.contains("=\"")) {
            let (name, value) = label.split_once("=\"").unwrap();
            let value = value.split('"').next().unwrap();
            if name == "le" {
                continue;
            }
            let values = known.get(name).unwrap_or_else(|| panic!("{family} has a label {name}"));
            assert!(values.is_empty() || values.contains(value), "{family}: {name}={value}");
        }
    }
    assert!(count > 70, "{count} families");
}

#[test]
fn two_apps_are_told_apart_by_name_and_path() {
    let (shop, blog, images) = (named("shop"), named("blog"), named("images"));
    let proxy = example("two_apps.toml", &[&shop, &blog, &images]);
    let mut client = proxy.connect();
    for (target, host, expected) in [
        ("/", "shop.example.org", "shop"),
        ("/images/logo.svg", "shop.example.org", "images"),
        ("/images/logo.svg", "blog.example.org", "blog"),
    ] {
        let answer = ask(&mut client, target, &format!("Host: {host}\r\n"));
        answer.expect_status(200).expect_body(expected);
    }
    ask(&mut client, "/", "Host: elsewhere.example\r\n").expect_status(404);
    let asked = String::from_utf8_lossy(&images.seen().bytes()).into_owned();
    assert!(asked.contains("GET /logo.svg HTTP/1.1"), "{asked}");
    drop(client);
    proxy.stop();
}

#[test]
fn a_rate_limit_counts_by_key_and_says_so_as_json() {
    let api = named("ok");
    let proxy = example("rate_limit.toml", &[&api]);
    let mut client = proxy.connect();
    let fields = "Host: a\r\nX-Api-Key: one\r\n";
    for _ in 0..5 {
        ask(&mut client, "/v1/export", fields).expect_status(200);
    }
    let refused = ask(&mut client, "/v1/export", fields);
    refused.expect_status(429).expect_body("{\"error\":\"slow down\"}");
    ask(&mut client, "/v1/export", "Host: a\r\nX-Api-Key: two\r\n").expect_status(200);
    let other = ask(&mut client, "/v1/other", fields);
    assert!(other.field("RateLimit-Policy").is_some_and(|it| it.contains("q=100")), "{other}");
    drop(client);
    proxy.stop();
}

#[test]
fn a_canary_keeps_a_client_with_the_version_that_it_got() {
    let (stable, canary, next) = (named("stable"), named("canary"), named("next"));
    let proxy = example("canary.toml", &[&stable, &canary, &next]);
    let mut client = proxy.connect();
    let first = ask(&mut client, "/", "Host: a\r\n");
    first.expect_status(200);
    let cookie = first.field("Set-Cookie").expect("a cookie").split(';').next().unwrap().to_owned();
    for _ in 0..20 {
        let answer = ask(&mut client, "/", &format!("Host: a\r\nCookie: {cookie}\r\n"));
        answer.expect_body(&first.body);
    }
    drop(client);
    proxy.stop();
}

#[test]
fn redirects_answer_what_no_origin_has_to_see() {
    let site = named("site");
    let proxy = example("redirects.toml", &[&site]);
    let mut client = proxy.connect();
    let moved = ask(&mut client, "/a?b", "Host: example.org\r\n");
    moved.expect_status(308).expect_field("Location", "https://www.example.org/a?b");
    ask(&mut client, "/", "Host: shop.example.org\r\n")
        .expect_status(503)
        .expect_body("back at noon\n");
    ask(&mut client, "/blog/7/x", "Host: www.example.org\r\n").expect_status(200);
    let asked = String::from_utf8_lossy(&site.seen().bytes()).into_owned();
    assert!(asked.starts_with("GET /posts/7-x HTTP/1.1"), "{asked}");
    drop(client);
    proxy.stop();
}

#[test]
fn a_login_is_asked_for_where_the_example_says_so() {
    let (app, login) = (named("app"), named("login"));
    let proxy = example("login.toml", &[&app, &login]);
    let mut client = proxy.connect();
    ask(&mut client, "/admin", "Host: a\r\n").expect_status(401);
    let known = "Host: a\r\nAuthorization: Basic YW5uOmNoYW5nZSBtZQ==\r\n";
    ask(&mut client, "/admin", known).expect_status(200).expect_body("app");
    ask(&mut client, "/", "Host: a\r\nCookie: s=1\r\n").expect_status(200).expect_body("app");
    ask(&mut client, "/metrics", "Host: a\r\n").expect_status(200).expect_body("app");
    drop(client);
    proxy.stop();
}

#[test]
fn a_forward_proxy_asks_for_a_password_and_keeps_out_of_the_own_network() {
    let proxy = example("forward_proxy.toml", &[]);
    let mut client = proxy.connect();
    ask(&mut client, "http://192.0.2.1/", "Host: 192.0.2.1\r\n").expect_status(407);
    let known = "Proxy-Authorization: Basic YW5uOmNoYW5nZSBtZQ==\r\n";
    for private in ["10.0.0.1", "192.168.1.1", "127.0.0.1"] {
        let fields = format!("Host: {private}\r\n{known}");
        ask(&mut client, &format!("http://{private}/"), &fields).expect_status(403);
    }
    drop(client);
    proxy.stop();
}

/// `cargo test` builds it; `cargo test --test it` alone does not.
#[test]
fn the_binary_with_a_hook_of_its_own_tells_the_origin_whose_key_it_is() {
    let binary = Path::new(BINARY).with_file_name("examples").join("custom_hook");
    if !binary.exists() {
        eprintln!("skipped: cargo build --example custom_hook makes {}", binary.display());
        return;
    }
    let proxy = example_of(Command::new(binary), "custom_hook.toml", &[]);
    let mut client = proxy.connect();
    ask(&mut client, "/echo", "Host: a\r\n").expect_status(401).expect_body("an API key, please\n");
    let answer = ask(&mut client, "/echo", "Host: a\r\nX-Api-Key: 5d41402abc4b2a76\r\n");
    answer.expect_status(200);
    let seen = String::from_utf8_lossy(&answer.body).to_lowercase();
    assert!(seen.contains("x-client: reports") && !seen.contains("x-api-key"), "{seen}");
    drop(client);
    proxy.stop();
}
