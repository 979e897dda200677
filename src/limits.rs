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
/// Addresses of one origin's name that are used: each is a target with connections of its own, and
/// an answer of DNS has room for thousands.
pub(crate) const ADDRESSES_PER_NAME_MAX: usize = 64;

/// What the check of one password may take: argon2 with the first of the parameters that OWASP's
/// password storage cheat sheet recommends (m=19456). A bcrypt hash needs next to nothing.
pub(crate) const PASSWORD_CHECK_BYTES_MAX: u64 = 19 * 1024 * 1024;

/// Cookies of origins that an upstream with `sticky.learn` remembers: about 72 bytes each, 1.2 MiB
/// in all.
pub(crate) const STICKY_LEARNT_MAX: usize = 16 * 1024;

/// Streams that were given up on one connection, by either side: at once, and a second. nghttp2's
/// figures. A browser that leaves a page gives up all its images at once, and 33/s alone hit honest
/// ones (envoy#30882).
pub(crate) const HTTP2_RESETS_BURST: u32 = 1000;
pub(crate) const HTTP2_RESETS_PER_SECOND: u32 = 33;
/// Frames of one class that carry nothing, on one connection: at once, and a second. A frame of 9
/// bytes costs some 300 instructions: what a second allows is a 100,000th of a core.
pub(crate) const HTTP2_FRAMES_BURST: u32 = 1000;
pub(crate) const HTTP2_FRAMES_PER_SECOND: u32 = 100;
/// What a request earns its sender of window updates, priorities and pings: browsers send one or
/// two of each with it.
pub(crate) const HTTP2_EARNED_BY_REQUEST: u32 = 4;
/// What a frame of data that we send earns: an update of the stream's and of the connection's
/// window, and a ping by which the bandwidth is measured.
pub(crate) const HTTP2_EARNED_BY_DATA: u32 = 3;
/// The frames that continue a head: it fits into two of the shortest that a peer may be asked for.
pub(crate) const HTTP2_CONTINUATIONS_MAX: u8 = 8;
/// Settings in one frame. There are eight that anybody has heard of.
pub(crate) const HTTP2_SETTINGS_MAX: u32 = 32;
/// What of a PRIORITY_UPDATE is read: `u=7, i=?0` has nine bytes.
pub(crate) const HTTP2_PRIORITY_BYTES_MAX: u32 = 64;
/// Priorities that are remembered before their streams are opened: browsers say one before the
/// stream that they open next, or none.
pub(crate) const HTTP2_EARLY_PRIORITIES_MAX: usize = 2;
/// Streams of a connection that are remembered when they have ended: 256 bytes. What comes for
/// older ones is taken for what was on its way.
pub(crate) const HTTP2_ENDED_STREAMS_MAX: usize = 64;
/// What all streams of a connection together may have waiting to be sent, before they have to wait
/// themselves: as much as a transfer moves at once. Beside 16 KiB that an exchange may hold for
/// each stream, this is the body that a client which does not read keeps here.
pub(crate) const HTTP2_OUTBOX_BYTES: usize = 64 * 1024;
/// What a peer's frames have us say and it does not take, in bytes: a thousand answers to pings.
pub(crate) const HTTP2_CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Bytes that are read at once, into memory that all connections of a worker share; and how often
/// one connection reads before others have their turn.
pub(crate) const HTTP2_READ_BYTES: usize = 64 * 1024;
pub(crate) const HTTP2_READS_PER_TURN: usize = 4;
/// Silence, with streams open, after which a peer is asked whether it is there; and how long it has
/// to answer, or to acknowledge our settings. Networks forget connections after a minute or more.
pub(crate) const HTTP2_PING_AFTER_MS: u64 = 30_000;
pub(crate) const HTTP2_PONG_WITHIN_MS: u64 = 15_000;
/// How long a peer has to hear that no more streams are taken, before they are refused: more than
/// any round trip.
pub(crate) const HTTP2_DRAIN_AFTER_MS: u64 = 1000;
/// What a client may have on its way at first, on a stream and on a connection: the default of RFC
/// 9113 §6.9.2, so that it need not be said.
pub(crate) const HTTP2_WINDOW_BYTES: u32 = 65_535;
/// What it may have on its way where uploads are taken as fast as they come, and the purse for
/// growth has it: 64 KiB are a limit of 640 KiB/s over 100 ms, 1 MiB of 10 MiB/s.
pub(crate) const HTTP2_WINDOW_BYTES_MAX: u32 = 1024 * 1024;
/// How often others have their turn before a stream that waits for room to send comes before them,
/// whatever its urgency: 1 MiB of others' bodies, far less than `timeouts.client_write` lasts.
pub(crate) const HTTP2_PASSED_OVER_MAX: u8 = 16;
