//! One thread of the load: its connections, and whose turn it is.
//!
//! In come a plan and the moments at which to begin and to end; out comes a tally. Threads share
//! nothing but a few words that say how far they are. The loop is one epoll: in an open loop an
//! alarm in it says when requests are due, and each is counted from then. What fails is counted by
//! kind and tried again with the next request.

mod ending;
mod streams;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Pid;

use super::alarm::{ALARM, Alarm};
use super::connection::{Connection, Stage, Tools, Turn};
use super::options::{Pace, Plan};
use super::schedule::Schedule;
use super::shared::{Measured, Shared, share};
use super::tally::{ErrorKind, Tally};

/// Connections of one thread that open at once: a listener's queue has an end.
const OPENING_MAX: usize = 128;

/// After this, a connection that could not be made is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);

/// The same where slow readers get their share, or a connection is to be tried again.
const TICK_SHORT: Duration = Duration::from_millis(20);

const EVENTS_MAX: usize = 512;

/// Runs thread `thread` of the plan to its end.
pub(super) fn run(plan: &Plan, thread: usize, shared: &Shared) -> io::Result<Measured> {
    if let Some(cpu) = plan.cpu {
        let cpu = cpu + thread;
        let explain = |error| io::Error::other(format!("--cpu {cpu}: {error}"));
        let mut set = CpuSet::new();
        set.set(cpu).map_err(explain)?;
        sched_setaffinity(Pid::from_raw(0), &set).map_err(explain)?;
    }
    let mut load = Load::new(plan, thread, shared)?;
    load.run()?;
    Ok(load.finish())
}

struct Load<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    epoll: Epoll,
    /// Wakes an open loop when something is due.
    alarm: Option<Alarm>,
    connections: Vec<Connection>,
    tools: Tools,
    tally: Tally,
    now: Instant,
    started: Instant,
    end: Option<Instant>,
    next_tick: Instant,
    is_measuring: bool,
    /// CPU time of the thread when measuring began.
    cpu: Duration,
    schedule: Option<Schedule>,
    /// The thread's share of those that were asked for.
    requests: Option<u64>,
    /// Requests that may still begin, in a closed loop or an idle one.
    quota: u64,
    /// Requests that have begun and are not over.
    under_way: usize,
    /// Connections without a request, of an open loop.
    free: VecDeque<u32>,
    /// Connections that are to open once there is room.
    queue: VecDeque<u32>,
    opening: usize,
    /// Connections that are to be tried again, and when.
    later: VecDeque<(Instant, u32)>,
    /// Connections whose turn is not over.
    again: Vec<u32>,
    /// Idle connections have had their first request.
    is_settled: bool,
    is_last_round: bool,
    /// Answers and errors that the display knows of.
    shown: (u64, u64),
}

impl<'a> Load<'a> {
    fn new(plan: &'a Plan, thread: usize, shared: &'a Shared) -> io::Result<Self> {
        let count = share(plan.connections as u64, plan.threads, thread);
        let requests = plan.requests.map(|total| share(total, plan.threads, thread));
        let now = Instant::now();
        let schedule = match plan.pace {
            Pace::Open(rate) => {
                // Those of the warm-up are not among them.
                let before = (rate as f64 * plan.warmup.as_secs_f64()) as u64;
                let total = plan.requests.map(|count| count.saturating_add(before));
                let limit = total.map_or(u64::MAX, |total| share(total, plan.threads, thread));
                Some(Schedule::new(rate, plan.threads as u64, thread as u64, limit))
            }
            Pace::Closed | Pace::Idle => None,
        };
        let allowance = plan.slow_read.unwrap_or(0);
        let mut load = Self {
            plan,
            shared,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            alarm: None,
            connections: (0..count).map(|_| Connection::new(now, allowance)).collect(),
            tools: Tools::default(),
            tally: Tally::new(plan.has_course),
            now,
            started: shared.start,
            end: plan.duration.filter(|_| plan.pace != Pace::Idle).map(|d| shared.begin + d),
            next_tick: now + TICK,
            is_measuring: false,
            cpu: Duration::ZERO,
            schedule,
            requests,
            quota: match plan.pace {
                Pace::Closed if plan.warmup.is_zero() => requests.unwrap_or(u64::MAX),
                Pace::Closed => u64::MAX,
                Pace::Idle => count,
                Pace::Open(_) => 0,
            },
            under_way: 0,
            free: VecDeque::with_capacity(count as usize),
            queue: VecDeque::with_capacity(count as usize),
            opening: 0,
            later: VecDeque::new(),
            again: Vec::new(),
            is_settled: false,
            is_last_round: false,
            shown: (0, 0),
        };
        if load.is_open_loop() {
            load.alarm = Some(Alarm::new(&load.epoll)?);
        }
        Ok(load)
    }

    fn run(&mut self) -> io::Result<()> {
        for index in 0..self.connections.len() as u32 {
            match self.plan.pace {
                Pace::Open(_) if self.plan.is_keepalive => self.open(index),
                Pace::Open(_) => self.free.push_back(index),
                Pace::Closed | Pace::Idle => self.begin(index, self.now),
            }
        }
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        loop {
            let count = self.wait(&mut events)?;
            self.now = Instant::now();
            self.tools.now_ms = self.now.duration_since(self.started).as_millis() as u64;
            if self.is_over() {
                return Ok(());
            }
            for event in &events[..count] {
                if event.data() != ALARM {
                    self.event(*event);
                }
            }
            for _ in 0..self.again.len() {
                let Some(index) = self.again.pop() else { break };
                let everything = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
                self.turn(index, everything);
            }
            self.open_queued();
            self.feed()?;
            if self.now >= self.next_tick {
                self.tick();
            }
        }
    }

    fn wait(&self, events: &mut [EpollEvent]) -> io::Result<usize> {
        let next = self.end.map_or(self.next_tick, |end| end.min(self.next_tick));
        let next = if self.is_measuring { next } else { next.min(self.shared.begin) };
        let left = next.saturating_duration_since(self.now);
        let left_ms = if self.again.is_empty() { left.as_millis() as u16 + 1 } else { 0 };
        match self.epoll.wait(events, EpollTimeout::from(left_ms)) {
            Err(nix::errno::Errno::EINTR) => Ok(0),
            result => Ok(result?),
        }
    }

    fn is_open_loop(&self) -> bool {
        matches!(self.plan.pace, Pace::Open(_))
    }

    fn connection(&mut self, index: u32) -> &mut Connection {
        &mut self.connections[index as usize]
    }

    #[inline]
    fn event(&mut self, event: EpollEvent) {
        let index = event.data() as u32;
        if self.connection(index).generation == (event.data() >> 32) as u32 {
            self.turn(index, event.events());
        }
    }

    /// Lets a connection go on until there is nothing to do on it.
    #[inline]
    fn turn(&mut self, index: u32, events: EpollFlags) {
        let connection = &mut self.connections[index as usize];
        let turn = connection.turn(events, self.plan, &mut self.tools);
        self.after(index, turn);
    }

    #[inline]
    fn after(&mut self, index: u32, turn: Turn) {
        match turn {
            Turn::Waiting => {}
            Turn::Again => self.again.push(index),
            Turn::Opened => self.opened(index),
            Turn::Answered(answer) => {
                let now = Instant::now();
                let is_kept = answer.is_persistent && self.plan.is_keepalive;
                self.under_way -= 1;
                let connection = self.connection(index);
                connection.has_request = false;
                let intended = connection.intended;
                self.answered(intended, answer.status, now);
                if is_kept {
                    self.connection(index).stage = Stage::Ready;
                } else {
                    self.connection(index).close();
                }
                self.next(index, now);
            }
            Turn::Failed(kind) => self.failed(index, kind),
            Turn::Streamed { is_more } => {
                if let Some(http2) = &self.plan.http2 {
                    self.streamed(index, http2, is_more);
                }
            }
            Turn::Closed => match &self.plan.http2 {
                Some(http2) => self.reopen(index, http2),
                None => self.connection(index).close(),
            },
        }
    }

    #[inline]
    fn answered(&mut self, intended: Instant, status: u16, now: Instant) {
        let begin = self.shared.begin;
        let has_warmup = !self.plan.warmup.is_zero();
        // In an open loop a request belongs to the time it was meant for.
        if has_warmup && self.is_open_loop() && intended < begin {
            return;
        }
        let after = now.saturating_duration_since(begin);
        self.tally.answered(status, now.saturating_duration_since(intended), after);
        if self.is_last_round {
            self.tally.held += 1;
        }
    }

    #[cold]
    fn failed(&mut self, index: u32, kind: ErrorKind) {
        let now = Instant::now();
        let is_last_round = self.is_last_round;
        let connection = self.connection(index);
        let was_opening = connection.stage.is_opening()
            || (connection.stage == Stage::Closed && kind == ErrorKind::Connect);
        if let Some(http2) = &self.plan.http2 {
            return self.lost(index, http2, kind, was_opening);
        }
        let connection = self.connection(index);
        let had_request = std::mem::take(&mut connection.has_request);
        connection.close();
        self.tally.failed(kind);
        self.under_way -= usize::from(had_request);
        if is_last_round {
            self.tally.lost += 1;
        }
        self.opening -= usize::from(was_opening);
        if was_opening {
            self.later.push_back((now + RETRY, index));
        } else {
            self.next(index, now);
        }
    }

    /// A connection has nothing to do.
    #[inline]
    fn next(&mut self, index: u32, now: Instant) {
        if let Some(http2) = &self.plan.http2 {
            return self.begin_streams(index, http2);
        }
        match self.plan.pace {
            Pace::Closed => self.begin(index, now),
            Pace::Open(_) => self.free.push_back(index),
            Pace::Idle => {}
        }
    }

    /// Begins a request if there is one left.
    #[inline]
    fn begin(&mut self, index: u32, intended: Instant) {
        if let Some(http2) = &self.plan.http2 {
            return self.begin_streams(index, http2);
        }
        if self.quota == 0 {
            return;
        }
        self.quota -= 1;
        self.send(index, intended, intended);
    }

    #[inline]
    fn send(&mut self, index: u32, intended: Instant, now: Instant) {
        self.under_way += 1;
        let deadline = now + self.plan.timeout;
        let connection = &mut self.connections[index as usize];
        connection.has_request = true;
        connection.intended = intended;
        connection.deadline = deadline;
        if connection.stage == Stage::Ready {
            let turn = connection.send_request(self.plan, &mut self.tools);
            self.after_sending(index, turn);
        } else if connection.stage == Stage::Closed {
            self.open(index);
        }
    }

    /// Sending answers nothing, so this goes no further than one step.
    #[inline]
    fn after_sending(&mut self, index: u32, turn: Turn) {
        match turn {
            Turn::Again => self.again.push(index),
            Turn::Failed(kind) => {
                // A loop, not a call within a call: the next request has its turn on the tick.
                let connection = self.connection(index);
                connection.close();
                connection.has_request = false;
                self.under_way -= 1;
                self.tally.failed(kind);
                self.later.push_back((self.now, index));
            }
            _ => {}
        }
    }

    fn open(&mut self, index: u32) {
        if self.opening >= OPENING_MAX {
            self.queue.push_back(index);
            return;
        }
        self.opening += 1;
        let (now, timeout) = (Instant::now(), self.plan.timeout);
        let connection = &mut self.connections[index as usize];
        connection.opened = now;
        connection.deadline = now + timeout;
        let turn = connection.open(self.plan, &self.epoll, index);
        if let Turn::Failed(kind) = turn {
            self.failed(index, kind);
        }
    }

    /// From the loop only: where every try fails at once, calls would go as deep as the queue.
    fn open_queued(&mut self) {
        while self.opening < OPENING_MAX {
            let Some(index) = self.queue.pop_front() else { return };
            self.open(index);
        }
    }

    fn opened(&mut self, index: u32) {
        self.opening -= 1;
        let now = Instant::now();
        let is_counted_from_sending = self.plan.is_keepalive && !self.is_open_loop();
        let connection = &mut self.connections[index as usize];
        let took = now.saturating_duration_since(connection.opened);
        self.tally.connect.saturating_record(took.as_nanos() as u64);
        self.tally.secured(connection.is_resumed());
        if let Some(http2) = &self.plan.http2 {
            self.begin_streams(index, http2);
        } else if connection.has_request {
            if is_counted_from_sending {
                connection.intended = now;
            }
            let turn = connection.send_request(self.plan, &mut self.tools);
            self.after_sending(index, turn);
        } else {
            self.free.push_back(index);
        }
    }

    /// Sends what is due, as far as there are connections for it, and sees to it that the next is
    /// not forgotten.
    fn feed(&mut self) -> io::Result<()> {
        loop {
            self.pass_over();
            let (Some(schedule), false) = (&mut self.schedule, self.free.is_empty()) else {
                return Ok(());
            };
            let now = Instant::now();
            let now_ns = now.saturating_duration_since(self.started).as_nanos() as u64;
            let Some(due_ns) = schedule.take(now_ns) else {
                return match (&mut self.alarm, schedule.next_ns()) {
                    (Some(alarm), Some(next_ns)) => alarm.set(now_ns, next_ns),
                    _ => Ok(()),
                };
            };
            let Some(index) = self.free.pop_front() else { return Ok(()) };
            self.tally.late_ns_max = self.tally.late_ns_max.max(now_ns - due_ns);
            let due = self.started + Duration::from_nanos(due_ns);
            match &self.plan.http2 {
                Some(http2) => self.send_due(index, http2, due, now),
                None => self.send(index, due, now),
            }
        }
    }

    /// Deadlines, slow readers, second tries and the display.
    fn tick(&mut self) {
        let is_slow = self.plan.slow_read.is_some();
        let is_short = is_slow || !self.later.is_empty() || self.plan.pace == Pace::Idle;
        let interval = if is_short { TICK_SHORT } else { TICK };
        self.next_tick = self.now + interval;
        for index in 0..self.connections.len() as u32 {
            let now = self.now;
            let connection = self.connection(index);
            let is_asked = matches!(connection.stage, Stage::Sending | Stage::Receiving);
            let is_under_way =
                connection.stage.is_opening() || (is_asked && connection.has_request);
            if is_under_way && now >= connection.deadline {
                self.failed(index, ErrorKind::Timeout);
                continue;
            }
            if let Some(http2) = &self.plan.http2 {
                self.expire(index, http2);
            }
            if let Some(rate) = self.plan.slow_read {
                let bytes = (rate as u128 * interval.as_millis() / 1000).max(1) as u64;
                if self.connection(index).allow(bytes, rate) {
                    self.turn(index, EpollFlags::EPOLLIN);
                }
            }
        }
        while self.later.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, index)) = self.later.pop_front() else { break };
            self.next(index, self.now);
        }
        let (answered, failed) = (self.tally.requests, self.tally.errors());
        self.shared.answered.fetch_add(answered - self.shown.0, Ordering::Relaxed);
        self.shared.failed.fetch_add(failed - self.shown.1, Ordering::Relaxed);
        self.shown = (answered, failed);
    }
}
