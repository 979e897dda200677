//! HTTP/1 towards an origin: a head goes out, a head comes back, the connection may be used again.
//!
//! In goes a connection with what is to be sent on it; out comes the head of the final response, at
//! the beginning of a buffer, or how the attempt failed and whether it may be repeated. Exchanges,
//! copies of requests, auth requests and CONNECT through a parent differ in how they wait and in
//! what becomes of interim responses: see [`Reply`]. Nothing here knows a client.

use std::convert::Infallible;

use crate::fault::Fault;
use crate::http::head::{HeadError, HeadLimits, ResponseHead};
use crate::http::repair::{Mended, QUOTED_BYTES, Repair, Search, quote};
use crate::http::{BodyLength, Method};
use crate::ledger::Counted;
use crate::observe::metrics::WorkerMetrics;
use crate::relay::Receiver;
use crate::relay::outbox::{Outbox, Unsent};
use crate::relay::side::{Act, Side};
use crate::ring::{HeadBuffer, NoRoom, Socket, WaitError, clock};

use super::secure;

/// How one attempt on one connection failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttemptError {
    /// The connection was dead: not a byte of the request went out.
    NotSent,
    /// The origin has sent it back untouched (RFC 9113 §8.7), and all of it is at hand still.
    Refused,
    /// The connection died before a byte of an answer; by which fault.
    NoResponse(Fault),
    /// The response is one after which the route wants another attempt.
    RetryRequested,
    Fault(Fault),
}

impl AttemptError {
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::NotSent | Self::Refused | Self::RetryRequested => Fault::OriginClosed,
            Self::NoResponse(fault) | Self::Fault(fault) => fault,
        }
    }
}

impl AttemptError {
    /// By which fault a connection died, where its session could not go on; one that had served
    /// before may be replaced all the same. What a peer has sent back untouched may be asked again
    /// where all of it is at hand still, as `is_whole` says.
    #[cold]
    pub(crate) fn on(self, socket: &Socket, is_whole: bool) -> Self {
        match (self, socket.session_problem()) {
            (Self::NoResponse(_), _) if is_whole && socket.is_refused() => Self::Refused,
            (Self::NoResponse(_), Some(problem)) => Self::NoResponse(secure::fault(problem)),
            (error, _) => error,
        }
    }
}

impl AttemptError {
    /// Whether it says that the origin is ill. One that ends a connection that has been idle is
    /// not.
    pub(crate) fn is_of_origin(self, is_new: bool) -> bool {
        match self {
            Self::NotSent | Self::NoResponse(_) => is_new,
            Self::Refused | Self::RetryRequested => false,
            Self::Fault(fault) => fault.blames_origin(),
        }
    }
}

impl From<Fault> for AttemptError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Interim answers that one request may get at once, and the time after which it may get one more:
/// a flood of them is an attack on the client, one in a while says that the origin is still there.
const INTERIM_ANSWERS_MAX: u64 = 16;
const INTERIM_INTERVAL_MS: u64 = 1000;

/// What the heads of answers are held to.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub limits: HeadLimits,
    /// Where repairs are counted.
    pub metrics: &'a WorkerMetrics,
}

/// What it means that an answer's head does not fit.
fn no_room(reason: NoRoom) -> Fault {
    match reason {
        NoRoom::TooLarge => Fault::OriginHead(HeadError::HeadTooLarge),
        NoRoom::NoMemory => Fault::Overloaded,
    }
}

/// Sends what `build` puts together, waiting where the origin is slower.
pub(crate) async fn send(
    outbox: &Outbox,
    origin: Receiver<'_>,
    build: impl FnOnce(&mut Vec<u8>),
) -> Result<(), AttemptError> {
    match begin_to_send(outbox, origin.socket, build)? {
        Some(rest) => send_rest(origin, &rest).await,
        None => Ok(()),
    }
}

/// Sends what `build` puts together, as far as the origin takes it at once; the rest.
#[inline]
pub(crate) fn begin_to_send(
    outbox: &Outbox,
    origin: &Socket,
    build: impl FnOnce(&mut Vec<u8>),
) -> Result<Option<Counted>, AttemptError> {
    let sent = outbox.send(origin, |out| {
        build(out);
        Ok::<_, Infallible>(())
    });
    match sent {
        Ok(sent) => Ok(sent.rest),
        // Nothing went out; where the origin has said something before it closed (408, say), a new
        // connection gets the same answer.
        Err(Unsent::Broken) => Err(AttemptError::NotSent),
        // Ours is the fault; and the origin may have understood what it has got.
        Err(Unsent::NoMemory) => Err(Fault::Overloaded.into()),
        Err(Unsent::Refused(never)) => match never {},
    }
}

/// Sends what an origin did not take at once.
pub(crate) async fn send_rest(origin: Receiver<'_>, rest: &[u8]) -> Result<(), AttemptError> {
    origin.send_all(rest).await.map_err(|error| match error {
        WaitError::Failed(error) => AttemptError::NoResponse(secure::broken(&error)),
        error => error.on(Side::Origin, Act::Take).into(),
    })
}

/// A response that is waited for.
pub(crate) trait Reply {
    /// A wait for bytes of it.
    type Wait<'w>: Future<Output = First>
    where
        Self: 'w;

    /// Where its head is read into.
    fn head(&mut self) -> &mut ResponseHead;

    /// The first bytes of it, where they have come already.
    fn begun(&mut self) -> Option<First> {
        None
    }

    /// Begins to wait for bytes of it: for the first ones, or for more than `buffer` has. The wait
    /// itself comes back, because most responses come within it, and a future around it costs.
    fn recv(&mut self, buffer: Option<HeadBuffer>) -> Result<Self::Wait<'_>, Fault>;

    /// Goes on waiting, where that wait has brought nothing.
    async fn recv_late(&mut self, buffer: HeadBuffer) -> Received {
        Ok((Err(WaitError::Expired), buffer))
    }

    /// Whether to refuse whatever is not as it should be. Asked where something is not.
    fn is_strict(&self) -> bool;

    /// Whether the head that has been read is not that of an interim response.
    fn is_final(&mut self) -> bool {
        self.head().status >= 200
    }

    /// An interim response, whose head `buffer` begins with.
    async fn interim(&mut self, _buffer: &HeadBuffer) -> Result<(), Fault> {
        Ok(())
    }
}

/// What a wait for bytes came to.
pub(crate) type First = (Result<usize, WaitError>, HeadBuffer);

/// The same; an error where it was given up.
pub(crate) type Received = Result<First, Fault>;

/// Reads until the head of the final response is there, at the beginning of `buffer`, which is
/// empty before: it is the caller's, because what comes out of a future is moved.
pub(crate) async fn read_head(
    reply: &mut impl Reply,
    buffer: &mut HeadBuffer,
    terms: Terms<'_>,
    method: Method,
) -> Result<(), AttemptError> {
    let limits = terms.limits;
    let (mut interims, mut interims_since_ms) = (0, 0);
    let mut search = Search::default();
    reply.head().reset();
    let mut more = None;
    loop {
        let received;
        (received, *buffer) = match reply.begun() {
            Some(begun) => begun,
            None => reply.recv(more)?.await,
        };
        let received = match received {
            Err(WaitError::Expired) => {
                let (received, late) = reply.recv_late(std::mem::take(buffer)).await?;
                *buffer = late;
                received
            }
            received => received,
        };
        match received {
            Ok(1..) => {}
            Ok(0) if buffer.is_empty() && interims == 0 => {
                return Err(AttemptError::NoResponse(Fault::OriginClosed));
            }
            Err(WaitError::Failed(error)) if buffer.is_empty() && interims == 0 => {
                return Err(AttemptError::NoResponse(secure::broken(&error)));
            }
            Ok(0) => return Err(Fault::OriginTruncated.into()),
            Err(error) => return Err(error.on(Side::Origin, Act::Send).into()),
        }
        loop {
            // Once it is refused, its bytes are looked at once, not with each that arrives.
            let parsed =
                (!search.is_begun()).then(|| reply.head().parse(buffer.filled(), &limits, method));
            let parsed = match parsed {
                Some(Ok(is_complete)) => is_complete,
                _ => mend(reply, buffer, &mut search, &terms, method)?,
            };
            if !parsed {
                break;
            }
            if !reply.head().repairs.is_none() {
                count_repairs(reply, buffer.filled(), &terms)?;
            }
            if reply.is_final() {
                return Ok(());
            }
            if interims == 0 {
                interims_since_ms = clock::coarse_ms();
            }
            interims += 1;
            let passed_ms = clock::coarse_ms().saturating_sub(interims_since_ms);
            let interims_max = INTERIM_ANSWERS_MAX + passed_ms / INTERIM_INTERVAL_MS;
            if reply.head().status == 101 || interims > interims_max {
                return Err(Fault::OriginAnswer.into());
            }
            reply.interim(buffer).await?;
            buffer.consume(reply.head().bytes);
            reply.head().reset();
        }
        buffer.make_room(limits.head_bytes).map_err(no_room)?;
        more = Some(std::mem::take(buffer));
    }
}

/// Has another look at an answer that the parser has refused: as sloppy as it is, it may still be
/// beyond doubt what it means. Whether its head is complete, which the buffer then begins with in
/// normal form.
#[cold]
fn mend(
    reply: &mut impl Reply,
    buffer: &mut HeadBuffer,
    search: &mut Search,
    terms: &Terms<'_>,
    method: Method,
) -> Result<bool, Fault> {
    let limits = &terms.limits;
    let is_strict = reply.is_strict();
    let head = reply.head();
    let strictly = |head: &mut ResponseHead, buf: &[u8]| {
        head.reset();
        let error = head.parse(buf, limits, method).err();
        refused(head, error.unwrap_or(HeadError::StatusLine), buf)
    };
    if is_strict {
        return Err(strictly(head, buffer.filled()));
    }
    let mended = match search.response(buffer.filled()) {
        Mended::Incomplete if buffer.len() < limits.head_bytes => return Ok(false),
        Mended::Incomplete => return Err(refused(head, HeadError::HeadTooLarge, buffer.filled())),
        Mended::Hopeless => return Err(strictly(head, buffer.filled())),
        Mended::Head(mended) => mended,
    };
    let before = buffer.filled()[..buffer.len().min(QUOTED_BYTES)].to_vec();
    buffer.replace_front(mended.taken, &mended.bytes).map_err(no_room)?;
    let limits =
        HeadLimits { head_bytes: limits.head_bytes.max(mended.bytes.len()), ..terms.limits };
    match head.parse_mended(buffer.filled(), &limits, method, mended.repairs) {
        Ok(()) => Ok(true),
        Err(error) => Err(refused(head, error, &before)),
    }
}

/// Counts what has been mended in a head that `buf` begins with, unless nothing may be.
#[cold]
fn count_repairs(reply: &mut impl Reply, buf: &[u8], terms: &Terms<'_>) -> Result<(), Fault> {
    let is_strict = reply.is_strict();
    let head = reply.head();
    if is_strict && head.repairs.has(Repair::UnknownStatus) {
        return Err(refused(head, HeadError::StatusLine, buf));
    }
    terms.metrics.repaired(head.repairs);
    Ok(())
}

/// Says for the logs what is refused, and why.
fn refused(head: &mut ResponseHead, error: HeadError, buf: &[u8]) -> Fault {
    let begin = quote(buf);
    tracing::debug!(reason = error.text(), begin, "the head of an origin's answer is refused");
    head.refused = Some(format!("{}: {begin}", error.text()).into());
    Fault::OriginHead(error)
}

/// Whether a connection may carry another request: its origin keeps it, the request has gone out to
/// its end, and of the response nothing is left, nor has anything come behind it. Excess behind a
/// response is what a smuggled one looks like.
pub(crate) fn is_reusable(head: &ResponseHead, is_sent: bool, is_clean: bool) -> bool {
    head.is_persistent && is_sent && is_clean
}

/// The buffer with which a connection goes back whose response has come whole into it, head and
/// body; `None` where it has not, or the connection cannot be used again.
pub(crate) fn emptied(head: &ResponseHead, mut buffer: HeadBuffer) -> Option<HeadBuffer> {
    let behind_head = (buffer.len() - head.bytes) as u64;
    let is_whole = match head.body {
        BodyLength::Empty => behind_head == 0,
        BodyLength::Exact(bytes) => behind_head == bytes,
        BodyLength::Chunked | BodyLength::UntilClose => false,
    };
    is_reusable(head, true, is_whole).then(|| {
        buffer.consume(buffer.len());
        buffer
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::HalfClose;
    use crate::ledger::{Budget, Ledger};
    use crate::ring::{Deadlines, runtime};

    /// It was taken for a dead connection, so that a POST whose head had gone out was sent again.
    #[test]
    fn a_request_for_the_rest_of_which_there_is_no_memory_was_sent_and_is_nobodys_fault_but_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::from_fd(OwnedFd::from(listener.accept().unwrap().0), false);
        runtime::tested().block_on(async {
            let (ledger, budget) = (Arc::<Ledger>::default(), Rc::new(Budget::new(u64::MAX, 0)));
            let outbox = Outbox::new(64, ledger, budget);
            let deadlines = Deadlines::default();
            let origin = Receiver {
                socket: &socket,
                deadlines: &deadlines,
                stall: Duration::from_secs(3600),
                half_close: HalfClose::Keep,
                stats: None,
            };
            let much = |out: &mut Vec<u8>| out.resize(64 << 20, b'x');
            let failed = send(&outbox, origin, much).await.unwrap_err();
            assert!(matches!(failed, AttemptError::Fault(Fault::Overloaded)), "{failed:?}");
            assert!(!failed.is_of_origin(true) && !failed.fault().is_origin_local());
            assert!(!failed.fault().blames_origin());
            drop(there);
            // Whereas nothing goes out on one that is dead.
            socket.cut();
            let failed = send(&outbox, origin, |out| out.push(b'x')).await.unwrap_err();
            assert!(matches!(failed, AttemptError::NotSent), "{failed:?}");
        });
    }
}
