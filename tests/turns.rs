//! The loop that workers run on: what wakes it, wherever it sleeps, and how it ends.
//!
//! Comes in: a runtime with one or two tasks. Goes out: that a sleep ends by a completion, by
//! another thread and by a timer, in the ring and in tokio, and that the kernel is done with a
//! buffer before it is freed.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_uring::{Foreign, OneshotOutputTransform, Runtime, UnsubmittedOneshot, Waits};

struct Received;

impl OneshotOutputTransform for Received {
    type Output = (i32, Buffer);
    type StoredData = Buffer;

    fn transform_oneshot_output(self, data: Buffer, result: i32) -> (i32, Buffer) {
        (result, data)
    }
}

/// Says when it is freed. The bytes are by raw pointer, because the kernel has their address while
/// the buffer is moved.
struct Buffer {
    bytes: *mut [u8; 8],
    is_freed: Rc<Cell<bool>>,
}

impl Buffer {
    fn filled(&self, count: i32) -> &[u8] {
        // SAFETY: the operation that wrote to them has completed.
        let bytes = unsafe { &*self.bytes };
        &bytes[..usize::try_from(count).expect("no error")]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.is_freed.set(true);
        // SAFETY: the pointer came from a box, and the runtime keeps this until the kernel is done.
        drop(unsafe { Box::from_raw(self.bytes) });
    }
}

fn recv(stream: &UnixStream, is_freed: &Rc<Cell<bool>>) -> UnsubmittedOneshot<Buffer, Received> {
    let bytes = Box::into_raw(Box::new([0; 8]));
    let entry: squeue::Entry =
        opcode::Recv::new(types::Fd(stream.as_raw_fd()), bytes.cast(), 8).build();
    let buffer = Buffer { bytes, is_freed: is_freed.clone() };
    // SAFETY: the buffer owns the bytes by raw pointer; the tests keep the stream open.
    unsafe { UnsubmittedOneshot::new(buffer, Received, entry) }
}

/// With the flags that workers get, with none, and without a ring.
fn runtimes() -> [Runtime; 3] {
    let mut deferring = tokio_uring::uring_builder();
    deferring.setup_single_issuer().setup_defer_taskrun();
    let deferring = Runtime::new(tokio_uring::builder().uring_builder(&deferring));
    let plain = Runtime::new(&tokio_uring::builder());
    let epoll = Runtime::new(tokio_uring::builder().epoll(true));
    [deferring.expect("Linux 6.1"), plain.expect("io_uring"), epoll.expect("epoll")]
}

#[test]
fn a_key_ends_its_own_operation_and_no_later_one() {
    for runtime in runtimes() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        runtime.block_on(async {
            let first = recv(&ours, &Rc::default()).submit();
            let key = first.key();
            tokio_uring::cancel(key);
            assert_eq!(first.await.0, -libc::ECANCELED);
            // It gets the place of the first one.
            let second = recv(&ours, &Rc::default()).submit();
            assert_ne!(second.key(), key);
            tokio_uring::cancel(key);
            // Submitted by now, if it is going to be.
            tokio::time::sleep(LONG).await;
            theirs.write_all(b"here").unwrap();
            let (count, buffer) = second.await;
            assert_eq!(buffer.filled(count), b"here");
        });
    }
}

#[test]
fn completions_that_found_no_room_are_known_of() {
    let mut small = tokio_uring::uring_builder();
    small.setup_cqsize(4);
    let runtime = Runtime::new(tokio_uring::builder().entries(4).uring_builder(&small)).unwrap();
    let pairs: Vec<_> = (0..64).map(|_| UnixStream::pair().unwrap()).collect();
    runtime.block_on(async {
        let pending: Vec<_> =
            pairs.iter().map(|(ours, _)| recv(ours, &Rc::default()).submit()).collect();
        // Has all of them handed to the kernel.
        tokio::time::sleep(LONG).await;
        for (_, theirs) in &pairs {
            (&*theirs).write_all(b"x").unwrap();
        }
        let known = pending.iter().filter(|operation| operation.is_completed()).count();
        assert_eq!(known, 64, "a stray byte would pass for an answer");
        for operation in pending {
            assert_eq!(operation.await.0, 1);
        }
    });
}

/// Long enough for the loop to have moved from the ring to tokio.
const LONG: Duration = Duration::from_millis(100);

async fn receive(stream: &UnixStream) -> Vec<u8> {
    let (count, buffer) = recv(stream, &Rc::default()).submit().await;
    buffer.filled(count).to_vec()
}

#[test]
fn a_completion_ends_a_sleep_in_the_ring_and_one_in_tokio() {
    for runtime in runtimes() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            for pause in [Duration::ZERO, Duration::from_millis(1), LONG, Duration::ZERO, LONG] {
                std::thread::park_timeout(pause);
                theirs.write_all(b"x").unwrap();
                // One answer for each, so that a byte that comes too late is missed.
                theirs.read_exact(&mut [0]).unwrap();
            }
        });
        runtime.block_on(async {
            for _ in 0..5 {
                assert_eq!(receive(&ours).await, b"x");
                (&ours).write_all(b"y").unwrap();
            }
            let (waits, _) = Waits::current().expect("inside a runtime");
            assert!(waits.in_ring() > 0 && waits.in_tokio() > 0, "{waits:?}");
        });
        writer.join().unwrap();
    }
}

#[test]
fn another_thread_ends_a_sleep_in_the_ring_and_one_in_tokio() {
    for runtime in runtimes() {
        let (to_loop, mut inbox) = tokio::sync::mpsc::unbounded_channel();
        let (answers, from_loop) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            for round in 0..200 {
                // Now and then after a silence, else while the loop goes to sleep.
                if round % 50 == 0 {
                    std::thread::park_timeout(LONG);
                }
                to_loop.send(round).unwrap();
                assert_eq!(from_loop.recv_timeout(Duration::from_secs(10)), Ok(round));
            }
        });
        runtime.block_on(async {
            while let Some(round) = inbox.recv().await {
                answers.send(round).unwrap();
            }
        });
        sender.join().unwrap();
    }
}

#[test]
fn timers_are_kept_with_traffic_and_without() {
    for runtime in runtimes() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || while theirs.write_all(b"x").is_ok() {});
        runtime.block_on(async {
            let began = Instant::now();
            let timer = tokio::task::spawn_local(async {
                tokio::time::sleep(Duration::from_millis(30)).await;
            });
            // The ring is never silent.
            while !timer.is_finished() {
                receive(&ours).await;
                assert!(began.elapsed() < Duration::from_secs(10), "the timer is forgotten");
            }
        });
        drop(ours);
        writer.join().unwrap();
        runtime.block_on(async {
            tokio::time::sleep(LONG).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
    }
}

#[test]
fn tasks_that_wake_themselves_leave_room_for_the_ring() {
    for runtime in runtimes() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        runtime.block_on(async {
            let spinner = tokio::task::spawn_local(poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            }));
            theirs.write_all(b"x").unwrap();
            assert_eq!(receive(&ours).await, b"x");
            spinner.abort();
        });
    }
}

#[test]
fn timers_are_kept_while_more_tasks_can_run_than_a_turn_has_room_for() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let is_over = Rc::new(Cell::new(false));
            for _ in 0..200 {
                let is_over = is_over.clone();
                tokio::task::spawn_local(poll_fn(move |cx| {
                    cx.waker().wake_by_ref();
                    if is_over.get() { Poll::Ready(()) } else { Poll::Pending }
                }));
            }
            // One that begins while the loop has been busy for a while, too.
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            is_over.set(true);
        });
    }
}

#[test]
fn futures_of_others_hear_of_their_sockets() {
    for runtime in runtimes() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let echo = std::thread::spawn(move || {
            let mut theirs = theirs;
            let mut byte = [0];
            while theirs.read_exact(&mut byte).is_ok() {
                theirs.write_all(&byte).unwrap();
            }
        });
        runtime.block_on(async {
            let _foreign = Foreign::begin();
            let mut ours = tokio::net::UnixStream::from_std(ours).unwrap();
            for round in 0..100 {
                ours.write_u8(round).await.unwrap();
                assert_eq!(ours.read_u8().await.unwrap(), round);
            }
        });
        echo.join().unwrap();
    }
}

#[test]
fn the_end_of_a_runtime_waits_for_the_kernel_before_it_frees() {
    for runtime in runtimes() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let is_freed = Rc::new(Cell::new(false));
        let has_ring = runtime.block_on(async {
            // One that nobody waits for any more, and one in a task that will not be run again.
            let mut forgotten = recv(&ours, &is_freed).submit();
            poll_fn(|cx| {
                assert!(std::pin::Pin::new(&mut forgotten).poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(forgotten);
            let (also_ours, is_freed_too) = (ours.try_clone().unwrap(), Rc::default());
            tokio::task::spawn_local(async move {
                recv(&also_ours, &is_freed_too).submit().await;
            });
            tokio::task::yield_now().await;
            Waits::current().is_some_and(|(_, ring)| ring.is_some())
        });
        // Without a ring, the kernel has no address to write to later.
        assert_eq!(is_freed.get(), !has_ring);
        drop(runtime);
        assert!(is_freed.get());
        // The bytes are still there for whoever reads next: no operation was left to take them.
        theirs.write_all(b"still").unwrap();
        let mut rest = [0; 5];
        (&ours).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"still");
    }
}
