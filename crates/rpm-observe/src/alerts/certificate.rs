//! Until when a certificate is valid: the one field of X.509 (RFC 5280, 4.1) that is wanted.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The longest file that is read, in bytes.
const FILE_BYTES: u64 = 1 << 20;
/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Nobody knows until when a certificate is valid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it has no certificate in PEM")]
    NoPem,
    #[error("its first certificate is malformed")]
    Malformed,
}

/// Until when the first certificate of a PEM file is valid, in seconds since the Unix epoch: a chain begins with the one that clients look at.
pub(crate) fn valid_until(path: &Path) -> Result<i64, CertificateError> {
    let mut pem = Vec::new();
    File::open(path)?.take(FILE_BYTES).read_to_end(&mut pem)?;
    let first = CertificateDer::pem_slice_iter(&pem).next();
    let first = first.and_then(Result::ok).ok_or(CertificateError::NoPem)?;
    not_after(&first).ok_or(CertificateError::Malformed)
}

/// `Certificate.tbsCertificate.validity.notAfter`.
fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(certificate)?;
    let (SEQUENCE, mut fields, _) = element(certificate)? else {
        return None;
    };
    if fields.first() == Some(&VERSION) {
        (_, _, fields) = element(fields)?;
    }
    // Serial number, signature, issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (SEQUENCE, validity, _) = element(fields)? else {
        return None;
    };
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    time(tag, text)
}

/// The first element: its tag, its content, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // So many bytes of length: four are more than a file has.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let add = |sum: usize, byte: &u8| (sum << 8) | usize::from(*byte);
            (length.iter().fold(0, add), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ`, of which years before 50 are of this century, or `YYYYMMDDhhmmssZ`.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i16 = text[..2].parse().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let two = |at: usize| rest[at..at + 2].parse::<i8>().ok();
    let date = DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use jiff::Timestamp;

    use super::*;

    /// What openssl says of the same file.
    fn of_openssl(path: &Path) -> i64 {
        let said = Command::new("openssl")
            .args(["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in"])
            .arg(path)
            .output()
            .expect("openssl runs");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let date = said.trim().strip_prefix("notAfter=").expect("a date");
        let date: Timestamp = date.replace(' ', "T").parse().expect("a date");
        date.as_second()
    }

    #[test]
    fn it_is_valid_as_long_as_openssl_says() {
        let directory = std::env::temp_dir().join(format!("rpm-certificate-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("a.crt");
        // The last one is written with four digits of the year.
        for (days, key) in [("1", "rsa:2048"), ("90", "ec"), ("36500", "ec")] {
            let mut command = Command::new("openssl");
            command.args([
                "req", "-x509", "-nodes", "-subj", "/CN=a", "-days", days, "-newkey", key,
            ]);
            if key == "ec" {
                command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            }
            let done = command
                .arg("-keyout")
                .arg(directory.join("a.key"))
                .arg("-out")
                .arg(&path)
                .output();
            assert!(done.expect("openssl runs").status.success());
            let until = valid_until(&path).expect("a certificate");
            assert_eq!(until, of_openssl(&path), "{days} days");
            let pem = std::fs::read(&path).expect("it is there");
            let der = CertificateDer::pem_slice_iter(&pem)
                .next()
                .expect("one")
                .expect("a certificate");
            for length in 0..der.len().min(300) {
                // Whatever is missing: no panic.
                let _ = not_after(&der[..length]);
            }
        }
        std::fs::write(&path, "no certificate").expect("it is ours");
        assert!(matches!(valid_until(&path), Err(CertificateError::NoPem)));
        std::fs::remove_dir_all(&directory).expect("it is ours");
    }

    #[test]
    fn times_have_two_forms() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (UTC_TIME, "20500101000000Z", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "70010100000+Z", None),
        ] {
            assert_eq!(time(tag, text.as_bytes()), expected, "{text}");
        }
    }
}
