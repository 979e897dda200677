//! `ringway health` as container engines see it: what it prints, and its exit code.
//!
//! Comes in: a scripted server in place of a running ringway. Goes out: the command's two streams
//! and its status. What is asked and how answers are read: the unit tests of `cli::client`.

use crate::support::{Origin, ringway, run};

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into()
}

/// Asks a server that answers so; the exit code and what was printed.
fn ask(status: &str, body: &str) -> (Option<i32>, String) {
    let server = Origin::answering_and_closing(answer(status, body));
    let mut command = ringway();
    command.args(["health", "--url", &server.url()]);
    let output = run(command);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_good_answer_is_printed_and_exits_with_zero() {
    for body in ["{\"status\":\"ok\"}", "{\"status\":\"degraded\"}"] {
        assert_eq!(ask("200 OK", body), (Some(0), format!("HTTP 200\n{body}\n")));
    }
}

#[test]
fn a_bad_answer_is_printed_and_exits_with_one() {
    let body = "{\"status\":\"draining\"}";
    assert_eq!(ask("200 OK", body), (Some(1), format!("HTTP 200\n{body}\n")));
    let refusal = ask("503 Service Unavailable", "no");
    assert_eq!(refusal, (Some(1), "HTTP 503\nno\n".to_owned()));
}

#[test]
fn nobody_there_is_one_line_with_the_address_and_exits_with_one() {
    let url = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", gone.local_addr().unwrap())
    };
    let mut command = ringway();
    command.args(["health", "--url", &url]);
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&url) && text.contains("refused") && text.lines().count() == 1, "{text}");
}

#[test]
fn an_address_that_is_none_exits_with_two() {
    let mut command = ringway();
    command.args(["health", "--url", "ftp://127.0.0.1"]);
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("expected http://ADDRESS:PORT"), "{text}");
}
