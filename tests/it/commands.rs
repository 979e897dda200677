//! The commands that look at a configuration, each run as a user runs it.
//!
//! Comes in: files in a directory of their own, and a command line. Goes out: what stands on
//! standard output, one line on standard error for each mistake, and an exit code that scripts can
//! tell apart.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{self, Home, OK, Origin, Setup, installed, ringway, run};

const UPSTREAM: &str = "[[upstream]]\nname = \"one\"\norigins = [\"http://127.0.0.1:9\"]\n";

/// Listens on ports that the system chooses.
const PORTS: &str =
    "[server]\nhost = \"127.0.0.1\"\nport = 0\n[admin]\naddress = \"127.0.0.1:0\"\n";

#[track_caller]
fn in_home(home: &Home, arguments: &[&str]) -> Output {
    let mut command = ringway();
    // Not `run`, which reads only when all has been written: a completion fills more than a pipe.
    command.args(arguments).current_dir(home.path()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The standard output of a command that succeeds.
#[track_caller]
fn said(home: &Home, arguments: &[&str]) -> String {
    let output = in_home(home, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    out(&output)
}

#[test]
fn the_schema_is_what_stands_beside_the_shipped_file_and_knows_each_of_its_keys() {
    let text = said(&Home::new(), &["schema"]);
    assert_eq!(text, include_str!("../../config.schema.json"));
    let shipped = include_str!("../../config.toml");
    assert!(shipped.starts_with("#:schema ./config.schema.json\n"));
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    let shipped: toml::Table = toml::from_str(shipped).unwrap();
    for (name, value) in shipped {
        let section = &schema["properties"][&name];
        let (section, table) = match value {
            toml::Value::Array(tables) => (&section["items"], tables[0].as_table().cloned()),
            value => (section, value.as_table().cloned()),
        };
        assert_eq!(section["additionalProperties"], false, "{name}");
        for key in table.unwrap().keys() {
            let key = &section["properties"][key];
            assert!(key["description"].is_string(), "{name}.{key}");
            assert!(["type", "anyOf"].iter().any(|word| key.get(word).is_some()), "{name}.{key}");
        }
    }
}

#[test]
fn every_kind_of_bad_file_is_one_line_and_exit_code_2() {
    let home = Home::new();
    let with = |more: &str| format!("{UPSTREAM}{more}");
    let noise: Vec<u8> = support::pattern(10 << 20);
    let deep = format!("x = {}", "[".repeat(100_000));
    let files: [(&str, Vec<u8>, &str); 16] = [
        ("syntax.toml", b"[server\n".to_vec(), "syntax.toml:1:8: unclosed table"),
        ("type.toml", b"[server]\nport = true\n".to_vec(), "type.toml:2:8: server.port: invalid"),
        ("range.toml", b"[server]\nport = 65536\n".to_vec(), "range.toml:2:8: server.port: found"),
        ("key.toml", b"[server]\nprot = 1\n".to_vec(), "key.toml:2:1: server.prot: unknown key"),
        (
            "upstream.toml",
            with("[[route]]\nupstream = \"two\"\n").into(),
            "upstream.toml:5:12: route[0].upstream: there is no upstream \"two\"",
        ),
        (
            "twice.toml",
            b"[server]\nlisten = [\"127.0.0.1:81\", \"127.0.0.1:81\"]\n".to_vec(),
            "twice.toml:2:27: server.listen[1]: 127.0.0.1:81 is taken by the listener",
        ),
        ("noise.toml", noise.clone(), "noise.toml: is larger than 4194304 bytes, which no"),
        ("noise.json", noise, "noise.json: is larger than 4194304 bytes, which no"),
        ("latin.toml", b"[server]\nvia = \"\xe9\"\n".to_vec(), "latin.toml: is not UTF-8 text"),
        ("latin.json", b"{\"host\": \"\xe9\"}".to_vec(), "latin.json: is not UTF-8 text"),
        ("nul.toml", b"[server]\nvia = \"a\0b\"\n".to_vec(), "nul.toml:2:"),
        ("nul.json", b"{\"host\": \"a\0b\"}".to_vec(), "nul.json:1:"),
        ("deep.toml", deep.clone().into(), "deep.toml:1:"),
        ("deep.json", deep.replace("x = ", "{\"port\":").into(), "deep.json:1:"),
        ("syntax.json", b"{\"port\": 1,}".to_vec(), "syntax.json:1:12: trailing comma"),
        ("key.json", b"{\"prot\": 1}".to_vec(), "key.json:1:2: prot: unknown key, did you mean"),
    ];
    for (name, bytes, expected) in files {
        std::fs::write(home.path().join(name), bytes).unwrap();
        expect_refused(&home, name, expected);
    }
    expect_refused(&home, "missing.toml", "missing.toml: cannot be read: No such file");
    std::fs::create_dir(home.path().join("folder.toml")).unwrap();
    expect_refused(&home, "folder.toml", "folder.toml: cannot be read: Is a directory");
    let closed = home.write("closed.toml", UPSTREAM);
    std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    if nix::unistd::geteuid().is_root() {
        eprintln!("skipped: nothing is unreadable for root");
    } else {
        expect_refused(&home, "closed.toml", "closed.toml: cannot be read: Permission denied");
    }
}

/// Whoever reads the file refuses it alike.
#[track_caller]
fn expect_refused(home: &Home, name: &str, expected: &str) {
    for arguments in [
        &["-c", name][..],
        &["check", "-c", name],
        &["explain", "GET", "/", "-c", name],
        &["dump-config", "-c", name],
        &["import", name],
        &["plan", name, name],
    ] {
        let output = in_home(home, arguments);
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        assert!(errors.starts_with(&format!("ringway: {expected}")), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
    }
}

#[test]
fn a_dump_loads_to_the_same_and_says_where_values_come_from() {
    let home = Home::new();
    let secret = "0123456789abcdef";
    let text = format!("{UPSTREAM}[admin]\ntoken = \"{secret}\"\n[timeouts]\nread = 90\n");
    home.write("a.toml", &text);
    let line = ["dump-config", "--origin", "-c", "a.toml", "--port", "81", "--profile", "small"];
    let mut command = ringway();
    command.args(line).env("RINGWAY_POOL__MAX_IDLE", "7").current_dir(home.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let dump = out(&output);
    for line in [
        "port = 81  # from flag --port\n",
        "max_idle = 7  # from environment RINGWAY_POOL__MAX_IDLE\n",
        "max_connections = 50  # from profile small\n",
        "read = \"1m30s\"  # from a.toml:7\n",
        "via = \"ringway\"  # default\n",
    ] {
        assert!(dump.contains(line), "{line} in\n{dump}");
    }
    assert!(!dump.contains(secret), "{dump}");
    home.write("dump.toml", &dump);
    let again = said(&home, &["dump-config", "-c", "dump.toml"]);
    home.write("again.toml", &again);
    assert_eq!(said(&home, &["dump-config", "-c", "again.toml"]), again);
    let json = said(&home, &["dump-config", "--json", "-c", "a.toml"]);
    let values: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let read = values.iter().find(|value| value["key"] == "timeouts.read").unwrap();
    assert_eq!((&read["value"], &read["effect"]), (&"1m30s".into(), &"hot".into()));
    assert_eq!(read["origin"], "a.toml:7");
    assert!(!json.contains(secret), "{json}");
}

#[test]
fn what_is_imported_means_the_same() {
    let home = Home::new();
    home.write("flat.json", "{\"port\": 8123, \"read_timeout\": 30.0, \"max_connections\": 5}");
    let toml = said(&home, &["import", "flat.json"]);
    for line in ["port = 8123  # was port\n", "read = \"30s\"  # was read_timeout\n"] {
        assert!(toml.contains(line), "{toml}");
    }
    home.write("flat.toml", &toml);
    let dumps = ["flat.json", "flat.toml"].map(|name| said(&home, &["dump-config", "-c", name]));
    assert_eq!(dumps[0], dumps[1]);
    assert_eq!(
        said(&home, &["plan", "flat.json", "flat.toml"]),
        "Nothing changes: a reload would do nothing.\n"
    );
}

#[test]
fn a_plan_has_an_exit_code_for_what_it_takes() {
    let home = Home::new();
    home.write("old.toml", UPSTREAM);
    for (name, text, code, parts) in [
        ("same.toml", format!("{UPSTREAM}[pool]\nidle_expiry = 30\n"), 0, &["Nothing"][..]),
        (
            "hot.toml",
            format!("{UPSTREAM}[pool]\nidle_expiry = 31\n"),
            3,
            &["pool.idle_expiry  \"30s\"  \"31s\"  hot", "A reload makes all of them at once"],
        ),
        (
            "drain.toml",
            UPSTREAM.replace(":9", ":10"),
            3,
            &["upstream.one.origins", "with 1 of 1, what is in use may finish"],
        ),
        (
            "restart.toml",
            format!("{UPSTREAM}[buffers]\nchunk_bytes = \"32KiB\"\n[log]\naccess = true\n"),
            4,
            &["restart ringway for buffers.chunk_bytes, log.access.\n"],
        ),
    ] {
        home.write(name, &text);
        let output = in_home(&home, &["plan", "old.toml", name]);
        let text = out(&output);
        assert_eq!(output.status.code(), Some(code), "{name}: {output:?}");
        for part in parts {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
    // Neither the environment nor a flag is part of a file.
    let mut command = ringway();
    command.args(["plan", "old.toml", "same.toml"]).env("RINGWAY_SERVER__PORT", "x");
    let output = command.current_dir(home.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn an_explanation_is_what_the_proxy_then_does() {
    let (app, api) = (Origin::answering(OK), Origin::answering(OK));
    let setup = Setup::new()
        .upstream("app", &[&app.url()], "")
        .upstream("api", &[&api.url()], "host = \"origin\"")
        .route("", "/", "app", "")
        .route("a.example", "/api", "api", "strip_prefix = true");
    let home = Home::new();
    home.write("ringway.toml", &setup.text());
    let line = ["explain", "GET", "/api/x?y", "-H", "Host: a.example", "-c", "ringway.toml"];
    let text = said(&home, &line);
    assert!(text.contains("chosen        a.example/api: names this very host"), "{text}");
    assert!(text.contains("others        */: fits, but its host is less specific"), "{text}");
    let json = said(&home, &[&line[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let sections = json["sections"].as_array().unwrap();
    let sent = sections.iter().find(|section| section["name"] == "sent").unwrap();
    let head: Vec<String> = serde_json::from_value(sent["facts"]["head"].clone()).unwrap();
    let proxy = setup.start();
    let request = "GET /api/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n";
    proxy.connect().send(request).expect_status(200);
    let seen = api.only_request();
    let seen = String::from_utf8(seen.raw_head).unwrap();
    assert_eq!(seen.trim_end().lines().collect::<Vec<_>>(), head);
    assert!(app.seen().requests.is_empty());
}

#[test]
fn an_explanation_of_a_refusal_is_no_failure() {
    let home = Home::new();
    home.write("a.toml", &format!("{UPSTREAM}[[route]]\nhost = \"a\"\nupstream = \"one\"\n"));
    let text = said(&home, &["explain", "GET", "http://b/", "-c", "a.toml"]);
    assert!(text.contains("status        404 Not Found"), "{text}");
    let text = said(&home, &["--forward", "explain", "CONNECT", "[::1]:443"]);
    assert!(text.contains("the forward policy: loopback"), "{text}");
    let output = in_home(&home, &["explain", "GET", "/", "-H", "no colon"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = in_home(&home, &["explain", "GET", "/", "--client", "nobody"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let users = ["--forward", "--set", "forward.users_file=none", "explain", "GET", "/"];
    let output = in_home(&home, &users);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(errors(&output).contains("none"), "{output:?}");
}

#[test]
fn every_example_is_valid_as_it_stands() {
    // A clone can be read by everybody, and passwords ought not to be.
    let home = Home::new();
    let root = home.path();
    for folder in ["examples", "docker"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let copied = Command::new("cp").arg("-R").arg(from).arg(root).status().unwrap();
        assert!(copied.success());
    }
    fs::set_permissions(root.join("examples/users"), Permissions::from_mode(0o600)).unwrap();
    let mut count = 0;
    let folders = [
        "examples",
        "examples/monitoring/ringway",
        "examples/observe",
        "docker/ringway",
        "docker/image",
        "docker/kubernetes",
    ];
    let entries = folders.iter().flat_map(|folder| root.join(folder).read_dir().unwrap());
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        // The names have no address, and the ports may be in use: only what is written counts.
        let mut command = ringway();
        let command = command.args(["check", "--file-only", "-c"]).arg(&path).current_dir(root);
        let output = command.output().unwrap();
        if path.ends_with("custom_hook.toml") {
            let wanted = "found \"api_keys\", expected none: this binary has no hooks of its own\n";
            assert!(errors(&output).ends_with(wanted), "{output:?}");
            assert_eq!(errors(&output).lines().count(), 1, "{output:?}");
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty() && !out(&output).contains("warning"), "{output:?}");
    }
    assert!(count >= 15, "{count} examples");
}

#[test]
fn check_warns_of_names_and_fails_for_ports() {
    let home = Home::new();
    let nameless = UPSTREAM.replace("127.0.0.1:9", "nobody.invalid");
    home.write("nameless.toml", &format!("{PORTS}{nameless}"));
    let text = said(&home, &["check", "-c", "nameless.toml"]);
    assert!(text.contains("warning: upstream one: nobody.invalid has no address now\n"), "{text}");
    let text = said(&home, &["check", "--file-only", "-c", "nameless.toml"]);
    assert!(!text.contains("warning"), "{text}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    home.write("taken.toml", &PORTS.replace("port = 0", &format!("port = {port}")));
    home.write("admin.toml", &PORTS.replace(":0", &format!(":{port}")));
    for name in ["taken.toml", "admin.toml"] {
        let output = in_home(&home, &["check", "-c", name]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let cause = format!("127.0.0.1:{port}: Address already in use");
        assert!(errors(&output).contains(&cause), "{name}: {output:?}");
        assert_eq!(errors(&output).lines().count(), 1, "{name}: {output:?}");
        assert!(out(&output).contains("valid") && !out(&output).contains("runs here"), "{name}");
        said(&home, &["check", "--file-only", "-c", name]);
    }
    drop(taken);
}

#[test]
fn check_opens_the_files_that_a_configuration_names_and_says_where_it_names_them() {
    let home = Home::new();
    let route = format!("{UPSTREAM}[[route]]\nupstream = \"one\"\n");
    let table = [
        (
            format!("[hooks]\n\nbasic_auth = {{ users_file = \"none\" }}\n{UPSTREAM}"),
            "a.toml:3:14: hooks.basic_auth.users_file: ",
            "none: ",
        ),
        (
            format!("{route}\n[route.hooks]\nerror_pages = {{ 5xx = \"file:none.html\" }}"),
            ": route[0].hooks.error_pages.5xx: ",
            "none.html: the error page cannot be read: No such file",
        ),
        (
            format!("[forward]\nenabled = true\nusers_file = \"none\"\n{UPSTREAM}"),
            "a.toml:3:14: forward.users_file: ",
            "none: ",
        ),
        (
            format!("[forward]\nenabled = true\ngroups_file = \"none\"\n{UPSTREAM}"),
            "a.toml:3:15: forward.groups_file: ",
            "none: ",
        ),
        (
            format!("[forward]\nenabled = true\ndeny = [\"file:none\"]\n{UPSTREAM}"),
            "none: ",
            "cannot be read",
        ),
    ];
    for (text, place, cause) in table {
        home.write("a.toml", &text);
        for more in [&[][..], &["--file-only"]] {
            let output = in_home(&home, &[&["check", "-c", "a.toml"], more].concat());
            assert_eq!(output.status.code(), Some(2), "{text}: {output:?}");
            let said = errors(&output);
            assert!(said.contains(place) && said.contains(cause), "{said}");
        }
    }
}

#[test]
fn check_gives_its_ports_back() {
    let home = Home::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    home.write("a.toml", &PORTS.replace("port = 0", &format!("port = {free}")));
    for _ in 0..2 {
        said(&home, &["check", "-c", "a.toml"]);
    }
}

#[test]
fn check_says_that_a_ringway_runs_there() {
    let origin = Origin::answering(OK);
    let home = Home::new();
    let socket = format!("unix:{}", home.path().join("admin.sock").display());
    let proxy = Setup::to(&origin).set("admin.address", socket.as_str()).start();
    let port = proxy.address().port();
    let text =
        format!("[server]\nhost = \"127.0.0.1\"\nport = {port}\n[admin]\naddress = {socket:?}");
    home.write("a.toml", &text);
    let output = in_home(&home, &["check", "-c", "a.toml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let note = "a ringway runs here already: it answers at ";
    assert!(out(&output).contains(&format!("{note}{socket}")), "{output:?}");
    assert!(errors(&output).contains("Address already in use"), "{output:?}");
    // The one that runs keeps its socket.
    let output = in_home(&home, &["health", "--url", &socket]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// A shell that parses a script without running it.
#[track_caller]
fn expect_parsed(program: &Path, arguments: &[&str], file: &Path) {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn completions_name_every_command_and_are_what_shells_take() {
    let home = Home::new();
    for (shell, flags) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = said(&home, &["completions", shell]);
        for command in ["check", "explain", "plan", "dump-config", "import", "completions", "man"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
        let file = home.write(&format!("completion.{shell}"), &script);
        if let Some(program) = installed(shell) {
            expect_parsed(&program, flags, &file);
        }
    }
    let output = in_home(&home, &["completions", "cmd"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn the_manual_is_a_page_that_man_shows() {
    let home = Home::new();
    let page = said(&home, &["man"]);
    assert!(page.contains(".TH ringway 1") && page.contains("Exit codes"), "{page}");
    let file = home.write("ringway.1", &page);
    if let Some(program) = installed("mandoc") {
        expect_parsed(&program, &["-T", "lint", "-W", "error"], &file);
    } else if let Some(program) = installed("man") {
        let output = Command::new(program).arg("-l").arg(&file).env("MANPAGER", "cat").output();
        let text = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
        assert!(text.contains("explain"), "{text}");
    }
}

#[test]
fn help_documents_the_exit_codes() {
    let home = Home::new();
    for (command, codes) in [("check", "012"), ("plan", "0234"), ("explain", "012")] {
        let help = said(&home, &[command, "--help"]);
        let (_, table) = help.split_once("Exit codes:\n").unwrap_or_else(|| panic!("{help}"));
        let found: String = table.lines().filter_map(|line| line.trim().chars().next()).collect();
        assert_eq!(found, codes, "{help}");
    }
}

#[test]
fn who_reads_only_the_beginning_gets_no_error() {
    let home = Home::new();
    let script = "\"$0\" dump-config | head -n 1; exec \"$0\" dump-config >/dev/full";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, support::BINARY]).current_dir(home.path());
    let output = run(shell);
    assert_eq!(out(&output), "[server]\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(errors(&output).starts_with("ringway: standard output: No space left"), "{output:?}");
    assert_eq!(errors(&output).lines().count(), 1, "{output:?}");
}
