//! Sockets, and what the kernel says about them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use crate::support::{BOUND, Slots, Victim, accepted, command, so, wait_until};
use rpm_sys::pass::{self, Pass, Places};
use rpm_sys::sock_diag::{
    established, listeners, listeners_on, owner, sockets_of, sockets_surely_of, udp_on,
};
use rpm_sys::socket::{
    self, UdpOptions, accept, accept_queue, bind_tcp, bind_tcp_for, bind_udp, bind_unix, cookie, inode,
    ipv6_available, listen, local_addr, reserve_port, unix_file, unix_is_stale, unlisten,
};
use rpm_sys::spawn::Spawn;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[test]
fn the_accept_queue_is_counted_exactly() {
    let slots = Slots::new(1);
    let listener = &slots.fds[0];
    listen(listener, 77).unwrap();
    let mut clients = Vec::new();
    for expected in 1..=40 {
        clients.extend(slots.connect(1));
        assert_eq!(slots.queues(expected), [expected as u32]);
    }
    let queue = accept_queue(listener).unwrap();
    assert_eq!((queue.len, queue.max, queue.listening), (40, 77, true));
    assert!(accept(listener).unwrap().is_some());
    assert_eq!(accept_queue(listener).unwrap().len, 39);
    unlisten(listener).unwrap();
    let queue = accept_queue(listener).unwrap();
    assert_eq!((queue.len, queue.max, queue.listening), (0, 0, false));
}

#[test]
fn a_guarded_listener_accepts_only_who_marks_its_packets() {
    const MARK: u32 = 0x1234;
    if !socket::may_mark() {
        eprintln!("skipped: this process may not mark what it sends");
        return;
    }
    let listener = bind_tcp(LOCAL, false).unwrap();
    rpm_sys::cbpf::accept_marked(listener.as_fd(), MARK).unwrap();
    listen(&listener, 8).unwrap();
    let address = local_addr(&listener).unwrap();
    let connect_within = |within: Duration, mark: Option<u32>| {
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        mark.map_or(Ok(()), |mark| socket::mark(&client, mark)).unwrap();
        client.connect_timeout(&address.into(), within).map(|()| client)
    };
    let is_refused = |mark| connect_within(Duration::from_millis(300), mark).is_err();
    assert!(is_refused(None) && is_refused(Some(MARK + 1)));
    let client = connect_within(BOUND, Some(MARK)).unwrap();
    let served = accepted(&listener);
    // Whatever comes after the handshake arrives, also what nobody marks: that the client is gone.
    drop(client);
    let mut served = std::fs::File::from(served);
    rustix::io::ioctl_fionbio(&served, false).unwrap();
    assert_eq!(std::io::Read::read(&mut served, &mut [0; 1]).unwrap(), 0);
    rpm_sys::cbpf::accept_all(listener.as_fd());
    assert!(connect_within(BOUND, None).is_ok());
}

#[test]
fn what_was_read_of_a_connection_is_known_and_no_end_counts_as_a_byte() {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind(LOCAL).unwrap();
    let pair = || {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    };
    let arrived = |served: &TcpStream, count: usize| {
        let there = || served.peek(&mut [0; 100]).unwrap();
        while there() < count {}
    };
    let (mut client, mut served) = pair();
    assert_eq!(socket::bytes_read(&served).unwrap(), 0);
    client.write_all(b"request").unwrap();
    arrived(&served, 7);
    assert_eq!(socket::bytes_read(&served).unwrap(), 0, "it waits to be read");
    // Whoever reads it, the connection is the same.
    served.try_clone().unwrap().read_exact(&mut [0; 3]).unwrap();
    assert_eq!(socket::bytes_read(&served).unwrap(), 3);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    served.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(socket::bytes_read(&served).unwrap(), 7);
    let (mut client, served) = pair();
    client.write_all(b"request").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    arrived(&served, 7);
    let ended = || {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut polled = [PollFd::new(&served, PollFlags::RDHUP)];
        poll(&mut polled, None).unwrap()
    };
    assert_eq!(ended(), 1);
    assert_eq!(socket::bytes_read(&served).unwrap(), 0, "its end was sent, too");
    let (client, served) = pair();
    drop(client);
    let mut served = served;
    assert_eq!(served.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(socket::bytes_read(&served).unwrap(), 0, "nothing but its end");
}

#[test]
fn accept_never_waits_even_on_a_socket_made_blocking() {
    let slots = Slots::new(1);
    rustix::io::ioctl_fionbio(&slots.fds[0], false).unwrap();
    assert!(accept(&slots.fds[0]).unwrap().is_none());
    let _client = slots.connect(1);
    slots.queues(1);
    assert!(accept(&slots.fds[0]).unwrap().is_some());
    let bound = bind_tcp(LOCAL, false).unwrap();
    assert!(accept(&bound).is_err());
}

#[test]
fn a_reserved_port_serves_nobody_and_slots_can_share_it() {
    let reserved = reserve_port(LOCAL, false).unwrap();
    let address = local_addr(&reserved).unwrap();
    assert_ne!(address.port(), 0);
    assert!(TcpStream::connect(address).is_err());
    let slot = bind_tcp(address, false).unwrap();
    listen(&slot, 16).unwrap();
    assert!(TcpStream::connect(address).is_ok());
    unlisten(&slot).unwrap();
    listen(&slot, 16).unwrap();
    assert_eq!(local_addr(&slot).unwrap(), address);
}

#[test]
fn bound_sockets_close_on_exec_and_do_not_block() {
    let udp = bind_udp(LOCAL, UdpOptions::default()).unwrap();
    let unix = bind_unix(b"\0rpm-sys-test-flags").unwrap();
    for fd in [&bind_tcp(LOCAL, false).unwrap(), &udp, &unix] {
        assert!(
            rustix::io::fcntl_getfd(fd)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        assert!(
            rustix::fs::fcntl_getfl(fd)
                .unwrap()
                .contains(rustix::fs::OFlags::NONBLOCK)
        );
    }
}

#[test]
fn a_udp_port_is_exclusive_unless_shared() {
    let exclusive = bind_udp(LOCAL, UdpOptions::default()).unwrap();
    let address = local_addr(&exclusive).unwrap();
    let error = bind_udp(address, UdpOptions::default()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let shared = UdpOptions {
        reuse_port: true,
        ..UdpOptions::default()
    };
    let first = bind_udp(LOCAL, shared).unwrap();
    bind_udp(local_addr(&first).unwrap(), shared).unwrap();
    let seen = udp_on(address.port()).unwrap();
    let mine = inode(&exclusive).unwrap();
    assert!(
        seen.iter()
            .any(|socket| socket.addr == address && socket.inode == mine),
        "{seen:?}"
    );
}

#[test]
fn a_dual_stack_slot_and_a_v6only_one_say_so() {
    assert!(ipv6_available(), "the machine needs IPv6 for this test");
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    for v6only in [false, true] {
        // With `v6only` the same port of IPv4 may be another program's, unless it is taken here.
        let (slot, port, _four) = loop {
            let slot = bind_tcp(any, v6only).unwrap();
            let port = local_addr(&slot).unwrap().port();
            let four = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            if !v6only || four.bind(&every.into()).is_ok() {
                break (slot, port, four);
            }
        };
        listen(&slot, 16).unwrap();
        let seen = listeners_on(port).unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].v6only, seen[0].backlog), (v6only, 16));
        assert_eq!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), !v6only);
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
    }
}

#[test]
fn a_unix_socket_file_without_a_listener_is_stale() {
    let path = std::env::temp_dir().join(format!("rpm-sys-stale-{}", std::process::id()));
    let path = path.to_str().unwrap().as_bytes();
    assert!(!unix_is_stale(path));
    let socket = bind_unix(path).unwrap();
    listen(&socket, 4).unwrap();
    assert!(!unix_is_stale(path));
    assert_eq!(bind_unix(path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(socket);
    assert!(unix_is_stale(path));
    let file = std::path::Path::new(str::from_utf8(path).unwrap());
    let made = std::fs::metadata(file).unwrap();
    assert_eq!(unix_file(path), Some((made.dev(), made.ino())));
    let link = file.with_extension("link");
    std::os::unix::fs::symlink(file, &link).unwrap();
    assert!(!unix_is_stale(link.as_os_str().as_bytes()), "a link");
    std::fs::remove_file(file).unwrap();
    // Connecting to it is refused, too.
    std::fs::write(file, "precious").unwrap();
    assert!(!unix_is_stale(path) && unix_file(path).is_none(), "a file");
    std::fs::remove_file(file).unwrap();
    std::fs::remove_file(link).unwrap();
    assert!(bind_unix(&[b'x'; 200]).is_err());
}

/// What users of the machine rely on: a port is shared by sockets of one user alone.
#[test]
fn a_socket_that_was_given_away_shares_the_ports_of_its_user() {
    let own = socket::owner(bind_tcp(LOCAL, false).unwrap()).unwrap();
    assert_eq!(own, rpm_sys::peer::effective_uid());
    let other = own + 65_432;
    if own != 0 {
        let error = bind_tcp_for(Some(other), LOCAL, false).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        return;
    }
    let theirs = bind_tcp_for(Some(other), LOCAL, false).unwrap();
    let address = local_addr(&theirs).unwrap();
    listen(&theirs, 16).unwrap();
    assert_eq!(
        bind_tcp(address, false).unwrap_err().kind(),
        std::io::ErrorKind::AddrInUse
    );
    listen(bind_tcp_for(Some(other), address, false).unwrap(), 16).unwrap();
    // Those that listen become another user's, and only that one's join them.
    socket::give(&theirs, own).unwrap();
    assert_eq!(socket::owner(&theirs).unwrap(), own);
    listen(bind_tcp(address, false).unwrap(), 16).unwrap();
    assert!(bind_tcp_for(Some(other), address, false).is_err());
    // A connection that was accepted is that user's who accepts it, until it is given away.
    let _client = TcpStream::connect(address).unwrap();
    let connection = accepted(&theirs);
    assert_eq!(socket::owner(&connection).unwrap(), own);
    socket::give(&connection, other).unwrap();
    assert_eq!(socket::owner(&connection).unwrap(), other);
}

#[test]
fn a_socket_says_of_which_network_it_is() {
    assert!(socket::is_in_our_network(bind_tcp(LOCAL, false).unwrap()).unwrap());
    assert!(socket::is_in_our_network(bind_udp(LOCAL, UdpOptions::default()).unwrap()).unwrap());
}

#[test]
fn cookies_name_sockets_not_descriptors() {
    let (one, two) = (bind_tcp(LOCAL, false).unwrap(), bind_tcp(LOCAL, false).unwrap());
    assert_ne!(cookie(&one).unwrap(), cookie(&two).unwrap());
    let copy = one.try_clone().unwrap();
    assert_eq!(cookie(&one).unwrap(), cookie(&copy).unwrap());
    assert_eq!(inode(&one).unwrap(), inode(&copy).unwrap());
}

/// As of a process that ends, and of one that ends its first thread alone: the others hold what they held.
#[test]
fn what_shows_no_descriptors_is_not_said_to_hold_none() {
    const ENDS_ITS_FIRST_THREAD: &str = "import ctypes, platform, threading, time\n\
        threading.Thread(target=time.sleep, args=(1000,)).start()\n\
        ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)\n";
    let listener = bind_tcp(LOCAL, false).unwrap();
    listen(&listener, 33).unwrap();
    let inode = inode(&listener).unwrap();
    let spawn = |program: &str, args: &[&str]| Spawn {
        fds: vec![(listener.try_clone().unwrap(), 5)],
        ..command(program, args)
    };
    let sleeper = Victim::of(spawn("/bin/sleep", &["1000"])).unwrap();
    assert!(sockets_surely_of(sleeper.0.pid).is_some_and(|held| held.contains(&inode)));

    let headless = Victim::of(spawn("/usr/bin/python3", &["-c", ENDS_ITS_FIRST_THREAD])).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !sockets_of(headless.0.pid).is_empty() {
        assert!(Instant::now() < until, "its first thread does not end");
        std::thread::yield_now();
    }
    assert_eq!(sockets_surely_of(headless.0.pid), None);
    assert_eq!(sockets_surely_of(u32::MAX), None, "nobody");
}

#[test]
fn a_foreign_listener_is_found_with_its_owner() {
    let listener = bind_tcp(LOCAL, false).unwrap();
    listen(&listener, 33).unwrap();
    let (address, inode) = (local_addr(&listener).unwrap(), inode(&listener).unwrap());
    let holder = Spawn {
        fds: vec![(listener, 5)],
        ..command("/bin/sleep", &["1000"])
    };
    let holder = Victim::of(holder).unwrap();

    let seen = listeners_on(address.port()).unwrap();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(
        (seen[0].addr, seen[0].inode, seen[0].backlog),
        (address, inode, 33)
    );
    assert_eq!(seen[0].uid, rpm_sys::peer::effective_uid());
    assert!(listeners().unwrap().contains(&seen[0]));
    // The kernel names a process after the program some time after it has begun to execute it.
    wait_until(|| {
        let owner = owner(inode).unwrap();
        if (owner.pid, owner.command.as_str()) == (holder.0.pid, "sleep") {
            Ok(())
        } else {
            Err(owner)
        }
    });
    assert!(sockets_of(holder.0.pid).contains(&inode));

    let taken = holder.pidfd().getfd(5).unwrap();
    assert_eq!(socket::inode(&taken).unwrap(), inode);
    assert!(
        rustix::io::fcntl_getfd(taken.as_fd())
            .unwrap()
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
    drop(holder);
    drop(taken);
    assert!(listeners_on(address.port()).unwrap().is_empty());
}

#[test]
fn connections_are_counted_by_port_and_named_by_inode() {
    let (slots, other) = (Slots::new(1), Slots::new(1));
    let _clients = (slots.connect(3), other.connect(1));
    slots.queues(3);
    other.queues(1);
    let connection = accepted(&slots.fds[0]);
    let seen = established(&[slots.address.port()]).unwrap();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.iter().all(|(local, _)| *local == slots.address));
    assert!(seen.contains(&(slots.address, inode(&connection).unwrap())));
    assert_eq!(
        established(&[slots.address.port(), other.address.port()])
            .unwrap()
            .len(),
        4
    );
    assert!(established(&[]).unwrap().is_empty());
}

/// As any user may: no privilege is used.
#[test]
fn a_divided_address_lets_in_who_shows_the_pass() {
    const WITHIN: Duration = Duration::from_millis(300);
    let pass = Pass::new([7; 16]);
    let slot = bind_tcp(LOCAL, false).unwrap();
    let address = local_addr(&slot).unwrap();
    let sink = pass::sink(slot.as_fd(), None, WITHIN).unwrap();
    pass.divide(sink.as_fd(), Places { shown: 1, others: 0 }).unwrap();
    listen(&slot, 8).unwrap();
    let plain = |within| TcpStream::connect_timeout(&address, within).map(drop);
    let with = |pass: &Pass, within| socket::connect_with(address, within, |client| pass.show(client));
    let is_divided = || {
        for refused in [plain(WITHIN), with(&Pass::new([8; 16]), WITHIN)] {
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        }
        with(&pass, BOUND).unwrap();
        drop(accepted(&slot));
        assert!(accept(&slot).unwrap().is_none());
    };
    is_divided();
    // What fills the sink's queue is no connection.
    let open = established(&[address.port()]).unwrap();
    assert!(open.iter().all(|(local, _)| *local != address), "{open:?}");
    // Its process ends, and the next one has a sink again.
    drop(sink);
    plain(BOUND).unwrap();
    drop(accepted(&slot));
    pass.divide(slot.as_fd(), Places { shown: 0, others: 1 }).unwrap();
    let _sink = pass::sink(slot.as_fd(), None, WITHIN).unwrap();
    is_divided();
}

/// Does a client wait for an answer of this local port?
fn is_knocked_at(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let peer = format!(":{port:04X} 02 ");
    table.lines().any(|line| line.contains(&peer))
}

#[test]
fn what_comes_to_a_listener_that_is_held_off_goes_to_the_next_one() {
    let old = bind_tcp(LOCAL, false).unwrap();
    listen(&old, 8).unwrap();
    let addr = local_addr(&old).unwrap();
    let _queued = TcpStream::connect(addr).unwrap();
    wait_until(|| so(accept_queue(&old).unwrap().len == 1));
    rpm_sys::cbpf::hold_off(old.as_fd()).unwrap();
    let late = std::thread::spawn(move || TcpStream::connect_timeout(&addr, Duration::from_secs(60)));
    wait_until(|| so(is_knocked_at(addr.port())));
    assert!(accept(old.as_fd()).unwrap().is_some(), "it was there before");
    assert!(accept(old.as_fd()).unwrap().is_none(), "it was kept away");
    let new = bind_tcp(addr, false).unwrap();
    // The next one listens before the old one closes: a client that came in between would be refused.
    listen(&new, 8).unwrap();
    drop(old);
    late.join().unwrap().expect("it comes again");
}

/// The flag belongs to the open file, which a program has too that counts on it.
#[test]
fn accepting_does_not_wait_and_leaves_a_socket_waiting_that_did() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let waits = || {
        let flags = rustix::fs::fcntl_getfl(&listener).expect("it is open");
        !flags.contains(rustix::fs::OFlags::NONBLOCK)
    };
    assert!(waits());
    assert!(accept(&listener).expect("it listens").is_none());
    assert!(waits());
    let _client = TcpStream::connect(listener.local_addr().expect("its address")).expect("it listens");
    wait_until(|| so(accept(&listener).expect("it listens").is_some()));
    assert!(waits());
    listener.set_nonblocking(true).expect("it is ours");
    assert!(accept(&listener).expect("it listens").is_none());
    assert!(!waits());
}
