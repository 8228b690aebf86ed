//! Messages to systemd (sd_notify(3)): the daemon serves, another binary takes over, the daemon ends, the event loop runs. Outside a service
//! of `Type=notify` there is no `NOTIFY_SOCKET`, and nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::debug;

/// The address of systemd's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The daemon accepts requests; also after an update that was refused.
pub(crate) fn ready() {
    tell(&format!(
        "READY=1\nSTATUS=version {} serves",
        env!("CARGO_PKG_VERSION")
    ));
}

/// A binary of this version takes over.
pub(crate) fn reloading(version: &str) {
    let now = rpm_sys::survive::monotonic().as_micros();
    tell(&format!(
        "RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=version {version} takes over"
    ));
}

/// The daemon ends, and leaves its apps to the next one.
pub(crate) fn leaving() {
    tell("STOPPING=1\nSTATUS=the apps run on");
}

/// The daemon ends its apps, and then itself.
pub(crate) fn stopping() {
    tell("STOPPING=1\nSTATUS=the apps end");
}

/// The event loop runs.
pub(crate) fn alive() {
    tell("WATCHDOG=1");
}

/// How often [`alive`] must be called: twice in the time after which systemd takes the daemon for frozen. `None` if systemd does not watch.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval(
        variable("WATCHDOG_USEC"),
        variable("WATCHDOG_PID"),
        std::process::id(),
    )
}

fn interval(limit_us: Option<String>, watched_pid: Option<String>, own_pid: u32) -> Option<Duration> {
    if watched_pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let limit_us: u64 = limit_us?.parse().ok()?;
    (limit_us > 0).then(|| Duration::from_micros(limit_us / 2).max(Duration::from_millis(1)))
}

fn tell(message: &str) {
    let Some(address) = std::env::var_os(SOCKET).filter(|address| !address.is_empty()) else {
        return;
    };
    if let Err(error) = send(&address, message) {
        debug!(%error, message, "systemd cannot be notified");
    }
}

fn send(address: &OsStr, message: &str) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    // systemd may be busy, and the daemon does not wait for it.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_of_the_process_that_it_names() {
        let interval =
            |limit: &str, pid: Option<&str>| interval(Some(limit.to_owned()), pid.map(str::to_owned), 7);
        assert_eq!(interval("3000000", Some("7")), Some(Duration::from_millis(1500)));
        assert_eq!(interval("3000000", None), Some(Duration::from_millis(1500)));
        assert_eq!(interval("3000000", Some("8")), None);
        assert_eq!(interval("0", Some("7")), None);
        assert_eq!(interval("soon", None), None);
    }

    #[test]
    fn both_kinds_of_addresses_are_reached() {
        let name = format!("rpm-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let of_path = UnixDatagram::bind(&path).unwrap();
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let of_name = UnixDatagram::bind_addr(&abstract_address).unwrap();
        for (socket, address) in [
            (of_path, path.as_os_str()),
            (of_name, OsStr::new(&format!("@{name}"))),
        ] {
            send(address, "READY=1").unwrap();
            let mut got = [0; 16];
            let length = socket.recv(&mut got).unwrap();
            assert_eq!(&got[..length], b"READY=1");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1").is_err());
    }
}
