//! Accepts client connections: accept, make room, place.
//!
//! In goes a listening socket that all workers share; out go connections, each to the worker with
//! the fewest. The task lives until the listening socket is shut down or the worker drains: a
//! dropped accept would take a connection with it.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use crate::observe::log_limit;
use crate::ring::{Acceptor, WaitError};
use crate::worker::shared::Accepted;
use crate::worker::{Worker, room};

/// Connections taken in one go after an accept has completed.
const BURST: usize = 64;
/// Rest after EMFILE: descriptors come back as connections end.
const FILES_BACK_OFF: Duration = Duration::from_millis(100);

/// Begins to accept from `listener`, whose number is `index`; the task is for the worker's thread.
/// It can be stopped from here on, whether or not it has had its first turn.
pub(crate) fn start(
    worker: Rc<Worker>,
    listener: OwnedFd,
    index: u16,
) -> impl Future<Output = ()> + 'static {
    let mut acceptor = Acceptor::new(listener);
    worker.stoppers.borrow_mut().push((index, acceptor.stopper()));
    async move {
        accept_all(&worker, &mut acceptor, index).await;
        worker.stoppers.borrow_mut().retain(|(_, stopper)| !stopper.is_for(&acceptor));
    }
}

async fn accept_all(worker: &Worker, acceptor: &mut Acceptor, index: u16) {
    loop {
        worker.accepting.set(worker.accepting.get() + 1);
        let accepted = acceptor.accept().await;
        let is_over = matches!(accepted, Err(WaitError::Interrupted));
        match accepted {
            Ok((fd, peer)) => {
                worker.metrics.accepted.add(1);
                // Where there is no room, somebody gives way: whoever is idle must not keep those
                // out who have a request.
                let Some(permit) = room::claim(worker).await else { return };
                let accepted = Accepted { fd, peer, permit, listener: index };
                worker.shared.place(accepted, worker.index);
                if !acceptor.is_stopped() {
                    take_burst(worker, acceptor, index);
                }
            }
            // For one connection the kernel wakes one of those that wait. If that was this one,
            // which is stopped just then, no other worker has heard of it.
            Err(WaitError::Interrupted) => take_burst(worker, acceptor, index),
            Err(WaitError::Expired) => {}
            Err(WaitError::Failed(error)) => {
                worker.metrics.accept_errors.add(1);
                if is_out_of_resources(&error) {
                    log_limit::too_many_files("accept a connection", &error);
                    tokio::time::sleep(FILES_BACK_OFF).await;
                } else {
                    // The client gave up between its SYN and our accept: accept(2).
                    tracing::debug!("a connection was lost before it was accepted: {error}");
                }
            }
        }
        worker.accepting.set(worker.accepting.get() - 1);
        if is_over || acceptor.is_stopped() {
            return;
        }
    }
}

fn is_out_of_resources(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A burst of connections is not worth a turn of the loop each.
fn take_burst(worker: &Worker, acceptor: &Acceptor, index: u16) {
    for _ in 0..BURST {
        let Ok(permit) = worker.shared.clients.clone().try_acquire_owned() else { return };
        match acceptor.try_accept() {
            Ok(Some((fd, peer))) => {
                worker.metrics.accepted.add(1);
                let accepted = Accepted { fd, peer, permit, listener: index };
                worker.shared.place(accepted, worker.index);
            }
            // An error is met again by the next accept.
            Ok(None) | Err(_) => return,
        }
    }
}
