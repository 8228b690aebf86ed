//! What is around the content of every document: the header before it, and the sum after it.

use std::fmt;
use std::io::{self, BufWriter};

use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::v3::Impossible;

/// The format that is written.
pub const FORMAT: u32 = 4;
/// The oldest format that is read.
pub const OLDEST: u32 = FORMAT - 1;

/// Who has written a document, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format.
    pub format: u32,
    /// The version of the program.
    pub version: String,
}

/// A format that this program does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub Header);

impl fmt::Display for Unsupported {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { format, version } = &self.0;
        write!(
            out,
            "rpm {version} wrote it in format {format}, and this version reads formats {OLDEST} and {FORMAT}: use rpm {version}"
        )?;
        match *format > FORMAT {
            true => write!(out, " or a later version"),
            false => write!(
                out,
                ", then update by way of a version that reads format {format} and writes a later one"
            ),
        }
    }
}

impl std::error::Error for Unsupported {}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is whole, as far as can be told, and of another format.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// It does not begin as every document does.
    #[error("it has no header")]
    NoHeader,
    /// Something in it was changed, or its end is missing.
    #[error("its sum is wrong")]
    Sum,
    /// It is not what its header says.
    #[error("it is malformed")]
    Json(#[from] serde_json::Error),
    /// It has a worker as no daemon has one.
    #[error(transparent)]
    Impossible(#[from] Impossible),
}

/// The header of a document; nothing else of it is looked at. `None`: it has none.
#[must_use]
pub fn header(text: &[u8]) -> Option<Header> {
    let mut found = Found::default();
    // What follows the header is not read, which is an error of its own.
    let _ = HeaderSeed(&mut found).deserialize(&mut serde_json::Deserializer::from_slice(text));
    Some(Header {
        format: found.format?,
        version: found.version?,
    })
}

#[derive(Default)]
struct Found {
    format: Option<u32>,
    version: Option<String>,
}

/// Reads the first two fields of an object, and no more.
struct HeaderSeed<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a document with a header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if map.next_key::<Name>()? == Some(Name::Format) {
            self.0.format = Some(map.next_value()?);
            if map.next_key::<Name>()? == Some(Name::Version) {
                self.0.version = Some(map.next_value()?);
            }
        }
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Name {
    Format,
    Version,
    Other,
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    "format" => Name::Format,
                    "version" => Name::Version,
                    _ => Name::Other,
                })
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// Before the sum that ends a document.
const SUM: &[u8] = b"\n#";

/// Written, and summed, at a time: a document is never in memory as a whole, for with hundreds of apps it has megabytes.
const WRITE_BYTES: usize = 32 * 1024;

pub(crate) fn write(document: &impl Serialize, out: impl io::Write) -> io::Result<()> {
    let summed = Summed { out, sum: FNV_OFFSET };
    let mut buffered = BufWriter::with_capacity(WRITE_BYTES, summed);
    serde_json::to_writer(&mut buffered, document)?;
    let Summed { mut out, sum } = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.write_all(SUM)?;
    writeln!(out, "{sum:016x}")?;
    out.flush()
}

/// This text with the sum that belongs to it, as the end of a document.
#[must_use]
pub fn seal(text: &[u8]) -> Vec<u8> {
    let end = format!("{:016x}\n", sum(FNV_OFFSET, text));
    [text, SUM, end.as_bytes()].concat()
}

/// What is read of a whole document of the present format.
pub(crate) fn body<T: DeserializeOwned>(text: &[u8]) -> Result<T, ReadError> {
    let (content, end) = split(text).ok_or(ReadError::Sum)?;
    checked(content, end)
}

/// The same of the format before. The first programs that wrote it knew no sum.
pub(crate) fn body_of_v3<T: DeserializeOwned>(text: &[u8]) -> Result<T, ReadError> {
    match split(text) {
        Some((content, end)) => checked(content, end),
        None => Ok(serde_json::from_slice(text)?),
    }
}

fn checked<T: DeserializeOwned>(content: &[u8], end: &[u8]) -> Result<T, ReadError> {
    if format!("{:016x}\n", sum(FNV_OFFSET, content)).as_bytes() != end {
        return Err(ReadError::Sum);
    }
    Ok(serde_json::from_slice(content)?)
}

/// The content and what follows the mark of the sum.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.windows(SUM.len()).rposition(|window| window == SUM)?;
    Some((&text[..at], &text[at + SUM.len()..]))
}

/// Sums what passes through it.
struct Summed<W> {
    out: W,
    sum: u64,
}

impl<W: io::Write> io::Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.sum = sum(self.sum, &bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// FNV-1a: against damage, and not against anybody.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

fn sum(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;

    use super::*;

    fn of(format: u32, version: &str) -> Option<Header> {
        let version = version.to_owned();
        Some(Header { format, version })
    }

    #[test]
    fn the_header_is_read_whatever_follows() {
        for rest in [
            "}",
            ",\"core\":{}}",
            ",\"core\":nonsense",
            "",
            ",",
            "\n\0\u{fffd}",
        ] {
            let text = format!("{{\"format\":7,\"version\":\"2.0.1-rc.1\"{rest}");
            assert_eq!(header(text.as_bytes()), of(7, "2.0.1-rc.1"), "{text}");
        }
    }

    #[test]
    fn what_does_not_begin_with_both_fields_has_no_header() {
        let texts = [
            "",
            "{}",
            "[]",
            "{\"version\":\"1\",\"format\":4}",
            "{\"format\":4}",
            "{\"format\":4,\"x\":1,\"version\":\"1\"}",
            "{\"format\":-4,\"version\":\"1\"}",
            "{\"format\":4,\"version\":1}",
            "{\"0\":{\"name\":\"web\"}}",
        ];
        for text in texts {
            assert_eq!(header(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_was_sealed_is_whole_until_a_byte_changes_or_is_missing() {
        let content = b"{\"a\":\"\\n#\"}";
        let text = seal(content);
        let read = |text: &[u8]| body::<serde_json::Value>(text);
        assert!(read(&text).is_ok());
        assert!(read(content).is_err(), "the present format has a sum");
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert!(read(&damaged).is_err(), "byte {at}");
            assert!(read(&text[..at]).is_err(), "cut at {at}");
        }
    }

    /// Without its mark a document of the format before is taken for one of the first programs that wrote it: it is whole then, or no JSON.
    #[test]
    fn the_format_before_may_have_no_sum() {
        let content = b"{\"a\":\"\\n#\"}";
        let text = seal(content);
        let read = |text: &[u8]| body_of_v3::<IgnoredAny>(text).is_ok();
        assert!(read(&text) && read(b"{}"));
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert!(!read(&damaged), "byte {at}");
            assert_eq!(
                read(&text[..at]),
                at == content.len() || at == content.len() + 1,
                "cut at {at}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_says_what_can() {
        let said = |format| Unsupported(of(format, "9.1.0").expect("a header")).to_string();
        let later = "rpm 9.1.0 wrote it in format 5, and this version reads formats 3 and 4: use rpm 9.1.0 or a later version";
        assert_eq!(said(5), later);
        assert!(said(2).contains("by way of a version that reads format 2 and writes a later one"));
    }
}
