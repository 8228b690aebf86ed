//! Who gets logs, alerts, metrics and spans, asked of the process of `rpm observe on` at its own port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rpm_wire::api::ObserveSpec;
use rpm_wire::receivers::{RECEIVERS_PATH, Receiving};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for the answer, which is in memory.
const WITHIN: Duration = Duration::from_secs(3);
/// The longest answer, in bytes.
const LONGEST: usize = 4 << 20;

/// The receivers.
///
/// # Errors
/// The process does not answer, or is of another version.
pub(super) async fn receivers(spec: &ObserveSpec) -> anyhow::Result<Vec<Receiving>> {
    let answer = timeout(WITHIN, asked(spec)).await;
    answer.with_context(|| format!("no answer within {} s", WITHIN.as_secs()))?
}

async fn asked(spec: &ObserveSpec) -> anyhow::Result<Vec<Receiving>> {
    // The token crosses no connection that is not checked; and a client's certificate may be wanted.
    ensure!(
        spec.tls.is_none(),
        "it is served by HTTPS; GET {RECEIVERS_PATH} there says who gets what"
    );
    let address = here(spec.listen);
    let mut request = Request::get(RECEIVERS_PATH).header(header::HOST, address.to_string());
    if let Some(path) = &spec.token_file {
        let token = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // The request sees how the connection ends.
    let driver = tokio::spawn(async { drop(connection.await) });
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    ensure!(status.is_success(), "it answered {status}");
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    driver.abort();
    let body = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

/// The address by which this machine reaches what listens there.
fn here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
