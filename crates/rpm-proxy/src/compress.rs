//! Answers in gzip, for clients that know it (RFC 9110, 8.4 and 12.5.3).

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Shorter bodies are not worth it, in bytes.
pub(crate) const SHORTEST: u64 = 1024;
/// The level that costs little: a proxy compresses while its clients wait.
const LEVEL: Compression = Compression::new(4);

/// A body that is being compressed.
pub(crate) struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    pub(crate) fn new() -> Gzip {
        Gzip(GzEncoder::new(Vec::new(), LEVEL))
    }

    /// More of the body.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Writing to a vector cannot fail.
        let _ = self.0.write_all(bytes);
    }

    /// What there is by now, so that the client gets all that has come.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let _ = self.0.flush();
        std::mem::take(self.0.get_mut())
    }

    /// The rest.
    pub(crate) fn finish(&mut self) -> io::Result<Vec<u8>> {
        self.0.try_finish()?;
        Ok(std::mem::take(self.0.get_mut()))
    }
}

/// Does `Accept-Encoding` allow gzip?
pub(crate) fn accepts(value: &str) -> bool {
    let mut any = None;
    for part in value.split(',') {
        let mut words = part.split(';').map(str::trim);
        let coding = words.next().unwrap_or_default();
        let weight = words.find_map(|word| word.strip_prefix("q=").or(word.strip_prefix("Q=")));
        let wanted = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        if coding == "*" {
            any = Some(wanted);
        }
    }
    any.unwrap_or(false)
}

/// Is this type of content smaller when it is compressed? An event stream is not: its parts must come one by one.
pub(crate) fn is_worth(content_type: &str) -> bool {
    let kind = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if kind == "text/event-stream" {
        return false;
    }
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || matches!(
            kind.as_str(),
            "application/json"
                | "application/javascript"
                | "application/x-javascript"
                | "application/xml"
                | "application/wasm"
                | "application/x-ndjson"
                | "application/manifest"
                | "font/ttf"
                | "font/otf"
        )
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn what_is_compressed_can_be_read_as_it_comes() {
        let mut gzip = Gzip::new();
        gzip.push(b"first ");
        let mut all = gzip.take();
        let mut begun = [0; 6];
        GzDecoder::new(&all[..])
            .read_exact(&mut begun)
            .expect("all that was pushed is there");
        assert_eq!(&begun, b"first ");
        gzip.push(b"second");
        all.extend(gzip.finish().expect("it ends"));
        let mut text = String::new();
        GzDecoder::new(&all[..]).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "first second");
    }

    #[test]
    fn clients_say_what_they_know() {
        for (value, expected) in [
            ("gzip", true),
            ("br, gzip;q=0.5", true),
            ("deflate, GZIP", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000, *", false),
            ("*", true),
            ("*;q=0", false),
            ("identity, br", false),
            ("", false),
            ("gzip;q=x", false),
        ] {
            assert_eq!(accepts(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_worth_it() {
        for (kind, expected) in [
            ("text/html; charset=utf-8", true),
            ("Application/JSON", true),
            ("image/svg+xml", true),
            ("text/event-stream", false),
            ("image/png", false),
            ("", false),
        ] {
            assert_eq!(is_worth(kind), expected, "{kind}");
        }
    }
}
