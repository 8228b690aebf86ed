//! The Unix socket: who may connect.

use std::io;
use std::time::Duration;

use axum::serve::Listener;
use rpm_sys::{limits, peer};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::handlers;
use crate::inbox::Handle;
use crate::os::reserve;

/// Pause after a failed accept: descriptors come back when requests end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the control API until the daemon ends.
///
/// # Errors
/// The server cannot run.
pub async fn serve(listener: UnixListener, handle: Handle) -> io::Result<()> {
    axum::serve(OwnerOnly(listener), handlers::router(handle)).await
}

/// Takes connections of the daemon's own user and of root. The socket's mode says the same; this holds
/// even if somebody changes it.
struct OwnerOnly(UnixListener);

impl Listener for OwnerOnly {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, addr)) if allowed(&stream) => return (stream, addr),
                Ok(_) => warn!("a connection of another user to the control socket was closed"),
                // Whoever wants to end something must be heard.
                Err(_) if reserve::release() => {}
                Err(error) => {
                    let limit = limits::nofile().soft;
                    warn!(%error, limit, "cannot accept a request; is the limit of open files (ulimit -n) reached?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn allowed(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == peer::effective_uid() || peer.uid() == 0)
}
