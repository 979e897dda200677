//! From one process to the next without a refused connection: the listening sockets go from the
//! old one to the new one, which says when it is ready.
//!
//! The old process gives the new one, in an environment variable, the number of a socket; through
//! it go one message with the descriptors (SCM_RIGHTS, unix(7)) and their addresses, and back comes
//! one byte. Whatever goes wrong before that byte is one line with the cause, and the old process
//! goes on as if nothing had happened.

use std::env;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::config::UPGRADE_VARIABLE;
use crate::inherited::Inherited;
use crate::server::Estate;
use crate::sockets::Lent;

/// How long the new process may take until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Descriptors in one message: SCM_MAX_FD of the kernel is 253.
const SOCKETS_MAX: usize = 250;

const MESSAGE_BYTES_MAX: usize = 32 * 1024;

const READY: u8 = b'R';

/// What goes with the descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    /// In the order of the descriptors; whether the service manager has it too.
    listeners: Vec<(SocketAddr, bool)>,
    /// One more descriptor follows, which is that of the admin API.
    has_admin: bool,
}

/// A new process that gets ready.
pub struct Successor {
    child: Child,
    socket: UnixStream,
}

impl Successor {
    /// Starts `program` as this process was started, and hands the sockets over.
    pub fn start<'a>(
        program: &Path,
        listeners: impl Iterator<Item = Lent<'a>>,
        admin: Option<BorrowedFd<'a>>,
    ) -> Result<Self, String> {
        let (addresses, mut descriptors): (Vec<_>, Vec<RawFd>) =
            listeners.map(|lent| ((lent.address, lent.is_shared), lent.socket.as_raw_fd())).unzip();
        descriptors.extend(admin.as_ref().map(AsRawFd::as_raw_fd));
        if descriptors.len() > SOCKETS_MAX {
            return Err(format!("more than {SOCKETS_MAX} listening sockets cannot be handed over"));
        }
        let message = Message { listeners: addresses, has_admin: admin.is_some() };
        // The child's end is to survive its start, the other one is closed by that.
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
                .map_err(|error| format!("no socket to talk to the new process: {error}"))?;
        set_close_on_exec(&ours)?;
        let child = Command::new(program)
            .args(env::args_os().skip(1))
            .env(UPGRADE_VARIABLE, theirs.as_raw_fd().to_string())
            // It names this process, and the new one is to give signs of life as well.
            .env_remove("WATCHDOG_PID")
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", program.display()))?;
        drop(theirs);
        let mut successor = Self { child, socket: ours.into() };
        match successor.send(&message, &descriptors) {
            Ok(()) => Ok(successor),
            Err(error) => {
                successor.give_up();
                Err(format!("the sockets cannot be handed over: {error}"))
            }
        }
    }

    fn send(&self, message: &Message, descriptors: &[RawFd]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let rights = [ControlMessage::ScmRights(descriptors)];
        let slices = [IoSlice::new(&text)];
        let fd = self.socket.as_raw_fd();
        let sent = sendmsg::<()>(fd, &slices, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Waits until the new process is ready; its number. Blocks for a minute at most.
    pub fn wait(mut self) -> Result<u32, String> {
        let mut answer = [0];
        let read = self
            .socket
            .set_read_timeout(Some(READY_PATIENCE))
            .and_then(|()| self.socket.read(&mut answer));
        match read {
            Ok(1) if answer[0] == READY => return Ok(self.child.id()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.give_up();
                let seconds = READY_PATIENCE.as_secs();
                return Err(format!("the new process is not ready after {seconds} s"));
            }
            // Its end is the end of its socket, by a reset if it has not even read ours.
            Ok(_) | Err(_) => {}
        }
        let status = self.child.wait().map_or_else(|_| String::new(), |status| status.to_string());
        Err(format!("the new process has ended: {status}; its last line says why"))
    }

    fn give_up(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_close_on_exec(fd: &OwnedFd) -> Result<(), String> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let set = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    set.map(drop).map_err(|error| format!("a descriptor cannot be kept from a child: {error}"))
}

/// The old process, which waits to hear that this one is ready.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Tells it to end.
    pub fn take_over(mut self) {
        if let Err(error) = self.0.write_all(&[READY]) {
            // It has ended already, or takes us for dead: then two serve, and none is missing.
            tracing::warn!("the old process cannot be told that this one is ready: {error}");
        }
    }
}

/// What the process that this one takes over from has left; `None` where there is none. To be
/// called once, before there are other threads.
pub fn receive() -> Result<Option<(Estate, Predecessor)>, String> {
    let Some(number) = env::var_os(UPGRADE_VARIABLE) else { return Ok(None) };
    let fd = crate::ring::descriptor::adopt(number.to_str().and_then(|text| text.parse().ok()))
        .ok_or_else(|| format!("{UPGRADE_VARIABLE} names no open descriptor: leave it unset"))?;
    set_close_on_exec(&fd)?;
    let socket = UnixStream::from(fd);
    let estate = read(&socket).map_err(|error| format!("no sockets were handed over: {error}"))?;
    Ok(Some((estate, Predecessor(socket))))
}

fn read(socket: &UnixStream) -> io::Result<Estate> {
    let mut text = vec![0; MESSAGE_BYTES_MAX];
    let mut room = nix::cmsg_space!([RawFd; SOCKETS_MAX]);
    let (length, descriptors) = {
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut room), flags)?;
        let mut descriptors = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(rights) = message {
                descriptors.extend(rights.into_iter().map(crate::ring::descriptor::received));
            }
        }
        (received.bytes, descriptors)
    };
    let Message { listeners, has_admin } = serde_json::from_slice(&text[..length])?;
    let mut descriptors = descriptors.into_iter();
    let inherited = |((address, is_shared), fd)| {
        let name = "upgrade".to_owned();
        Inherited { address, socket: Socket::from(fd), name, is_shared }
    };
    let listeners: Vec<_> = listeners.into_iter().zip(&mut descriptors).map(inherited).collect();
    Ok(Estate { listeners, admin: descriptors.next().filter(|_| has_admin), events: None })
}
