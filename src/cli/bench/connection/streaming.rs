//! A connection that speaks HTTP/2: moves bytes between its socket and its streams.
//!
//! In comes readiness; out comes what it has come to, and in the tools what has become of requests.
//! What is to be sent leaves when the load has asked all that it wants to, so that one call sends
//! many requests.

use std::io::ErrorKind as IoError;
use std::time::Instant;

use super::{BUFFER_BYTES, CALLS_PER_TURN, Connection, Stage, Tools, Turn};
use crate::cli::bench::options::{Http2, Plan};
use crate::cli::bench::streams::Streams;
use crate::cli::bench::tally::ErrorKind;
use crate::tls::session::Session;

impl Connection {
    /// Whoever is at the other end is told that this is HTTP/2.
    pub(super) fn begin_streams(&mut self, plan: &Plan, http2: &Http2, tools: &mut Tools) -> Turn {
        let Some(socket) = &self.socket else { return Turn::Waiting };
        let is_plain_in_tls = plan.tunnel.is_some() && !plan.has_tls_in_tunnel();
        let speaks_http2 = socket.session(Session::speaks_http2).unwrap_or(true);
        if !speaks_http2 && !is_plain_in_tls {
            return Turn::Failed(ErrorKind::Http2);
        }
        self.streams = Some(Box::new(Streams::new(http2.streams, tools.now_ms)));
        self.stage = Stage::Settling;
        self.flush(http2, tools)
    }

    /// Reads what is there. What is sent in return waits for [`Connection::flush`].
    pub(super) fn stream(&mut self, plan: &Plan, tools: &mut Tools) -> Turn {
        let mut is_more = true;
        self.is_readable = true;
        for _ in 0..CALLS_PER_TURN {
            let room = match plan.slow_read {
                None => BUFFER_BYTES,
                Some(_) => usize::try_from(self.allowance).unwrap_or(BUFFER_BYTES),
            };
            let (Some(socket), Some(streams)) = (&self.socket, &mut self.streams) else {
                return Turn::Waiting;
            };
            let wanted = room.min(BUFFER_BYTES);
            if wanted == 0 {
                is_more = false;
                break;
            }
            let count = match socket.try_recv(&mut tools.buffer[..wanted]) {
                Ok(0) => return self.hung_up(),
                Ok(count) => count,
                Err(error) if error.kind() == IoError::WouldBlock => {
                    (is_more, self.is_readable) = (false, false);
                    break;
                }
                Err(error) if error.kind() == IoError::InvalidData => {
                    return Turn::Failed(ErrorKind::BadRecord);
                }
                Err(_) => return self.hung_up(),
            };
            tools.bytes_read += count as u64;
            if plan.slow_read.is_some() {
                self.allowance -= count as u64;
            }
            let bytes = &tools.buffer[..count];
            if let Err(kind) = streams.take(bytes, tools.now_ms, &mut tools.outcomes) {
                return Turn::Failed(kind);
            }
        }
        let is_settled = self.streams.as_ref().is_some_and(|streams| streams.is_settled());
        if self.stage == Stage::Settling && is_settled {
            self.stage = Stage::Streaming;
            return Turn::Opened;
        }
        Turn::Streamed { is_more }
    }

    /// The connection has ended, which is nobody's fault where nothing was under way.
    fn hung_up(&self) -> Turn {
        let is_opening = self.stage == Stage::Settling;
        let under_way = self.streams.as_ref().map_or(0, |streams| streams.under_way());
        if is_opening || under_way > 0 { Turn::Failed(ErrorKind::Reset) } else { Turn::Closed }
    }

    /// Asks one more thing, where that is possible.
    pub(in crate::cli::bench) fn ask(
        &mut self,
        http2: &Http2,
        intended: Instant,
        deadline: Instant,
    ) -> bool {
        let streams = self.streams.as_mut().filter(|_| self.stage == Stage::Streaming);
        streams.is_some_and(|it| it.can_ask() && it.ask(&http2.ask, intended, deadline))
    }

    pub(in crate::cli::bench) fn can_ask(&self) -> bool {
        let streams = self.streams.as_ref().filter(|_| self.stage == Stage::Streaming);
        streams.is_some_and(|streams| streams.can_ask())
    }

    /// Whether it has nothing under way and is of no further use.
    pub(in crate::cli::bench) fn is_spent(&self) -> bool {
        self.streams.as_ref().is_some_and(|streams| streams.is_spent())
    }

    /// Why one that is spent was of no use at any time.
    pub(in crate::cli::bench) fn refusal(&self) -> Option<ErrorKind> {
        self.streams.as_ref()?.refusal()
    }

    /// Requests that are lost with the connection.
    pub(in crate::cli::bench) fn under_way(&self) -> usize {
        self.streams.as_ref().map_or(0, |streams| streams.under_way())
    }

    /// Gives up what should have been answered.
    pub(in crate::cli::bench) fn expire(&mut self, now: Instant, tools: &mut Tools) {
        if let Some(streams) = &mut self.streams {
            streams.expire(now, &mut tools.outcomes);
        }
    }

    /// Sends what is to be sent, as far as that goes now.
    pub(in crate::cli::bench) fn flush(&mut self, http2: &Http2, tools: &mut Tools) -> Turn {
        let (Some(socket), Some(streams)) = (&self.socket, &mut self.streams) else {
            return Turn::Waiting;
        };
        for _ in 0..CALLS_PER_TURN {
            let bytes = streams.pending(&http2.ask);
            if bytes.is_empty() {
                return Turn::Waiting;
            }
            match socket.try_send(bytes) {
                Ok(count) => {
                    tools.bytes_written += count as u64;
                    streams.consume(count);
                }
                Err(error) if error.kind() == IoError::WouldBlock => return Turn::Waiting,
                Err(_) => return self.hung_up(),
            }
        }
        Turn::Again
    }
}
