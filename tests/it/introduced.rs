//! The PROXY protocol, from balancers and towards origins.
//!
//! A scripted balancer sends headers, good and bad, in pieces or at once, before its requests; an
//! origin that wants headers gets them. Then the same with curl, nginx and HAProxy, where they are
//! installed.

use crate::support::{
    Client, Daemon, GET, Home, OK, Origin, Proxy, Setup, Target, free_address, installed, run,
    wait_until,
};
use std::fmt;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for 192.0.2.9:4660.
fn v2(command: u8, extensions: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
    let length = u16::try_from(addresses.len() + extensions.len()).unwrap().to_be_bytes();
    [V2, &[command, 0x11], &length, &addresses, extensions].concat()
}

/// As it stands in TOML.
struct Raw(String);

impl fmt::Debug for Raw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// With a second listener, which takes these versions.
fn taking(setup: Setup, versions: &str) -> Setup {
    let table = format!("[{{ address = \"127.0.0.1:0\", proxy_protocol = \"{versions}\" }}]");
    setup.listen(&["127.0.0.1:0"]).set("server.listen", Raw(table))
}

fn trusting(origin: &Origin, versions: &str) -> Setup {
    let setup = Setup::to(origin).set("server.trusted_proxies", ["127.0.0.0/8"]);
    taking(setup.set("log.access", true), versions)
}

/// To the listener that takes headers.
fn balancer(proxy: &Proxy) -> Client {
    Client::connect(proxy.addresses()[1])
}

fn refused(proxy: &Proxy, reason: &str) -> bool {
    let series = format!("ringway_proxy_protocol_refused_total{{reason=\"{reason}\"}} 1");
    proxy.admin("GET", "/metrics").contains(&series)
}

#[test]
fn a_balancer_says_whose_connection_it_is() {
    let origin = Origin::answering(OK);
    let proxy = trusting(&origin, "v1v2").start();
    let long = [&[0x04, 0x40, 0][..], &[0; 0x4000]].concat();
    let table: [(Vec<u8>, &str); 7] = [
        (b"PROXY TCP4 192.0.2.9 10.0.0.1 4660 80\r\n".to_vec(), "192.0.2.9:4660"),
        (b"PROXY TCP6 2001:db8::9 ::1 4660 80\r\n".to_vec(), "[2001:db8::9]:4660"),
        (v2(0x21, b""), "192.0.2.9:4660"),
        (v2(0x21, &long), "192.0.2.9:4660"),
        // The balancer itself asks.
        (v2(0x20, b""), "127.0.0.1:"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:"),
        (b"PROXY UNKNOWN 1 2 3 4\r\n".to_vec(), "127.0.0.1:"),
    ];
    for (header, client) in table {
        for is_split in [false, true] {
            let mut balancer = balancer(&proxy);
            let peer = balancer.local();
            if is_split {
                for byte in &header[..header.len().min(200)] {
                    balancer.send([*byte]);
                }
                balancer.send(&header[header.len().min(200)..]);
            } else {
                balancer.send([&header, GET.as_bytes()].concat());
                balancer.read_response().expect_status(200);
            }
            balancer.send(GET).read_response().expect_status(200);
            let sent = origin.seen().requests.last().unwrap().clone();
            let address = client.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
            sent.expect_field("X-Forwarded-For", address);
            if address == "127.0.0.1" {
                proxy.wait_for_log(&[&format!("client={peer} method")]);
            } else {
                proxy.wait_for_log(&[&format!("client={client} peer={peer} ")]);
                let list = proxy.admin("GET", "/connections");
                assert!(list.contains(&format!("\"client\":\"{address}\"")), "{list}");
            }
        }
    }
}

#[test]
fn what_an_introduced_client_says_of_others_is_not_believed() {
    let origin = Origin::answering(OK);
    let proxy = trusting(&origin, "v2").start();
    let lies = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let mut client = balancer(&proxy);
    client.send([&v2(0x21, b""), lies.as_bytes()].concat()).read_response().expect_status(200);
    origin.only_request().expect_field("X-Forwarded-For", "192.0.2.9");
    // From an inner balancer, which is trusted itself, it is.
    let proxy = trusting(&origin, "v2").set("server.trusted_proxies", ["127.0.0.1", "192.0.2.9"]);
    let proxy = proxy.start();
    let mut client = balancer(&proxy);
    client.send([&v2(0x21, b""), lies.as_bytes()].concat()).read_response().expect_status(200);
    let sent = origin.seen().requests.last().unwrap().clone();
    assert_eq!(sent.list("X-Forwarded-For"), ["6.6.6.6", "192.0.2.9"]);
}

#[test]
fn a_client_that_speaks_socks_is_who_the_balancer_says() {
    let table = "[{ address = \"127.0.0.2:0\", proxy_protocol = \"v1\" }]".to_owned();
    let proxy = Setup::forward()
        .listen(&["127.0.0.2:0"])
        .set("server.listen", Raw(table))
        .set("forward.socks_listeners", ["127.0.0.2:0"])
        .set("server.trusted_proxies", ["127.0.0.0/8"])
        .set("forward.allow_clients", ["198.51.100.7/32"])
        .start();
    for (client, answer) in [("198.51.100.7", [5, 0]), ("127.0.0.1", [5, 0xff])] {
        let header = format!("PROXY TCP4 {client} 127.0.0.2 1000 1080\r\n");
        let mut wire = balancer(&proxy);
        wire.send([header.as_bytes(), &[5, 1, 0]].concat()).expect_stream(&answer);
    }
}

#[test]
fn connections_that_are_not_introduced_are_closed_and_counted() {
    let origin = Origin::untouchable();
    let proxy = trusting(&origin, "v2").set("timeouts.client_head", "300ms").start();
    let table: [(&[u8], &str); 5] = [
        (GET.as_bytes(), "missing"),
        (b"PROXY TCP4 192.0.2.9 10.0.0.1 4660 80\r\n", "invalid"),
        (&v2(0x21, b"")[..20], "timeout"),
        (b"", "timeout"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", "invalid"),
    ];
    for (count, (bytes, reason)) in table.into_iter().enumerate() {
        let mut client = balancer(&proxy);
        if !bytes.is_empty() {
            client.send(bytes);
        }
        client.expect_closed();
        let seen = table[..=count].iter().filter(|(_, other)| *other == reason).count();
        let series = format!("refused_total{{reason=\"{reason}\"}} {seen}");
        wait_until(reason, || proxy.admin("GET", "/metrics").contains(&series));
    }
    let proxy = taking(Setup::to(&origin), "v1v2").start();
    balancer(&proxy).send(b"PROXY TCP4 192.0.2.9 10.0.0.1 4660 80\r\n").expect_closed();
    wait_until("it is counted", || refused(&proxy, "untrusted"));
    proxy.wait_for_log(&["PROXY protocol", "untrusted"]);
    origin.expect_untouched();
}

/// A proxy whose origin gets headers of this version.
fn towards(target: &Target, version: &str) -> Proxy {
    let url = format!("http://{}", target.address());
    Setup::new().upstream("origin", &[&url], &format!("proxy_protocol = \"{version}\"")).start()
}

#[test]
fn an_origin_is_told_whose_connection_it_gets_and_no_other_client_gets_it() {
    let target = Target::new();
    let proxy = towards(&target, "v1");
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(GET);
        let mut origin = target.accept();
        let header = origin.read_until("\r\n");
        let (local, own) = (client.local(), proxy.address());
        let expected =
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", local.port(), own.port());
        assert_eq!(String::from_utf8_lossy(&header), expected);
        origin.read_head().unwrap().expect_field("Host", "test");
        origin.send(OK);
        client.read_response().expect_status(200);
        // The next request, even of the same client, comes on a connection of its own.
        assert!(origin.read_to_end().0.is_empty());
    }
    target.expect_nobody();
    let target = Target::new();
    let proxy = towards(&target, "v2");
    let mut client = proxy.connect();
    client.send(GET);
    let mut origin = target.accept();
    let header = origin.read_exact(28);
    let port = client.local().port().to_be_bytes();
    let expected = [V2, &[0x21, 0x11, 0, 12, 127, 0, 0, 1, 127, 0, 0, 1], &port].concat();
    assert_eq!(header[..26], expected);
    origin.read_head().unwrap().expect_field("Host", "test");
    origin.send(OK);
    client.read_response().expect_status(200);
}

#[test]
fn an_origin_is_told_of_the_client_behind_the_balancer() {
    let target = Target::new();
    let url = format!("http://{}", target.address());
    let setup = Setup::new().set("server.trusted_proxies", ["127.0.0.1"]);
    let proxy = taking(setup, "v2").upstream("origin", &[&url], "proxy_protocol = \"v1\"").start();
    let mut client = balancer(&proxy);
    client.send([&v2(0x21, b""), GET.as_bytes()].concat());
    let header = target.accept().read_until("\r\n");
    assert!(header.starts_with(b"PROXY TCP4 192.0.2.9 127.0.0.1 4660 "), "{header:?}");
}

/// A daemon with a home of its own. `config` is written for a file `conf`; `arguments` name it.
fn daemon(
    program: &str,
    config: &str,
    arguments: &[&str],
    address: SocketAddr,
) -> Option<(Daemon, Home)> {
    let program = installed(program)?;
    let home = Home::new();
    let path = home.path().display().to_string();
    home.write("conf", &config.replace("HOME", &path));
    let mut command = Command::new(program);
    command.args(arguments.iter().map(|it| it.replace("HOME", &path)));
    Some((Daemon::at(address, command), home))
}

#[test]
fn curl_introduces_itself() {
    let Some(curl) = installed("curl") else { return };
    let origin = Origin::answering(OK);
    let proxy = trusting(&origin, "v1").start();
    let mut command = Command::new(curl);
    let url = format!("http://{}/", proxy.addresses()[1]);
    command.args(["-sS", "--max-time", "20", "--haproxy-protocol"]).arg(url);
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    origin.only_request().expect_field("X-Forwarded-For", "127.0.0.1");
}

#[test]
fn nginx_takes_our_headers_and_we_take_those_of_nginx() {
    let (inner, outer) = (free_address(), free_address());
    let target = Origin::answering(OK);
    // From the client: an nginx that passes bytes on, ringway, an nginx that wants a header.
    let back = format!(
        "daemon off; worker_processes 1; pid HOME/pid; error_log stderr; {USER}
         events {{}}
         http {{ access_log off; client_body_temp_path HOME/a; proxy_temp_path HOME/b;
         fastcgi_temp_path HOME/c; uwsgi_temp_path HOME/d; scgi_temp_path HOME/e;
         server {{ listen {inner} proxy_protocol;
         location / {{ proxy_set_header X-Seen $proxy_protocol_addr:$proxy_protocol_port;
         proxy_pass {}; }} }} }}",
        target.url()
    );
    let nginx = ["-p", "HOME", "-c", "HOME/conf"];
    let Some(_back) = daemon("nginx", &back, &nginx, inner) else { return };
    for version in ["v1", "v2"] {
        let setup = Setup::new().set("server.trusted_proxies", ["127.0.0.1"]);
        let url = format!("http://{inner}");
        let more = format!("proxy_protocol = \"{version}\"");
        let proxy = taking(setup, "v1").upstream("origin", &[&url], &more).start();
        let front = format!(
            "daemon off; worker_processes 1; pid HOME/pid; error_log stderr; {USER}
             {STREAM} events {{}}
             stream {{ server {{ listen {outer};
             proxy_pass {}; proxy_protocol on; }} }}",
            proxy.addresses()[1]
        );
        // Its stream module is a package of its own on some systems.
        let address = if std::path::Path::new(STREAM_MODULE).exists() {
            let Some(front) = daemon("nginx", &front, &nginx, outer) else { return };
            Some((front, outer))
        } else {
            None
        };
        let (mut client, header) = match &address {
            Some((_, front)) => (Client::connect(*front), String::new()),
            None => (balancer(&proxy), "PROXY TCP4 127.0.0.1 127.0.0.1 4660 80\r\n".to_owned()),
        };
        let port = if header.is_empty() { client.local().port() } else { 4660 };
        client.send(header + GET).read_response().expect_status(200);
        let seen = target.seen().requests.last().unwrap().clone();
        seen.expect_field("X-Seen", &format!("127.0.0.1:{port}"));
    }
}

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const STREAM: &str = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;";
const USER: &str = "user root;";

#[test]
fn haproxy_is_understood_in_both_versions() {
    for (word, versions) in
        [("send-proxy", "v1"), ("send-proxy-v2", "v2"), ("send-proxy-v2", "v1v2")]
    {
        let origin = Origin::answering(OK);
        let proxy = trusting(&origin, versions).start();
        let address = free_address();
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  \
             timeout server 20s\nlisten a\n  bind {address}\n  server b {} {word}\n",
            proxy.addresses()[1]
        );
        let arguments = ["-db", "-f", "HOME/conf"];
        let Some(_haproxy) = daemon("haproxy", &config, &arguments, address) else { return };
        let mut client = Client::connect(address);
        client.send(GET).read_response().expect_status(200);
        let local = client.local();
        proxy.wait_for_log(&[&format!("client={local} peer=127.0.0.1:")]);
        assert!(client.is_quiet_for(Duration::from_millis(1)));
    }
}
