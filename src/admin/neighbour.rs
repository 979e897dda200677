//! Who has the admin address already.
//!
//! In goes an address that cannot be listened on; out comes what answers there, if that is a
//! ringway. It asks once, for a second at most, before anything is served.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;

/// A start does not wait longer for a stranger.
const PATIENCE: Duration = Duration::from_secs(1);

/// Another ringway of this machine.
#[derive(Deserialize)]
pub(super) struct Neighbour {
    pid: u32,
    config_file: Option<String>,
    uptime_seconds: u64,
}

impl Neighbour {
    /// `None` where nobody says that it is one.
    pub(super) fn at(address: SocketAddr) -> Option<Self> {
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0);
        let agent = Agent::new_with_config(config.build());
        let mut answer = agent.get(format!("http://{address}/health")).call().ok()?;
        let text = answer.body_mut().with_config().limit(1 << 20).read_to_string().ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, config_file, uptime_seconds } = self;
        let file = config_file.as_deref().unwrap_or("built-in defaults");
        write!(f, "pid {pid}, configuration {file}, up for {uptime_seconds} s")
    }
}
