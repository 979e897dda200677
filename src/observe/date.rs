//! The `Date` field's value, rendered once a second.
//!
//! In goes the clock; out comes an IMF-fixdate (RFC 9110 §5.6.7), 29 bytes. No allocation.

use std::cell::Cell;
use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;

use crate::ring::clock;

/// Length of an IMF-fixdate in bytes.
pub(crate) const DATE_BYTES: usize = 29;

/// The value for the current second.
pub(crate) struct DateLine {
    second: Cell<u64>,
    text: Cell<[u8; DATE_BYTES]>,
}

impl Default for DateLine {
    fn default() -> Self {
        let now = clock::unix_seconds();
        Self { second: Cell::new(now), text: Cell::new(render(now)) }
    }
}

impl DateLine {
    pub(crate) fn now(&self) -> [u8; DATE_BYTES] {
        let now = clock::unix_seconds();
        if self.second.replace(now) != now {
            self.text.set(render(now));
        }
        self.text.get()
    }
}

/// The last second that four digits can tell the year of.
const SECOND_MAX: u64 = 253_402_300_799;

/// `second` counts from 1970-01-01T00:00:00Z. A clock beyond all years stays at their end.
fn render(second: u64) -> [u8; DATE_BYTES] {
    let date = HttpDate::from(UNIX_EPOCH + Duration::from_secs(second.min(SECOND_MAX)));
    let mut text = [b' '; DATE_BYTES];
    // It is as long as the place, always.
    let _ = write!(&mut text[..], "{date}");
    text
}

/// Year, month and day of a day number, by H. Hinnant's `civil_from_days`: years begin in March, so
/// that the leap day comes last.
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rendered_as_rfc_9110_shows_them() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&render(second)), Ok(text));
        }
    }
}
