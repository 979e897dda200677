//! Sessions under random frames, well-formed or not, and under random bytes.
//!
//! What must hold for each is `invariants`': here are only the inputs.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::http2::invariants;

fn blocks() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => Just(GET.to_vec()),
        8 => Just(POST.to_vec()),
        5 => Just(OK.to_vec()),
        1 => Just(block(&[(":status", "103")])),
        1 => Just([POST, &block(&[("content-length", "10")])].concat()),
        1 => Just([OK, &block(&[("content-length", "10")])].concat()),
        2 => Just(block(&[("x", "y"), ("cookie", "a"), ("z", "w"), ("cookie", "b")])),
        1 => Just([GET, &b"\x40\x01k\x32"[..], &[b'v'; 50], &[0xbe; 8]].concat()),
        1 => Just([GET, &[0xbe; 9][..]].concat()),
        1 => Just([GET, &b"\x40\x01k\x7f\xb1\x1e"[..], &[b'v'; 127 + 0x31 + 30 * 128]].concat()),
        1 => Just([&b"\x3f\x01\x20"[..], GET].concat()),
        1 => vec(any::<u8>(), 3..60),
    ]
}

/// A frame, as it depends on how many streams there were before it.
#[derive(Clone, Debug)]
enum Piece {
    /// On a stream of its own.
    New {
        flags: u8,
        block: Vec<u8>,
    },
    /// On one of those before, counted backwards.
    Old {
        kind: u8,
        flags: u8,
        back: u32,
        payload: Vec<u8>,
    },
    Bytes(Vec<u8>),
}

/// What a peer says that mostly keeps to the order of streams.
fn conversations(pieces: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(pieces_of_it(), 1..pieces).prop_map(|pieces| {
        let mut next = 3;
        let bytes = pieces.into_iter().map(|piece| match piece {
            Piece::New { flags, block } => {
                next += 2;
                let whole = flags & END_HEADERS != 0;
                let (first, rest) =
                    block.split_at(if whole { block.len() } else { block.len().min(3) });
                let mut bytes = frame(HEADERS, flags, next - 2, first);
                if !whole {
                    bytes.extend(frame(CONTINUATION, END_HEADERS, next - 2, rest));
                }
                bytes
            }
            Piece::Old { kind, flags, back, payload } => {
                frame(kind, flags, next.saturating_sub(2 + back * 2).max(1), &payload)
            }
            Piece::Bytes(bytes) => bytes,
        });
        std::iter::once(post(1)).chain(bytes).collect::<Vec<_>>().concat()
    })
}

fn pieces_of_it() -> impl Strategy<Value = Piece> {
    let whole = || prop_oneof![Just(4_u8), Just(END)];
    let flags = || prop_oneof![9 => whole(), 1 => Just(END_STREAM), 1 => 0_u8..64];
    let few = || prop_oneof![6 => 0_u32..3, 1 => 0_u32..9];
    let old = |kind: u8, flags: u8, back: u32, payload: Vec<u8>| Piece::Old {
        kind,
        flags,
        back,
        payload,
    };
    let odd = || prop_oneof![Just(0_u32), Just(0x7fff_ffff), any::<u32>()];
    let words = || prop_oneof![3 => odd(), 4 => 1..2000_u32];
    let new = (flags(), blocks()).prop_map(|(flags, block)| Piece::New { flags, block });
    let again = (Just(END), few(), blocks());
    let again = again.prop_map(move |(flags, back, block)| old(HEADERS, flags, back, block));
    let data = (prop_oneof![8 => Just(0_u8), 4 => Just(1), 1 => 0_u8..16], few(), 0_usize..600);
    let data = data.prop_map(move |(flags, back, bytes)| old(DATA, flags, back, vec![3; bytes]));
    let updates = (words(), few());
    let updates =
        updates.prop_map(move |(by, back)| old(WINDOW_UPDATE, 0, back, by.to_be_bytes().to_vec()));
    let resets = (few(), 0_u32..20);
    let resets =
        resets.prop_map(move |(back, code)| old(RST_STREAM, 0, back, code.to_be_bytes().to_vec()));
    let all = words().prop_map(|by| Piece::Bytes(window_update(0, by)));
    let set = vec((3_u16..5, words()), 0..3).prop_map(|list| Piece::Bytes(settings(&list)));
    let rest = (0_u8..18, any::<u8>(), few(), vec(any::<u8>(), 0..40));
    let rest = rest.prop_map(move |(kind, flags, back, bytes)| old(kind, flags, back, bytes));
    prop_oneof![
        12 => new,
        4 => again,
        12 => data,
        4 => updates,
        3 => resets,
        1 => all,
        1 => set,
        1 => rest,
        1 => Just(Piece::Bytes(frame(PING, 0, 0, &[7; 8]))),
        1 => Just(Piece::Bytes(frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x05u=1, i"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn frames_mean_the_same_however_they_are_split(bytes in conversations(40)) {
        invariants::session(&bytes);
    }

    #[test]
    fn so_do_frames_with_a_byte_changed(
        bytes in conversations(20), at in any::<usize>(), byte in any::<u8>()
    ) {
        let mut bytes = bytes;
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
