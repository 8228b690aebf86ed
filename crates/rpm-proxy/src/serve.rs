//! Serves accepted connections: PROXY protocol, TLS, then the version of HTTP that the client speaks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use rpm_tls::Tls;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use crate::any_stream::AnyStream;
use crate::front::Front;
use crate::h1::connection::Served;
use crate::h1::local_response;
use crate::h1::wire::Wire;
use crate::network;
use crate::peer::Peer;
use crate::plaintext_guard::PlaintextGuard;
use crate::policy::rejection::NO_TLS;
use crate::pool::Pools;
use crate::prefixed::Prefixed;
use crate::proxy_protocol::{self, Header};
use crate::stage::ClosingStage;
use crate::tcp;
use crate::{h1, h2};

/// Serves an accepted client.
pub(crate) async fn serve(
    (stream, address): (TcpStream, SocketAddr),
    front: Arc<Front>,
    pools: Rc<Pools>,
    closing: watch::Receiver<ClosingStage>,
) {
    // If the client has gone already, the next read shows it.
    let _ = stream.set_nodelay(true);
    match network::any(&front.settings().proxy_protocol, address.ip()) {
        false => {
            let stream = Prefixed::new(Bytes::new(), stream);
            admit(stream, address.ip(), front, pools, closing).await;
        }
        true => Box::pin(announced((stream, address), front, pools, closing)).await,
    }
}

/// As [`serve`], for a connection that begins with the PROXY protocol.
async fn announced(
    (stream, address): (TcpStream, SocketAddr),
    front: Arc<Front>,
    pools: Rc<Pools>,
    closing: watch::Receiver<ClosingStage>,
) {
    match timeout(front.settings().header_timeout, proxy_header(stream)).await {
        Ok(Ok((stream, ip))) => admit(stream, ip.unwrap_or(address.ip()), front, pools, closing).await,
        Ok(Err(error)) => debug!(%address, %error, "a client does not speak the PROXY protocol"),
        Err(_) => debug!(%address, "a client has not spoken the PROXY protocol in time"),
    }
}

/// Reads the header of the PROXY protocol.
async fn proxy_header(mut stream: TcpStream) -> io::Result<(Prefixed<TcpStream>, Option<IpAddr>)> {
    let mut come = BytesMut::new();
    loop {
        match proxy_protocol::read(&come) {
            Header::Partial => {}
            Header::Complete(length, ip) => {
                come.advance(length);
                return Ok((Prefixed::new(come.freeze(), stream), ip));
            }
            Header::Bad => return Err(io::ErrorKind::InvalidData.into()),
        }
        if stream.read_buf(&mut come).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Counts a client, and serves it with TLS if there are certificates.
async fn admit(
    stream: Prefixed<TcpStream>,
    ip: IpAddr,
    front: Arc<Front>,
    pools: Rc<Pools>,
    closing: watch::Receiver<ClosingStage>,
) {
    let ip = ip.to_canonical();
    let settings = front.settings();
    let Some(admission) = front.admit(ip, settings.max_connections) else {
        return;
    };
    let tls = front.tls();
    let Some(peer) = Peer::new(front, pools, ip, tls.is_some()).map(Rc::new) else {
        return;
    };
    match tls {
        Some(tls) => Box::pin(secured(stream, tls, peer, closing)).await,
        // Most clients: the prefix would be asked for at each read.
        None => match stream.untouched() {
            Ok(stream) => speak(stream, peer, settings.tcp, closing).await,
            Err(stream) => Box::pin(speak(stream, peer, settings.tcp, closing)).await,
        },
    }
    drop(admission);
}

/// Serves a client over TLS, with the protocol that ALPN has chosen.
async fn secured(
    stream: Prefixed<TcpStream>,
    tls: Arc<Tls>,
    peer: Rc<Peer>,
    closing: watch::Receiver<ClosingStage>,
) {
    let (settings, ip) = (peer.front.settings(), peer.ip);
    let accepting = tls.acceptor().accept(PlaintextGuard::new(stream)).into_fallible();
    match timeout(settings.header_timeout, accepting).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") && !settings.tcp => {
            h2::connection::serve(Prefixed::new(Bytes::new(), Box::new(stream)), peer, closing).await;
        }
        Ok(Ok(stream)) => speak(stream, peer, settings.tcp, closing).await,
        Ok(Err((error, guard))) => {
            debug!(%ip, %error, "TLS handshake failed");
            if let Some(stream) = guard.into_plain().filter(|_| !settings.tcp) {
                local_response::reject(stream, &peer, NO_TLS).await;
            }
        }
        Err(_) => debug!(%ip, "TLS handshake timed out"),
    }
}

/// Serves a client with the protocol that it speaks.
///
/// Most clients speak HTTP/1 without TLS. Everything else is boxed, so that their tasks stay small.
async fn speak<S>(stream: S, peer: Rc<Peer>, tcp: bool, closing: watch::Receiver<ClosingStage>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    if tcp {
        return Box::pin(tcp::serve(stream, &peer)).await;
    }
    if peer.front.settings().h2c {
        return Box::pin(h2::connection::serve_any_version(Box::new(stream), peer, closing)).await;
    }
    match h1::connection::serve(stream, &peer, closing.clone()).await {
        Served::Ended => {}
        Served::Http2(Wire { io, input, .. }) => {
            let stream = Prefixed::new(input.freeze(), Box::new(io) as AnyStream);
            Box::pin(h2::connection::serve(stream, peer, closing)).await;
        }
    }
}
