//! Who may ask: everybody on this machine, or whoever has the token or a certificate.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// A shorter token could be guessed.
const TOKEN_LENGTH: usize = 16;

/// Who may ask.
#[derive(Debug)]
pub enum Access {
    /// Whoever can connect, and has the address of this machine's loopback in the `Host` field. A name that somebody else's DNS resolves to
    /// loopback would have a browser fetch the page for a web site (DNS rebinding).
    Anyone,
    /// Whoever sends this as a bearer token (RFC 6750).
    Bearer(Token),
    /// Whoever can connect: TLS has checked the certificate of each client.
    Certified,
}

/// How requests come, and so what may be sent back and forth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// In clear text, from this machine.
    Loopback,
    /// Encrypted, from anywhere. A browser checks that the certificate is for the name that it asks for.
    Tls,
    /// In clear text, over a network.
    Open,
}

impl Channel {
    /// That of a server at this address.
    #[must_use]
    pub fn of(address: IpAddr, tls: bool) -> Channel {
        match tls {
            true => Channel::Tls,
            false if address.is_loopback() => Channel::Loopback,
            false => Channel::Open,
        }
    }
}

/// A secret that is shown nowhere.
pub struct Token(String);

/// Why an address or a token cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Others than this machine's users could ask.
    #[error(
        "{0} can be reached from other machines, and the metrics name your apps and what they do: give a token with --token-file, \
         or an authority for clients with --tls-client-ca, or listen on 127.0.0.1"
    )]
    Open(IpAddr),
    /// It could be guessed.
    #[error(
        "the token has {0} characters; it needs at least {TOKEN_LENGTH}, such as those of `openssl rand -hex 16`"
    )]
    Short(usize),
    /// It could not be sent.
    #[error("the token has characters other than visible ASCII, and could not be sent in a header")]
    NotVisible,
}

impl Access {
    /// What is needed at this address. `certified`: only clients with a certificate can connect.
    ///
    /// # Errors
    /// The address needs a token and there is none, or the token is not a good one.
    pub fn to(address: IpAddr, token: Option<&str>, certified: bool) -> Result<Access, AccessError> {
        match token.map(str::trim) {
            None if certified => Ok(Access::Certified),
            None if address.is_loopback() => Ok(Access::Anyone),
            None => Err(AccessError::Open(address)),
            Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => Err(AccessError::NotVisible),
            Some(token) if token.len() < TOKEN_LENGTH => Err(AccessError::Short(token.len())),
            Some(token) => Ok(Access::Bearer(Token(token.to_owned()))),
        }
    }

    fn check(&self, request: &Request<Body>) -> Result<(), Refused> {
        match self {
            Access::Anyone => match names_loopback(request) {
                true => Ok(()),
                false => Err(Refused::Host),
            },
            Access::Bearer(token) => request
                .headers()
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, sent)| scheme.eq_ignore_ascii_case("bearer") && token.is(sent.trim()))
                .map(drop)
                .ok_or(Refused::Token),
            Access::Certified => Ok(()),
        }
    }
}

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Token,
    Host,
}

impl Refused {
    fn response(self) -> Response {
        match self {
            Refused::Token => {
                let ask = HeaderValue::from_static("Bearer realm=\"rpm\"");
                let why = "send the token of --token-file: Authorization: Bearer TOKEN\n";
                (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, ask)], why).into_response()
            }
            Refused::Host => {
                let why = "the Host field names another machine: ask for localhost or 127.0.0.1, or start it with --token-file\n";
                (StatusCode::FORBIDDEN, why).into_response()
            }
        }
    }
}

/// True if every name that the request gives this machine means loopback. Browsers always give one.
pub(crate) fn names_loopback(request: &Request<Body>) -> bool {
    let authority = request.uri().authority().map(Authority::as_str);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    authority.is_none_or(is_loopback) && hosts.all(|host| host.to_str().is_ok_and(is_loopback))
}

/// True for `localhost` and addresses of loopback, with or without a port.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match address.unwrap_or(name).parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

impl Token {
    /// Takes as long for one that is nearly right as for any other of its length.
    fn is(&self, sent: &str) -> bool {
        let pairs = self.0.bytes().zip(sent.bytes());
        let differing = pairs.fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        // Without the barrier the compiler may stop at the first difference.
        std::hint::black_box(differing) == 0 && sent.len() == self.0.len()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token")
    }
}

/// Lets requests pass that may.
pub(crate) async fn guard(State(access): State<Arc<Access>>, request: Request<Body>, next: Next) -> Response {
    match access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.response(),
    }
}
