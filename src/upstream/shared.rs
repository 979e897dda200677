//! The connections of HTTP/2 that one worker has to its origins.
//!
//! In go connections as they come to be; out come those that can carry more. What becomes of them
//! is decided elsewhere.

use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::multiplex::Multiplex;

/// One worker's connections of HTTP/2, by the numbers of their origins.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) connections: HashMap<usize, Vec<Rc<Multiplex>>>,
    /// Origins to which one is being opened.
    pub(super) opening: HashMap<usize, Rc<Notify>>,
}
