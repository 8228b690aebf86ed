//! Who gets in. In clear text a request must come by a name of this machine (or a web site whose name resolves to loopback could ask; by TLS
//! such a site has no certificate), a change from a page of ours, and all but the page itself and the login with both secrets of a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::keys::{Opened, Role, SESSION_MS};
use super::users::Users;
use super::{BODY, Dashboard};
use crate::access::{Channel, names_loopback};
use crate::alerts::now_ms;

/// Name of the cookie with the first secret of a session, before the port: browsers keep one of a name for all ports of a host, and several
/// dashboards may be open.
const COOKIE: &str = "rpm-session-";
/// Header with the second one.
const KEY: &str = "x-rpm-key";
/// Wrong links within [`PAUSE`] after which further ones are told to wait. A right one is never refused, so that nobody can lock others out.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(60);
/// For the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// Why somebody does not get in, or gets no answer.
#[derive(Debug)]
pub(super) struct Refused(StatusCode, String);

impl Refused {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Refused {
        Refused(status, why.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// Lets requests pass that come by TLS or by a name of this machine, and changes that come from a page of ours.
pub(super) async fn guard(
    State(board): State<Arc<Dashboard>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let refused = |why: &str| Refused::new(StatusCode::FORBIDDEN, why).into_response();
    match board.channel {
        Channel::Open => {
            return refused(
                "the dashboard is not served in clear text to other machines: give `rpm observe on` a certificate with --tls-cert and --tls-key, \
                 or have it listen on 127.0.0.1 and go through ssh -L",
            );
        }
        Channel::Loopback if !names_loopback(&request) => {
            return refused("the Host field names another machine: ask for localhost or 127.0.0.1");
        }
        Channel::Loopback | Channel::Tls => {}
    }
    if request.method().is_safe() {
        return next.run(request).await;
    }
    if !is_of_ours(request.headers(), board.channel) {
        return refused("the request comes from another web site");
    }
    match whole(request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// The request with all of its body: a client that sends none would be waited for without end.
async fn whole(request: Request<Body>) -> Result<Request<Body>, Refused> {
    let (parts, body) = request.into_parts();
    let body = timeout(BODY_WITHIN, to_bytes(body, BODY)).await;
    let late = |_| {
        Refused::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request did not come within 20 s",
        )
    };
    let large = |_| {
        Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request is too long, or broke off",
        )
    };
    let body = body.map_err(late)?.map_err(large)?;
    Ok(Request::from_parts(parts, body.into()))
}

/// True if the page that sends the request is of the server that gets it.
fn is_of_ours(headers: &HeaderMap, channel: Channel) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else {
        return false;
    };
    let scheme = match channel {
        Channel::Tls => "https://",
        Channel::Loopback | Channel::Open => "http://",
    };
    let origin = origin
        .strip_prefix(scheme)
        .and_then(|rest| rest.parse::<Authority>().ok());
    origin.is_some_and(|origin| origin.as_str().eq_ignore_ascii_case(host))
}

/// Somebody with a session.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) role: Role,
    cookie: String,
    key: String,
}

impl Visitor {
    /// False if the session has ended meanwhile.
    pub(super) fn still_has(&self, board: &Dashboard) -> bool {
        board.keys.role(&self.cookie, &self.key, now_ms()).is_some()
    }
}

impl FromRequestParts<Arc<Dashboard>> for Visitor {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, board: &Arc<Dashboard>) -> Result<Visitor, Refused> {
        let out = || {
            Refused::new(
                StatusCode::UNAUTHORIZED,
                "not signed in: sign in again, or open a link of `rpm dashboard`",
            )
        };
        let cookie = cookie(&parts.headers, board.channel).ok_or_else(out)?.to_owned();
        let key = parts.headers.get(KEY).and_then(|key| key.to_str().ok());
        let key = key.ok_or_else(out)?.to_owned();
        let role = board.keys.role(&cookie, &key, now_ms()).ok_or_else(out)?;
        Ok(Visitor { role, cookie, key })
    }
}

/// Somebody with a session who may act.
#[derive(Debug)]
pub(super) struct Operator;

impl FromRequestParts<Arc<Dashboard>> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, board: &Arc<Dashboard>) -> Result<Operator, Refused> {
        let visitor = Visitor::from_request_parts(parts, board).await?;
        match visitor.role {
            Role::Operator => Ok(Operator),
            Role::Viewer => Err(Refused::new(
                StatusCode::FORBIDDEN,
                "this session may look and not act: its link or its user is read-only",
            )),
        }
    }
}

/// The name of the cookie for the port that the browser asks.
fn cookie_name(headers: &HeaderMap, channel: Channel) -> String {
    let usual = match channel {
        Channel::Tls => 443,
        Channel::Loopback | Channel::Open => 80,
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let port = host.and_then(|host| host.parse::<Authority>().ok()?.port_u16());
    format!("{COOKIE}{}", port.unwrap_or(usual))
}

/// The field that has a browser keep the cookie for so many seconds.
fn set_cookie(board: &Dashboard, headers: &HeaderMap, value: &str, seconds: u64) -> String {
    let name = cookie_name(headers, board.channel);
    let secure = match board.channel {
        Channel::Tls => "; Secure",
        Channel::Loopback | Channel::Open => "",
    };
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

fn cookie(headers: &HeaderMap, channel: Channel) -> Option<&str> {
    let wanted = cookie_name(headers, channel);
    let all = headers.get_all(header::COOKIE).iter();
    let pairs = all
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted).then_some(value))
}

/// What the page sends to log in.
#[derive(Debug, Deserialize)]
pub(super) struct Login {
    link: String,
}

/// Wrong links of late.
#[derive(Debug, Default)]
pub(super) struct Tries {
    wrong: u32,
    since: Option<Instant>,
}

impl Tries {
    /// Counts a wrong one. False if there were too many.
    fn wrong(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= PAUSE) {
            *self = Tries {
                wrong: 0,
                since: Some(now),
            };
        }
        self.wrong += 1;
        self.wrong <= TRIES
    }
}

/// `POST /dashboard/login`: a link becomes a session.
pub(super) async fn login(
    State(board): State<Arc<Dashboard>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Json(login): Json<Login>,
) -> Result<Response, Refused> {
    let opened = board.keys.open(&login.link, now_ms()).map_err(|error| {
        let why = format!("the session cannot be stored: {error}");
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, why)
    })?;
    let Some(opened) = opened else {
        return Err(match board.tries().wrong(Instant::now()) {
            true => {
                eprintln!("dashboard: a wrong link from {}", address.ip());
                Refused::new(
                    StatusCode::UNAUTHORIZED,
                    "this link was used already, or is too old: `rpm dashboard` prints a new one",
                )
            }
            // Not logged: whoever asks could fill the disk.
            false => Refused::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many wrong links: `rpm dashboard` prints a right one",
            ),
        });
    };
    let who = named(None, opened.role);
    eprintln!("dashboard: {who} has signed in from {}", address.ip());
    Ok(signed_in(&board, &headers, &opened))
}

/// What the log calls the holder of a session: a link has no name.
fn named(user: Option<String>, role: Role) -> String {
    user.unwrap_or_else(|| match role {
        Role::Operator => "an operator with a link".to_owned(),
        Role::Viewer => "a viewer with a link".to_owned(),
    })
}

/// The answer that gives a browser both secrets of its session.
fn signed_in(board: &Dashboard, headers: &HeaderMap, opened: &Opened) -> Response {
    let cookie = set_cookie(board, headers, &opened.cookie, SESSION_MS / 1000);
    let body = Json(json!({ "key": opened.key, "role": opened.role }));
    ([(header::SET_COOKIE, cookie)], body).into_response()
}

/// `GET /dashboard/login`: how somebody may sign in, besides a link.
pub(super) async fn ways(State(board): State<Arc<Dashboard>>) -> Json<Value> {
    let users = Users::read(&board.home);
    Json(json!({ "passwords": users.map_or(true, |users| !users.is_empty()) }))
}

/// What the page sends of somebody who signs in with a password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    user: String,
    password: String,
}

/// `POST /dashboard/password`: a name and a password become a session.
pub(super) async fn enter(
    State(board): State<Arc<Dashboard>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Json(entry): Json<Entry>,
) -> Result<Response, Refused> {
    if !board.attempts().begin(address.ip(), Instant::now()) {
        return Err(Refused::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many wrong passwords: wait a minute, or use a link of `rpm dashboard`",
        ));
    }
    let broken = |why: String| {
        eprintln!("nobody can sign in with a password: {why}");
        Refused::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "passwords cannot be checked: `rpm logs rpm-observe` has the reason",
        )
    };
    let users = Users::read(&board.home).map_err(|error| broken(error.to_string()))?;
    // One at a time: each takes 19 MiB. The turn ends with the work, even if the browser has gone.
    let turn = board.verifying.clone().acquire_owned().await;
    let verified = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        users.verify(&entry.user, &entry.password)
    });
    let known = verified.await.map_err(|error| broken(error.to_string()))?;
    // Without a name that nobody has: it may be a password.
    let Some(known) = known else {
        eprintln!("dashboard: a wrong user or password from {}", address.ip());
        let why = "wrong user or password";
        return Err(Refused::new(StatusCode::UNAUTHORIZED, why));
    };
    board.attempts().right(address.ip());
    let name = known.name.clone();
    let opened = board.keys.admit(known, now_ms());
    let opened = opened.map_err(|error| broken(format!("the session cannot be stored: {error}")))?;
    eprintln!("dashboard: {name} has signed in from {}", address.ip());
    Ok(signed_in(&board, &headers, &opened))
}

/// `POST /dashboard/logout`: ends the session.
pub(super) async fn logout(
    State(board): State<Arc<Dashboard>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    visitor: Visitor,
) -> Result<Response, Refused> {
    let who = named(board.keys.user(&visitor.cookie), visitor.role);
    board.keys.end(&visitor.cookie).map_err(|error| {
        let why = format!("the session cannot be ended: {error}");
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, why)
    })?;
    eprintln!("dashboard: {who} has signed out from {}", address.ip());
    let cookie = set_cookie(&board, &headers, "", 0);
    Ok(([(header::SET_COOKIE, cookie)], StatusCode::NO_CONTENT).into_response())
}
