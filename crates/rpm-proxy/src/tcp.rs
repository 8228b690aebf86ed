//! Connections that are passed on as they are (`--protocol tcp`).

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::attempt::Attempts;
use crate::peer::Peer;
use crate::tunnel;
use crate::upstream::connect;

/// Connects a client to an upstream, and copies bytes in both directions until one side ends, or both are silent for too long.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, peer: &Peer) {
    peer.front.earn_retry();
    let settings = peer.front.settings();
    let client_key = (peer.ip, None);
    let mut attempts = Attempts::new(&peer.front, Arc::clone(&settings), client_key, true, None);
    while let Ok(in_flight) = attempts.upstream().await {
        let upstream = Arc::clone(in_flight.upstream());
        let connected = connect(&upstream, attempts.within(settings.connect_timeout)).await;
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) => match attempts.unconnected(&upstream, &error) {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        upstream.connected();
        let bytes = tunnel::join(&mut client, &mut stream, settings.tunnel_timeout).await;
        peer.front.count_bytes(bytes);
        return;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::rc::Rc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::front::Front;
    use crate::target::{Target, UpstreamId};

    #[tokio::test]
    async fn connections_earn_retries() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let front = Front::new();
        front.set_upstreams(&[Target {
            id: UpstreamId(1),
            addr: listener.local_addr().expect("its address").into(),
            weight: 1,
            key: 1,
            reserved: false,
        }]);
        while front.spend_retry() {}
        let peer = Peer::new(
            Arc::clone(&front),
            Rc::default(),
            Ipv4Addr::LOCALHOST.into(),
            false,
        );
        let peer = peer.expect("a client");
        for _ in 0..100 {
            let (client, _) = tokio::io::duplex(64);
            tokio::join!(serve(client, &peer), async { drop(listener.accept().await) });
        }
        assert!(front.spend_retry(), "a hundred connections have earned none");
    }
}
