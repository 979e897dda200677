//! A client that speaks HTTP/2: many requests at a time on one connection, by the h2 crate.
//!
//! In go what the kernel has for it and what is to be asked; out goes the same check as that of
//! `client`: each answer is that of its own request, whole, or seen to be cut. The crate knows
//! nothing of simulated time: it is asked whenever something has come or can go.

use crate::chance::Chance;
use crate::client::PROXY;
use crate::facts::{Fact, Facts, Method};
use crate::kernel::{Found, Kernel};
use crate::origin::Next;
use crate::pipe::{End, Flag, Pipe};
use crate::wire::{Framing, Tag};
use bytes::Bytes;
use futures_util::future::{join, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

/// What a stream has seen.
enum Note {
    Sent(usize),
    Head { id: usize, status: u16, whose: Option<usize>, attempt: usize, proxy: String },
    Body(usize, Bytes),
    Ended(usize),
    Cut(usize, String),
}

type Notes = Rc<RefCell<VecDeque<Note>>>;

pub(crate) struct Streams {
    connection: Option<usize>,
    is_calm: bool,
    pace: u64,
    pipe: Rc<RefCell<Pipe>>,
    notes: Notes,
    flag: Arc<Flag>,
    talk: Option<Pin<Box<dyn Future<Output = ()>>>>,
    plan: Vec<usize>,
    /// By request: of which attempt its answer is, and how much of it has come.
    answers: HashMap<usize, (Option<usize>, usize)>,
    pub is_gone: bool,
    pub progress_us: u64,
}

impl Streams {
    pub(crate) fn new(plan: Vec<usize>, is_calm: bool, chance: &mut Chance) -> Self {
        Self {
            connection: None,
            is_calm,
            pace: [50, 400, 5000][chance.below(3)],
            pipe: Rc::default(),
            notes: Rc::default(),
            flag: Arc::new(Flag(AtomicBool::new(true))),
            talk: None,
            plan,
            answers: HashMap::new(),
            is_gone: false,
            progress_us: 0,
        }
    }

    pub(crate) fn connection(&self) -> Option<usize> {
        self.connection
    }

    pub(crate) fn describe(&self) -> String {
        format!("HTTP/2, answers under way {:?}", self.answers)
    }

    pub(crate) fn step(
        &mut self,
        kernel: &mut Kernel,
        facts: &mut Facts,
        chance: &mut Chance,
    ) -> Next {
        let Some(connection) = self.connection else { return self.come(kernel, facts, chance) };
        if !self.is_calm && chance.once_in(600) {
            let is_reset = chance.once_in(2);
            return self.leave(kernel, facts, connection, is_reset);
        }
        let mut came = Vec::new();
        let found = kernel.peer_receive(connection, &mut came, 1 + chance.size(17));
        if !came.is_empty() {
            self.progress_us = kernel.now_us;
            facts.bytes += came.len() as u64;
        }
        let has_ended = matches!(found, Found::End | Found::Reset);
        self.pipe.borrow_mut().take_in(&came, has_ended);
        let is_over = self.talk_on();
        self.take_notes(kernel, facts);
        self.send(kernel, connection, chance);
        let has_more = !self.pipe.borrow().goes.is_empty();
        let has_ended = self.pipe.borrow().has_ended;
        if is_over && (!has_more || has_ended) {
            return self.leave(kernel, facts, connection, false);
        }
        let reads = kernel.peer_pending(connection) > 0 || kernel.is_over_for_peer(connection);
        let writes = has_more && kernel.peer_room(connection) > 0;
        let goes_on = self.flag.0.load(Ordering::Relaxed);
        if reads || writes || goes_on {
            return Next::After(chance.next() % self.pace);
        }
        Next::Stirred
    }

    fn come(&mut self, kernel: &mut Kernel, facts: &mut Facts, chance: &mut Chance) -> Next {
        let connection = if self.plan.is_empty() { None } else { kernel.come(PROXY) };
        let Some(connection) = connection else {
            self.is_gone = true;
            return Next::Gone;
        };
        self.connection = Some(connection);
        self.progress_us = kernel.now_us;
        let asks = self.plan.drain(..).map(|id| (id, facts.requests[id].clone())).collect();
        let depth = 1 + chance.below(12);
        let window = [1 << 12, 65_535, 1 << 20][chance.below(3)];
        let resets = if self.is_calm { None } else { Some(chance.clone()) };
        let end = End(self.pipe.clone());
        let talk = converse(end, asks, self.notes.clone(), (depth, window), resets);
        self.talk = Some(Box::pin(talk));
        Next::After(chance.next() % self.pace)
    }

    /// Lets the crate go on as far as it can; whether it has come to the end.
    fn talk_on(&mut self) -> bool {
        let waker = Waker::from(self.flag.clone());
        let mut cx = Context::from_waker(&waker);
        let Some(talk) = &mut self.talk else { return true };
        while self.flag.0.swap(false, Ordering::Relaxed) {
            if talk.as_mut().poll(&mut cx).is_ready() {
                self.talk = None;
                return true;
            }
        }
        false
    }

    fn send(&mut self, kernel: &mut Kernel, connection: usize, chance: &mut Chance) {
        let mut pipe = self.pipe.borrow_mut();
        let most = 1 + chance.size(17);
        if pipe.let_out(most, |bytes| kernel.peer_send(connection, bytes)) > 0 {
            self.progress_us = kernel.now_us;
        }
    }

    fn take_notes(&mut self, kernel: &Kernel, facts: &mut Facts) {
        let notes = std::mem::take(&mut *self.notes.borrow_mut());
        for note in notes {
            match note {
                Note::Sent(id) => facts.requests[id].is_sent = true,
                Note::Head { id, status, whose, attempt, proxy } => match whose {
                    Some(other) if other != id => {
                        facts.offend(format!("stream {id} got the answer to {other}"));
                    }
                    Some(_) => drop(self.answers.insert(id, (Some(attempt), 0))),
                    None => {
                        if self.is_calm {
                            facts
                                .offend(format!("stream {id} got {status} without cause: {proxy}"));
                        }
                        facts.refuse(format_args!("stream {id}"), status, &proxy);
                        self.answers.insert(id, (None, 0));
                    }
                },
                Note::Body(id, bytes) => {
                    let Some((attempt, position)) = self.answers.get_mut(&id) else { continue };
                    if attempt.is_some_and(|it| !Tag::answer(id, it).fits(*position, &bytes)) {
                        facts.offend(format!("stream {id}: other bytes from {position} on"));
                    }
                    *position += bytes.len();
                }
                Note::Ended(id) => self.finish(id, facts),
                Note::Cut(id, why) => {
                    self.answers.remove(&id);
                    facts.cut += 1;
                    if self.is_calm && !kernel.is_draining {
                        facts.offend(format!("stream {id} was cut without cause: {why}"));
                    }
                }
            }
        }
    }

    fn finish(&mut self, id: usize, facts: &mut Facts) {
        let Some((attempt, position)) = self.answers.remove(&id) else { return };
        let Some(attempt) = attempt else {
            facts.refused += 1;
            return;
        };
        let fact = facts.requests[id].clone();
        let Some(answer) = fact.answers.get(attempt).copied() else {
            return facts.offend(format!("stream {id}: no such answer"));
        };
        let has_body = fact.method != Method::Head && answer.framing != Framing::None;
        let length = if has_body { answer.length } else { 0 };
        if position != length || answer.is_cut {
            facts.offend(format!("stream {id}: {position} of {length} as a whole; {fact:?}"));
        }
        facts.whole += 1;
    }

    fn leave(
        &mut self,
        kernel: &mut Kernel,
        facts: &mut Facts,
        connection: usize,
        is_reset: bool,
    ) -> Next {
        self.take_notes(kernel, facts);
        self.talk = None;
        self.connection = None;
        self.is_gone = true;
        kernel.peer_leave(connection, is_reset);
        Next::Gone
    }
}

async fn converse(
    end: End,
    asks: Vec<(usize, Fact)>,
    notes: Notes,
    (depth, window): (usize, u32),
    mut resets: Option<Chance>,
) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
    // Its guard against many small frames: origins here trickle.
    builder.data_frame_budget(1 << 30);
    let shaken = builder.handshake::<_, Bytes>(end).await;
    let Ok((mut sender, connection)) = shaken else { return };
    let talk = async {
        let mut running = FuturesUnordered::new();
        for (id, fact) in asks {
            while running.len() >= depth {
                running.next().await;
            }
            let Ok(ready) = sender.ready().await else { return };
            sender = ready;
            let is_reset = resets.as_mut().is_some_and(|chance| chance.once_in(12));
            let Ok(sent) = sender.send_request(request(id, &fact), fact.framing == Framing::None)
            else {
                continue;
            };
            running.push(exchange(id, fact, sent, notes.clone(), is_reset));
            // Others get on too, before the next one begins.
            let mut has_yielded = false;
            poll_fn(|cx| {
                let _ = running.poll_next_unpin(cx);
                if std::mem::replace(&mut has_yielded, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
        while running.next().await.is_some() {}
        drop(sender);
    };
    let _ = join(connection, talk).await;
}

fn request(id: usize, fact: &Fact) -> http::Request<()> {
    let mut request = http::Request::builder()
        .method(fact.method.name())
        .uri(format!("http://sim/r/{id}"))
        .header("x-id", id);
    if fact.framing == Framing::Length {
        request = request.header("content-length", fact.length);
    }
    request.body(()).expect("a request")
}

async fn exchange(
    id: usize,
    fact: Fact,
    (response, mut stream): (h2::client::ResponseFuture, h2::SendStream<Bytes>),
    notes: Notes,
    is_reset: bool,
) {
    let note = |what| notes.borrow_mut().push_back(what);
    let upload = async {
        let mut position = 0;
        while position < fact.length && fact.framing != Framing::None {
            if is_reset && position * 2 > fact.length {
                return stream.send_reset(h2::Reason::CANCEL);
            }
            stream.reserve_capacity((fact.length - position).min(16_384));
            let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            let count = room.min(fact.length - position);
            let mut bytes = Vec::new();
            Tag::request(id).write(position, count, &mut bytes);
            if stream.send_data(bytes.into(), false).is_err() {
                return;
            }
            position += count;
        }
        note(Note::Sent(id));
        if fact.framing == Framing::Trailers {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-after", http::HeaderValue::from_static("1"));
            let _ = stream.send_trailers(trailers);
        } else if fact.framing != Framing::None {
            let _ = stream.send_data(Bytes::new(), true);
        }
    };
    let download = async {
        let answer = match response.await {
            Ok(answer) => answer,
            Err(error) => return note(Note::Cut(id, error.to_string())),
        };
        let text = |name: &str| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let number = |name: &str| text(name)?.parse::<usize>().ok();
        note(Note::Head {
            id,
            status: answer.status().as_u16(),
            whose: number("x-id"),
            attempt: number("x-attempt").unwrap_or(usize::MAX),
            proxy: text("proxy-status").unwrap_or_default(),
        });
        let mut body = answer.into_body();
        while let Some(bytes) = body.data().await {
            match bytes {
                Ok(bytes) => {
                    let _ = body.flow_control().release_capacity(bytes.len());
                    note(Note::Body(id, bytes));
                }
                Err(error) => return note(Note::Cut(id, error.to_string())),
            }
        }
        match body.trailers().await {
            Ok(_) => note(Note::Ended(id)),
            Err(error) => note(Note::Cut(id, error.to_string())),
        }
    };
    join(upload, download).await;
}
