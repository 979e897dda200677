//! The loop of a thread: run what can be run, then sleep until there is more.
//!
//! While there is traffic it sleeps in the ring, by the call that also submits: one system call for
//! a turn, where a ring inside epoll takes four. tokio's timers and descriptors get a look at every
//! tick. After two ticks without a completion, and while somebody else's futures run, it sleeps in
//! tokio instead, where timers are exact and the ring announces its completions by an eventfd.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::LocalSet;

use crate::Builder;
use crate::bell::Bell;
use crate::driver::Handle;

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

#[derive(Clone)]
struct Current {
    driver: Handle,
    is_epoll: bool,
    waits: Arc<Waits>,
    foreign: Rc<Cell<usize>>,
}

/// The driver of the runtime that runs on this thread.
#[inline]
pub(crate) fn current() -> Option<Handle> {
    CURRENT.with_borrow(|current| Some(current.as_ref()?.driver.clone()))
}

/// The same, where it has no ring.
#[inline]
pub(crate) fn without_ring() -> Option<Handle> {
    // Descriptors may outlive the thread's variables.
    let current = CURRENT.try_with(|current| {
        let current = current.borrow();
        let current = current.as_ref().filter(|current| current.is_epoll)?;
        Some(current.driver.clone())
    });
    current.ok().flatten()
}

/// How often a loop has gone to sleep; any thread may read it.
#[derive(Debug, Default)]
pub struct Waits {
    in_ring: AtomicU64,
    in_tokio: AtomicU64,
}

impl Waits {
    /// Those of the runtime that runs on this thread, and the descriptor of its ring if
    /// it has one.
    pub fn current() -> Option<(Arc<Self>, Option<RawFd>)> {
        CURRENT.with_borrow(|current| {
            let current = current.as_ref()?;
            Some((current.waits.clone(), current.driver.descriptor()))
        })
    }

    /// In io_uring_enter(2), or where there is no ring in epoll_wait(2).
    pub fn in_ring(&self) -> u64 {
        self.in_ring.load(Ordering::Relaxed)
    }

    /// In tokio's epoll_wait(2).
    pub fn in_tokio(&self) -> u64 {
        self.in_tokio.load(Ordering::Relaxed)
    }
}

/// While one of these lives, the loop sleeps in tokio, so that futures that wait for tokio's
/// sockets and timers hear of them at once.
pub struct Foreign {
    count: Option<Rc<Cell<usize>>>,
}

impl Foreign {
    /// For the runtime that runs on this thread; nothing happens outside one.
    #[must_use]
    pub fn begin() -> Self {
        let count = CURRENT.with_borrow(|current| Some(current.as_ref()?.foreign.clone()));
        if let Some(count) = &count {
            count.set(count.get() + 1);
        }
        Self { count }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(count) = &self.count {
            count.set(count.get() - 1);
        }
    }
}

/// Runs the tasks of one thread, with a ring of their own.
pub struct Runtime {
    // In the order in which they have to end: tasks own operations.
    local: ManuallyDrop<LocalSet>,
    /// The ring's completions, while it announces them.
    announced: ManuallyDrop<AsyncFd<OwnedFd>>,
    tokio: ManuallyDrop<tokio::runtime::Runtime>,
    bell: Arc<Bell>,
    before_turn: fn(),
    current: Current,
}

impl Runtime {
    /// Opens a ring for the calling thread, which has to be the one that runs the tasks.
    ///
    /// # Errors
    ///
    /// Those of io_uring_setup(2), epoll_create(2) and eventfd(2).
    pub fn new(builder: &Builder) -> io::Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bell = Arc::new(Bell::new()?);
        let driver = Handle::new(builder, bell.clone())?;
        let announced = {
            let _inside = tokio.enter();
            let announcer = driver.announcer()?;
            // SAFETY: the descriptor is the `AsyncFd`'s own and closed by it.
            unsafe { AsyncFd::register_with_interest(announcer, Interest::READABLE) }?
        };
        let is_epoll = builder.is_epoll;
        Ok(Self {
            local: ManuallyDrop::new(LocalSet::new()),
            announced: ManuallyDrop::new(announced),
            tokio: ManuallyDrop::new(tokio),
            bell,
            before_turn: builder.before_turn,
            current: Current { driver, is_epoll, waits: Arc::default(), foreign: Rc::default() },
        })
    }

    /// Runs `future` and the tasks that it spawns (`tokio::task::spawn_local`) until it is ready.
    /// The tasks that are left go on with the next call.
    ///
    /// # Panics
    ///
    /// If `future` does, or inside another runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let driver = &self.current.driver;
        let _guard = Guard::enter(self.current.clone());
        let _inside = self.tokio.enter();
        let mut future = pin!(future);
        let call = Arc::new(Call { is_waiting: AtomicBool::new(true), bell: self.bell.clone() });
        let caller = Waker::from(call.clone());
        // Completions are handed out inside the local set: tasks that are woken there go to its own
        // queue, without a lock.
        let mut root = pin!(self.local.run_until(poll_fn(|_| {
            driver.dispatch();
            if !call.is_waiting.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            call.is_waiting.store(false, Ordering::SeqCst);
            future.as_mut().poll(&mut Context::from_waker(&caller))
        })));
        let waker = Waker::from(self.bell.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            self.bell.silence();
            (self.before_turn)();
            if let Poll::Ready(output) = root.as_mut().poll(&mut cx) {
                return output;
            }
            if driver.take_tick() {
                self.look_at_tokio();
            }
            if self.bell.is_rung() {
                // There is more to run. What has been queued goes out all the same.
                driver.flush_and_tick();
            } else if driver.is_quiet() || self.current.foreign.get() > 0 {
                self.sleep_in_tokio();
            } else {
                self.sleep_in_ring();
            }
        }
    }

    /// Lets tokio see to its timers and descriptors. A future that wakes itself has it look at them
    /// once, without sleeping and, other than `yield_now`, without allocating.
    fn look_at_tokio(&self) {
        let mut has_looked = false;
        self.tokio.block_on(poll_fn(|cx| {
            if mem::replace(&mut has_looked, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
    }

    fn sleep_in_ring(&self) {
        if self.bell.lie_down() {
            self.current.waits.in_ring.fetch_add(1, Ordering::Relaxed);
            self.current.driver.wait();
            self.bell.get_up();
        }
    }

    fn sleep_in_tokio(&self) {
        let driver = &self.current.driver;
        if driver.announce_by(self.announced.as_fd()).is_err() {
            // Then timers are late by a tick at most.
            self.look_at_tokio();
            return self.sleep_in_ring();
        }
        if self.current.is_epoll {
            self.forget_announced();
        }
        // From here on completions are announced; what has completed before has to be looked for.
        driver.flush();
        if !driver.has_completions() {
            self.current.waits.in_tokio.fetch_add(1, Ordering::Relaxed);
            self.tokio.block_on(poll_fn(|cx| self.poll_announced(cx)));
            self.bell.get_up();
        }
        driver.announce_no_more();
        // Completions that the kernel has put off are posted by a call only.
        driver.flush();
    }

    /// The set has been announced whenever it had something to say, sleep or no sleep.
    fn forget_announced(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(mut ready)) = self.announced.poll_read_ready(&mut cx) {
            ready.clear_ready();
        }
    }

    /// Ready once something has completed, or the bell rings.
    fn poll_announced(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.bell.lie_down_in_tokio(cx) {
            return Poll::Ready(());
        }
        let ready = self.announced.poll_read_ready(cx);
        ready.map(|ready| {
            if let Ok(mut ready) = ready {
                ready.clear_ready();
                self.current.driver.drain(self.announced.as_fd());
            }
        })
    }
}

/// Wakes the loop for the sake of the future that it was called with, which else would be polled in
/// every turn.
struct Call {
    is_waiting: AtomicBool,
    bell: Arc<Bell>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_waiting.store(true, Ordering::SeqCst);
        self.bell.wake_by_ref();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _guard = Guard::enter(self.current.clone());
        // SAFETY: none of them is used afterwards. Tasks go first, because they own operations; the
        // ring goes last, with `current`, and waits for operations that nobody waits for any more.
        unsafe {
            ManuallyDrop::drop(&mut self.local);
            {
                let _inside = self.tokio.enter();
                ManuallyDrop::drop(&mut self.announced);
            }
            ManuallyDrop::drop(&mut self.tokio);
        }
    }
}

/// Makes a runtime the thread's current one for a while.
struct Guard;

impl Guard {
    fn enter(current: Current) -> Self {
        CURRENT.with_borrow_mut(|slot| {
            assert!(slot.is_none(), "one runtime runs on a thread at a time");
            *slot = Some(current);
        });
        Self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(Option::take);
    }
}
