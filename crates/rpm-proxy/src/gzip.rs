//! Compresses bodies as they pass.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

/// A low level: clients wait while the proxy compresses.
const LEVEL: Compression = Compression::new(4);

/// A body that is being compressed.
pub(crate) struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    pub(crate) fn new() -> Gzip {
        Gzip(GzEncoder::new(Vec::new(), LEVEL))
    }

    /// Adds a part of the body.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Writing to a vector cannot fail.
        let _ = self.0.write_all(bytes);
    }

    /// Flushes the encoder, so that the client gets everything that has arrived.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let _ = self.0.flush();
        std::mem::take(self.0.get_mut())
    }

    /// Ends the stream, and returns the rest of it.
    pub(crate) fn finish(&mut self) -> io::Result<Vec<u8>> {
        self.0.try_finish()?;
        Ok(std::mem::take(self.0.get_mut()))
    }
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
}
