//! Which log thread serves which file: one those of the mount that the daemon's directory is on, and one more those of each other mount.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::Semaphore;
use tracing::warn;

use super::claims::Claims;
use super::drain::Drain;
use super::orders::{Order, Orders, Placed};
use super::progress::Progress;
use super::underway::{Left, Underway};
use super::{Source, Stalled};
use crate::home::{Home, OUTPUTS};
use crate::os::mounts::{Kind, Mount, Mounts};

/// For `write(2)`, `rename(2)` and a line of the daemon's log, in bytes.
const STACK: usize = 512 * 1024;
/// Files of one mount that are read at the same time. Where it does not respond so many threads hang.
const READS: usize = 8;

/// A log thread, as those see it who have something for it to do.
pub(super) struct LogThread {
    pub(super) orders: Orders,
    /// The mount point that it is for.
    mount: Mutex<PathBuf>,
    /// For those who read files of the mount.
    pub(super) reads: Arc<Semaphore>,
}

impl LogThread {
    /// The mount point that it is for.
    pub(super) fn mount(&self) -> PathBuf {
        self.mount.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is said of it when it does not answer.
    pub(super) fn stalled(&self) -> Stalled {
        Stalled { mount: self.mount() }
    }
}

/// All log threads. They begin when they are needed, and stay.
pub(super) struct Threads {
    table: Mutex<Table>,
    claims: Claims,
    home: Home,
    /// The mount that the daemon's directory is on, and the one that its logs are on: that may be a link.
    places: [Mount; 2],
    progress: Arc<Progress>,
    left: Arc<Mutex<Vec<Left>>>,
}

struct Table {
    /// The first is for the mount of the daemon's directory.
    threads: Vec<Arc<LogThread>>,
    mounts: Mounts,
}

impl Table {
    fn thread(&self, number: usize) -> Arc<LogThread> {
        Arc::clone(&self.threads[number])
    }
}

impl Threads {
    /// Starts the first thread, and reads what a daemon that was killed had under way in any.
    ///
    /// # Errors
    /// No thread or no descriptor is to be had.
    pub(super) fn start(home: &Home, progress: Arc<Progress>) -> io::Result<Threads> {
        let mut mounts = Mounts::read();
        let mut mount_of = |path: PathBuf| {
            // It has been looked at before: it responds.
            let real = path.canonicalize().unwrap_or(path);
            mounts.find(&real, |_| true)
        };
        let places = [mount_of(home.root().to_owned()), mount_of(home.logs())];
        let left = (0..OUTPUTS)
            .filter_map(|number| take_left(home, number))
            .collect();
        let threads = Threads {
            table: Mutex::new(Table {
                threads: Vec::new(),
                mounts,
            }),
            claims: Claims::default(),
            home: home.clone(),
            places,
            progress,
            left: Arc::new(Mutex::new(left)),
        };
        let first = threads.begin(0, threads.places[0].point.clone())?;
        threads.table().threads.push(first);
        Ok(threads)
    }

    /// Every thread that there is.
    pub(super) fn all(&self) -> Vec<Arc<LogThread>> {
        self.table().threads.clone()
    }

    /// The threads of these files.
    pub(super) fn of<'p>(&self, paths: impl IntoIterator<Item = &'p Path>) -> Vec<Arc<LogThread>> {
        let mut table = self.table();
        let mut numbers: Vec<usize> = paths
            .into_iter()
            .map(|path| self.number_of(&mut table, path))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| table.thread(number)).collect()
    }

    /// The thread of a file.
    pub(super) fn thread_of(&self, path: &Path) -> Arc<LogThread> {
        let mut table = self.table();
        let number = self.number_of(&mut table, path);
        table.thread(number)
    }

    /// True if the file is on the mount that the daemon's directory is on, which everything in the daemon needs anyway.
    pub(super) fn is_at_home(&self, path: &Path) -> bool {
        self.number_of(&mut self.table(), path) == 0
    }

    /// Has streams of one worker copied. Those with a file in common go to one thread.
    pub(super) fn add(&self, sources: impl IntoIterator<Item = Source>) {
        let mut groups: Vec<Vec<Source>> = Vec::new();
        for source in sources {
            let shares = |other: &Source| files(other).any(|file| files(&source).any(|own| own == file));
            match groups.iter_mut().find(|group| group.iter().any(shares)) {
                Some(group) => group.push(source),
                None => groups.push(vec![source]),
            }
        }
        for group in groups {
            let (thread, placed) = self.place(group);
            for placed in placed {
                thread.orders.give(Order::Add(Box::new(placed)));
            }
        }
    }

    /// Claims the files of streams for a thread.
    fn place(&self, group: Vec<Source>) -> (Arc<LogThread>, Vec<Placed>) {
        let mut table = self.table();
        let number = self.choose(&mut table, group.iter().flat_map(files));
        let placed = group.into_iter().map(|source| {
            let claims = files(&source)
                .map(|path| self.claims.claim(path, number))
                .collect();
            Placed { source, claims }
        });
        let placed = placed.collect();
        (table.thread(number), placed)
    }

    /// The thread for streams to these files: the one that writes to one of them already, otherwise that of a mount which is not that of
    /// the daemon's directory, for that mount may hang.
    ///
    /// Where a reload changes the files of an app, two of them may have different threads already. Then one file has two writers until the
    /// old workers are gone, and a line there may be split. A file system that is mounted later, below which a file is written already, is
    /// seen when no stream goes there any more.
    fn choose<'p>(&self, table: &mut Table, paths: impl Iterator<Item = &'p Path>) -> usize {
        let paths: Vec<&Path> = paths.collect();
        let claimed = paths.iter().filter_map(|path| self.claims.thread_of(path)).max();
        claimed.unwrap_or_else(|| {
            let numbers = paths.iter().map(|path| self.number_of(table, path));
            numbers.max().unwrap_or(0)
        })
    }

    fn number_of(&self, table: &mut Table, path: &Path) -> usize {
        if let Some(number) = self.claims.thread_of(path) {
            return number;
        }
        let [home, logs] = &self.places;
        let mount = match path.starts_with(self.home.logs()) {
            true => logs.clone(),
            false => {
                let is_safe = |mount: &Mount| {
                    mount.kind == Kind::Memory || mount.point == home.point || mount.point == Path::new("/")
                };
                table.mounts.find(path, is_safe)
            }
        };
        // What is in memory does not hang.
        match mount.kind == Kind::Memory || mount.point == home.point {
            true => 0,
            false => self.number_for(table, mount.point),
        }
    }

    /// The thread for a mount; a new one if there are not too many. One whose mount nobody writes to any more gets another mount.
    fn number_for(&self, table: &mut Table, mount: PathBuf) -> usize {
        if let Some(known) = table.threads.iter().position(|thread| thread.mount() == mount) {
            return known;
        }
        let is_free = |(number, thread): &(usize, &Arc<LogThread>)| {
            *number > 0 && thread.orders.is_idle() && !self.claims.has_any(*number)
        };
        if let Some((number, thread)) = table.threads.iter().enumerate().find(is_free) {
            *thread.mount.lock().unwrap_or_else(PoisonError::into_inner) = mount;
            return number;
        }
        let number = table.threads.len();
        if number == OUTPUTS {
            return number - 1;
        }
        match self.begin(number, mount) {
            Ok(thread) => {
                table.threads.push(thread);
                number
            }
            Err(error) => {
                warn!(%error, "no thread for the logs of another file system: if that does not respond, other logs wait as well");
                number - 1
            }
        }
    }

    fn begin(&self, number: usize, mount: PathBuf) -> io::Result<Arc<LogThread>> {
        let log_thread = Arc::new(LogThread {
            orders: Orders::new()?,
            mount: Mutex::new(mount),
            reads: Arc::new(Semaphore::new(READS)),
        });
        // What was left in it was taken when the first thread began.
        let (underway, _) = Underway::open(&self.home.output(number));
        let drain = Drain::new(
            Arc::clone(&log_thread),
            Arc::clone(&self.progress),
            underway,
            Arc::clone(&self.left),
        )?;
        let name = match number {
            0 => "rpm-logs".to_owned(),
            number => format!("rpm-logs-{number}"),
        };
        thread::Builder::new()
            .name(name)
            .stack_size(STACK)
            .spawn(move || drain.run())?;
        Ok(log_thread)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left in the file of that number, which is empty or gone then.
fn take_left(home: &Home, number: usize) -> Option<Left> {
    let path = home.output(number);
    if !path.is_file() {
        return None;
    }
    let (_, left) = Underway::open(&path);
    if number > 0 {
        // It is made again if there is such a thread again.
        let _ = std::fs::remove_file(&path);
    }
    left
}

/// Where a stream goes.
fn files(source: &Source) -> impl Iterator<Item = &Path> {
    [Some(&source.path), source.also.as_ref()]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
}

#[cfg(test)]
mod tests;
