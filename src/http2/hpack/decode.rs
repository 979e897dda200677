//! Decodes blocks of fields.
//!
//! In goes a block and the text that its lines are appended to; out come fields to a [`Sink`]. No
//! string is longer than the caller allows, and a longer one stands in no table: it would not fit.
//! An error is for ever, because the table may be out of step.

use super::huffman::{self, HuffmanError};
use super::table::{ENTRY_OVERHEAD, TABLE_BYTES_MAX, Table};
use super::{HpackError, Line, Sink};
use crate::http2::names::{Kind, STATIC, STATIC_COUNT};

/// One direction's decoder.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// What the peer knows that its table may have.
    size_limit: u16,
    /// The peer's table was larger than it may be now: its next block says how large it is.
    is_update_due: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::default(), size_limit: TABLE_BYTES_MAX as u16, is_update_due: false }
    }
}

impl Decoder {
    /// Bytes that its table has allocated.
    pub(crate) fn held_bytes(&self) -> usize {
        self.table.held_bytes()
    }

    /// The peer has acknowledged that its table has so many bytes at most.
    pub(crate) fn limit_table(&mut self, bytes: usize) {
        self.size_limit = bytes.min(TABLE_BYTES_MAX) as u16;
        self.is_update_due = self.table.size_max() > usize::from(self.size_limit);
    }

    /// Decodes a block. `string_max` is the longest name or value that is of interest.
    pub(crate) fn decode<S: Sink>(
        &mut self,
        mut block: &[u8],
        text: &mut Vec<u8>,
        string_max: usize,
        sink: &mut S,
    ) -> Result<(), HpackError> {
        let string_max = string_max.max(TABLE_BYTES_MAX - ENTRY_OVERHEAD + 1);
        self.resize(&mut block)?;
        while let Some(&first) = block.first() {
            match first {
                0x80.. => self.indexed(integer(&mut block, 7)?, text, sink)?,
                0x40.. => self.literal(&mut block, (6, true), text, string_max, sink)?,
                0x20.. => return Err(HpackError::TableUpdate),
                _ => self.literal(&mut block, (4, false), text, string_max, sink)?,
            }
        }
        Ok(())
    }

    /// The size updates that a block begins with.
    fn resize(&mut self, block: &mut &[u8]) -> Result<(), HpackError> {
        while block.first().is_some_and(|first| first & 0xe0 == 0x20) {
            let size = integer(block, 5)?;
            if size > usize::from(self.size_limit) {
                return Err(HpackError::TableSize);
            }
            self.table.resize(size);
            self.is_update_due = false;
        }
        if self.is_update_due && !block.is_empty() {
            return Err(HpackError::TableUpdate);
        }
        Ok(())
    }

    #[inline]
    fn indexed<S: Sink>(
        &self,
        index: usize,
        text: &mut Vec<u8>,
        sink: &mut S,
    ) -> Result<(), HpackError> {
        let at = text.len();
        let line = if let Some(back) = index.checked_sub(STATIC_COUNT + 1) {
            let entry = self.table.get(back).ok_or(HpackError::Index)?;
            self.table.copy_line(entry, text);
            Line { at, name: entry.name.into(), kind: entry.kind, is_valid: entry.is_valid }
        } else {
            let entry = STATIC.get(index.wrapping_sub(1)).ok_or(HpackError::Index)?;
            text.extend_from_slice(entry.line);
            Line { at, name: entry.name.into(), kind: entry.kind, is_valid: entry.is_valid }
        };
        sink.field(text, line);
        Ok(())
    }

    /// A field that is spelled out, or at least its value. `form` says how many bits its name's
    /// index has, and whether it is added to the table.
    fn literal<S: Sink>(
        &mut self,
        block: &mut &[u8],
        form: (u8, bool),
        text: &mut Vec<u8>,
        string_max: usize,
        sink: &mut S,
    ) -> Result<(), HpackError> {
        let (bits, is_added) = form;
        let at = text.len();
        let index = integer(block, bits)?;
        let (name, kind) = self.name(index, block, text, string_max)?;
        let value = text.len();
        let is_whole = string(block, text, string_max)? && kind.is_some();
        let Some(kind) = kind.filter(|_| is_whole) else {
            text.truncate(at);
            if is_added {
                self.table.clear();
            }
            sink.too_long();
            return Ok(());
        };
        let is_valid = S::judge(kind, &text[value..]);
        text.extend_from_slice(b"\r\n");
        if is_added {
            self.table.add(&text[at..], name, kind, is_valid);
        }
        sink.field(text, Line { at, name, kind, is_valid });
        Ok(())
    }

    /// Appends `name: `; its length and its kind, none where it is too long.
    fn name(
        &self,
        index: usize,
        block: &mut &[u8],
        text: &mut Vec<u8>,
        string_max: usize,
    ) -> Result<(usize, Option<Kind>), HpackError> {
        if index == 0 {
            let at = text.len();
            let is_whole = string(block, text, string_max)?;
            let kind = is_whole.then(|| Kind::of(&text[at..]));
            let name = text.len() - at;
            text.extend_from_slice(b": ");
            return Ok((name, kind));
        }
        if let Some(back) = index.checked_sub(STATIC_COUNT + 1) {
            let entry = self.table.get(back).ok_or(HpackError::Index)?;
            self.table.copy_name(entry, text);
            return Ok((entry.name.into(), Some(entry.kind)));
        }
        let entry = &STATIC[index - 1];
        let name = usize::from(entry.name);
        text.extend_from_slice(&entry.line[..name + 2]);
        Ok((name, Some(entry.kind)))
    }
}

/// Appends a string. False: it is too long, and what is appended is nothing.
#[inline]
fn string(block: &mut &[u8], text: &mut Vec<u8>, string_max: usize) -> Result<bool, HpackError> {
    let is_coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let bytes = integer(block, 7)?;
    let (string, rest) = block.split_at_checked(bytes).ok_or(HpackError::Truncated)?;
    *block = rest;
    if is_coded {
        return match huffman::decode(string, text, string_max) {
            Ok(()) => Ok(true),
            Err(HuffmanError::TooLong) => Ok(false),
            Err(HuffmanError::Malformed) => Err(HpackError::Huffman),
        };
    }
    let is_whole = string.len() <= string_max;
    if is_whole {
        text.extend_from_slice(string);
    }
    Ok(is_whole)
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1). None that is meant is as long as this
/// allows: four bytes behind the prefix.
#[inline]
fn integer(block: &mut &[u8], bits: u8) -> Result<usize, HpackError> {
    let (first, rest) = block.split_first().ok_or(HpackError::Truncated)?;
    *block = rest;
    let mask = (1_u8 << bits) - 1;
    let prefix = first & mask;
    if prefix < mask {
        return Ok(prefix.into());
    }
    let mut value = usize::from(prefix);
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = block.split_first().ok_or(HpackError::Truncated)?;
        *block = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::Integer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::hpack::huffman::tests::encode as huffman_encode;

    #[derive(Default)]
    struct Fields {
        lines: Vec<String>,
        long: usize,
    }

    impl Sink for Fields {
        fn judge(_: Kind, value: &[u8]) -> bool {
            value != b"bad"
        }

        fn field(&mut self, text: &mut Vec<u8>, line: Line) {
            let found = String::from_utf8(text[line.at..].to_vec()).expect("text");
            assert_eq!(&found[line.name..line.name + 2], ": ");
            let mark = if line.is_valid { "" } else { "!" };
            self.lines.push(format!("{mark}{}", found.strip_suffix("\r\n").expect("a line")));
            text.truncate(line.at);
        }

        fn too_long(&mut self) {
            self.long += 1;
        }
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, HpackError> {
        let (mut fields, mut text) = (Fields::default(), b"before".to_vec());
        let result = decoder.decode(block, &mut text, 5000, &mut fields);
        assert!(result.is_err() || text == b"before");
        result.map(|()| fields.lines)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).expect("hex")).collect()
    }

    fn table(decoder: &Decoder) -> Vec<String> {
        let mut lines = Vec::new();
        for back in 0.. {
            let Some(entry) = decoder.table.get(back) else {
                break;
            };
            let mut text = Vec::new();
            decoder.table.copy_line(entry, &mut text);
            lines.push(String::from_utf8(text).expect("text").trim_end().to_owned());
        }
        lines
    }

    #[test]
    fn single_representations_of_appendix_c_2_are_decoded() {
        let cases = [
            (
                "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
                "custom-key: custom-header",
                1,
            ),
            ("040c2f73616d706c652f70617468", ":path: /sample/path", 0),
            ("100870617373776f726406736563726574", "password: secret", 0),
            ("82", ":method: GET", 0),
        ];
        for (block, line, kept) in cases {
            let mut decoder = Decoder::default();
            assert_eq!(decode(&mut decoder, &hex(block)), Ok(vec![line.to_owned()]));
            assert_eq!(table(&decoder).len(), kept);
        }
    }

    #[test]
    fn requests_of_appendices_c_3_and_c_4_are_decoded() {
        let plain = [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ];
        let coded = [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::default();
            let all = blocks.map(|block| decode(&mut decoder, &hex(block)).expect("fields"));
            let text = all.map(|lines| lines.join("|"));
            let authority = ":authority: www.example.com";
            assert_eq!(text[0], format!(":method: GET|:scheme: http|:path: /|{authority}"));
            let second = format!(":method: GET|:scheme: http|:path: /|{authority}|");
            assert_eq!(text[1], second + "cache-control: no-cache");
            let third = format!(":method: GET|:scheme: https|:path: /index.html|{authority}|");
            assert_eq!(text[2], third + "custom-key: custom-value");
            let expected = ["custom-key: custom-value", "cache-control: no-cache", authority];
            assert_eq!(table(&decoder), expected);
        }
    }

    #[test]
    fn responses_of_appendices_c_5_and_c_6_evict_as_it_says() {
        let plain = [
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a32312047\
             4d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738\
             666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d33\
             3630303b2076657273696f6e3d31",
        ];
        let coded = [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad1718\
             63c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7\
             b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::default();
            decoder.table.resize(256);
            let all = blocks.map(|block| decode(&mut decoder, &hex(block)).expect("fields"));
            let date = |second: u8| format!("date: Mon, 21 Oct 2013 20:13:{second} GMT");
            let location = "location: https://www.example.com";
            let first = [":status: 302", "cache-control: private", &date(21), location].join("|");
            assert_eq!(all[0].join("|"), first);
            assert_eq!(all[1].join("|"), first.replace("302", "307"));
            let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
            let coding = "content-encoding: gzip";
            let third =
                [":status: 200", "cache-control: private", &date(22), location, coding, cookie];
            assert_eq!(all[2].join("|"), third.join("|"));
            assert_eq!(table(&decoder), [cookie, coding, &date(22)]);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let cases: [(&[u8], HpackError); 14] = [
            (b"\x80", HpackError::Index),
            (b"\xbe", HpackError::Index),
            (b"\x7e\x01a", HpackError::Index),
            (b"\xff\x80\x80\x80\x80\x00", HpackError::Integer),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", HpackError::Integer),
            (b"\xff", HpackError::Truncated),
            (b"\x3f", HpackError::Truncated),
            (b"\x40", HpackError::Truncated),
            (b"\x40\x02a", HpackError::Truncated),
            (b"\x40\x01a", HpackError::Truncated),
            (b"\x40\x01a\x83\xff\xff\xff", HpackError::Huffman),
            (b"\x3f\xe2\x1f", HpackError::TableSize),
            (b"\x82\x20", HpackError::TableUpdate),
            (b"\x00\x7f\xff\xff\xff\x7f", HpackError::Truncated),
        ];
        for (block, error) in cases {
            let found = decode(&mut Decoder::default(), block);
            assert_eq!(found, Err(error), "{}", block.escape_ascii());
        }
        assert_eq!(
            decode(&mut Decoder::default(), b"\x20\x3f\xe1\x1f\x82").map(|l| l.len()),
            Ok(1)
        );
    }

    #[test]
    fn a_smaller_table_must_be_confirmed_by_the_next_block() {
        let mut decoder = Decoder::default();
        decoder.limit_table(100);
        assert_eq!(decode(&mut decoder, b"\x82"), Err(HpackError::TableUpdate));
        let mut decoder = Decoder::default();
        decoder.limit_table(100);
        assert!(decode(&mut decoder, b"").is_ok());
        assert!(decode(&mut decoder, b"\x3f\x45\x82").is_ok());
        assert!(decode(&mut decoder, b"\x82").is_ok());
        assert_eq!(decode(&mut decoder, b"\x3f\x46\x82"), Err(HpackError::TableSize));
    }

    #[test]
    fn what_was_found_of_a_field_is_known_when_it_comes_again() {
        let mut decoder = Decoder::default();
        let lines = decode(&mut decoder, b"\x40\x01a\x03bad\xbe\x7e\x02ok\xbe").expect("fields");
        assert_eq!(lines, ["!a: bad", "!a: bad", "a: ok", "a: ok"]);
    }

    #[test]
    fn a_string_that_is_too_long_is_counted_and_empties_the_table() {
        for huffman in [false, true] {
            let mut decoder = Decoder::default();
            assert!(decode(&mut decoder, b"\x40\x01a\x01b").is_ok());
            let long = vec![b'a'; 6000];
            let coded = if huffman { huffman_encode(&long) } else { long };
            let mut block = vec![0x40, 1, b'a', if huffman { 0xff } else { 0x7f }];
            let rest = coded.len() - 127;
            block.extend([rest as u8 | 0x80, (rest >> 7) as u8]);
            block.extend(coded);
            block.push(0x82);
            let (mut fields, mut text) = (Fields::default(), Vec::new());
            assert_eq!(decoder.decode(&block, &mut text, 5000, &mut fields), Ok(()));
            assert_eq!((fields.long, fields.lines), (1, vec![":method: GET".to_owned()]));
            assert!(table(&decoder).is_empty() && text.is_empty());
        }
    }
}
