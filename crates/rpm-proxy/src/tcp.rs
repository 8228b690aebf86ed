//! Connections that are passed on as they are, for what is not HTTP.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::attempt::Attempts;
use crate::serve::Peer;
use crate::tunnel;

/// Finds an upstream for a client's connection, and passes bytes to and fro until one side has ended, or both are silent for too long.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, peer: &Peer) {
    let settings = peer.front.settings();
    let mut attempts = Attempts::new(&peer.front, Arc::clone(&settings), peer.ip, None);
    loop {
        let Ok(in_flight) = attempts.upstream().await else {
            peer.front.count_unavailable();
            return;
        };
        let upstream = Arc::clone(in_flight.upstream());
        let connected = timeout(settings.connect_timeout, upstream.addr().connect()).await;
        let Ok(Ok(mut stream)) = connected else {
            if attempts.again(&upstream) {
                continue;
            }
            return;
        };
        upstream.connected();
        // One that has gone already is found to have.
        let _ = stream.set_nodelay(true);
        let bytes = tunnel::join(&mut client, &mut stream, settings.tunnel_timeout).await;
        peer.front.count_bytes(bytes);
        return;
    }
}
