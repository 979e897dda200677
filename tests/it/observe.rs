//! What an operator sees of a ringway that runs: figures by name, the comparison of arms.
//!
//! In go requests of clients and questions to the administration; what is checked is what people
//! and programs are shown, with names and requests that would like to be more than text.

use std::process::Output;

use serde_json::Value;

use crate::support::{
    GET, Home, Origin, Proxy, Setup, installed, logged, ringway, run, wait_until,
};

/// Where the administration is asked.
fn admin_url(proxy: &Proxy) -> String {
    format!("http://{}", logged(&proxy.wait_for_log(&["admin API", "address="]), "address"))
}

fn command(proxy: &Proxy, words: &[&str]) -> Output {
    let mut command = ringway();
    command.args(words).args(["--url", &admin_url(proxy)]);
    run(command)
}

fn json(proxy: &Proxy, path: &str) -> Value {
    serde_json::from_str(&proxy.admin("GET", path)).expect("JSON")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn answering(status: &str) -> Origin {
    Origin::answering(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))
}

/// A split of two halves, of which the canary fails.
fn canary() -> (Proxy, [Origin; 2]) {
    let (good, bad) = (answering("200 OK"), answering("500 No"));
    let proxy = Setup::new()
        .upstream("stable", &[&good.url()], "")
        .upstream("canary", &[&bad.url()], "")
        .route("", "/", "stable", "hooks.split.weights = { stable = 1, canary = 1 }")
        .start();
    (proxy, [good, bad])
}

#[test]
fn figures_are_kept_by_route_upstream_origin_and_arm() {
    let (proxy, origins) = canary();
    let mut client = proxy.connect();
    for _ in 0..40 {
        client.send(GET).read_response();
    }
    wait_until("all are counted", || {
        json(&proxy, "/stats")["current"]["routes"][0]["requests"] == 40
    });
    let stats = json(&proxy, "/stats")["current"].clone();
    let of = |list: &str, key: &str, name: &str| {
        let all = stats[list].as_array().expect("a list").clone();
        all.into_iter().find(|one| one[key] == name).expect("an entry")
    };
    let route = of("routes", "route", "*/");
    let (stable, canary) =
        (of("upstreams", "upstream", "stable"), of("upstreams", "upstream", "canary"));
    assert_eq!((&stable["errorRate"], &canary["errorRate"]), (&0.0.into(), &1.0.into()));
    assert_eq!(of("origins", "origin", &origins[1].url())["classes"], canary["classes"]);
    assert_eq!(of("arms", "upstream", "canary")["classes"], canary["classes"]);
    assert_eq!(of("arms", "upstream", "canary")["route"], "*/");
    let sum = |key: &str| stable[key].as_u64().unwrap() + canary[key].as_u64().unwrap();
    assert_eq!(sum("requests"), 40);
    assert_eq!(route["classes"][5], canary["classes"][5]);
    for one in [&route, &stable, &canary] {
        let [p50, p95, p99] = ["p50", "p95", "p99"].map(|key| one[key].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{one}");
    }
    let metrics = proxy.admin("GET", "/metrics");
    for series in [
        "ringway_route_duration_seconds_count{route=\"*/\"} 40\n".to_owned(),
        "ringway_split_requests_total{route=\"*/\",upstream=\"canary\",class=\"2xx\"} 0\n"
            .to_owned(),
        format!(
            "ringway_origin_requests_total{{upstream=\"canary\",origin=\"{}\",class=\"5xx\"}} {}\n",
            origins[1].url(),
            canary["requests"],
        ),
    ] {
        assert!(metrics.contains(&series), "{series}\n{metrics}");
    }
}

#[test]
fn an_origin_that_was_given_up_is_not_taken_for_one_that_answered() {
    let (dead, good) = (Origin::start(|mut peer| drop(peer.next_request())), answering("200 OK"));
    let proxy = Setup::new()
        .upstream("app", &[&dead.url(), &good.url()], "")
        .route("", "/", "app", "hooks.retry = { attempts = 3 }")
        .start();
    for _ in 0..4 {
        assert_eq!(proxy.get().status(), 200);
    }
    let series = format!("upstream=\"app\",origin=\"{}\",class=\"none\"}} ", dead.url());
    wait_until("the failed attempts are counted", || {
        let metrics = proxy.admin("GET", "/metrics");
        let line = metrics.lines().find_map(|line| line.split_once(&*series));
        line.is_some_and(|(_, count)| count.parse::<u64>().unwrap() > 0)
    });
}

#[test]
fn arms_are_compared_while_clients_ask() {
    let (proxy, _origins) = canary();
    let words = ["compare-arms", "--a", "stable", "--rounds", "4", "--round-ms", "150", "--json"];
    let output = std::thread::scope(|scope| {
        let compared = scope.spawn(|| command(&proxy, &words));
        let mut client = proxy.connect();
        while !compared.is_finished() {
            client.send(GET).read_response();
        }
        compared.join().expect("an output")
    });
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["route"], &report["b"]), (&"*/".into(), &"canary".into()));
    assert_eq!(report["result"], "worse");
    assert_eq!(report["error_rates"], serde_json::json!([0.0, 1.0]));
    assert!(report["figures"][0]["comparison"]["ratio"].as_f64().unwrap() > 0.1, "{report}");
    let refused = command(&proxy, &["compare-arms", "*/none"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("only: \\\"*/\\\""), "{refused:?}");
}

#[test]
fn one_snapshot_has_everything_and_the_route_and_target_of_a_connection() {
    let (origin, gate) = Origin::held();
    let proxy = Setup::to(&origin).start();
    let mut client = proxy.connect();
    client.send(GET);
    let mut snapshot = Value::Null;
    wait_until("the exchange is seen", || {
        snapshot = json(&proxy, "/snapshot");
        snapshot["connections"]["oldest"][0]["target"] == origin.address().to_string()
    });
    let connection = &snapshot["connections"]["largest"][0];
    assert_eq!((&connection["route"], &connection["phase"]), (&"*/".into(), &"exchange".into()));
    for key in [
        "schema",
        "at",
        "started",
        "pid",
        "configuration",
        "now",
        "history",
        "memory",
        "process",
        "workers",
        "routes",
        "arms",
        "upstreams",
        "connections",
        "certificates",
        "events",
        "silences",
        "status",
        "version",
        "uptime_seconds",
        "alerts",
        "pool",
        "listeners",
        "driver",
        "clients",
    ] {
        assert!(!snapshot[key].is_null(), "{key}: {snapshot}");
    }
    let file = snapshot["configuration"]["file"].as_str().expect("a file");
    assert_eq!(std::path::Path::new(&file).extension().unwrap(), "toml", "{file}");
    assert_eq!(snapshot["routes"][0]["to"], "origin");
    assert_eq!(snapshot["upstreams"][0]["targets"][0]["state"], "up");
    let workers = snapshot["workers"].as_array().expect("workers");
    assert!(workers.iter().all(|worker| worker["is_silent"] == false), "{snapshot}");
    gate.open();
    client.read_response();
}

#[test]
fn what_an_operator_changes_is_written_down() {
    let origin = answering("200 OK");
    let proxy = Setup::to(&origin).start();
    assert!(json(&proxy, "/admin/log")["level"] == "info");
    proxy.admin("POST", "/admin/log?level=debug");
    assert_eq!(json(&proxy, "/admin/log")["level"], "debug");
    proxy.admin("POST", "/admin/silence?alert=error_rate&for=1h");
    assert_eq!(json(&proxy, "/snapshot")["silences"][0]["alert"], "error_rate");
    assert!(proxy.ask_admin("POST", "/admin/silence?alert=x&for=1h").starts_with("HTTP/1.1 404"));
    assert!(proxy.ask_admin("POST", "/admin/silence?alert=x&for=1y").starts_with("HTTP/1.1 400"));
    assert!(proxy.ask_admin("POST", "/admin/log?level=loud").starts_with("HTTP/1.1 400"));
    let line = proxy.wait_for_log(&["admin change", "/admin/log?level=debug"]);
    for part in ["who=\"127.0.0.1\"", "status=200", "generation=1"] {
        assert!(line.contains(part), "{line}");
    }
    let events = json(&proxy, "/snapshot")["events"].clone();
    assert!(events.to_string().contains("POST /admin/log?level=debug (200)"), "{events}");
}

#[test]
fn a_token_for_reading_is_asked_of_whoever_looks() {
    let origin = answering("200 OK");
    let proxy = Setup::to(&origin)
        .set("admin.token", "0123456789abcdef")
        .set("admin.read_token", "read-0123456789ab")
        .start();
    for path in ["/snapshot", "/metrics", "/stats", "/connections", "/upstreams"] {
        assert!(proxy.ask_admin("GET", path).starts_with("HTTP/1.1 401"), "{path}");
    }
    for path in ["/", "/ready"] {
        assert!(proxy.ask_admin("GET", path).starts_with("HTTP/1.1 200"), "{path}");
    }
    let outline = json(&proxy, "/health");
    assert_eq!((&outline["status"], &outline["pool"]), (&"ok".into(), &Value::Null));
}

/// What stands in a file of `examples/observe`.
fn example(name: &str) -> String {
    let path = format!("{}/examples/observe/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("an example")
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let folder = format!("{}/src/admin", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let source: String =
        files.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect();
    let mut count = 0;
    for text in ["alerts.yml", "dashboard.json"].map(example) {
        for rest in text.split("ringway_").skip(1) {
            let is_part = |byte: char| byte.is_ascii_lowercase() || byte == '_';
            let end = rest.find(|byte| !is_part(byte)).unwrap_or(rest.len());
            let name = format!("ringway_{}", rest[..end].trim_end_matches("_bucket"));
            assert!(source.contains(&format!("\"{name}\"")), "{name}");
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}

#[test]
fn promtool_takes_the_rules_and_every_expression_of_the_dashboard() {
    let Some(promtool) = installed("promtool") else { return };
    let check = |words: &[&str], folder: &std::path::Path| {
        let mut command = std::process::Command::new(&promtool);
        command.args(words).current_dir(folder);
        let output = run(command);
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    let folder = format!("{}/examples/observe", env!("CARGO_MANIFEST_DIR"));
    let folder = std::path::Path::new(&folder);
    check(&["check", "rules", "alerts.yml"], folder);
    check(&["test", "rules", "alerts_test.yml"], folder);
    check(&["check", "config", "prometheus.yml"], folder);
    let dashboard: Value = serde_json::from_str(&example("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let rules: Vec<Value> = targets
        .enumerate()
        .map(|(index, target)| {
            let text = target["expr"].as_str().expect("an expression");
            let expr = text.replace("$__rate_interval", "5m").replace("$instance", ".*");
            serde_json::json!({ "record": format!("panel:{index}"), "expr": expr })
        })
        .collect();
    assert!(rules.len() > 30);
    // JSON is YAML.
    let text = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string();
    let home = Home::new();
    home.write("panels.yml", &text);
    check(&["check", "rules", "panels.yml"], home.path());
}
