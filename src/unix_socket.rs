//! Listening Unix sockets and their files.
//!
//! In goes a path or an abstract name; out comes a socket that listens, with its file as a value,
//! or what is in the way. The file takes the place of one that a dead process has left, never of a
//! live one's or of what is no socket, and is gone when its owner is. Nothing is accepted here.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a Unix socket. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// A file that has taken our place is not ours to remove.
    inode: Option<u64>,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), inode: inode_of(path) }
    }

    /// The file of another process.
    pub(crate) fn lent(path: &Path) -> Self {
        Self { path: path.to_owned(), inode: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From here on it is this process's to remove: until then one that was taken over is that of
    /// the process that may have to go on with it.
    pub(crate) fn claim(&mut self) {
        if self.inode.is_none() {
            self.inode = inode_of(&self.path);
        }
    }

    /// Leaves the file to the process that has taken the socket over.
    pub(crate) fn leave(mut self) {
        self.inode = None;
    }

    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|file| file.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let inode = inode_of(&self.path);
        if inode.is_some() && inode == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, whose file gets `mode`.
pub(crate) fn listen(path: &Path, mode: u32, backlog: u32) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    remove_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    let file = SocketFile::at(path);
    // No process can connect before `listen`, so none has slipped in while the mode was another.
    file.set_mode(mode)?;
    begin(&socket, backlog)?;
    Ok((socket, file))
}

/// Listens at an abstract name, which leaves nothing behind.
pub(crate) fn listen_abstract(address: &SockAddr, backlog: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(address)?;
    begin(&socket, backlog)?;
    Ok(socket)
}

fn begin(socket: &Socket, backlog: u32) -> io::Result<()> {
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)
}

/// Removes the socket file of a process that has gone.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket"));
        }
        Ok(_) => {}
    }
    // One that is alive and has a full queue would have us wait.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the socket of another user, who may be using it",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its queue is full, or it is a socket of another type: somebody has it open.
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// What to do about an error of [`listen`]; `key` is the one to change.
pub(crate) fn cure(error: &io::Error, key: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another process listens there (`ss -lxp` shows which); choose another {key}")
        }
        io::ErrorKind::AlreadyExists => {
            "it is in the way; remove it or choose another path".to_owned()
        }
        io::ErrorKind::NotFound => "its folder does not exist; create it".to_owned(),
        io::ErrorKind::PermissionDenied => "this account may not write to its folder".to_owned(),
        io::ErrorKind::NotADirectory => "a part of its path is a file and no folder".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "choose a folder that can be written to".to_owned(),
        io::ErrorKind::InvalidInput => "a socket's path has 107 bytes at most".to_owned(),
        _ => format!("see {key}"),
    }
}

/// Why nobody of this account could connect to `path` now.
pub(crate) fn obstacle(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some("there is no such file now".to_owned())
        }
        Err(error) => Some(format!("{error}")),
        Ok(file) if !file.file_type().is_socket() => Some("it is a file, and no socket".to_owned()),
        Ok(_) => access(path, AccessFlags::W_OK).err().map(|error| {
            format!("this account may not connect to it ({error}): it needs the right to write")
        }),
    }
}

/// Why nobody of this account could have a socket at `path`.
pub(crate) fn folder_obstacle(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    let shown = folder.display();
    match access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if folder.is_dir() => None,
        Ok(()) => Some(format!("{shown} is no folder")),
        Err(Errno::ENOENT) => Some(format!("there is no folder {shown}")),
        Err(error) => Some(format!("this account may not write to {shown} ({error})")),
    }
}
