//! What the proxy is to do for an app, and whether it can.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rpm_proxy::network::Network;
use rpm_proxy::trace::context::SampledPart;
use rpm_proxy::{
    Certificate, Check, HealthReports, LogSettings, Opener, Settings, Spans, Tracing, UpstreamPolicy,
    head_size,
};
use rpm_wire::api::{ApiError, AppSpec, Balance, ProxySpec};
use rpm_wire::ratio::Ratio;

use crate::failure::failure;
use crate::os::behalf::{Behalf, How};
use crate::os::mounts::is_remote;

/// Bad answers to health checks in a row after which a worker gets no requests.
const BAD_CHECKS: u32 = 3;

/// Can the proxy do what is asked of it?
///
/// # Errors
/// No: why, and what to do.
pub(crate) fn check(spec: &AppSpec) -> Result<(), ApiError> {
    let proxy = &spec.proxy;
    let name = &spec.name;
    if spec.balance != Balance::Proxy {
        let policy = spec.policy == rpm_wire::api::BalancePolicy::Latency;
        if *proxy != ProxySpec::default() || policy {
            let what = if policy {
                "the policy `latency`"
            } else {
                "its settings of the proxy"
            };
            return Err(failure(
                format!("{name} is not behind the proxy: {what} would have no effect"),
                Some("add --balance proxy (`balance: 'proxy'` in a file)"),
            ));
        }
        return Ok(());
    }
    if proxy.tls_cert.len() != proxy.tls_key.len() {
        return Err(failure(
            format!(
                "{name} has {} and {}",
                counted(proxy.tls_cert.len(), "certificate"),
                counted(proxy.tls_key.len(), "key")
            ),
            Some("give each --tls-cert its --tls-key, in the same order"),
        ));
    }
    if proxy.redirect_http.is_some() && proxy.tls_cert.is_empty() {
        return Err(failure(
            format!("{name} has no certificate: it cannot redirect clients to https"),
            Some("give it --tls-cert and --tls-key, or leave --redirect-http out"),
        ));
    }
    if let Some(cookie) = &proxy.sticky
        && !cookie
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    {
        return Err(failure(
            format!("{cookie:?} cannot be the name of a cookie"),
            Some("letters, digits, - and _ only: --sticky worker"),
        ));
    }
    if proxy.protocol.as_deref() == Some("h2c") && spec.health_check.is_some() {
        return Err(failure(
            format!("{name} has a health check, which uses HTTP/1.1, but its workers speak HTTP/2 only"),
            Some("leave out --health-check: failing requests show which workers do not respond"),
        ));
    }
    if proxy.check_interval_ms.is_some() && spec.health_check.is_none() {
        return Err(failure(
            format!("{name} has no health check to repeat"),
            Some("name the path: --health-check /health"),
        ));
    }
    check_tcp(spec)?;
    check_head(spec)?;
    check_networks(proxy)?;
    rpm_proxy::check_certificates(&certificates(proxy)).map_err(|error| {
        failure(
            format!("{name} cannot serve TLS: {error}"),
            Some("--tls-cert names a PEM file with the certificate and those above it, --tls-key one with its private key, which the daemon's user may read"),
        )
    })
}

fn certificates(proxy: &ProxySpec) -> Vec<Certificate> {
    let pairs = proxy.tls_cert.iter().zip(&proxy.tls_key);
    let pair = |(chain, key): (&String, &String)| Certificate {
        chain: chain.into(),
        key: key.into(),
    };
    pairs.map(pair).collect()
}

fn check_tcp(spec: &AppSpec) -> Result<(), ApiError> {
    let (proxy, name) = (&spec.proxy, &spec.name);
    let of_requests = proxy.max_body.is_some()
        || proxy.max_head.is_some()
        || proxy.access_log.is_some()
        || proxy.trace_ratio.is_some_and(|part| !part.is_zero());
    if proxy.protocol.as_deref() == Some("tcp") && of_requests {
        return Err(failure(
            format!(
                "{name} forwards connections as they are: the proxy sees no requests to limit, log or trace"
            ),
            Some("leave --max-body, --max-head, --access-log and --trace-ratio out, or --protocol tcp"),
        ));
    }
    Ok(())
}

fn check_head(spec: &AppSpec) -> Result<(), ApiError> {
    match spec.proxy.max_head.map(head_size) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(failure(
            format!("{}: {error}", spec.name),
            Some("for example --max-head 128K"),
        )),
    }
}

fn check_networks(proxy: &ProxySpec) -> Result<(), ApiError> {
    let mut all = proxy.trust_forwarded.iter().chain(&proxy.proxy_protocol);
    match all.find_map(|text| text.parse::<Network>().err()) {
        None => Ok(()),
        Some(error) => Err(failure(
            error.to_string(),
            Some("name the trusted networks: --trust-forwarded=10.0.0.0/8,::1"),
        )),
    }
}

/// They were looked at before.
fn networks(said: &[String]) -> Vec<Network> {
    said.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Who gets what the fronts of all apps find out.
#[derive(Clone, Debug)]
pub(crate) struct Hearers {
    /// Spans of sampled requests.
    pub(crate) spans: Arc<Spans>,
    /// Workers that fail their health check, or pass it again.
    pub(crate) health: HealthReports,
}

/// What a front is to do for this app.
pub(crate) fn settings(spec: &AppSpec, hearers: &Hearers) -> Settings {
    let proxy = &spec.proxy;
    let usual = Settings::default();
    let time = |ms: Option<u64>, usual: Duration| ms.map_or(usual, Duration::from_millis);
    let check = spec.health_check.as_ref().zip(proxy.check_interval_ms);
    Settings {
        policy: policy(spec.policy),
        connect_timeout: time(proxy.connect_timeout_ms, usual.connect_timeout),
        response_timeout: time(proxy.response_timeout_ms, usual.response_timeout),
        request_timeout: proxy.request_timeout_ms.map(Duration::from_millis),
        header_timeout: time(proxy.header_timeout_ms, usual.header_timeout),
        hold_timeout: time(proxy.hold_timeout_ms, usual.hold_timeout),
        idle_timeout: time(proxy.idle_timeout_ms, usual.idle_timeout),
        stream_timeout: time(proxy.stream_timeout_ms, usual.stream_timeout),
        tunnel_timeout: time(proxy.tunnel_timeout_ms, usual.tunnel_timeout),
        queue_timeout: time(proxy.queue_timeout_ms, usual.queue_timeout),
        slow_start: time(proxy.slow_start_ms, usual.slow_start),
        retries: proxy.retries.unwrap_or(usual.retries),
        trust_forwarded: networks(&proxy.trust_forwarded),
        allow_underscores: proxy.allow_underscores,
        max_body: proxy.max_body.unwrap_or(usual.max_body),
        max_head: proxy
            .max_head
            .map_or(Ok(usual.max_head), head_size)
            .unwrap_or(usual.max_head),
        max_in_flight: proxy.max_in_flight,
        queue_limit: proxy.queue_limit.unwrap_or(usual.queue_limit),
        cookie: proxy.sticky.clone(),
        check: check.map(|(check, interval)| Check {
            path: check.path.clone(),
            status: check.status,
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(check.timeout_ms),
            good: check.threshold,
            bad: BAD_CHECKS,
            reports: hearers.health.clone(),
        }),
        max_connections: proxy.max_connections,
        max_streams: proxy.max_streams.unwrap_or(usual.max_streams),
        proxy_protocol: networks(&proxy.proxy_protocol),
        tcp: proxy.protocol.as_deref() == Some("tcp"),
        h2c: proxy.protocol.as_deref() == Some("h2c"),
        compress: proxy.compress,
        certificates: certificates(proxy),
        redirect: None,
        access_log: proxy.access_log.as_ref().map(|path| LogSettings {
            path: path.into(),
            opener: opener(Behalf::of(spec)).with_thread(is_remote(Path::new(path))),
            json: proxy.access_log_format.as_deref() == Some("json"),
            every: proxy.access_log_every.unwrap_or(1),
        }),
        tracing: traced_part(spec).map(|part| Tracing {
            part: SampledPart::new(part.into()),
            app: spec.name.as_str().into(),
            spans: Arc::clone(&hearers.spans),
        }),
    }
}

/// The part of an app's requests that is sampled, if any is. The option alone says it: with the app's own sampler, the worker's spans would get a
/// parent that no one may export.
fn traced_part(spec: &AppSpec) -> Option<Ratio> {
    spec.proxy.trace_ratio.filter(|part| !part.is_zero())
}

fn opener(behalf: Behalf) -> Opener {
    Opener::new(behalf.uid(), move |path| behalf.open(path, How::AppendThere))
}

fn policy(policy: rpm_wire::api::BalancePolicy) -> UpstreamPolicy {
    match policy {
        rpm_wire::api::BalancePolicy::RoundRobin => UpstreamPolicy::RoundRobin,
        rpm_wire::api::BalancePolicy::LeastConnections => UpstreamPolicy::LeastInFlight,
        rpm_wire::api::BalancePolicy::IpHash => UpstreamPolicy::IpHash,
        rpm_wire::api::BalancePolicy::Weighted => UpstreamPolicy::Weighted,
        rpm_wire::api::BalancePolicy::Latency => UpstreamPolicy::Latency,
    }
}

/// `no key`, `1 key`, `2 keys`.
fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_traced_is_that_of_the_option_alone() {
        let ratio = |part: f64| Ratio::try_from(part).expect("a ratio");
        for (option, sampler, expected) in [
            (None, None, None),
            (Some(0.02), None, Some(0.02)),
            (Some(0.0), Some("traceidratio"), None),
            (Some(0.02), Some("traceidratio"), Some(0.02)),
            (None, Some("traceidratio"), None),
            (None, Some("parentbased_traceidratio"), None),
        ] {
            let mut spec = AppSpec::default();
            spec.proxy.trace_ratio = option.map(ratio);
            let of_app = [
                ("OTEL_TRACES_SAMPLER", sampler),
                ("OTEL_TRACES_SAMPLER_ARG", sampler.and(Some("0.5"))),
            ];
            let of_app = of_app.into_iter();
            spec.env
                .extend(of_app.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
            assert_eq!(traced_part(&spec), expected.map(ratio), "{option:?} {sampler:?}");
        }
    }
}
