//! Wakes an epoll at a moment, to the microsecond.
//!
//! In comes the moment at which something is due; out comes an event of the epoll, marked as
//! [`ALARM`]. The timer is never read, because the epoll is told of edges: each expiry is one. The
//! epoll's own time-out is in milliseconds, too coarse for thousands of requests per second.

use std::io;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// What the event carries, which is not the number of a connection.
pub(super) const ALARM: u64 = u64::MAX;

/// Where more is due than this, one alarm serves several requests.
const INTERVAL_NS_MIN: u64 = 25_000;

pub(super) struct Alarm {
    timer: TimerFd,
    /// The moment it is set to.
    set_ns: Option<u64>,
}

impl Alarm {
    pub(super) fn new(epoll: &Epoll) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, ALARM))?;
        Ok(Self { timer, set_ns: None })
    }

    /// Sets it to `due_ns`, which has not come at `now_ns`, unless it is set to that already.
    pub(super) fn set(&mut self, now_ns: u64, due_ns: u64) -> io::Result<()> {
        // Set to the same moment, it may have rung in time for the last call and too early for it.
        if self.set_ns == Some(due_ns) && due_ns > now_ns + INTERVAL_NS_MIN {
            return Ok(());
        }
        let left = due_ns.saturating_sub(now_ns).max(INTERVAL_NS_MIN);
        let left = TimeSpec::from(Duration::from_nanos(left));
        self.timer.set(Expiration::OneShot(left), TimerSetTimeFlags::empty())?;
        self.set_ns = Some(due_ns);
        Ok(())
    }
}
