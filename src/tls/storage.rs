//! The folder that keeps what was ordered: the account, and each name's key with its certificate.
//!
//! In goes `[tls.acme]`; out come files, whole or not at all: what is written takes its place by
//! rename, and a key is never apart from its certificate, because both are one file. One process at
//! a time holds the lock. For the control thread and the start: nothing here may be called by a
//! worker.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};

use crate::config::{AcmeConfig, CertificateConfig};

const PROOF: &str = "proof.json";

/// A name is validated within.
const PROOF_LIFE: Duration = Duration::from_secs(300);

/// What one authority has given.
#[derive(Debug)]
pub(crate) struct Storage {
    folder: PathBuf,
    /// Held for as long as this process may order, beside those of others.
    presence: Option<Flock<File>>,
}

/// Nobody else orders while it is there.
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its end")] Flock<File>);

impl Storage {
    pub(super) fn open(acme: &AcmeConfig) -> Result<Self, String> {
        let folder = acme.storage.join(folder_of(&acme.directory));
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).map_err(|error| {
            format!(
                "tls.acme: {}: cannot be made: {error}: name a folder that ringway may write to as \
                 `storage`",
                folder.display()
            )
        })?;
        let mut storage = Self { folder, presence: None };
        if access(&storage.folder, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
            return Err(unwritable(&storage.folder));
        }
        let presence = storage.open_lock("presence")?;
        storage.presence = Flock::lock(presence, FlockArg::LockSharedNonblock).ok();
        Ok(storage)
    }

    /// The files of a name.
    pub(super) fn files(&self, name: &str) -> CertificateConfig {
        let file = self.folder.join(format!("{name}.pem"));
        let names = vec![name.to_owned()];
        CertificateConfig { chain: file.clone(), key: file, names, ocsp: None }
    }

    /// Puts a key and its certificate where [`Storage::files`] says, once `is_good` of the file
    /// that is to take the place.
    pub(super) fn keep(
        &self,
        name: &str,
        pem: &str,
        is_good: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        self.put(&format!("{name}.pem"), pem.as_bytes(), is_good)
    }

    /// The account as it was kept; `None` where there is none.
    pub(crate) fn account(&self) -> Result<Option<Vec<u8>>, String> {
        match fs::read(self.account_file()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(format!("{}: cannot be read: {error}", self.account_file().display()))
            }
        }
    }

    pub(crate) fn keep_account(&self, account: &[u8]) -> Result<(), String> {
        self.put("account.json", account, |_| Ok(()))
    }

    /// An account that is good for nothing makes way for another one; it may still be looked at.
    pub(crate) fn put_account_aside(&self) -> Result<(), String> {
        let aside = self.folder.join("account.json.old");
        let moved = fs::rename(self.account_file(), aside);
        moved.map_err(|error| format!("{}: {error}", self.account_file().display()))
    }

    fn account_file(&self) -> PathBuf {
        self.folder.join("account.json")
    }

    /// `None` while another process has it.
    pub(crate) fn lock(&self) -> Result<Option<Lock>, String> {
        let file = self.open_lock("lock")?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Lock(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(format!("{}: cannot be locked: {error}", self.folder.display())),
        }
    }

    fn open_lock(&self, name: &str) -> Result<File, String> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        file.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Whether another process may order too.
    pub(crate) fn is_shared(&self) -> bool {
        let Some(presence) = &self.presence else { return true };
        let is_shared = presence.relock(FlockArg::LockExclusiveNonblock).is_err();
        // One that took it meanwhile is seen the next time.
        is_shared | presence.relock(FlockArg::LockSharedNonblock).is_err()
    }

    /// What proves whose a name is, for those who may be asked in this process's place.
    pub(super) fn keep_proof(&self, proof: &[u8]) -> Result<(), String> {
        self.put(PROOF, proof, |_| Ok(()))
    }

    /// The same, unless it is of a process that has died over it.
    pub(super) fn proof(&self) -> Option<Vec<u8>> {
        let path = self.folder.join(PROOF);
        let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
        if age < PROOF_LIFE { fs::read(path).ok() } else { None }
    }

    pub(super) fn drop_proof(&self) {
        // One that stays is overwritten, and believed for minutes only.
        let _ = fs::remove_file(self.folder.join(PROOF));
    }

    fn put(
        &self,
        name: &str,
        bytes: &[u8],
        is_good: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let (new, path) = (self.folder.join(format!("{name}.new")), self.folder.join(name));
        let failed = |error: io::Error| format!("{}: cannot be written: {error}", path.display());
        let write = || {
            // One that was left by a process that died would keep its own rights.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(failed)?;
        is_good(&new)?;
        let take_place = || {
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        take_place().map_err(failed)
    }
}

/// Whether a start could make and write the folder; nothing is made.
pub(super) fn try_folder(acme: &AcmeConfig) -> Result<(), String> {
    let folder = acme.storage.join(folder_of(&acme.directory));
    // What is not there would be made in the first one above that is.
    let there = folder.ancestors().find(|path| path.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("."));
    if !there.is_dir() {
        let cure = "it is no folder: name another one as `storage`";
        return Err(format!("tls.acme: {}: {cure}", there.display()));
    }
    let is_writable = access(there, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    if is_writable { Ok(()) } else { Err(unwritable(there)) }
}

fn unwritable(folder: &Path) -> String {
    format!(
        "tls.acme: {}: cannot be written, and certificates have to be kept there: give its user \
         the right, or name another folder as `storage`",
        folder.display()
    )
}

/// What one authority gives is nothing for another: certificates of a trial are not believed.
fn folder_of(directory: &str) -> String {
    let url = directory.trim_start_matches("https://");
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    url.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_folder_is_for_its_owner_alone_and_files_take_their_place_whole() {
        let root = std::env::temp_dir().join(format!("ringway-storage-{}", std::process::id()));
        let acme = AcmeConfig { storage: root.join("deep/acme"), ..AcmeConfig::default() };
        assert_eq!(try_folder(&acme), Ok(()));
        assert!(!root.exists(), "trying makes nothing");
        let storage = Storage::open(&acme).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&acme.storage), mode(&storage.folder)), (0o700, 0o700));
        assert_eq!(storage.account(), Ok(None));
        storage.keep_account(b"one").unwrap();
        storage.keep_account(b"two").unwrap();
        assert_eq!(storage.account(), Ok(Some(b"two".to_vec())));
        assert_eq!(mode(&storage.account_file()), 0o600);
        storage.keep("a.example", "first", |_| Ok(())).unwrap();
        let refused = storage.keep("a.example", "second", |_| Err("bad".to_owned()));
        assert_eq!(refused, Err("bad".to_owned()));
        assert_eq!(fs::read(storage.files("a.example").chain).unwrap(), b"first");
        let lock = storage.lock().unwrap();
        assert!(lock.is_some() && storage.lock().unwrap().is_none());
        drop(lock);
        assert!(storage.lock().unwrap().is_some());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn each_directory_has_a_folder_of_its_own() {
        assert_eq!(
            folder_of("https://acme-v02.api.letsencrypt.org/directory"),
            "acme-v02.api.letsencrypt.org-directory"
        );
        assert_eq!(folder_of("https://a/../../b:1"), "a-..-..-b-1");
    }
}
