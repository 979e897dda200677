//! The status page, in a real browser.
//!
//! In goes a configuration with names that would like to be markup, and one with a thousand routes;
//! out come the document as Chromium has it after the page's script has run, pictures of it, and
//! what becomes of ringway when its buttons are pressed. A test says so and passes where there is
//! no Chromium.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::browser::Browser;
use crate::support::{self, GET, Origin, Proxy, Setup, Target, logged};

/// For one run of a browser on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(120);

fn browser() -> Option<PathBuf> {
    support::installed("chromium")
}

/// Runs the browser with `words`; what it writes.
fn browse(browser: &Path, home: &Path, words: &[&str], url: &str) -> String {
    let mut command = Command::new(browser);
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--hide-scrollbars", "--virtual-time-budget=4000"])
        .arg(format!("--user-data-dir={}", home.join("browser").display()))
        .args(words)
        .arg(url);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a browser");
    let mut stdout = child.stdout.take().expect("a pipe");
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let began = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    reading.join().expect("a reader").expect("text")
}

fn url(proxy: &Proxy) -> String {
    format!("http://{}/", logged(&proxy.wait_for_log(&["admin API", "address="]), "address"))
}

/// What the page shows once its script has run.
fn document(browser: &Path, proxy: &Proxy) -> String {
    browse(browser, proxy.home(), &["--dump-dom"], &url(proxy))
}

#[test]
fn the_page_shows_what_runs_and_runs_no_name() {
    let Some(browser) = browser() else { return };
    let origin = Origin::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let path = "/<img/src=x/onerror=document.title='owned'>";
    let proxy =
        Setup::to(&origin).route("", "/", "origin", "").route("", path, "origin", "").start();
    let hostile = "GET /<script>document.title='owned'</script> HTTP/1.1\r\nHost: <b>owned</b>\r\n\
                   User-Agent: \u{1b}[31m<i>\r\n\r\n";
    proxy.send(hostile).read_response();
    proxy.send(GET).read_response();
    let seen = document(&browser, &proxy);
    assert!(seen.contains(">ok</span>") || seen.contains(">degraded</span>"), "{seen}");
    assert!(seen.contains("&lt;img/src=x/onerror="), "{seen}");
    assert!(!seen.contains("<img") && !seen.contains("owned</title>"), "{seen}");
    assert!(seen.contains("generation 1") && seen.contains(&origin.url()), "{seen}");
    assert_eq!(seen.matches("<script").count(), 1);
}

#[test]
fn a_thousand_routes_fit_on_the_page_and_on_a_narrow_one() {
    let Some(browser) = browser() else { return };
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let setup = (0..1_000).fold(Setup::to(&origin), |setup, number| {
        setup.route(&format!("host-{number}.example.org"), "/", "origin", "")
    });
    let proxy = setup.start();
    let seen = document(&browser, &proxy);
    // Five hundred of their own, one for the others, and one page of them.
    assert!(seen.contains("501 routes"), "{seen}");
    assert!(seen.contains("Show all 501"), "{seen}");
    for (size, name) in [("1280,1400", "wide.png"), ("500,1400", "narrow.png")] {
        let picture = proxy.home().join(name);
        let shot = format!("--screenshot={}", picture.display());
        browse(&browser, proxy.home(), &[&*shot, &format!("--window-size={size}")], &url(&proxy));
        assert!(fs::metadata(&picture).is_ok_and(|file| file.len() > 20_000), "{name}");
    }
}

#[test]
fn a_page_of_400_pixels_scrolls_in_one_direction_alone() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let long = "x".repeat(180);
    let setup = (0..60).fold(Setup::to(&origin), |setup, number| {
        setup.route(&format!("host-{number}.example.org"), &format!("/{long}"), "origin", "")
    });
    let dead = Target::new();
    let url = format!("http://{}", dead.address());
    drop(dead);
    let proxy = setup.upstream(&long[..60], &[&url], "").start();
    proxy.send(GET).read_response();
    let Some(mut browser) = Browser::start(proxy.home(), 400) else { return };
    browser.open(&self::url(&proxy));
    browser.wait_for("document.querySelectorAll('#routes tbody tr').length === 50");
    let width = browser.eval("document.documentElement.scrollWidth");
    assert_eq!(width, 400, "{}", browser.eval("document.body.innerText"));
}

const TOKEN: &str = "0123456789abcdef";

/// Presses the button that `find` finds, answers with `token`, and waits for the end of it.
fn press(browser: &mut Browser, find: &str, token: &str) {
    browser.wait_for(&format!("{find} !== null"));
    browser.eval(&format!("{find}.click()"));
    browser.wait_for("document.getElementById('ask').open");
    browser.eval(&format!("document.getElementById('token').value = '{token}'"));
    browser.eval("document.getElementById('ask-yes').click()");
}

fn keyed(start: &str) -> String {
    format!("document.querySelector('[data-key^=\"{start}\"]')")
}

const DONE: &str = "!document.getElementById('ask').open";
const ERROR: &str = "document.getElementById('ask-error').textContent";

#[test]
fn its_buttons_change_ringway_with_the_token_and_nothing_without() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let proxy = Setup::to(&origin).set("admin.token", TOKEN).set("limits.clients", 70).start();
    let mut client = proxy.connect();
    client.send(GET).read_response().expect_status(200);
    let Some(mut browser) = Browser::start(proxy.home(), 1280) else { return };
    browser.open(&url(&proxy));
    let (end, drain) = (keyed("DELETE/connections/"), keyed("POST/upstreams/origin?"));
    let cleanup = "document.getElementById('cleanup')";
    let rollback = "document.getElementById('rollback')";

    // A wrong one changes nothing, and says so.
    for button in [&*end, cleanup, &*drain] {
        press(&mut browser, button, "wrong");
        browser.wait_for(&format!("{ERROR}.includes('admin.token')"));
        browser.eval("document.getElementById('ask-no').click()");
        browser.wait_for(DONE);
    }
    client.send(GET).read_response().expect_status(200);

    press(&mut browser, &end, TOKEN);
    browser.wait_for(DONE);
    client.expect_closed();

    press(&mut browser, cleanup, TOKEN);
    browser.wait_for(DONE);
    proxy.wait_for_log(&["admin change", "/admin/cleanup", "status=200"]);

    press(&mut browser, &drain, TOKEN);
    browser.wait_for(DONE);
    proxy.wait_for_log(&["admin change", "/upstreams/origin", "state=drain", "status=200"]);
    browser.wait_for("document.getElementById('upstreams').innerText.includes('Ask again')");

    // There is something to go back to after a reload.
    let file = proxy.home().join("ringway.toml");
    let text = fs::read_to_string(&file).expect("a file").replace("= 70", "= 77");
    fs::write(&file, text).expect("a file");
    press(&mut browser, "document.getElementById('reload')", TOKEN);
    browser.wait_for(DONE);
    browser.wait_for("document.getElementById('facts').innerText.includes('generation 2')");
    press(&mut browser, rollback, "wrong");
    browser.wait_for(&format!("{ERROR}.includes('admin.token')"));
    browser.eval(&format!("document.getElementById('token').value = '{TOKEN}'"));
    browser.eval("document.getElementById('ask-yes').click()");
    browser.wait_for(DONE);
    browser.wait_for("document.getElementById('facts').innerText.includes('generation 3')");
    // In words.
    proxy.wait_for_log(&["admin request refused", "peer=\"127.0.0.1\"", "why=\"wrong token\""]);
}

#[test]
fn an_origin_that_could_not_be_connected_to_says_why() {
    let dead = Target::new();
    let address = dead.address();
    drop(dead);
    let proxy = Setup::to_url(&format!("http://{address}")).set("admin.token", TOKEN).start();
    proxy.send(GET).expect_status(502);
    let listed = proxy.admin("GET", "/upstreams");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let target = &listed["upstreams"][0]["targets"][0];
    assert_eq!(target["connect_error"]["error"], "origin_refused", "{listed}");
    assert!(target["connect_error"]["seconds_ago"].is_u64(), "{listed}");
    proxy.wait_for_log(&["passed over", "reason=\"connect\"", "detail=origin_refused"]);
    let Some(browser) = browser() else { return };
    let seen = document(&browser, &proxy);
    assert!(seen.contains("connect: origin_refused, "), "{seen}");
}
