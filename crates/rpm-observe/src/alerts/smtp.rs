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

/// Time for a mail, from the name's resolution to the last answer.
const WITHIN: Duration = Duration::from_secs(20);
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
    #[error("not done within {0} s")]
    Late(u64),
}

impl Unmailed {
    /// True if it may go well the next time.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Unmailed::Unreachable(_) | Unmailed::Broken(_) | Unmailed::Late(_) => true,
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
    let sent = timeout(WITHIN, deliver(&server, mail)).await;
    sent.unwrap_or(Err(Unmailed::Late(WITHIN.as_secs())))
}

async fn deliver(server: &SmtpServer, mail: &Mail<'_>) -> Result<String, Unmailed> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    let stream = stream.map_err(Unmailed::Unreachable)?;
    let is_near = stream
        .peer_addr()
        .is_ok_and(|peer: SocketAddr| peer.ip().is_loopback());
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

async fn encrypted(
    server: &SmtpServer,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Unmailed> {
    let name = ServerName::try_from(server.host.clone()).map_err(|_| Unmailed::Address)?;
    let connector = TlsConnector::from(Arc::new(trust()?));
    connector
        .connect(name, stream)
        .await
        .map_err(Unmailed::Unreachable)
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
        for to in mail.to {
            self.say("RCPT TO", &format!("RCPT TO:<{to}>"), 250).await?;
        }
        self.say("DATA", "DATA", 354).await?;
        let said = self.say("the mail", &format!("{}.", mail.text), 250).await?;
        // It has the mail.
        let _ = self.say("QUIT", "QUIT", 221).await;
        Ok(said.join(" "))
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
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        self.answer(step, expected).await
    }

    /// The lines of an answer without their code, which must be this one. A server may say 251 for 250: it sends the mail on.
    async fn answer(&mut self, step: &'static str, expected: u16) -> Result<Vec<String>, Unmailed> {
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
