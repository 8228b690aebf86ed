//! `link`: another name for this program, in the directory in which it was found.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::args::LinkArgs;
use crate::hints::command;
use crate::output::Output;

/// Makes a symbolic link beside this program, unless another one would be shadowed, or would shadow it.
pub(super) fn link(args: &LinkArgs, output: &mut Output) -> anyhow::Result<()> {
    let name = args.name.as_str();
    let own = called()?;
    let place = own.with_file_name(name);
    let target = own.file_name().context("this program has no name")?;
    let there = Some(place.clone()).filter(|place| fs::symlink_metadata(place).is_ok());
    if let Some(other) = found(name).or(there) {
        if is_same(&other, &own) {
            return Ok(output.line(format_args!("{} is this program already", other.display()))?);
        }
        if !args.force {
            bail!(
                "{} exists, and {name} would be the one or the other, by the order of PATH; {} makes the link all the same",
                other.display(),
                command(["link", name, "--force"])
            );
        }
    }
    match fs::symlink_metadata(&place) {
        Ok(meta) if meta.is_symlink() => {
            fs::remove_file(&place).with_context(|| format!("cannot replace {}", place.display()))?;
        }
        Ok(_) => bail!("{} is a file, and no link; move it away first", place.display()),
        Err(_) => {}
    }
    symlink(target, &place).with_context(|| format!("cannot make the link {}", place.display()))?;
    Ok(output.line(format_args!("{} -> {}", place.display(), target.display()))?)
}

/// The path by which this program was called: that of a link, where it is one.
fn called() -> anyhow::Result<PathBuf> {
    let named = env::args_os().next().map(PathBuf::from);
    let path = named.and_then(|named| match named.components().count() {
        1 => found(&named),
        _ => std::path::absolute(&named).ok(),
    });
    match path.filter(|path| is_program(path)) {
        Some(path) => Ok(path),
        None => env::current_exe().context("cannot find this program's own file"),
    }
}

/// The first program of that name on the PATH.
fn found(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut places = env::split_paths(&path).map(|directory| directory.join(&name));
    places.find(|place| is_program(place))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some() && real(one) == real(other)
}
