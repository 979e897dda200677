//! Who carries the operations of a worker out: the kernel's ring, or an epoll set where a ring
//! cannot be had.
//!
//! In goes what the configuration wants; out comes a driver, and for one that nobody chose the
//! reason. A ring is opened and closed again for that: workers open their own. Nothing above this
//! folder asks which it is, but to say so.

use std::io;

use super::{diagnose, features, runtime};
use crate::config::DriverChoice;

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    IoUring,
    Epoll,
}

impl Driver {
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// The one that tests are to run on, by the environment.
    #[cfg(test)]
    pub(crate) fn tested() -> Self {
        let name = std::env::var("RINGWAY_TEST_DRIVER");
        if name.is_ok_and(|name| name == Self::Epoll.name()) { Self::Epoll } else { Self::IoUring }
    }
}

/// The driver for all workers, and why it is not the ring where one was to be tried; the error is
/// why there is none at all.
pub(crate) fn choose(choice: DriverChoice) -> Result<(Driver, Option<String>), String> {
    match choice {
        DriverChoice::Epoll => Ok((Driver::Epoll, None)),
        DriverChoice::IoUring => runtime::probe().map(|()| (Driver::IoUring, None)),
        DriverChoice::Auto => Ok(match runtime::probe().and_then(|()| lacks()) {
            Ok(()) => (Driver::IoUring, None),
            Err(why) => (Driver::Epoll, Some(why)),
        }),
    }
}

/// What is said where epoll has to stand in, with the reason.
pub(crate) fn instead_of_ring(why: &str) -> String {
    format!(
        "{why}. Until then epoll serves (server.driver = \"auto\"): nothing is missing, and a \
         request takes two more system calls"
    )
}

/// The same for a worker whose ring could not be opened although others could.
pub(crate) fn instead_of_one_ring(error: &io::Error) -> String {
    instead_of_ring(&diagnose::diagnose(error))
}

/// Whether a worker that fails so could do without a ring: descriptors are short for both.
pub(crate) fn is_of_ring(error: &io::Error) -> bool {
    let of_ring = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM, libc::EINVAL];
    error.raw_os_error().is_some_and(|error| of_ring.contains(&error))
}

/// Names operations that this kernel has not: all it would do is refuse them one by one.
fn lacks() -> Result<(), String> {
    let operations = features::missing().map_or_else(|_| Vec::new(), |missing| missing.operations);
    if operations.is_empty() {
        return Ok(());
    }
    Err(format!(
        "io_uring of this kernel is without {}: it is too old. Run on Linux 6.1 or later",
        operations.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;
    use crate::ledger::Budget;
    use crate::ring::ops::{self, turn};
    use crate::ring::waits::poll_now;
    use crate::ring::{Acceptor, ChunkPool, Deadlines, HeadBuffer, HeadPool, Socket, WaitError};

    const LIMIT: Duration = Duration::from_secs(20);
    const DRIVERS: [Driver; 2] = [Driver::IoUring, Driver::Epoll];

    /// Runs `test` on each driver: what one promises, the other keeps.
    fn on_each<F: Future<Output = ()>>(test: impl Fn() -> F) {
        for driver in DRIVERS {
            eprintln!("{driver:?}");
            runtime::open(driver).unwrap().block_on(test());
        }
    }

    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let here = listener.accept().unwrap().0;
        crate::ring::options::set_options(&here, Duration::ZERO).unwrap();
        (there, Socket::from_fd(OwnedFd::from(here), false))
    }

    fn heads(bytes: usize) -> Rc<HeadPool> {
        HeadPool::new(bytes, Arc::default(), Rc::new(Budget::unlimited()))
    }

    /// A receive's bytes, with its buffer empty again.
    fn taken(buffer: &mut HeadBuffer) -> Vec<u8> {
        let bytes = buffer.filled().to_vec();
        buffer.consume(bytes.len());
        bytes
    }

    #[test]
    fn a_receive_waits_for_bytes_and_for_the_end() {
        on_each(async || {
            let (deadlines, pool) = (Deadlines::default(), heads(64));
            let (mut there, here) = pair();
            let mut buffer = pool.lease();
            let mut pending = here.start_recv(buffer);
            assert!(poll_now(&mut pending).is_none());
            turn().await;
            assert!(poll_now(&mut pending).is_none() && !pending.has_ended());
            there.write_all(b"one").unwrap();
            let (count, back) = pending.await;
            buffer = back;
            assert_eq!((count.unwrap(), &*taken(&mut buffer)), (3, &b"one"[..]));
            // What came before the wait began is no less there.
            there.write_all(b"two").unwrap();
            turn().await;
            let (count, back) = here.recv(buffer, &deadlines, LIMIT).await;
            buffer = back;
            assert_eq!((count.unwrap(), &*taken(&mut buffer)), (3, &b"two"[..]));
            there.write_all(b"three").unwrap();
            drop(there);
            let (count, back) = here.recv(buffer, &deadlines, LIMIT).await;
            buffer = back;
            assert_eq!((count.unwrap(), &*taken(&mut buffer)), (5, &b"three"[..]));
            for _ in 0..2 {
                let (count, back) = here.recv(buffer, &deadlines, LIMIT).await;
                buffer = back;
                assert_eq!(count.unwrap(), 0);
            }
        });
    }

    #[test]
    fn a_receive_that_fills_its_buffer_leaves_the_rest_to_the_next() {
        on_each(async || {
            let (deadlines, pool) = (Deadlines::default(), heads(4));
            let (mut there, here) = pair();
            there.write_all(b"0123456789").unwrap();
            let (mut buffer, mut all) = (pool.lease(), Vec::new());
            while all.len() < 10 {
                let (count, back) = here.recv(buffer, &deadlines, LIMIT).await;
                buffer = back;
                assert!((1..=4).contains(&count.unwrap()));
                all.append(&mut taken(&mut buffer));
            }
            assert_eq!(all, b"0123456789");
        });
    }

    /// A receive ends before an urgent byte, with room left: what follows is there all the same.
    #[test]
    fn an_urgent_byte_holds_nothing_back() {
        on_each(async || {
            let (deadlines, pool) = (Deadlines::default(), heads(64));
            let (mut there, here) = pair();
            let (mut buffer, mut all) = (pool.lease(), Vec::new());
            for _ in 0..3 {
                there.write_all(b"ab").unwrap();
                socket2::SockRef::from(&there).send_out_of_band(b"!").unwrap();
                there.write_all(b"cd").unwrap();
            }
            while all.len() < 15 {
                let (count, back) = here.recv(buffer, &deadlines, LIMIT).await;
                buffer = back;
                assert!(count.unwrap() > 0);
                all.append(&mut taken(&mut buffer));
            }
            assert_eq!(all, b"ab!cdab!cdab!cd");
        });
    }

    /// A receive ends behind a message that carries a descriptor, with room left.
    #[test]
    fn a_descriptor_among_the_bytes_holds_nothing_back() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::os::fd::AsRawFd;
        on_each(async || {
            let (deadlines, pool) = (Deadlines::default(), heads(64));
            let (here, mut there) = UnixStream::pair().unwrap();
            let here = Socket::from_fd(OwnedFd::from(here), true);
            let (mut buffer, mut all) = (pool.lease(), Vec::new());
            let sent = [there.as_raw_fd()];
            let control = [ControlMessage::ScmRights(&sent)];
            let parts = [std::io::IoSlice::new(b"ab")];
            sendmsg::<()>(there.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
            there.write_all(b"cd").unwrap();
            turn().await;
            while all.len() < 4 {
                let (count, back) = here.recv(buffer, &deadlines, LIMIT).await;
                buffer = back;
                assert!(count.unwrap() > 0);
                all.append(&mut taken(&mut buffer));
            }
            assert_eq!(all, b"abcd");
        });
    }

    #[test]
    fn a_cancelled_receive_gives_its_buffer_back_and_loses_no_byte() {
        on_each(async || {
            let (deadlines, pool) = (Deadlines::default(), heads(64));
            let (mut there, here) = pair();
            let pending = here.start_recv(pool.lease());
            turn().await;
            pending.cancel();
            let (result, buffer) = pending.await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
            there.write_all(b"kept").unwrap();
            let (count, mut buffer) = here.recv(buffer, &deadlines, LIMIT).await;
            assert_eq!((count.unwrap(), &*taken(&mut buffer)), (4, &b"kept"[..]));
        });
    }

    #[test]
    fn a_cancelled_operation_says_so_once_and_no_other_in_its_place() {
        on_each(async || {
            let (_there, here) = pair();
            let first = ops::poll(&here.fd, libc::POLLIN);
            let key = first.key();
            ops::cancel(key);
            ops::cancel(key);
            let (result, _) = first.await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
            // It has the first one's place.
            let mut second = ops::poll(&here.fd, libc::POLLIN);
            ops::cancel(key);
            turn().await;
            turn().await;
            assert!(poll_now(&mut second).is_none());
            ops::cancel(second.key());
            assert!(second.await.0.is_err());
        });
    }

    #[test]
    fn a_wait_ends_by_its_deadline_and_by_an_interruption() {
        on_each(async || {
            let deadlines = Rc::new(Deadlines::default());
            let (_there, here) = pair();
            let watched = deadlines.clone();
            let local = tokio::task::spawn_local(async move { watched.run().await });
            let late = here.readable(&deadlines, Duration::from_millis(20)).await;
            assert!(matches!(late, Err(WaitError::Expired)), "{late:?}");
            let (other, table) = (here.clone(), deadlines.clone());
            tokio::task::spawn_local(async move { other.interrupt(&table) });
            let ended = here.readable(&deadlines, LIMIT).await;
            assert!(matches!(ended, Err(WaitError::Interrupted)), "{ended:?}");
            local.abort();
        });
    }

    #[test]
    fn a_wait_for_input_ends_with_what_is_there_whoever_has_read_before() {
        on_each(async || {
            let deadlines = Deadlines::default();
            let (mut there, here) = pair();
            there.write_all(b"12").unwrap();
            assert!(here.readable(&deadlines, LIMIT).await.unwrap().is_readable());
            let mut byte = [0];
            assert_eq!(here.try_recv(&mut byte).unwrap(), 1);
            // One is left, of which nothing new is to be heard.
            assert!(here.readable(&deadlines, LIMIT).await.unwrap().is_readable());
            assert_eq!(here.try_recv(&mut byte).unwrap(), 1);
            let mut pending = here.start_poll_input();
            for _ in 0..3 {
                turn().await;
                assert!(poll_now(&mut pending).is_none(), "there is nothing left");
            }
            drop(there);
            assert!(pending.await.unwrap() & libc::POLLRDHUP as u32 != 0);
            let hung_up = here.hang_up(&deadlines).await.unwrap();
            assert!(hung_up.has_ended() && !hung_up.is_broken());
        });
    }

    #[test]
    fn a_wait_for_output_ends_when_the_peer_has_read() {
        on_each(async || {
            let deadlines = Deadlines::default();
            let (mut there, here) = pair();
            assert!(here.writable(&deadlines, LIMIT).await.unwrap().is_writable());
            let mut sent = 0;
            while let Ok(count) = here.try_send(&[7; 16_384]) {
                sent += count;
            }
            let mut waiting = here.writable(&deadlines, LIMIT);
            turn().await;
            assert!(poll_now(&mut waiting).is_none(), "there is no room");
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; sent];
                there.read_exact(&mut bytes).unwrap();
                there
            });
            assert!(waiting.await.unwrap().is_writable());
            let mut there = reader.join().unwrap();
            // The end of the peer's side is no output.
            there.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(here.writable(&deadlines, LIMIT).await.unwrap().has_ended());
            let mut more = 0;
            while let Ok(count) = here.try_send(&[7; 16_384]) {
                more += count;
            }
            let mut only = here.writable_only(&deadlines, LIMIT);
            for _ in 0..3 {
                turn().await;
                assert!(poll_now(&mut only).is_none(), "there is no room");
            }
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; more];
                there.read_exact(&mut bytes).unwrap();
                there
            });
            assert!(only.await.unwrap().is_writable());
            drop(reader.join().unwrap());
        });
    }

    #[test]
    fn two_waits_on_one_socket_both_hear() {
        on_each(async || {
            let deadlines = Deadlines::default();
            let (mut there, here) = pair();
            let mut hang_up = here.hang_up(&deadlines);
            let mut input = here.readable(&deadlines, LIMIT);
            there.write_all(b"x").unwrap();
            assert!((&mut input).await.unwrap().is_readable());
            turn().await;
            assert!(poll_now(&mut hang_up).is_none(), "it has not hung up");
            drop(there);
            assert!(hang_up.await.unwrap().has_ended());
        });
    }

    #[test]
    fn a_dropped_wait_leaves_the_descriptor_and_its_number_to_others() {
        on_each(async || {
            let (deadlines, pool) = (Deadlines::default(), heads(64));
            for round in 0..64_u8 {
                let (mut there, here) = pair();
                if round % 2 == 0 {
                    let dropped = here.start_poll_input();
                    turn().await;
                    drop(dropped);
                }
                // A ring takes the byte for the wait that was dropped only where that receives.
                there.write_all(&[round]).unwrap();
                let (count, mut buffer) = here.recv(pool.lease(), &deadlines, LIMIT).await;
                assert_eq!((count.unwrap(), taken(&mut buffer)), (1, vec![round]));
            }
            assert_eq!(pool.leased(), 0);
        });
    }

    #[test]
    fn who_takes_turns_leaves_the_others_theirs() {
        on_each(async || {
            let deadlines = Rc::new(Deadlines::default());
            let (mut there, here) = pair();
            let heard = Rc::new(std::cell::Cell::new(false));
            let told = heard.clone();
            tokio::task::spawn_local(async move {
                here.readable(&deadlines, LIMIT).await.unwrap();
                told.set(true);
            });
            turn().await;
            there.write_all(b"x").unwrap();
            let mut turns = 0;
            while !heard.get() {
                turn().await;
                turns += 1;
                assert!(turns < 1000, "nobody else had a turn");
            }
        });
    }

    /// Other than by turns: a task that wakes itself never lets the loop come to rest.
    #[test]
    fn who_never_rests_leaves_the_others_theirs() {
        on_each(async || {
            let deadlines = Rc::new(Deadlines::default());
            let (mut there, here) = pair();
            there.write_all(b"x").unwrap();
            let waiting = tokio::task::spawn_local(async move {
                here.readable(&deadlines, LIMIT).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            });
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if waiting.is_finished() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
    }

    #[test]
    fn other_threads_and_timers_end_a_sleep() {
        on_each(async || {
            for pause in [0, 5, 60] {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let thread = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(pause));
                    sender.send(()).unwrap();
                });
                receiver.await.unwrap();
                thread.join().unwrap();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        });
    }

    /// After a rest the loop sleeps in tokio, where sockets have to be heard all the same.
    #[test]
    fn a_socket_is_heard_after_a_long_rest() {
        on_each(async || {
            let pool = heads(64);
            let (mut there, here) = pair();
            for round in 0..3_u8 {
                let pending = here.start_recv(pool.lease());
                let writer = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(60));
                    there.write_all(&[round]).unwrap();
                    there
                });
                let (count, mut buffer) = pending.await;
                assert_eq!((count.unwrap(), taken(&mut buffer)), (1, vec![round]));
                there = writer.join().unwrap();
            }
        });
    }

    #[test]
    fn a_listening_socket_is_left_to_others_while_nobody_waits_for_it() {
        on_each(async || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let mut acceptor = Acceptor::new(OwnedFd::from(listener.try_clone().unwrap()));
            let connected = std::thread::spawn(move || TcpStream::connect(address).unwrap());
            let (_, peer) = acceptor.accept().await.unwrap();
            let there = connected.join().unwrap();
            assert_eq!(peer.to_string(), there.local_addr().unwrap().to_string());
            turn().await;
            // Nobody waits: a connection that comes now keeps no loop awake, and is not taken.
            let _next = TcpStream::connect(address).unwrap();
            turn().await;
            assert!(listener.accept().is_ok());
            // A stopped one ends without a connection.
            let stopper = acceptor.stopper();
            let mut accepting = std::pin::pin!(acceptor.accept());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(accepting.as_mut().poll(&mut cx).is_pending());
            turn().await;
            stopper.stop();
            assert!(matches!(accepting.await, Err(WaitError::Interrupted)));
            // A shut one too.
            let mut acceptor = Acceptor::new(OwnedFd::from(listener.try_clone().unwrap()));
            let mut accepting = Box::pin(acceptor.accept());
            assert!(Pin::new(&mut accepting).as_mut().poll(&mut cx).is_pending());
            turn().await;
            socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
            assert!(matches!(accepting.await, Err(WaitError::Interrupted)));
        });
    }

    #[test]
    fn a_connection_is_made_and_one_that_is_refused_fails() {
        on_each(async || {
            let deadlines = Deadlines::default();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().into();
            let socket = Socket::open(address, Duration::ZERO).unwrap();
            socket.connect(address, &deadlines, LIMIT).await.unwrap();
            let _there = listener.accept().unwrap();
            assert!(socket.writable(&deadlines, LIMIT).await.unwrap().is_writable());
            drop(listener);
            let socket = Socket::open(address, Duration::ZERO).unwrap();
            let refused = socket.connect(address, &deadlines, LIMIT).await;
            let Err(WaitError::Failed(error)) = refused else { panic!("{refused:?}") };
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        });
    }

    #[test]
    fn a_wait_for_what_cannot_be_waited_for_ends() {
        on_each(async || {
            let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
            let fd = ops::Descriptor::share(file, false);
            let (result, _) = ops::poll(&fd, libc::POLLIN).await;
            let has_ring = tokio_uring::Waits::current().is_some_and(|(_, ring)| ring.is_some());
            if has_ring {
                assert!(result.unwrap() > 0, "a file is always ready");
            } else {
                // Nothing that a set could watch: said, and not waited for.
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
            }
        });
    }

    #[test]
    fn chunks_without_a_ring_are_as_many_and_not_locked() {
        runtime::open(Driver::Epoll).unwrap().block_on(async {
            let pool = ChunkPool::new(7, 4096, Arc::default()).unwrap();
            assert_eq!((pool.count(), pool.is_registered()), (7, false));
            let run = pool.lease(4).await;
            assert_eq!((run.len(), run.registered_index()), (4 * 4096, None));
        });
    }

    #[test]
    fn what_was_chosen_is_not_tried_and_not_doubted() {
        assert_eq!(choose(DriverChoice::Epoll), Ok((Driver::Epoll, None)));
        assert_eq!(choose(DriverChoice::Auto), Ok((Driver::IoUring, None)));
        assert_eq!(choose(DriverChoice::IoUring), Ok((Driver::IoUring, None)));
        let text = instead_of_ring("io_uring is blocked");
        assert!(text.starts_with("io_uring is blocked. ") && !text.contains('\n'), "{text}");
    }
}
