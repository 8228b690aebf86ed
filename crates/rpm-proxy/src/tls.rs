//! TLS: chooses the certificate by the name that a client asks for, and reads the files again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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

/// Time between two checks of the files. They are checked only when a client connects.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate and its intermediates, in PEM.
    pub chain: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct BadCertificate {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
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
    seen: Mutex<Seen>,
}

struct Seen {
    at: Instant,
    stamps: Vec<Option<SystemTime>>,
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
        let stamps = stamps(certificates);
        Ok(Tls {
            config: ArcSwap::new(Arc::new(config(certificates)?)),
            certificates: certificates.to_vec(),
            seen: Mutex::new(Seen {
                at: Instant::now(),
                stamps,
            }),
        })
    }

    /// Accepts one client, with the current certificates.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.reload();
        TlsAcceptor::from(self.config.load_full())
    }

    /// Reads the files again if they have changed. The old certificates stay in use if that fails: a file may be half written.
    fn reload(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.at.elapsed() < CHECK_INTERVAL {
            return;
        }
        seen.at = Instant::now();
        let stamps = stamps(&self.certificates);
        if stamps == seen.stamps {
            return;
        }
        match config(&self.certificates) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                info!("certificates replaced");
            }
            Err(error) => {
                warn!(%error, "cannot use the changed certificates: the old ones stay in use");
            }
        }
        seen.stamps = stamps;
    }
}

fn stamps(certificates: &[Certificate]) -> Vec<Option<SystemTime>> {
    let files = certificates.iter().flat_map(|one| [&one.chain, &one.key]);
    files
        .map(|file| file.metadata().and_then(|it| it.modified()).ok())
        .collect()
}

fn config(certificates: &[Certificate]) -> Result<ServerConfig, BadCertificate> {
    let named = Named(keys(certificates)?);
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(DEFAULT_VERSIONS);
    let internal = |error: &dyn fmt::Display| BadCertificate {
        path: PathBuf::new(),
        why: error.to_string(),
    };
    let mut config = config
        .map_err(|error| internal(&error))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(named));
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into();
    config.ticketer = ring::Ticketer::new().map_err(|error| internal(&error))?;
    Ok(config)
}

fn keys(certificates: &[Certificate]) -> Result<Vec<Arc<CertifiedKey>>, BadCertificate> {
    certificates.iter().map(|one| key(one).map(Arc::new)).collect()
}

fn key(certificate: &Certificate) -> Result<CertifiedKey, BadCertificate> {
    let bad = |path: &Path, why: String| BadCertificate {
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
