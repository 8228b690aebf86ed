//! Clients of HTTP and HTTPS: accepted, and held to time-outs.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rpm_tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

/// When no descriptor is left: until some client has gone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For what is being answered at the end.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// How long clients may take, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the head of a request, however it comes, and before it; for a TLS handshake.
    pub head: Duration,
    /// To take anything of an answer.
    pub taking: Duration,
    /// Clients at a time; those beyond wait in the accept queue. What the process does besides needs descriptors, too.
    pub clients: usize,
    /// TLS handshakes at a time; each takes CPU.
    pub handshakes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head: Duration::from_secs(20),
            taking: Duration::from_secs(60),
            clients: 512,
            handshakes: 64,
        }
    }
}

/// A connection, whatever is below HTTP: one type, for which hyper is compiled once.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A client that HTTP can be spoken with.
type Client = (Box<dyn Stream>, SocketAddr);

/// Serves clients until `told` ends, by HTTPS if there is `tls`; what is being answered then is finished, within 5 s. Whoever reads the body
/// of a request sets a time for it. Each request has its client's address as [`ConnectInfo`].
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    app: Router,
    limits: Limits,
    told: impl Future<Output = ()>,
) {
    let all = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.clients));
    let mut told = pin!(told);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let begin = |((stream, address), place): (Client, OwnedSemaphorePermit)| {
        let app = TowerToHyperService::new(app.clone());
        let service = service_fn(move |mut request: Request<_>| {
            request.extensions_mut().insert(ConnectInfo(address));
            app.call(request)
        });
        let served = all.watch(builder.serve_connection(TokioIo::new(stream), service));
        // How it ends is the client's to know.
        tokio::spawn(async move {
            drop(served.await);
            drop(place);
        });
    };
    // Ends those that have not finished when this ends.
    let mut handshakes = JoinSet::new();
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            listener.accept().await.map(|accepted| (accepted, place.ok()))
        };
        let accepted = tokio::select! {
            accepted = accept, if handshakes.len() < limits.handshakes => accepted,
            Some(done) = handshakes.join_next() => {
                if let Ok(Some(client)) = done {
                    begin(client);
                }
                continue;
            }
            () = &mut told => break,
        };
        let ((stream, address), place) = match accepted {
            Ok((accepted, Some(place))) => (accepted, place),
            // The semaphore is never closed.
            Ok((_, None)) => break,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                eprintln!("cannot accept a client: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One that has gone already is found to have.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, limits.taking);
        match &tls {
            None => begin(((Box::new(stream), address), place)),
            Some(tls) => {
                let secured = secured(tls, stream, address, limits.head);
                handshakes.spawn(async move { Some((secured.await?, place)) });
            }
        }
    }
    drop((listener, handshakes));
    // Its end says nothing: what is left then is cut.
    let _ = timeout(ENDED_WITHIN, all.shutdown()).await;
}

/// The client after its handshake; `None` if it failed, or took longer than `within`.
fn secured(
    tls: &Tls,
    stream: Patient<TcpStream>,
    address: SocketAddr,
    within: Duration,
) -> impl Future<Output = Option<Client>> + use<> {
    let accepting = tls.acceptor().accept(stream);
    async move {
        let stream = timeout(within, accepting).await.ok()?.ok()?;
        Some((Box::new(stream) as Box<dyn Stream>, address))
    }
}

/// SIGINT or SIGTERM.
pub async fn told() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// A stream that fails when nothing that is written to it is taken for too long.
struct Patient<S> {
    stream: S,
    within: Duration,
    /// Since something waits to be taken.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, within: Duration) -> Patient<S> {
        Patient {
            stream,
            within,
            waits: None,
        }
    }

    fn bounded<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waits = None;
            return polled;
        }
        let within = self.within;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(within)));
        waits
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::process::Command;

    use rpm_sys::socket::accept_queue;
    use rpm_tls::{Certificate, Terms};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);
    const FIFTH: Duration = Duration::from_millis(200);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server: its address, and its socket, which has the accept queue.
    async fn server(limits: Limits, tls: Option<Tls>) -> (SocketAddr, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let socket = listener.as_fd().try_clone_to_owned().expect("a descriptor");
        tokio::spawn(serve(
            listener,
            tls,
            Router::new(),
            limits,
            std::future::pending(),
        ));
        (address, socket)
    }

    async fn connected(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("it listens")
    }

    /// A connection to a server whose clients may take a fifth of a second.
    async fn client() -> TcpStream {
        let limits = Limits {
            head: FIFTH,
            taking: BOUND,
            ..Limits::default()
        };
        connected(server(limits, None).await.0).await
    }

    /// Reads the head of an answer.
    async fn answer(stream: &mut TcpStream) {
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            let read = timeout(BOUND, stream.read_buf(&mut all)).await;
            let count = read.expect("it is answered").expect("it is open");
            assert!(count > 0, "it was ended");
        }
        assert!(all.starts_with(b"HTTP/1.1 404"));
    }

    /// What comes until the server ends the connection.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut all = Vec::new();
        let ended = timeout(BOUND, stream.read_to_end(&mut all)).await;
        // It may be reset.
        drop(ended.expect("it is ended"));
        String::from_utf8_lossy(&all).into_owned()
    }

    #[tokio::test]
    async fn who_sends_nothing_or_half_a_head_is_let_go() {
        for sent in ["", "GET / HTTP/1.1\r\nHost: x\r\nA: "] {
            let mut client = client().await;
            client.write_all(sent.as_bytes()).await.expect("it is open");
            let said = rest(&mut client).await;
            assert!(!said.contains("200"), "{sent:?}: {said}");
        }
    }

    #[tokio::test]
    async fn a_byte_now_and_then_does_not_put_it_off() {
        let mut client = client().await;
        client
            .write_all(b"GET / HTTP/1.1\r\nA: ")
            .await
            .expect("it is open");
        let ended = async {
            let pause = Duration::from_millis(50);
            while client.write_all(b"a").await.is_ok() {
                if let Ok(Ok(0) | Err(_)) = timeout(pause, client.read(&mut [0; 512])).await {
                    return;
                }
            }
        };
        timeout(BOUND, ended).await.expect("it is ended");
    }

    #[tokio::test]
    async fn who_is_idle_after_an_answer_is_let_go() {
        let mut client = client().await;
        client.write_all(REQUEST).await.expect("it is open");
        let said = rest(&mut client).await;
        assert!(said.starts_with("HTTP/1.1 404"), "{said}");
    }

    #[tokio::test]
    async fn who_comes_when_every_place_is_taken_waits_in_the_queue() {
        let limits = Limits {
            clients: 2,
            ..Limits::default()
        };
        let (address, socket) = server(limits, None).await;
        let [mut first, mut second] = [connected(address).await, connected(address).await];
        for client in [&mut first, &mut second] {
            client.write_all(REQUEST).await.expect("it is open");
            answer(client).await;
        }
        let mut third = connected(address).await;
        third.write_all(REQUEST).await.expect("it is open");
        // The server has its turn, in which it could accept.
        for _ in 0..3 {
            first.write_all(REQUEST).await.expect("it is open");
            answer(&mut first).await;
        }
        let queue = accept_queue(&socket).expect("it listens");
        assert_eq!(queue.len, 1);
        drop(second);
        answer(&mut third).await;
    }

    /// The server's side of TLS.
    fn tls() -> Tls {
        let file = |kind| {
            let name = format!("rpm-clients-{}.{kind}", std::process::id());
            std::env::temp_dir().join(name)
        };
        let [chain, key] = ["crt", "key"].map(file);
        let options = "req -x509 -newkey ed25519 -nodes -subj /CN=a.test";
        let made = Command::new("openssl")
            .args(options.split(' '))
            .arg("-out")
            .arg(&chain)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let terms = Terms {
            certificates: vec![Certificate {
                chain: chain.clone(),
                key: key.clone(),
            }],
            client_ca: None,
            protocols: &[],
        };
        let tls = Tls::load(terms, |_| {}).expect("a certificate");
        for file in [chain, key] {
            std::fs::remove_file(file).expect("it is ours");
        }
        tls
    }

    #[tokio::test]
    async fn a_handshake_that_does_not_end_is_given_up_and_few_are_begun() {
        /// The head of a record with a handshake, and nothing of it.
        const BEGUN: &[u8] = &[22, 3, 1, 2, 0];
        let limits = Limits {
            head: FIFTH,
            taking: BOUND,
            clients: 2,
            handshakes: 1,
        };
        let (address, _socket) = server(limits, Some(tls())).await;
        let began = Instant::now();
        let mut clients = Vec::new();
        for sent in [&[][..], BEGUN, &[]] {
            let mut client = connected(address).await;
            client.write_all(sent).await.expect("it is open");
            clients.push(client);
        }
        for mut client in clients {
            assert_eq!(rest(&mut client).await, "");
        }
        // One after the other, and each has given back its place.
        assert!(began.elapsed() >= 3 * FIFTH, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_let_go() {
        let (stream, mut client) = duplex(16);
        let mut stream = Patient::new(stream, Duration::from_secs(60));
        let began = Instant::now();
        let written = async { stream.write_all(&[0; 64]).await.map_err(|error| error.kind()) };
        let taken = async {
            // tidy: sleep because the clock is not the real one
            sleep(Duration::from_secs(50)).await;
            client.read_exact(&mut [0; 16]).await
        };
        let (written, taken) = tokio::join!(written, taken);
        assert!(taken.is_ok(), "{taken:?}");
        assert_eq!(written, Err(io::ErrorKind::TimedOut));
        assert_eq!(began.elapsed().as_secs(), 110);
    }
}
