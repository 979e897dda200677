//! What holds for any bytes where a TLS client is awaited: the check behind a fuzz target.
//!
//! In go bytes; the check panics where a session takes more than there is, goes on after an error,
//! or answers by more than a flight of a handshake. Nothing here runs in the proxy.

use std::sync::{Arc, LazyLock};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use super::provider::provider;
use super::session::{FLIGHT_BYTES_MAX, Records, Session};

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions that the provider has")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a key that belongs to its certificate");
    Arc::new(config)
});

/// Reads `input`, but for its first byte, in pieces of as many bytes as that says.
pub(crate) fn server(input: &[u8]) {
    let Some((&piece, input)) = input.split_first() else { return };
    let mut session = Session::server(CONFIG.clone()).expect("a session");
    let (mut held, mut out) = (Vec::new(), Records::default());
    for piece in input.chunks(usize::from(piece).max(1)) {
        held.extend_from_slice(piece);
        let mut plain = 0;
        let taken = session.take(&mut held, &mut |bytes| plain += bytes.len(), &mut out);
        assert!(plain <= held.len());
        assert!(out.filled().len() <= FLIGHT_BYTES_MAX);
        match taken {
            Ok(taken) => drop(held.drain(..taken)),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tls::client::{Client, Wishes};

    /// What a client says first, in pieces of each size.
    #[test]
    fn a_client_s_first_words_are_read_in_pieces_of_any_size() {
        let wishes = Wishes { is_insecure: true, ..Wishes::default() };
        let mut client = Client::new("localhost", wishes).unwrap().session().unwrap();
        let mut hello = Records::default();
        client.take(&mut [], &mut |_| (), &mut hello).unwrap();
        assert!(!hello.filled().is_empty());
        for piece in [1, 5, 64, 255] {
            server(&[&[piece], hello.filled()].concat());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_session_panic(bytes: Vec<u8>) {
            server(&bytes);
        }
    }
}
