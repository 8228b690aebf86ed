//! A mail by SMTP (RFC 5321), with STARTTLS (RFC 3207) and AUTH PLAIN or LOGIN (RFC 4954).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rpm_wire::alerts::SmtpServer;
use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::post::{Unsent, trust};

/// Time to connect, with the name's resolution and encryption, and for each answer but the last.
const STEP_WITHIN: Duration = Duration::from_secs(30);
/// Time for the mail itself, from its first byte to the answer to its end: whoever gives up earlier sends it twice (RFC 5321 4.5.3.2.6).
const MAIL_WITHIN: Duration = Duration::from_secs(600);
/// Time for a farewell, which decides nothing.
const QUIT_WITHIN: Duration = Duration::from_secs(1);
/// The longest line of a server, in bytes, and the most of them in one answer.
const LINE_BYTES: u64 = 2_048;
const LINES: usize = 100;
/// So much of an answer is shown, in bytes.
const SHOWN: usize = 200;

/// A mail was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unmailed {
    #[error("not an address of a mail server: smtp://[USER:PASSWORD@]HOST[:PORT]")]
    Address,
    #[error("cannot connect: {0}")]
    Unreachable(#[source] std::io::Error),
    #[error(transparent)]
    Trust(#[from] Unsent),
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    #[error("it does not speak SMTP")]
    Malformed,
    #[error("it offers no STARTTLS, and a password is not sent in clear text to another machine")]
    NoTls,
    #[error("it takes passwords neither by AUTH PLAIN nor by AUTH LOGIN")]
    NoAuth,
    #[error("it refused {step}: {code} {text}")]
    Refused {
        step: &'static str,
        code: u16,
        text: String,
    },
    #[error("{step}: not done within {seconds} s")]
    Late { step: &'static str, seconds: u64 },
}

impl Unmailed {
    /// True if it may go well the next time.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Unmailed::Unreachable(_) | Unmailed::Broken(_) | Unmailed::Late { .. } => true,
            Unmailed::Refused { code, .. } => (400..500).contains(code),
            Unmailed::Address
            | Unmailed::Trust(_)
            | Unmailed::Malformed
            | Unmailed::NoTls
            | Unmailed::NoAuth => false,
        }
    }
}

/// What is sent.
#[derive(Debug)]
pub(crate) struct Mail<'a> {
    pub from: &'a str,
    pub to: &'a [String],
    /// Header and body. No line of it begins with a dot, and each ends with CR LF.
    pub text: &'a str,
    /// The name of this machine.
    pub host: &'a str,
}

/// Sends it, and returns what the server said.
pub(crate) async fn send(url: &str, mail: &Mail<'_>) -> Result<String, Unmailed> {
    let server = SmtpServer::parse(url).ok_or(Unmailed::Address)?;
    let connected = TcpStream::connect((server.host.as_str(), server.port));
    let stream = within("the connection", STEP_WITHIN, async {
        connected.await.map_err(Unmailed::Unreachable)
    });
    let stream = stream.await?;
    let is_near = stream
        .peer_addr()
        .is_ok_and(|peer: SocketAddr| peer.ip().is_loopback());
    deliver(&server, mail, stream, is_near).await
}

async fn within<T>(
    step: &'static str,
    time: Duration,
    what: impl Future<Output = Result<T, Unmailed>>,
) -> Result<T, Unmailed> {
    let seconds = time.as_secs();
    timeout(time, what)
        .await
        .unwrap_or(Err(Unmailed::Late { step, seconds }))
}

/// `is_near`: the other end is this machine.
async fn deliver<S: AsyncRead + AsyncWrite + Unpin>(
    server: &SmtpServer,
    mail: &Mail<'_>,
    stream: S,
    is_near: bool,
) -> Result<String, Unmailed> {
    if server.is_tls {
        let mut talk = Talk::new(encrypted(server, stream).await?);
        talk.answer("the connection", 220).await?;
        return talk.mail(server, mail, true).await;
    }
    let mut talk = Talk::new(stream);
    talk.answer("the connection", 220).await?;
    // What goes to this machine is read by nobody else, and its server rarely has a certificate that anybody trusts.
    if is_near {
        return talk.mail(server, mail, true).await;
    }
    let offers = talk.hello(mail.host).await?;
    if !offers.iter().any(|offer| offer == "STARTTLS") {
        return match server.user.is_some() {
            true => Err(Unmailed::NoTls),
            false => talk.mail(server, mail, false).await,
        };
    }
    talk.say("STARTTLS", "STARTTLS", 220).await?;
    // What came before encryption begins, and was not read, is of somebody else.
    let stream = talk.stream.into_inner();
    Talk::new(encrypted(server, stream).await?)
        .mail(server, mail, true)
        .await
}

async fn encrypted<S: AsyncRead + AsyncWrite + Unpin>(
    server: &SmtpServer,
    stream: S,
) -> Result<tokio_rustls::client::TlsStream<S>, Unmailed> {
    let name = ServerName::try_from(server.host.clone()).map_err(|_| Unmailed::Address)?;
    let connector = TlsConnector::from(Arc::new(trust()?));
    within("encryption", STEP_WITHIN, async {
        let connected = connector.connect(name, stream).await;
        connected.map_err(Unmailed::Unreachable)
    })
    .await
}

/// A conversation.
struct Talk<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S) -> Talk<S> {
        Talk {
            stream: BufReader::new(stream),
        }
    }

    /// All of it: who we are, whose the mail is, and the mail. `greets`: nothing was said yet.
    async fn mail(&mut self, server: &SmtpServer, mail: &Mail<'_>, greets: bool) -> Result<String, Unmailed> {
        let offers = match greets {
            true => self.hello(mail.host).await?,
            false => Vec::new(),
        };
        if let Some((user, password)) = &server.user {
            self.authenticate(&offers, user, password).await?;
        }
        self.say("MAIL FROM", &format!("MAIL FROM:<{}>", mail.from), 250)
            .await?;
        self.recipients(mail.to).await?;
        self.say("DATA", "DATA", 354).await?;
        let end = format!("{}.", mail.text);
        let said = within("the mail", MAIL_WITHIN, self.ask("the mail", &end, 250)).await?;
        // It has the mail, whatever becomes of the connection.
        let _ = timeout(QUIT_WITHIN, self.ask("QUIT", "QUIT", 221)).await;
        Ok(said.join(" "))
    }

    /// Names who gets it. One that is refused keeps it from nobody else.
    async fn recipients(&mut self, to: &[String]) -> Result<(), Unmailed> {
        let mut refused = Vec::new();
        for to in to {
            match self.say("RCPT TO", &format!("RCPT TO:<{to}>"), 250).await {
                Ok(_) => {}
                Err(error @ Unmailed::Refused { .. }) => refused.push((to, error)),
                Err(error) => return Err(error),
            }
        }
        if refused.len() < to.len() {
            for (to, error) in refused {
                eprintln!("alerts: mail to {to}: {error}; the others get it");
            }
            return Ok(());
        }
        // If one may be taken later, all of it is tried again.
        refused.sort_by_key(|(_, error)| !error.may_pass());
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn authenticate(&mut self, offers: &[String], user: &str, password: &str) -> Result<(), Unmailed> {
        let offer = offers.iter().find_map(|offer| offer.strip_prefix("AUTH "));
        let offers = |kind: &str| offer.is_some_and(|offer| offer.split(' ').any(|word| word == kind));
        if offers("PLAIN") {
            let secret = STANDARD.encode(format!("\0{user}\0{password}"));
            self.say("AUTH", &format!("AUTH PLAIN {secret}"), 235).await?;
        } else if offers("LOGIN") {
            self.say("AUTH", "AUTH LOGIN", 334).await?;
            self.say("AUTH", &STANDARD.encode(user), 334).await?;
            self.say("AUTH", &STANDARD.encode(password), 235).await?;
        } else {
            return Err(Unmailed::NoAuth);
        }
        Ok(())
    }

    /// Says who we are; returns what the server offers, in capitals.
    async fn hello(&mut self, host: &str) -> Result<Vec<String>, Unmailed> {
        let name = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-');
        let host = if !host.is_empty() && host.chars().all(name) {
            host
        } else {
            "localhost"
        };
        let offers = self.say("EHLO", &format!("EHLO {host}"), 250).await?;
        Ok(offers
            .iter()
            .skip(1)
            .map(|offer| offer.to_ascii_uppercase())
            .collect())
    }

    async fn say(&mut self, step: &'static str, line: &str, expected: u16) -> Result<Vec<String>, Unmailed> {
        within(step, STEP_WITHIN, self.ask(step, line, expected)).await
    }

    async fn ask(&mut self, step: &'static str, line: &str, expected: u16) -> Result<Vec<String>, Unmailed> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        self.heard(step, expected).await
    }

    async fn answer(&mut self, step: &'static str, expected: u16) -> Result<Vec<String>, Unmailed> {
        within(step, STEP_WITHIN, self.heard(step, expected)).await
    }

    /// The lines of an answer without their code, which must be this one. A server may say 251 for 250: it sends the mail on.
    async fn heard(&mut self, step: &'static str, expected: u16) -> Result<Vec<String>, Unmailed> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            (&mut self.stream)
                .take(LINE_BYTES)
                .read_until(b'\n', &mut line)
                .await?;
            if line.is_empty() {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let code = line
                .get(..3)
                .and_then(|code| code.parse::<u16>().ok())
                .ok_or(Unmailed::Malformed)?;
            let is_last = line.get(3..4) != Some("-");
            let text = line.get(4..).unwrap_or_default().trim();
            lines.push(text.chars().filter(|char| !char.is_control()).collect::<String>());
            if !is_last && lines.len() < LINES {
                continue;
            }
            if code / 10 == expected / 10 {
                return Ok(lines);
            }
            let mut text = lines.join(" ");
            text.truncate(text.floor_char_boundary(SHOWN));
            return Err(Unmailed::Refused { step, code, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex, split};

    use super::*;

    /// A server that answers each command by its first word (and the recipient), writes down what it hears, and falls silent at "-". After
    /// `STARTTLS` it hears bytes.
    async fn serve(stream: DuplexStream, answers: &[(&str, &str)]) -> Vec<String> {
        let (read, mut write) = split(stream);
        let (mut read, mut heard, mut is_data) = (BufReader::new(read), Vec::new(), false);
        write.write_all(b"220 mail.test\r\n").await.expect("a client");
        loop {
            let mut line = Vec::new();
            if heard.last().is_some_and(|last| last == "STARTTLS") {
                let mut byte = [0];
                let count = read.read(&mut byte).await.unwrap_or(0);
                heard.push(format!("{:?}", &byte[..count]));
                return heard;
            }
            if read.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
                return heard;
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if is_data && line != "." {
                continue;
            }
            is_data = line == "DATA";
            let known = answers.iter().find(|(begin, _)| line.starts_with(begin));
            let answer = match (known, is_data) {
                (Some((_, answer)), _) => *answer,
                (None, true) => "354 go on",
                (None, false) if line == "QUIT" => "221 bye",
                (None, false) => "250 fine",
            };
            heard.push(line);
            if answer != "-" {
                let _ = write.write_all(format!("{answer}\r\n").as_bytes()).await;
            }
        }
    }

    async fn talk(
        url: &str,
        is_near: bool,
        answers: &[(&str, &str)],
    ) -> (Result<String, Unmailed>, Vec<String>) {
        let (ours, theirs) = duplex(64 * 1024);
        let server = SmtpServer::parse(url).expect("an address");
        let to = ["a@x.test".to_owned(), "b@x.test".to_owned()];
        let mail = Mail {
            from: "rpm@x.test",
            to: &to,
            text: "Subject: x\r\n\r\nx\r\n",
            host: "h",
        };
        tokio::join!(
            async { deliver(&server, &mail, ours, is_near).await },
            serve(theirs, answers)
        )
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_keeps_it_from_nobody_else() {
        let gone = "550 no such mailbox";
        for (answers, expected) in [
            (&[][..], None),
            (&[("RCPT TO:<a@", gone)][..], None),
            (&[("RCPT TO:<b@", gone)], None),
            (&[("RCPT", gone)], Some(false)),
            (&[("RCPT TO:<a@", gone), ("RCPT TO:<b@", "450 later")], Some(true)),
        ] {
            let (sent, heard) = talk("smtp://mail.test", true, answers).await;
            let refused = sent.err().map(|error| error.may_pass());
            assert_eq!(refused, expected, "{answers:?}: {heard:?}");
            assert_eq!(
                heard.contains(&"DATA".to_owned()),
                expected.is_none(),
                "{heard:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mail_that_was_taken_is_not_sent_again() {
        let begun = tokio::time::Instant::now();
        let (sent, _) = talk("smtp://mail.test", true, &[("QUIT", "-")]).await;
        assert_eq!(sent.expect("it has it"), "fine");
        assert_eq!(begun.elapsed(), QUIT_WITHIN);
        // One that takes its time with the mail gets it; with the rest there is less.
        for (silent, seconds) in [(".", 600), ("MAIL", 30), ("EHLO", 30)] {
            let begun = tokio::time::Instant::now();
            let (sent, _) = talk("smtp://mail.test", true, &[(silent, "-")]).await;
            assert!(matches!(sent, Err(Unmailed::Late { .. })), "{silent}: {sent:?}");
            assert_eq!(begun.elapsed().as_secs(), seconds, "{silent}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_machine_hears_no_password_in_clear_text() {
        let plain = [
            ("EHLO", "250-mail.test\r\n250 AUTH PLAIN"),
            ("AUTH", "235 welcome"),
        ];
        let offers = [
            ("EHLO", "250-mail.test\r\n250-AUTH PLAIN\r\n250 starttls"),
            ("STARTTLS", "220 go on"),
        ];
        let url = "smtp://a:s3cret@mail.test";
        let (sent, heard) = talk(url, false, &plain).await;
        assert!(matches!(sent, Err(Unmailed::NoTls)), "{sent:?}");
        assert_eq!(heard, ["EHLO h"]);
        let (sent, heard) = talk(url, true, &plain).await;
        assert!(
            sent.is_ok() && heard.contains(&"AUTH PLAIN AGEAczNjcmV0".to_owned()),
            "{heard:?}"
        );
        let (sent, heard) = talk("smtp://mail.test", false, &plain).await;
        assert!(sent.is_ok() && heard.contains(&"DATA".to_owned()), "{heard:?}");
        // A handshake begins with 22 (RFC 8446 5.1).
        let (sent, heard) = talk(url, false, &offers).await;
        assert!(sent.is_err());
        assert_eq!(heard, ["EHLO h", "STARTTLS", "[22]"]);
    }
}
