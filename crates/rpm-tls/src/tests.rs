//! Files that change, or cannot be used.

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
                "-addext",
                "subjectAltName=DNS:*.a.test,DNS:a.test",
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

fn load(certificate: &Certificate) -> Result<Tls, BadCertificate> {
    let terms = Terms {
        certificates: vec![certificate.clone()],
        client_ca: None,
        protocols: &[],
    };
    Tls::load(terms, |_| ())
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
    let tls = load(&used).expect("it is loaded");
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
fn authorities_of_clients_are_read_and_read_again() {
    let place = Place::new("authorities");
    let (own, ca, other) = (
        place.certificate("own"),
        place.certificate("ca"),
        place.certificate("other"),
    );
    let terms = |file: &Path| Terms {
        certificates: vec![own.clone()],
        client_ca: Some(file.to_owned()),
        protocols: &[],
    };
    let tls = Tls::load(terms(&ca.chain), |_| ()).expect("it is loaded");
    fs::copy(&other.chain, &ca.chain).expect("it is copied");
    assert!(replaces(&tls, 2), "it is another authority");
    let error = Tls::load(terms(&ca.key), |_| ()).expect_err("it has no certificate");
    let expected = format!("{}: contains no certificate; it must be PEM", ca.key.display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(names(&own.chain), Ok(vec!["a.test".to_owned()]));
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
    let tls = load(&used).expect("it is loaded");
    for (from, to) in [(&new.chain, &used.chain), (&new.key, &used.key)] {
        set_modified(from, modified(to));
        fs::rename(from, to).expect("it is renamed");
    }
    assert!(replaces(&tls, 2), "both are other files");
}

#[test]
fn nobody_waits_for_another_thread_that_checks_the_files() {
    let place = Place::new("wait");
    let tls = load(&place.certificate("used")).expect("it is loaded");
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
