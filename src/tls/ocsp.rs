//! What an authority says of a certificate, to be shown beside it (RFC 6960).
//!
//! In goes the file of a response, in DER; out comes until when it may be shown, or one line that
//! says why it may not. Its signature is for clients to check, and so is who has signed.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;
/// `[0]`, which has something inside; `nextUpdate` and others.
const EXPLICIT_0: u8 = 0xa0;
/// `[0]`, without anything: the status of a certificate that is good.
const GOOD: u8 = 0x80;

/// A clock may be off by so much.
const LEEWAY: Duration = Duration::from_secs(300);

/// Where a response says no end of it.
const LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Until when `response` may be shown beside `certificate`.
pub(super) fn until(
    response: &[u8],
    certificate: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<SystemTime, String> {
    let singles = Reader(response).singles().map_err(str::to_owned)?;
    let serial = serial(certificate).ok_or("the certificate beside it has no serial number")?;
    let single = singles.of(&serial).ok_or("it is about another certificate")?;
    if single.status != GOOD {
        return Err("it does not say that the certificate is good".to_owned());
    }
    if single.from > now + LEEWAY {
        return Err("it is of a time to come: is the clock right?".to_owned());
    }
    let until = single.until.unwrap_or(single.from + LIFE);
    if until <= now {
        return Err("its time is over: a new one has to be fetched from the authority".to_owned());
    }
    Ok(until)
}

/// As it is spelled, without zeros in front.
fn serial(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(without_zeros(parsed.raw_serial()).to_vec())
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// DER, from the front.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

/// What is said of one certificate.
struct Single {
    status: u8,
    from: SystemTime,
    until: Option<SystemTime>,
}

const BROKEN: &str = "it is no OCSP response in DER";

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<(u8, Reader<'a>)> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let length = match first {
            short @ ..=0x7f => usize::from(*short),
            0x81..=0x84 => {
                let (long, behind) = rest.split_at_checked(usize::from(first - 0x80))?;
                rest = behind;
                long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, Reader(content)))
    }

    fn take(&mut self, wanted: u8) -> Option<Reader<'a>> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }

    /// The list of what is said of each certificate.
    fn singles(mut self) -> Result<Self, &'static str> {
        let mut whole = self.take(SEQUENCE).ok_or(BROKEN)?;
        let status = whole.take(ENUMERATED).ok_or(BROKEN)?;
        if status.0 != [0] {
            return Err("the authority did not answer: it says that it could not");
        }
        Self::basic(whole).ok_or(BROKEN)
    }

    fn basic(mut whole: Self) -> Option<Self> {
        let mut bytes = whole.take(EXPLICIT_0)?.take(SEQUENCE)?;
        bytes.take(OID)?;
        let mut data = bytes.take(OCTETS)?.take(SEQUENCE)?.take(SEQUENCE)?;
        // A version, who has answered, and when.
        let (mut tag, _) = data.next()?;
        if tag == EXPLICIT_0 {
            tag = data.next()?.0;
        }
        if !matches!(tag, 0xa1 | 0xa2) {
            return None;
        }
        data.take(TIME)?;
        data.take(SEQUENCE)
    }

    /// What is said of the certificate with this number.
    fn of(mut self, serial: &[u8]) -> Option<Single> {
        while let Some(mut single) = self.take(SEQUENCE) {
            let mut about = single.take(SEQUENCE)?;
            about.take(SEQUENCE)?;
            about.take(OCTETS)?;
            about.take(OCTETS)?;
            let is_it = without_zeros(about.take(INTEGER)?.0) == serial;
            let (status, _) = single.next()?;
            let from = single.take(TIME)?.time()?;
            let until = match single.take(EXPLICIT_0) {
                Some(mut time) => Some(time.take(TIME)?.time()?),
                None => None,
            };
            if is_it {
                return Some(Single { status, from, until });
            }
        }
        None
    }

    /// `20261130123456Z`.
    fn time(self) -> Option<SystemTime> {
        let text = std::str::from_utf8(self.0).ok()?.strip_suffix('Z')?;
        let is_whole = text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit());
        let part = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
        let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
        if !is_whole || !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        let seconds = part(8, 10)? * 3600 + part(10, 12)? * 60 + part(12, 14)?;
        let days = days_before(year, month) + day.checked_sub(1)?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + seconds))
    }
}

/// Days from 1970 to the first of this month.
fn days_before(year: u64, month: u64) -> u64 {
    // As if years began in March, so that a leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5;
    days - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag, 0x82];
        out.extend_from_slice(&(content.len() as u16).to_be_bytes());
        out.extend(content);
        out
    }

    fn response(serial: &[u8], status: u8, from: &str, until: Option<&str>) -> Vec<u8> {
        let about = der(
            SEQUENCE,
            &[
                &der(SEQUENCE, &[]),
                &der(OCTETS, &[b"name"]),
                &der(OCTETS, &[b"key"]),
                &der(INTEGER, &[serial]),
            ],
        );
        let until = until.map(|until| der(EXPLICIT_0, &[&der(TIME, &[until.as_bytes()])]));
        let single = der(
            SEQUENCE,
            &[
                &about,
                &der(status, &[]),
                &der(TIME, &[from.as_bytes()]),
                &until.unwrap_or_default(),
            ],
        );
        let data = der(
            SEQUENCE,
            &[
                &der(0xa2, &[&der(OCTETS, &[b"who"])]),
                &der(TIME, &[from.as_bytes()]),
                &der(SEQUENCE, &[&single]),
            ],
        );
        let basic = der(SEQUENCE, &[&data]);
        let bytes = der(SEQUENCE, &[&der(OID, &[b"\x2b"]), &der(OCTETS, &[&basic])]);
        der(SEQUENCE, &[&der(ENUMERATED, &[&[0]]), &der(EXPLICIT_0, &[&bytes])])
    }

    fn certificate() -> CertificateDer<'static> {
        let mut wanted = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        wanted.serial_number = Some(vec![7, 8, 9].into());
        let key = rcgen::KeyPair::generate().unwrap();
        wanted.self_signed(&key).unwrap().der().clone()
    }

    fn at(days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)
    }

    #[test]
    fn a_response_is_shown_for_as_long_as_it_says() {
        let certificate = certificate();
        let (from, to) = ("20261130000000Z", "20261207000000Z");
        // 2026-11-30 is day 20787.
        let now = at(20_787) + Duration::from_secs(60);
        let good = response(&[7, 8, 9], GOOD, from, Some(to));
        assert_eq!(until(&good, &certificate, now), Ok(at(20_794)));
        let endless = response(&[0, 7, 8, 9], GOOD, from, None);
        assert_eq!(until(&endless, &certificate, now), Ok(at(20_787) + LIFE));
        for (response, now, expected) in [
            (&good, at(20_794), "its time is over"),
            (&good, at(20_786), "of a time to come"),
            (&response(&[7, 8], GOOD, from, Some(to)), now, "about another certificate"),
            (&response(&[7, 8, 9], 0xa1, from, Some(to)), now, "does not say that"),
            (&der(SEQUENCE, &[&der(ENUMERATED, &[&[6]])]), now, "did not answer"),
        ] {
            let error = until(response, &certificate, now).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn no_cut_and_no_change_of_a_response_does_harm() {
        let certificate = certificate();
        let good = response(&[7, 8, 9], GOOD, "20261130000000Z", Some("20261207000000Z"));
        for cut in 0..good.len() {
            assert!(until(&good[..cut], &certificate, at(20_788)).is_err(), "{cut}");
        }
        for place in 0..good.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut bad = good.clone();
                bad[place] = byte;
                let _ = until(&bad, &certificate, at(20_788));
            }
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (year, month, days) in [(1970, 1, 0), (2000, 3, 11_017), (2026, 11, 20_758)] {
            assert_eq!(days_before(year, month), days, "{year}-{month}");
        }
    }
}
