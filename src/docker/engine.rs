//! A Docker engine, as its API has it, over a Unix socket.
//!
//! In goes what is asked for; out come one whole answer, or the events as they happen. Nothing is
//! believed: an answer has a bound and a deadline, and so has an event its bound. No path has a
//! version in it: engines give up old ones, and all of them take none.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body as Sent;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

/// Running containers that want to be served.
pub(super) const LIST: &str =
    "/containers/json?filters=%7B%22label%22%3A%5B%22ringway.enable%22%5D%7D";

/// What may change the list. `{"type":["container","network"],"event":[...]}`.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%2C\
    %22event%22%3A%5B%22start%22%2C%22die%22%2C%22kill%22%2C%22stop%22%2C%22pause%22%2C\
    %22unpause%22%2C%22rename%22%2C%22destroy%22%2C%22health_status%22%2C%22connect%22%2C\
    %22disconnect%22%5D%7D";

/// For all of an answer, and for the beginning of the events.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container with many labels takes 8 KiB in a list.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// An event has all labels of its container.
const EVENT_BYTES_MAX: usize = 256 * 1024;

const HEAD_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Engine {
    socket: PathBuf,
}

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The container with this id has been told to stop.
    Stopping(String),
    /// The one with this id has ended, or begun anew: what it was told before is over.
    Settled(String),
    Other,
}

/// A connection on which events come.
pub(super) struct Events {
    body: Incoming,
    /// What has come of the next one.
    line: Vec<u8>,
    _connection: Connection,
}

/// Ends the connection when it is dropped, whatever is still to come on it.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The whole answer to a GET of `path`.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let asked = async {
            let (response, _connection) = self.ask(path).await?;
            let mut body = response.into_body();
            let mut answer = Vec::new();
            while let Some(data) = next_data(&mut body).await? {
                if answer.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(format!("{path}: more than {ANSWER_BYTES_MAX} bytes"));
                }
                answer.extend_from_slice(&data);
            }
            Ok(answer)
        };
        in_time(path, asked).await
    }

    pub(super) async fn events(&self) -> Result<Events, String> {
        let (response, connection) = in_time("/events", self.ask(EVENTS)).await?;
        let (body, line) = (response.into_body(), Vec::new());
        Ok(Events { body, line, _connection: connection })
    }

    async fn ask(&self, path: &str) -> Result<(Response<Incoming>, Connection), String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| error.to_string())?;
        let connection = Connection(tokio::spawn(async { drop(connection.await) }).abort_handle());
        let request = Request::get(path).header("Host", "docker").body(Sent::empty());
        let request = request.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        if status.as_u16() != 200 {
            return Err(format!("{}: status {status}", path.split('?').next().unwrap_or(path)));
        }
        Ok((response, connection))
    }
}

impl Events {
    /// The next one. The error says how the connection has ended.
    pub(super) async fn next(&mut self) -> Result<Event, String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.line) {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return event(&line);
            }
            if self.line.len() > EVENT_BYTES_MAX {
                return Err(format!("an event of more than {EVENT_BYTES_MAX} bytes"));
            }
            match next_data(&mut self.body).await? {
                Some(data) => self.line.extend_from_slice(&data),
                None => return Err("the engine has ended the connection".to_owned()),
            }
        }
    }
}

async fn in_time<T>(
    path: &str,
    asked: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("{path}: no answer in {} s", PATIENCE.as_secs())),
    }
}

async fn next_data(body: &mut Incoming) -> Result<Option<bytes::Bytes>, String> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(error.to_string()),
            // Trailers say nothing.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct RawEvent {
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: Actor,
}

#[derive(Default, Deserialize)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
struct Attributes {
    #[serde(default)]
    signal: String,
}

fn event(line: &[u8]) -> Result<Event, String> {
    let RawEvent { action, actor } =
        serde_json::from_slice(line).map_err(|error| format!("what is no event: {error}"))?;
    // SIGINT, SIGQUIT, SIGKILL and SIGTERM end most servers; others may only have it reload.
    let ends = matches!(&*actor.attributes.signal, "2" | "3" | "9" | "15");
    Ok(match &*action {
        "kill" if ends => Event::Stopping(actor.id),
        "start" | "die" | "destroy" => Event::Settled(actor.id),
        _ => Event::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_ends_a_server_is_told_from_one_that_does_not() {
        let of = |signal: &str| {
            let line = format!(
                r#"{{"Type":"container","Action":"kill","Actor":{{"ID":"a","Attributes":
                {{"signal":"{signal}","ringway.enable":"true"}}}},"time":1}}"#
            );
            event(line.as_bytes())
        };
        assert_eq!(of("15"), Ok(Event::Stopping("a".to_owned())));
        assert_eq!(of("1"), Ok(Event::Other));
        for action in ["start", "die", "destroy"] {
            let line = format!(r#"{{"Action":"{action}","Actor":{{"ID":"a"}}}}"#);
            assert_eq!(event(line.as_bytes()), Ok(Event::Settled("a".to_owned())));
        }
        assert_eq!(event(br#"{"Action":"pause","Actor":{"ID":"a"}}"#), Ok(Event::Other));
        assert_eq!(event(b"{}"), Ok(Event::Other));
        for garbage in [&b"x"[..], b"{\"Action\":5}", b"\xff"] {
            assert!(event(garbage).is_err());
        }
    }
}
