//! What the proxy is to do, as the daemon is told.

use std::path::Path;

use rpm_spec::ProxyOptions;
use rpm_wire::api::ProxySpec;

use super::surroundings::absolute_from;

/// Paths are those of `cwd`.
pub(super) fn proxy(options: &ProxyOptions, cwd: &Path) -> ProxySpec {
    let file = |path: &String| absolute_from(cwd, Path::new(path)).display().to_string();
    let files = |paths: &Option<Vec<String>>| paths.iter().flatten().map(file).collect();
    ProxySpec {
        tls_cert: files(&options.tls_cert),
        tls_key: files(&options.tls_key),
        redirect_http: options.redirect_http,
        proxy_protocol: options.proxy_protocol.unwrap_or(false),
        trust_forwarded: options.trust_forwarded.unwrap_or(false),
        protocol: options.protocol.clone(),
        compress: options.compress.unwrap_or(false),
        sticky: options.sticky.clone(),
        max_in_flight: options.max_in_flight,
        queue_limit: options.queue_limit,
        queue_timeout_ms: options.queue_timeout_ms,
        hold_timeout_ms: options.hold_timeout_ms,
        retries: options.retries,
        connect_timeout_ms: options.connect_timeout_ms,
        response_timeout_ms: options.response_timeout_ms,
        request_timeout_ms: options.request_timeout_ms,
        stream_timeout_ms: options.stream_timeout_ms,
        header_timeout_ms: options.header_timeout_ms,
        idle_timeout_ms: options.idle_timeout_ms,
        max_body: options.max_body,
        max_connections: options.max_connections,
        slow_start_ms: options.slow_start_ms,
        check_interval_ms: options.check_interval_ms,
        access_log: options.access_log.as_ref().map(file),
        access_log_format: options.access_log_format.clone(),
        access_log_every: options.access_log_every,
    }
}
