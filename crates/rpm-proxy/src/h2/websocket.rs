//! WebSockets over HTTP/2 (RFC 8441): the client sends an extended CONNECT, and the worker gets an HTTP/1.1 upgrade.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;

use super::download::ResponseBody;
use super::streams::Stream;
use crate::balance::mixed;
use crate::front::Front;
use crate::tunnel;
use crate::upstream::InFlight;

/// The request asks for a WebSocket.
pub(crate) fn is_asked_for(request: &Request<Incoming>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    request.method() == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// Turns the head into an HTTP/1.1 upgrade.
pub(crate) fn ask(parts: &mut Parts, seed: u64) {
    parts.method = Method::GET;
    let headers = &mut parts.headers;
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers
        .entry(SEC_WEBSOCKET_VERSION)
        .or_insert(HeaderValue::from_static("13"));
    if let Ok(key) = HeaderValue::try_from(key(seed)) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// Accepts the client's WebSocket, and runs the tunnel until one side ends, or both are silent for `within`.
pub(crate) fn join(
    client: OnUpgrade,
    mut answer: Response<Incoming>,
    until_it_ends: (InFlight, Stream),
    (front, within): (Arc<Front>, Duration),
) -> Response<ResponseBody> {
    let worker = hyper::upgrade::on(&mut answer);
    tokio::task::spawn_local(async move {
        if let (Ok(client), Ok(worker)) = (client.await, worker.await) {
            let (mut client, mut worker) = (TokioIo::new(client), TokioIo::new(worker));
            let bytes = tunnel::join(&mut client, &mut worker, within).await;
            front.count_bytes(bytes);
        }
        drop(until_it_ends);
    });
    let mut response = Response::new(ResponseBody::nothing());
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
        response.headers_mut().remove(name);
    }
    response
}

/// 16 bytes in Base64. They differ between connections; they need not be secret.
fn key(seed: u64) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (first, second) = (mixed(seed), mixed(!seed));
    let digit = |at: u32| {
        let bits = if at < 10 {
            first >> (at * 6)
        } else {
            second >> ((at - 10) * 6 % 60)
        };
        char::from(ALPHABET[(bits % 64) as usize])
    };
    let mut key: String = (0..21).map(digit).collect();
    // Only two bits of the last digit count.
    key.push(char::from(b"AQgw"[(second >> 60) as usize % 4]));
    key.push_str("==");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_16_bytes_in_base64_and_differ() {
        let keys: std::collections::BTreeSet<String> = (0..1000).map(key).collect();
        assert_eq!(keys.len(), 1000);
        for key in keys {
            assert!(key.len() == 24 && key.ends_with("=="), "{key}");
            assert!("AQgw".contains(&key[21..22]), "{key}");
        }
    }
}
