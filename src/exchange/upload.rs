//! The request's body on its way to the origin, beside the wait for the answer.
//!
//! In goes what came with the head and the two sockets; out comes how the upload ended, while
//! somebody else waits for the answer or passes it on. An origin may answer before it has read
//! everything, and a client that fails half-way makes an answer pointless: both are told here.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::config::{HalfClose, TimeoutsConfig};
use crate::exchange::mirror::Copying;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::fault::Fault;
use crate::http::BodyLength;
use crate::http::chunk_rules::ChunkRules;
use crate::observe::connection_stats::{ConnectionStats, Moment, WaitsOn};
use crate::relay::pour::pour;
use crate::relay::side::{Act, Side};
use crate::relay::stored::Stored;
use crate::relay::{Control, Decoder, Encoding, Receiver, RelayError, Sender, Transfer};
use crate::ring::hang_up::unless_hung_up;
use crate::ring::{Deadlines, Socket, WaitError, clock};
use crate::worker::Worker;
use crate::worker::generation::Generation;

/// What is known of the request's body when its head has been read.
pub(crate) struct RequestBody {
    /// Bytes of it that came before a connection was looked for and are in the inbox behind the
    /// head.
    pub in_inbox: usize,
    /// What of its chunks goes on.
    pub(crate) rules: ChunkRules,
    /// A larger one is answered 413.
    pub(crate) bytes_max: u64,
    pub(super) decoder: Decoder,
    /// It comes in chunks, and goes on with its length where that is known before anything of it is
    /// sent.
    pub(super) is_counted: bool,
    /// What of it has come behind what is in the inbox, and is held for the origin.
    pub(super) kept: Cell<Option<Rc<Kept>>>,
    /// A copy of the request that somebody else is to get.
    pub(super) copy: Option<Box<Copying>>,
}

/// A part of a body that is held.
pub(super) struct Kept {
    /// Where in the body it begins.
    pub start: Decoder,
    pub held: Stored,
}

impl RequestBody {
    /// Before anything of it has been looked at.
    #[inline]
    pub(crate) fn of(request: &Request<'_, impl ClientStream>) -> Self {
        Self {
            in_inbox: 0,
            rules: ChunkRules::BARE,
            bytes_max: request.peer.generation.config.limits.body_bytes,
            decoder: Decoder::of(request.head.body),
            is_counted: false,
            kept: Cell::new(None),
            copy: None,
        }
    }

    /// Looks at what came with the head, so that a bad chunk is refused before anything of the
    /// request has been forwarded.
    #[inline]
    pub(crate) fn begin(&mut self, request: &Request<'_, impl ClientStream>) -> Result<(), Fault> {
        if request.head.body.is_empty() {
            return Ok(());
        }
        judge_length(request.head.body, self.bytes_max)?;
        self.look(request).map(drop)
    }

    /// Whether more of it is waited for before an origin is asked. Whoever waits for leave to begin
    /// gets that from the origin.
    #[inline]
    pub(crate) fn is_awaited<S>(&self, request: &Request<'_, S>) -> bool {
        !self.is_whole() && !request.head.expects_continue && !self.may_follow(request)
    }

    /// Whether its client may wait for an answer before it says anything: a server of gRPC may be
    /// the first to speak.
    fn may_follow<S>(&self, request: &Request<'_, S>) -> bool {
        self.in_inbox == 0
            && request.head.body == BodyLength::Chunked
            && request.grpc_type().is_some()
    }

    /// Waits until the origin can be of use: until all of a small body is in the inbox, or the
    /// first bytes of a larger one. Nothing is held for a client that says nothing more.
    pub(crate) async fn arrive(
        &mut self,
        request: &mut Request<'_, impl ClientStream>,
        record: &mut Record,
    ) -> Result<(), Fault> {
        let generation = request.peer.generation.clone();
        let room = request.peer.worker.heads.buffer_bytes();
        let known = request.head.bytes + self.in_inbox;
        let room = room.saturating_sub(known) as u64;
        let is_small = matches!(self.decoder, Decoder::Sized(left) if left <= room);
        while !self.is_whole() && (is_small || self.in_inbox == 0) {
            if request.inbox.make_room(generation.head_limits.head_bytes).is_err() {
                // A head that fills its buffer: the rest goes by way of the upload.
                return Ok(());
            }
            request.peer.stats.waits_on.set(WaitsOn::ClientToSend);
            let silence = request.peer.times.read;
            let inbox = std::mem::take(&mut request.inbox);
            let (received, inbox) =
                request.stream.socket().recv(inbox, &request.peer.worker.deadlines, silence).await;
            request.inbox = inbox;
            match received {
                Ok(0) => return Err(Fault::ClientBodyIncomplete),
                Ok(_) => {}
                Err(WaitError::Interrupted) if !request.peer.stats.is_ended() => continue,
                Err(error) => return Err(error.on(Side::Client, Act::Send)),
            }
            request.peer.stats.moved.set(Moment::at_ms(clock::coarse_ms()));
            let used = self.look(request)?;
            record.received(request.peer.stats, used as u64);
        }
        request.bytes = request.head.bytes + self.in_inbox;
        request.is_whole = self.is_whole();
        self.settle_copy();
        Ok(())
    }

    /// Looks at what of it has come since the last time; how much that was.
    fn look(&mut self, request: &Request<'_, impl ClientStream>) -> Result<usize, Fault> {
        let news = &request.inbox.filled()[request.head.bytes + self.in_inbox..];
        let used = self.decoder.advance(news).map_err(Fault::ClientChunk)?.used;
        if self.payload_bytes() > self.bytes_max {
            return Err(Fault::ClientBodyTooLarge);
        }
        self.copy_passing(&news[..used]);
        self.in_inbox += used;
        Ok(used)
    }

    /// Has whoever gets a copy of it get these bytes of it, which come next.
    #[inline]
    pub(super) fn copy_passing(&self, bytes: &[u8]) {
        if let Some(copy) = &self.copy {
            copy.body.add(bytes);
        }
    }

    /// Sends the copy, if there is to be one and all of it has come.
    #[inline]
    pub(super) fn settle_copy(&self) {
        if let Some(copy) = &self.copy {
            copy.settle();
        }
    }

    /// All of it has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.decoder.is_done()
    }

    /// All of it has come, in the form in which it goes on.
    #[inline]
    pub(super) fn goes_unchanged<S>(&self, request: &Request<'_, S>) -> bool {
        self.is_whole() && request.head.body != BodyLength::Chunked
    }

    /// All of it goes out with the head.
    pub(super) fn goes_with_head(&self) -> bool {
        let kept = self.kept.take();
        let is_kept = kept.is_some();
        self.kept.set(kept);
        self.is_whole() && !is_kept
    }

    fn kept(&self) -> Option<Rc<Kept>> {
        let kept = self.kept.take();
        self.kept.set(kept.clone());
        kept
    }

    /// Gives back what is held: it has been sent, and will not be sent again.
    pub(super) fn release(&self, stats: &ConnectionStats) {
        if let Some(kept) = self.kept.take() {
            let bytes = u32::try_from(kept.held.memory_bytes()).unwrap_or(u32::MAX);
            stats.moved_on(bytes);
        }
    }

    /// The length that the origin is told of a body that came in chunks.
    pub(super) fn length(&self) -> Option<u64> {
        (self.is_counted && self.is_whole()).then(|| self.payload_bytes())
    }

    /// Appends what goes on of what is in the inbox.
    pub(super) fn put(&self, request: &Request<'_, impl ClientStream>, out: &mut Vec<u8>) {
        if self.length().is_none() {
            return put_body(request, self.in_inbox, self.rules, out);
        }
        let head = &request.head;
        let body = &request.inbox.filled()[head.bytes..head.bytes + self.in_inbox];
        let put = Encoding::Payload.append(&mut Decoder::of(head.body), body, out);
        debug_assert!(put.is_ok(), "it has been looked at when it came");
    }

    /// Bytes of it that are known of: all of them, unless it comes in chunks.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.decoder.payload_bytes()
    }

    /// Bytes of it that are known of by what its head says, or by what has come.
    pub(super) fn known_bytes<S>(&self, request: &Request<'_, S>) -> u64 {
        match request.head.body {
            BodyLength::Exact(bytes) => bytes,
            _ => self.payload_bytes(),
        }
    }

    fn rest(&self) -> Option<Decoder> {
        (!self.is_whole()).then(|| self.decoder.with(self.rules))
    }
}

/// Appends what goes on of the body of the client's request, of which `bytes` follow the head.
pub(crate) fn put_body(
    request: &Request<'_, impl ClientStream>,
    bytes: usize,
    rules: ChunkRules,
    out: &mut Vec<u8>,
) {
    let head = &request.head;
    let body = &request.inbox.filled()[head.bytes..head.bytes + bytes];
    if head.body != BodyLength::Chunked || rules == ChunkRules::STRICT {
        return out.extend_from_slice(body);
    }
    let put = Encoding::AsIs.append(&mut Decoder::of(head.body).with(rules), body, out);
    debug_assert!(put.is_ok(), "it has been looked at when it came");
}

/// Refuses a body that says itself that it is larger than `limit`.
pub(crate) fn judge_length(body: BodyLength, limit: u64) -> Result<(), Fault> {
    match body {
        BodyLength::Exact(bytes) if bytes > limit => Err(Fault::ClientBodyTooLarge),
        _ => Ok(()),
    }
}

/// Who takes part in an upload, and what it goes by: the request itself is lent to whoever waits
/// for the answer meanwhile.
pub(crate) struct Parties {
    client: Socket,
    origin: Socket,
    generation: Rc<Generation>,
    times: Rc<TimeoutsConfig>,
}

impl Parties {
    pub(crate) fn of(request: &Request<'_, impl ClientStream>, origin: &Socket) -> Self {
        Self {
            client: request.stream.socket().clone(),
            origin: origin.clone(),
            generation: request.peer.generation.clone(),
            times: request.peer.times.clone(),
        }
    }
}

/// Moves what of the request's body did not go out with the head.
pub(crate) async fn upload_rest(
    worker: &Worker,
    parties: &Parties,
    stats: &ConnectionStats,
    body: &RequestBody,
    progress: &Progress,
) -> Result<(), RelayError> {
    let Parties { client, origin, generation, times } = parties;
    let silence = times.read;
    let from = Sender {
        socket: client,
        silence,
        stats: (stats, WaitsOn::ClientToSend),
        flow: &stats.received,
    };
    let to = Receiver {
        socket: origin,
        deadlines: &worker.deadlines,
        stall: silence,
        half_close: HalfClose::Keep,
        stats: Some((stats, WaitsOn::OriginToTake)),
    };
    if let Some(kept) = body.kept() {
        // Nobody waits for the client meanwhile, and its answer may be nobody's any more.
        let poured = pour_kept(kept, body, to, &progress.control);
        let half_close = parties.generation.config.server.half_close;
        let watch = (half_close, &*worker.deadlines);
        let poured = Box::pin(unless_hung_up(poured, origin, client, watch)).await;
        poured.ok_or(RelayError::FromFailed)??;
    }
    let Some(decoder) = body.rest() else {
        stats.waits_on.set(WaitsOn::OriginToAnswer);
        return Ok(());
    };
    // The receive for the answer is pending on the origin's socket.
    let buffers = &generation.config.buffers;
    let transfer = Transfer::new(worker.means(), buffers, from, to, &progress.control)
        .exact(body.bytes_max)
        .unpiped()
        .copied(body.copy.as_ref().map(|copy| &copy.body));
    let moved = transfer.run(decoder, Encoding::AsIs).await;
    stats.waits_on.set(WaitsOn::OriginToAnswer);
    if moved.is_ok() {
        body.settle_copy();
    }
    moved.map(drop)
}

/// Sends what is held of the body.
async fn pour_kept(
    kept: Rc<Kept>,
    body: &RequestBody,
    to: Receiver<'_>,
    control: &Control,
) -> Result<(), RelayError> {
    let is_counted = body.length().is_some();
    let encoding = if is_counted { Encoding::Payload } else { Encoding::AsIs };
    pour(&kept.held, (kept.start.with(body.rules), encoding), to, control).await
}

/// The upload beside the wait for, and the download of, the answer; most requests have none.
pub(crate) struct Upload<'a, F> {
    future: Pin<&'a mut Option<F>>,
    parties: Option<&'a Parties>,
    progress: &'a Progress,
    /// By which it waits.
    deadlines: &'a Deadlines,
    outcome: Option<Result<(), RelayError>>,
}

impl<'a, F: Future<Output = Result<(), RelayError>>> Upload<'a, F> {
    pub(crate) fn new(
        future: Pin<&'a mut Option<F>>,
        parties: Option<&'a Parties>,
        progress: &'a Progress,
        deadlines: &'a Deadlines,
    ) -> Self {
        let outcome = (!progress.is_running()).then_some(Ok(()));
        Self { future, parties, progress, deadlines, outcome }
    }

    /// Drives the upload while `foreground` is under way, which comes pinned because a future that
    /// is passed by value is copied.
    pub(crate) async fn beside<T>(
        &mut self,
        mut foreground: Pin<&mut impl Future<Output = T>>,
    ) -> T {
        std::future::poll_fn(|cx| {
            if self.outcome.is_none()
                && let Some(upload) = self.future.as_mut().as_pin_mut()
                && let Poll::Ready(outcome) = upload.poll(cx)
            {
                self.progress.end(outcome.is_ok());
                self.outcome = Some(outcome);
                if self.fault().is_some() {
                    // Ends the wait for an answer that cannot come, whether or not it has begun: an
                    // interruption would only end what is pending now. The end of the connection is
                    // then not the end of an answer.
                    self.progress.download.is_over.set(true);
                    if let Some(parties) = self.parties {
                        parties.origin.cut();
                    }
                }
            }
            foreground.as_mut().poll(cx)
        })
        .await
    }

    /// Why there is no point in waiting for an answer. An origin that stops taking the body is no
    /// reason: it may have answered already.
    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.outcome.as_ref()?.as_ref().err()? {
            RelayError::ToFailed => None,
            // It waits for a 100 that the origin does not send.
            RelayError::FromExpired if self.progress.control.is_held_back.get() => {
                Some(Fault::OriginReadTimeout)
            }
            broken => Some(broken.of_body(Side::Client)),
        }
    }

    /// Ends an upload that is under way and that nobody needs any more.
    pub(crate) async fn end(&mut self) {
        if self.outcome.is_none()
            && let Some(parties) = self.parties
            && let Some(upload) = self.future.as_mut().as_pin_mut()
        {
            // An interruption ends what is pending; the flag, what would begin after it.
            self.progress.control.is_over.set(true);
            parties.client.interrupt(self.deadlines);
            parties.origin.interrupt(self.deadlines);
            let outcome = upload.await;
            self.progress.end(outcome.is_ok());
            self.outcome = Some(outcome);
        }
    }
}

/// How far an upload is, for those that wait beside it.
pub(crate) struct Progress {
    /// When it ended, on the coarse clock: `RUNNING` while it has not, 0 where there was none.
    pub(crate) ended_ms: Cell<u64>,
    /// The body has been read to its end: what follows it is the next request.
    is_complete: Cell<bool>,
    pub(crate) control: Control,
    /// Of the answer's body, which goes the other way.
    pub(crate) download: Control,
    /// Bytes of interim answers that the client has been sent.
    pub(crate) interim_bytes: Cell<u64>,
}

const RUNNING: u64 = u64::MAX;

impl Progress {
    pub(crate) fn new(is_whole: bool, expects_continue: bool) -> Self {
        let control = Control::default();
        control.is_held_back.set(expects_continue);
        let download = Control::default();
        // While the client still uploads, the upload sees it go away.
        download.is_watching.set(is_whole);
        Self {
            ended_ms: Cell::new(if is_whole { 0 } else { RUNNING }),
            is_complete: Cell::new(is_whole),
            control,
            download,
            interim_bytes: Cell::new(0),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ended_ms.get() == RUNNING
    }

    /// Whether all of the body has gone to the origin. An upload that has ended may have ended half
    /// way, where its origin took no more: the rest is then still to come, and no request.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    fn end(&self, is_complete: bool) {
        self.ended_ms.set(clock::coarse_ms());
        self.is_complete.set(is_complete);
        self.download.is_watching.set(true);
    }
}
