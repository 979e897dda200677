//! Memory: cleanups that were asked for, and those that the ledger calls for.
//!
//! In go requests and figures of the ledger; what is checked is what workers and caches were told
//! to do, and that it ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;

use super::super::cleaning;
use super::super::exposition::tests::parse;
use super::super::proxy::Proxy;
use super::{Fixture, WORKERS, wait_until};
use crate::ledger::{Kind, Level};
use crate::memory::Pressure;
use crate::worker::mailbox::ControlQuery;

#[test]
fn a_cleanup_reaches_workers_and_caches_and_is_counted() {
    let fixture = Fixture::start(|_| {});
    let light = fixture.json("POST /admin/cleanup");
    assert_eq!(light["level"], "light");
    assert_eq!(light["closed_idle"], 5);
    for field in ["before_mb", "after_mb", "freed_mb"] {
        assert!(light[field].as_f64().unwrap() >= 0.0, "{light}");
    }
    assert!(light["before_mb"].as_f64().unwrap() > 1.0, "{light}");
    assert_eq!(fixture.json("POST /admin/cleanup?level=forced")["level"], "forced");
    let expected = [Level::Light, Level::Light, Level::Forced, Level::Forced];
    assert_eq!(fixture.cleaned(), expected);
    assert_eq!(fixture.caches_dropped.load(Ordering::Relaxed), 2);
    let metrics = parse(&fixture.get("/metrics").body);
    assert_eq!(metrics["ringway_cleanups_total{level=\"light\"}"], 1.0);
    assert_eq!(metrics["ringway_cleanups_total{level=\"forced\"}"], 1.0);
}

#[test]
fn a_ledger_that_crosses_a_line_is_noticed_at_once_and_recovers() {
    // The interval is far longer than the test.
    let fixture =
        Fixture::start(|config| config.memory.check_interval = Duration::from_secs(3_600));
    wait_until("not ready", || fixture.get("/ready").status == 200);
    assert_eq!(fixture.cleaned(), []);
    let pressure = || fixture.shared.pressure.get();
    fixture.shared.ledgers.workers()[0].set(Kind::Tunnels, 600 << 20);
    wait_until("no forced cleanup", || fixture.cleaned().contains(&Level::Forced));
    wait_until("no pressure", || pressure() == Pressure::Forced);
    assert_eq!(fixture.json("GET /health")["memory"]["state"], "forced");
    fixture.shared.ledgers.workers()[0].set(Kind::Tunnels, 0);
    wait_until("the pressure stays", || pressure() == Pressure::Normal);
    assert_eq!(fixture.get("/ready").status, 200);
}

#[test]
fn the_data_port_gets_its_answers() {
    let fixture = Fixture::start(|config| config.admin.enabled = false);
    assert!(fixture.control.as_ref().unwrap().admin_address().is_none());
    let health = |is_whole: bool| -> Value {
        let (reply, answer) = oneshot::channel();
        assert!(fixture.shared.control.send(ControlQuery::Health { is_whole, reply }).is_ok());
        serde_json::from_str(&answer.blocking_recv().unwrap()).unwrap()
    };
    assert!(health(true)["pool"].is_object());
    let outline = health(false);
    assert!(outline["memory_usage_mb"].is_number() && outline["status"] == "ok", "{outline}");
    assert_eq!(outline["connections"]["clients"], 0);
    assert_eq!(outline.as_object().unwrap().len(), 4, "{outline}");
    // The second comes so soon that it gets the outcome of the first.
    for _ in 0..2 {
        let (reply, answer) = oneshot::channel();
        assert!(fixture.shared.control.send(ControlQuery::Cleanup { reply }).is_ok());
        let cleanup: Value = serde_json::from_str(&answer.blocking_recv().unwrap()).unwrap();
        assert_eq!(cleanup["level"], "light");
        assert_eq!(fixture.cleaned().len(), WORKERS);
    }
}

#[test]
fn a_crowd_that_asks_for_a_cleanup_shares_one() {
    let (setup, fixture) = Fixture::prepare(|_| {});
    let proxy = Proxy::new(setup, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // A light one does not do for who wants more.
    let levels = (0..20).map(|index| if index < 19 { Level::Light } else { Level::Forced });
    let crowd = levels.map(|level| cleaning::clean(&proxy, level, "asked"));
    let mut crowd = pin!(futures_util::future::join_all(crowd));
    // The workers cannot answer before all callers have asked.
    let held = fixture.cleaned.lock().unwrap();
    runtime.block_on(poll_fn(|context| {
        assert!(crowd.as_mut().poll(context).is_pending());
        Poll::Ready(())
    }));
    drop(held);
    assert_eq!(runtime.block_on(crowd).len(), 20);
    assert_eq!(fixture.cleaned(), [Level::Light, Level::Light, Level::Forced, Level::Forced]);
}
