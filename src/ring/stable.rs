//! Heap memory whose address the kernel may hold while its owner is moved.
//!
//! In go a value or a count of bytes; out comes their owner, by raw pointer. A `Box` would promise
//! the compiler, at each move, that nobody else uses what it points to (the aliasing rules of
//! `Box`, std::boxed), and the kernel does. It never hands the address on by itself.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// One value.
pub(super) struct StableBox<T>(NonNull<T>);

impl<T> StableBox<T> {
    pub(super) fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }
}

impl<T> Deref for StableBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the pointer is of a leaked box, which this owns; the kernel writes to it only
        // while an operation has the owner, which then is not used.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for StableBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for StableBox<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is of a leaked box, and nobody has it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A number of bytes; none of them takes no memory.
pub(super) struct StableBytes(NonNull<[u8]>);

impl StableBytes {
    /// That many zeros.
    pub(super) fn zeroed(count: usize) -> Self {
        Self(NonNull::from(Box::leak(vec![0; count].into_boxed_slice())))
    }
}

impl Default for StableBytes {
    fn default() -> Self {
        Self(NonNull::from(Box::leak(Box::<[u8]>::default())))
    }
}

impl Deref for StableBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the pointer is of a leaked box, which this owns; the kernel writes to it only
        // while an operation has the owner, which then is not used.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for StableBytes {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for StableBytes {
    fn drop(&mut self) {
        // SAFETY: the pointer is of a leaked box, and nobody has it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_by_an_address_is_read_after_moves() {
        let mut bytes = StableBytes::zeroed(4);
        let address = bytes.as_mut_ptr();
        let moved = [bytes];
        // SAFETY: as the kernel does while nobody else uses the bytes.
        unsafe { address.add(1).write(7) };
        let [bytes] = moved;
        assert_eq!(&*bytes, [0, 7, 0, 0]);
        assert!(StableBytes::default().is_empty());
        let mut value = StableBox::new(5_u32);
        *value += 1;
        assert_eq!(*value, 6);
    }
}
