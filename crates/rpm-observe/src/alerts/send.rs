//! Telling somebody: a request to a webhook, or a command.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rpm_wire::alerts::Sink;
use rustix::process::{Pid, Signal, kill_process_group};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::{bodies, lines};
use super::engine::Message;

/// Time for a receiver to answer, from the name's resolution to the last byte.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Time for a command.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// The most messages that a command gets as JSON: a variable may have 128 KiB.
const SHOWN: usize = 20;

/// Nobody was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untold {
    #[error("not an address: {0}")]
    Address(&'static str),
    #[error("cannot connect: {0}")]
    Unreachable(#[source] std::io::Error),
    #[error("this machine has no certificates of authorities (Debian: package ca-certificates): {0}")]
    NoRoots(String),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("not done within {0} s")]
    Late(u64),
    #[error("the command cannot be run: {0}")]
    NoCommand(#[source] std::io::Error),
    #[error("the command ended with {0}")]
    Failed(String),
}

impl Untold {
    /// True if it may go well the next time.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Untold::Unreachable(_) | Untold::Broken(_) | Untold::Late(_) => true,
            Untold::Refused(status) => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            // A command that did not do it may have done half of it.
            Untold::Address(_)
            | Untold::NoRoots(_)
            | Untold::Request(_)
            | Untold::NoCommand(_)
            | Untold::Failed(_) => false,
        }
    }
}

/// Tells these messages, and returns what the receiver said.
pub(crate) async fn send(sink: &Sink, messages: &[Message], host: &str) -> Result<String, Untold> {
    match sink {
        Sink::Webhook { url, shape, key } => {
            let mut said = String::new();
            for body in bodies(*shape, key.as_deref(), messages, host) {
                said = post(url, body.to_string()).await?;
            }
            Ok(said)
        }
        Sink::Exec { command, cwd } => run(command, cwd, messages, host).await,
    }
}

async fn post(url: &str, body: String) -> Result<String, Untold> {
    let answer = timeout(ANSWER_WITHIN, ask(url, body)).await;
    let status = answer.map_err(|_| Untold::Late(ANSWER_WITHIN.as_secs()))??;
    match status.is_success() {
        true => Ok(format!("it answered {status}")),
        false => Err(Untold::Refused(status)),
    }
}

async fn ask(url: &str, body: String) -> Result<StatusCode, Untold> {
    let uri: Uri = url.parse().map_err(|_| Untold::Address("it cannot be read"))?;
    let authority = uri.authority().ok_or(Untold::Address("it has no host"))?.clone();
    let secure = uri.scheme_str() == Some("https");
    let usual = if secure { 443 } else { 80 };
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), authority.port_u16().unwrap_or(usual)));
    let stream = stream.await.map_err(Untold::Unreachable)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    // What stands before an @ of the authority is not part of the name.
    let name = authority.as_str().rsplit('@').next().unwrap_or_default();
    let request = Request::post(path)
        .header(header::HOST, name)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("rpm/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))?;
    if !secure {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(host).map_err(|_| Untold::Address("its host is no name"))?;
    let connector = TlsConnector::from(Arc::new(trust()?));
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(Untold::Unreachable)?;
    exchange(stream, request).await
}

/// TLS that trusts the authorities of this machine, and of `SSL_CERT_FILE`.
fn trust() -> Result<rustls::ClientConfig, Untold> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(found.certs);
    if good == 0 {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(Untold::NoRoots(why));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Untold::NoRoots(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What the receiver says is not read: it may repeat the address, which is a secret.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, Untold>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with this request.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    Ok(sender.send_request(request).await?.status())
}

/// Runs the line, with what it is about in variables.
async fn run(line: &str, cwd: &str, messages: &[Message], host: &str) -> Result<String, Untold> {
    let first = messages.first();
    let app = first.and_then(|message| message.app.clone()).unwrap_or_default();
    let id = first.and_then(|message| message.id).map(|id| id.to_string());
    let state = first.map(|message| match message.state {
        super::engine::State::Fired => "fired",
        super::engine::State::Recovered => "recovered",
        super::engine::State::Test => "test",
    });
    let mut child = Command::new("/bin/sh")
        .args(["-c", line])
        .current_dir(if cwd.is_empty() { "/" } else { cwd })
        .env("RPM_ALERT_ON", first.map_or("", |message| message.on.name()))
        .env("RPM_ALERT_STATE", state.unwrap_or_default())
        .env("RPM_ALERT_APP", app)
        .env("RPM_ALERT_ID", id.unwrap_or_default())
        .env("RPM_ALERT_HOST", host)
        .env("RPM_ALERT_TEXT", lines(messages, host))
        .env(
            "RPM_ALERT_JSON",
            serde_json::to_string(&messages[..messages.len().min(SHOWN)]).unwrap_or_default(),
        )
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(Untold::NoCommand)?;
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    let ended = timeout(COMMAND_WITHIN, child.wait()).await;
    if ended.is_err()
        && let Some(group) = group
    {
        // Its own group: what it has started goes with it. One that has ended is not waited for yet, so the number is its own still.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait().await;
    }
    match ended {
        Err(_) => Err(Untold::Late(COMMAND_WITHIN.as_secs())),
        Ok(Err(error)) => Err(Untold::NoCommand(error)),
        Ok(Ok(status)) if status.success() => Ok("the command succeeded".to_owned()),
        Ok(Ok(status)) => Err(Untold::Failed(ending(status))),
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => rpm_wire::events::signal_name(signal),
        (None, None) => status.to_string(),
    }
}
