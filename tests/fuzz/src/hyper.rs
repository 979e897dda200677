//! hyper's server, on a connection in memory.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Asked;

/// More are not given to it.
pub const BYTES_MAX: usize = 1 << 19;

/// The requests that it sees in `bytes`, which a client sends and then nothing more. A body that is
/// cut short is none that was read.
pub fn requests(bytes: &[u8]) -> Vec<Asked> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noted = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let noted = noted.clone();
        async move {
            let method = request.method().as_str().as_bytes().to_vec();
            if let Ok(body) = request.into_body().collect().await {
                noted.borrow_mut().push((method, body.to_bytes().to_vec()));
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut ours, theirs) = tokio::io::duplex(2 * BYTES_MAX);
        ours.write_all(bytes).await.expect("there is room");
        ours.shutdown().await.expect("it is open");
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.half_close(true).pipeline_flush(true);
        let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(theirs), service).await;
        let _ = ours.read_to_end(&mut Vec::new()).await;
    });
    seen.take()
}
