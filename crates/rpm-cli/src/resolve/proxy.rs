//! What the proxy is to do, as the daemon is told.

use rpm_spec::ProxyOptions;
use rpm_wire::api::ProxySpec;

/// What it was told before, and what the options say. `path` makes paths absolute.
pub(super) fn proxy(before: ProxySpec, options: &ProxyOptions, path: impl Fn(&str) -> String) -> ProxySpec {
    let files = |paths: &Option<Vec<String>>, before| match paths {
        Some(paths) => paths.iter().map(|it| path(it)).collect(),
        None => before,
    };
    ProxySpec {
        tls_cert: files(&options.tls_cert, before.tls_cert),
        tls_key: files(&options.tls_key, before.tls_key),
        redirect_http: options.redirect_http.or(before.redirect_http),
        proxy_protocol: options.proxy_protocol.clone().unwrap_or(before.proxy_protocol),
        trust_forwarded: options.trust_forwarded.clone().unwrap_or(before.trust_forwarded),
        allow_underscores: options.allow_underscores.unwrap_or(before.allow_underscores),
        protocol: options.protocol.clone().or(before.protocol),
        compress: options.compress.unwrap_or(before.compress),
        sticky: options.sticky.clone().or(before.sticky),
        max_in_flight: options.max_in_flight.or(before.max_in_flight),
        queue_limit: options.queue_limit.or(before.queue_limit),
        queue_timeout_ms: options.queue_timeout_ms.or(before.queue_timeout_ms),
        hold_timeout_ms: options.hold_timeout_ms.or(before.hold_timeout_ms),
        retries: options.retries.or(before.retries),
        connect_timeout_ms: options.connect_timeout_ms.or(before.connect_timeout_ms),
        response_timeout_ms: options.response_timeout_ms.or(before.response_timeout_ms),
        request_timeout_ms: options.request_timeout_ms.or(before.request_timeout_ms),
        stream_timeout_ms: options.stream_timeout_ms.or(before.stream_timeout_ms),
        tunnel_timeout_ms: options.tunnel_timeout_ms.or(before.tunnel_timeout_ms),
        header_timeout_ms: options.header_timeout_ms.or(before.header_timeout_ms),
        idle_timeout_ms: options.idle_timeout_ms.or(before.idle_timeout_ms),
        max_body: options.max_body.or(before.max_body),
        max_connections: options.max_connections.or(before.max_connections),
        max_streams: options.max_streams.or(before.max_streams),
        slow_start_ms: options.slow_start_ms.or(before.slow_start_ms),
        check_interval_ms: options.check_interval_ms.or(before.check_interval_ms),
        access_log: options.access_log.as_deref().map(path).or(before.access_log),
        access_log_format: options.access_log_format.clone().or(before.access_log_format),
        access_log_every: options.access_log_every.or(before.access_log_every),
    }
}
