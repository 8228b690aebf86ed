//! What is asked of the daemon, each question in a task of its own. None of them starts a daemon: whoever killed it wants it to stay dead.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use rpm_wire::api::{Action, ChangeReply, Follow, LogLine, Process, ReloadRequest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::action;
use super::QUEUE;
use super::keys::Change;
use super::screen::Question;
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::Session;
use crate::render;

/// Refresh interval of the processes.
const INTERVAL: Duration = Duration::from_secs(1);
/// For an answer from the daemon's memory, whole.
const DEADLINE: Duration = Duration::from_secs(5);
/// Number of past lines that a newly selected process shows.
const PAST: u32 = 50;

/// What is known of the processes: they, or why they are not known now.
pub(super) type Known = Result<Vec<Process>, String>;

/// Pauses between attempts that fail: each is twice as long as the last, up to a bound.
struct Pauses(Duration);

impl Pauses {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(4);

    fn new() -> Pauses {
        Pauses(Pauses::FIRST)
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Pauses::LONGEST);
        pause
    }
}

/// A connection to the daemon that runs. The daemon may be of another version; whoever was told so at the beginning is not told again,
/// for that would be in the middle of the screen.
async fn session() -> anyhow::Result<Session> {
    match connect(&Home::open(home_dir()?)?).await? {
        Some(stream) => Ok(Session::open(stream).await?),
        None => bail!("the daemon is not running"),
    }
}

/// Asks for the processes again and again, until the screen has ended.
pub(super) async fn watch(seen: mpsc::Sender<Known>) {
    let mut pauses = Pauses::new();
    loop {
        let known = processes().await;
        let pause = match &known {
            Ok(_) => {
                pauses = Pauses::new();
                INTERVAL
            }
            Err(_) => pauses.next(),
        };
        if seen.send(known).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

async fn processes() -> Known {
    let answer = async { anyhow::Ok(session().await?.get("/v1/processes").await?) };
    match timeout(DEADLINE, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the daemon does not answer ({} s)", DEADLINE.as_secs())),
    }
}

/// Output of a process.
#[derive(Debug)]
pub(super) enum Output {
    /// A stream begins, with past lines: those that were shown are among them.
    Anew,
    Line(LogLine),
}

/// The output of the chosen process.
pub(super) struct Following(Option<Followed>);

struct Followed {
    id: u32,
    task: JoinHandle<()>,
    output: mpsc::Receiver<Output>,
}

impl Following {
    pub(super) fn none() -> Following {
        Following(None)
    }

    /// Follows this process instead of another one; false if it does so already.
    pub(super) fn turn_to(&mut self, chosen: Option<u32>) -> bool {
        if self.0.as_ref().map(|followed| followed.id) == chosen {
            return false;
        }
        // The queue goes with it: no line of the last process is shown as one of the next.
        self.0 = chosen.map(|id| {
            let (sender, output) = mpsc::channel(QUEUE);
            let task = tokio::spawn(follow(id, sender));
            Followed { id, task, output }
        });
        true
    }

    /// It waits for ever if no process is followed.
    pub(super) async fn next(&mut self) -> Output {
        if let Some(followed) = &mut self.0
            && let Some(output) = followed.output.recv().await
        {
            return output;
        }
        std::future::pending().await
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The output of a process until nobody reads it. A stream that ends is taken up again: the daemon was updated, or has died.
async fn follow(id: u32, output: mpsc::Sender<Output>) {
    let mut pauses = Pauses::new();
    while !output.is_closed() {
        // Why it ended is said by `watch`, which asks the same daemon.
        if let Ok(true) = stream(id, &output).await {
            pauses = Pauses::new();
        }
        sleep(pauses.next()).await;
    }
}

/// One stream; whether any line came.
async fn stream(id: u32, output: &mpsc::Sender<Output>) -> anyhow::Result<bool> {
    let path = format!("/v1/logs?lines={PAST}&follow=true&target={id}");
    let begun = async { anyhow::Ok(session().await?.lines(&path).await?) };
    let mut lines = timeout(DEADLINE, begun).await??;
    output.send(Output::Anew).await?;
    let mut any = false;
    // A stream that breaks has ended.
    while let Ok(Some(part)) = lines.next().await {
        for line in part.split(|&byte| byte == b'\n') {
            if let Ok(line) = serde_json::from_slice(line) {
                output.send(Output::Line(line)).await?;
                any = true;
            }
        }
    }
    Ok(any)
}

/// Makes a change, and says what came of it. It may take as long as the process takes to become ready.
pub(super) async fn carry_out(question: Question, said: mpsc::Sender<String>) {
    let name = render::visible(&question.name);
    let text = match changed(&question).await {
        Ok(reply) => match reply.notes.first() {
            Some(note) => render::visible(note),
            None => format!("{name}: done"),
        },
        Err(error) => format!("{name}: {}", render::visible(&error.to_string())),
    };
    // It fails only if the screen has ended.
    let _ = said.send(text).await;
}

async fn changed(Question { change, name, id }: &Question) -> anyhow::Result<ChangeReply> {
    let mut session = timeout(DEADLINE, session()).await??;
    let reply = match change {
        Change::Reload => {
            let request = ReloadRequest {
                targets: vec![name.clone()],
                env: BTreeMap::new(),
                watch_after_ms: None,
                wait: true,
                follow: Follow::default(),
            };
            session.post("/v1/reload", &request).await?
        }
        Change::Restart => {
            let request = action(Action::Restart, vec![name.clone()], true);
            session.post("/v1/actions", &request).await?
        }
        Change::Stop => {
            let request = action(Action::Stop, vec![id.to_string()], true);
            session.post("/v1/actions", &request).await?
        }
    };
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let mut pauses = Pauses::new();
        let taken: Vec<u128> = (0..7).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(taken, [250, 500, 1000, 2000, 4000, 4000, 4000]);
    }
}
