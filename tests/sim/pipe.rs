//! What the h2 crate takes for a connection: bytes to and fro, and who waits for them.
//!
//! In go bytes that a peer moves between here and the kernel; the crate is woken by them. It knows
//! nothing of simulated time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What goes to and fro between the crate and the kernel.
#[derive(Default)]
pub(crate) struct Pipe {
    pub came: VecDeque<u8>,
    pub goes: VecDeque<u8>,
    pub has_ended: bool,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

/// Bytes that wait to go, at most.
pub(crate) const GOES_MAX: usize = 32 * 1024;

pub(crate) struct End(pub Rc<RefCell<Pipe>>);

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.0.borrow_mut();
        let count = pipe.came.len().min(into.remaining());
        if count == 0 && !pipe.has_ended {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes: Vec<u8> = pipe.came.drain(..count).collect();
        into.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.borrow_mut();
        if pipe.has_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = GOES_MAX.saturating_sub(pipe.goes.len()).min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.goes.extend(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Set when the crate can go on.
pub(crate) struct Flag(pub AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pipe {
    /// Takes what has come; whoever waits for bytes or room goes on.
    pub(crate) fn take_in(&mut self, came: &[u8], has_ended: bool) {
        self.came.extend(came);
        self.has_ended |= has_ended;
        if !self.came.is_empty() || self.has_ended {
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        if self.has_ended || self.goes.len() < GOES_MAX {
            self.writer.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Has `send` take some of what goes, `most` at most; how much it was.
    pub(crate) fn let_out(&mut self, most: usize, send: impl FnOnce(&[u8]) -> usize) -> usize {
        let bytes: Vec<u8> = self.goes.iter().copied().take(most).collect();
        let count = send(&bytes);
        self.goes.drain(..count);
        if count > 0 {
            self.writer.take().into_iter().for_each(Waker::wake);
        }
        count
    }
}
