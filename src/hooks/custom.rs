//! Hooks in Rust, compiled into a binary of one's own.
//!
//! In: a request, an answer or an error, as far as a hook may see it. Out: a decision, and edits
//! that obey the same rules as those of the configuration. Only routes whose `custom` names a hook
//! ever call one; here alone is anything dispatched at run time.
//!
//! A hook runs on the thread that serves the request, with all the other requests of that thread:
//! it must not block. What has to wait is awaited (`on_connect`, `on_request`), and is given up at
//! the hook's deadline. A hook that fails, comes too late or panics refuses the request or lets it
//! go on, as `on_failure` says. (A panic can be caught only in a binary that unwinds; ringway's own
//! release profile aborts.)
//!
//! ```
//! use ringway::hooks::custom::{Decision, Hook, HookError, Page, Pending, Request, Response};
//!
//! /// Lets no client in without a ticket, and stamps what goes out.
//! struct Tickets;
//!
//! impl Hook for Tickets {
//!     fn name(&self) -> &'static str {
//!         "tickets"
//!     }
//!
//!     fn on_request<'a>(&'a self, request: &'a mut Request<'_>) -> Pending<'a, Decision> {
//!         Box::pin(async move {
//!             let Some(ticket) = request.field("x-ticket") else {
//!                 return Ok(Decision::Answer(Page::text(403, "a ticket, please\n")));
//!             };
//!             let number = ticket.len().to_string();
//!             request.set("X-Ticket-Length", &number)?;
//!             request.remove("X-Ticket")?;
//!             Ok(Decision::Continue)
//!         })
//!     }
//!
//!     fn on_response(&self, response: &mut Response<'_>) -> Result<(), HookError> {
//!         response.set("X-Checked-By", "tickets")
//!     }
//! }
//!
//! let hooks = ringway::hooks::custom::Hooks::new(vec![Box::new(Tickets)]);
//! assert_eq!(hooks.names(), ["tickets"]);
//! ```
//!
//! The binary is ringway's own with these hooks, which the configuration then knows by name:
//!
//! ```no_run
//! use ringway::hooks::custom::{Hook, Hooks};
//!
//! struct Tickets;
//!
//! impl Hook for Tickets {
//!     fn name(&self) -> &'static str {
//!         "tickets"
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     ringway::run(Hooks::new(vec![Box::new(Tickets)]))
//! }
//! ```

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;

pub use super::changes::{Changes, HookError};
use super::changes::{check, is_value};
use super::request_view::RequestView;
use super::responses::{LocalResponse, status};
use crate::config::hooks::announce_custom;
use crate::config::{CustomConfig, OnFailure};
use crate::http::head::ResponseHead;
use crate::ring::runtime::Foreign;
pub use crate::tls::facts::{ClientCertificate, TlsFacts};

/// What a hook answers later. It may borrow the hook and the request.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, HookError>> + 'a>>;

/// A hook. Every phase has a default that does nothing.
pub trait Hook: Send + Sync + 'static {
    /// What `custom = [{ hook = "…" }]` calls it.
    fn name(&self) -> &'static str;

    /// A client of the forward proxy asks for a tunnel, and the policy allows it. Asked of the
    /// hooks in `[hooks]`, since a tunnel has no route.
    fn on_connect<'a>(&'a self, _connect: &'a Connect<'_>) -> Pending<'a, Decision> {
        Box::pin(std::future::ready(Ok(Decision::Continue)))
    }

    /// A request has passed every other check of its route.
    fn on_request<'a>(&'a self, _request: &'a mut Request<'_>) -> Pending<'a, Decision> {
        Box::pin(std::future::ready(Ok(Decision::Continue)))
    }

    /// The head of an origin's answer has come; nothing of it has been sent on.
    fn on_response(&self, _response: &mut Response<'_>) -> Result<(), HookError> {
        Ok(())
    }

    /// ringway is about to answer with an error of its own. `None` leaves it.
    fn on_error(&self, _failure: &Failure) -> Result<Option<Page>, HookError> {
        Ok(None)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Continue,
    /// It is answered here.
    Answer(Page),
}

/// An answer of a hook's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// 200 to 599.
    pub status: u16,
    pub content_type: String,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

/// Somebody who wants a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// `None` where it has come by a Unix socket, and has no address.
    pub client: Option<IpAddr>,
    /// A name in lower case, or an address.
    pub host: &'a str,
    pub port: u16,
}

/// A request, and the edits to what the origin will be sent of it.
pub struct Request<'a> {
    view: &'a RequestView<'a>,
    changes: &'a mut Changes,
}

/// An answer, and the edits to what the client will be sent of it.
pub struct Response<'a> {
    head: &'a ResponseHead,
    buf: &'a [u8],
    changes: &'a mut Changes,
}

/// An error that ringway is about to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: u16,
    /// As the access log has it, such as `origin_refused`.
    pub error: &'static str,
}

/// The hooks of a binary.
#[derive(Default)]
pub struct Hooks(Vec<Arc<dyn Hook>>);

/// The hooks of this process.
static OWN: OnceLock<Hooks> = OnceLock::new();

/// Without any.
static NONE: LazyLock<Hooks> = LazyLock::new(Hooks::default);

/// Makes `hooks` those of this process, before any configuration is read. Only the first call
/// counts.
pub fn install(hooks: Hooks) {
    announce_custom(hooks.names());
    let _ = OWN.set(hooks);
}

/// The hooks of this process.
pub(crate) fn own() -> &'static Hooks {
    OWN.get().unwrap_or_else(|| &NONE)
}

/// A hook as a route uses it.
pub struct Custom {
    hook: Arc<dyn Hook>,
    timeout: Duration,
    on_failure: OnFailure,
}

impl Page {
    /// A page of plain text.
    pub fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8".to_owned(),
            fields: Vec::new(),
            body: body.to_owned(),
        }
    }

    fn answer(self) -> Result<LocalResponse<'static>, HookError> {
        if !(200..=599).contains(&self.status) {
            return Err(format!("{} is no status that can be answered", self.status).into());
        }
        if self.content_type.is_empty() || !is_value(&self.content_type) {
            return Err("a page without a content type".into());
        }
        let mut fields = format!("Content-Type: {}\r\n", self.content_type);
        for (name, value) in &self.fields {
            check(name, value)?;
            fields.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
        }
        Ok(LocalResponse {
            status: status(self.status),
            fields: fields.into_bytes().into(),
            body: self.body.into(),
            is_stock: false,
        })
    }
}

impl Request<'_> {
    /// `None` where it has come by a Unix socket, and has no address.
    pub fn client(&self) -> Option<IpAddr> {
        self.view.client.ip()
    }

    /// Of its session, where its connection has TLS.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.view.tls
    }

    pub fn method(&self) -> &[u8] {
        self.view.head.method_text.of(self.view.text)
    }

    /// Without a port; empty if an HTTP/1.0 client named none.
    pub fn host(&self) -> &[u8] {
        self.view.host()
    }

    pub fn path(&self) -> &[u8] {
        self.view.path()
    }

    pub fn query(&self) -> &[u8] {
        self.view.query()
    }

    /// The first field called `name`, in any case, as the client sent it.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.view.field(name)
    }

    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.view.cookie(name)
    }

    /// Replaces every field called `name`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), HookError> {
        self.changes.set(name, value)
    }

    pub fn remove(&mut self, name: &str) -> Result<(), HookError> {
        self.changes.remove(name)
    }
}

impl<'a> Response<'a> {
    pub fn new(head: &'a ResponseHead, buf: &'a [u8], changes: &'a mut Changes) -> Self {
        Self { head, buf, changes }
    }

    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first field called `name`, in any case, as the origin sent it.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let lines = self.head.fields.lines.of(self.buf);
        lines.split(|byte| *byte == b'\n').find_map(|line| {
            let (start, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            start.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    }

    /// Replaces every field called `name`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), HookError> {
        self.changes.set(name, value)
    }

    pub fn remove(&mut self, name: &str) -> Result<(), HookError> {
        self.changes.remove(name)
    }
}

impl Hooks {
    pub fn new(hooks: Vec<Box<dyn Hook>>) -> Self {
        Self(hooks.into_iter().map(Arc::from).collect())
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|hook| hook.name()).collect()
    }

    /// The hook that a route names.
    pub(crate) fn find(&self, config: &CustomConfig) -> Option<Custom> {
        let hook = self.0.iter().find(|hook| hook.name() == config.hook)?;
        let (timeout, on_failure) = (config.timeout, config.on_failure);
        Some(Custom { hook: hook.clone(), timeout, on_failure })
    }
}

impl Custom {
    pub fn name(&self) -> &'static str {
        self.hook.name()
    }

    /// `Some` answers the request here.
    pub async fn on_request(
        &self,
        view: &RequestView<'_>,
        changes: &mut Changes,
    ) -> Option<LocalResponse<'static>> {
        let mut request = Request { view, changes };
        let decided = self.in_time(|| self.hook.on_request(&mut request)).await;
        self.decide("on_request", decided)
    }

    pub async fn on_connect(&self, connect: &Connect<'_>) -> Option<LocalResponse<'static>> {
        let decided = self.in_time(|| self.hook.on_connect(connect)).await;
        self.decide("on_connect", decided)
    }

    /// `Some` takes the place of the origin's answer.
    pub fn on_response(&self, response: &mut Response<'_>) -> Option<LocalResponse<'static>> {
        let unwound =
            std::panic::catch_unwind(AssertUnwindSafe(|| self.hook.on_response(response)));
        match unwound.unwrap_or_else(|_| Err("it panicked".into())) {
            Ok(()) => None,
            Err(error) => self.failed("on_response", &error, 502),
        }
    }

    /// `Some` takes the place of ringway's own page. A hook that fails here leaves that page.
    pub fn on_error(&self, failure: &Failure) -> Option<LocalResponse<'static>> {
        let unwound = std::panic::catch_unwind(AssertUnwindSafe(|| self.hook.on_error(failure)));
        let page = unwound.unwrap_or_else(|_| Err("it panicked".into()));
        let answer = page.and_then(|page| page.map(Page::answer).transpose());
        answer.unwrap_or_else(|error| {
            tracing::warn!(hook = self.name(), phase = "on_error", "a hook failed: {error}");
            None
        })
    }

    async fn in_time<'h>(
        &'h self,
        ask: impl FnOnce() -> Pending<'h, Decision>,
    ) -> Result<Decision, HookError> {
        // It may wait for whatever tokio offers.
        let _foreign = Foreign::begin();
        let asked = async move { ask().await };
        match tokio::time::timeout(self.timeout, AssertUnwindSafe(asked).catch_unwind()).await {
            Ok(Ok(decided)) => decided,
            Ok(Err(_)) => Err("it panicked".into()),
            Err(_) => Err(format!("no decision within {:?}", self.timeout).into()),
        }
    }

    fn decide(
        &self,
        phase: &str,
        decided: Result<Decision, HookError>,
    ) -> Option<LocalResponse<'static>> {
        let answer = match decided {
            Ok(Decision::Continue) => return None,
            Ok(Decision::Answer(page)) => page.answer(),
            Err(error) => Err(error),
        };
        answer.map_or_else(|error| self.failed(phase, &error, 503), Some)
    }

    fn failed(&self, phase: &str, error: &HookError, code: u16) -> Option<LocalResponse<'static>> {
        tracing::warn!(hook = self.name(), phase, "a hook failed: {error}");
        match self.on_failure {
            OnFailure::Open => None,
            OnFailure::Closed => Some(LocalResponse::plain(code, Vec::new())),
        }
    }
}
