//! What a connection costs: bytes at rest, and buffers that do not grow any more.
//!
//! Allocations are counted by `tests/allocations.rs`, instructions by the gate; here is what can be
//! told from within.

use super::*;
use crate::http2::invariants::Conversation;

/// A connection at rest, without its table: what the plan of memory counts on.
const REST_BYTES_MAX: usize = 1024;

#[test]
fn a_connection_at_rest_is_small() {
    let mut conversation = Conversation::default();
    let (own, held) = conversation.rest();
    assert!(own + held <= REST_BYTES_MAX, "{own} + {held}");
    for _ in 0..1000 {
        conversation.exchange();
    }
    let (own, held) = conversation.rest();
    // The table with five fields, and the streams that are remembered.
    assert!(own + held <= REST_BYTES_MAX + 1024, "{own} + {held}");
}

#[test]
fn a_full_table_and_nothing_else_is_what_a_connection_holds_at_rest() {
    let mut wire = Wire::new(Role::Server);
    for round in 0..2000_u32 {
        let mut bytes = GET.to_vec();
        bytes.extend(b"\x40\x02");
        bytes.extend((round as u16).to_be_bytes().map(|byte| b'a' + byte % 26));
        bytes.extend([0]);
        wire.feed(&frame(HEADERS, END, round * 2 + 1, &bytes));
        let key = wire.keys.pop().expect("a stream");
        wire.session.send_response(key, 200, true, |_| {}).expect("a head");
        wire.session.release(key);
        wire.sent();
        wire.events.clear();
    }
    wire.session.rest();
    let held = wire.session.held_bytes();
    assert!(held <= 4096 + 1024 + 256, "{held}");
}

#[test]
fn a_large_head_in_pieces_leaves_no_large_buffers() {
    let mut wire = Wire::new(Role::Server);
    let value = [b"\0\x01x\x7f\xa1\x45", &vec![b'v'; 8_992][..]].concat();
    let bytes = [
        frame(HEADERS, END_STREAM, 1, &[GET, &value].concat()),
        frame(CONTINUATION, END_HEADERS, 1, &value),
    ];
    for byte in bytes.concat() {
        wire.feed(&[byte]);
    }
    assert_eq!(wire.keys.len(), 1, "{:?}", wire.failed);
    let (before, kept) = (wire.events.len(), wire.session.held_bytes());
    assert!(before == 1 && kept < 4096, "{kept}");
}

#[test]
fn buffers_do_not_grow_once_a_conversation_is_warm() {
    let mut conversation = Conversation::default();
    for _ in 0..200 {
        conversation.exchange();
    }
    let warm = conversation.held_bytes();
    for _ in 0..2000 {
        conversation.exchange();
        assert_eq!(conversation.held_bytes(), warm);
    }
}
