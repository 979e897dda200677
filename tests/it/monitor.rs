//! The monitor that ships: a script with curl and jq against the real program.
//!
//! Comes in: a threshold. Goes out: what the script says and the cleanup that it asks for. Where
//! curl or jq is missing, the test says so and does nothing.

use crate::support::{OK, Origin, Proxy};
use std::process::{Command, Output};

fn monitor(proxy: &Proxy, threshold_mb: &str) -> Option<Output> {
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !has("curl") || !has("jq") {
        eprintln!("skipped: curl or jq is missing");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/monitor.sh");
    let url = format!("http://{}", proxy.address());
    let mut command = Command::new("bash");
    command.args([script, "--once", &url]).env("THRESHOLD_MB", threshold_mb);
    Some(command.output().expect("bash runs"))
}

#[test]
fn the_monitor_says_what_it_takes() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/monitor.sh");
    let said = |flag: &str| Command::new("bash").args([script, flag]).output().expect("bash runs");
    let help = said("--help");
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success() && text.contains("THRESHOLD_MB"), "{help:?}");
    assert_eq!(said("--onec").status.code(), Some(2));
}

#[test]
fn the_monitor_sees_the_memory_and_leaves_it_alone_below_its_line() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let Some(output) = monitor(&proxy, "100000") else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("status=ok memory="), "{output:?}");
    assert!(!said.contains("cleanup"), "{said}");
}

#[test]
fn the_monitor_asks_for_a_cleanup_above_its_line() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let Some(output) = monitor(&proxy, "0") else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("cleanup {\"level\":\"light\""), "{output:?}");
    proxy.wait_for_log(&["cleanup", "why=\"asked\""]);
}
