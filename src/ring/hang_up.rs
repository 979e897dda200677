//! A wait on one socket that the other side of the exchange may make pointless.
//!
//! In go a wait that is pending on one socket and the socket of the side that wants its result; out
//! comes the result, or nothing where that one has hung up. The wait is ended and awaited either
//! way, so that its buffer comes home. Nothing is sent or received here.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::deadlines::Deadlines;
use super::net::Socket;
use super::waits::{Events, poll_now};
use crate::config::HalfClose;

/// Drives two waits of one connection at once until `first` is over; `second` is given back where
/// it is not over yet, so that it can be ended from outside and then awaited.
async fn first_of<A, B>(first: &mut A, second: &mut B) -> Either<A::Output, B::Output>
where
    A: Future + Unpin,
    B: Future + Unpin,
{
    poll_fn(|cx| {
        if let Poll::Ready(output) = Pin::new(&mut *first).poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        Pin::new(&mut *second).poll(cx).map(Either::Second)
    })
    .await
}

/// Awaits `wait`, which is pending on `busy`, unless `other` hangs up first: then `wait` is ended
/// and awaited, so that its buffer comes home, and nothing comes out.
pub(crate) async fn unless_hung_up<F: Future>(
    wait: F,
    busy: &Socket,
    other: &Socket,
    watch: (HalfClose, &Deadlines),
) -> Option<F::Output> {
    let mut wait = std::pin::pin!(wait);
    let output = watched(wait.as_mut(), other, watch).await;
    if output.is_none() {
        busy.interrupt(watch.1);
        wait.await;
    }
    output
}

/// The same for a wait that may be dropped.
pub(crate) async fn dropped_if_hung_up<F: Future>(
    wait: F,
    other: &Socket,
    watch: (HalfClose, &Deadlines),
) -> Option<F::Output> {
    watched(std::pin::pin!(wait), other, watch).await
}

/// Awaits `wait` unless `other` hangs up first: then it is as it was.
async fn watched<F: Future>(
    mut wait: Pin<&mut F>,
    other: &Socket,
    (half_close, deadlines): (HalfClose, &Deadlines),
) -> Option<F::Output> {
    let mut hang_up = other.hang_up(deadlines);
    match first_of(&mut wait, &mut hang_up).await {
        Either::First(output) => {
            if poll_now(&mut hang_up).is_none() {
                // An operation in flight keeps the descriptor open.
                hang_up.cancel();
            }
            Some(output)
        }
        Either::Second(Ok(events)) if !has_gone(events, half_close) => Some(wait.await),
        Either::Second(_) => None,
    }
}

/// Whether `events` say that nobody wants the result. A client that only says that it has no more
/// to send may still want its answer.
fn has_gone(events: Events, half_close: HalfClose) -> bool {
    events.is_broken() || half_close == HalfClose::Close
}

/// Which of two was over.
enum Either<A, B> {
    First(A),
    Second(B),
}
