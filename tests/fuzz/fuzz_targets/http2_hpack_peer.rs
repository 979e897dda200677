//! Blocks of HPACK: fluke-hpack reads the same fields, or both refuse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::http2::invariants::hpack_blocks;

/// A longer name or value is in no table, and we do not keep it.
const STRING_MAX: usize = 4096 - 32 + 1;

fuzz_target!(|input: &[u8]| {
    let mut decoder = fluke_hpack::Decoder::new();
    decoder.set_max_allowed_table_size(4096);
    for block in hpack_blocks(input) {
        let theirs = decoder.decode(block.bytes);
        let shown = block.bytes.escape_ascii();
        match theirs {
            Ok(fields) => {
                if block.is_refused {
                    assert!(block.is_rule, "we refuse {shown}");
                    return;
                }
                let is_kept = |(name, value): &&(Vec<u8>, Vec<u8>)| {
                    name.len() <= STRING_MAX && value.len() <= STRING_MAX
                };
                let fields: Vec<_> = fields.iter().filter(is_kept).cloned().collect();
                assert_eq!(block.fields, fields, "{shown}");
            }
            Err(error) => {
                assert!(block.is_refused, "fluke-hpack refuses {shown}: {error:?}");
                return;
            }
        }
    }
});
