//! Where in its bytes a connection is.
//!
//! In go frames that have begun; what is remembered of them between two pieces stands here, and
//! nothing else. What it means is for `heads`, `data` and `control` to say.

use crate::http2::Key;
use crate::http2::frames::{FRAME_HEAD_BYTES, FrameHead};

#[derive(Debug)]
pub(super) enum Stage {
    Preface {
        matched: u8,
    },
    Head {
        bytes: [u8; FRAME_HEAD_BYTES],
        count: u8,
    },
    /// So much of a frame is gathered, and then so much passed over.
    Payload {
        head: FrameHead,
        missing: u32,
        skipped: u32,
    },
    Data(Flowing),
    Skip {
        left: u32,
    },
}

pub(super) const NEXT_HEAD: Stage = Stage::Head { bytes: [0; FRAME_HEAD_BYTES], count: 0 };

/// A frame of DATA that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flowing {
    /// Who gets it; nobody: all of it was given back.
    pub key: Option<Key>,
    /// Payload, without padding once that is known.
    pub left: u32,
    pub padding: u32,
    pub is_end: bool,
    /// The first byte says how much padding there is.
    pub is_padding_unknown: bool,
}

impl Flowing {
    /// Nothing more of it is to come.
    pub(super) fn is_done(self) -> bool {
        self.left == 0 && self.padding == 0
    }
}

/// A block that goes on in another frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenBlock {
    pub stream: u32,
    pub is_end: bool,
    pub continuations: u8,
}
