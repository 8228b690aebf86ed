//! `observe`: an HTTP port for Prometheus, alerts, and what is sent on: logs, metrics and spans.

use std::path::Path;

use anyhow::Context as _;
use rpm_cli::Observe;
use rpm_observe::{Access, Alerts, Channel, Export, Forward, Metrics, Observed};
use rpm_shared::clients::{self, Limits, told};
use rpm_tls::{Certificate, Reloaded, Terms, Tls};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Maximum length of a file with a token.
const TOKEN_FILE: u64 = 4096;

/// Serves until it is interrupted.
///
/// # Errors
/// The address would be open to others, or cannot be had.
pub(crate) fn run(wish: &Observe) -> anyhow::Result<()> {
    let token = wish.token_file.as_deref().map(token).transpose()?;
    let access = Access::to(wish.listen.ip(), token.as_deref(), wish.tls_client_ca.is_some())?;
    let tls = terms(wish).map(|terms| Tls::load(terms, say)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .context("cannot set up the event loop")?
        .block_on(serve(wish, access, tls))
}

/// HTTPS, if there is a certificate.
fn terms(wish: &Observe) -> Option<Terms> {
    let certificate = Certificate {
        chain: wish.tls_cert.clone()?,
        key: wish.tls_key.clone()?,
    };
    Some(Terms {
        certificates: vec![certificate],
        client_ca: wish.tls_client_ca.clone(),
        protocols: &[b"http/1.1"],
    })
}

fn say(reloaded: &Reloaded) {
    match reloaded {
        Reloaded::Replaced => eprintln!("the files of TLS have changed and were read again"),
        Reloaded::Kept(error) => {
            eprintln!("cannot use the changed files of TLS, so the old ones stay in use: {error}");
        }
    }
}

async fn serve(wish: &Observe, access: Access, tls: Option<Tls>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(wish.listen).await;
    let listener = listener.with_context(|| {
        format!(
            "cannot listen on {}; --listen ADDRESS:PORT takes another address",
            wish.listen
        )
    })?;
    let alerts = Alerts::new(rpm_cli::socket()?, rpm_cli::home_dir()?);
    let history = rpm_cli::home_dir()?.join(rpm_observe::HISTORY_FILE);
    let (end, ending) = watch::channel(false);
    let forward = Forward::new(rpm_cli::socket()?, rpm_cli::home_dir()?);
    let export = Export::new(rpm_cli::socket()?, rpm_cli::home_dir()?);
    let metrics = Metrics::new(
        rpm_cli::socket()?,
        rpm_cli::versions,
        alerts.counts(),
        forward.forwarded(),
        export.exported(),
    );
    let app = rpm_observe::router(Observed {
        socket: rpm_cli::socket()?,
        home: rpm_cli::home_dir()?,
        channel: Channel::of(wish.listen.ip(), tls.is_some()),
        ending,
        access,
        metrics: metrics.clone(),
    });
    // Ends with the server.
    let mut beside = JoinSet::new();
    beside.spawn(rpm_observe::record(rpm_cli::socket()?, history, alerts.seconds()));
    beside.spawn(alerts.run());
    beside.spawn(forward.run());
    beside.spawn(export.run(metrics, |name| std::env::var(name).ok()));
    eprintln!(
        "metrics for Prometheus: {}://{}/metrics",
        if tls.is_some() { "https" } else { "http" },
        listener.local_addr()?
    );
    let told = async {
        told().await;
        end.send_replace(true);
    };
    tokio::select! {
        () = clients::serve(listener, tls, app, Limits::default(), told) => Ok(()),
        // The daemon starts it again.
        Some(ended) = beside.join_next() => Err(anyhow::anyhow!("alerts, logs, OTLP or the history have ended: {ended:?}")),
    }
}

/// The token in a file, whose line break is not part of it.
fn token(path: &Path) -> anyhow::Result<String> {
    let length = path.metadata().map(|meta| meta.len());
    let unreadable = || format!("cannot read the token in {}", path.display());
    anyhow::ensure!(
        length.with_context(unreadable)? <= TOKEN_FILE,
        "{} has more than {TOKEN_FILE} bytes: it is not a file with a token",
        path.display()
    );
    std::fs::read_to_string(path).with_context(unreadable)
}
