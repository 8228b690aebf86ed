//! `doctor`: what this kernel, user and container permit, tried rather than guessed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;

use rpm_sys::{cbpf, ebpf, limits, sock_diag, socket};
use rpm_wire::api::Finding;
use rpm_wire::shell::word;

/// Descriptors below which an app of some hundred connections meets the limit of its process.
const FEW_FILES: u64 = 4096;

/// Tries each mechanism. `denied`: why calls cannot be intercepted.
pub(super) fn findings(denied: Option<&str>) -> Vec<Finding> {
    vec![
        ebpf_steering(),
        counting(),
        classic_steering(),
        interception(denied),
        socket_table(),
        dual_stack(),
        backlog(),
        files(),
    ]
}

fn interception(denied: Option<&str>) -> Finding {
    let what = "interception (seccomp)";
    match denied {
        None => works(
            what,
            "programs that are not Node share ports, and fork mode reloads without a gap",
        ),
        Some(why) => fails(
            what,
            why,
            "Linux 5.9 or later, and in a container a seccomp profile that permits seccomp and pidfd_getfd (docker: --cap-add SYS_PTRACE)",
        ),
    }
}

/// How the daemon gets these: for its own program, and a new one takes over.
fn capabilities(wanted: &str) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "rpm".into());
    format!(
        "`sudo setcap {wanted}+ep {}`, then `rpm update`; or run the daemon as root",
        word(&program.to_string_lossy())
    )
}

fn ebpf_steering() -> Finding {
    let what = "steering by eBPF";
    let advice = capabilities("cap_bpf,cap_perfmon");
    match ebpf::Selector::load(1) {
        Ok(selector) if selector.can_migrate() => works(
            what,
            "exact round-robin; what waits at a stopped worker moves to others",
        ),
        Ok(_) => fails(
            what,
            "queues cannot move between sockets",
            "Linux 5.14 or later; without it classic BPF is used",
        ),
        Err(error) => fails(what, error.to_string(), &advice),
    }
}

fn counting() -> Finding {
    let what = "counting connections (least-connections)";
    let advice = format!(
        "{}; Linux 5.7 or later, with control groups of version 2 mounted",
        capabilities("cap_bpf,cap_perfmon,cap_net_admin")
    );
    match ebpf::Counts::load() {
        Ok(_) => works(what, "the worker with the fewest connections is known at once"),
        Err(error) => fails(what, error.to_string(), &advice),
    }
}

fn classic_steering() -> Finding {
    let what = "steering by classic BPF";
    let tried = slot().and_then(|slot| cbpf::attach_random(slot.as_fd(), &[0]));
    match tried {
        Ok(()) => works(what, "random among the eligible workers; needs no privilege"),
        Err(error) => fails(what, error.to_string(), "Linux 4.6 or later"),
    }
}

fn slot() -> io::Result<std::os::fd::OwnedFd> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let reserved = socket::reserve_port(any, false)?;
    let slot = socket::bind_tcp(socket::local_addr(&reserved)?, false)?;
    socket::listen(&slot, 1)?;
    Ok(slot)
}

fn socket_table() -> Finding {
    let what = "socket table (sock_diag)";
    match sock_diag::listeners() {
        Ok(_) => works(
            what,
            "the owner of a port is named, and connections are counted while workers drain",
        ),
        Err(error) => fails(what, error.to_string(), "load the modules tcp_diag and udp_diag"),
    }
}

fn dual_stack() -> Finding {
    let what = "IPv6";
    if socket::ipv6_available() {
        works(what, "listen(port) serves IPv4 and IPv6")
    } else {
        fails(
            what,
            "listen(port) serves IPv4 alone",
            "net.ipv6.conf.all.disable_ipv6=0, if it is wanted",
        )
    }
}

fn backlog() -> Finding {
    let what = "backlog (net.core.somaxconn)";
    let read = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    match read.ok().and_then(|text| text.trim().parse::<u32>().ok()) {
        Some(most) if most >= 4096 => works(what, format!("{most} connections may wait at a worker")),
        Some(most) => fails(
            what,
            format!("{most} connections may wait at a worker, whatever it asks for"),
            "sysctl -w net.core.somaxconn=4096",
        ),
        None => fails(what, "cannot be read", "mount /proc"),
    }
}

fn files() -> Finding {
    let what = "open files (ulimit -n)";
    let limit = limits::nofile();
    let detail = format!("the daemon may open {}, up to {}", limit.soft, limit.hard);
    if limit.soft >= FEW_FILES {
        works(what, detail)
    } else {
        fails(
            what,
            detail,
            "raise it with ulimit -n, or LimitNOFILE= of the service",
        )
    }
}

fn works(mechanism: &str, detail: impl Into<String>) -> Finding {
    Finding {
        mechanism: mechanism.to_owned(),
        works: true,
        detail: detail.into(),
        advice: None,
    }
}

fn fails(mechanism: &str, detail: impl Into<String>, advice: &str) -> Finding {
    Finding {
        works: false,
        advice: Some(advice.to_owned()),
        ..works(mechanism, detail)
    }
}
