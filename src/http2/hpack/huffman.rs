//! The Huffman code of RFC 7541, appendix B.
//!
//! In goes a string as it was encoded; out come its bytes, appended to a buffer, never more than
//! the caller has room for. The code is canonical, so that the lengths of its 257 codes are all
//! that is written down: the tables are made of them while this is compiled. Nothing is encoded:
//! our own strings are plain.

/// Why a string could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HuffmanError {
    /// EOS stands in it, or its padding is too long or not of ones.
    Malformed,
    /// It has more bytes than were asked for. What was appended is gone again.
    TooLong,
}

/// Decodes `coded` behind what `out` holds; at most `bytes_max` bytes.
pub(crate) fn decode(
    mut coded: &[u8],
    out: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), HuffmanError> {
    let start = out.len();
    // No code is shorter than five bits.
    let bound = (coded.len() * 8 / 5).min(bytes_max);
    out.resize(start + bound, 0);
    let decoded = decode_to(&mut coded, &mut out[start..]);
    out.truncate(start + decoded.unwrap_or(0));
    decoded.map(|_| ())
}

/// How many bytes `coded` has decoded to.
fn decode_to(coded: &mut &[u8], out: &mut [u8]) -> Result<usize, HuffmanError> {
    // The bits that are not decoded, from the top; behind them zeros.
    let mut bits = 0_u64;
    let mut count = 0_u32;
    let mut at = 0;
    loop {
        if count < 32 {
            if let Some((four, rest)) = coded.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*four)) << (32 - count);
                count += 32;
                *coded = rest;
            } else if let Some((byte, rest)) = coded.split_first() {
                bits |= u64::from(*byte) << (56 - count);
                count += 8;
                *coded = rest;
                continue;
            }
        }
        let (symbol, length) = TABLES.first(bits);
        if length > count {
            let is_padding = count < 8 && bits | (u64::MAX >> count) == u64::MAX;
            return if is_padding { Ok(at) } else { Err(HuffmanError::Malformed) };
        }
        if symbol == EOS {
            return Err(HuffmanError::Malformed);
        }
        *out.get_mut(at).ok_or(HuffmanError::TooLong)? = symbol as u8;
        at += 1;
        bits <<= length;
        count -= length;
    }
}

/// The end of a string, which must not be spelled out.
const EOS: u16 = 256;

/// Bits that find most symbols at once: what stands in heads mostly has codes of five to eight.
const FAST_BITS: u32 = 8;

struct Tables {
    /// By the next eight bits: a symbol, and the length of its code above it; zero for codes that
    /// are longer.
    fast: [u16; 1 << FAST_BITS],
    /// The symbols, in the order of their codes.
    symbols: [u16; 257],
    /// By length: what the codes of that length and all shorter ones are below, from the top of 32
    /// bits, and what to add to a code of that length to find it in `symbols`.
    below: [u64; 31],
    first: [u32; 31],
}

impl Tables {
    /// The first symbol in `bits` and the length of its code.
    #[inline]
    fn first(&self, bits: u64) -> (u16, u32) {
        let fast = self.fast[(bits >> (64 - FAST_BITS)) as usize];
        if fast != 0 {
            return (fast & 0xff, u32::from(fast >> 8));
        }
        let top = bits >> 32;
        let mut length = FAST_BITS as usize + 1;
        while length < 30 && top >= self.below[length] {
            length += 1;
        }
        let code = (top >> (32 - length)) as u32;
        let index = code.wrapping_add(self.first[length]).min(256);
        (self.symbols[index as usize], length as u32)
    }
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables =
        Tables { fast: [0; 1 << FAST_BITS], symbols: [0; 257], below: [0; 31], first: [0; 31] };
    let (mut code, mut index, mut length) = (0_u64, 0, 1);
    while length <= 30 {
        code <<= 1;
        tables.first[length] = (index as u32).wrapping_sub(code as u32);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                tables.symbols[index] = symbol as u16;
                index += 1;
                if length <= FAST_BITS as usize {
                    let spare = FAST_BITS as usize - length;
                    let mut tail = 0;
                    while tail < 1 << spare {
                        tables.fast[(code as usize) << spare | tail] =
                            (length as u16) << 8 | symbol as u16;
                        tail += 1;
                    }
                }
                code += 1;
            }
            symbol += 1;
        }
        tables.below[length] = code << (32 - length);
        length += 1;
    }
    // A complete code has no room left.
    assert!(index == 257 && code == 1 << 30);
    tables
}

/// How many bits the code of each byte has, and that of EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Encodes, from the same lengths by another way.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        encode_by(&codes(), text)
    }

    fn codes() -> [u32; 257] {
        let mut order: Vec<usize> = (0..257).collect();
        order.sort_by_key(|symbol| (LENGTHS[*symbol], *symbol));
        let (mut codes, mut code, mut length) = ([0_u32; 257], 0_u32, 0);
        for symbol in order {
            code <<= LENGTHS[symbol] - length;
            length = LENGTHS[symbol];
            codes[symbol] = code;
            code += 1;
        }
        codes
    }

    fn encode_by(codes: &[u32; 257], text: &[u8]) -> Vec<u8> {
        let (mut bits, mut count, mut out) = (0_u64, 0, Vec::new());
        for byte in text {
            let length = u32::from(LENGTHS[usize::from(*byte)]);
            bits = bits << length | u64::from(codes[usize::from(*byte)]);
            count += length;
            while count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
            }
        }
        if count > 0 {
            out.push((bits << (8 - count)) as u8 | (0xff >> count));
        }
        out
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HuffmanError> {
        let mut out = b"before".to_vec();
        let decoded = decode(coded, &mut out, 4096);
        assert_eq!(&out[..6], b"before");
        decoded.map(|()| out[6..].to_vec())
    }

    #[test]
    fn the_examples_of_rfc_7541_mean_what_it_says() {
        let examples: [(&[u8], &str); 6] = [
            (b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\xae\xc3\x77\x1a\x4b", "private"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\
                \x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (b"", ""),
        ];
        for (coded, text) in examples {
            assert_eq!(decoded(coded).as_deref(), Ok(text.as_bytes()));
            assert_eq!(encode(text.as_bytes()), coded);
        }
    }

    #[test]
    fn every_byte_comes_back_beside_every_other() {
        let codes = codes();
        for first in 0..=255_u8 {
            for second in 0..=255_u8 {
                let text = [first, second, first];
                assert_eq!(decoded(&encode_by(&codes, &text)).as_deref(), Ok(&text[..]));
            }
        }
    }

    #[test]
    fn eos_long_padding_and_padding_of_zeros_are_refused() {
        for coded in [&b"\xff"[..], b"\xff\xff\xff\xff", b"\xff\xff\xff\xfc", b"\x07\xff", b"\x00"]
        {
            let whole = decoded(coded);
            // `0` is five zeros, and three zeros are no padding.
            assert_eq!(whole, Err(HuffmanError::Malformed), "{coded:x?}");
        }
        assert_eq!(decoded(b"\x07").as_deref(), Ok(&b"0"[..]));
    }

    #[test]
    fn a_string_that_is_longer_than_asked_for_leaves_nothing_behind() {
        let coded = encode(&[b'a'; 100]);
        let mut out = Vec::new();
        assert_eq!(decode(&coded, &mut out, 99), Err(HuffmanError::TooLong));
        assert!(out.is_empty());
        assert_eq!(decode(&coded, &mut out, 100), Ok(()));
        assert_eq!(out.len(), 100);
    }
}
