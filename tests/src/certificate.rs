//! Certificates for tests.

use std::path::PathBuf;
use std::process::Command;

use crate::place::Place;

/// A self-signed certificate for a host, and its key, as files with this name.
///
/// # Panics
/// openssl fails.
pub fn certificate(place: &Place, name: &str, host: &str) -> [PathBuf; 2] {
    let files = ["crt", "key"].map(|kind| place.path().join(format!("{name}.{kind}")));
    let done = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            &format!("/CN={host}"),
            "-addext",
            &format!("subjectAltName=DNS:{host}"),
            // Clients that check refuse an authority's own certificate as a server's.
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-out")
        .arg(&files[0])
        .arg("-keyout")
        .arg(&files[1])
        .output()
        .expect("openssl runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    files
}
