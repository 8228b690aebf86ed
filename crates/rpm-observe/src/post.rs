//! An HTTP POST to a receiver that somebody has configured, over a connection that is used again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Time for one address of a host to accept a connection.
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);

/// Nothing was answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    #[error("not an address: {0}")]
    Address(&'static str),
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    #[error("this machine has no certificates of authorities (Debian: package ca-certificates): {0}")]
    NoRoots(String),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("not done within {0} s")]
    Late(u64),
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
    /// What it says, as far as that was wanted.
    pub body: Bytes,
    /// That is all of it.
    pub is_whole: bool,
}

/// What is sent.
#[derive(Debug)]
pub(crate) struct Letter<'a> {
    pub content_type: &'static str,
    pub headers: &'a [(String, String)],
    pub body: Bytes,
    /// So many bytes of the answer are read.
    pub answer_bytes: usize,
}

/// A receiver.
#[derive(Debug)]
pub(crate) struct Target {
    /// Name or address, without brackets.
    host: String,
    port: u16,
    /// What the field `Host` says.
    name: String,
    path: String,
    secure: bool,
}

impl Target {
    /// `path` is that of an address that has none.
    pub(crate) fn new(url: &str, path: &str) -> Result<Target, Unsent> {
        let uri: Uri = url.parse().map_err(|_| Unsent::Address("it cannot be read"))?;
        let authority = uri.authority().ok_or(Unsent::Address("it has no host"))?;
        let after = authority.as_str().rsplit('@').next().unwrap_or_default();
        if after != authority.host() && authority.port_u16().is_none() {
            return Err(Unsent::Address("its port is no number up to 65535"));
        }
        let secure = uri.scheme_str() == Some("https");
        let usual = if secure { 443 } else { 80 };
        let own = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = match (uri.path(), uri.query()) {
            ("" | "/", None) => path.to_owned(),
            ("" | "/", Some(query)) => format!("{path}?{query}"),
            _ => own.to_owned(),
        };
        Ok(Target {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(usual),
            // What stands before an @ of the authority is not part of the name.
            name: authority
                .as_str()
                .rsplit('@')
                .next()
                .unwrap_or_default()
                .to_owned(),
            path,
            secure,
        })
    }
}

/// A connection to a receiver, made when it is needed.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    tls: Option<Arc<rustls::ClientConfig>>,
    live: Option<Live>,
}

#[derive(Debug)]
struct Live {
    sender: SendRequest<Full<Bytes>>,
    /// Carries the connection, and ends with this.
    _driver: JoinSet<Result<(), hyper::Error>>,
}

impl Client {
    pub(crate) fn new(target: Target) -> Client {
        Client {
            target,
            tls: None,
            live: None,
        }
    }

    /// Sends it, and returns the answer; `within` is the time from the name's resolution to the last byte.
    pub(crate) async fn post(&mut self, letter: Letter<'_>, within: Duration) -> Result<Answer, Unsent> {
        let answer = timeout(within, self.ask(letter)).await;
        let answer = answer.unwrap_or(Err(Unsent::Late(within.as_secs())));
        if answer.is_err() {
            self.live = None;
        }
        answer
    }

    async fn ask(&mut self, letter: Letter<'_>) -> Result<Answer, Unsent> {
        let request = self.request(&letter)?;
        let (mut live, mut is_reused) = match self.live.take() {
            Some(live) => (live, true),
            None => (self.connect().await?, false),
        };
        // The receiver may have closed it, which is seen now or when it is used.
        if live.sender.ready().await.is_err() {
            (live, is_reused) = (self.connect().await?, false);
        }
        let response = match live.sender.send_request(request.clone()).await {
            Ok(response) => response,
            // On a new connection it was not closed for having been idle: the receiver may have got it, and is not told twice.
            Err(error) if is_reused && (error.is_canceled() || error.is_incomplete_message()) => {
                live = self.connect().await?;
                live.sender.send_request(request).await?
            }
            Err(error) => return Err(error.into()),
        };
        let answer = read(response, letter.answer_bytes).await?;
        if answer.is_whole {
            self.live = Some(live);
        }
        Ok(answer)
    }

    fn request(&self, letter: &Letter<'_>) -> Result<Request<Full<Bytes>>, Unsent> {
        let mut request = Request::post(&self.target.path)
            .header(header::HOST, &self.target.name)
            .header(header::CONTENT_TYPE, letter.content_type)
            .header(header::USER_AGENT, concat!("rpm/", env!("CARGO_PKG_VERSION")));
        for (name, value) in letter.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(letter.body.clone()))?)
    }

    async fn connect(&mut self) -> Result<Live, Unsent> {
        let target = &self.target;
        let stream = connect((target.host.as_str(), target.port)).await;
        let (stream, _) = stream.map_err(Unsent::Unreachable)?;
        if !target.secure {
            return begin(stream).await;
        }
        let name = ServerName::try_from(target.host.clone());
        let name = name.map_err(|_| Unsent::Address("its host is no name"))?;
        let config = match &self.tls {
            Some(config) => Arc::clone(config),
            None => Arc::clone(self.tls.insert(Arc::new(trust()?))),
        };
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(Unsent::Unreachable)?;
        begin(stream).await
    }
}

/// Connects to the first address of a host that answers in time, and says how long that one took. A host may have an address that is not served, or that
/// this machine cannot reach: of IPv6, mostly.
pub(crate) async fn connect(host: impl ToSocketAddrs) -> io::Result<(TcpStream, Duration)> {
    connect_within(host, CONNECTED_WITHIN).await
}

async fn connect_within(host: impl ToSocketAddrs, within: Duration) -> io::Result<(TcpStream, Duration)> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup_host(host).await? {
        let begun = Instant::now();
        let connected = timeout(within, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok((stream, begun.elapsed())),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn begin<S>(stream: S) -> Result<Live, Unsent>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    Ok(Live {
        sender,
        _driver: driver,
    })
}

/// The answer, no more than so many bytes of it.
async fn read(response: Response<Incoming>, most: usize) -> Result<Answer, Unsent> {
    let seconds = response.headers().get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let status = response.status();
    let body = match most {
        0 => None,
        most => Limited::new(response.into_body(), most).collect().await.ok(),
    };
    let is_whole = body.is_some();
    let answer = Answer {
        status,
        retry_after: seconds.map(Duration::from_secs),
        body: body.map(|body| body.to_bytes()).unwrap_or_default(),
        is_whole,
    };
    Ok(answer)
}

/// TLS that trusts the authorities of this machine, and of `SSL_CERT_FILE`.
pub(crate) fn trust() -> Result<rustls::ClientConfig, Unsent> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(found.certs);
    if good == 0 {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(Unsent::NoRoots(why));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Unsent::NoRoots(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_without_a_path_gets_the_usual_one() {
        for (url, expected) in [
            ("http://a", "/usual"),
            ("http://a/", "/usual"),
            ("http://a:3100/?tenant=b", "/usual?tenant=b"),
            ("http://a?tenant=b", "/usual?tenant=b"),
            ("http://a/own?tenant=b", "/own?tenant=b"),
        ] {
            assert_eq!(
                Target::new(url, "/usual").expect("an address").path,
                expected,
                "{url}"
            );
        }
    }

    /// Reads one request, which ends with its body.
    async fn request(client: &mut TcpStream) {
        let (mut seen, mut buffer) = (Vec::new(), [0; 1024]);
        while !seen.ends_with(b"body") {
            let count = client.read(&mut buffer).await.expect("a request");
            assert!(count > 0, "a whole request");
            seen.extend_from_slice(&buffer[..count]);
        }
    }

    #[tokio::test]
    async fn only_on_a_connection_that_was_idle_is_anything_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = AtomicUsize::new(0);
        // Each client gets as many answers as this says, and is hung up on at its next request.
        let server = async {
            for answers in [0, 1, 1] {
                let (mut client, _) = listener.accept().await.expect("a client");
                for _ in 0..answers {
                    request(&mut client).await;
                    requests.fetch_add(1, Ordering::SeqCst);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    client.write_all(answer).await.expect("it is there");
                }
                request(&mut client).await;
                requests.fetch_add(1, Ordering::SeqCst);
            }
        };
        let letter = || Letter {
            content_type: "text/plain",
            headers: &[],
            body: Bytes::from_static(b"body"),
            answer_bytes: 9,
        };
        let within = Duration::from_secs(30);
        let posts = async {
            let target = Target::new(&format!("http://{address}"), "/").expect("an address");
            let mut client = Client::new(target);
            let fresh = client.post(letter(), within).await;
            assert!(matches!(fresh, Err(Unsent::Broken(_))), "{fresh:?}");
            assert_eq!(requests.load(Ordering::SeqCst), 1, "once");
            for expected in [2, 4] {
                let answer = client.post(letter(), within).await.expect("it is answered");
                assert_eq!(answer.status, StatusCode::OK);
                assert_eq!(requests.load(Ordering::SeqCst), expected);
            }
        };
        tokio::select! {
            () = server => panic!("nobody was to be hung up on again"),
            () = posts => {}
        }
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_no_other() {
        // Its queue is full, so that more connections are not answered.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("a port");
        let listener = socket.listen(0).expect("it listens");
        let dead = listener.local_addr().expect("an address");
        let within = Duration::from_millis(300);
        let mut held = Vec::new();
        while let Ok((stream, _)) = connect_within(dead, within).await {
            held.push(stream);
            assert!(held.len() < 50, "the queue is full at some time");
        }
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let good = other.local_addr().expect("an address");
        // Long enough for the time that the second one takes to be told from that of the first, on any machine.
        let within = Duration::from_secs(5);
        let connected = connect_within(&[dead, good][..], within).await;
        let (stream, took) = connected.expect("the second one answers");
        assert_eq!(stream.peer_addr().expect("it is connected"), good);
        assert!(took < within, "{took:?}");
    }
}
