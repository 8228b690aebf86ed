//! TLS: chooses the certificate by the name that a client asks for, and reads the files again when they change.

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
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DEFAULT_VERSIONS, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};
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

/// Accepts TLS connections.
pub(crate) struct Tls {
    pub(crate) certificates: Vec<Certificate>,
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
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(certificates: &[Certificate]) -> Result<Tls, BadCertificate> {
        // Before they are read: what changes meanwhile is found by the first check.
        let used = stamps(certificates);
        Ok(Tls {
            config: ArcSwap::new(Arc::new(config(certificates)?)),
            certificates: certificates.to_vec(),
            loaded_at: Instant::now(),
            check_at_ms: AtomicU64::new(CHECK_INTERVAL_MS),
            seen: Mutex::new(Seen { used, failed: None }),
        })
    }

    /// Accepts one client, with the current certificates.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
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
        let stamps = stamps(&self.certificates);
        if stamps == seen.used {
            seen.failed = None;
            return;
        }
        match config(&self.certificates) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                *seen = Seen {
                    used: stamps,
                    failed: None,
                };
                info!("certificates replaced");
            }
            Err(error) => {
                if seen.is_new_failure(stamps, &error) {
                    warn!(%error, "cannot use the changed certificates: the old ones stay in use");
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

fn stamps(certificates: &[Certificate]) -> Stamps {
    let files = certificates.iter().flat_map(|one| [&one.chain, &one.key]);
    let stamp = |file: &PathBuf| {
        let meta = file.metadata().ok()?;
        Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: meta.modified().ok(),
        })
    };
    files.map(stamp).collect()
}

fn config(certificates: &[Certificate]) -> Result<ServerConfig, BadCertificate> {
    let named = Named(keys(certificates)?);
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(DEFAULT_VERSIONS);
    let mut config = config
        .map_err(BadCertificate::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(named));
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into();
    config.ticketer = ring::Ticketer::new().map_err(BadCertificate::Setup)?;
    Ok(config)
}

fn keys(certificates: &[Certificate]) -> Result<Vec<Arc<CertifiedKey>>, BadCertificate> {
    certificates.iter().map(|one| key(one).map(Arc::new)).collect()
}

fn key(certificate: &Certificate) -> Result<CertifiedKey, BadCertificate> {
    let bad = |path: &Path, why: String| BadCertificate::File {
        path: path.to_owned(),
        why,
    };
    let Certificate { chain, key } = certificate;
    // Reading a pipe would block.
    if let Some(other) = [chain, key]
        .into_iter()
        .find(|path| path.metadata().is_ok_and(|meta| !meta.is_file()))
    {
        return Err(bad(other, "not a regular file".to_owned()));
    }
    let read = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| bad(chain, format!("cannot read a certificate ({error})")))?;
    if certificates.is_empty() {
        return Err(bad(chain, "contains no certificate; it must be PEM".to_owned()));
    }
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
mod tests {
    use std::fs::{self, File};
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A directory with certificates.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let dir = std::env::temp_dir().join(format!("rpm-tls-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).expect("a directory");
            Place(dir)
        }

        fn files(&self, name: &str) -> Certificate {
            Certificate {
                chain: self.0.join(format!("{name}.crt")),
                key: self.0.join(format!("{name}.key")),
            }
        }

        /// A self-signed certificate.
        fn certificate(&self, name: &str) -> Certificate {
            let files = self.files(name);
            let done = Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ed25519",
                    "-nodes",
                    "-subj",
                    "/CN=a.test",
                ])
                .arg("-out")
                .arg(&files.chain)
                .arg("-keyout")
                .arg(&files.key)
                .output()
                .expect("openssl runs");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            files
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn modified(path: &Path) -> SystemTime {
        path.metadata().and_then(|it| it.modified()).expect("a time")
    }

    fn set_modified(path: &Path, time: SystemTime) {
        let file = File::options().append(true).open(path).expect("it is opened");
        file.set_modified(time).expect("it has a time");
    }

    /// Whether a check so many seconds after loading replaces what is in use.
    fn replaces(tls: &Tls, after: u64) -> bool {
        let before = tls.config.load_full();
        tls.reload(Instant::now() + Duration::from_secs(after));
        !Arc::ptr_eq(&before, &tls.config.load_full())
    }

    #[test]
    fn files_that_could_not_be_used_are_tried_again() {
        let place = Place::new("again");
        let (used, new) = (place.certificate("used"), place.certificate("new"));
        let tls = Tls::load(std::slice::from_ref(&used)).expect("it is loaded");
        assert!(!replaces(&tls, 2), "nothing has changed");
        fs::copy(&new.chain, &used.chain).expect("it is copied");
        let key = fs::read(&new.key).expect("a key");
        fs::write(&used.key, vec![b'x'; key.len()]).expect("it is written");
        let time = modified(&used.key);
        assert!(!replaces(&tls, 4), "the key is unreadable");
        // As with chmod, or when descriptors are free again: nothing that is compared is different.
        fs::write(&used.key, key).expect("it is written");
        set_modified(&used.key, time);
        assert!(replaces(&tls, 6), "the key can be read now");
        assert!(!replaces(&tls, 8), "nothing has changed");
    }

    #[test]
    fn a_failure_is_new_once() {
        let mut seen = Seen {
            used: Vec::new(),
            failed: None,
        };
        let error = |why: &str| BadCertificate::File {
            path: "a.key".into(),
            why: why.to_owned(),
        };
        assert!(seen.is_new_failure(vec![None], &error("not PEM")));
        assert!(!seen.is_new_failure(vec![None], &error("not PEM")));
        assert!(
            seen.is_new_failure(vec![None, None], &error("not PEM")),
            "other files"
        );
        assert!(
            seen.is_new_failure(vec![None, None], &error("denied")),
            "another reason"
        );
        assert!(!seen.is_new_failure(vec![None, None], &error("denied")));
    }

    #[test]
    fn an_error_names_a_file_only_if_it_has_one() {
        let setup = BadCertificate::Setup(rustls::Error::FailedToGetRandomBytes);
        let text = setup.to_string();
        assert!(
            text.starts_with("cannot set up TLS: ") && text.len() > 20,
            "{text}"
        );
    }

    #[test]
    fn a_file_with_the_time_of_the_old_one_is_read() {
        let place = Place::new("time");
        let (used, new) = (place.certificate("used"), place.certificate("new"));
        let tls = Tls::load(std::slice::from_ref(&used)).expect("it is loaded");
        for (from, to) in [(&new.chain, &used.chain), (&new.key, &used.key)] {
            set_modified(from, modified(to));
            fs::rename(from, to).expect("it is renamed");
        }
        assert!(replaces(&tls, 2), "both are other files");
    }

    #[test]
    fn nobody_waits_for_another_thread_that_checks_the_files() {
        let place = Place::new("wait");
        let tls = Tls::load(&[place.certificate("used")]).expect("it is loaded");
        let (sender, accepted) = mpsc::channel();
        thread::scope(|scope| {
            let checking = tls.seen.lock().expect("nobody panicked");
            scope.spawn(|| {
                tls.acceptor();
                tls.reload(Instant::now() + Duration::from_secs(2));
                sender.send(()).expect("it is waited for");
            });
            let accepted = accepted.recv_timeout(Duration::from_secs(10));
            // The thread ends in any case.
            drop(checking);
            accepted.expect("it does not wait");
        });
    }
}
