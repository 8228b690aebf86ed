//! `serve`: static files over HTTP, as an app that is supervised like any other.

mod files;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rpm_cli::StaticSite;
use rpm_shared::clients::{self, Limits, told};
use rpm_shared::say;
use tokio::net::TcpListener;
use tower_http::services::{ServeDir, ServeFile};

use self::files::Files;

/// Serves until it is told to stop; what is being answered is finished.
///
/// # Errors
/// The directory is not there, or the port cannot be had.
pub(crate) fn run(site: &StaticSite) -> anyhow::Result<()> {
    anyhow::ensure!(
        site.path.is_dir(),
        "{} is not a directory; name one that has files to serve",
        site.path.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .context("cannot set up the event loop")?
        .block_on(serve(site))
}

async fn serve(site: &StaticSite) -> anyhow::Result<()> {
    let listener = match &site.host {
        Some(host) => TcpListener::bind((host.as_str(), site.port))
            .await
            .with_context(|| format!("cannot listen on port {} of {host}", site.port))?,
        None => listen(site.port).await?,
    };
    let app = router(site);
    // Who reads that may go; it serves on.
    let _ = say(format_args!(
        "serving {} on port {}",
        site.path.display(),
        site.port
    ));
    clients::serve(listener, None, app, Limits::default(), told()).await;
    Ok(())
}

/// On IPv6 and IPv4, as far as there is the one.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let bound = match TcpListener::bind(both).await {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported || error.raw_os_error() == Some(97) => {
            TcpListener::bind(("0.0.0.0", port)).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on port {port}"))
}

fn router(site: &StaticSite) -> Router {
    // With slashes at the end, ranges, types by extension and dates; what leads out of the directory is not found.
    let dir = ServeDir::new(&site.path).append_index_html_on_directories(true);
    let rules = Files::of(site);
    let own = |name: &str| {
        let name = name.trim_start_matches('/');
        let known = (Arc::clone(&rules), Arc::from(name));
        let file = ServeFile::new(site.path.join(name));
        Router::new()
            .fallback_service(file)
            .layer(from_fn_with_state(known, files::guard_own))
    };
    let app = if site.spa {
        Router::new().fallback_service(dir.fallback(own(&site.homepage)))
    } else {
        // Nothing, where there is no such file.
        Router::new().fallback_service(dir.not_found_service(own("404.html")))
    };
    let app = app.layer(from_fn_with_state(rules, files::guard));
    let app = match password(site) {
        Some(password) => app.layer(from_fn_with_state(password, guard)),
        None => app,
    };
    app.layer(from_fn(unsniffed))
}

/// A file is what its name says, and nothing that a browser finds in it.
async fn unsniffed(request: Request<Body>, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// What a client must send, if anything.
fn password(site: &StaticSite) -> Option<Arc<str>> {
    let (user, password) = site.password.as_ref()?;
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    Some(encoded.into())
}

async fn guard(State(wanted): State<Arc<str>>, request: Request<Body>, next: Next) -> Response {
    if is_right(request.headers(), &wanted) {
        return next.run(request).await;
    }
    let ask = HeaderValue::from_static("Basic realm=\"files\", charset=\"UTF-8\"");
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, ask)]).into_response()
}

/// The scheme is read as all of them are (RFC 9110, 11.1).
fn is_right(headers: &HeaderMap, wanted: &str) -> bool {
    let sent = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let Some((scheme, sent)) = sent.and_then(|sent| sent.split_once(' ')) else {
        return false;
    };
    scheme.eq_ignore_ascii_case("basic")
        && is_same(sent.trim_start_matches(' ').as_bytes(), wanted.as_bytes())
}

/// Takes as long for one that is nearly right, or nearly as long, as for any other of its length.
fn is_same(sent: &[u8], wanted: &[u8]) -> bool {
    let differing = sent.iter().enumerate().fold(0, |all, (at, byte)| {
        let other = wanted.get(at % wanted.len().max(1)).copied().unwrap_or(0);
        all | (byte ^ other)
    });
    // Nobody may guess what was compared, and leave off where it differs.
    std::hint::black_box(differing) == 0 && sent.len() == wanted.len()
}
