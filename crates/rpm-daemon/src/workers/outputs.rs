//! What a worker leaves behind on the disk: its output, and its pid.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rpm_core::InstanceId;
use rpm_keeper::Kept;
use rpm_wire::api::{AppSpec, ExecMode, LogTarget};

use crate::home::{Home, file_name, read_small};
use crate::logs::{Begin, Limit, Source, Style};
use crate::os::behalf::{Behalf, How};
use crate::workers::worker::Logs;

/// What is thrown away.
const NOWHERE: &str = "/dev/null";
/// The time before each line, where an app wants it and does not say how.
const USUAL_DATE: &str = "YYYY-MM-DDTHH:mm:ss";

/// Of files that were put aside, if nobody says how many are kept.
const KEPT_FILES: u32 = 10;

/// The files of an instance; where its worker's own lines begin there is not known yet. Touches none of them: any may be on a file system
/// that does not respond.
pub(crate) fn logs_of(home: &Home, spec: &AppSpec, instance: InstanceId) -> Logs {
    let id = is_numbered(spec).then_some(instance.0);
    let (usual_out, usual_err) = home.log_files(&spec.name, id);
    let file = |target: &LogTarget, usual: PathBuf| match target {
        LogTarget::File(path) if LogTarget::standard(path).is_none() => numbered(Path::new(path), id),
        // A daemon has no such streams of its own: the lines are kept, and `runtime` prints them there.
        LogTarget::Usual | LogTarget::File(_) => usual,
        LogTarget::Nowhere => NOWHERE.into(),
    };
    let (out, err) = (file(&spec.logs.out, usual_out), file(&spec.logs.err, usual_err));
    let usual = numbered(&home.logs().join(format!("{}.log", file_name(&spec.name))), id);
    let both = spec.logs.both.as_ref();
    let both = both.filter(|target| target.standard_stream().is_none());
    let both = both.map(|target| file(target, usual));
    Logs {
        out,
        err,
        both: both.filter(|path| path != Path::new(NOWHERE)),
        out_from: Begin::default(),
        err_from: Begin::default(),
    }
}

/// Do the instances of the app write to files of their own?
pub(crate) fn is_numbered(spec: &AppSpec) -> bool {
    spec.exec_mode == ExecMode::Cluster && !spec.logs.merge
}

/// `app.log` of instance 3 is `app-3.log`.
fn numbered(path: &Path, id: Option<u32>) -> PathBuf {
    let Some(id) = id else { return path.to_owned() };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{id}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{id}"),
    };
    path.with_file_name(name)
}

/// The streams of a worker, on their way to its files.
pub(crate) fn sources(
    spec: &AppSpec,
    instance: InstanceId,
    logs: &Logs,
    pipes: impl IntoIterator<Item = (Kept<OwnedFd>, bool)>,
) -> Vec<Source> {
    let style = |stream| match (spec.logs.json, &spec.logs.date_format) {
        (true, format) => Style::Json {
            app: spec.name.clone(),
            id: instance.0,
            stream,
            format: format.clone(),
        },
        (false, Some(format)) if format.is_empty() => Style::Dated(USUAL_DATE.to_owned()),
        (false, Some(format)) => Style::Dated(format.clone()),
        (false, None) => Style::Raw,
    };
    let behalf = Behalf::of(spec);
    let source = |(pipe, is_err): (Kept<OwnedFd>, bool)| Source {
        pipe,
        path: if is_err {
            logs.err.clone()
        } else {
            logs.out.clone()
        },
        begin: if is_err {
            logs.err_from.clone()
        } else {
            logs.out_from.clone()
        },
        also: logs.both.clone(),
        style: style(if is_err { "err" } else { "out" }),
        behalf: behalf.clone(),
        limit: spec.logs.max_bytes.map(|bytes| Limit {
            bytes,
            keep: spec.logs.keep.unwrap_or(KEPT_FILES),
        }),
    };
    pipes.into_iter().map(source).collect()
}

/// Where the pid of an instance is written.
pub(crate) fn pid_file(home: &Home, spec: &AppSpec, instance: InstanceId) -> PathBuf {
    match &spec.pid_file {
        Some(path) => numbered(Path::new(path), Some(instance.0)),
        None => home
            .pids()
            .join(format!("{}-{instance}.pid", file_name(&spec.name))),
    }
}

/// Writes it, for those who look there.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_pid(path: &Path, behalf: &Behalf, pid: u32) -> io::Result<()> {
    let mut file = behalf.open(path, How::Rewrite)?;
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(pid.to_string().as_bytes())
}

/// Removes it, if it is still that of this process.
pub(crate) fn remove_pid(path: &Path, behalf: &Behalf, pid: u32) {
    // Nobody misses one that is not there.
    let _ = behalf.act(path, |path| {
        // The app's user may have put anything there.
        let written = pid.to_string();
        match read_small(path, written.len() as u64).is_ok_and(|bytes| bytes == written.as_bytes()) {
            true => fs::remove_file(path),
            false => Ok(()),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_before_the_extension() {
        for (path, expected) in [
            ("/l/x.log", "/l/x-3.log"),
            ("/l/x", "/l/x-3"),
            ("/l.d/x", "/l.d/x-3"),
            ("/l/.x", "/l/.x-3"),
        ] {
            assert_eq!(numbered(Path::new(path), Some(3)), Path::new(expected));
        }
        assert_eq!(numbered(Path::new("/l/x.log"), None), Path::new("/l/x.log"));
    }

    #[test]
    fn a_pid_file_is_removed_if_it_is_that_of_the_process_whatever_lies_there() {
        let dir = std::env::temp_dir().join(format!("rpm-pid-file-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.pid");
        for (text, stays) in [("123", false), ("1234", true), ("12", true)] {
            fs::write(&path, text).unwrap();
            remove_pid(&path, &Behalf::default(), 123);
            assert_eq!(path.exists(), stays, "{text}");
        }
        // Nothing of that size is read, and nobody waits for a writer.
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        remove_pid(&path, &Behalf::default(), 123);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        remove_pid(&path, &Behalf::default(), 123);
        assert!(path.exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
