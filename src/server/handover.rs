//! From one process to the next without a refused connection: the listening sockets go from the
//! old one to the new one, which says when it is ready.
//!
//! The old process gives the new one, in an environment variable, the number of a socket; through
//! it goes one message with the descriptors (SCM_RIGHTS, unix(7)) and their addresses. The new one
//! asks whether it may accept connections once it has all that it needs, and says when it does.
//! Whatever goes wrong before that is one line with the cause, and the old process goes on as if
//! nothing had happened. Where the old process is told to stop meanwhile, the new one ends first:
//! one that may not accept yet has nothing to lose, any other finishes what it has accepted.
//!
//! No signal is handled here.

use std::env;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::address::Address;
use crate::config::UPGRADE_VARIABLE;
use crate::server::inherited::{Inheritance, Inherited};
use crate::server::listeners::Lent;
use crate::server::privileges::{self, Confined};
use crate::tls::tickets::{self, TicketKeys};

/// How long the new process may take until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Descriptors in one message: SCM_MAX_FD of the kernel is 253.
const SOCKETS_MAX: usize = 250;

const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// The new process says that it serves.
const READY: u8 = b'R';
/// It asks whether it may accept connections.
const MAY_I: u8 = b'A';
/// The old one's answers: it may, or it is to end.
const GO: u8 = b'G';
const END: u8 = b'N';

/// How long a process that is to end may take if it has nothing under way.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is asked whether it has ended: no signal is waited for.
const END_POLL: Duration = Duration::from_millis(5);
/// How often a new process that says nothing is looked for: whoever has inherited its end of the
/// socket may keep it open.
const LOOK: Duration = Duration::from_millis(100);

/// What goes with the descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    /// In the order of the descriptors; whether the service manager has it too.
    listeners: Vec<(Address, bool)>,
    /// One more descriptor follows, which is that of the admin API.
    has_admin: bool,
    /// The old process answers [`MAY_I`]. Earlier versions do not.
    #[serde(default)]
    answers: bool,
    /// What TLS sessions of clients are sealed with.
    #[serde(default)]
    tickets: Option<TicketKeys>,
    /// What the new process has given up already, because the old one has.
    #[serde(default)]
    confined: Confined,
}

/// A new process that gets ready. Whoever has it gets rid of it by [`Successor::end`].
pub struct Successor {
    child: Child,
    socket: UnixStream,
    began: Instant,
    may_accept: bool,
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
        let message = Message {
            listeners: addresses,
            has_admin: admin.is_some(),
            answers: true,
            tickets: tickets::hand_over(),
            confined: privileges::confined(),
        };
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
        let socket = UnixStream::from(ours);
        let mut successor = Self { child, socket, began: Instant::now(), may_accept: false };
        let sent = successor.socket.set_nonblocking(true);
        match sent.and_then(|()| successor.send(&message, &descriptors)) {
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

    /// Waits until the new process is ready; its number. On an error it has ended.
    ///
    /// May be dropped and called again; it is to run in a runtime with I/O and time.
    pub async fn wait(&mut self) -> Result<u32, String> {
        loop {
            match self.hear() {
                Ok(Some(READY)) => return Ok(self.child.id()),
                Ok(Some(MAY_I)) => self.let_accept(),
                // Its end is the end of its socket, by a reset if it has not even read ours.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return Err(self.has_ended()),
            }
            // A byte that it has sent before its end counts.
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return match self.hear() {
                    Ok(Some(READY)) => Ok(self.child.id()),
                    _ => Err(self.has_ended()),
                };
            }
            if self.began.elapsed() >= READY_PATIENCE {
                self.give_up();
                let seconds = READY_PATIENCE.as_secs();
                return Err(format!("the new process is not ready after {seconds} s"));
            }
            tokio::time::sleep((self.began.elapsed() / 8).clamp(END_POLL, LOOK)).await;
        }
    }

    /// What it has said; `None` at the end of its socket.
    fn hear(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        loop {
            match self.socket.read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Ok(None),
                read => return read.map(|_| Some(byte[0])),
            }
        }
    }

    fn let_accept(&mut self) {
        // From here on it may have requests of clients, whether or not it has heard of it.
        self.may_accept = true;
        let _ = self.socket.write_all(&[GO]);
    }

    /// It has ended, or has closed its socket, which is as good.
    fn has_ended(&mut self) -> String {
        let status = match self.wait_until(Instant::now() + END_PATIENCE, &AtomicBool::new(false)) {
            Some(status) => status.to_string(),
            None => "it went on without a word".to_owned(),
        };
        self.give_up();
        format!("the new process has ended: {status}; its last line says why")
    }

    /// Tells it to end. One that has not accepted anything has ended when this returns.
    pub fn end(mut self) -> Ending {
        let _ = self.socket.write_all(&[END]);
        self.signal(Signal::SIGTERM);
        if !self.may_accept {
            self.wait_until(Instant::now() + END_PATIENCE, &AtomicBool::new(false));
            self.give_up();
        }
        Ending(self)
    }

    /// How it ended, if it does until then, and until `hurry` says so.
    fn wait_until(&mut self, deadline: Instant, hurry: &AtomicBool) -> Option<ExitStatus> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline && !hurry.load(Ordering::Relaxed) => {
                    std::thread::sleep(END_POLL);
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// To a child that has not been waited for: its number is nobody else's yet.
    fn signal(&mut self, signal: Signal) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    fn give_up(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A new process that has been told to end.
pub struct Ending(Successor);

impl Ending {
    /// Waits until it has ended: until `deadline` for what it has under way, which it is told to
    /// cut then, or once `hurry` says so.
    pub fn reap(self, deadline: Instant, hurry: &AtomicBool) {
        let Self(mut successor) = self;
        if successor.wait_until(deadline, hurry).is_none() {
            successor.signal(Signal::SIGTERM);
            let patience = Instant::now() + 2 * END_PATIENCE;
            successor.wait_until(patience, &AtomicBool::new(false));
        }
        successor.give_up();
    }
}

fn set_close_on_exec(fd: &OwnedFd) -> Result<(), String> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let set = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    set.map(drop).map_err(|error| format!("a descriptor cannot be kept from a child: {error}"))
}

/// The old process, which waits to hear that this one is ready.
pub(crate) struct Predecessor {
    socket: UnixStream,
    answers: bool,
}

impl Predecessor {
    /// Asks whether this process may accept connections. One that may not is to end.
    pub(crate) fn may_accept(&mut self) -> Result<(), String> {
        if !self.answers {
            return Ok(());
        }
        let mut answer = [0];
        let heard = self.socket.write_all(&[MAY_I]).and_then(|()| {
            self.socket.set_read_timeout(Some(READY_PATIENCE))?;
            self.socket.read_exact(&mut answer)
        });
        match heard {
            Ok(()) if answer[0] == GO => Ok(()),
            Ok(()) => Err("the process to take over from is stopping".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err("the process to take over from does not answer".to_owned())
            }
            // It has been killed, and has left its sockets as they were.
            Err(_) => Ok(()),
        }
    }

    /// Tells it to end; whether it has heard that.
    pub(crate) fn take_over(mut self) -> bool {
        let told = self.socket.write_all(&[READY]);
        if let Err(error) = &told {
            // It has ended already: then nobody is missing.
            tracing::warn!("the old process cannot be told that this one is ready: {error}");
        }
        told.is_ok()
    }
}

/// What the process that this one takes over from has left; `None` where there is none. To be
/// called once, before there are other threads.
pub(crate) fn receive() -> Result<Option<(Inheritance, Predecessor)>, String> {
    let Some(number) = env::var_os(UPGRADE_VARIABLE) else { return Ok(None) };
    let fd = crate::ring::descriptor::adopt(number.to_str().and_then(|text| text.parse().ok()))
        .ok_or_else(|| format!("{UPGRADE_VARIABLE} names no open descriptor: leave it unset"))?;
    set_close_on_exec(&fd)?;
    let socket = UnixStream::from(fd);
    let (inheritance, answers) =
        read(&socket).map_err(|error| format!("no sockets were handed over: {error}"))?;
    Ok(Some((inheritance, Predecessor { socket, answers })))
}

/// What was left, and whether the old process answers questions.
fn read(socket: &UnixStream) -> io::Result<(Inheritance, bool)> {
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
    let Message { listeners, has_admin, answers, tickets, confined } =
        serde_json::from_slice(&text[..length])?;
    tickets::inherit(tickets);
    privileges::inherit(confined);
    let mut descriptors = descriptors.into_iter();
    let inherited = |((address, is_shared), fd)| {
        let name = "upgrade".to_owned();
        Inherited { address, socket: Socket::from(fd), name, is_shared }
    };
    let listeners: Vec<_> = listeners.into_iter().zip(&mut descriptors).map(inherited).collect();
    let admin = descriptors.next().filter(|_| has_admin);
    Ok((Inheritance { listeners, admin, ..Inheritance::default() }, answers))
}
