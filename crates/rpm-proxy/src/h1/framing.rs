//! Where the body of a message ends (RFC 9112, 6 and 7.1).

/// Longest line within a chunked body, in bytes: the size of a chunk with its extensions, or a trailer field.
const LINE_LIMIT: usize = 8 * 1024;
/// All trailer fields of a body, in bytes.
const TRAILER_LIMIT: usize = 32 * 1024;

/// How the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Nothing,
    /// By its length in bytes.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

impl Framing {
    /// The body has no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Framing::Nothing | Framing::Length(0))
    }
}

/// The body is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadBody(pub &'static str);

/// Finds the end of a body that arrives in pieces.
///
/// What it accepts is passed on unchanged, so it is as strict as any reader behind it: lines end with CRLF, sizes are hexadecimal digits and
/// nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanner(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Left(u64),
    Open,
    Chunk(Chunk),
}

/// Position in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a size: their value and their number.
    Size { size: u64, digits: u8 },
    /// In a chunk extension: its length so far.
    Extension { size: u64, length: usize },
    /// After the CR of that line.
    SizeLf { size: u64 },
    /// In the data.
    Data(u64),
    /// After the data.
    DataCr,
    /// After that CR.
    DataLf,
    /// In a trailer line: its length, and that of all trailers.
    /// `named`: the colon was read.
    Trailer { length: usize, all: usize, named: bool },
    /// After the CR of a trailer line; an empty one is the end.
    TrailerLf { length: usize, all: usize },
}

/// Most digits of a size, which is then below 2^60.
const DIGITS: u8 = 15;

impl Scanner {
    /// Starts at the beginning of a body.
    #[must_use]
    pub fn new(framing: Framing) -> Scanner {
        Scanner(match framing {
            Framing::Nothing | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Left(length),
            Framing::Chunked => State::Chunk(Chunk::Size { size: 0, digits: 0 }),
            Framing::UntilClose => State::Open,
        })
    }

    /// The body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// The body is complete if the connection ends now.
    #[must_use]
    pub fn may_end(&self) -> bool {
        matches!(self.0, State::Done | State::Open)
    }

    /// Returns how many of these bytes belong to the body. `data` gets its content.
    ///
    /// # Errors
    /// The chunks are malformed.
    pub fn scan(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadBody> {
        let mut used = 0;
        while used < bytes.len() && !self.is_done() {
            used += self.scan_part(&bytes[used..], &mut data)?;
        }
        Ok(used)
    }

    /// The next byte belongs to the trailers, or to the empty line at their end.
    pub(crate) fn is_in_trailers(&self) -> bool {
        matches!(
            self.0,
            State::Chunk(Chunk::Trailer { .. } | Chunk::TrailerLf { .. })
        )
    }

    /// As [`Scanner::scan`], but stops where the trailers begin.
    pub(crate) fn scan_part(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadBody> {
        match &mut self.0 {
            State::Done => Ok(0),
            State::Open => {
                data(bytes);
                Ok(bytes.len())
            }
            State::Left(left) => {
                let part = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                data(&bytes[..part]);
                *left -= part as u64;
                if *left == 0 {
                    self.0 = State::Done;
                }
                Ok(part)
            }
            State::Chunk(chunk) => {
                let mut at = 0;
                while at < bytes.len() {
                    if let Chunk::Data(left) = chunk {
                        let rest = &bytes[at..];
                        let part = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                        data(&rest[..part]);
                        at += part;
                        *left -= part as u64;
                        if *left == 0 {
                            *chunk = Chunk::DataCr;
                        }
                        continue;
                    }
                    let byte = bytes[at];
                    at += 1;
                    let next = chunk.step(byte)?;
                    match next {
                        Some(next) => *chunk = next,
                        None => {
                            self.0 = State::Done;
                            return Ok(at);
                        }
                    }
                    if let Chunk::Trailer { all: 0, .. } = chunk {
                        return Ok(at);
                    }
                }
                Ok(at)
            }
        }
    }
}

impl Chunk {
    /// The next state; `None`: that was the last byte of the body.
    fn step(self, byte: u8) -> Result<Option<Chunk>, BadBody> {
        let next = match (self, byte) {
            (Chunk::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == DIGITS {
                    return Err(BadBody("chunk size too large"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                Chunk::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Chunk::Size { digits: 0, .. }, _) => return Err(BadBody("chunk size missing")),
            (Chunk::Size { size, .. } | Chunk::Extension { size, .. }, b'\r') => Chunk::SizeLf { size },
            (Chunk::Size { size, .. }, b';') => Chunk::Extension { size, length: 0 },
            (Chunk::Size { .. }, _) => return Err(BadBody("malformed chunk size")),
            (Chunk::Extension { size, length }, b'\t' | b' '..=b'~' | 0x80..) if length < LINE_LIMIT => {
                Chunk::Extension {
                    size,
                    length: length + 1,
                }
            }
            (Chunk::Extension { .. }, _) => return Err(BadBody("malformed chunk extension")),
            (Chunk::SizeLf { size: 0 }, b'\n') => Chunk::Trailer {
                length: 0,
                all: 0,
                named: false,
            },
            (Chunk::SizeLf { size }, b'\n') => Chunk::Data(size),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { size: 0, digits: 0 },
            (Chunk::Trailer { length, all, named }, b'\r') if named || length == 0 => {
                Chunk::TrailerLf { length, all }
            }
            (Chunk::Trailer { length, all, named }, _) => {
                let colon = byte == b':' && length > 0;
                let fits = named || colon || is_token(byte);
                if !fits || b"\r\n\0".contains(&byte) || length >= LINE_LIMIT || all >= TRAILER_LIMIT {
                    return Err(BadBody("malformed trailer field"));
                }
                Chunk::Trailer {
                    length: length + 1,
                    all: all + 1,
                    named: named || colon,
                }
            }
            (Chunk::TrailerLf { length: 0, .. }, b'\n') => return Ok(None),
            (Chunk::TrailerLf { all, .. }, b'\n') => Chunk::Trailer {
                length: 0,
                all,
                named: false,
            },
            (Chunk::SizeLf { .. } | Chunk::DataCr | Chunk::DataLf | Chunk::TrailerLf { .. }, _) => {
                return Err(BadBody("line in a chunked body does not end with CRLF"));
            }
            // Data is skipped as a whole by the caller.
            (Chunk::Data(_), _) => self,
        };
        Ok(Some(next))
    }
}

/// The byte may be part of a field name or a method (RFC 9110, 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the body holds, and how many bytes it has; in pieces of every size it must be the same.
    fn read(framing: Framing, bytes: &[u8]) -> Result<(Vec<u8>, usize, bool), BadBody> {
        let mut results = (1..=bytes.len().max(1)).map(|piece| {
            let mut scanner = Scanner::new(framing);
            let (mut data, mut used) = (Vec::new(), 0);
            for part in bytes.chunks(piece) {
                let of_part = scanner.scan(part, |bytes| data.extend_from_slice(bytes))?;
                used += of_part;
                if of_part < part.len() {
                    break;
                }
            }
            Ok((data, used, scanner.is_done()))
        });
        let first = results.next().expect("at least one");
        for other in results {
            assert_eq!(other, first, "{}", String::from_utf8_lossy(bytes));
        }
        first
    }

    #[test]
    fn a_length_is_a_length() {
        assert_eq!(read(Framing::Length(3), b"abcd"), Ok((b"abc".to_vec(), 3, true)));
        assert_eq!(
            read(Framing::Length(5), b"abcd"),
            Ok((b"abcd".to_vec(), 4, false))
        );
        assert_eq!(read(Framing::Length(0), b"abcd"), Ok((Vec::new(), 0, true)));
        assert_eq!(read(Framing::Nothing, b"abcd"), Ok((Vec::new(), 0, true)));
        assert_eq!(
            read(Framing::UntilClose, b"abcd"),
            Ok((b"abcd".to_vec(), 4, false))
        );
        assert!(Scanner::new(Framing::UntilClose).may_end() && !Scanner::new(Framing::Length(1)).may_end());
    }

    #[test]
    fn chunks_end_with_an_empty_one() {
        let body = b"3\r\nabc\r\n0A;x=y\r\n0123456789\r\n000\r\n\r\nGET";
        assert_eq!(
            read(Framing::Chunked, body),
            Ok((b"abc0123456789".to_vec(), body.len() - 3, true))
        );
        let trailers = b"1\r\na\r\n0\r\nX-Sum: 5\r\nY:\r\n\r\n";
        assert_eq!(
            read(Framing::Chunked, trailers),
            Ok((b"a".to_vec(), trailers.len(), true))
        );
        let part = b"5\r\nab";
        assert_eq!(
            read(Framing::Chunked, part),
            Ok((b"ab".to_vec(), part.len(), false))
        );
    }

    #[test]
    fn ambiguous_chunks_are_rejected() {
        for bad in [
            &b"\r\n0\r\n\r\n"[..],
            b"3\nabc\r\n0\r\n\r\n",
            b"3\r\nabc0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"0x1\r\n",
            b"1_0\r\n",
            b"g\r\n",
            b";x\r\n",
            b"1;x\n",
            b"1;x\0\r\n",
            b"1\rx",
            b"1000000000000000\r\n",
            b"ffffffffffffffff1\r\n",
            b"0\r\n\n",
            b"0\r\n X: y\r\n\r\n",
            b"0\r\n: y\r\n\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX: y\rz\r\n",
            b"0\r\nX: \0\r\n",
            b"0\r\n\rx",
        ] {
            assert!(
                read(Framing::Chunked, bad).is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
        let long = [b"1;".to_vec(), vec![b'x'; LINE_LIMIT + 1]].concat();
        assert!(Scanner::new(Framing::Chunked).scan(&long, |_| ()).is_err());
        let lines = b"0\r\n"
            .iter()
            .copied()
            .chain(b"X: y\r\n".repeat(TRAILER_LIMIT / 2));
        let lines: Vec<u8> = lines.collect();
        assert!(Scanner::new(Framing::Chunked).scan(&lines, |_| ()).is_err());
    }
}
