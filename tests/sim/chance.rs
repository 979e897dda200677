//! Numbers that repeat.
//!
//! In goes a seed; out comes the same row of numbers for it each time. They keep no secret.

/// xorshift64*.
#[derive(Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mixed = (seed ^ stream.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut chance = Self(mixed | 1);
        // Neighbouring seeds begin alike.
        for _ in 0..4 {
            chance.next();
        }
        chance
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// Once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Below `1 << magnitudes`, as likely small as large.
    pub(crate) fn size(&mut self, magnitudes: usize) -> usize {
        let magnitude = self.below(magnitudes + 1);
        self.below(1 << magnitude)
    }
}
