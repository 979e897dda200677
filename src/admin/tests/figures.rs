//! What is told: health, readiness, metrics, statistics, alerts.
//!
//! In go figures as workers would write them; what is checked is that each of them comes out, under
//! its name, and that windows and alerts end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::super::exposition::tests::parse;
use super::super::proxy::Proxy;
use super::{Fixture, oneshot, wait_until};
use crate::config::{HostPattern, OriginHttp, RouteConfig};
use crate::fault::ProxyError;
use crate::ledger::Kind;
use crate::memory::Pressure;
use crate::observe::traffic::Ended;
use crate::ring::Operation;
use crate::upstream::{Origin, UpstreamPlan};
use crate::worker::generation::SnapshotParts;

#[test]
fn health_says_what_scripts_look_for() {
    let fixture = Fixture::start(|_| {});
    fixture.shared.ledgers.workers()[1].set(Kind::PinnedChunks, 4096);
    fixture.shared.ledgers.workers()[1].set(Kind::LeasedChunks, 1024);
    fixture.shared.live[0].store(4, Ordering::Relaxed);
    fixture.shared.metrics[0].parked.set(3);
    fixture.shared.metrics[1].tunnels.set(2);
    let health = fixture.json("GET /health");
    assert!(health["memory_usage_mb"].as_f64().unwrap() > 1.0, "{health}");
    assert!(health["memory"]["rss_bytes"].as_u64().unwrap() > 1 << 20);
    let table = [
        ("/status", "\"ok\""),
        ("/memory/ledger_bytes", "4096"),
        ("/memory/ceiling_bytes", "524288000"),
        ("/memory/state", "\"normal\""),
        ("/memory/by_kind/leased_chunks", "1024"),
        ("/connections/clients", "4"),
        ("/connections/resting", "3"),
        ("/connections/tunnels", "2"),
        ("/connections/max", "10000"),
        ("/pool/open", "0"),
        ("/pool/idle", "0"),
        ("/pool/max", "100"),
        ("/pool/waiting", "0"),
        ("/listeners/0", "\"127.0.0.1:8000\""),
        ("/workers", "2"),
        ("/config_generation", "7"),
        ("/alerts", "[]"),
        ("/version", concat!("\"", env!("CARGO_PKG_VERSION"), "\"")),
    ];
    for (path, expected) in table {
        assert_eq!(health.pointer(path).map(Value::to_string).as_deref(), Some(expected), "{path}");
    }
    assert!(health["uptime_seconds"].is_u64());
}

#[test]
fn readiness_fails_when_it_should_and_health_says_why() {
    use Pressure::{Forced, Light, Normal};

    // Only the test sets the pressure.
    let (setup, fixture) = Fixture::prepare(|_| {});
    let proxy = Arc::new(Proxy::new(setup, None));
    let shared = &fixture.shared;
    let table = [
        (true, false, Normal, 200, "ok"),
        (true, false, Light, 200, "degraded"),
        (true, false, Forced, 503, "overloaded"),
        (false, false, Normal, 503, "draining"),
        (false, true, Forced, 503, "draining"),
        (true, true, Normal, 503, "draining"),
    ];
    for (is_ready, is_draining, pressure, ready, status) in table {
        shared.is_ready.store(is_ready, Ordering::Relaxed);
        shared.is_draining.store(is_draining, Ordering::Relaxed);
        shared.pressure.set(pressure);
        assert_eq!(oneshot(&proxy, "GET /ready", None).status, ready, "{status}");
        let health = oneshot(&proxy, "GET /health", None);
        // A process that drains is alive.
        assert_eq!(health.status, 200);
        assert!(health.body.contains(&format!("\"status\":\"{status}\"")), "{}", health.body);
    }
}

#[test]
fn metrics_keep_to_the_format_and_leave_nothing_out() {
    let fixture = Fixture::start(|config| {
        let route = RouteConfig { path: "/a\"b".to_owned(), ..config.routes[0].clone() };
        let suffix = HostPattern::Suffix(".example.org".to_owned());
        config.routes = vec![RouteConfig { host: suffix, ..route.clone() }; 502];
        for (index, route) in config.routes.iter_mut().enumerate().skip(2) {
            route.path = format!("/{index}");
        }
        config.routes[1].host = HostPattern::Exact("example.org".to_owned());
    });
    let [one, two] = [&fixture.shared.metrics[0], &fixture.shared.metrics[1]];
    one.answered(200, 1_500);
    for status in [503, 404, 404] {
        two.answered(status, 2_500);
    }
    let named = fixture.shared.snapshot.load();
    named.counts[0].ended(Some(0), Some(0), Ended::new(200, 700));
    named.counts[1].ended(Some(1), Some(0), Ended::new(503, 700));
    named.counts[1].ended(Some(500), None, Ended::new(404, 700));
    named.counts[1].ended(Some(501), None, Ended::new(404, 700));
    one.faults.count(ProxyError::DnsError);
    two.faults.count(ProxyError::DnsError);
    two.pool_wait.record(1_000_000);
    fixture.shared.rings[1].submitted[Operation::Accept as usize].add(5);
    fixture.shared.rings[1].completed[Operation::Accept as usize].add(3);
    let answer = fixture.get("/metrics");
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(answer.head.contains(kind), "{}", answer.head);
    let metrics = parse(&answer.body);
    let table = [
        ("ringway_requests_total{worker=\"0\",class=\"2xx\"}", 1.0),
        ("ringway_requests_total{worker=\"1\",class=\"4xx\"}", 2.0),
        ("ringway_requests_total{worker=\"1\",class=\"none\"}", 0.0),
        ("ringway_route_requests_total{route=\"*.example.org/a\\\"b\",class=\"2xx\"}", 1.0),
        ("ringway_route_requests_total{route=\"example.org/a\\\"b\",class=\"5xx\"}", 1.0),
        ("ringway_route_requests_total{route=\"other\",class=\"4xx\"}", 2.0),
        ("ringway_upstream_requests_total{upstream=\"demo\",class=\"5xx\"}", 1.0),
        ("ringway_upstream_duration_seconds_count{upstream=\"demo\"}", 2.0),
        ("ringway_route_duration_seconds_bucket{route=\"other\",le=\"0.0005\"}", 0.0),
        ("ringway_route_duration_seconds_bucket{route=\"other\",le=\"0.001\"}", 2.0),
        ("ringway_route_duration_seconds_sum{route=\"other\"}", 0.0014),
        ("ringway_request_duration_seconds_count", 4.0),
        ("ringway_request_duration_seconds_sum", 0.009),
        ("ringway_request_duration_seconds_bucket{le=\"0.001\"}", 0.0),
        ("ringway_request_duration_seconds_bucket{le=\"0.005\"}", 4.0),
        ("ringway_pool_wait_seconds_count", 1.0),
        ("ringway_faults_total{error=\"dns_error\"}", 2.0),
        ("ringway_ring_in_flight{worker=\"1\",operation=\"accept\"}", 2.0),
        ("ringway_ring_inspected{worker=\"0\"}", 0.0),
        ("ringway_memory_ceiling_bytes", 524_288_000.0),
        ("ringway_config_generation", 7.0),
        ("ringway_ready", 1.0),
        ("ringway_alert_active{alert=\"error_rate\",upstream=\"\"}", 0.0),
        ("ringway_alert_active{alert=\"upstream_down\",upstream=\"demo\"}", 0.0),
    ];
    for (series, expected) in table {
        assert_eq!(metrics.get(series), Some(&expected), "{series}");
    }
    // 500 routes of their own, and one for the others.
    let routes = metrics.keys().filter(|series| series.starts_with("ringway_route_requests"));
    assert_eq!(routes.count(), 501 * 6);
    for name in ["process_cpu_seconds_total", "process_open_files", "process_start_time_seconds"] {
        assert!(metrics[&format!("ringway_{name}")] > 0.0, "{name}");
    }
}

#[test]
fn every_figure_of_a_worker_is_in_the_metrics() {
    let fixture = Fixture::start(|_| {});
    let metrics = &fixture.shared.metrics[0];
    let counters = [
        ("accepted_total{worker=\"0\"}", &metrics.accepted),
        ("accept_errors_total", &metrics.accept_errors),
        ("clients_refused_total", &metrics.clients_refused),
        ("forward_requests_total{class=\"4xx\"}", &metrics.forwarded[4]),
        ("client_received_bytes_total", &metrics.bytes_received),
        ("client_sent_bytes_total", &metrics.bytes_sent),
        ("pool_reused_total", &metrics.pool_reused),
        ("pool_opened_total", &metrics.pool_opened),
        ("pool_waits_total", &metrics.pool_waits),
        ("pool_timeouts_total", &metrics.pool_timeouts),
        ("pool_stale_total", &metrics.pool_stale),
        ("origin_repairs_total{kind=\"bare_lf\"}", &metrics.repairs[0]),
        ("origin_repairs_total{kind=\"forbidden_trailer\"}", &metrics.repairs[11]),
        ("tunnels_opened_total", &metrics.tunnels_opened),
        ("tunnel_bytes_total", &metrics.tunnel_bytes),
        ("auth_failures_total", &metrics.auth_failures),
        ("denied_total", &metrics.denied),
        ("cuts_total", &metrics.cuts),
        ("http2_connections_opened_total", &metrics.http2_opened),
        ("http2_streams_refused_total", &metrics.http2_refused),
        ("http2_streams_reset_total", &metrics.http2_resets),
        ("http2_stream_errors_total", &metrics.http2_stream_errors),
        ("http2_connection_errors_total", &metrics.http2_connection_errors),
        ("http2_guards_total{guard=\"resets\"}", &metrics.http2_guards[0]),
        ("http2_guards_total{guard=\"outbox\"}", &metrics.http2_guards[12]),
    ];
    let gauges = [
        ("tunnels", &metrics.tunnels),
        ("clients{worker=\"0\"}", &metrics.clients),
        ("clients_resting{worker=\"0\"}", &metrics.parked),
        ("http2_connections", &metrics.http2_connections),
        ("http2_streams", &metrics.http2_streams),
    ];
    for (index, (_, counter)) in counters.iter().enumerate() {
        counter.add(1_000 + index as u64);
    }
    for (index, (_, gauge)) in gauges.iter().enumerate() {
        gauge.set(2_000 + index as u64);
    }
    let text = parse(&fixture.get("/metrics").body);
    let expected = |first: f64, index: usize| Some(first + index as f64);
    let found = |name: &str| text.get(&format!("ringway_{name}")).copied();
    for (index, (name, _)) in counters.iter().enumerate() {
        assert_eq!(found(name), expected(1_000.0, index), "{name}");
    }
    for (index, (name, _)) in gauges.iter().enumerate() {
        assert_eq!(found(name), expected(2_000.0, index), "{name}");
    }
}

#[test]
fn stats_end_a_window_and_begin_the_next() {
    let fixture = Fixture::start(|config| config.stats.interval = Duration::from_millis(50));
    let mut last = Value::Null;
    let mut count = 0.0;
    wait_until("no window with a request", || {
        fixture.shared.metrics[0].answered(500, 1_000);
        count += 1.0;
        last = fixture.json("GET /stats")["last"].clone();
        last["requests"].as_u64().unwrap_or(0) > 0
    });
    assert_eq!(last["errorRate"], 1.0);
    assert_eq!(last["avgLatency"], 1.0);
    assert!(last["requestsPerSecond"].as_f64().unwrap() > 0.0);
    assert!(last["memory"].as_f64().unwrap() > 1.0);
    assert_eq!(last["pool"]["max"], 100);
    wait_until("the requests stay in the window", || {
        fixture.json("GET /stats")["last"]["requests"] == 0
    });
    let metrics = parse(&fixture.get("/metrics").body);
    assert_eq!(metrics["ringway_requests_total{worker=\"0\",class=\"5xx\"}"], count);
}

#[test]
fn an_alert_shows_while_it_lasts() {
    let fixture = Fixture::start(|config| config.alerts.interval = Duration::from_millis(20));
    wait_until("no alert", || {
        fixture.shared.metrics[0].answered(502, 1_000);
        fixture.json("GET /health")["status"] == "degraded"
    });
    wait_until("the alert stays", || fixture.json("GET /health")["status"] == "ok");
    let metrics = parse(&fixture.get("/metrics").body);
    assert!(metrics["ringway_alerts_total{alert=\"error_rate\",upstream=\"\"}"] >= 1.0);
    assert_eq!(metrics["ringway_alert_active{alert=\"error_rate\",upstream=\"\"}"], 0.0);
}

#[test]
fn an_upstream_without_a_reachable_origin_is_down_until_it_answers() {
    let (setup, mut fixture) =
        Fixture::prepare(|config| config.alerts.interval = Duration::from_millis(20));
    let addresses = Arc::default();
    let authority = "app.test".to_owned();
    let (url, host, tls) = (String::new(), String::new(), None);
    let (targets, quota, traffic) = (Arc::default(), Arc::default(), Arc::default());
    let (base, zone) = (String::new(), String::new());
    let (weight, priority) = (1, 0);
    let (service, is_server) = (None, false);
    let http = OriginHttp::default();
    let origin = Origin {
        url,
        host,
        authority,
        weight,
        priority,
        base,
        zone,
        addresses,
        targets,
        quota,
        traffic,
        tls,
        http,
        service,
        is_server,
    };
    let before = fixture.shared.snapshot.load_full();
    let config = before.config.upstreams[0].clone();
    fixture.shared.snapshot.store(Arc::new(before.next(SnapshotParts {
        config: before.config.clone(),
        upstreams: vec![UpstreamPlan {
            weighings: Arc::default(),
            times: Arc::default(),
            config: config.into(),
            origins: vec![origin.into()],
            changes: Arc::default(),
            sticky: None,
            zone: String::new(),
        }],
        access: before.access.clone(),
        hooks: before.hooks.clone(),
        proxy_protocol: Vec::new(),
        listeners: Vec::new(),
        tls: None,
    })));
    fixture.control = Some(super::super::start(setup).unwrap());
    let series = "{alert=\"upstream_down\",upstream=\"demo\"}";
    let active = || parse(&fixture.get("/metrics").body)[&format!("ringway_alert_active{series}")];
    wait_until("no alert", || active() > 0.0);
    let metrics = parse(&fixture.get("/metrics").body);
    assert_eq!(metrics["ringway_upstream_origins{upstream=\"demo\",state=\"down\"}"], 1.0);
    let alert = &fixture.json("GET /health")["alerts"][0];
    assert_eq!(alert["upstream"], "demo");
    // A connection from better days still serves.
    wait_until("the alert stays", || {
        fixture.shared.snapshot.load().counts[0].ended(None, Some(0), Ended::new(200, 1));
        active() == 0.0
    });
}
