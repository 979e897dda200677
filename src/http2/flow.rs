//! Windows: how much may be sent, and how much may come.
//!
//! In go frames' lengths, increments and settings; out comes whether they fit, and when a window is
//! to be opened again. All sums are done in 64 bits, where nothing that a peer says can overflow;
//! a window may be below zero, when its owner has made it smaller (RFC 9113 §6.9.2).

use super::frames::{WINDOW_DEFAULT, WINDOW_MAX};

/// What is left, and what is owed, of a window that many share when it is opened.
const SHARED_LEAST: u32 = 32 * 1024;

/// A window that would be larger than 2³¹ − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowOverflow;

/// What the peer lets us send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendWindow(i64);

impl Default for SendWindow {
    fn default() -> Self {
        Self(WINDOW_DEFAULT)
    }
}

impl SendWindow {
    pub(crate) fn new(size: i64) -> Self {
        Self(size)
    }

    /// Bytes that may be sent now.
    #[inline]
    pub(crate) fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// So many bytes are sent; no more than there was room for.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.room());
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// The peer opens it, or changes the size from which it was counted.
    pub(crate) fn shift(&mut self, by: i64) -> Result<(), WindowOverflow> {
        let shifted = self.0 + by;
        if shifted > WINDOW_MAX {
            return Err(WindowOverflow);
        }
        self.0 = shifted;
        Ok(())
    }
}

/// What we let the peer send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReceiveWindow {
    /// What may still come.
    left: i64,
    /// What may be on its way or unused at once, as far as the peer will be told.
    size: u32,
    /// What was used and is not yet given back.
    owed: u32,
}

impl ReceiveWindow {
    /// A window of which the peer knows that it has `left` bytes, and which is to have `size`.
    pub(crate) fn new(left: i64, size: u32) -> Self {
        Self { left, size, owed: 0 }
    }

    /// A frame of so many bytes has begun. False: it does not fit.
    #[inline]
    pub(crate) fn fill(&mut self, bytes: u32) -> bool {
        let fits = i64::from(bytes) <= self.left;
        if fits {
            self.left -= i64::from(bytes);
        }
        fits
    }

    /// So many bytes are used up. By how much the window is to be opened now, which is not before
    /// half of it would be closed.
    #[inline]
    pub(crate) fn give_back(&mut self, bytes: u32) -> Option<u32> {
        self.owed += bytes;
        (self.owed > 0 && self.owed >= self.size / 2).then(|| self.open())
    }

    /// The same for a window that many share: it is opened, too, where little of it is left, so
    /// that what some leave unused does not have the others wait for half of all.
    #[inline]
    pub(crate) fn give_back_shared(&mut self, bytes: u32) -> Option<u32> {
        let opened = self.give_back(bytes);
        let is_short = self.left < SHARED_LEAST.into() && self.owed >= SHARED_LEAST;
        opened.or_else(|| is_short.then(|| self.open()))
    }

    /// What may be on its way at once, as the peer knows.
    pub(crate) fn size(self) -> u32 {
        self.size
    }

    /// What may still come.
    pub(crate) fn left(self) -> u32 {
        u32::try_from(self.left).unwrap_or(0)
    }

    /// What has come and is not used up.
    pub(crate) fn unused(self) -> u32 {
        self.size.saturating_sub(self.left()).saturating_sub(self.owed)
    }

    /// Whether all that was used has been given back.
    pub(crate) fn is_whole(self) -> bool {
        self.owed == 0
    }

    /// Has the window be of so many bytes, if that is more than before; by how much it is to be
    /// opened now.
    pub(crate) fn widen(&mut self, size: u32) -> Option<u32> {
        let size = size.min(WINDOW_MAX as u32);
        let more = size.checked_sub(self.size).filter(|more| *more > 0)?;
        self.size = size;
        self.owed += more;
        Some(self.open())
    }

    /// Has the window be of so many bytes, or of as few more as may be: what the peer was told
    /// stays said. By how much it is smaller.
    pub(crate) fn narrow(&mut self, size: u32) -> u32 {
        let less = self.owed.min(self.size.saturating_sub(size));
        self.size -= less;
        self.owed -= less;
        less
    }

    /// The peer counts from another size since it has acknowledged our settings.
    pub(crate) fn shift(&mut self, by: i64) {
        self.left += by;
    }

    fn open(&mut self) -> u32 {
        let by = std::mem::take(&mut self.owed);
        self.left += i64::from(by);
        by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_narrows_by_what_the_peer_was_not_told_again() {
        let mut window = ReceiveWindow::new(100, 100);
        assert_eq!(window.widen(400), Some(300));
        assert_eq!(window.narrow(100), 0);
        assert!(window.fill(150));
        assert_eq!(window.give_back(150), None);
        assert_eq!((window.narrow(100), window.size(), window.left()), (150, 250, 250));
        assert!(window.fill(120));
        assert_eq!((window.give_back(100), window.unused()), (None, 20));
        assert_eq!((window.narrow(200), window.size()), (50, 200));
        // What is left of the debt is given back in its turn.
        assert_eq!((window.give_back(20), window.give_back(0)), (None, None));
        assert!(window.fill(130));
        assert_eq!((window.give_back(130), window.left()), (Some(200), 200));
    }

    #[test]
    fn a_window_may_go_below_zero_and_never_above_its_maximum() {
        let mut window = SendWindow::new(100);
        window.take(100);
        assert_eq!(window.shift(-WINDOW_MAX), Ok(()));
        assert_eq!(window.room(), 0);
        assert_eq!(window.shift(WINDOW_MAX), Ok(()));
        assert_eq!(window.room(), 0);
        assert_eq!(window.shift(WINDOW_MAX), Ok(()));
        assert_eq!(window.shift(1), Err(WindowOverflow));
        assert_eq!(window.room(), WINDOW_MAX as usize);
    }

    #[test]
    fn what_comes_fits_or_is_refused_to_the_byte() {
        let mut window = ReceiveWindow::new(10, 10);
        assert!(!window.fill(11));
        assert!(window.fill(10));
        assert!(window.fill(0));
        assert!(!window.fill(1));
        assert_eq!(window.give_back(4), None);
        assert_eq!(window.give_back(1), Some(5));
        assert!(!window.fill(6));
        assert!(window.fill(5));
    }

    #[test]
    fn a_window_that_many_share_opens_before_half_of_it_is_owed() {
        let mut window = ReceiveWindow::new(1 << 20, 1 << 20);
        assert!(window.fill(1 << 20));
        assert_eq!(window.give_back_shared(SHARED_LEAST - 1), None);
        assert_eq!(window.give_back_shared(1), Some(SHARED_LEAST));
        assert_eq!((window.left(), window.unused()), (SHARED_LEAST, (1 << 20) - SHARED_LEAST));
        // As long as enough is left, half of it is waited for, as everywhere.
        assert_eq!(window.give_back_shared(SHARED_LEAST), None);
    }

    #[test]
    fn no_byte_of_a_window_is_lost_however_it_is_given_back() {
        let mut window = ReceiveWindow::new(1000, 1000);
        let (mut peer, mut used) = (1000_u32, 0);
        for step in 1..5000_u32 {
            let bytes = (step * 37 % 400).min(peer);
            assert!(window.fill(bytes));
            peer -= bytes;
            used += bytes;
            let back = used.min(step * 53 % 300);
            used -= back;
            peer += window.give_back(back).unwrap_or(0);
            assert!(peer + used <= 1000 && peer + used + 500 > 1000);
        }
    }

    #[test]
    fn a_wider_window_is_opened_at_once_by_the_difference() {
        let mut window = ReceiveWindow::new(65_535, 65_536);
        assert_eq!(window.widen(65_536), None);
        assert_eq!(window.widen(65_537), Some(1));
        assert_eq!(window.widen(1), None);
        assert_eq!(window.widen(u32::MAX), Some(WINDOW_MAX as u32 - 65_537));
    }

    #[test]
    fn a_window_of_nothing_is_never_opened_by_nothing() {
        let mut window = ReceiveWindow::new(0, 0);
        assert_eq!(window.give_back(0), None);
    }
}
