//! What follows a 101: both sides speak another protocol.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::Wire;
use crate::tunnel;

/// Longer than any connection lives.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Runs a tunnel between both sides. Returns how many bytes came from the client and from the worker.
pub(super) async fn join<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Wire<S>,
    mut upstream: Wire<TcpStream>,
    within: Duration,
) -> (u64, u64) {
    client.output.extend_from_slice(&upstream.input);
    upstream.output.extend_from_slice(&client.input);
    let first = async {
        client.io.write_all_buf(&mut client.output).await?;
        client.io.flush().await?;
        upstream.io.write_all_buf(&mut upstream.output).await
    };
    let first = timeout(if within.is_zero() { FOR_EVER } else { within }, first);
    match first.await {
        Ok(Ok(())) => tunnel::join(&mut client.io, &mut upstream.io, within).await,
        Ok(Err(_)) | Err(_) => (0, 0),
    }
}
