//! The keeper, watched: when it dies another one gets everything.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rpm_keeper::{Keeper, Opened};
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::failure::chain;
use crate::home::Home;
use crate::os::watched::watched;

/// One that takes nothing for so long is of no use.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Before another one is started where the last has not lived for [`LIVED`]: at first, and at most. It doubles in between.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LIVED: Duration = Duration::from_secs(60);
/// Between two tries where there is no room. It seldom is so: for a moment, when hundreds of workers start.
const ROOM_AFTER: Duration = Duration::from_millis(2);

/// The keeper of this home, with what the daemon before had kept.
pub(crate) fn open(home: &Home) -> Keeper {
    let Opened {
        keeper,
        lost,
        started,
    } = Keeper::open(&home.keeper());
    if let Some(error) = lost {
        let error = chain(&error);
        warn!(error, "the previous daemon's keeper did not hand over everything");
    }
    if let Err(error) = started {
        let error = chain(&error);
        error!(
            error,
            "cannot start the keeper: nothing would survive this daemon"
        );
    }
    keeper
}

/// Has another one started as often as one dies.
pub(crate) fn watch(keeper: Keeper) {
    let waiting = Arc::new(Notify::new());
    let wake = Arc::clone(&waiting);
    keeper.on_waiting(move || wake.notify_one());
    tokio::spawn(async move {
        let mut pause = Duration::ZERO;
        loop {
            let began = Instant::now();
            if let Some(link) = keeper.link() {
                let why = follow(&keeper, link, &waiting).await;
                if keeper.has_quit() {
                    return;
                }
                warn!(%why, "the keeper is gone; starting another one");
            }
            if began.elapsed() > LIVED {
                pause = Duration::ZERO;
            }
            sleep(pause).await;
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            match keeper.renew() {
                Ok(()) => info!(pid = keeper.pid(), "the keeper"),
                Err(error) => error!(
                    error = chain(&error),
                    "cannot start the keeper: nothing would survive this daemon"
                ),
            }
        }
    });
}

/// Until it is gone: why.
async fn follow(keeper: &Keeper, link: Arc<OwnedFd>, waiting: &Notify) -> io::Error {
    let link = match watched(link, Interest::READABLE) {
        Ok(link) => link,
        Err(error) => return error,
    };
    loop {
        while !keeper.flush() {
            if keeper.is_stuck(STUCK_AFTER) {
                return io::ErrorKind::TimedOut.into();
            }
            sleep(ROOM_AFTER).await;
        }
        tokio::select! {
            () = waiting.notified() => {}
            ready = link.readable() => {
                let mut ready = match ready {
                    Ok(ready) => ready,
                    Err(error) => return error,
                };
                ready.clear_ready();
                match keeper.hear() {
                    Ok(0) => {}
                    Ok(lost) => warn!(lost, "the keeper has no room: these descriptors would not survive this daemon (its limit of open files)"),
                    Err(error) => return error,
                }
            }
        }
    }
}
