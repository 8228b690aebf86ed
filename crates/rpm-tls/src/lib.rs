//! The server's side of TLS, for the proxy and for what `rpm observe` serves: chooses the certificate by the name that a client asks for, may
//! demand a certificate of the client, and reads the files again when they change.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DEFAULT_VERSIONS, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

/// Time between two checks of the files, in milliseconds. They are checked only when a client connects.
const CHECK_INTERVAL_MS: u64 = 1000;

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate and its intermediates, in PEM.
    pub chain: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// A certificate that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadCertificate {
    /// One of its files cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The files can be used, and TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Setup(rustls::Error),
}

/// Checks that the files can be used.
///
/// # Errors
/// One of them cannot be read, is not PEM, or the key does not belong to the certificate.
pub fn check(certificates: &[Certificate]) -> Result<(), BadCertificate> {
    keys(certificates).map(drop)
}

/// What a server presents and demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its certificates; the first is for names that none of them has.
    pub certificates: Vec<Certificate>,
    /// The authorities, in PEM, one of which has signed the certificate of each client. `None`: clients need none.
    pub client_ca: Option<PathBuf>,
    /// The protocols that it speaks, the preferred one first (ALPN).
    pub protocols: &'static [&'static [u8]],
}

/// What became of files that have changed.
#[derive(Debug)]
pub enum Reloaded {
    /// They are in use.
    Replaced,
    /// They cannot be used; the old ones stay in use.
    Kept(BadCertificate),
}

/// Accepts TLS connections.
pub struct Tls {
    terms: Terms,
    /// Gets what is worth a line in a log.
    report: fn(&Reloaded),
    config: ArcSwap<ServerConfig>,
    loaded_at: Instant,
    /// When the files are checked next, in milliseconds since `loaded_at`.
    check_at_ms: AtomicU64,
    seen: Mutex<Seen>,
}

/// The files when they were last checked.
struct Seen {
    /// The files of the certificates in use.
    used: Stamps,
    /// The files that could not be used, and the reason, so that it is logged once.
    failed: Option<(Stamps, BadCertificate)>,
}

/// For each file, what differs when it was replaced or written; `None` if it cannot be found.
type Stamps = Vec<Option<Stamp>>;

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn load(terms: Terms, report: fn(&Reloaded)) -> Result<Tls, BadCertificate> {
        // Before they are read: what changes meanwhile is found by the first check.
        let used = stamps(&terms);
        Ok(Tls {
            config: ArcSwap::new(Arc::new(config(&terms)?)),
            terms,
            report,
            loaded_at: Instant::now(),
            check_at_ms: AtomicU64::new(CHECK_INTERVAL_MS),
            seen: Mutex::new(Seen { used, failed: None }),
        })
    }

    /// The certificates that it presents.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.terms.certificates
    }

    /// Accepts one client, with the current certificates.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.reload(Instant::now());
        TlsAcceptor::from(self.config.load_full())
    }

    /// Reads the files again if they have changed. The old certificates stay in use if that fails: a file may be half written. It is tried
    /// again at the next check, because the cause may be gone without a change of the files (file descriptors, permissions).
    fn reload(&self, now: Instant) {
        if !self.takes_check(now) {
            return;
        }
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread's check takes longer than the interval. No client waits for it.
            Err(TryLockError::WouldBlock) => return,
        };
        let stamps = stamps(&self.terms);
        if stamps == seen.used {
            seen.failed = None;
            return;
        }
        match config(&self.terms) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                *seen = Seen {
                    used: stamps,
                    failed: None,
                };
                (self.report)(&Reloaded::Replaced);
            }
            Err(error) => {
                if seen.is_new_failure(stamps, &error) {
                    (self.report)(&Reloaded::Kept(error));
                }
            }
        }
    }

    /// The files are due for a check, and no other thread has taken it.
    fn takes_check(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.loaded_at).as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let due = self.check_at_ms.load(Ordering::Relaxed);
        let next = now.saturating_add(CHECK_INTERVAL_MS);
        let take = || {
            self.check_at_ms
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        now >= due && take().is_ok()
    }
}

impl Seen {
    /// Notes a failure. `true`: it is not the one before.
    fn is_new_failure(&mut self, stamps: Stamps, error: &BadCertificate) -> bool {
        let known = self.failed.as_ref();
        let is_new = known.is_none_or(|(before, why)| *before != stamps || why != error);
        self.failed = Some((stamps, error.clone()));
        is_new
    }
}

fn stamps(terms: &Terms) -> Stamps {
    let files = terms.certificates.iter().flat_map(|one| [&one.chain, &one.key]);
    let stamp = |file: &PathBuf| {
        let meta = file.metadata().ok()?;
        Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: meta.modified().ok(),
        })
    };
    files.chain(&terms.client_ca).map(stamp).collect()
}

fn config(terms: &Terms) -> Result<ServerConfig, BadCertificate> {
    let named = Named(keys(&terms.certificates)?);
    let clients = match &terms.client_ca {
        Some(file) => verifier(file)?,
        None => Arc::new(NoClientAuth),
    };
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(DEFAULT_VERSIONS);
    let mut config = config
        .map_err(BadCertificate::Setup)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(named));
    config.alpn_protocols = terms.protocols.iter().map(|name| name.to_vec()).collect();
    config.ticketer = ring::Ticketer::new().map_err(BadCertificate::Setup)?;
    Ok(config)
}

/// Checks the certificates of clients against the authorities in this file.
fn verifier(file: &Path) -> Result<Arc<dyn ClientCertVerifier>, BadCertificate> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(file)? {
        let added = roots.add(authority);
        added.map_err(|error| {
            bad(
                file,
                format!("contains a certificate that cannot be an authority ({error})"),
            )
        })?;
    }
    let provider = Arc::new(ring::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    match built {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(bad(file, error.to_string())),
    }
}

fn keys(certificates: &[Certificate]) -> Result<Vec<Arc<CertifiedKey>>, BadCertificate> {
    certificates.iter().map(|one| key(one).map(Arc::new)).collect()
}

/// The certificates in a file, at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, BadCertificate> {
    is_regular(file)?;
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| bad(file, format!("cannot read a certificate ({error})")))?;
    match read.is_empty() {
        true => Err(bad(file, "contains no certificate; it must be PEM".to_owned())),
        false => Ok(read),
    }
}

/// Reading a pipe would block.
fn is_regular(file: &Path) -> Result<(), BadCertificate> {
    match file.metadata().is_ok_and(|meta| !meta.is_file()) {
        true => Err(bad(file, "not a regular file".to_owned())),
        false => Ok(()),
    }
}

fn bad(path: &Path, why: String) -> BadCertificate {
    BadCertificate::File {
        path: path.to_owned(),
        why,
    }
}

fn key(certificate: &Certificate) -> Result<CertifiedKey, BadCertificate> {
    let Certificate { chain, key } = certificate;
    is_regular(key)?;
    let certificates = certificates(chain)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| bad(key, format!("cannot read a private key ({error})")))?;
    let provider = ring::default_provider();
    CertifiedKey::from_der(certificates, private, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => bad(
            key,
            format!("not the key of the certificate in {}", chain.display()),
        ),
        other => bad(key, other.to_string()),
    })
}

/// The names of hosts that the first certificate in a file is for, without those that stand for many.
///
/// # Errors
/// The file has no certificate that can be read.
pub fn names(chain: &Path) -> Result<Vec<String>, BadCertificate> {
    let chain = certificates(chain)?;
    let first = chain.first().and_then(|it| EndEntityCert::try_from(it).ok());
    let names = first.iter().flat_map(|it| it.valid_dns_names());
    Ok(names
        .filter(|name| !name.contains('*'))
        .map(str::to_owned)
        .collect())
}

/// Chooses by the name that the client asks for. If none matches, the first is used.
#[derive(Debug)]
struct Named(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Named {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let has = |key: &&Arc<CertifiedKey>| name.as_ref().is_some_and(|name| is_for(key, name));
        self.0.iter().find(has).or(self.0.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = key.cert.first().and_then(|it| EndEntityCert::try_from(it).ok());
    certificate.is_some_and(|it| it.verify_is_valid_for_subject_name(name).is_ok())
}

#[cfg(test)]
mod tests;
