//! Attacks, each as its author would do it, and honest peers that look a little like them.
//!
//! An attack ends by GOAWAY with ENHANCE_YOUR_CALM and a reason, before it has cost more than its
//! budget; who is honest does not notice that there is one.

use super::*;
use crate::http2::error::{Cause, ErrorCode, GuardReason};
use crate::limits::{HTTP2_FRAMES_BURST, HTTP2_RESETS_BURST};

/// Repeats what an attacker sends; how often, until it is too much.
fn attack(reason: GuardReason, mut send: impl FnMut(&mut Wire, u32)) -> u32 {
    let mut wire = Wire::new(Role::Server);
    attack_on(&mut wire, reason, &mut send)
}

fn attack_on(wire: &mut Wire, reason: GuardReason, send: &mut impl FnMut(&mut Wire, u32)) -> u32 {
    for round in 0..100_000 {
        send(wire, round);
        if let Some(failed) = wire.failed {
            assert_eq!(failed.code, ErrorCode::EnhanceYourCalm);
            assert_eq!(failed.cause, Cause::Guard(reason));
            assert!(wire.sent().last().expect("a GOAWAY").ends_with("ENHANCE_YOUR_CALM"));
            return round;
        }
        wire.sent();
        wire.events.clear();
        assert!(wire.session.held_bytes() < 64 * 1024, "{}", wire.session.held_bytes());
    }
    panic!("an attack went on and on");
}

/// Lets all streams that were given up go, as their tasks end.
fn release_all(wire: &mut Wire) {
    for key in std::mem::take(&mut wire.keys) {
        wire.session.release(key);
    }
}

#[test]
fn rapid_reset_is_stopped_and_its_streams_are_not_free_before_their_work_ends() {
    let rounds = attack(GuardReason::Resets, |wire, round| {
        let id = round * 2 + 1;
        wire.feed(&[get(id), rst_stream(id, 8)].concat());
        release_all(wire);
    });
    assert_eq!(rounds, HTTP2_RESETS_BURST);
    // Where the work does not end, streams are refused, and no more than 100 are ever begun.
    let mut most = 0;
    attack(GuardReason::Resets, |wire, round| {
        wire.feed(&[get(round * 2 + 1), rst_stream(round * 2 + 1, 8)].concat());
        most = most.max(wire.session.streams());
    });
    assert_eq!(most, 100);
}

#[test]
fn a_browser_that_gives_up_hundreds_of_images_is_honest() {
    let mut wire = Wire::new(Role::Server);
    let mut id = 1;
    for page in 0..20_u32 {
        wire.now_ms = u64::from(page) * 10_000;
        for _ in 0..3 {
            let ids: Vec<u32> = (0..100).map(|at| id + at * 2).collect();
            id += 200;
            wire.feed(&ids.iter().flat_map(|id| get(*id)).collect::<Vec<_>>());
            wire.feed(&ids.iter().flat_map(|id| rst_stream(*id, 8)).collect::<Vec<_>>());
            release_all(&mut wire);
            wire.sent();
        }
        assert!(wire.failed.is_none(), "page {page}");
    }
}

#[test]
fn made_you_reset_is_stopped_whatever_makes_us() {
    let spoils: [fn(u32) -> Vec<u8>; 5] = [
        |id| [get(id), window_update(id, 0)].concat(),
        |id| [get(id), window_update(id, 0x7fff_ffff)].concat(),
        |id| [get(id), frame(DATA, 0, id, b"x")].concat(),
        |id| [get(id), frame(PRIORITY, 0, id, b"x")].concat(),
        |id| frame(HEADERS, END, id, &block(&[("X", "y")])),
    ];
    for spoil in spoils {
        let rounds = attack(GuardReason::Resets, |wire, round| {
            // Those that carry something else count for that, too: time mends it.
            wire.feed(&spoil(round * 2 + 1));
            release_all(wire);
        });
        assert!(rounds <= HTTP2_RESETS_BURST, "{rounds}");
    }
}

#[test]
fn refused_streams_are_resets_of_ours() {
    let rounds = attack(GuardReason::Resets, |wire, round| wire.feed(&get(round * 2 + 1)));
    assert_eq!(rounds, HTTP2_RESETS_BURST + 100);
}

#[test]
fn a_head_in_too_many_frames_or_bytes_is_stopped() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&frame(HEADERS, 0, 1, b""));
    let rounds = attack_on(&mut wire, GuardReason::ContinuationCount, &mut |wire, _| {
        wire.feed(&frame(CONTINUATION, 0, 1, b""));
    });
    assert_eq!(rounds, 8);
    let mut wire = Wire::new(Role::Server);
    wire.feed(&frame(HEADERS, 0, 1, GET));
    let part = [b"\0\x01x\x7f\xf1\x7b", &[b'v'; 16_000][..]].concat();
    let rounds = attack_on(&mut wire, GuardReason::BlockBytes, &mut |wire, _| {
        wire.feed(&frame(CONTINUATION, 0, 1, &part));
    });
    assert_eq!(rounds, 4);
    // Eight are enough for whoever needs them.
    let mut wire = Wire::new(Role::Server);
    wire.feed(&frame(HEADERS, END_STREAM, 1, b""));
    for at in 0..GET.len() {
        let flags = if at + 1 == GET.len() { 4 } else { 0 };
        wire.feed(&frame(CONTINUATION, flags, 1, &GET[at..=at]));
    }
    assert_eq!(wire.events.len(), 1);
}

#[test]
fn an_hpack_bomb_is_refused_and_costs_neither_memory_nor_the_connection() {
    let mut wire = Wire::new(Role::Server);
    let mut bomb = GET.to_vec();
    bomb.extend(b"\x40\x01k\x7f\xb1\x1e");
    bomb.extend([b'v'; 127 + 0x31 + 30 * 128]);
    bomb.extend([0xbe; 12_000]);
    for round in 0..50 {
        wire.feed(&frame(HEADERS, END, round * 2 + 1, &bomb));
        assert_eq!(
            wire.events.pop().expect("an event"),
            format!("oversize {} Bytes true", round * 2 + 1)
        );
        release_all(&mut wire);
        wire.sent();
        assert!(wire.text.capacity() < 128 * 1024 && wire.session.held_bytes() < 64 * 1024);
    }
}

#[test]
fn frames_without_payload_are_stopped() {
    let floods: [(GuardReason, Vec<u8>); 7] = [
        (GuardReason::Settings, settings(&[])),
        (GuardReason::Settings, settings(&[(4, 1), (4, 2)])),
        (GuardReason::Ping, frame(PING, 0, 0, &[0; 8])),
        (GuardReason::Priority, frame(PRIORITY, 0, 99, &[0; 5])),
        (GuardReason::Priority, frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x09u=1")),
        (GuardReason::UnknownFrames, frame(0xbe, 0, 0, b"")),
        (GuardReason::UnknownFrames, frame(GOAWAY, 0, 0, &[0; 8])),
    ];
    for (reason, bytes) in floods {
        let rounds = attack(reason, |wire, _| wire.feed(&bytes));
        // The settings by which each connection begins count, too.
        assert!(
            (HTTP2_FRAMES_BURST - 2..=HTTP2_FRAMES_BURST).contains(&rounds),
            "{reason:?} {rounds}"
        );
    }
    for (reason, bytes) in [
        (GuardReason::WindowUpdates, window_update(0, 1)),
        (GuardReason::WindowUpdates, window_update(1, 1)),
        (GuardReason::EmptyData, frame(DATA, 0, 1, b"")),
        (GuardReason::EmptyData, frame(DATA, PADDED, 1, b"\x05\0\0\0\0\0")),
        (GuardReason::LateFrames, frame(RST_STREAM, 0, 5, &[0; 4])),
        (GuardReason::LateFrames, frame(DATA, 0, 3, b"")),
    ] {
        let mut wire = Wire::new(Role::Server);
        wire.feed(&[post(1), post(3), post(5), rst_stream(5, 8)].concat());
        wire.session.reset(wire.keys[1], ErrorCode::Cancel);
        let rounds = attack_on(&mut wire, reason, &mut |wire, _| wire.feed(&bytes));
        assert_eq!(rounds, HTTP2_FRAMES_BURST, "{reason:?} {bytes:x?}");
    }
}

#[test]
fn an_origin_can_flood_no_more_than_a_client() {
    for (reason, bytes) in [
        (GuardReason::Settings, settings(&[])),
        (GuardReason::Ping, frame(PING, 0, 0, &[0; 8])),
        (GuardReason::UnknownFrames, frame(0xbe, 0, 0, b"")),
        (GuardReason::WindowUpdates, window_update(0, 1)),
    ] {
        let mut wire = Wire::new(Role::Client);
        attack_on(&mut wire, reason, &mut |wire, _| wire.feed(&bytes));
    }
}

#[test]
fn an_origin_that_never_comes_to_its_answer_is_stopped() {
    let mut wire = Wire::new(Role::Client);
    super::messages::ask(&mut wire, "GET", true);
    let early_hints = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "103")]));
    let rounds = attack_on(&mut wire, GuardReason::InterimResponses, &mut |wire, _| {
        wire.feed(&early_hints);
    });
    assert_eq!(rounds, HTTP2_FRAMES_BURST);
}

#[test]
fn too_many_settings_in_one_frame_are_stopped() {
    let rounds = attack(GuardReason::SettingsCount, |wire, round| {
        wire.feed(&settings(&vec![(0xff00, 0); 30 + round as usize]));
    });
    assert_eq!(rounds, 3);
}

#[test]
fn who_does_not_read_our_answers_is_stopped_before_they_pile_up() {
    let mut wire = Wire::new(Role::Server);
    let mut rounds = 0;
    while wire.failed.is_none() {
        // Slowly enough for the other budget.
        wire.now_ms += 20;
        wire.feed(&frame(PING, 0, 0, &[0; 8]));
        rounds += 1;
        assert!(rounds < 10_000);
    }
    let failed = wire.failed.expect("it has failed");
    assert_eq!(failed.cause, Cause::Guard(GuardReason::Outbox));
    assert!(wire.session.held_bytes() < 256 * 1024);
}

#[test]
fn who_asks_for_much_and_reads_slowly_is_no_flood() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[settings(&[(4, 1 << 20), (5, 1 << 20)]), get(1)].concat());
    wire.feed(&window_update(0, 1 << 20));
    let key = wire.keys[0];
    wire.session.send_response(key, 200, false, |_| ()).expect("it is open");
    // As much as a frame of the peer's choice may hold.
    let room = wire.session.room(key);
    wire.session.send_data(key, &vec![b'x'; room], false).expect("there is room");
    assert!(wire.session.pending().len() > 1_000_000);
    for _ in 0..10 {
        wire.feed(&window_update(1, 1_000));
        wire.feed(&frame(PING, 0, 0, &[0; 8]));
    }
    assert_eq!(wire.failed, None);
}

#[test]
fn an_honest_peer_s_small_frames_do_not_trip_anything() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&settings(&[(4, 1 << 20)]));
    for round in 0..5_000_u32 {
        let id = round * 2 + 1;
        // As browsers do: a window and a priority with each request, a ping now and then.
        wire.feed(&[get(id), window_update(id, 1 << 20)].concat());
        wire.feed(&frame(PRIORITY_UPDATE, 0, 0, &[&id.to_be_bytes()[..], b"u=1"].concat()));
        let key = wire.keys.pop().expect("a stream");
        wire.session.send_response(key, 200, false, |_| {}).expect("a head");
        for _ in 0..10 {
            wire.session.send_data(key, &[b'x'; 1000], false).expect("data");
            wire.feed(&[window_update(id, 1000), window_update(0, 1000)].concat());
            wire.feed(&frame(PING, 0, 0, &[0; 8]));
        }
        wire.session.send_data(key, b"", true).expect("the end");
        wire.session.release(key);
        wire.sent();
        assert!(wire.failed.is_none(), "round {round}: {:?}", wire.failed);
    }
}

#[test]
fn stream_numbers_that_collide_cost_no_more_than_there_are_streams() {
    let mut wire = Wire::new(Role::Server);
    for round in 0..100 {
        wire.feed(&get(round * 0x0100_0000 / 2 * 2 + 1));
    }
    assert_eq!(wire.session.streams(), 100);
    assert!(wire.failed.is_none());
}
