//! Who may sign in with a password: a file with a line for each user, `NAME:ROLE:HASH`, in which the hash is a PHC string of Argon2.
//!
//! Blank lines and those that begin with `#` are ignored.

use std::io;
use std::path::{Path, PathBuf};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::keys::{Role, hash};
use crate::files;

/// Name of the file in `RPM_HOME`.
const FILE: &str = "dashboard.users";
/// Maximum length of the file.
const MOST: u64 = 1 << 20;
/// A shorter password could be guessed.
const SHORTEST: usize = 10;
/// Maximum length of a password, in bytes.
pub(super) const LONGEST: usize = 1024;
/// Maximum length of a name.
const NAME: usize = 64;
/// Maximum memory of a hash, in KiB. What `rpm dashboard password` writes needs 19 MiB.
const MOST_KIB: u32 = 256 << 10;
/// The most passes: each password is checked with them, right or wrong.
const MOST_PASSES: u32 = 16;

/// Why somebody cannot be added, removed or looked up.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// A line of the file is wrong.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// The reason.
        why: String,
    },
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        error: io::Error,
    },
    /// It could not be written in the file.
    #[error("{0:?} cannot be a user: a name has up to {NAME} letters, digits, `.`, `_`, `-` and `@`")]
    Name(String),
    /// There is none of this name.
    #[error("there is no user {0}")]
    Unknown(String),
    /// It could be guessed, or would take long to look at.
    #[error("a password has {SHORTEST} characters at least, and {LONGEST} bytes at most")]
    Length,
    /// Somebody has pressed an arrow, perhaps.
    #[error("a password has no control characters, as arrow keys make")]
    Control,
    /// No salt, or no memory.
    #[error("cannot hash the password: {0}")]
    Hash(String),
}

/// Somebody who may sign in.
#[derive(Clone, Debug)]
struct User {
    name: String,
    role: Role,
    /// Its PHC string.
    text: String,
    hash: PasswordHash,
}

/// Who may sign in.
#[derive(Clone, Debug, Default)]
pub struct Users(Vec<User>);

/// Somebody whose password was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) role: Role,
    /// What a session of theirs is worth something with: it is another one after the password was changed.
    pub(super) proof: String,
}

impl Users {
    /// Reads the file of a daemon, whose `RPM_HOME` this is; nobody if there is none.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong.
    pub fn read(home: &Path) -> Result<Users, UsersError> {
        let path = home.join(FILE);
        let text = match files::read(&path, MOST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Users::default()),
            Err(error) => return Err(UsersError::File { path, error }),
            Ok(text) => text,
        };
        Users::parse(&text).map_err(|(line, why)| UsersError::Line { path, line, why })
    }

    /// Adds a user, or replaces it.
    ///
    /// # Errors
    /// The name or the password is not a good one, or the file is wrong or cannot be written.
    pub fn add(home: &Path, name: &str, role: Role, password: &str) -> Result<(), UsersError> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        if name.is_empty() || name.len() > NAME || !name.bytes().all(is_good) {
            return Err(UsersError::Name(name.to_owned()));
        }
        if password.chars().count() < SHORTEST || password.len() > LONGEST {
            return Err(UsersError::Length);
        }
        if password.chars().any(char::is_control) {
            return Err(UsersError::Control);
        }
        let hash = hashed(password)?;
        let added = User {
            name: name.to_owned(),
            role,
            text: hash.to_string(),
            hash,
        };
        Users::change(home, |users| {
            users.0.retain(|user| user.name != name);
            users.0.push(added);
            Ok(())
        })
    }

    /// Removes a user.
    ///
    /// # Errors
    /// There is none of this name, or the file is wrong or cannot be written.
    pub fn remove(home: &Path, name: &str) -> Result<(), UsersError> {
        Users::change(home, |users| {
            let before = users.0.len();
            users.0.retain(|user| user.name != name);
            match users.0.len() < before {
                true => Ok(()),
                false => Err(UsersError::Unknown(name.to_owned())),
            }
        })
    }

    /// True if nobody may.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The user with this name and password. It takes as long for a name that nobody has.
    pub(super) fn verify(&self, name: &str, password: &str) -> Option<Known> {
        let named = self.0.iter().find(|user| user.name == name);
        let user = named.or_else(|| self.0.first())?;
        let right = Argon2::default().verify_password(password.as_bytes(), &user.hash);
        (right.is_ok() && named.is_some()).then(|| user.known())
    }

    /// What the user with this name may do, if the password is the one that gave this proof.
    pub(super) fn role(&self, name: &str, proof: &str) -> Option<Role> {
        let user = self.0.iter().find(|user| user.name == name)?;
        (hash(&user.text) == proof).then_some(user.role)
    }

    fn change(
        home: &Path,
        change: impl FnOnce(&mut Users) -> Result<(), UsersError>,
    ) -> Result<(), UsersError> {
        let path = home.join(FILE);
        let failed = |error| UsersError::File {
            path: path.clone(),
            error,
        };
        files::make_directory(home).map_err(failed)?;
        let _held = files::hold(&home.join(".dashboard.users.lock")).map_err(failed)?;
        let mut users = Users::read(home)?;
        change(&mut users)?;
        files::write_for_good(&path, &users.text()).map_err(failed)
    }

    fn text(&self) -> String {
        let line = |user: &User| format!("{}:{}:{}\n", user.name, word(user.role), user.text);
        self.0.iter().map(line).collect()
    }

    /// # Errors
    /// The number of the first wrong line, and the reason.
    fn parse(text: &str) -> Result<Users, (usize, String)> {
        let mut users: Vec<User> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let user = user(line).map_err(|why| (at + 1, why))?;
            if users.iter().any(|other| other.name == user.name) {
                return Err((at + 1, format!("{} is there twice", user.name)));
            }
            users.push(user);
        }
        Ok(Users(users))
    }
}

impl User {
    fn known(&self) -> Known {
        Known {
            name: self.name.clone(),
            role: self.role,
            proof: hash(&self.text),
        }
    }
}

fn user(line: &str) -> Result<User, String> {
    let mut parts = line.splitn(3, ':');
    let (Some(name), Some(role), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("a line is NAME:ROLE:HASH, as `rpm dashboard password` writes it".to_owned());
    };
    let role = [Role::Operator, Role::Viewer]
        .into_iter()
        .find(|known| word(*known) == role)
        .ok_or_else(|| format!("the role must be operator or read-only, not {role:?}"))?;
    let wrong = |error: &dyn std::fmt::Display| format!("the hash is not a PHC string of Argon2: {error}");
    let hash = PasswordHash::new(text).map_err(|error| wrong(&error))?;
    let params = Params::try_from(&hash).map_err(|error| wrong(&error))?;
    if !hash.algorithm.as_str().starts_with("argon2") || hash.hash.is_none() {
        return Err(wrong(&"another algorithm, or no hash"));
    }
    if Algorithm::try_from(hash.algorithm.as_str()).is_err() {
        return Err(wrong(&"it is no kind of Argon2"));
    }
    if params.t_cost() > MOST_PASSES {
        return Err(format!("the hash needs more than {MOST_PASSES} passes"));
    }
    if params.m_cost() > MOST_KIB {
        return Err(format!("the hash needs more than {MOST_KIB} KiB of memory"));
    }
    Ok(User {
        name: name.to_owned(),
        role,
        text: text.to_owned(),
        hash,
    })
}

fn hashed(password: &str) -> Result<PasswordHash, UsersError> {
    let mut salt = [0; 16];
    let filled = SystemRandom::new().fill(&mut salt);
    filled.map_err(|_| UsersError::Hash("the system gives no random numbers".to_owned()))?;
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    hash.map_err(|error| UsersError::Hash(error.to_string()))
}

/// A role, as the file has it.
fn word(role: Role) -> &'static str {
    match role {
        Role::Operator => "operator",
        Role::Viewer => "read-only",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const PASSWORD: &str = "correct horse";

    #[test]
    fn a_password_opens_and_another_does_not() {
        let home = std::env::temp_dir().join(format!("rpm-users-{}", std::process::id()));
        let _ = fs::remove_dir_all(&home);
        let add = |name, role, password| Users::add(&home, name, role, password);
        add("alice", Role::Operator, PASSWORD).expect("it is written");
        add("bob@example.org", Role::Viewer, "battery staple").expect("it is written");
        let users = Users::read(&home).expect("it is right");
        let alice = users.verify("alice", PASSWORD).expect("it is right");
        assert_eq!((alice.name.as_str(), alice.role), ("alice", Role::Operator));
        for (name, password) in [
            ("alice", "battery staple"),
            ("alice", ""),
            // The first user's password is compared where there is no such user.
            ("carol", PASSWORD),
            ("", PASSWORD),
        ] {
            assert_eq!(users.verify(name, password), None, "{name} {password}");
        }
        let file = home.join(FILE);
        let text = fs::read_to_string(&file).expect("it is there");
        assert!(!text.contains(PASSWORD) && text.contains(":operator:$argon2id$v=19$m=19456,t=2,p=1$"));
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        assert_eq!(users.role("alice", &alice.proof), Some(Role::Operator));
        assert_eq!(users.role("bob@example.org", &alice.proof), None);
        add("alice", Role::Viewer, PASSWORD).expect("it is written");
        let changed = Users::read(&home).expect("it is right");
        assert_eq!(
            changed.role("alice", &alice.proof),
            None,
            "the hash is another one"
        );
        assert!(changed.verify("bob@example.org", "battery staple").is_some());
        Users::remove(&home, "alice").expect("it is written");
        assert!(matches!(
            Users::remove(&home, "alice"),
            Err(UsersError::Unknown(_))
        ));
        for (name, password) in [("a:b", PASSWORD), ("", PASSWORD), ("alice", "too short")] {
            assert!(add(name, Role::Viewer, password).is_err(), "{name} {password}");
        }
        fs::remove_dir_all(home).expect("it is ours");
    }

    #[test]
    fn a_wrong_line_is_named() {
        let good = "alice:operator:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let parsed = Users::parse(&format!("# who\n\n{good}\n")).expect("it is right");
        assert!(!parsed.is_empty());
        for (line, told) in [
            ("alice", "a line is NAME:ROLE:HASH"),
            (good, "alice is there twice"),
            (
                &good.replace("operator", "admin"),
                "must be operator or read-only",
            ),
            ("bob:operator:secret", "not a PHC string"),
            (
                "bob:operator:$scrypt$ln=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAA",
                "not a PHC string",
            ),
            (
                &good.replace("alice", "bob").replace("m=8", "m=1048576"),
                "more than",
            ),
        ] {
            let (at, why) = Users::parse(&format!("{good}\n{line}\n")).expect_err(line);
            assert!(at == 2 && why.contains(told), "{line}: {at}: {why}");
        }
    }
}
