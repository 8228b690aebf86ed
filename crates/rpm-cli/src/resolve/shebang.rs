//! Which interpreter the first line of a script names (`#!`).

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What the kernel reads of a file to find the line (`BINPRM_BUF_SIZE`, Linux 5.1), in bytes.
const READ_LIMIT: u64 = 256;
/// Package managers: Node scripts that start another program. Their sockets are captured as that program's.
const LAUNCHERS: &[&str] = &[
    "npm", "npx", "npm-cli", "npx-cli", "yarn", "yarnpkg", "pnpm", "pnpx", "corepack",
];

/// The interpreter of a script, as its first line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shebang {
    pub(super) program: Program,
    /// Arguments before the script's path.
    pub(super) args: Vec<String>,
}

/// Where the interpreter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Program {
    At(PathBuf),
    /// The first of this name on PATH: the line has `env`.
    OnPath(String),
}

impl Shebang {
    /// That of a file which is run by Node, Bun or Python. `None` for other programs, and for package managers: they are
    /// executed.
    pub(super) fn of(script: &Path) -> Option<Shebang> {
        // Opening a pipe would wait for its writer.
        script.metadata().ok().filter(Metadata::is_file)?;
        let mut start = Vec::new();
        let file = File::open(script).ok()?;
        file.take(READ_LIMIT).read_to_end(&mut start).ok()?;
        let shebang = parse(&start)?;
        let is_launcher = |path: &Path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            stem.is_some_and(|stem| LAUNCHERS.contains(&stem))
        };
        let real = script.canonicalize().ok()?;
        (!is_launcher(script) && !is_launcher(&real)).then_some(shebang)
    }
}

fn parse(start: &[u8]) -> Option<Shebang> {
    let line = start.strip_prefix(b"#!")?;
    // The kernel decides about longer lines.
    let end = line.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&line[..end]).ok()?.trim();
    // The kernel passes what follows the program as one argument.
    let (path, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let (path, rest) = (Path::new(path), rest.trim());
    let name = path.file_name()?.to_str()?;
    if !path.is_absolute() {
        return None;
    }
    if name == "env" {
        return by_env(rest);
    }
    is_known(name).then(|| Shebang {
        program: Program::At(path.to_owned()),
        args: (!rest.is_empty()).then(|| rest.to_owned()).into_iter().collect(),
    })
}

/// `env NAME`, or `env -S NAME ARGUMENTS`. With other options, variables or quotes it is left to env itself.
fn by_env(rest: &str) -> Option<Shebang> {
    let mut words = match rest.strip_prefix("-S") {
        Some(split) if !split.contains(['"', '\'', '\\', '$', '#']) => split.split_whitespace(),
        Some(_) => return None,
        None if rest.contains(char::is_whitespace) => return None,
        None => rest.split_whitespace(),
    };
    let name = words.next().filter(|name| is_known(name))?;
    Some(Shebang {
        program: Program::OnPath(name.to_owned()),
        args: words.map(str::to_owned).collect(),
    })
}

/// Interpreters that a script's extension names, too.
fn is_known(name: &str) -> bool {
    let is_version = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || c == '.');
    matches!(name, "node" | "nodejs" | "bun") || name.strip_prefix("python").is_some_and(is_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        let at = |path: &str| Program::At(path.into());
        let on_path = |name: &str| Program::OnPath(name.to_owned());
        for (line, expected) in [
            ("#!/usr/bin/env node", Some((on_path("node"), vec![]))),
            ("#! /usr/bin/env  node \r", Some((on_path("node"), vec![]))),
            ("#!/bin/env\tbun", Some((on_path("bun"), vec![]))),
            ("#!/usr/bin/env python3.11", Some((on_path("python3.11"), vec![]))),
            (
                "#!/usr/bin/env -S node --no-warnings  --stack-size=500",
                Some((on_path("node"), vec!["--no-warnings", "--stack-size=500"])),
            ),
            ("#!/usr/bin/node", Some((at("/usr/bin/node"), vec![]))),
            ("#!/usr/bin/nodejs", Some((at("/usr/bin/nodejs"), vec![]))),
            // One argument, as the kernel has it.
            (
                "#!/opt/n/bin/node --a --b",
                Some((at("/opt/n/bin/node"), vec!["--a --b"])),
            ),
            (
                "#!/srv/venv/bin/python",
                Some((at("/srv/venv/bin/python"), vec![])),
            ),
            // Not ours to understand, or of no meaning here: executed.
            ("#!/usr/bin/env node --no-warnings", None),
            ("#!/usr/bin/env -i node", None),
            ("#!/usr/bin/env COLOR=1 node", None),
            ("#!/usr/bin/env -S node --title='a b'", None),
            ("#!/usr/bin/env -S", None),
            ("#!/usr/bin/env", None),
            ("#!/usr/bin/env deno", None),
            ("#!/usr/bin/env nodemon", None),
            ("#!/bin/sh", None),
            ("#!/usr/bin/pythonw", None),
            ("#!node", None),
            ("#!", None),
            ("", None),
            ("// #!/usr/bin/env node", None),
            ("\x7fELF", None),
        ] {
            let expected = expected.map(|(program, args)| Shebang {
                program,
                args: args.into_iter().map(str::to_owned).collect(),
            });
            assert_eq!(
                parse(format!("{line}\nconsole.log(1)\n").as_bytes()),
                expected,
                "{line}"
            );
        }
        assert_eq!(parse(b"#!/usr/bin/env node"), None, "no end of the line");
        assert_eq!(parse(b"#!/usr/bin/\xff\n"), None);
    }
}
