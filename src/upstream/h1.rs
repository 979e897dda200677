//! HTTP/1 towards an origin: a head goes out, a head comes back, the connection may be used again.
//!
//! In goes a connection with what is to be sent on it; out comes the head of the final response, at
//! the beginning of a buffer, or how the attempt failed and whether it may be repeated. Exchanges,
//! copies of requests, auth requests and CONNECT through a parent differ in how they wait and in
//! what becomes of interim responses: see [`Reply`]. Nothing here knows a client.

use std::convert::Infallible;

use crate::fault::Fault;
use crate::http::head::{HeadError, HeadLimits, ResponseHead};
use crate::http::{BodyLength, Method};
use crate::relay::Receiver;
use crate::relay::outbox::{Outbox, Unsent};
use crate::relay::side::{Act, Side};
use crate::ring::waits::Recv;
use crate::ring::{HeadBuffer, NoRoom, WaitError};

/// How one attempt on one connection failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttemptError {
    /// The connection was dead: not a byte of the request went out.
    NotSent,
    /// The connection died before a byte of an answer.
    NoResponse,
    /// The response is one after which the route wants another attempt.
    RetryRequested,
    Fault(Fault),
}

impl AttemptError {
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::NotSent | Self::NoResponse | Self::RetryRequested => Fault::OriginClosed,
            Self::Fault(fault) => fault,
        }
    }
}

impl From<Fault> for AttemptError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Interim answers that one request may get: more are an attack on the client.
const INTERIM_ANSWERS_MAX: usize = 16;

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
    let sent = outbox.send(origin.socket, |out| {
        build(out);
        Ok::<_, Infallible>(())
    });
    let rest = match sent {
        Ok(sent) => sent.rest,
        // Nothing went out; where the origin has said something before it closed (408, say), a new
        // connection gets the same answer.
        Err(Unsent::Broken) => return Err(AttemptError::NotSent),
        Err(Unsent::Refused(never)) => match never {},
    };
    if let Some(rest) = rest {
        origin.send_all(&rest).await.map_err(|error| match error {
            WaitError::Failed(_) => AttemptError::NoResponse,
            error => error.on(Side::Origin, Act::Take).into(),
        })?;
    }
    Ok(())
}

/// A response that is waited for.
pub(crate) trait Reply {
    /// Where its head is read into.
    fn head(&mut self) -> &mut ResponseHead;

    /// Begins to wait for bytes of it: for the first ones, or for more than `buffer` has. The wait
    /// itself comes back, because most responses come within it, and a future around it costs.
    fn recv(&mut self, buffer: Option<HeadBuffer>) -> Result<Recv<'_>, Fault>;

    /// Goes on waiting, where that wait has brought nothing.
    async fn recv_late(&mut self, buffer: HeadBuffer) -> Received {
        Ok((Err(WaitError::Expired), buffer))
    }

    /// Whether the head that has been read is not that of an interim response.
    fn is_final(&mut self) -> bool {
        self.head().status >= 200
    }

    /// An interim response, whose head `buffer` begins with.
    async fn interim(&mut self, _buffer: &HeadBuffer) -> Result<(), Fault> {
        Ok(())
    }
}

/// What a wait for bytes came to; an error where it was given up.
pub(crate) type Received = Result<(Result<usize, WaitError>, HeadBuffer), Fault>;

/// Reads until the head of the final response is there, at the beginning of the buffer.
pub(crate) async fn read_head(
    reply: &mut impl Reply,
    limits: HeadLimits,
    method: Method,
) -> Result<HeadBuffer, AttemptError> {
    let mut interims = 0;
    reply.head().reset();
    let mut buffer = None;
    loop {
        let (mut received, mut filled) = reply.recv(buffer)?.await;
        if matches!(received, Err(WaitError::Expired)) {
            (received, filled) = reply.recv_late(filled).await?;
        }
        match received {
            Ok(1..) => {}
            Ok(0) | Err(WaitError::Failed(_)) if filled.is_empty() && interims == 0 => {
                return Err(AttemptError::NoResponse);
            }
            Ok(0) => return Err(Fault::OriginTruncated.into()),
            Err(error) => return Err(error.on(Side::Origin, Act::Send).into()),
        }
        while reply.head().parse(filled.filled(), &limits, method).map_err(Fault::OriginHead)? {
            if reply.is_final() {
                return Ok(filled);
            }
            interims += 1;
            if reply.head().status == 101 || interims > INTERIM_ANSWERS_MAX {
                return Err(Fault::OriginAnswer.into());
            }
            reply.interim(&filled).await?;
            filled.consume(reply.head().bytes);
            reply.head().reset();
        }
        filled.make_room(limits.head_bytes).map_err(no_room)?;
        buffer = Some(filled);
    }
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
