//! An incremental HTTP/1.x response parser (RFC 9112) that keeps only what the account needs.

/// A response head larger than this is not one.
const MAX_HEAD: usize = 64 * 1024;
/// A chunk-size line or trailer line larger than this is not one.
const MAX_LINE: usize = 8 * 1024;
/// As much of a worker's name as is kept.
const MAX_NAME: usize = 64;
/// As much of a body as is kept until it is taken.
const MAX_KEPT: usize = 64 * 1024;

/// The bytes are not an HTTP/1.x response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("response head larger than {MAX_HEAD} bytes")]
    HeadTooLarge,
    #[error("not an HTTP/1.x status line")]
    StatusLine,
    #[error("content-length is not a number")]
    ContentLength,
    #[error("chunk framing is broken")]
    Chunk,
}

/// Reads one response from a stream of bytes; [`Parser::reset`] makes it ready for the next.
#[derive(Debug)]
pub(crate) struct Parser {
    phase: Phase,
    head: Vec<u8>,
    line: Vec<u8>,
    name: Name,
    body: Vec<u8>,
    status: u16,
    keep_alive: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    /// So many bytes of a body with a length are missing.
    Sized(u64),
    /// The body ends with the connection.
    UntilEof,
    ChunkSize,
    /// So many bytes of the chunk are missing.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    Trailer,
    Done,
}

/// Who answered: the `x-worker` header or else the first word of the body.
#[derive(Debug, Default)]
struct Name {
    text: Vec<u8>,
    settled: bool,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Parser {
            phase: Phase::Head,
            head: Vec::with_capacity(1024),
            line: Vec::new(),
            name: Name::default(),
            body: Vec::new(),
            status: 0,
            keep_alive: false,
        }
    }

    /// Forget the response read last.
    pub(crate) fn reset(&mut self) {
        self.phase = Phase::Head;
        self.head.clear();
        self.line.clear();
        self.name.text.clear();
        self.name.settled = false;
        self.body.clear();
    }

    /// Whether the head was read: status and fields are known.
    pub(crate) fn has_head(&self) -> bool {
        self.phase != Phase::Head
    }

    /// The beginning of the body, as far as it was read.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// What was read of the body since the last time.
    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// Whether a whole response was read.
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Whether no byte of a response was read.
    pub(crate) fn is_untouched(&self) -> bool {
        self.phase == Phase::Head && self.head.is_empty()
    }

    /// Status code of the response read.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Whether the connection may carry another request after this response.
    pub(crate) fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Who answered; empty if the answer does not say.
    pub(crate) fn worker(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.name.text)
    }

    /// The stream has ended: a body that lasts until then is complete.
    pub(crate) fn finish(&mut self) {
        if self.phase == Phase::UntilEof {
            self.phase = Phase::Done;
        }
    }

    /// Take bytes in; returns how many belong to this response.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while used < bytes.len() && self.phase != Phase::Done {
            used += self.step(&bytes[used..])?;
        }
        Ok(used)
    }

    /// Consume at least one byte of `bytes`, which is not empty.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self.phase {
            Phase::Head => self.step_head(bytes),
            Phase::Sized(left) => {
                let used = self.read_body(bytes, left);
                self.phase = sized(left - used as u64);
                Ok(used)
            }
            Phase::UntilEof => Ok(self.read_body(bytes, u64::MAX)),
            Phase::Chunk(left) => {
                let used = self.read_body(bytes, left);
                let left = left - used as u64;
                self.phase = if left == 0 {
                    Phase::ChunkEnd
                } else {
                    Phase::Chunk(left)
                };
                Ok(used)
            }
            Phase::ChunkSize | Phase::ChunkEnd | Phase::Trailer => self.step_line(bytes),
            Phase::Done => Ok(0),
        }
    }

    fn step_head(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        // The blank line may have begun in what came before.
        let from = before.saturating_sub(3);
        let Some(end) = self.head[from..]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            return if self.head.len() > MAX_HEAD {
                Err(Malformed::HeadTooLarge)
            } else {
                Ok(bytes.len())
            };
        };
        let end = from + end + 4;
        self.head.truncate(end);
        self.phase = self.parse_head()?;
        Ok(end - before)
    }

    /// Read the complete head; says how the body is framed.
    fn parse_head(&mut self) -> Result<Phase, Malformed> {
        let mut lines = self.head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let (status, minor) = status_line(lines.next().unwrap_or_default())?;
        if (100..200).contains(&status) {
            self.head.clear();
            return Ok(Phase::Head);
        }
        self.status = status;
        let mut fields = Fields {
            keep_alive: minor >= 1,
            ..Fields::default()
        };
        for line in lines {
            fields.read(line, &mut self.name)?;
        }
        let phase = fields.framing(status);
        self.keep_alive = fields.keep_alive && phase != Phase::UntilEof;
        Ok(phase)
    }

    fn read_body(&mut self, bytes: &[u8], left: u64) -> usize {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.name.take_body(&bytes[..used]);
        let room = MAX_KEPT - self.body.len();
        self.body.extend_from_slice(&bytes[..used.min(room)]);
        used
    }

    fn step_line(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(bytes.len(), |end| end + 1);
        if self.line.len() + used > MAX_LINE {
            return Err(Malformed::Chunk);
        }
        self.line.extend_from_slice(&bytes[..used]);
        if end.is_some() {
            self.phase = next_after_line(self.phase, self.line.trim_ascii())?;
            self.line.clear();
        }
        Ok(used)
    }
}

impl Name {
    fn take_body(&mut self, bytes: &[u8]) {
        if self.settled {
            return;
        }
        let word = bytes.iter().position(u8::is_ascii_whitespace);
        let room = MAX_NAME - self.text.len();
        let length = word.unwrap_or(bytes.len()).min(room);
        self.text.extend_from_slice(&bytes[..length]);
        self.settled = word.is_some() || length == room;
    }
}

/// What the header fields say of the body and the connection.
#[derive(Default)]
struct Fields {
    keep_alive: bool,
    chunked: bool,
    length: Option<u64>,
}

impl Fields {
    fn read(&mut self, line: &[u8], name: &mut Name) -> Result<(), Malformed> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Ok(());
        };
        let (field, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if field.eq_ignore_ascii_case(b"content-length") {
            self.length = Some(number(value, 10).ok_or(Malformed::ContentLength)?);
        } else if field.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = value.to_ascii_lowercase().ends_with(b"chunked");
        } else if field.eq_ignore_ascii_case(b"connection") {
            self.keep_alive &= !value.eq_ignore_ascii_case(b"close");
            self.keep_alive |= value.eq_ignore_ascii_case(b"keep-alive");
        } else if field.eq_ignore_ascii_case(b"x-worker") {
            name.text.extend_from_slice(&value[..value.len().min(MAX_NAME)]);
            name.settled = true;
        }
        Ok(())
    }

    fn framing(&self, status: u16) -> Phase {
        if matches!(status, 204 | 304) {
            return Phase::Done;
        }
        match (self.chunked, self.length) {
            (true, _) => Phase::ChunkSize,
            (false, Some(length)) => sized(length),
            (false, None) => Phase::UntilEof,
        }
    }
}

fn sized(left: u64) -> Phase {
    if left == 0 {
        Phase::Done
    } else {
        Phase::Sized(left)
    }
}

/// `HTTP/1.1 200 OK` to (200, 1).
fn status_line(line: &[u8]) -> Result<(u16, u8), Malformed> {
    let minor = match line.get(..9) {
        Some(b"HTTP/1.1 ") => 1,
        Some(b"HTTP/1.0 ") => 0,
        Some(_) | None => return Err(Malformed::StatusLine),
    };
    let status = line
        .get(9..12)
        .and_then(|digits| number(digits, 10))
        .ok_or(Malformed::StatusLine)?;
    Ok((u16::try_from(status).map_err(|_| Malformed::StatusLine)?, minor))
}

fn next_after_line(phase: Phase, line: &[u8]) -> Result<Phase, Malformed> {
    match phase {
        Phase::ChunkSize => {
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            match number(digits.trim_ascii(), 16).ok_or(Malformed::Chunk)? {
                0 => Ok(Phase::Trailer),
                size => Ok(Phase::Chunk(size)),
            }
        }
        Phase::ChunkEnd if line.is_empty() => Ok(Phase::ChunkSize),
        Phase::Trailer if line.is_empty() => Ok(Phase::Done),
        Phase::Trailer => Ok(Phase::Trailer),
        Phase::ChunkEnd | Phase::Head | Phase::Sized(_) | Phase::UntilEof | Phase::Chunk(_) | Phase::Done => {
            Err(Malformed::Chunk)
        }
    }
}

/// Digits only: `from_str_radix` would take a sign too.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let only_digits = !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    only_digits
        .then(|| u64::from_str_radix(text, radix).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response is the same however the bytes are cut.
    fn parse(bytes: &[u8]) -> Result<(Parser, usize), Malformed> {
        let mut whole = Parser::new();
        let used = whole.feed(bytes)?;
        let mut single = Parser::new();
        let used_single = bytes
            .iter()
            .try_fold(0, |sum, byte| Ok(sum + single.feed(&[*byte])?))?;
        assert_eq!((used, whole.phase), (used_single, single.phase));
        assert_eq!(whole.worker(), single.worker());
        Ok((whole, used))
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n0 4242HTTP/1.1";
        let (parser, used) = parse(bytes).expect("response");
        assert!(parser.is_done() && parser.keep_alive());
        assert_eq!((parser.status(), used), (200, bytes.len() - 8));
        assert_eq!(parser.worker(), "0");
    }

    #[test]
    fn a_missing_byte_is_missing() {
        let (parser, _) = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n0 424").expect("response");
        assert!(!parser.is_done() && !parser.is_untouched());
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Worker: 3 77\r\n\r\n";
        let body = b"5;x=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n";
        let (parser, used) = parse(&[&head[..], body].concat()).expect("response");
        assert!(parser.is_done());
        assert_eq!(used, head.len() + body.len());
        assert_eq!(parser.worker(), "3 77");
        assert_eq!(
            parse(&[&head[..], b"zz\r\n"].concat()).unwrap_err(),
            Malformed::Chunk
        );
        assert_eq!(
            parse(&[&head[..], b"1\r\nab\r\n"].concat()).unwrap_err(),
            Malformed::Chunk
        );
    }

    #[test]
    fn without_framing_the_end_of_the_stream_ends_the_body() {
        let (mut parser, _) = parse(b"HTTP/1.1 200 OK\r\n\r\nabc").expect("response");
        assert!(!parser.is_done() && !parser.keep_alive());
        parser.finish();
        assert!(parser.is_done());
    }

    #[test]
    fn close_old_versions_interim_and_bodyless_answers() {
        let close = b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        assert!(!parse(close).expect("response").0.keep_alive());
        let old = b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert!(!parse(old).expect("response").0.keep_alive());
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let (parser, _) = parse(interim).expect("response");
        assert!(parser.is_done());
        assert_eq!(parser.status(), 204);
    }

    #[test]
    fn garbage_is_an_error() {
        assert_eq!(parse(b"SSH-2.0-x\r\n\r\n").unwrap_err(), Malformed::StatusLine);
        assert_eq!(
            parse(b"HTTP/1.1 2x0 OK\r\n\r\n").unwrap_err(),
            Malformed::StatusLine
        );
        let length = b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n";
        assert_eq!(parse(length).unwrap_err(), Malformed::ContentLength);
        assert_eq!(
            Parser::new().feed(&vec![b'x'; MAX_HEAD + 1]).unwrap_err(),
            Malformed::HeadTooLarge
        );
    }
}
