//! How much the next operation of a transfer may move.
//!
//! In go what is known of the body and how much the last operation moved; out comes a count of
//! chunks. It leases none.

use super::coding::Decoder;
use crate::ring::ChunkPool;

/// How many chunks the next operation gets: grows while operations fill what they got, shrinks when
/// they come back with less than half.
pub(super) struct Window {
    pub(super) chunks: usize,
    pub(super) chunks_max: usize,
}

impl Window {
    pub(super) fn for_body(&self, decoder: &Decoder, pool: &ChunkPool) -> usize {
        match decoder {
            Decoder::Sized(left) => usize::try_from(left.div_ceil(pool.chunk_bytes() as u64))
                .map_or(self.chunks, |chunks| chunks.min(self.chunks)),
            Decoder::Chunked(_) | Decoder::UntilClose => self.chunks,
        }
    }

    pub(super) fn adapt(&mut self, moved: usize, room: usize) {
        if moved == room {
            self.chunks = (self.chunks * 2).min(self.chunks_max);
        } else if moved * 4 < room {
            self.chunks = (self.chunks / 2).max(1);
        }
    }
}
