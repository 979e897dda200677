//! How a body is delimited where it comes from, and where it goes.
//!
//! In go bytes as they were received; out comes how much of them belongs to the body, and their
//! outgoing form: as they came, as chunks, or without their chunks. No socket and no clock.

use std::ops::Range;

use crate::http::BodyLength;
use crate::http::chunk_rules::ChunkRules;
use crate::http::chunked::{ChunkError, ChunkScanner, HELD_BYTES_MAX, Kept, Progress};
use crate::http::repair::Repairs;
use crate::relay::error::RelayError;
use crate::ring::Run;

/// How the sender delimits the body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decoder {
    /// This many bytes are still to come.
    Sized(u64),
    Chunked(ChunkScanner),
    /// The body ends with the connection.
    UntilClose,
}

/// What became of a piece of input.
pub(crate) struct Decoded {
    /// Bytes of the input that belong to the body; what follows does not.
    pub used: usize,
    pub is_done: bool,
}

impl Decoder {
    /// Of a body with that framing, before its first byte.
    #[inline]
    pub(crate) fn of(body: BodyLength) -> Self {
        match body {
            BodyLength::Empty => Self::Sized(0),
            BodyLength::Exact(bytes) => Self::Sized(bytes),
            BodyLength::Chunked => Self::Chunked(ChunkScanner::new()),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    /// The same, with other rules for what its chunks hold beside the payload.
    #[inline]
    pub(crate) fn with(self, rules: ChunkRules) -> Self {
        match self {
            Self::Chunked(scanner) => Self::Chunked(scanner.with(rules)),
            other => other,
        }
    }

    pub(crate) fn advance(&mut self, input: &[u8]) -> Result<Decoded, ChunkError> {
        match self {
            Decoder::Sized(left) => {
                let used = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= used as u64;
                Ok(Decoded { used, is_done: *left == 0 })
            }
            Decoder::Chunked(scanner) => {
                let progress = scanner.advance(input)?;
                Ok(Decoded { used: progress.used, is_done: progress.is_done })
            }
            Decoder::UntilClose => Ok(Decoded { used: input.len(), is_done: false }),
        }
    }

    /// As [`Decoder::advance`], up to trailers that are to be sifted; hands what goes on to `each`,
    /// as ranges of the input. How much of it belongs to the body.
    pub(super) fn look(
        &mut self,
        input: &[u8],
        mut each: impl FnMut(Range<usize>),
    ) -> Result<usize, ChunkError> {
        let Decoder::Chunked(scanner) = self else {
            let used = self.advance(input)?.used;
            each(0..used);
            return Ok(used);
        };
        let progress = scanner.advance_kept(input, true, |kept| match kept {
            Kept::Input(range) => each(range),
            Kept::Held(..) => debug_assert!(false, "nothing is held back before trailers"),
        })?;
        Ok(progress.used)
    }

    /// Counts bytes unseen: not for chunks.
    pub(crate) fn skip(&mut self, count: usize) {
        if let Decoder::Sized(left) = self {
            *left = left.saturating_sub(count as u64);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        match self {
            Decoder::Sized(left) => *left == 0,
            Decoder::Chunked(scanner) => scanner.is_done(),
            Decoder::UntilClose => false,
        }
    }

    /// Whether some of what is taken may not go on.
    pub(super) fn is_sieve(&self) -> bool {
        matches!(self, Decoder::Chunked(scanner) if !scanner.passes_all())
    }

    /// Whether what goes on may be held back until more has come.
    pub(super) fn is_sifting(&self) -> bool {
        matches!(self, Decoder::Chunked(scanner) if scanner.is_sifting())
    }

    /// What was not as it should be, and taken all the same.
    pub(crate) fn repairs(&self) -> Repairs {
        match self {
            Decoder::Chunked(scanner) => scanner.repairs(),
            Decoder::Sized(_) | Decoder::UntilClose => Repairs::NONE,
        }
    }

    /// Payload seen so far, where the framing does not say it beforehand.
    pub(crate) fn payload_bytes(&self) -> u64 {
        match self {
            Decoder::Chunked(scanner) => scanner.payload_bytes(),
            Decoder::Sized(_) | Decoder::UntilClose => 0,
        }
    }
}

/// How the body is framed on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// The bytes as they came, framing included.
    AsIs,
    /// Each piece as a chunk (a body that ends with the connection, for an HTTP/1.1 client).
    Chunked,
    /// The payload of the chunks only (for an HTTP/1.0 client).
    Payload,
}

impl Encoding {
    /// Appends the outgoing form of `input`, which begins where `decoder` stands.
    pub(crate) fn append(
        self,
        decoder: &mut Decoder,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Decoded, ChunkError> {
        if let (Encoding::Payload, Decoder::Chunked(scanner)) = (self, &mut *decoder) {
            let progress =
                scanner.advance_with(input, |range| out.extend_from_slice(&input[range]))?;
            return Ok(Decoded { used: progress.used, is_done: progress.is_done });
        }
        if let (Encoding::AsIs, Decoder::Chunked(scanner)) = (self, &mut *decoder) {
            let Progress { used, is_done } = append_kept(scanner, input, out)?;
            return Ok(Decoded { used, is_done });
        }
        let Decoded { used, is_done } = decoder.advance(input)?;
        let body = &input[..used];
        if self == Encoding::Chunked && !body.is_empty() {
            out.extend_from_slice(&chunk_lead(body.len()));
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(body);
        }
        Ok(Decoded { used, is_done })
    }
}

/// Appends what of `input` goes on.
fn append_kept(
    scanner: &mut ChunkScanner,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<Progress, ChunkError> {
    scanner.advance_kept(input, false, |kept| match kept {
        Kept::Input(range) => out.extend_from_slice(&input[range]),
        Kept::Held(name, count) => out.extend_from_slice(&name[..count]),
    })
}

/// Bytes of a chunk's size line with its CRLF: eight digits, leading zeros allowed (RFC 9112 §7.1).
pub(super) const LEAD_BYTES: usize = 10;
pub(super) const TAIL_BYTES: usize = 2;

fn chunk_lead(size: usize) -> [u8; LEAD_BYTES] {
    let mut lead = *b"00000000\r\n";
    for (place, digit) in lead[..8].iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(size >> (4 * place)) & 15];
    }
    lead
}

pub(super) fn limit_to_body(decoder: &Decoder, room: usize) -> usize {
    match decoder {
        Decoder::Sized(left) => usize::try_from(*left).map_or(room, |left| left.min(room)),
        Decoder::Chunked(_) | Decoder::UntilClose => room,
    }
}

/// Room that is left before and behind what is received.
pub(super) fn margins(encoding: Encoding, decoder: &Decoder) -> (usize, usize) {
    match encoding {
        Encoding::Chunked => (LEAD_BYTES, TAIL_BYTES),
        Encoding::AsIs if decoder.is_sieve() => (HELD_BYTES_MAX, 0),
        Encoding::AsIs | Encoding::Payload => (0, 0),
    }
}

/// Moves what of the bytes at `input` goes on together; where that lies, and how much of the input
/// belonged to the body. There is room for what was held back before `input`.
fn sift(
    run: &mut Run,
    input: Range<usize>,
    scanner: &mut ChunkScanner,
) -> Result<(Range<usize>, usize), ChunkError> {
    let (mut first, mut others) = (None, Vec::new());
    let progress = scanner.advance_kept(&run[input.clone()], false, |kept| match kept {
        Kept::Input(range) if first.is_none() && others.is_empty() => first = Some(range),
        kept => others.push(kept),
    })?;
    let first = first.unwrap_or(0..0);
    let first = input.start + first.start..input.start + first.end;
    if others.is_empty() {
        return Ok((first, progress.used));
    }
    let mut end = first.len();
    run.copy_within(first, 0);
    for kept in others {
        match kept {
            Kept::Input(range) => {
                let length = range.len();
                run.copy_within(input.start + range.start..input.start + range.end, end);
                end += length;
            }
            Kept::Held(name, count) => {
                run[end..end + count].copy_from_slice(&name[..count]);
                end += count;
            }
        }
    }
    Ok((0..end, progress.used))
}

/// Turns what was received at `input` into its outgoing form, in place; where that lies, and how
/// much of the input belonged to the body.
pub(super) fn encode(
    run: &mut Run,
    input: Range<usize>,
    decoder: &mut Decoder,
    encoding: Encoding,
) -> Result<(Range<usize>, usize), RelayError> {
    match (encoding, decoder) {
        (Encoding::Payload, Decoder::Chunked(scanner)) => {
            let mut ranges = Vec::new();
            let progress = scanner
                .advance_with(&run[input.clone()], |range| ranges.push(range))
                .map_err(RelayError::Framing)?;
            let mut end = input.start;
            for range in ranges {
                let length = range.len();
                run.copy_within(input.start + range.start..input.start + range.end, end);
                end += length;
            }
            Ok((input.start..end, progress.used))
        }
        (Encoding::Chunked, decoder) => {
            let used = decoder.advance(&run[input.clone()]).map_err(RelayError::Framing)?.used;
            let end = input.start + used;
            run[input.start - LEAD_BYTES..input.start].copy_from_slice(&chunk_lead(used));
            run[end..end + TAIL_BYTES].copy_from_slice(b"\r\n");
            Ok((input.start - LEAD_BYTES..end + TAIL_BYTES, used))
        }
        (Encoding::AsIs, Decoder::Chunked(scanner)) if !scanner.passes_all() => {
            sift(run, input, scanner).map_err(RelayError::Framing)
        }
        (Encoding::AsIs | Encoding::Payload, decoder) => {
            let used = decoder.advance(&run[input.clone()]).map_err(RelayError::Framing)?.used;
            Ok((input.start..input.start + used, used))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_lead_is_the_size_in_eight_digits() {
        assert_eq!(&chunk_lead(0), b"00000000\r\n");
        assert_eq!(&chunk_lead(0x0012_ab3f), b"0012ab3f\r\n");
    }
}
