//! Sockets that outlive the process which listens on them.
//!
//! A process hands a copy of a listening socket to whoever started it (`FDSTORE=1`, sd_notify(3)) and gets it back when it
//! is started again (`LISTEN_FDS`, `LISTEN_FDNAMES`, sd_listen_fds(3)). Between the two the kernel keeps new connections
//! waiting instead of refusing them. `LISTEN_PID` is left out: nobody knows a process id before there is one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use command_fds::inherited::{init_inherited_fds, take_fd_ownership};
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// The first descriptor after input, output and errors.
const FIRST: i32 = 3;
/// Sockets of one process that are kept at most.
const MOST: usize = 4;

/// A socket that is kept for a process, by its name.
pub type Handle = (String, OwnedFd);

/// Takes note of what this process was given at its start. To be called before anything else in the program; where the
/// kernel does not tell, nothing was given.
pub fn inherit() {
    // SAFETY: it is the first thing the program does, so that every descriptor that is open now was inherited.
    #[allow(unsafe_code, reason = "only the program knows when nothing of its own is open yet")]
    unsafe {
        let (Ok(()) | Err(_)) = init_inherited_fds();
    }
}

/// The socket of this name that whoever started this process has kept for it. Answers once.
pub fn inherited(name: &str) -> Option<OwnedFd> {
    let names = std::env::var("LISTEN_FDNAMES").ok()?;
    let place = names.split(':').position(|given| given == name)?;
    take_fd_ownership(FIRST + i32::try_from(place).ok()?).ok()
}

/// Gives a command these sockets, or none of those that this process was given itself.
pub(crate) fn pass_on(command: &mut std::process::Command, handles: Vec<Handle>) -> io::Result<()> {
    command.env_remove("LISTEN_PID").env_remove("LISTEN_FDS").env_remove("LISTEN_FDNAMES");
    if handles.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = handles.iter().map(|(name, _)| name.as_str()).collect();
    command.env("LISTEN_FDS", handles.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let mappings = (FIRST..).zip(handles).map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).map_err(io::Error::other).map(drop)
}

/// Sends text with a copy of a socket.
pub(crate) fn send_with(socket: impl AsFd, text: &[u8], handle: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let handles = [handle];
    if !control.push(SendAncillaryMessage::ScmRights(&handles)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(socket, &[io::IoSlice::new(text)], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives text, and what sockets came with it.
pub(crate) fn receive_with(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = recvmsg(socket, &mut [io::IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let handles = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(handles) => Some(handles),
        _ => None,
    });
    Ok((length, handles.flatten().collect()))
}

/// Keeps what came under a name in place of what was kept under it, as long as there is room.
pub(crate) fn keep(kept: &mut Vec<Handle>, name: &str, handle: OwnedFd) {
    kept.retain(|(other, _)| other != name);
    if kept.len() < MOST && !name.contains(':') {
        kept.push((name.to_owned(), handle));
    }
}
