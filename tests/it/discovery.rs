//! Origins that are found: by SRV records, in files of their own, by the labels of containers.
//!
//! The name server and the Docker engine are scripted; what ringway makes of them is read from what
//! is answered, and from `/upstreams`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{
    Engine, GET, Home, NameServer, OK, Origin, Pair, Proxy, Question, Setup, Srv, TlsOrigin,
    container, has_own_mounts, logged, ringway, run, wait_until,
};

/// An origin that answers with its name and the Host it was asked for.
fn named(name: &'static str) -> Origin {
    Origin::start(move |mut peer| {
        while let Some(request) = peer.next_request() {
            let host = request.field("Host").unwrap_or_default();
            let body = format!("{name} {host}");
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

fn to(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// The status of the answer to a request for `host`, and by whom it was given.
fn answer(proxy: &Proxy, host: &str) -> (u16, String) {
    let response = proxy.send(to(host)).read_response();
    let body = String::from_utf8_lossy(&response.body).into_owned();
    (response.status(), body.split(' ').next().unwrap_or_default().to_owned())
}

/// By whom `count` requests for `host` are answered, all of them well.
fn counts(proxy: &Proxy, host: &str, count: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..count {
        let (status, name) = answer(proxy, host);
        assert_eq!(status, 200, "{name}");
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn wait_for(proxy: &Proxy, host: &str, wanted: &[&str]) {
    wait_until("other origins", || {
        let mut found: Vec<_> = (0..12).map(|_| answer(proxy, host)).collect();
        found.sort();
        found.dedup();
        let names: Vec<_> = found.iter().map(|(_, name)| name.as_str()).collect();
        found.iter().all(|(status, _)| *status == 200) && names == wanted
    });
}

fn upstreams(proxy: &Proxy) -> Value {
    serde_json::from_str(&proxy.admin("GET", "/upstreams")).expect("JSON")
}

fn docker(engine: &Engine) -> Setup {
    Setup::new().set("docker.socket", engine.socket())
}

const WEB: [(&str, &str); 3] = [
    ("ringway.host", "shop.test"),
    ("com.docker.compose.project", "shop"),
    ("com.docker.compose.service", "web"),
];

#[test]
fn containers_that_come_and_go_are_followed_without_any_configuration() {
    let (a, b) = (named("a"), named("b"));
    let [one, two] = [&a, &b].map(|origin| origin.address().port());
    let engine = Engine::start(&[container("1", one, &WEB)]);
    let proxy = docker(&engine).start();
    // From the first request on.
    assert_eq!(answer(&proxy, "shop.test"), (200, "a".to_owned()));
    proxy.send(GET).expect_status(404);
    engine.has(&[container("1", one, &WEB), container("2", two, &WEB)]);
    wait_for(&proxy, "shop.test", &["a", "b"]);
    assert_eq!(counts(&proxy, "shop.test", 20)["b"], 10);
    let listed = upstreams(&proxy);
    assert_eq!(listed["upstreams"][0]["name"], "docker.shop.web");
    assert_eq!(listed["upstreams"][0]["found"], "docker");
    assert_eq!(listed["upstreams"][0]["targets"].as_array().map(Vec::len), Some(2));
    engine.has(&[container("2", two, &WEB)]);
    wait_for(&proxy, "shop.test", &["b"]);
    // What is found is no part of the configuration, and a reload leaves it.
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded", "changed=\"\""]);
    assert_eq!(counts(&proxy, "shop.test", 4)["b"], 4);
    engine.has(&[]);
    wait_until("no route", || answer(&proxy, "shop.test").0 == 404);
    proxy.stop();
}

#[test]
fn a_container_that_is_told_to_stop_gets_no_more_requests_and_ends_what_it_has() {
    let (held, gate) = Origin::held();
    let other = named("b");
    let [one, two] = [held.address().port(), other.address().port()];
    let engine = Engine::start(&[container("1", one, &WEB)]);
    let proxy = docker(&engine).start();
    let mut waiting = proxy.send(to("shop.test"));
    held.wait_for("the request", |seen| !seen.requests.is_empty());
    engine.has_silently(&[container("1", one, &WEB), container("2", two, &WEB)]);
    engine
        .say("{\"Action\":\"kill\",\"Actor\":{\"ID\":\"1\",\"Attributes\":{\"signal\":\"15\"}}}\n");
    // A request before that would wait for the first one.
    proxy.wait_for_log(&["origins found", &format!("went=\"http://127.0.0.1:{one}\"")]);
    wait_for(&proxy, "shop.test", &["b"]);
    gate.open();
    waiting.read_response().expect_status(200).expect_body("ok");
    proxy.stop();
}

#[test]
fn a_container_that_is_restarted_is_served_again_at_once() {
    let one = named("one");
    let port = one.address().port();
    let labels = [("ringway.host", "app.test")];
    let engine = Engine::start(&[container("1", port, &labels)]);
    let proxy = docker(&engine).start();
    wait_for(&proxy, "app.test", &["one"]);
    let actor = |action: &str| {
        let actor = "\"Actor\":{\"ID\":\"1\",\"Attributes\":{\"signal\":\"15\"}}";
        engine.say(&format!("{{\"Action\":\"{action}\",{actor}}}\n"));
    };
    actor("kill");
    wait_until("it gets nothing more", || answer(&proxy, "app.test").0 == 404);
    let began = Instant::now();
    actor("die");
    actor("start");
    wait_for(&proxy, "app.test", &["one"]);
    // Half a second between lists; it was more than fifteen.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn whoever_is_not_healthy_is_left_out_and_health_says_nothing_of_it() {
    let (a, b) = (named("a"), named("b"));
    let [one, two] = [&a, &b].map(|origin| origin.address().port());
    let mut ill = container("1", one, &WEB);
    let engine = Engine::start(&[ill.clone(), container("2", two, &WEB)]);
    let setup = docker(&engine).set("alerts.interval", "1s").set("alerts.error_rate", 0);
    let proxy = setup.start();
    wait_for(&proxy, "shop.test", &["a", "b"]);
    ill["Status"] = "Up 3 minutes (unhealthy)".into();
    engine.has(&[ill.clone(), container("2", two, &WEB)]);
    wait_for(&proxy, "shop.test", &["b"]);
    ill["Status"] = "Up 3 minutes (healthy)".into();
    engine.has(&[ill, container("2", b.stop().port(), &WEB)]);
    wait_until("a alone", || {
        let health: Value = serde_json::from_str(&proxy.admin("GET", "/health")).unwrap();
        assert_eq!(health["status"], "ok");
        answer(&proxy, "shop.test").1 == "a"
    });
    proxy.stop();
}

#[test]
fn bad_labels_are_refused_by_name_and_others_served() {
    let origin = named("a");
    let port = origin.address().port();
    let mut bare = container("4", port, &[("ringway.host", "bare.test")]);
    bare["Labels"].as_object_mut().unwrap().remove("ringway.port");
    let engine = Engine::start(&[
        container("1", port, &[("ringway.host", "a b")]),
        container("2", port, &[("ringway.users_file", "/etc/passwd")]),
        bare,
        serde_json::json!({ "Id": 7, "Labels": "no" }),
        container("5", port, &WEB),
    ]);
    let proxy = docker(&engine).start();
    assert_eq!(answer(&proxy, "shop.test"), (200, "a".to_owned()));
    for part in [
        "container 1: ringway.host: found \"a b\"",
        "container 2: there is no label \"ringway.users_file\"",
        "container 4: it exposes no port: write the label ringway.port",
        "what is no container: ",
    ] {
        proxy.wait_for_log(&["a container is not served", part]);
    }
    assert_eq!(upstreams(&proxy)["discovery"]["refused"].as_array().map(Vec::len), Some(4));
    proxy.stop();
}

#[test]
fn what_is_configured_is_never_overridden() {
    let (own, other) = (named("own"), named("other"));
    let port = other.address().port();
    let engine = Engine::start(&[
        container("1", port, &[("ringway.host", "app.test")]),
        container("2", port, &WEB),
    ]);
    let proxy = docker(&engine)
        .upstream("app", &[&own.url()], "")
        .route("app.test", "/", "app", "")
        .start();
    assert_eq!(answer(&proxy, "app.test").1, "own");
    assert_eq!(answer(&proxy, "shop.test").1, "other");
    proxy.wait_for_log(&["docker.1: there is already a route app.test/, which stays"]);
    // Nor by a reload.
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded"]);
    assert_eq!(answer(&proxy, "app.test").1, "own");
    assert_eq!(answer(&proxy, "shop.test").1, "other");
    proxy.stop();
}

#[test]
fn an_engine_that_is_not_there_yet_is_a_warning_and_followed_once_it_is() {
    let origin = named("a");
    let path = Engine::path();
    let proxy = Setup::new().set("docker.socket", &path).start();
    proxy.wait_for_log(&["the Docker engine cannot be followed"]);
    proxy.send(GET).expect_status(404);
    let engine = Engine::start_at(path, &[container("1", origin.address().port(), &WEB)]);
    wait_for(&proxy, "shop.test", &["a"]);
    proxy.wait_for_log(&["the Docker engine is followed"]);
    assert!(engine.lists() > 0);
    proxy.stop();
}

#[test]
fn what_was_missed_while_the_engine_was_away_is_found_again() {
    let (a, b) = (named("a"), named("b"));
    let [one, two] = [&a, &b].map(|origin| origin.address().port());
    let engine = Engine::start(&[container("1", one, &WEB)]);
    let proxy = docker(&engine).start();
    wait_for(&proxy, "shop.test", &["a"]);
    engine.has_silently(&[container("2", two, &WEB)]);
    engine.hang_up();
    wait_for(&proxy, "shop.test", &["b"]);
    proxy.stop();
}

#[test]
fn an_engine_that_answers_rubbish_or_without_end_changes_nothing() {
    let origin = named("a");
    let engine = Engine::start(&[container("1", origin.address().port(), &WEB)]);
    let proxy = docker(&engine).set("alerts.interval", "1s").start();
    for rubbish in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[",
    ] {
        let lists = engine.lists();
        engine.answers(Some(rubbish));
        engine.say("{}\n");
        wait_until("the list", || engine.lists() > lists);
        assert_eq!(answer(&proxy, "shop.test").1, "a", "{rubbish}");
        engine.answers(None);
        wait_until("right again", || upstreams(&proxy)["discovery"].is_null());
    }
    let memory = proxy.resident_bytes();
    engine.is_endless(true);
    engine.say("{}\n");
    wait_until("too long", || {
        upstreams(&proxy)["discovery"]["engine"].as_str().is_some_and(|it| it.contains("more than"))
    });
    assert_eq!(answer(&proxy, "shop.test").1, "a");
    proxy.wait_for_log(&["alert begun", "discovery"]);
    engine.is_endless(false);
    wait_until("right again", || upstreams(&proxy)["discovery"].is_null());
    assert!(proxy.resident_bytes() < memory + (64 << 20));
    // Neither do events that are none, nor one without end.
    for events in ["x\n".to_owned(), "x".repeat(1 << 20)] {
        let lists = engine.lists();
        engine.say(&events);
        wait_until("another list", || engine.lists() > lists);
        assert_eq!(answer(&proxy, "shop.test").1, "a");
    }
    proxy.stop();
}

/// A setup whose only upstream is read from a file.
fn from_file(name: &str, text: &str) -> Setup {
    let lines = format!("file = {name:?}");
    Setup::new().upstream_lines("app", &lines).file(name, text).set("alerts.interval", "1s")
}

#[test]
fn a_file_of_origins_is_followed_and_one_that_is_bad_or_gone_changes_nothing() {
    let (a, b) = (named("a"), named("b"));
    let proxy = from_file("origins.toml", &format!("origins = [{:?}]", a.url())).start();
    let path = proxy.home().join("origins.toml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    wait_for(&proxy, "test", &["a"]);
    write(&format!("origins = [{:?}, {{ url = {:?}, weight = 3 }}]", a.url(), b.url()));
    wait_for(&proxy, "test", &["a", "b"]);
    assert_eq!(counts(&proxy, "test", 20)["b"], 15);
    // Half of it.
    write(&format!("origins = [{:?}, {{ url = ", b.url()));
    proxy.wait_for_log(&["what the file last said stays", "origins.toml:1:"]);
    assert_eq!(counts(&proxy, "test", 4).len(), 2);
    proxy.wait_for_log(&["alert begun", "discovery"]);
    std::fs::remove_file(&path).unwrap();
    proxy.wait_for_log(&["what the file last said stays", "cannot be read"]);
    assert_eq!(counts(&proxy, "test", 4).len(), 2);
    // A reload is no reason to forget it.
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded"]);
    assert_eq!(counts(&proxy, "test", 4).len(), 2);
    write(&format!("origins = [{:?}]", b.url()));
    wait_for(&proxy, "test", &["b"]);
    proxy.wait_for_log(&["alert ended", "discovery"]);
    proxy.stop();
}

#[test]
fn a_request_under_way_ends_at_the_origin_that_is_taken_out() {
    let (held, gate) = Origin::held();
    let other = named("b");
    let text = format!("{{\"origins\": [{:?}]}}", held.url());
    let proxy = from_file("origins.json", &text).start();
    let mut waiting = proxy.send(GET);
    held.wait_for("the request", |seen| !seen.requests.is_empty());
    let text = format!("{{\"origins\": [{:?}]}}", other.url());
    std::fs::write(proxy.home().join("origins.json"), text).unwrap();
    proxy.wait_for_log(&["origins found", &format!("went=\"{}\"", held.url())]);
    wait_for(&proxy, "test", &["b"]);
    gate.open();
    waiting.read_response().expect_status(200).expect_body("ok");
    proxy.stop();
}

#[test]
fn what_is_wrong_in_a_file_of_origins_is_shown_at_its_place() {
    let checked = |text: &str| {
        let setup = from_file("origins.toml", text);
        let home = Home::new();
        let config = home.write("ringway.toml", &setup.text());
        home.write("origins.toml", text);
        let mut command = ringway();
        command.args(["check", "--file-only", "--config"]).arg(config).current_dir(home.path());
        let output = run(command);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(checked("origins = [\"http://127.0.0.1:1\"]").0, Some(0));
    let (code, error) = checked("origins = [\"http://127.0.0.1:1\",\n  \"ftp://b\"]");
    assert_eq!(code, Some(2));
    assert!(error.contains("origins.toml:2:3: origins[1]: found \"ftp://b\", expected"), "{error}");
}

/// A name server for services; all names of hosts are this machine.
fn services(servers: &Arc<Mutex<Vec<Srv>>>) -> NameServer {
    let servers = Arc::clone(servers);
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    NameServer::with_services(
        move |_: &Question| Some(vec![here]),
        move |name| match name {
            "_http._tcp.app.test" => servers.lock().unwrap().clone(),
            _ => Vec::new(),
        },
    )
}

#[test]
fn a_service_is_all_its_servers_by_weight_and_priority() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let [one, two, three] = [&a, &b, &c].map(|origin| origin.address().port());
    let server = |priority, weight, port, name: &str| (priority, weight, port, name.to_owned());
    let servers = Arc::new(Mutex::new(vec![
        server(10, 1, one, "a.test"),
        server(10, 3, two, "b.test"),
        server(20, 9, three, "c.test"),
    ]));
    let names = services(&servers);
    let proxy = Setup::new()
        .asking(&names)
        .upstream("app", &["srv+http://_http._tcp.app.test"], "host = \"origin\"")
        .start();
    let found = counts(&proxy, "test", 20);
    assert_eq!((found["a"], found["b"], found.get("c")), (5, 15, None));
    // The Host is the server's own.
    let response = proxy.send(GET).read_response();
    let body = String::from_utf8_lossy(&response.body).into_owned();
    let hosts = [format!("a a.test:{one}"), format!("b b.test:{two}")];
    assert!(hosts.contains(&body), "{body}");
    let listed = upstreams(&proxy);
    let target = &listed["upstreams"][0]["targets"][0];
    assert_eq!(target["origin"], "srv+http://_http._tcp.app.test");
    assert_eq!(target["server"], format!("a.test:{one}"));
    // Both of the first priority are gone.
    drop((a, b));
    wait_for(&proxy, "test", &["c"]);
    // Records are followed.
    let d = named("d");
    *servers.lock().unwrap() = vec![server(1, 0, d.address().port(), "d.test")];
    wait_for(&proxy, "test", &["d"]);
    proxy.stop();
}

#[test]
fn a_service_that_is_not_known_has_no_origin_and_one_that_is_lost_keeps_them() {
    let a = named("a");
    let servers = Arc::new(Mutex::new(Vec::new()));
    let names = services(&servers);
    let proxy = Setup::new()
        .asking(&names)
        .upstream("app", &["srv+http://_http._tcp.app.test"], "")
        .start();
    assert_eq!(answer(&proxy, "test").0, 502);
    *servers.lock().unwrap() = vec![(1, 1, a.address().port(), "a.test".to_owned())];
    wait_for(&proxy, "test", &["a"]);
    servers.lock().unwrap().clear();
    proxy.wait_for_log(&["not resolved again, the last addresses stay", "_http._tcp.app.test"]);
    assert_eq!(answer(&proxy, "test"), (200, "a".to_owned()));
    proxy.stop();
}

#[test]
fn a_server_of_a_service_shows_a_certificate_for_its_own_name() {
    let pair = Pair::of(&["a.test"]);
    let names = Arc::new(Mutex::new(Vec::new()));
    let origin = TlsOrigin::start(&pair, {
        let names = Arc::clone(&names);
        move |mut peer| {
            if peer.shake_hands().is_ok() {
                names.lock().unwrap().push(peer.asked_name().map(str::to_owned));
            }
            while peer.read_head().is_some() {
                peer.send(OK);
            }
        }
    });
    let port = origin.url().rsplit(':').next().unwrap().parse().unwrap();
    let servers = Arc::new(Mutex::new(vec![(1, 1, port, "a.test".to_owned())]));
    let server = services(&servers);
    let proxy = Setup::new()
        .asking(&server)
        .file("origin.pem", &pair.chain)
        .upstream(
            "app",
            &["srv+https://_http._tcp.app.test"],
            "[upstream.tls]\nca = \"origin.pem\"",
        )
        .start();
    proxy.get().expect_status(200);
    assert_eq!(*names.lock().unwrap(), [Some("a.test".to_owned())]);
    // One that has another name is not believed.
    servers.lock().unwrap()[0].3 = "b.test".to_owned();
    wait_until("another name", || answer(&proxy, "test").0 == 502);
    proxy.stop();
}

#[test]
fn the_table_of_hosts_is_followed_for_origins() {
    if !has_own_mounts() {
        return;
    }
    let a = named("a");
    let port = a.address().port();
    let b = Origin::start_at(([127, 0, 0, 2], port).into(), |mut peer| {
        while peer.next_request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
        }
    });
    let proxy = Setup::to_url(&format!("http://moved.test:{port}"))
        .with_hosts("127.0.0.1 moved.test\n")
        .start();
    wait_for(&proxy, "test", &["a"]);
    std::fs::write(proxy.home().join("hosts"), "127.0.0.2 moved.test # elsewhere\n").unwrap();
    wait_for(&proxy, "test", &["b"]);
    drop(b);
    proxy.stop();
}

#[test]
fn a_new_process_serves_containers_before_it_takes_over() {
    let origin = named("a");
    let engine = Engine::start(&[container("1", origin.address().port(), &WEB)]);
    let proxy = docker(&engine).start();
    assert_eq!(answer(&proxy, "shop.test").0, 200);
    proxy.signal(Signal::SIGUSR2);
    wait_until("another process", || {
        assert_eq!(answer(&proxy, "shop.test"), (200, "a".to_owned()));
        proxy.log_lines().iter().any(|line| line.contains("a new process has taken over"))
    });
    let line = proxy.wait_for_log(&["a new process has taken over"]);
    let last = Pid::from_raw(logged(&line, "pid").parse().unwrap());
    let answers: Vec<_> = (0..20).map(|_| answer(&proxy, "shop.test")).collect();
    kill(last, Signal::SIGTERM).unwrap();
    assert!(answers.iter().all(|it| *it == (200, "a".to_owned())), "{answers:?}");
}
