//! When a certificate is renewed, and when a failed order is made again.
//!
//! In go times and chance, from 0 to 1; out come times. Nothing here looks at a clock.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// After the first order that the authority has refused: no hour has more than five of them, which
/// is what Let's Encrypt bears.
const REFUSED: Duration = Duration::from_secs(150);

/// After the first try at a directory that does not answer.
const UNREACHABLE: Duration = Duration::from_secs(4);

/// Where it stays away, it is looked for once an hour.
const UNREACHABLE_MAX: Duration = Duration::from_secs(3600);

/// After the authority has said that it was asked too often.
const TOO_OFTEN: Duration = Duration::from_secs(3600);

/// Between two tries, whatever hurries.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Why there is no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody has answered, or not as a directory does.
    Unreachable,
    Refused,
    TooOften,
}

/// When one is renewed about which its authority has no wish: between 60 % and two thirds of its
/// life, so that not all of them are on one day, and none is late enough for an alert.
pub(super) fn renewal(began: SystemTime, expires: SystemTime, chance: f64) -> SystemTime {
    let life = expires.duration_since(began).unwrap_or_default();
    began + life.mul_f64(0.6 + chance / 15.0)
}

/// The same within the window that its authority suggests (RFC 9773 §4.2).
pub(super) fn within(start: SystemTime, end: SystemTime, chance: f64) -> SystemTime {
    start + end.duration_since(start).unwrap_or_default().mul_f64(chance)
}

/// How long to wait after the last of `failures` in a row; `left` is what remains of the
/// certificate in use, if there is one.
pub(super) fn pause(
    failure: Failure,
    failures: u32,
    left: Option<Duration>,
    chance: f64,
) -> Duration {
    let (first, most) = match failure {
        Failure::Unreachable => (UNREACHABLE, UNREACHABLE_MAX),
        Failure::Refused => (REFUSED, DAY),
        Failure::TooOften => (TOO_OFTEN, DAY),
    };
    // One that ends soon is worth more tries, down to what an authority may bear.
    let hurry = left.filter(|left| !left.is_zero()).map_or(DAY, |left| left / 20);
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let pause = doubled.min(most).min(hurry);
    let pause = if failure == Failure::TooOften { pause.max(TOO_OFTEN) } else { pause };
    pause.mul_f64(1.0 - chance / 5.0).max(PAUSE_MIN)
}

/// When an authority is asked again for its wish: as it says, within reason.
pub(super) fn next_wish(said: Option<Duration>) -> Duration {
    said.unwrap_or(Duration::from_secs(6 * 3600)).clamp(Duration::from_secs(60), DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn at(count: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + seconds(count)
    }

    #[test]
    fn a_certificate_is_renewed_before_two_thirds_of_its_life_are_over() {
        for (life, earliest, latest) in
            [(90 * 86_400, 54 * 86_400, 60 * 86_400), (6 * 86_400, 311_040, 345_600), (30, 18, 20)]
        {
            let renewal = |chance| renewal(at(1_000), at(1_000 + life), chance);
            assert_eq!(renewal(0.0), at(1_000 + earliest), "{life}");
            let last = renewal(0.999_999);
            let expected = at(1_000 + latest);
            assert!(last <= expected && last + seconds(1) >= expected, "{life}");
        }
        // A clock that was set, or a certificate that nobody would make.
        assert_eq!(renewal(at(9), at(3), 0.5), at(9));
    }

    #[test]
    fn a_window_is_used_from_its_start_to_its_end() {
        assert_eq!(within(at(100), at(200), 0.0), at(100));
        assert_eq!(within(at(100), at(200), 0.5), at(150));
        assert_eq!(within(at(200), at(100), 0.5), at(200));
    }

    #[test]
    fn pauses_double_up_to_a_day() {
        let list = |failure, counts: &[u32]| -> Vec<u64> {
            counts.iter().map(|count| pause(failure, *count, None, 0.0).as_secs()).collect()
        };
        assert_eq!(
            list(Failure::Refused, &[1, 2, 3, 4, 9, 10, 11, u32::MAX]),
            [150, 300, 600, 1_200, 38_400, 76_800, 86_400, 86_400]
        );
        assert_eq!(list(Failure::Unreachable, &[0, 1, 2, 3, 10, 99]), [4, 4, 8, 16, 2048, 3600]);
        assert_eq!(list(Failure::TooOften, &[1, 2, 9]), [3600, 7200, 86_400]);
    }

    #[test]
    fn no_more_than_five_orders_of_an_hour_are_refused() {
        let mut passed = Duration::ZERO;
        let mut orders = 1;
        while passed < seconds(3600) {
            passed += pause(Failure::Refused, orders, None, 1.0);
            orders += u32::from(passed < seconds(3600));
        }
        assert_eq!(orders, 5, "the next one begins when {passed:?} have passed");
    }

    #[test]
    fn what_is_left_of_a_certificate_hurries() {
        let left = |left| pause(Failure::Refused, 20, Some(seconds(left)), 0.0).as_secs();
        assert_eq!([left(90 * 86_400), left(86_400), left(60), left(1)], [86_400, 4_320, 3, 1]);
        // There is nothing to lose any more.
        assert_eq!(left(0), 86_400);
        let asked = pause(Failure::TooOften, 1, Some(seconds(60)), 0.0);
        assert_eq!(asked, seconds(3600));
    }

    #[test]
    fn pauses_differ_by_a_fifth() {
        assert_eq!(pause(Failure::Refused, 1, None, 1.0), seconds(120));
    }

    #[test]
    fn a_wish_is_asked_for_within_reason() {
        assert_eq!(next_wish(None), seconds(21_600));
        assert_eq!(next_wish(Some(Duration::ZERO)), seconds(60));
        assert_eq!(next_wish(Some(seconds(1_000_000))), DAY);
    }
}
