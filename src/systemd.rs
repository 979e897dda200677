//! What the service manager is told: that ringway is ready, reloads, stops, or is alive.
//!
//! Out go datagrams to the socket that NOTIFY_SOCKET names, as sd_notify(3) has them; in comes how
//! often a sign of life is wanted. Without NOTIFY_SOCKET everything here does nothing, and what
//! cannot be sent is a line in the log and nothing worse: it is the manager who waits for it. It
//! never reads from the manager. The manager's socket may be full for a moment, so no worker calls
//! this.

use std::time::Duration;

use sd_notify::NotifyState;

/// An interval that asks for more signs of life than this would keep a core busy.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Everything listens and every worker runs: after the start, and again after each reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun. It ends with [`ready`], whether or not anything has changed.
pub fn reloading() {
    // Type=notify-reload takes the message only with the time at which it was sent.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("the service manager is not told of a reload: {error}"),
    }
}

/// The end has begun: what is under way is being finished.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for people, which `systemctl status` shows.
pub fn status(text: &str) {
    // A line of its own would be an order to the manager.
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    tell(&[NotifyState::Status(&line)]);
}

/// Another process goes on in place of this one, and is the one to watch from now on.
pub fn main_pid(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// How often [`alive`] is wanted: half of what the manager waits, as sd_watchdog_enabled(3)
/// recommends. `None` where no manager waits.
pub fn watchdog_interval() -> Option<Duration> {
    let patience = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero())?;
    Some((patience / 2).max(INTERVAL_MIN))
}

/// A sign of life. Only for who has just heard from every worker: it speaks for all of them.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        let what = states.first().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            "the service manager cannot be told {what}: {error}. NOTIFY_SOCKET is to name a \
             datagram socket that ringway may write to, by its path"
        );
    }
}
