//! The proxies that are compared, and the origin behind them.
//!
//! In: programs on the PATH and templates in `benches/peers`. Out: processes that listen. All are
//! set up alike: one worker, connections kept on both sides, no access log.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::certificates::Key;
use super::options::Options;
use super::process::{self, Cores, Home, Process};
use super::scenarios::Page;

/// A proxy that is here.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) is_reverse: bool,
    pub(crate) is_forward: bool,
    /// It speaks TLS to clients as well, on a port of its own.
    pub(crate) is_secure: bool,
    program: PathBuf,
    /// File names and templates. The first is what the program is given.
    files: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
    version: &'static [&'static str],
}

macro_rules! template {
    ($name:literal) => {
        ($name, include_str!(concat!("../../peers/", $name)))
    };
}

const NGINX: &[&str] = &["-p", "@DIR@", "-e", "@DIR@/nginx.error", "-c", "@CONFIG@"];

/// A row of the table below: name, program, (reverse, forward, TLS), files, arguments, version.
type Known = (
    &'static str,
    &'static str,
    (bool, bool, bool),
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
    &'static [&'static str],
);

const KNOWN: [Known; 8] = [
    ("nginx", "nginx", (true, false, true), &[template!("nginx.conf")], NGINX, &["-v"]),
    (
        "haproxy",
        "haproxy",
        (true, false, true),
        &[template!("haproxy.cfg")],
        &["-db", "-f", "@CONFIG@"],
        &["-v"],
    ),
    (
        "envoy",
        "envoy",
        (true, false, false),
        &[template!("envoy.yaml")],
        &["--concurrency", "1", "-l", "off", "--disable-hot-restart", "-c", "@CONFIG@"],
        &["--version"],
    ),
    (
        "caddy",
        "caddy",
        (true, false, false),
        &[template!("Caddyfile")],
        &["run", "--adapter", "caddyfile", "--config", "@CONFIG@"],
        &["version"],
    ),
    (
        "traefik",
        "traefik",
        (true, false, false),
        &[template!("traefik.toml"), template!("traefik-routes.toml")],
        &["--configFile=@CONFIG@"],
        &["version"],
    ),
    ("h2o", "h2o", (true, false, false), &[template!("h2o.conf")], &["-c", "@CONFIG@"], &["-v"]),
    (
        "squid",
        "squid",
        (false, true, false),
        &[template!("squid.conf")],
        &["-N", "-f", "@CONFIG@"],
        &["-v"],
    ),
    (
        "tinyproxy",
        "tinyproxy",
        (false, true, false),
        &[template!("tinyproxy.conf")],
        &["-d", "-c", "@CONFIG@"],
        &["-v"],
    ),
];

/// ringway, the floor, and the peers that are installed and asked for; and the names of those that
/// are asked for and not installed.
pub(crate) fn find(options: &Options) -> Result<(Vec<Peer>, Vec<&'static str>), String> {
    let known = |name: &str| {
        matches!(name, "ringway" | "floor") || KNOWN.iter().any(|known| known.0 == name)
    };
    if let Some(name) = options.peers.iter().find(|name| !known(name)) {
        let names: Vec<_> = KNOWN.iter().map(|known| known.0).collect();
        return Err(format!("no peer {name}: there are floor, {}", names.join(", ")));
    }
    let is_wanted =
        |name: &str| options.peers.is_empty() || options.peers.iter().any(|peer| peer == name);
    let mut peers = vec![Peer {
        name: "ringway",
        is_reverse: true,
        is_forward: true,
        is_secure: true,
        program: options.ringway_program(),
        files: &[template!("ringway.toml")],
        arguments: &["--config", "@CONFIG@"],
        version: &["--version"],
    }];
    let mut absent = Vec::new();
    for (name, program, (is_reverse, is_forward, is_secure), files, arguments, version) in KNOWN {
        if !is_wanted(name) {
            continue;
        }
        match installed(program) {
            Some(program) => peers.push(Peer {
                name,
                is_reverse,
                is_forward,
                is_secure,
                program,
                files,
                arguments,
                version,
            }),
            None => absent.push(name),
        }
    }
    if let Some(program) = options.floor.clone().filter(|_| is_wanted("floor")) {
        peers.push(Peer {
            name: "floor",
            is_reverse: true,
            is_forward: false,
            is_secure: false,
            program,
            files: &[],
            arguments: &["--run-floor", "127.0.0.1:@PORT@", "@ORIGIN@"],
            version: &[],
        });
    }
    Ok((peers, absent))
}

/// Where a program is, if it is here.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    // Servers live in sbin, which is not in everybody's path.
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

/// A proxy, or an origin, that listens.
pub(crate) struct Running {
    process: Process,
    address: SocketAddr,
    secure: SocketAddr,
    http2: SocketAddr,
    home: Home,
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it speaks TLS.
    pub(crate) fn secure_address(&self) -> SocketAddr {
        self.secure
    }

    /// Where it speaks HTTP/2 without TLS.
    pub(crate) fn http2_address(&self) -> SocketAddr {
        self.http2
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Peer {
    /// The first line of what it says about itself.
    pub(crate) fn version(&self) -> String {
        if self.version.is_empty() {
            return "benches/floor".to_owned();
        }
        version_of(&self.program, self.version)
    }

    pub(crate) fn start(&self, cores: Cores, origin: &Origin, key: Key) -> Result<Running, String> {
        start(self, cores.proxy, Some(origin.address()), key)
            .map_err(|error| format!("{} cannot be started: {error}", self.name))
    }
}

fn version_of(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    // nginx says it on the one, the others on the other.
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

fn start(
    peer: &Peer,
    core: usize,
    origin: Option<SocketAddr>,
    key: Key,
) -> Result<Running, String> {
    let home = Home::new().map_err(|error| error.to_string())?;
    let address = process::free_address().map_err(|error| error.to_string())?;
    let secure = process::free_address().map_err(|error| error.to_string())?;
    // Some have a port of its own for it.
    let is_apart = peer.files.iter().any(|(_, template)| template.contains("@HTTP2_PORT@"));
    let http2 = if is_apart {
        process::free_address().map_err(|error| error.to_string())?
    } else {
        address
    };
    if peer.is_secure {
        key.write(home.path())?;
    }
    let fill = |text: &str| {
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let files = process::open_files_max().saturating_sub(500);
        let config = peer.files.first().map_or("", |(name, _)| name);
        let mut text = text.replace("@CONFIG@", &format!("@DIR@/{config}"));
        for (name, value) in [
            ("@PORT@", address.port().to_string()),
            ("@TLS_PORT@", secure.port().to_string()),
            ("@HTTP2_PORT@", http2.port().to_string()),
            ("@ORIGIN@", origin.map(|origin| origin.to_string()).unwrap_or_default()),
            ("@ORIGIN_PORT@", origin.map(|origin| origin.port().to_string()).unwrap_or_default()),
            ("@DIR@", home.path().display().to_string()),
            ("@USER@", user.to_owned()),
            // Two files for each connection.
            ("@CONNECTIONS@", (files / 2).to_string()),
        ] {
            text = text.replace(name, &value);
        }
        text
    };
    for (name, template) in peer.files {
        fs::write(home.path().join(name), fill(template)).map_err(|error| error.to_string())?;
    }
    let mut command = Command::new(&peer.program);
    command.args(peer.arguments.iter().map(|argument| fill(argument))).current_dir(home.path());
    let mut process = Process::start(&mut command, core).map_err(|error| error.to_string())?;
    for address in [address, http2].into_iter().chain(peer.is_secure.then_some(secure)) {
        if !process.listens(address) {
            return Err(format!("it does not listen at {address}"));
        }
    }
    Ok(Running { process, address, secure, http2, home })
}

/// What the proxies go to: nginx with files in memory, or ringway's demo where there is no nginx.
pub(crate) struct Origin {
    running: Running,
    is_demo: bool,
}

const ORIGIN_FILES: [(&str, usize); 4] =
    [("64k", 64 << 10), ("1m", 1 << 20), ("100m", 100 << 20), ("chunked", 64 << 10)];

impl Origin {
    pub(crate) fn start(cores: Cores, options: &Options) -> Result<Self, String> {
        let named = |error: String| format!("the origin cannot be started: {error}");
        let Some(program) = installed("nginx") else {
            let peer = Peer {
                name: "demo",
                is_reverse: true,
                is_forward: false,
                is_secure: false,
                program: options.ringway_program(),
                files: &[(
                    "origin.toml",
                    "server.port = @PORT@\nlog.level = \"error\"\n\
                    admin.enabled = false\n[[upstream]]\nname = \"demo\"\nbuiltin = \"demo\"\n",
                )],
                arguments: &["--config", "@CONFIG@"],
                version: &["--version"],
            };
            return Ok(Self {
                running: start(&peer, cores.load, None, Key::default()).map_err(named)?,
                is_demo: true,
            });
        };
        let peer = Peer {
            name: "origin",
            is_reverse: true,
            is_forward: false,
            is_secure: false,
            program,
            files: &[template!("origin.conf")],
            arguments: NGINX,
            version: &["-v"],
        };
        let running = start(&peer, cores.load, None, Key::default()).map_err(named)?;
        let files = running.home.path().join("www");
        let filled = fs::create_dir(&files).and_then(|()| {
            ORIGIN_FILES.iter().try_for_each(|(name, size)| {
                // No pattern that a reader could take for markup.
                fs::write(
                    files.join(name),
                    b"0123456789 ringway\n".repeat(size / 19 + 1).get(..*size).unwrap_or_default(),
                )
            })
        });
        filled.map_err(|error| named(error.to_string()))?;
        Ok(Self { running, is_demo: false })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address()
    }

    pub(crate) fn text(&self) -> &'static str {
        if self.is_demo { "ringway's demo" } else { "nginx, files in memory" }
    }

    pub(crate) fn path(&self, page: Page) -> &'static str {
        match (page, self.is_demo) {
            (Page::Small, false) => "/",
            (Page::Small, true) => "/bytes/13",
            (Page::Kib64, false) => "/64k",
            (Page::Kib64, true) => "/bytes/65536",
            (Page::Mib1, false) => "/1m",
            (Page::Mib1, true) => "/bytes/1048576",
            (Page::Mib100, false) => "/100m",
            (Page::Mib100, true) => "/bytes/104857600",
            (Page::Chunked, false) => "/chunked",
            (Page::Chunked, true) => "/chunked/3500",
            (Page::Upload, false) => "/upload",
            // Sent back as well, which makes it dearer than with nginx.
            (Page::Upload, true) => "/echo",
        }
    }
}
