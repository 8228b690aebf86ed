//! The interpreter of an app that is known, when its variables change.

use std::path::{Path, PathBuf};

/// The interpreter as it is found now, if it was found in PATH before: a user who names a path wants that one, but one who names none, or only
/// its name, wants what PATH has. `paths`: PATH as it was, and as it is.
#[must_use]
pub fn found_anew(path: &str, paths: (&str, &str), is_program: impl Fn(&Path) -> bool) -> Option<String> {
    let interpreter = Path::new(path);
    let name = interpreter.file_name().filter(|_| interpreter.is_absolute())?;
    let dirs = |path: &str| -> Vec<PathBuf> {
        let dirs = std::env::split_paths(path).filter(|dir| dir.is_absolute());
        dirs.map(|dir| dir.join(name)).collect()
    };
    let before = dirs(paths.0);
    let was_found = match is_program(interpreter) {
        true => before.iter().find(|path| is_program(path)).map(PathBuf::as_path) == Some(interpreter),
        false => before.iter().any(|path| path == interpreter),
    };
    let now = dirs(paths.1)
        .into_iter()
        .filter(|_| was_found)
        .find(|path| is_program(path))?;
    now.into_os_string().into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_that_was_found_in_path_is_found_there_again() {
        let is_program = |path: &Path| {
            ["/n1/node", "/n2/node", "/usr/bin/node"]
                .iter()
                .any(|it| path == Path::new(it))
        };
        for (interpreter, before, now, found) in [
            // Another version is used.
            ("/n1/node", "/n1:/usr/bin", "/n2:/usr/bin", Some("/n2/node")),
            ("/n1/node", "/empty:/n1", "/n1", Some("/n1/node")),
            // It was uninstalled.
            ("/n0/node", "/n0:/usr/bin", "/n2:/usr/bin", Some("/n2/node")),
            ("/n0/node", "/n0:/usr/bin", "/n0:/usr/bin", Some("/usr/bin/node")),
            ("/n0/node", "/n0", "/n0", None),
            // A user has named it by its path: it is not what PATH had.
            ("/n1/node", "/n2:/n1", "/n2", None),
            ("/opt/node", "/n1", "/n2", None),
            ("node", "/n1", "/n2", None),
            ("/n1/node", "", "/n2", None),
        ] {
            let anew = found_anew(interpreter, (before, now), is_program);
            assert_eq!(anew.as_deref(), found, "{interpreter}: {before}, then {now}");
        }
    }
}
