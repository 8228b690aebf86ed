//! One request: an upstream is chosen, it is sent, and tried again where that is right.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::time::{sleep, timeout, timeout_at};

use crate::balance::{Asking, choose};
use crate::body::{Downward, Passing, Upward};
use crate::front::Front;
use crate::headers::{Client, Refused, is_replayable, to_client, to_upstream, wants_upgrade};
use crate::pool::{Connection, Pool, connect};
use crate::upstream::{InFlight, Upstream, UpstreamId};

/// When every upstream has failed a request, the pause before they are tried anew.
const PAUSE: Duration = Duration::from_millis(20);

/// What the requests of a connection have in common.
pub(crate) struct Context {
    pub(crate) front: Arc<Front>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) client: Client,
    pub(crate) ip: IpAddr,
}

/// Why a client gets an answer of the proxy's own.
enum Failure {
    Refused(Refused),
    /// There was no upstream in time.
    Unavailable,
    /// The upstreams that were tried have not answered.
    Bad,
    /// It took too long.
    Slow,
}

/// Answers a request.
pub(crate) async fn forward(context: &Context, request: Request<Incoming>) -> Response<Downward> {
    context.front.earn_retry();
    let response = match exchange(context, request).await {
        Ok(response) => response,
        Err(failure) => failure.response(&context.front),
    };
    context.front.count_answer(response.status().as_u16());
    response
}

async fn exchange(context: &Context, mut request: Request<Incoming>) -> Result<Response<Downward>, Failure> {
    if request.method() == Method::CONNECT {
        return Err(Failure::Refused(Refused("CONNECT")));
    }
    let upgrade = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let has_body = !request.body().is_end_stream();
    let (mut parts, body) = request.into_parts();
    let trusted = context.front.settings.trust_forwarded;
    to_upstream(&mut parts, &context.client, trusted).map_err(Failure::Refused)?;
    let replay = (upgrade.is_none() && is_replayable(&parts.method, has_body)).then(|| Head::of(&parts));
    let body = if has_body {
        Upward::Client(body)
    } else {
        Upward::Nothing
    };
    let mut attempt = Attempt {
        context,
        request: Some(Request::from_parts(parts, body)),
        replay,
        tried: Vec::new(),
        left: context.front.settings.retries,
    };
    loop {
        if let Some(answer) = attempt.once().await? {
            return Ok(deliver(context, answer, upgrade));
        }
    }
}

/// What is needed of a request to send it again.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn of(parts: &Parts) -> Head {
        Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
        }
    }

    fn request(&self) -> Request<Upward> {
        let mut request = Request::new(Upward::Nothing);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// An upstream's answer, and what it came over.
struct Answer {
    response: Response<Incoming>,
    connection: Connection,
    in_flight: InFlight,
}

/// A request on its way to an answer.
struct Attempt<'c> {
    context: &'c Context,
    /// `None`: it was sent, and nobody knows what became of it.
    request: Option<Request<Upward>>,
    /// It may be sent again then.
    replay: Option<Head>,
    /// Upstreams that have failed it.
    tried: Vec<UpstreamId>,
    left: u32,
}

impl Attempt<'_> {
    /// Sends it once; `None`: it may be sent again.
    async fn once(&mut self) -> Result<Option<Answer>, Failure> {
        let front = &self.context.front;
        let upstream = self.upstream().await?;
        let in_flight = upstream.begin();
        let (mut connection, reused) = match self.context.pool.take(upstream.id()) {
            Some(connection) => (connection, true),
            None => match connect(upstream.addr(), front.settings.connect_timeout).await {
                Ok(connection) => (connection, false),
                Err(_) => return self.failed(&upstream).map(|()| None),
            },
        };
        let request = self
            .request
            .take()
            .or_else(|| self.replay.as_ref().map(Head::request));
        let request = request.ok_or(Failure::Bad)?;
        let began = Instant::now();
        let sent = connection.try_send_request(request);
        match timeout(front.settings.response_timeout, sent).await {
            Ok(Ok(response)) => {
                let after = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                upstream.answered(response.status().as_u16(), after, front.now_ms());
                Ok(Some(Answer {
                    response,
                    connection,
                    in_flight,
                }))
            }
            Ok(Err(mut error)) => {
                self.request = error.take_message();
                if self.request.is_some() && reused {
                    // The worker had ended it meanwhile, and the others that were idle, too.
                    self.context.pool.forget(upstream.id());
                    return Ok(None);
                }
                self.failed(&upstream).map(|()| None)
            }
            Err(_) => {
                upstream.failed(front.now_ms());
                Err(Failure::Slow)
            }
        }
    }

    /// An upstream for it, which is waited for if there is none.
    async fn upstream(&mut self) -> Result<Arc<Upstream>, Failure> {
        let front = &self.context.front;
        let deadline = tokio::time::Instant::now() + front.settings.hold_timeout;
        let mut changes = front.changes();
        loop {
            changes.mark_unchanged();
            let set = front.upstreams.load();
            let asking = Asking {
                policy: front.settings.policy,
                client: self.context.ip,
                tried: &self.tried,
                now_ms: front.now_ms(),
            };
            if let Some(chosen) = choose(&set, &asking) {
                return Ok(Arc::clone(chosen));
            }
            if !set.list.is_empty() {
                // All have failed it. A worker that is replaced listens already, and answers soon.
                self.tried.clear();
                sleep(PAUSE).await;
                continue;
            }
            drop(set);
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(Failure::Unavailable);
            }
        }
    }

    /// The upstream has not answered: may another be asked?
    fn failed(&mut self, upstream: &Upstream) -> Result<(), Failure> {
        let front = &self.context.front;
        upstream.failed(front.now_ms());
        self.tried.push(upstream.id());
        let again = self.request.is_some() || self.replay.is_some();
        if !again || self.left == 0 || !front.spend_retry() {
            return Err(Failure::Bad);
        }
        self.left -= 1;
        Ok(())
    }
}

/// The answer as the client gets it.
fn deliver(context: &Context, answer: Answer, upgrade: Option<OnUpgrade>) -> Response<Downward> {
    let Answer {
        mut response,
        connection,
        in_flight,
    } = answer;
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upward = (switches && upgrade.is_some()).then(|| hyper::upgrade::on(&mut response));
    let (mut parts, body) = response.into_parts();
    let closes = to_client(&mut parts.headers, switches);
    parts.version = Version::HTTP_11;
    if let Some((client, upstream)) = upgrade.zip(upward) {
        tokio::task::spawn_local(join(client, upstream, in_flight));
        return Response::from_parts(parts, own(""));
    }
    let passing = Passing {
        body,
        ended: false,
        in_flight,
        connection: (!closes && !switches).then_some(connection),
        pool: Rc::clone(&context.pool),
    };
    Response::from_parts(parts, Downward::Upstream(Box::new(passing)))
}

/// Both sides have left HTTP: bytes go to and fro until one has ended.
async fn join(client: OnUpgrade, upstream: OnUpgrade, in_flight: InFlight) {
    if let (Ok(client), Ok(upstream)) = (client.await, upstream.await) {
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        // How it ends is theirs to know.
        let _ = copy_bidirectional(&mut client, &mut upstream).await;
    }
    drop(in_flight);
}

fn own(text: &'static str) -> Downward {
    Downward::Own(Full::new(Bytes::from_static(text.as_bytes())))
}

impl Failure {
    fn response(self, front: &Front) -> Response<Downward> {
        let (status, text) = match self {
            Failure::Refused(Refused("CONNECT")) => (StatusCode::NOT_IMPLEMENTED, "CONNECT is not served\n"),
            Failure::Refused(Refused(what)) => (StatusCode::BAD_REQUEST, what),
            Failure::Unavailable => {
                front.count_unavailable();
                (StatusCode::SERVICE_UNAVAILABLE, "no worker serves\n")
            }
            Failure::Bad => (StatusCode::BAD_GATEWAY, "the worker has not answered\n"),
            Failure::Slow => (
                StatusCode::GATEWAY_TIMEOUT,
                "the worker has not answered in time\n",
            ),
        };
        let mut response = Response::new(own(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
