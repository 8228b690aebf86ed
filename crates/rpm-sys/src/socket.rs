//! Public sockets (socket(7), tcp(7)): bound so that slots share the address, listening, measured, and shut even while other processes hold
//! them.

use std::ffi::OsStr;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Linux, include/uapi/asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// How a UDP socket is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOptions {
    /// `IPV6_V6ONLY`: an IPv6 wildcard that does not accept IPv4.
    pub v6only: bool,
    /// `SO_REUSEADDR`.
    pub reuse_addr: bool,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// The user that it belongs to; `None` for the user of this process.
    pub owner: Option<u32>,
}

/// The accept queue of a TCP listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Connections established and not yet accepted.
    pub len: u32,
    /// The effective backlog: the smaller of the requested one and `net.core.somaxconn`.
    pub max: u32,
    /// True if the socket listens; false after [`unlisten`] by any process.
    pub listening: bool,
}

/// A TCP socket bound to `address`, non-blocking, with `SO_REUSEADDR` and `SO_REUSEPORT`, not listening.
///
/// Port 0 is not for slots: such a socket forgets its port when it stops listening, and later listens on another one. Call [`reserve_port`]
/// first, and bind slots to the number.
///
/// # Errors
/// `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES` (a privileged port), `EAFNOSUPPORT`, `EMFILE`.
pub fn bind_tcp(address: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    bind_tcp_for(None, address, v6only)
}

/// As [`bind_tcp`], for a socket that belongs to another user: see [`give`].
///
/// # Errors
/// As [`bind_tcp`] and [`give`].
pub fn bind_tcp_for(owner: Option<u32>, address: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(address),
        nonblocking(Type::STREAM),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    bind(socket, owner, address, v6only)
}

/// Reserves a port without listening: the socket shares it with slots of the same user. For port 0 the kernel picks a number that is free;
/// see [`local_addr`].
///
/// # Errors
/// As [`bind_tcp`].
pub fn reserve_port(address: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    bind_tcp(address, v6only)
}

/// A UDP socket bound to `address`, non-blocking.
///
/// # Errors
/// As [`bind_tcp`].
pub fn bind_udp(address: SocketAddr, options: UdpOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(address),
        nonblocking(Type::DGRAM),
        Some(Protocol::UDP),
    )?;
    socket.set_reuse_address(options.reuse_addr)?;
    socket.set_reuse_port(options.reuse_port)?;
    bind(socket, options.owner, address, options.v6only)
}

/// A Unix stream socket bound to `path`, non-blocking, not listening. A path that begins with a zero byte is an abstract name.
///
/// # Errors
/// `EADDRINUSE` if the file exists (see [`unix_is_stale`]), `ENAMETOOLONG`, `EACCES`, `ENOENT`.
pub fn bind_unix(path: &[u8]) -> io::Result<OwnedFd> {
    let address = unix_address(path)?;
    let socket = unix_stream()?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// True if `path` is the socket file of a process that is gone: connecting is refused, as it is for a file that is not a socket.
#[must_use]
pub fn unix_is_stale(path: &[u8]) -> bool {
    if unix_file(path).is_none() {
        return false;
    }
    let connected = unix_address(path).and_then(|address| {
        let socket = unix_stream()?;
        Ok(rustix::net::connect(&socket, &address)?)
    });
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Device and inode of the socket file `path`; `None` if there is none, or a link or another kind of file.
#[must_use]
pub fn unix_file(path: &[u8]) -> Option<(u64, u64)> {
    // An abstract name is not a path.
    let path = OsStr::from_bytes(path);
    let meta = std::fs::symlink_metadata(path).ok()?;
    meta.file_type().is_socket().then(|| (meta.dev(), meta.ino()))
}

/// The user that the socket belongs to for the kernel: only sockets of one user share a port (`SO_REUSEPORT`).
///
/// # Errors
/// fstat(2) failed.
pub fn owner(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::fs::fstat(socket)?.st_uid)
}

/// Makes the socket belong to another user, as if that user had created it. Whoever holds a connection, or a socket whose port the kernel
/// chose, can bind it to another port; so a socket of root in the hands of another user could join any port of root's.
///
/// # Errors
/// `EPERM`: this process may not change owners.
pub fn give(socket: impl AsFd, to: u32) -> io::Result<()> {
    // sockfs_setattr() in net/socket.c, since Linux 4.10.
    if owner(&socket)? == to {
        return Ok(());
    }
    Ok(rustix::fs::fchown(
        socket,
        Some(rustix::fs::Uid::from_raw(to)),
        None,
    )?)
}

/// True if the socket is in the network namespace of this process. Before Linux 5.14 the kernel does not tell, and the answer is true.
///
/// # Errors
/// `ENOTSOCK`, or no descriptor is left.
pub fn is_in_our_network(socket: impl AsFd) -> io::Result<bool> {
    static OURS: OnceLock<Option<u64>> = OnceLock::new();
    let ours = match OURS.get() {
        Some(ours) => *ours,
        None => {
            let ours = network(unix_stream()?)?;
            *OURS.get_or_init(|| ours)
        }
    };
    Ok(network(socket)? == ours)
}

/// `SO_NETNS_COOKIE`: identifies a network namespace until the next boot; `None` if the kernel does not know the option.
fn network(socket: impl AsFd) -> io::Result<Option<u64>> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes into the live `cookie`, and the length into `len`.
    let status = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match status {
        0 => Ok(Some(cookie)),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
            error => Err(error),
        },
    }
}

/// Makes a bound socket listen, or changes the backlog of one that does.
///
/// # Errors
/// `EADDRINUSE` if another socket holds the address without sharing it.
pub fn listen(socket: impl AsFd, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    Ok(rustix::net::listen(socket, backlog)?)
}

/// Stops the socket from listening for every process that holds it. It stays bound, and can [`listen`] again. The accept queue migrates to
/// other slots if a program does that, and is reset otherwise.
///
/// # Errors
/// `ENOTCONN` if it does not listen.
pub fn unlisten(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Read)?)
}

/// The TCP options of the socket; `None` for any other descriptor.
#[must_use]
pub fn tcp(socket: impl AsFd) -> Option<Tcp> {
    let socket = socket.as_fd();
    let domain = sockopt::socket_domain(socket).ok()?;
    let stream = sockopt::socket_type(socket).ok()? == SocketType::STREAM;
    // The kernel returns TCP's number even for a socket that was created with protocol 0.
    let tcp = sockopt::socket_protocol(socket).ok()? == Some(rustix::net::ipproto::TCP);
    let v6 = domain == AddressFamily::INET6;
    let internet = v6 || domain == AddressFamily::INET;
    let v6only = v6 && sockopt::ipv6_v6only(socket).ok()?;
    (stream && tcp && internet).then_some(Tcp { v6only })
}

/// Options of a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// `IPV6_V6ONLY`: an IPv6 wildcard that does not accept IPv4.
    pub v6only: bool,
}

/// Lets the socket, which is not bound yet, share its address with other sockets of the same user that allow it (`SO_REUSEPORT`).
///
/// # Errors
/// `EBADF`, `ENOTSOCK`.
pub fn share(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_reuseport(socket, true)?)
}

/// True if the socket may share its address.
#[must_use]
pub fn is_shared(socket: impl AsFd) -> bool {
    sockopt::socket_reuseport(socket).unwrap_or(false)
}

/// Makes the first descriptor blocking or non-blocking, like the second.
///
/// # Errors
/// `EBADF`.
pub fn match_blocking(socket: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let waits = !rustix::fs::fcntl_getfl(to)?.contains(rustix::fs::OFlags::NONBLOCK);
    Ok(rustix::io::ioctl_fionbio(socket, !waits)?)
}

/// The address an internet socket is bound to.
///
/// # Errors
/// `EAFNOSUPPORT` for any other socket, `EBADF`, `ENOTSOCK`.
pub fn local_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    Ok(SocketAddr::try_from(address)?)
}

/// Accepts one connection, close-on-exec and non-blocking; `None` if none waits.
///
/// Whether accepting blocks is a property of the open file, which a worker shares and may have changed. This makes it non-blocking and then
/// restores the previous setting, because the program may rely on it.
///
/// # Errors
/// `EINVAL` if the socket does not listen, `EMFILE`, `ENFILE`.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    if rustix::fs::fcntl_getfl(&listener)?.contains(rustix::fs::OFlags::NONBLOCK) {
        return accept_at_once(&listener);
    }
    rustix::io::ioctl_fionbio(&listener, true)?;
    let accepted = accept_at_once(&listener);
    rustix::io::ioctl_fionbio(&listener, false)?;
    accepted
}

fn accept_at_once(listener: &impl AsFd) -> io::Result<Option<OwnedFd>> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))? == 0 {
            return Ok(None);
        }
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(connection) => return Ok(Some(connection)),
            Err(Errno::AGAIN) => return Ok(None),
            // The client has given up, or a signal arrived: the next attempt may succeed.
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Marks the packets that the socket sends (`SO_MARK`). The mark stays with a packet within this machine.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN or, since Linux 5.17, CAP_NET_RAW.
pub fn mark(socket: impl AsFd, mark: u32) -> io::Result<()> {
    SockRef::from(&socket).set_mark(mark)
}

/// Connects to a TCP listener of this machine with a socket that was prepared, and closes the connection.
///
/// # Errors
/// `TimedOut` if it is not accepted `within` that time; those of `prepare` and of connect(2).
pub fn connect_with(
    address: SocketAddr,
    within: Duration,
    prepare: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.cloexec(),
        Some(Protocol::TCP),
    )?;
    prepare(socket.as_fd())?;
    socket.connect_timeout(&address.into(), within)
}

/// True if this process may mark its packets.
#[must_use]
pub fn may_mark() -> bool {
    let socket = Socket::new(Domain::IPV4, nonblocking(Type::STREAM), Some(Protocol::TCP));
    socket.is_ok_and(|socket| mark(&socket, 1).is_ok())
}

/// The accept queue of a TCP socket (`TCP_INFO`): one system call, on any descriptor of the socket.
///
/// # Errors
/// `ENOTSOCK`, `EOPNOTSUPP` or `ENOPROTOOPT` for anything but a TCP socket.
pub fn accept_queue(socket: impl AsFd) -> io::Result<AcceptQueue> {
    const LISTEN: u8 = 10;
    let info = tcp_info(&socket)?;
    let listening = info.tcpi_state == LISTEN;
    // On a connection the two fields have another meaning.
    let (len, max) = if listening {
        (info.tcpi_unacked, info.tcpi_sacked)
    } else {
        (0, 0)
    };
    Ok(AcceptQueue { len, max, listening })
}

/// The number of bytes that any process read from a TCP connection on this side.
///
/// # Errors
/// Errors of getsockopt(2) for anything but a TCP connection.
pub fn bytes_read(connection: impl AsFd) -> io::Result<u64> {
    // States in include/net/tcp_states.h in which the peer has sent its FIN, which counts as a received byte.
    const TIME_WAIT: u8 = 6;
    const AFTER_FIN: std::ops::RangeInclusive<u8> = 8..=9;
    const CLOSING: u8 = 11;
    let info = tcp_info(&connection)?;
    let unread = rustix::io::ioctl_fionread(&connection)?;
    let fin = AFTER_FIN.contains(&info.tcpi_state) || [TIME_WAIT, CLOSING].contains(&info.tcpi_state);
    let received = info.tcpi_bytes_received.saturating_sub(u64::from(fin));
    Ok(received.saturating_sub(unread))
}

fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is integers; all zero is a value of it.
    let mut info: libc::tcp_info = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes into the live `info`, and the length into `len`.
    let status = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info)
}

/// True if IPv6 sockets can be bound on this machine.
#[must_use]
pub fn ipv6_available() -> bool {
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
    bind_udp(
        any,
        UdpOptions {
            v6only: true,
            ..UdpOptions::default()
        },
    )
    .is_ok()
}

/// `SO_COOKIE`: identifies the socket until the next boot.
///
/// # Errors
/// `ENOTSOCK`.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// The inode number, which identifies the socket in `/proc` and sock_diag(7).
///
/// # Errors
/// fstat(2) failed.
pub fn inode(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

fn nonblocking(kind: Type) -> Type {
    kind.nonblocking().cloexec()
}

fn bind(socket: Socket, owner: Option<u32>, address: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    // This comes before the bind, because the kernel remembers the owner of a port's first socket.
    owner.map_or(Ok(()), |owner| give(&socket, owner))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6only)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn unix_stream() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn unix_address(path: &[u8]) -> io::Result<SocketAddrUnix> {
    Ok(match path.strip_prefix(b"\0") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    })
}
