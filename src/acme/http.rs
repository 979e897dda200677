//! Requests to an ACME directory.
//!
//! In goes a request of the protocol; out comes its answer, by an agent that blocks a thread of the
//! control runtime's own, and never that runtime.

use std::error::Error as StdError;
use std::pin::Pin;

use bytes::Bytes;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use ureq::Agent;
use ureq::http::{Request, Response};

/// The longest chain of certificates is far below it.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

pub(super) struct Http(pub(super) Agent);

type Answered = Result<BytesResponse, Error>;

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Answered> + Send>> {
        let agent = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            // Only an answer gives its bytes away.
            let mut body = BytesResponse::from(Response::new(body)).body;
            let body = body.into_bytes().await.map_err(Error::Other)?;
            let place = parts.uri.to_string();
            let exchange = move || {
                if body.is_empty() {
                    agent.run(Request::from_parts(parts, ())).and_then(read)
                } else {
                    agent.run(Request::from_parts(parts, &body[..])).and_then(read)
                }
            };
            let answer = tokio::task::spawn_blocking(exchange).await;
            let answer = answer.map_err(|error| Error::Other(Box::new(error)))?;
            answer.map_err(|error| {
                let unreachable = Unreachable(format!("{place}: {error}"));
                Error::Other(Box::new(unreachable))
            })
        })
    }
}

fn read(answer: Response<ureq::Body>) -> Result<BytesResponse, ureq::Error> {
    let (parts, mut body) = answer.into_parts();
    let bytes = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
    Ok(BytesResponse { parts, body: Box::new(Bytes::from(bytes)) })
}

/// Nobody has answered.
#[derive(Debug)]
pub(super) struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Unreachable {}
