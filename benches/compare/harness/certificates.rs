//! The certificates that every peer shows.
//!
//! Out: a pair of each kind of key as PEM, made once per process, so that whoever is compared signs
//! with the same key. Nobody is asked to believe them.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};

/// What the key of the certificate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Key {
    #[default]
    Ecdsa,
    /// Of 2048 bits.
    Rsa,
}

struct Pair {
    chain: String,
    key: String,
}

impl Key {
    fn pair(self) -> Result<&'static Pair, String> {
        static MADE: [OnceLock<Result<Pair, String>>; 2] = [const { OnceLock::new() }; 2];
        let made = MADE[self as usize].get_or_init(|| self.make().map_err(|it| it.to_string()));
        made.as_ref().map_err(Clone::clone)
    }

    fn make(self) -> Result<Pair, rcgen::Error> {
        let key = match self {
            Self::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            Self::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        };
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let chain = CertificateParams::new(names)?.self_signed(&key)?.pem();
        Ok(Pair { chain, key: key.serialize_pem() })
    }

    /// Writes `tls.pem` and `tls.key`, and `tls.both.pem` for those who want one file.
    pub(crate) fn write(self, folder: &Path) -> Result<(), String> {
        let Pair { chain, key } = self.pair()?;
        let files =
            [("tls.pem", chain), ("tls.key", key), ("tls.both.pem", &format!("{chain}{key}"))];
        for (name, text) in files {
            fs::write(folder.join(name), text).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
