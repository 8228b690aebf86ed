//! Connections that are passed on as they are (`--protocol tcp`).

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::attempt::Attempts;
use crate::peer::Peer;
use crate::policy::retry::Unanswered;
use crate::tunnel;
use crate::upstream::connect;

/// Connects a client to an upstream, and copies bytes in both directions until one side ends, or both are silent for too long.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, peer: &Peer) {
    let settings = peer.front.settings();
    let client_key = (peer.ip, None);
    let mut attempts = Attempts::new(&peer.front, Arc::clone(&settings), client_key, true, None);
    while let Ok(in_flight) = attempts.upstream().await {
        let upstream = Arc::clone(in_flight.upstream());
        let Ok(mut stream) = connect(&upstream, settings.connect_timeout).await else {
            match attempts.unanswered(&upstream, Unanswered::UNCONNECTED) {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        upstream.connected();
        let bytes = tunnel::join(&mut client, &mut stream, settings.tunnel_timeout).await;
        peer.front.count_bytes(bytes);
        return;
    }
}
