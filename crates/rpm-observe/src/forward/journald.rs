//! journald, by systemd's native journal protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): a record is a datagram, and one that is too long
//! for that a sealed file in memory, whose descriptor is sent. It has no answers.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::time::Duration;

use rpm_wire::forward::Destination;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::delivery::Outcome;
use super::record::{Level, Record, rfc3339};

/// Time for journald to take a batch. It may be busy.
const SENT_WITHIN: Duration = Duration::from_secs(10);
/// The longest name of a field, in bytes.
const FIELD_BYTES: usize = 64;

/// A record with its fields.
pub(super) fn message(record: &Record, destination: &Destination) -> Vec<u8> {
    let parsed = record.parsed.as_ref();
    let id = record.id.map(|id| id.to_string());
    let known = [
        ("PRIORITY", Some(priority(record.level))),
        ("SYSLOG_IDENTIFIER", Some(record.about.app.as_str())),
        ("RPM_APP", Some(record.about.app.as_str())),
        ("RPM_ID", id.as_deref()),
        ("RPM_STREAM", record.stream.map(super::record::Stream::name)),
        ("TRACE_ID", parsed.and_then(|parsed| parsed.trace.as_deref())),
        ("SPAN_ID", parsed.and_then(|parsed| parsed.span.as_deref())),
    ];
    let mut bytes = Vec::new();
    put(&mut bytes, "MESSAGE", &record.text);
    // The time of the entry is that at which journald gets it.
    put(&mut bytes, "SYSLOG_TIMESTAMP", &rfc3339(record.time_ns));
    for (name, value) in known {
        if let Some(value) = value {
            put(&mut bytes, name, value);
        }
    }
    for (name, value) in &destination.labels {
        let name = field(name);
        let is_ours = ["MESSAGE", "SYSLOG_TIMESTAMP"].contains(&name.as_str());
        if !is_ours && !known.iter().any(|(known, _)| *known == name) && !name.is_empty() {
            put(&mut bytes, &name, value);
        }
    }
    bytes
}

/// As syslog has it.
fn priority(level: Option<Level>) -> &'static str {
    match level {
        Some(Level::Trace | Level::Debug) => "7",
        Some(Level::Info) | None => "6",
        Some(Level::Warn) => "4",
        Some(Level::Error) => "3",
        Some(Level::Fatal) => "2",
    }
}

/// The name of a label as that of a field: capitals, digits and _, and no _ or digit in front.
fn field(label: &str) -> String {
    let may = |letter: char| match letter.to_ascii_uppercase() {
        letter if letter.is_ascii_uppercase() || letter.is_ascii_digit() => letter,
        _ => '_',
    };
    let name: String = label.chars().map(may).take(FIELD_BYTES).collect();
    let first = |letter: char| letter == '_' || letter.is_ascii_digit();
    name.trim_start_matches(first).to_owned()
}

/// A value with line breaks has its length in front.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    match value.contains('\n') {
        false => bytes.push(b'='),
        true => {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        }
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

/// Sends messages to the socket with this path.
pub(super) async fn send(path: &str, messages: &[Vec<u8>]) -> Outcome {
    let sent = Cell::new(0);
    let done = timeout(SENT_WITHIN, send_all(path, messages, &sent)).await;
    Outcome::of_messages(done, sent.get(), messages.len(), SENT_WITHIN)
}

async fn send_all(path: &str, messages: &[Vec<u8>], sent: &Cell<usize>) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    for message in messages {
        let too_long = [Errno::MSGSIZE, Errno::NOBUFS].map(Errno::raw_os_error);
        match socket.send(message).await {
            Err(error) if error.raw_os_error().is_some_and(|code| too_long.contains(&code)) => {
                hand_over(&socket, &sealed(message)?).await?;
            }
            sent => drop(sent?),
        }
        sent.set(sent.get() + 1);
    }
    Ok(())
}

/// A file in memory that nobody can change any more, which is what journald takes.
fn sealed(message: &[u8]) -> io::Result<File> {
    let fd = memfd_create("rpm-journal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(message)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Sends the descriptor of a file in an empty datagram.
async fn hand_over(socket: &UnixDatagram, file: &File) -> io::Result<()> {
    let send = || {
        let fds = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(socket, &[IoSlice::new(&[])], &mut ancillary, SendFlags::empty())?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, send).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;
    use std::os::unix::net::UnixDatagram as Socket;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::super::record::tests::record;
    use super::super::send::tests::destination;
    use super::*;

    #[test]
    fn a_record_has_its_fields() {
        let to = Destination {
            labels: [
                ("deploy.env", "prod"),
                ("_x", "1"),
                ("rpm_app", "other"),
                ("9", "no name"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            ..destination("syslog")
        };
        let line = r#"{"level":"error","msg":"x","trace_id":"abc"}"#;
        let expected = format!(
            "MESSAGE={line}\nSYSLOG_TIMESTAMP=2026-03-05T13:07:09.000000Z\nPRIORITY=3\nSYSLOG_IDENTIFIER=api\nRPM_APP=api\nRPM_ID=3\n\
             RPM_STREAM=out\nTRACE_ID=abc\nX=1\nDEPLOY_ENV=prod\n"
        );
        assert_eq!(String::from_utf8_lossy(&message(&record(line), &to)), expected);
        let plain = Destination {
            labels: BTreeMap::new(),
            ..to
        };
        let stack = message(&record("one\ntwo"), &plain);
        assert!(stack.starts_with(b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nSYSLOG_TIMESTAMP="));
    }

    /// The next message, from the datagram or the file that it has.
    fn next(socket: &Socket) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 20];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(&mut buffer)];
        let got = recvmsg(socket, &mut into, &mut ancillary, RecvFlags::empty()).expect("a datagram");
        let files = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let Some(file) = files.flatten().next() else {
            buffer.truncate(got.bytes);
            return buffer;
        };
        let seals = rustix::fs::fcntl_get_seals(&file).expect("a file in memory");
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SEAL), "{seals:?}");
        let mut text = Vec::new();
        let mut file = File::from(file);
        io::Seek::rewind(&mut file).expect("it has a beginning");
        file.read_to_end(&mut text).expect("it is read");
        text
    }

    #[tokio::test]
    async fn long_messages_are_files() {
        let path = std::env::temp_dir().join(format!("rpm-journald-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let at = path.display().to_string();
        let messages = [b"MESSAGE=short\n".to_vec(), vec![b'x'; 900_000]];
        let away = send(&at, &messages).await;
        assert!(matches!(away, Outcome::Later { .. }), "{away:?}");
        let socket = Socket::bind(&path).expect("a socket");
        assert_eq!(send(&at, &messages).await, Outcome::Taken);
        for message in messages {
            assert!(next(&socket) == message, "{} bytes", message.len());
        }
        std::fs::remove_file(&path).expect("it is ours");
    }
}
