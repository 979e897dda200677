//! Rules for some users: `[[forward.rule]]`, for absolute targets, CONNECT and SOCKS alike.
//!
//! Each request comes from ann, from bob or from somebody who is not asked.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::{
    Client, OK, Origin, Proxy, Setup, Target, connect, get, is_of_http1, wait_until,
};

/// The password is `U*U`; from the tests of `crypt_blowfish`.
const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
const ANN: &str = "ann";
const BOB: &str = "bob";

fn setup(rules: &str) -> Setup {
    Setup::forward()
        .file("users", &format!("ann:{BCRYPT}\nbob:{BCRYPT}\n"))
        .set("forward.users_file", "users")
        .set("forward.rule", format_args!("[{rules}]"))
}

fn by(user: &str, request: &str) -> String {
    let field = format!("Proxy-Authorization: Basic {}", BASE64.encode(format!("{user}:U*U")));
    request.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"))
}

fn status(proxy: &Proxy, user: &str, request: &str) -> u16 {
    proxy.send(by(user, request)).read_response().status()
}

#[track_caller]
fn expect_tunnel(proxy: &Proxy, user: &str, target: SocketAddr) {
    proxy.send(by(user, &connect(target))).expect_stream(b"HTTP/1.1 200 ");
}

#[track_caller]
fn expect_forbidden(proxy: &Proxy, user: &str, request: &str) {
    let response = proxy.send(by(user, request)).read_response();
    response.expect_own_error(403, "Forbidden", "http_request_denied");
}

#[test]
fn a_rule_for_a_user_or_a_group_decides_before_the_lists_for_everybody() {
    let (own, other) = (Origin::answering(OK), Origin::answering(OK));
    let (own, other) = (own.address(), other.address());
    let proxy = setup(&format!(
        "{{ groups = ['staff'], targets = ['{own}'], action = 'allow' }}, \
         {{ users = ['bob'], targets = ['{other}'], action = 'deny' }}"
    ))
    .set("forward.groups.staff", [ANN])
    .set("forward.deny", [own.to_string()])
    .start();
    assert_eq!(status(&proxy, ANN, &get(own)), 200);
    assert_eq!(status(&proxy, ANN, &get(other)), 200);
    for request in [get(own), connect(own), get(other), connect(other)] {
        expect_forbidden(&proxy, BOB, &request);
    }
    proxy.wait_for_log(&["denied by the forward policy", &format!("rule[1] {other}")]);
    proxy.wait_for_log(&["denied by the forward policy", &format!("deny {own}")]);
    expect_tunnel(&proxy, ANN, own);
    proxy.send(get(own)).expect_status(407);
}

#[test]
fn the_first_rule_that_fits_decides_and_one_without_users_is_for_everybody() {
    let origin = Origin::answering(OK);
    let address = origin.address();
    let proxy = setup(&format!(
        "{{ users = ['ann'], action = 'allow' }}, {{ targets = ['{address}'], action = 'deny' }}, \
         {{ action = 'allow' }}"
    ))
    .set("forward.allow", ["nowhere.invalid"])
    .start();
    let other = Origin::answering(OK);
    assert_eq!(status(&proxy, ANN, &get(address)), 200);
    expect_forbidden(&proxy, BOB, &get(address));
    assert_eq!(status(&proxy, BOB, &get(other.address())), 200);
}

#[test]
fn an_address_that_a_name_leads_to_is_judged_for_the_user_when_it_is_dialled() {
    let origin = Origin::answering(OK);
    let port = origin.address().port();
    let named = format!("localhost:{port}");
    let proxy = setup(
        "{ users = ['bob'], targets = ['127.0.0.0/8', '::1'], action = 'deny' }, \
         { targets = ['localhost'], action = 'allow' }",
    )
    .start();
    assert_eq!(status(&proxy, ANN, &get(&named)), 200);
    // The connection that ann has left behind is hers.
    expect_forbidden(&proxy, BOB, &get(&named));
    expect_forbidden(&proxy, BOB, &connect(&named));
    assert_eq!(origin.seen().requests.len(), 1);
}

#[test]
fn no_rule_for_a_user_opens_what_is_never_allowed() {
    let origin = Origin::untouchable();
    let proxy = setup(
        "{ users = ['ann'], targets = ['*', '0.0.0.0/0', '127.0.0.0/8', \
                       '169.254.169.254'], action = 'allow' }",
    )
    .set("forward.allow_loopback", false)
    .start();
    for host in [
        origin.address().to_string(),
        format!("localhost:{}", origin.address().port()),
        "169.254.169.254:80".to_owned(),
        "0.0.0.0:80".to_owned(),
    ] {
        expect_forbidden(&proxy, ANN, &get(&host));
        expect_forbidden(&proxy, ANN, &connect(&host));
    }
    expect_forbidden(&proxy, ANN, &connect(proxy.address()));
}

#[test]
fn a_rule_that_names_a_port_opens_it_to_connect() {
    let target = Target::new();
    let address = target.address();
    let proxy = setup(&format!(
        "{{ users = ['ann'], targets = ['{address}'], action = 'allow' }}, \
         {{ users = ['bob'], action = 'allow' }}"
    ))
    .set("forward.connect_ports", [443])
    .start();
    expect_tunnel(&proxy, ANN, address);
    expect_forbidden(&proxy, BOB, &connect(address));
    drop(target);
}

#[test]
fn a_client_that_speaks_socks_is_under_the_rules_of_its_user() {
    if is_of_http1("SOCKS") {
        return;
    }
    let target = Target::new();
    let port = target.address().port();
    let proxy = setup("{ users = ['bob'], targets = ['127.0.0.1'], action = 'deny' }")
        .listen(&["127.0.0.2:0"])
        .set("forward.socks_listeners", ["127.0.0.2:0"])
        .start();
    let ask = |user: &str| {
        let mut client = Client::connect(proxy.addresses()[1]);
        client.send([5, 1, 2]).expect_stream(&[5, 2]);
        let login = [&[1, 3][..], user.as_bytes(), &[3], b"U*U"].concat();
        client.send(login).expect_stream(&[1, 0]);
        client.send([&[5, 1, 0, 1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat());
        client.read_exact(10)[1]
    };
    assert_eq!((ask(ANN), ask(BOB)), (0, 2));
    drop(target);
}

#[test]
fn groups_and_lists_in_files_are_followed_when_they_change() {
    let origin = Origin::answering(OK);
    let address = origin.address();
    let proxy = setup("{ groups = ['staff'], targets = ['file:list'], action = 'deny' }")
        .file("groups", "# all\nstaff: ann\n")
        .file("list", &format!("{address}\n"))
        .set("forward.groups_file", "groups")
        .start();
    let both = || (status(&proxy, ANN, &get(address)), status(&proxy, BOB, &get(address)));
    let write = |name: &str, text: &str| std::fs::write(proxy.home().join(name), text).unwrap();
    assert_eq!(both(), (403, 200));
    write("groups", "staff: bob\n");
    wait_until("the new group is used", || both() == (200, 403));
    write("list", "nowhere.invalid\n");
    wait_until("the new list is used", || both() == (200, 200));
    write("list", &format!("{address}\n"));
    wait_until("the old list is used", || both() == (200, 403));
    // A file that cannot be used changes nothing.
    write("groups", "staff bob ann\n");
    proxy.wait_for_log(&["not reloaded", "groups:1: found \"staff bob ann\""]);
    write("groups", "others: bob ann\n");
    proxy.wait_for_log(&["not reloaded", "no group", "others"]);
    assert_eq!(both(), (200, 403));
}

#[test]
fn somebody_who_is_no_user_is_a_warning() {
    let proxy = setup("{ users = ['ann', 'zoe'], action = 'deny' }")
        .set("forward.groups.staff", ["nobody"])
        .start();
    proxy.wait_for_log(&["rule[0] names", "zoe", "who is not in forward.users_file"]);
    expect_forbidden(&proxy, ANN, &get("nowhere.invalid"));
    assert_eq!(status(&proxy, BOB, &get("nowhere.invalid")), 502);
}

#[test]
fn a_rule_that_could_never_be_asked_is_refused_with_its_cure() {
    let refused = |setup: Setup, parts: &[&str]| {
        let output = setup.run();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{output:?}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let rule = "{ groups = ['staff'], action = 'deny' }";
    refused(setup(rule), &["forward.rule[0].groups[0]: found \"staff\"", "forward.groups_file"]);
    refused(
        setup(rule).set("forward.groups_file", "missing"),
        &["missing: cannot be read: No such file"],
    );
    refused(
        setup(rule).file("groups", "others: ann\n").set("forward.groups_file", "groups"),
        &["forward.rule[0].groups: there is no group \"staff\", expected one of others"],
    );
    refused(
        Setup::forward()
            .set("forward.rule", format_args!("[{{ users = ['ann'], action = 'deny' }}]")),
        &["forward.rule[0].users: nobody is asked who they are", "`forward.users_file`"],
    );
    refused(setup("{ users = ['ann'] }"), &["missing", "action"]);
    refused(
        setup("{ action = 'block' }"),
        &["forward.rule[0].action: found \"block\", expected \"allow\" or \"deny\""],
    );
    refused(setup("{ targets = [], action = 'deny' }"), &["targets", "there must be one"]);
}
