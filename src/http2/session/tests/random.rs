//! Sessions under random frames, well-formed or not, and under random bytes.
//!
//! What must hold for each is `invariants`': here are only the inputs.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::http2::invariants;

fn blocks() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(GET.to_vec()),
        4 => Just(POST.to_vec()),
        3 => Just(OK.to_vec()),
        1 => Just(block(&[(":status", "103")])),
        1 => Just([POST, &block(&[("content-length", "10")])].concat()),
        1 => Just([OK, &block(&[("content-length", "10")])].concat()),
        2 => Just(block(&[("x", "y"), ("cookie", "a"), ("z", "w"), ("cookie", "b")])),
        1 => Just([GET, &b"\x40\x01k\x32"[..], &[b'v'; 50], &[0xbe; 8]].concat()),
        1 => Just([GET, &[0xbe; 9][..]].concat()),
        1 => Just([GET, &b"\x40\x01k\x7f\xb1\x1e"[..], &[b'v'; 127 + 0x31 + 30 * 128]].concat()),
        1 => Just(b"\x3f\x01\x20\x82".to_vec()),
        1 => vec(any::<u8>(), 0..60),
    ]
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![3 => (0_u32..8).prop_map(|half| half * 2 + 1), 1 => 0_u32..20];
    let words = prop_oneof![Just(0_u32), Just(1), 2..2000_u32, Just(0x7fff_ffff), any::<u32>()];
    let heads = (id.clone(), blocks(), prop_oneof![4 => Just(4_u8), 4 => Just(5), 1 => 0_u8..64]);
    let heads = heads.prop_map(|(id, block, flags)| frame(HEADERS, flags, id, &block));
    let data = (id.clone(), vec(any::<u8>(), 0..400), prop_oneof![Just(0_u8), Just(1), 0_u8..16]);
    let data = data.prop_map(|(id, bytes, flags)| frame(DATA, flags, id, &bytes));
    let updates = (id.clone(), words.clone()).prop_map(|(id, by)| window_update(id, by));
    let resets = (id.clone(), 0_u32..20).prop_map(|(id, code)| rst_stream(id, code));
    let set = vec((0_u16..10, words), 0..4).prop_map(|list| settings(&list));
    let rest = (any::<u8>(), any::<u8>(), id, vec(any::<u8>(), 0..40));
    let rest = rest.prop_map(|(kind, flags, id, bytes)| frame(kind % 18, flags, id, &bytes));
    let more = blocks().prop_map(|block| frame(CONTINUATION, 4, 1, &block));
    prop_oneof![
        8 => heads,
        8 => data,
        3 => updates,
        2 => resets,
        2 => set,
        1 => more,
        2 => rest,
        1 => Just(frame(PING, 0, 0, &[7; 8])),
        1 => Just(frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x05u=1, i")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn frames_mean_the_same_however_they_are_split(list in vec(frames(), 1..20)) {
        invariants::session(&list.concat());
    }

    #[test]
    fn so_do_frames_with_a_byte_changed(
        list in vec(frames(), 1..10), at in any::<usize>(), byte in any::<u8>()
    ) {
        let mut bytes = list.concat();
        let at = at % bytes.len();
        bytes[at] = byte;
        invariants::session(&bytes);
    }

    #[test]
    fn so_do_random_bytes(bytes in vec(any::<u8>(), 0..300)) {
        invariants::session(&bytes);
    }

    #[test]
    fn blocks_mean_what_they_say_when_they_are_encoded(list in vec(blocks(), 1..8)) {
        let behind_length = |block: &Vec<u8>| [&[block.len() as u8][..], block].concat();
        invariants::hpack(&list.iter().flat_map(behind_length).collect::<Vec<_>>());
    }

    #[test]
    fn so_do_random_blocks(bytes in vec(any::<u8>(), 0..300)) {
        invariants::hpack(&bytes);
    }
}

#[test]
fn a_conversation_means_the_same_however_it_is_split_at_each_byte() {
    let bytes = [
        post(1),
        frame(DATA, PADDED, 1, b"\x03abcdefg\0\0\0"),
        get(3),
        frame(HEADERS, 1, 5, &GET[..2]),
        frame(CONTINUATION, 4, 5, &GET[2..]),
        settings(&[(4, 1000), (3, 7)]),
        frame(GOAWAY, 0, 0, &[0; 30]),
        frame(PRIORITY_UPDATE, 0, 0, &[b"\0\0\0\x01u=1"[..].to_vec(), vec![b' '; 90]].concat()),
        frame(HEADERS, END, 1, &block(&[("a", "b")])),
    ];
    let bytes = bytes.concat();
    let told = |ends: &[usize]| {
        let mut wire = Wire::new(Role::Server);
        let mut start = 0;
        for end in ends {
            wire.feed(&bytes[start..*end]);
            start = *end;
        }
        (std::mem::take(&mut wire.events), wire.failed, wire.sent())
    };
    let whole = told(&[bytes.len()]);
    assert!(whole.1.is_none() && whole.0.len() > 6, "{whole:?}");
    for cut in 0..bytes.len() {
        assert_eq!(told(&[cut, bytes.len()]), whole, "cut at {cut}");
    }
    assert_eq!(told(&(1..=bytes.len()).collect::<Vec<_>>()), whole);
}
