//! Each way to get the configuration wrong, and what the user is told about it.
//!
//! Comes in: a file with one mistake. Goes out: status 2 and a message that names the file, the
//! line and the column, says what was expected, and offers the nearest name that exists. Then the
//! other sources of values, the ways to start without any file, and the commands that only look.

use crate::support::{GET, Home, OK, Origin, Proxy, Setup, ringway, run};
use std::process::Output;

/// A complete configuration, to which a mistake is added.
const UPSTREAM: &str = "[[upstream]]\nname = \"one\"\norigins = [\"http://127.0.0.1:9\"]\n";

/// Both streams: which one carries what is not the point here.
fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

#[track_caller]
fn check(file: &str) -> Output {
    let home = Home::new();
    let path = home.write("wrong.toml", file);
    let mut command = ringway();
    command.arg("--config").arg(path).arg("check").current_dir(home.path());
    run(command)
}

/// The file is refused at `line`, and the message contains every one of `parts`.
#[track_caller]
fn expect_refused(file: &str, line: usize, parts: &[&str]) {
    let output = check(file);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(2), "{file}\nwas answered\n{text}");
    let place = format!("wrong.toml:{line}:");
    let column = text.split_once(&place).and_then(|(_, rest)| rest.chars().next());
    let has_column = column.is_some_and(|first| first.is_ascii_digit());
    assert!(has_column, "{file}\nexpected {place}COLUMN in\n{text}");
    for part in parts {
        assert!(text.contains(part), "{file}\nexpected {part:?} in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_line_that_is_not_toml_is_refused_where_it_stands() {
    expect_refused("[server]\nport = \n", 2, &[]);
    expect_refused("[server\nport = 1\n", 1, &[]);
    expect_refused("[server]\nport = 1\nport = 2\n", 3, &["duplicate"]);
    expect_refused("[server]\nvia = \"open\n", 2, &[]);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    expect_refused("[server]\nprot = 8000\n", 2, &["prot", "port"]);
    expect_refused("[timeouts]\nreed = \"1s\"\n", 2, &["reed", "read"]);
    expect_refused("[timeout]\nread = \"1s\"\n", 1, &["timeout", "timeouts"]);
    expect_refused("[pool]\nmax_conections = 5\n", 2, &["max_conections", "max_connections"]);
    let upstream = format!("{UPSTREAM}wieght = 3\n");
    expect_refused(&upstream, 4, &["wieght"]);
    let route = format!("{UPSTREAM}[[route]]\nupstream = \"one\"\nstrip_prefx = true\n");
    expect_refused(&route, 6, &["strip_prefx", "strip_prefix"]);
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    expect_refused("[server]\nport = \"many\"\n", 2, &[]);
    expect_refused("[server]\nport = true\n", 2, &[]);
    expect_refused("[server]\nlisten = \"127.0.0.1:80\"\n", 2, &[]);
    expect_refused("[log]\nlevel = \"loud\"\n", 2, &["loud"]);
    expect_refused("[log]\nformat = \"xml\"\n", 2, &["xml"]);
    expect_refused("[log]\naccess = \"yes\"\n", 2, &[]);
    expect_refused("server = 5\n", 1, &[]);
    expect_refused("[upstream]\nname = \"one\"\n", 1, &[]);
}

#[test]
fn every_mistake_is_told_at_once_with_the_right_form() {
    let file = "[server]\nprot = 1\nlisten = \"127.0.0.1:81\"\n[timeouts]\nread = 30s\n\
                [upstream]\nname = \"one\"\n[server]\nvia = \"a\"\n\
                [[route]]\nupstream = \"one\"\npath = \"/api/*\"\n";
    let output = check(file);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = text(&output);
    let mistakes: Vec<&str> = text.lines().collect();
    let expected = [
        (":2:1: server.prot: unknown key", "did you mean `port`?"),
        (":3:10: server.listen: ", "write listen = [\"127.0.0.1:81\"]"),
        (":5:8: ", "write read = \"30s\""),
        (":6:1: upstream: ", "write [[upstream]]"),
        (":8:2: duplicate key", "the first is in line 1"),
        (":12:8: route[0].path: ", "write \"/api\""),
    ];
    assert_eq!(mistakes.len(), expected.len(), "{text}");
    for (mistake, (place, form)) in mistakes.iter().zip(expected) {
        assert!(mistake.contains(place) && mistake.ends_with(form), "{place} {form}\n{text}");
    }
}

#[test]
fn an_upstream_that_no_route_uses_is_warned_about_and_taken() {
    let two = "[[upstream]]\nname = \"two\"\norigins = [\"http://127.0.0.1:9\"]\n";
    let output = check(&format!("[server]\nport = 0\n{UPSTREAM}{two}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = text(&output);
    let warnings: Vec<_> = text.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{text}");
    assert!(warnings[0].contains("wrong.toml:7:8: no route uses the upstream \"two\""), "{text}");
}

#[test]
fn durations_and_sizes_are_refused_with_what_would_do() {
    for value in ["\"30 parsecs\"", "\"-1s\"", "\"\"", "\"s\"", "true", "-5"] {
        expect_refused(&format!("[timeouts]\n\nread = {value}\n"), 3, &["read"]);
    }
    for value in ["\"64 KB of\"", "\"-1KiB\"", "\"\"", "\"KiB\"", "true", "-5"] {
        expect_refused(&format!("[limits]\n\nhead_bytes = {value}\n"), 3, &["head_bytes"]);
    }
}

#[test]
fn a_number_out_of_range_is_refused_with_the_range() {
    for (section, line, range) in [
        ("server", "port = 65536", "65535"),
        ("server", "port = -1", "65535"),
        ("timeouts", "connect = 0", "timeouts.connect"),
        ("timeouts", "read = \"0s\"", "timeouts.read"),
        ("timeouts", "pool_status = 200", "503"),
        ("limits", "head_bytes = 0", "limits.head_bytes"),
        ("limits", "header_count = 0", "limits.header_count"),
        ("limits", "header_count = 100000", "limits.header_count"),
        ("limits", "target_bytes = 0", "limits.target_bytes"),
        ("limits", "clients = 0", "limits.clients"),
        ("pool", "max_connections = 0", "pool.max_connections"),
        ("buffers", "chunk_bytes = 1", "buffers.chunk_bytes"),
        ("buffers", "chunks_per_worker = 0", "buffers.chunks_per_worker"),
        ("server", "workers = -1", ""),
    ] {
        expect_refused(&format!("[{section}]\n{line}\n"), 2, &[range]);
    }
}

#[test]
fn addresses_that_cannot_be_listened_on_are_refused() {
    expect_refused("[server]\nhost = \"not a host\"\n", 2, &["not a host"]);
    expect_refused("[server]\nlisten = [\"127.0.0.1\"]\n", 2, &["127.0.0.1"]);
    expect_refused("[server]\nlisten = [\"127.0.0.1:99999\"]\n", 2, &["99999"]);
    let twice = "[server]\nlisten = [\"127.0.0.1:81\", \"127.0.0.1:81\"]\n";
    expect_refused(twice, 2, &["127.0.0.1:81"]);
    let again = "[server]\nhost = \"127.0.0.1\"\nport = 81\nlisten = [\"127.0.0.1:81\"]\n";
    expect_refused(again, 4, &["127.0.0.1:81"]);
    expect_refused("[server]\ntrusted_proxies = [\"10.0.0.0/33\"]\n", 2, &["10.0.0.0/33"]);
    expect_refused("[server]\ntrusted_proxies = [\"somewhere\"]\n", 2, &["somewhere"]);
}

#[test]
fn origins_that_are_no_urls_of_servers_are_refused() {
    for url in [
        "127.0.0.1:80",
        "ftp://127.0.0.1",
        "http://",
        "http://:80",
        "http://a:99999",
        "http://a:b",
        "http://user@a",
        "http://a/path?query",
        "http://a/x/../path",
        "http://a/#top",
        "http://a?query",
        "http://a b",
    ] {
        let file = format!("[[upstream]]\nname = \"one\"\norigins = [{url:?}]\n");
        expect_refused(&file, 3, &[url]);
    }
    expect_refused("[[upstream]]\nname = \"one\"\norigins = []\n", 3, &["origins"]);
    let weightless =
        "[[upstream]]\nname = \"one\"\norigins = [{ url = \"http://a\", weight = 0 }]\n";
    expect_refused(weightless, 3, &["weight"]);
}

#[test]
fn upstreams_and_routes_must_fit_together() {
    let unknown = format!("{UPSTREAM}\n[[route]]\npath = \"/\"\nupstream = \"two\"\n");
    expect_refused(&unknown, 7, &["two"]);
    expect_refused(&format!("{UPSTREAM}\n{UPSTREAM}"), 6, &["one"]);
    let route = "[[route]]\nhost = \"a\"\npath = \"/\"\nupstream = \"one\"\n";
    let output = check(&format!("{UPSTREAM}{route}{route}"));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let relative = format!("{UPSTREAM}[[route]]\npath = \"api\"\nupstream = \"one\"\n");
    expect_refused(&relative, 5, &["api"]);
    let nameless = "[[upstream]]\norigins = [\"http://127.0.0.1:9\"]\n";
    expect_refused(nameless, 1, &["name"]);
    let pathless = format!("{UPSTREAM}[[route]]\nhost = \"a.*.b\"\nupstream = \"one\"\n");
    expect_refused(&pathless, 5, &["a.*.b"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let home = Home::new();
    let mut command = ringway();
    command.args(["--config", "missing.toml"]).current_dir(home.path());
    let output = run(command);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output).contains("missing.toml"), "{output:?}");

    std::fs::write(home.path().join("latin.toml"), b"[server]\nvia = \"\xe9\"\n").unwrap();
    let mut command = ringway();
    command.args(["--config", "latin.toml"]).current_dir(home.path());
    let output = run(command);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output).contains("latin.toml"), "{output:?}");
}

#[test]
fn a_wrong_file_stops_the_start_as_well_as_the_check() {
    let output = Setup::to_url("http://127.0.0.1:9").set("server.prot", 1).run();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output).contains("ringway.toml:"), "{output:?}");
}

#[test]
fn check_is_content_with_a_right_file_and_starts_nothing() {
    let output = check(&format!("[server]\nport = 0\n{UPSTREAM}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output).contains("valid"), "{output:?}");
    // Its ports may be in use where tests run.
    let shipped = include_str!("../../config.toml").replace("port = 8000", "port = 0");
    let output = check(&shipped);
    assert_eq!(output.status.code(), Some(0), "the shipped file: {output:?}");
}

#[test]
fn flags_are_checked_like_the_file() {
    for flags in [
        &["--prot", "1"][..],
        &["--port", "65536"],
        &["--port", "x"],
        &["--host", "not a host"],
        &["--workers", "x"],
        &["--upstream", "ftp://127.0.0.1"],
        &["--upstream", "nonsense://"],
        &["unknown-command"],
    ] {
        let home = Home::new();
        let mut command = ringway();
        command.args(flags).current_dir(home.path());
        let output = run(command);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {output:?}");
        assert!(!text(&output).is_empty() && !text(&output).contains("panicked"), "{output:?}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (flag, part) in [("--help", "--upstream"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let mut command = ringway();
        command.arg(flag);
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(part), "{output:?}");
    }
}

#[test]
fn one_line_is_enough_to_start() {
    let (one, two) = (Origin::answering(OK), Origin::answering(OK));
    let home = Home::new();
    // A file that is there all the same is not asked: the line says everything.
    home.write("config.toml", "this is not even TOML");
    let mut command = ringway();
    command.args(["--host", "127.0.0.1", "--port", "0", "--workers", "1"]);
    command.args(["--upstream", &one.url(), "--upstream", &two.url()]).current_dir(home.path());
    let proxy = Proxy::spawn(command, home, 1);
    let mut client = proxy.connect();
    for _ in 0..4 {
        client.send(GET).expect_status(200);
    }
    assert_eq!((one.seen().requests.len(), two.seen().requests.len()), (2, 2));
}

#[test]
fn flags_outrank_the_file() {
    let (filed, flagged) = (Origin::untouchable(), Origin::answering(OK));
    let home = Home::new();
    let setup = Setup::to(&filed).set("server.port", 1).set("server.via", "from-the-file");
    let path = home.write("ringway.toml", &setup.text());
    let mut command = ringway();
    command.arg("--config").arg(path).args(["--port", "0", "--upstream", &flagged.url()]);
    let proxy = Proxy::spawn(command, home, 1);
    proxy.get().expect_status(200);
    flagged.only_request().expect_field("CDN-Loop", "from-the-file");
}

/// `ringway check` with these variables and flags, in a directory with one flat file.
#[track_caller]
fn check_sources(variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let home = Home::new();
    home.write("proxy_config.json", "{\n  \"port\": 8123,\n  \"read_timeout\": 30.0\n}\n");
    home.write("wrong.json", "{\n  \"port\": 8123,\n  \"reed_timeout\": 30.0\n}\n");
    let mut command = ringway();
    command
        .args(flags)
        .args(["check", "--file-only"])
        .envs(variables.iter().copied())
        .current_dir(home.path());
    run(command)
}

#[test]
fn a_mistake_names_the_variable_or_flag_or_file_that_made_it() {
    for (variables, flags, part) in [
        (
            &[("PROXY_PORT", "x")][..],
            &[][..],
            "PROXY_PORT: found \"x\", expected a whole number from 0 to 65535",
        ),
        (&[("RINGWAY_SERVER__PROT", "1")], &[], "did you mean `RINGWAY_SERVER__PORT`?"),
        (&[], &["--set", "server.prot=1"], "--set server.prot: unknown key, did you mean"),
        (&[], &["--set", "server.port"], "expected SECTION.KEY=VALUE"),
        (&[], &["--profile", "huge"], "small, default, large"),
        (&[], &["--config", "wrong.json"], "wrong.json:3:3: reed_timeout: unknown key, did you"),
        (
            &[("PROXY_PORT", "70000")],
            &["--config", "proxy_config.json"],
            "PROXY_PORT: found 70000, expected",
        ),
    ] {
        let output = check_sources(variables, flags);
        assert_eq!(output.status.code(), Some(2), "{variables:?} {flags:?}: {output:?}");
        assert!(text(&output).contains(part), "expected {part:?} in\n{}", text(&output));
        assert!(!text(&output).contains("panicked"), "{}", text(&output));
    }
}

#[test]
fn every_source_is_accepted() {
    for (variables, flags) in [
        (&[("PROXY_MAX_MEMORY_USAGE", "300")][..], &[][..]),
        (&[("PROXY_READ_TIMEOUT", "30.0"), ("RINGWAY_SERVER__PORT", "")], &["--profile", "small"]),
        (&[("PROXY_PORT", "0")], &["--config", "proxy_config.json", "--set", "log.access=true"]),
    ] {
        let output = check_sources(variables, flags);
        assert_eq!(output.status.code(), Some(0), "{variables:?} {flags:?}: {output:?}");
    }
}

#[test]
fn the_environment_outranks_the_file_and_flags_outrank_both() {
    let origin = Origin::answering(OK);
    let home = Home::new();
    let setup = Setup::to(&origin).set("server.port", 1).set("server.via", "from-the-file");
    let path = home.write("ringway.toml", &setup.text());
    let mut command = ringway();
    command.arg("--config").arg(path).args(["--set", "server.port=0"]);
    command.env("RINGWAY_SERVER__VIA", "from-the-environment").env("PROXY_PORT", "2");
    let proxy = Proxy::spawn(command, home, 1);
    proxy.get().expect_status(200);
    origin.only_request().expect_field("CDN-Loop", "from-the-environment");
}

#[test]
fn the_file_beside_the_user_is_found() {
    let origin = Origin::answering(OK);
    let home = Home::new();
    home.write("config.toml", &Setup::to(&origin).text());
    let mut command = ringway();
    command.current_dir(home.path());
    let proxy = Proxy::spawn(command, home, 1);
    proxy.get().expect_status(200);
}
