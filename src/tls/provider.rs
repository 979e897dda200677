//! The cryptography that every session uses, of clients and of origins.
//!
//! Out comes aws-lc: half of ring's cost for a handshake, and a key exchange that is safe from
//! quantum computers. There is nothing to choose.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let provider = aws_lc_rs::default_provider();
    // Its generator takes 30 ms to gather what it begins with: not in a worker's first handshake.
    let _ = provider.secure_random.fill(&mut [0]);
    Arc::new(provider)
});

pub(crate) fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}
