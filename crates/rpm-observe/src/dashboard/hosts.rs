//! Other machines whose apps the overview shows: their `rpm observe` is asked for frames, each with a token of its own.
//!
//! A token is sent to no other address than the one that it was given for: over TLS whose certificate is checked (or to this machine), and
//! redirects are not followed. What comes back is shown and nothing else.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::streams::{Lines, put};
use crate::daemon::{Stream, Unanswered};
use crate::{files, post};

/// Name of the file in `RPM_HOME`.
const FILE: &str = "dashboard.hosts";
/// Maximum length of that file, and of one with a token.
const MOST: u64 = 64 << 10;
/// More hosts are not asked.
const HOSTS: usize = 50;
/// Maximum length of a name.
const NAME: usize = 64;
/// Time from the name's resolution to the first byte of an answer.
const BEGUN_WITHIN: Duration = Duration::from_secs(10);
/// A host that sends no frame for so long has gone: there is one each second.
const SILENCE: Duration = Duration::from_secs(15);
/// Pauses between attempts: each is twice as long as the one before, up to a bound.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Another machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// What it is called here.
    pub name: String,
    /// Where its `rpm observe` listens, such as `https://10.0.0.2:9209`.
    pub url: String,
    /// The file with its token.
    pub token_file: PathBuf,
    /// The authorities one of which has signed its certificate, instead of those of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
}

/// The other machines.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosts {
    hosts: Vec<Host>,
}

/// Why a host cannot be added, removed or looked up.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The file cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason, with the place if it is not what it should be.
        why: String,
    },
    /// It could not be shown.
    #[error("{0:?} cannot be the name of a host: it has 1 to {NAME} characters that can be seen")]
    Name(String),
    /// The address is not a good one.
    #[error("{0} cannot be asked: {1}")]
    Url(String, &'static str),
    /// There is none of this name.
    #[error("there is no host {0}")]
    Unknown(String),
    /// There are enough.
    #[error("there are {HOSTS} hosts already")]
    Many,
}

impl Hosts {
    /// Reads the file of a daemon, whose `RPM_HOME` this is; there are none if there is no file.
    ///
    /// # Errors
    /// It cannot be read, or is not what it should be.
    pub fn read(home: &Path) -> Result<Hosts, HostsError> {
        let path = home.join(FILE);
        let failed = |why: String| HostsError::File {
            path: path.clone(),
            why,
        };
        let text = match files::read(&path, MOST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Hosts::default()),
            read => read.map_err(|error| failed(error.to_string()))?,
        };
        let hosts: Hosts =
            serde_json::from_slice(text.as_bytes()).map_err(|error| failed(error.to_string()))?;
        match hosts.hosts.iter().find_map(|host| Place::of(&host.url).err()) {
            Some(error) => Err(failed(error.to_string())),
            None => Ok(hosts),
        }
    }

    /// Adds a host, or replaces the one of its name.
    ///
    /// # Errors
    /// The name or the address is not a good one, or the file is wrong or cannot be written.
    pub fn add(home: &Path, host: Host) -> Result<(), HostsError> {
        let is_seen = host.name.chars().all(|letter| !letter.is_control());
        if host.name.trim().is_empty() || host.name.chars().count() > NAME || !is_seen {
            return Err(HostsError::Name(host.name));
        }
        Place::of(&host.url)?;
        let _held = Hosts::hold(home)?;
        let mut all = Hosts::read(home)?;
        all.hosts.retain(|other| other.name != host.name);
        if all.hosts.len() >= HOSTS {
            return Err(HostsError::Many);
        }
        all.hosts.push(host);
        all.write(home)
    }

    /// Removes a host.
    ///
    /// # Errors
    /// There is none of this name, or the file is wrong or cannot be written.
    pub fn remove(home: &Path, name: &str) -> Result<(), HostsError> {
        let _held = Hosts::hold(home)?;
        let mut all = Hosts::read(home)?;
        let before = all.hosts.len();
        all.hosts.retain(|host| host.name != name);
        match all.hosts.len() < before {
            true => all.write(home),
            false => Err(HostsError::Unknown(name.to_owned())),
        }
    }

    /// So that of two commands at the same time neither undoes the other.
    fn hold(home: &Path) -> Result<File, HostsError> {
        let path = home.join(".dashboard.hosts.lock");
        let held = files::make_directory(home).and_then(|()| files::hold(&path));
        held.map_err(|error| HostsError::File {
            why: error.to_string(),
            path,
        })
    }

    fn write(&self, home: &Path) -> Result<(), HostsError> {
        let path = home.join(FILE);
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        // No more is read.
        let written = match text.len() as u64 <= MOST {
            true => files::write_for_good(&path, &text),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        };
        written.map_err(|error| HostsError::File {
            why: error.to_string(),
            path,
        })
    }
}

/// Where a host is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Name or address, without brackets.
    host: String,
    port: u16,
    /// What the field `Host` says.
    authority: String,
    secure: bool,
}

impl Place {
    fn of(url: &str) -> Result<Place, HostsError> {
        let bad = |why| HostsError::Url(url.to_owned(), why);
        let uri: Uri = url.parse().map_err(|_| bad("it is no address"))?;
        let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad(
                "give scheme, host and port alone, such as https://10.0.0.2:9209",
            ));
        }
        // One that is no number would be left out, and the token go to the usual port.
        let is_port = authority.port_u16().is_some_and(|port| port > 0);
        if authority.as_str() != authority.host() && !is_port {
            return Err(bad("its port must be a number from 1 to 65535"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_near => false,
            Some("http") => {
                return Err(bad(
                    "the token would cross the network in clear text; use https://",
                ));
            }
            _ => return Err(bad("it must begin with https://")),
        };
        Ok(Place {
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            host,
            secure,
        })
    }
}

/// Why a host is not seen.
#[derive(Debug, thiserror::Error)]
enum Unseen {
    #[error("{0}")]
    Url(#[from] HostsError),
    #[error("cannot read {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("{0}")]
    Trust(#[from] post::Unsent),
    #[error("cannot connect: {0}")]
    Unreachable(io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the token cannot be sent: {0}")]
    Token(#[from] hyper::http::Error),
    #[error("it refuses the token")]
    Refused,
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it does not answer")]
    Silent,
    #[error("its answer has ended")]
    Ended,
    #[error("{0}")]
    Cut(#[from] Unanswered),
    #[error("it sends no frames: is it another version?")]
    Strange,
}

/// Passes on the frames of all other machines, as `{"host":…,"url":…,"frame":…}`, until it is dropped.
pub(super) async fn follow(home: PathBuf, pieces: mpsc::Sender<Bytes>) {
    let hosts = match Hosts::read(&home) {
        Ok(hosts) => hosts.hosts,
        Err(error) => {
            let frame = json!({ "up": false, "why": error.to_string() });
            return put(&pieces, &json!({ "host": FILE, "frame": frame })).await;
        }
    };
    let mut each = JoinSet::new();
    for host in hosts.into_iter().take(HOSTS) {
        each.spawn(follow_one(host, pieces.clone()));
    }
    each.join_all().await;
}

async fn follow_one(host: Host, pieces: mpsc::Sender<Bytes>) {
    let [first, last] = PAUSES;
    let mut pause = first;
    loop {
        let why = match frames(&host, &pieces, &mut pause).await {
            Ok(()) => Unseen::Ended,
            Err(why) => why,
        };
        let frame = json!({ "up": false, "why": why.to_string() });
        put(&pieces, &framed(&host, &frame)).await;
        sleep(pause).await;
        pause = last.min(pause * 2);
    }
}

fn framed(host: &Host, frame: &Value) -> Value {
    json!({ "host": host.name, "url": host.url, "frame": frame })
}

/// Passes on the frames of one answer.
async fn frames(host: &Host, pieces: &mpsc::Sender<Bytes>, pause: &mut Duration) -> Result<(), Unseen> {
    let begun = timeout(BEGUN_WITHIN, begin(host)).await;
    let mut lines = Lines::new(begun.map_err(|_| Unseen::Silent)??);
    while let Some(line) = timeout(SILENCE, lines.next())
        .await
        .map_err(|_| Unseen::Silent)??
    {
        let frame: Map<String, Value> = serde_json::from_slice(&line).map_err(|_| Unseen::Strange)?;
        *pause = PAUSES[0];
        put(pieces, &framed(host, &Value::Object(frame))).await;
    }
    Ok(())
}

/// The answer without an end.
async fn begin(host: &Host) -> Result<Stream, Unseen> {
    let place = Place::of(&host.url)?;
    let unread = |path: &Path, why: String| Unseen::File {
        path: path.to_owned(),
        why,
    };
    let token =
        files::read(&host.token_file, MOST).map_err(|error| unread(&host.token_file, error.to_string()))?;
    let stream = post::connect((place.host.as_str(), place.port)).await;
    let (stream, _) = stream.map_err(Unseen::Unreachable)?;
    if !place.secure {
        return ask(stream, &place, token.trim()).await;
    }
    let config = match &host.tls_ca {
        None => post::trust()?,
        Some(file) => trust(file).map_err(|why| unread(file, why))?,
    };
    let name = ServerName::try_from(place.host.clone()).map_err(|_| Unseen::Strange)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    ask(stream.map_err(Unseen::Unreachable)?, &place, token.trim()).await
}

/// TLS that trusts the authorities in this file alone.
fn trust(file: &Path) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let read = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
    let read: Result<Vec<_>, _> = read.collect();
    let (good, _) = roots.add_parsable_certificates(read.map_err(|error| error.to_string())?);
    if good == 0 {
        return Err("it contains no certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

async fn ask<S>(stream: S, place: &Place, token: &str) -> Result<Stream, Unseen>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get("/api/v1/live")
        .header(header::HOST, &place.authority)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    match response.status() {
        StatusCode::OK => Ok(Stream::of(response.into_body(), driver)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Unseen::Refused),
        other => Err(Unseen::Status(other)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn home(name: &str) -> PathBuf {
        let home = std::env::temp_dir().join(format!("rpm-hosts-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir(&home).expect("a directory");
        home
    }

    fn host(name: &str, url: &str, token_file: &Path) -> Host {
        Host {
            name: name.to_owned(),
            url: url.to_owned(),
            token_file: token_file.to_owned(),
            tls_ca: None,
        }
    }

    #[test]
    fn a_token_goes_by_tls_or_stays_on_this_machine() {
        for (url, told) in [
            ("https://10.0.0.2:9209", None),
            ("https://ops.example/", None),
            ("http://127.0.0.1:9209", None),
            ("http://[::1]:9209", None),
            ("http://localhost:1", None),
            ("http://10.0.0.2:9209", Some("clear text")),
            ("http://localhost.evil.example", Some("clear text")),
            ("ftp://a", Some("https://")),
            ("https://u:p@a", Some("alone")),
            ("https://a/metrics", Some("alone")),
            ("https://a?x", Some("alone")),
            ("https://a:99999", Some("its port must be")),
            ("https://a:65536", Some("its port must be")),
            ("https://a:65535", None),
            ("https://a:", Some("its port must be")),
            ("https://a:x", Some("its port must be")),
            ("https://a:-1", Some("its port must be")),
            ("https://a:0", Some("its port must be")),
            ("http://[::1]:99999", Some("its port must be")),
            ("a", Some("https://")),
            ("/a", Some("no host")),
            ("", Some("no address")),
        ] {
            let place = Place::of(url).map_err(|error| error.to_string());
            match told {
                None => assert!(place.is_ok(), "{url}: {place:?}"),
                Some(told) => assert!(
                    place.as_ref().is_err_and(|why| why.contains(told)),
                    "{url}: {place:?}"
                ),
            }
        }
    }

    #[test]
    fn hosts_are_added_and_removed() {
        let home = home("file");
        let token = home.join("token");
        let add = |name: &str, url: &str| Hosts::add(&home, host(name, url, &token));
        add("b", "https://b").expect("written");
        add("a", "https://a").expect("written");
        add("b", "https://c").expect("written");
        let names: Vec<String> = Hosts::read(&home)
            .expect("right")
            .hosts
            .into_iter()
            .map(|host| host.name + &host.url)
            .collect();
        assert_eq!(names, ["ahttps://a", "bhttps://c"]);
        assert!(add("", "https://a").is_err() && add("a\n", "https://a").is_err());
        Hosts::remove(&home, "a").expect("written");
        assert!(matches!(Hosts::remove(&home, "a"), Err(HostsError::Unknown(_))));
        std::fs::write(home.join(FILE), "{\"hosts\": [\n{\"nme\": 1}]}").expect("written");
        let why = Hosts::read(&home).expect_err("wrong").to_string();
        assert!(
            why.contains("dashboard.hosts: ") && why.contains("line 2"),
            "{why}"
        );
        std::fs::remove_dir_all(home).expect("it is ours");
    }

    /// What a page is sent first of a host that answers so, and what that was asked.
    async fn seen(name: &str, answer: &'static str) -> (String, String) {
        let home = home(name);
        let token = home.join("token");
        std::fs::write(&token, "secret-of-this-host\n").expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (pieces, mut sent) = mpsc::channel(16);
        let follow = tokio::spawn(follow_one(host("other", &url, &token), pieces));
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut asked = [0; 1024];
        let count = stream.read(&mut asked).await.expect("a request");
        stream.write_all(answer.as_bytes()).await.expect("it is read");
        drop(stream);
        let first = sent.recv().await.expect("a piece");
        follow.abort();
        std::fs::remove_dir_all(home).expect("it is ours");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&first), text(&asked[..count]))
    }

    #[tokio::test]
    async fn frames_are_passed_on_and_redirects_are_not_followed() {
        let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"up\":true,\"apps\":[]}\n";
        let (piece, asked) = seen("frames", answer).await;
        assert!(asked.starts_with("GET /api/v1/live HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.contains("authorization: Bearer secret-of-this-host\r\n"),
            "{asked}"
        );
        assert!(
            piece.contains(r#""frame":{"apps":[],"up":true},"host":"other""#),
            "{piece}"
        );
        assert!(!piece.contains("secret"), "{piece}");
        let answer = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let (piece, _) = seen("redirect", answer).await;
        assert!(piece.contains("it answered 302"), "{piece}");
        let (piece, _) = seen("strange", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[1]\n").await;
        assert!(piece.contains("it sends no frames"), "{piece}");
        let (piece, _) = seen(
            "refused",
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        assert!(piece.contains("it refuses the token"), "{piece}");
    }
}
