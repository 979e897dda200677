//! What becomes of what a chunked body holds beside its payload.
//!
//! In goes whose body it is; out comes whether extensions, trailers and white space are taken, and
//! whether they go on. Nothing here reads a byte.

/// What becomes of what is neither payload nor needed to delimit it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkRules {
    /// Chunk extensions do not go on: servers that misread them take a part of the body for another
    /// request.
    pub drops_extensions: bool,
    pub trailers: Trailers,
    /// White space behind a size is taken, and does not go on.
    pub takes_padding: bool,
}

/// What becomes of trailers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trailers {
    /// They go on; one that would change framing, routing or credentials is an error.
    #[default]
    Pass,
    /// None goes on, and one such is an error all the same.
    Drop,
    /// They go on, but for such ones.
    Sift,
}

impl ChunkRules {
    /// Nothing is taken that is not as it should be, and all that is taken goes on.
    pub const STRICT: Self =
        Self { drops_extensions: false, trailers: Trailers::Pass, takes_padding: false };
    /// For bodies of requests: what servers leave unread must not reach them.
    pub const BARE: Self =
        Self { drops_extensions: true, trailers: Trailers::Drop, takes_padding: false };
    /// For bodies of answers.
    pub const LENIENT: Self =
        Self { drops_extensions: false, trailers: Trailers::Sift, takes_padding: true };
}
