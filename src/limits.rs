//! Every bound that is not configured, with its derivation.
//!
//! Nothing comes in and nothing is computed: these are the numbers that keep hostile input from
//! costing more than it should. Bounds that are one module's own affair stand in that module.

/// The most fields one head may have, whatever `limits.header_count` says: httparse fills an array
/// of this size on the stack (8 KiB).
pub(crate) const HEADER_COUNT_MAX: usize = 256;
/// The longest method token. The longest registered one, `UPDATEREDIRECTREF`, has 17 bytes.
pub(crate) const METHOD_BYTES_MAX: usize = 32;
/// Empty lines skipped before a request line. RFC 9112 §2.2 asks for one; old clients sent it
/// after a body.
pub(crate) const EMPTY_LINES_MAX: u8 = 4;
/// Elements of all Connection fields of a head together. Each is compared with every field name,
/// so this bounds the work of one head to 32 × 256 short comparisons.
pub(crate) const CONNECTION_OPTIONS_MAX: usize = 32;
/// Pipes per worker through which bodies and tunnels are spliced. What is in one is the kernel's
/// memory: 8 pipes of 512 KiB are 4 MiB, twice the default pool of chunks.
pub(crate) const PIPES_PER_WORKER: usize = 8;
/// A chunk's size line, extensions included.
pub(crate) const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// What the size lines of one body may cost beyond 16 bytes each and twice their payload: stops a
/// peer that sends one byte per chunk behind kilobytes of extensions.
pub(crate) const CHUNK_OVERHEAD_BYTES_MAX: u64 = 16 * 1024;
/// The trailer section of a chunked body.
pub(crate) const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Lines of a trailer section.
pub(crate) const TRAILER_COUNT_MAX: usize = 64;

/// What the check of one password may take: argon2 with the first of the parameters that OWASP's
/// password storage cheat sheet recommends (m=19456). A bcrypt hash needs next to nothing.
pub(crate) const PASSWORD_CHECK_BYTES_MAX: u64 = 19 * 1024 * 1024;

/// Cookies of origins that an upstream with `sticky.learn` remembers: about 72 bytes each, 1.2 MiB
/// in all.
pub(crate) const STICKY_LEARNT_MAX: usize = 16 * 1024;
