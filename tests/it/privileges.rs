//! Rights that are given up: as whom ringway serves, reloads and hands over, and what it refuses to
//! start with.
//!
//! Comes in: configurations with `server.user`, started by root. Goes out: the process's own
//! `/proc`, what it goes on doing as that user, and refusals that name what is missing. Where the
//! tests do not run as root, or nobody cannot reach the binary, they say so and do nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use crate::support::{BINARY, GET, Home, OK, Origin, Pair, Proxy, ringway, run, wait_until};

/// A user that every system has, and that has nothing.
fn nobody() -> Option<User> {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return None;
    }
    let is_open =
        |path: &Path| fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o001 != 0);
    if !Path::new(BINARY).ancestors().all(is_open) {
        eprintln!("skipped: nobody cannot reach {BINARY}");
        return None;
    }
    User::from_name("nobody").ok().flatten()
}

/// A folder of that user's.
fn home(user: &User) -> Home {
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(home.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    home
}

fn text(home: &Home, origin: &Origin, server: &str, more: &str) -> String {
    let log = home.path().join("events");
    format!(
        "[server]\nhost = \"127.0.0.1\"\nport = 0\nworkers = 2\nuser = \"nobody\"\n{server}\n\
         [admin]\nenabled = false\n[log]\naccess = true\naccess_file = \"{}\"\n{more}\n\
         [[upstream]]\nname = \"a\"\norigins = [\"http://{}\"]\n",
        log.display(),
        origin.address()
    )
}

fn start(home: Home) -> Proxy {
    let mut command = ringway();
    command.current_dir(home.path());
    Proxy::spawn(command, home, 1)
}

/// The values of a field of `/proc/PID/status`, of each thread.
fn of_threads(pid: u32, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let status = |thread: PathBuf| fs::read_to_string(thread.join("status")).unwrap_or_default();
    let value = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?.to_owned();
        Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    threads.filter_map(|thread| value(status(thread.path()))).collect()
}

#[track_caller]
fn expect_nobody(pid: u32, user: &User) {
    let (uid, gid) = (user.uid, user.gid);
    let all = |field: &str, expected: &str| {
        let found = of_threads(pid, field);
        assert!(!found.is_empty() && found.iter().all(|it| it == expected), "{field} {found:?}");
    };
    all("Uid:", &format!("{uid} {uid} {uid} {uid}"));
    all("Gid:", &format!("{gid} {gid} {gid} {gid}"));
    for field in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        all(field, "0000000000000000");
    }
    all("NoNewPrivs:", "1");
    let groups = of_threads(pid, "Groups:");
    assert!(groups.iter().all(|it| it.is_empty() || *it == gid.to_string()), "{groups:?}");
}

#[track_caller]
fn expect_served(proxy: &Proxy) {
    proxy.send(GET).read_response().expect_status(200);
}

fn pid(proxy: &Proxy) -> u32 {
    let line = proxy.wait_for_log(&["ringway", "pid="]);
    crate::support::logged(&line, "pid").parse().unwrap()
}

#[test]
fn it_serves_reloads_reopens_its_logs_and_hands_over_as_the_user_that_it_became() {
    let Some(user) = nobody() else { return };
    for server in ["", "landlock = true\nseccomp = true"] {
        let (home, origin) = (home(&user), Origin::answering(OK));
        let written = text(&home, &origin, server, "");
        home.write("config.toml", &written);
        let proxy = start(home);
        proxy.wait_for_log(&["root's rights are given up"]);
        let first = pid(&proxy);
        expect_nobody(first, &user);
        expect_served(&proxy);

        let config = proxy.home().join("config.toml");
        fs::write(&config, written.replace("workers = 2", "workers = 3")).unwrap();
        proxy.signal(Signal::SIGHUP);
        proxy.wait_for_log(&["worker", "index=2"]);
        expect_nobody(first, &user);

        let log = proxy.home().join("events");
        fs::rename(&log, proxy.home().join("events.1")).unwrap();
        proxy.signal(Signal::SIGUSR1);
        proxy.wait_for_log(&["log files opened anew"]);
        assert_eq!(fs::metadata(&log).unwrap().uid(), user.uid.as_raw());

        proxy.signal(Signal::SIGUSR2);
        let line = proxy.wait_for_log(&["a new process has taken over"]);
        let second: u32 = crate::support::logged(&line, "pid").parse().unwrap();
        expect_nobody(second, &user);
        expect_served(&proxy);
        kill(Pid::from_raw(second.cast_signed()), Signal::SIGTERM).unwrap();
        wait_until("the second one has ended", || !Path::new(&format!("/proc/{second}")).exists());
    }
}

/// The kernel keeps sixteen rulesets for a process and those that come of it.
#[test]
fn upgrades_add_no_ruleset_of_landlock() {
    let origin = Origin::answering(OK);
    let home = Home::new();
    let written = text(&home, &origin, "landlock = true", "").replace("user = \"nobody\"", "");
    home.write("config.toml", &written);
    let proxy = start(home);
    let mut last = pid(&proxy);
    for count in 1..=17 {
        kill(Pid::from_raw(last.cast_signed()), Signal::SIGUSR2).unwrap();
        wait_until("another process has taken over", || {
            let lines = proxy.log_lines();
            let taken = lines.iter().filter(|it| it.contains("a new process has taken over"));
            let all: Vec<_> = taken.collect();
            let refused = lines.iter().find(|it| it.contains("no upgrade"));
            assert!(refused.is_none(), "{count}: {refused:?}");
            let is_new = all.len() == count;
            if is_new {
                last = crate::support::logged(all[count - 1], "pid").parse().unwrap();
            }
            is_new
        });
    }
    expect_served(&proxy);
    kill(Pid::from_raw(last.cast_signed()), Signal::SIGTERM).unwrap();
}

#[test]
fn it_refuses_to_start_where_the_user_lacks_what_a_reload_will_need() {
    let Some(user) = nobody() else { return };
    let (home, origin) = (home(&user), Origin::answering(OK));
    let pair = Pair::of(&["example.org"]);
    home.write("site.pem", &pair.chain);
    let key = home.write("site.key", &pair.key);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let shut = home.path().join("shut");
    fs::create_dir(&shut).unwrap();
    let more = format!(
        "file = {:?}\n[tls]\ncertificates = [{{ chain = \"site.pem\", key = \"site.key\" }}]\n",
        shut.join("ringway.log")
    );
    let server = "listen_tls = [\"127.0.0.1:0\"]\nlisten = [\"unix:shut/a.sock\"]";
    let server = server.replace("unix:shut", &format!("unix:{}", shut.display()));
    home.write("config.toml", &text(&home, &origin, &server, &more));
    let mut command = ringway();
    command.current_dir(home.path());
    let output = run(command);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for part in [
        "server.user = \"nobody\" lacks what ringway will need:",
        "site.key cannot be read: Permission denied",
        "chgrp",
        "log.file: ",
        "server.listen: ",
        "chown nobody",
    ] {
        assert!(errors.contains(part), "no {part} in {errors}");
    }
}

#[test]
fn a_user_that_is_not_there_or_cannot_be_taken_on_is_refused() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let (home, origin) = (Home::new(), Origin::answering(OK));
    for (user, expected) in [
        ("no-such-user", "there is no such user: make one"),
        ("root", "server.user is root"),
        ("4000000000", "is no user with a group: set server.group"),
    ] {
        let text = text(&home, &origin, "", "").replace("\"nobody\"", &format!("{user:?}"));
        home.write("config.toml", &text);
        let mut command = ringway();
        command.current_dir(home.path());
        let output = run(command);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(expected), "{user}: {errors}");
    }
}

const WARNING: &str = "has a token or a password, and everybody on this machine can read it";

#[test]
fn files_with_secrets_that_everybody_can_read_are_warned_of() {
    let (home, origin) = (Home::new(), Origin::answering(OK));
    let text = text(&home, &origin, "", "").replace("user = \"nobody\"\n", "");
    let text =
        text.replace("enabled = false", "address = \"127.0.0.1:0\"\ntoken = \"0123456789abcdef\"");
    let file = home.write("config.toml", &text);
    let check = |mode: u32| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = ringway();
        command.args(["check", "--file-only"]).current_dir(home.path());
        String::from_utf8(run(command).stdout).unwrap()
    };
    assert!(check(0o644).contains(WARNING));
    assert!(!check(0o640).contains(WARNING));
}
