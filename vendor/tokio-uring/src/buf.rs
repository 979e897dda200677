//! Buffers registered with the ring (io_uring_register(2), IORING_REGISTER_BUFFERS).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use crate::runtime::current;

/// A buffer that may be registered.
///
/// # Safety
///
/// `stable_mut_ptr` stays valid for `bytes_total` bytes, wherever the value is moved to, until it
/// is dropped.
pub unsafe trait IoBufMut: Unpin + 'static {
    fn stable_mut_ptr(&mut self) -> *mut u8;

    fn bytes_total(&self) -> usize;
}

/// The kernel takes as many buffers at once (UIO_MAXIOV).
const BUFFERS_MAX: usize = 1024;

/// A collection of buffers that are known to the ring by their index.
pub struct FixedBufRegistry<T: IoBufMut> {
    buffers: Rc<RefCell<Vec<T>>>,
}

impl<T: IoBufMut> FixedBufRegistry<T> {
    /// Takes 1,024 buffers at most; further ones are dropped.
    pub fn new(buffers: impl IntoIterator<Item = T>) -> Self {
        let buffers = buffers.into_iter().take(BUFFERS_MAX).collect();
        Self { buffers: Rc::new(RefCell::new(buffers)) }
    }

    /// Registers them with the current runtime's ring, which keeps them until its end.
    ///
    /// # Errors
    ///
    /// ENOMEM where RLIMIT_MEMLOCK is too low; EBUSY where others are registered.
    ///
    /// # Panics
    ///
    /// Outside a [`Runtime`](crate::Runtime).
    pub fn register(&self) -> io::Result<()> {
        let driver = current().expect("buffers are registered inside a runtime");
        let vectors = self.buffers.borrow_mut().iter_mut().map(vector).collect::<Vec<_>>();
        driver.register_buffers(&vectors, self.buffers.clone())
    }
}

fn vector<T: IoBufMut>(buffer: &mut T) -> libc::iovec {
    libc::iovec { iov_base: buffer.stable_mut_ptr().cast(), iov_len: buffer.bytes_total() }
}
