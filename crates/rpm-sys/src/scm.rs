//! Descriptors over Unix stream sockets (`SCM_RIGHTS`, unix(7)), as Node's IPC channel carries them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The kernel's limit per message (`SCM_MAX_FD`). With room for all of them, none is lost.
const MAX_FDS: usize = 253;

/// A connected pair, close-on-exec: the first for this process, non-blocking, and the second for the other process.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// The most descriptors of [`send_packet`].
pub const PACKET_FDS: usize = 64;

/// A connected pair that preserves packets (`SOCK_SEQPACKET`), close-on-exec: the first for this process, non-blocking, and the second for
/// the other process.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Sends one packet with these descriptors, at most [`PACKET_FDS`]. Never blocks, never raises `SIGPIPE`.
///
/// # Errors
/// As [`send`]; `EINVAL` for too many descriptors.
pub fn send_packet(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let bytes = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| sendmsg(&socket, &bytes, &mut ancillary, flags))?;
    Ok(())
}

/// Sends part of `bytes`, with `fd` attached to the first. Never blocks, never raises `SIGPIPE`.
///
/// Returns the number of bytes sent: at least one if `bytes` is not empty, and the descriptor went with it.
///
/// # Errors
/// `WouldBlock` if the socket is full (nothing was sent), `EPIPE` if the other end is closed, `ETOOMANYREFS` if too many descriptors are in
/// flight.
pub fn send(socket: impl AsFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let attached;
    if let Some(fd) = fd {
        attached = [fd];
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(&attached));
        debug_assert!(fits, "the buffer is made for one descriptor");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let bytes = [IoSlice::new(bytes)];
    Ok(rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &bytes, &mut ancillary, flags)
    })?)
}

/// Receives into `buffer`, and appends descriptors that came along to `fds`, close-on-exec. Never blocks. `Ok(0)` is the end of the stream,
/// or an empty `buffer`.
///
/// The kernel closes a descriptor for which this process has no room (`MSG_CTRUNC`). The bytes arrive without it, and a protocol must treat
/// that as a missing descriptor.
///
/// # Errors
/// `WouldBlock` if there is nothing, `ECONNRESET`.
pub fn recv(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut buffer = [IoSliceMut::new(buffer)];
    let received = rustix::io::retry_on_intr(|| recvmsg(&socket, &mut buffer, &mut ancillary, flags))?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;
    use rustix::io::{FdFlags, fcntl_getfd};

    #[test]
    fn bytes_and_a_descriptor_arrive_together_and_close_on_exec() {
        let (ours, theirs) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(send(&ours, b"one", Some(null.as_fd())).unwrap(), 3);
        assert_eq!(send(&ours, b"two", None).unwrap(), 3);
        let mut fds = Vec::new();
        let mut buffer = [0; 16];
        let len = recv(&theirs, &mut buffer, &mut fds).unwrap();
        assert!(buffer[..len].starts_with(b"one"));
        assert_eq!(fds.len(), 1);
        assert_eq!(fstat(&fds[0]).unwrap().st_rdev, fstat(&null).unwrap().st_rdev);
        assert!(fcntl_getfd(&fds[0]).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn several_descriptors_of_a_foreign_sender_are_all_owned() {
        let (ours, theirs) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let many = [null.as_fd(); 40];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&theirs, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
        let mut fds = Vec::new();
        assert_eq!(recv(&ours, &mut [0; 4], &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), 40);
    }

    #[test]
    fn neither_end_ever_blocks_and_a_closed_peer_is_an_error_not_a_signal() {
        let (ours, theirs) = pair().unwrap();
        let error = recv(&theirs, &mut [0; 4], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let block = vec![0; 1 << 16];
        let full = (0..1000).find_map(|_| send(&ours, &block, None).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        assert_eq!(
            send(&ours, b"x", None).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
