//! The Unix socket: who may connect.

use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rpm_sys::{limits, peer};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::handlers;
use crate::inbox::Handle;
use crate::os::reserve;

/// Pause after a failed accept: descriptors come back when requests end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the control API until the daemon ends: HTTP/1 alone, so that nothing of HTTP/2 is compiled for it.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let service = TowerToHyperService::new(handlers::router(handle));
    loop {
        let stream = TokioIo::new(accept(&listener).await);
        let served = http1::Builder::new().serve_connection(stream, service.clone());
        // How it ends is the client's to know.
        tokio::spawn(async move { drop(served.await) });
    }
}

/// The next connection of the daemon's own user or of root. The socket's mode says the same; this holds even if somebody changes it.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if allowed(&stream) => return stream,
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

fn allowed(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == peer::effective_uid() || peer.uid() == 0)
}
