//! `run`: load to a URL.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rpm_loadtest::{Kind, Load, Pace, Report, Stop};
use serde_json::{Map, Value, json};

use super::compare::seconds;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to: `http://host[:port][/path]`.
    #[arg(long)]
    url: String,
    /// What the clients are like: new (a connection per request), keep-alive, pipelined, post, slow-upload, event-stream,
    /// web-socket or http2.
    #[arg(long, value_parser = kind, default_value = "new")]
    kind: Kind,
    /// Clients that send at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    clients: u16,
    /// For how long.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Requests per second over all clients (open loop); without it as fast as answers come.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Seconds until a request counts as hanging.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    timeout: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn kind(text: &str) -> Result<Kind, String> {
    let known = || Kind::ALL.map(Kind::as_str).join(", ");
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| format!("expected one of {}", known()))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 10_000_000.0 => Ok(rate),
        Ok(_) | Err(_) => Err("not a number of requests per second above 0".to_owned()),
    }
}

/// Run it: exit code 1 if a request failed or none was answered.
///
/// # Errors
/// The URL is not one that can be used.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (target, path) = parse_url(&arguments.url)?;
    let load = Load {
        path,
        kind: arguments.kind,
        clients: arguments.clients.into(),
        lasting: Some(Duration::from_secs_f64(arguments.seconds)),
        pace: arguments
            .rate
            .map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
        timeout: Duration::from_secs_f64(arguments.timeout),
        ..Load::new(target)
    };
    let report = load.run(&Stop::new()).await;
    if arguments.json {
        println!("{:#}", to_json(&report));
    } else {
        print!("{report}");
    }
    Ok(if report.check_clean().is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn parse_url(url: &str) -> anyhow::Result<(SocketAddr, String)> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url:?} does not begin with http://"))?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    ensure!(
        path.bytes().all(|byte| byte.is_ascii_graphic()),
        "{path:?} has to be percent-encoded"
    );
    // A colon inside of brackets belongs to the address.
    let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    let host = if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut found = host
        .to_socket_addrs()
        .with_context(|| format!("looking up {host:?}"))?;
    Ok((
        found.next().with_context(|| format!("{host:?} has no address"))?,
        path.to_owned(),
    ))
}

fn to_json(report: &Report) -> Value {
    let outcomes = report
        .outcomes
        .counts()
        .map(|(outcome, count)| (outcome.to_string(), json!(count)));
    let latency = &report.latency;
    json!({
        "outcomes": outcomes.collect::<Map<_, _>>(),
        "requests_per_second": report.throughput(),
        "elapsed_s": report.elapsed.as_secs_f64(),
        "connections": report.connections,
        "missed": report.missed,
        "latency_us": {
            "p50": latency.p50_us(), "p90": latency.p90_us(), "p99": latency.p99_us(), "max": latency.max_us(),
        },
        "responders": report.responders,
        "samples": report.samples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_and_without_port_and_path() {
        let parsed = |url| {
            parse_url(url)
                .map(|(target, path)| (target.to_string(), path))
                .expect(url)
        };
        assert_eq!(
            parsed("http://127.0.0.1:3000/a?b=c"),
            ("127.0.0.1:3000".into(), "/a?b=c".into())
        );
        assert_eq!(parsed("http://[::1]"), ("[::1]:80".into(), "/".into()));
        assert_eq!(parsed("http://[::1]:8080/x"), ("[::1]:8080".into(), "/x".into()));
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "https://127.0.0.1/",
            "127.0.0.1:80",
            "http://127.0.0.1:x/",
            "http://127.0.0.1/a b",
        ] {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn json_names_every_outcome() {
        let value = to_json(&Report::default());
        assert_eq!(
            value["outcomes"].as_object().map(Map::len),
            Some(rpm_loadtest::Outcome::ALL.len())
        );
    }
}
