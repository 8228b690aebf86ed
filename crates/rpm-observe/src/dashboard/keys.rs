//! Who may use the dashboard: links that open it once, and the sessions that come of them and of passwords.
//!
//! Each is a file of the daemon's user in `$RPM_HOME/dashboard`, named after the hash of its secret. So whoever can read the files cannot use
//! them, a session outlives the process that serves it, and to end one is to delete a file.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::users::{Known, Users};

/// A link that nobody has opened after this time, in milliseconds, opens nothing.
pub const LINK_MS: u64 = 5 * 60_000;
/// A session ends after this time, in milliseconds.
pub(super) const SESSION_MS: u64 = 7 * 86_400_000;
/// More links and sessions than these are not kept: the oldest end.
const MOST: usize = 100;
/// Sessions of one user.
const MOST_OF_ONE: usize = 10;
/// Bytes of a secret.
const SECRET: usize = 32;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and act.
    Operator,
}

/// What a file says.
#[derive(Debug, Serialize, Deserialize)]
struct Grant {
    role: Role,
    until_ms: u64,
    /// Hash of the second secret of a session.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
    /// Who opened the session with a password. What they may do is looked up each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Holder>,
}

/// A user's session, which ends when the user is removed or gets another password.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    name: String,
    proof: String,
}

/// The two secrets of a session. The browser sends the first to every port of this machine, so that another server here could learn it;
/// the second is kept by the page, and no other page can read it. A request needs both.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) cookie: String,
    pub(super) key: String,
    pub(super) role: Role,
}

/// The files.
#[derive(Clone, Debug)]
pub struct Keys {
    home: PathBuf,
    directory: PathBuf,
}

impl Keys {
    /// Those of a daemon, whose `RPM_HOME` this is.
    #[must_use]
    pub fn new(home: &Path) -> Keys {
        Keys {
            home: home.to_owned(),
            directory: home.join("dashboard"),
        }
    }

    /// Makes a link: the secret that opens the dashboard once, within [`LINK_MS`].
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn link(&self, role: Role, now_ms: u64) -> io::Result<String> {
        self.tidy(now_ms)?;
        let secret = secret()?;
        let grant = Grant {
            role,
            until_ms: now_ms + LINK_MS,
            key: String::new(),
            user: None,
        };
        self.store("link", &secret, &grant)?;
        Ok(secret)
    }

    /// Ends all sessions, and takes back all links. Returns how many there were.
    ///
    /// # Errors
    /// A file cannot be deleted.
    pub fn end_all(&self) -> io::Result<usize> {
        let files = self.files()?;
        files.iter().try_for_each(|(file, _)| delete(file).map(drop))?;
        Ok(files.len())
    }

    /// Opens a session by a link, which opens nothing after this.
    pub(super) fn open(&self, link: &str, now_ms: u64) -> io::Result<Option<Opened>> {
        let Some(grant) = self.grant("link", link, now_ms) else {
            return Ok(None);
        };
        // Of two that come at the same time one deletes it.
        if !delete(&self.file("link", link))? {
            return Ok(None);
        }
        self.session(grant.role, None, now_ms).map(Some)
    }

    /// Opens a session of somebody whose password was right.
    pub(super) fn admit(&self, known: Known, now_ms: u64) -> io::Result<Opened> {
        self.tidy(now_ms)?;
        self.bound(&known.name)?;
        let holder = Holder {
            name: known.name,
            proof: known.proof,
        };
        self.session(known.role, Some(holder), now_ms)
    }

    fn session(&self, role: Role, user: Option<Holder>, now_ms: u64) -> io::Result<Opened> {
        let opened = Opened {
            cookie: secret()?,
            key: secret()?,
            role,
        };
        let grant = Grant {
            role,
            until_ms: now_ms + SESSION_MS,
            key: hash(&opened.key),
            user,
        };
        self.store("session", &opened.cookie, &grant)?;
        Ok(opened)
    }

    /// What the holder of these secrets may do.
    pub(super) fn role(&self, cookie: &str, key: &str, now_ms: u64) -> Option<Role> {
        let grant = self.grant("session", cookie, now_ms)?;
        // Hashes are compared, so that how long it takes says nothing of the secret.
        if grant.key != hash(key) {
            return None;
        }
        match grant.user {
            None => Some(grant.role),
            Some(user) => Users::read(&self.home).ok()?.role(&user.name, &user.proof),
        }
    }

    /// The user whose session this is; `None` if a link opened it.
    pub(super) fn user(&self, cookie: &str) -> Option<String> {
        read(&self.file("session", cookie))?
            .user
            .map(|holder| holder.name)
    }

    /// Ends a session.
    pub(super) fn end(&self, cookie: &str) -> io::Result<()> {
        delete(&self.file("session", cookie)).map(drop)
    }

    fn file(&self, kind: &str, secret: &str) -> PathBuf {
        self.directory.join(format!("{kind}-{}", hash(secret)))
    }

    fn grant(&self, kind: &str, secret: &str, now_ms: u64) -> Option<Grant> {
        read(&self.file(kind, secret)).filter(|grant| grant.until_ms > now_ms)
    }

    fn store(&self, kind: &str, secret: &str, grant: &Grant) -> io::Result<()> {
        let made = DirBuilder::new().mode(0o700).create(&self.directory);
        made.or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.file(kind, secret))?;
        file.write_all(serde_json::to_string(grant)?.as_bytes())
    }

    /// Deletes the oldest sessions of a user who has many, so that nobody drives out the others by signing in again and again.
    fn bound(&self, user: &str) -> io::Result<()> {
        let ours = |grant: &Grant| grant.user.as_ref().is_some_and(|holder| holder.name == user);
        let files = self.files()?.into_iter();
        let mut own: Vec<_> = files
            .filter(|(file, _)| read(file).is_some_and(|grant| ours(&grant)))
            .collect();
        own.sort_by_key(|(_, until)| *until);
        let many = (own.len() + 1).saturating_sub(MOST_OF_ONE);
        own.iter()
            .take(many)
            .try_for_each(|(file, _)| delete(file).map(drop))
    }

    /// Deletes what is over, and the oldest of too many.
    fn tidy(&self, now_ms: u64) -> io::Result<()> {
        let (mut kept, over): (Vec<_>, Vec<_>) =
            self.files()?.into_iter().partition(|(_, until)| *until > now_ms);
        kept.sort_by_key(|(_, until)| *until);
        let many = (kept.len() + 1).saturating_sub(MOST);
        let many = kept.into_iter().take(many);
        over.into_iter()
            .chain(many)
            .try_for_each(|(file, _)| delete(&file).map(drop))
    }

    /// All files, each with when it ends; 0: it cannot be read.
    fn files(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let ends = |entry: io::Result<fs::DirEntry>| {
            let file = entry?.path();
            let until = read(&file).map_or(0, |grant| grant.until_ms);
            Ok((file, until))
        };
        entries.map(ends).collect()
    }
}

fn read(file: &Path) -> Option<Grant> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// False if there is no such file.
fn delete(file: &Path) -> io::Result<bool> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn secret() -> io::Result<String> {
    let mut bytes = [0; SECRET];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(hex(&bytes))
}

pub(super) fn hash(secret: &str) -> String {
    hex(digest(&SHA256, secret.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: u64 = 1_764_000_000_000;

    fn keys(name: &str) -> Keys {
        let home = std::env::temp_dir().join(format!("rpm-keys-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir(&home).expect("a directory");
        Keys::new(&home)
    }

    #[test]
    fn a_link_opens_one_session_in_its_time() {
        let keys = keys("link");
        let late = keys.link(Role::Operator, NOW).expect("stored");
        assert!(keys.open(&late, NOW + LINK_MS).expect("read").is_none());
        let link = keys.link(Role::Viewer, NOW).expect("stored");
        assert!(keys.open("", NOW).expect("read").is_none());
        let opened = keys.open(&link, NOW + 1).expect("read").expect("it is good");
        assert_eq!(opened.role, Role::Viewer);
        assert!(keys.open(&link, NOW + 1).expect("read").is_none(), "twice");

        let role = |cookie: &str, key: &str, now| keys.role(cookie, key, now);
        let (cookie, key) = (&opened.cookie, &opened.key);
        assert_eq!(role(cookie, key, NOW + 2), Some(Role::Viewer));
        assert_eq!(role(cookie, "", NOW + 2), None);
        assert_eq!(role(cookie, cookie, NOW + 2), None);
        assert_eq!(role(key, key, NOW + 2), None);
        assert_eq!(role(cookie, key, NOW + 1 + SESSION_MS), None);
        keys.end(cookie).expect("deleted");
        assert_eq!(role(cookie, key, NOW + 2), None);
    }

    #[test]
    fn a_session_ends_with_the_password_that_opened_it() {
        let keys = keys("password");
        let add = |role| Users::add(&keys.home, "alice", role, "correct horse").expect("written");
        add(Role::Operator);
        let known = || {
            Users::read(&keys.home)
                .expect("right")
                .verify("alice", "correct horse")
        };
        let opened = keys.admit(known().expect("right"), NOW).expect("stored");
        let role = || keys.role(&opened.cookie, &opened.key, NOW + 1);
        assert_eq!(role(), Some(Role::Operator));
        assert_eq!(keys.role(&opened.cookie, &opened.cookie, NOW + 1), None);
        add(Role::Viewer);
        assert_eq!(role(), None);
        let opened = keys.admit(known().expect("right"), NOW).expect("stored");
        let role = || keys.role(&opened.cookie, &opened.key, NOW + 1);
        assert_eq!(role(), Some(Role::Viewer));
        Users::remove(&keys.home, "alice").expect("written");
        assert_eq!(role(), None);
    }

    #[test]
    fn the_eleventh_session_of_a_user_ends_the_oldest() {
        let keys = keys("eleven");
        let admit = |name: &str, at| {
            let known = Known {
                name: name.to_owned(),
                role: Role::Viewer,
                proof: String::new(),
            };
            keys.admit(known, NOW + at).expect("stored").cookie
        };
        let other = admit("bob", 0);
        let link = keys.link(Role::Operator, NOW).expect("stored");
        let by_link = keys.open(&link, NOW).expect("read").expect("it is good");
        // The one that ends first is the one that began first, whatever the names of the files.
        let cookies: Vec<String> = (1..=12).map(|at| admit("alice", at)).collect();
        let left: Vec<bool> = cookies
            .iter()
            .map(|cookie| keys.user(cookie).as_deref() == Some("alice"))
            .collect();
        assert_eq!(left, [[false; 2].as_slice(), &[true; 10]].concat());
        assert_eq!(keys.user(&other).as_deref(), Some("bob"));
        let role = keys.role(&by_link.cookie, &by_link.key, NOW + 20);
        assert_eq!(role, Some(Role::Operator));
    }

    #[test]
    fn files_are_private_bounded_and_name_no_secret() {
        let keys = keys("files");
        let secrets: Vec<String> = (0..MOST as u64 + 20)
            .map(|at| keys.link(Role::Operator, NOW + at).expect("stored"))
            .collect();
        let files = keys.files().expect("listed");
        assert_eq!(files.len(), MOST);
        for (file, _) in &files {
            let mode = fs::metadata(file).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let text = fs::read_to_string(file).expect("read") + &file.display().to_string();
            assert!(secrets.iter().all(|secret| !text.contains(secret)));
        }
        assert!(
            keys.open(&secrets[0], NOW + 200).expect("read").is_none(),
            "the oldest"
        );
        assert_eq!(keys.end_all().expect("deleted"), MOST);
        assert!(keys.open(&secrets[MOST + 19], NOW + 200).expect("read").is_none());
        let mode = fs::metadata(&keys.directory).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
