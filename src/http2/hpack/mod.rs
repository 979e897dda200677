//! HPACK (RFC 7541): blocks of fields come in and lines of HTTP/1 text go out, and the reverse.
//!
//! In goes a whole block, and a [`Sink`] that is told of its fields one by one, each as the last
//! line of a caller's text; a block is decoded to its end whatever its fields are, because the
//! table must stay in step. Out of our side come blocks that need no table: static names, plain
//! literals. What may stand in a head is `fields`' to say; nothing here knows of requests.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod huffman;
pub(crate) mod table;

use crate::http2::names::Kind;

/// A field, as the last line of a text: `name: value\r\n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Where it begins in the text, which it ends.
    pub at: usize,
    /// The bytes of its name.
    pub name: usize,
    pub kind: Kind,
    /// [`Sink::judge`] was content with it.
    pub is_valid: bool,
}

/// Who is told of a block's fields.
pub(crate) trait Sink {
    /// Whether a field of that kind may have that value. What was asked when a field entered the
    /// table is not asked again.
    fn judge(kind: Kind, value: &[u8]) -> bool;

    /// The next field. The sink leaves its line where it is, or takes it away.
    fn field(&mut self, text: &mut Vec<u8>, line: Line);

    /// The next field has a string that is longer than was asked for.
    fn too_long(&mut self);
}

/// Why a block cannot be decoded, nor any after it: COMPRESSION_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HpackError {
    /// The block ends within a field.
    Truncated,
    /// An integer that no length and no index is.
    Integer,
    /// An index that means nothing.
    Index,
    Huffman,
    /// A table of more than was allowed.
    TableSize,
    /// A size update behind a field, or none where one was due (RFC 7541 §4.2).
    TableUpdate,
}
