//! `ringway doctor` as a program: what it prints, and how it ends.
//!
//! Comes in: this machine as it is, and what a test puts in the way. Goes out: findings as JSON and
//! exit codes. Each check by itself is tested in `src/doctor`, with machines that are made up.

use std::net::TcpListener;
use std::process::Output;

use crate::support::{self, Home, Origin, Setup, ringway, run};
use serde_json::Value;

fn doctor(arguments: &[&str]) -> (Value, Option<i32>) {
    let home = Home::new();
    let mut command = ringway();
    // Its usual port may be somebody's.
    let admin = ["--set", "admin.address=127.0.0.1:0"];
    command.args(["doctor", "--json"]).args(admin).args(arguments).current_dir(home.path());
    let Output { status, stdout, .. } = run(command);
    (serde_json::from_slice(&stdout).expect("one JSON object"), status.code())
}

#[track_caller]
fn finding<'a>(report: &'a Value, id: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("no {id}"))
}

#[test]
fn the_exit_code_is_that_of_the_worst_finding() {
    let (report, code) = doctor(&["--port", "0"]);
    let worst = report["severity"].as_str().unwrap();
    let expected = match worst {
        "ok" | "hint" => 0,
        "warning" => 3,
        _ => 1,
    };
    assert_eq!(code, Some(expected), "{report}");
    // Where the tests run, ringway runs.
    assert_ne!(worst, "error", "{report}");
    assert_eq!(finding(&report, "io_uring")["current"], "usable");
    assert_eq!(finding(&report, "driver")["current"], "io_uring");
}

#[test]
fn who_is_in_the_way_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (report, code) = doctor(&["--host", "127.0.0.1", "--port", &port]);
    let listeners = finding(&report, "listeners");
    assert_eq!((listeners["severity"].as_str(), code), (Some("error"), Some(1)), "{report}");
    let holder = format!("({})", std::process::id());
    assert!(listeners["current"].as_str().unwrap().contains(&holder), "{listeners}");
}

#[test]
fn a_ringway_that_runs_is_not_in_its_own_way() {
    let origin = Origin::answering(support::OK);
    let proxy = Setup::to(&origin).start();
    let port = proxy.address().port().to_string();
    let (report, _) = doctor(&["--host", "127.0.0.1", "--port", &port]);
    let listeners = finding(&report, "listeners");
    assert_eq!(listeners["severity"], "ok", "{report}");
    assert!(listeners["current"].as_str().unwrap().ends_with("by ringway"), "{listeners}");
}

#[test]
fn a_wrong_configuration_is_not_the_machines_fault() {
    let mut command = ringway();
    command.args(["doctor", "--set", "server.prot=1"]);
    let Output { status, stdout, stderr } = run(command);
    assert_eq!(status.code(), Some(2));
    assert!(stdout.is_empty());
    assert!(String::from_utf8_lossy(&stderr).contains("server.port"));
}

#[test]
fn people_get_a_table_with_the_sum_at_its_end() {
    let mut command = ringway();
    command.args(["doctor", "--port", "0", "--set", "admin.address=127.0.0.1:0"]);
    let Output { stdout, .. } = run(command);
    let text = String::from_utf8_lossy(&stdout);
    assert!(text.contains("\nok       io_uring "), "{text}");
    assert!(text.lines().last().unwrap().contains("looked at: 0 errors"), "{text}");
}
