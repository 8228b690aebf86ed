//! What is asked of the daemon, each question in a task of its own. None of them starts a daemon: whoever killed it wants it to stay dead.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::bail;
use rpm_wire::api::{
    Action, ApiError, AppInfo, ChangeReply, Follow, ListenerInfo, LogLine, Process, ReloadRequest,
    RollbackRequest, ScaleRequest,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::action;
use super::request::{Request, Verb};
use super::screen::Source;
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::{RequestError, Session, percent_encoded};
use crate::render;

/// Refresh interval of the processes.
const INTERVAL: Duration = Duration::from_secs(1);
/// For an answer from the daemon's memory, whole.
const DEADLINE: Duration = Duration::from_secs(5);
/// Number of past lines that are shown of what is newly chosen.
const PAST: u32 = 1000;
/// Time that something stays chosen before its output is asked for: whoever passes it does not want to read it.
const SETTLED: Duration = Duration::from_millis(100);
/// Maximum number of lines that are taken at once, so that keys are heard in between.
const AT_ONCE: usize = 2048;
/// Capacity of the queue of lines.
const LINES: usize = 4096;

/// What the daemon knows, or why that cannot be said now.
pub(super) type Known = Result<Seen, String>;

/// What the daemon knows.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) processes: Vec<Process>,
    /// Those of the app that was asked for.
    pub(super) listeners: Option<Listeners>,
}

/// Where an app serves, and by which of its workers.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) app: String,
    pub(super) all: Vec<ListenerInfo>,
}

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

/// Asks for the processes again and again, and for the listeners of the app that is wanted, until the screen has ended.
pub(super) async fn look(seen: mpsc::Sender<Known>, mut wanted: watch::Receiver<Option<String>>) {
    let mut pauses = Pauses::new();
    loop {
        let app = wanted.borrow_and_update().clone();
        let known = known(app).await;
        let is_known = known.is_ok();
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
        tokio::select! {
            () = sleep(pause) => {}
            // Another app is wanted. A daemon that does not answer is not asked sooner for that.
            Ok(()) = wanted.changed(), if is_known => {}
        }
    }
}

async fn known(app: Option<String>) -> Known {
    let answer = async {
        let mut session = session().await?;
        let processes = session.get("/v1/processes").await?;
        let mut listeners = None;
        if let Some(app) = app {
            let path = format!("/v1/apps/{}", percent_encoded(&app));
            // It may have been deleted.
            let info: Option<AppInfo> = session.get(&path).await.ok();
            listeners = info.map(|info| Listeners {
                app,
                all: info.listeners,
            });
        }
        anyhow::Ok(Seen { processes, listeners })
    };
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

/// The output of what is chosen.
pub(super) struct Following(Option<Followed>);

struct Followed {
    source: Source,
    task: JoinHandle<()>,
    output: mpsc::Receiver<Output>,
}

impl Following {
    pub(super) fn none() -> Following {
        Following(None)
    }

    /// Follows this instead of something else; false if it does so already.
    pub(super) fn turn_to(&mut self, source: Option<Source>) -> bool {
        if self.0.as_ref().map(|followed| &followed.source.target)
            == source.as_ref().map(|source| &source.target)
        {
            return false;
        }
        // The queue goes with it: no line of what was followed is shown as one of the next.
        self.0 = source.map(|source| {
            let (sender, output) = mpsc::channel(LINES);
            let task = tokio::spawn(follow(source.target.clone(), sender));
            Followed { source, task, output }
        });
        true
    }

    /// What has come. It waits for ever if nothing is followed.
    pub(super) async fn next(&mut self) -> VecDeque<Output> {
        if let Some(followed) = &mut self.0 {
            let mut parts = Vec::new();
            if followed.output.recv_many(&mut parts, AT_ONCE).await > 0 {
                return parts.into();
            }
        }
        std::future::pending().await
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The output of an app or instance until nobody reads it. A stream that ends is taken up again: the daemon was updated, or has died.
async fn follow(target: String, output: mpsc::Sender<Output>) {
    let mut pauses = Pauses::new();
    sleep(SETTLED).await;
    while !output.is_closed() {
        // Why it ended is said by `watch`, which asks the same daemon.
        if let Ok(true) = stream(&target, &output).await {
            pauses = Pauses::new();
        }
        sleep(pauses.next()).await;
    }
}

/// One stream; whether any line came.
async fn stream(target: &str, output: &mpsc::Sender<Output>) -> anyhow::Result<bool> {
    let path = format!(
        "/v1/logs?lines={PAST}&follow=true&target={}",
        percent_encoded(target)
    );
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

/// What has become of a change.
#[derive(Debug)]
pub(super) struct Reply {
    /// The change, as it is shown.
    pub(super) label: String,
    pub(super) result: Result<String, String>,
}

/// Makes a change, and says what came of it. It may take as long as the process takes to become ready.
pub(super) async fn carry_out(request: Request, said: mpsc::Sender<Reply>) {
    let label = request.to_string();
    let result = match changed(&request).await {
        Ok(reply) => Ok(match reply.notes.first() {
            Some(note) => render::visible(note),
            None => format!("{label}: done"),
        }),
        Err(error) => Err(format!("{label}: {}", render::visible(&complete(&error)))),
    };
    // It fails only if the screen has ended.
    let _ = said.send(Reply { label, result }).await;
}

/// The error, with what can be done about it if the daemon says that.
fn complete(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(RequestError::Api(ApiError {
            error,
            hint: Some(hint),
            ..
        })) => format!("{error}; {hint}"),
        _ => error.to_string(),
    }
}

async fn changed(Request { verb, target }: &Request) -> anyhow::Result<ChangeReply> {
    let mut session = timeout(DEADLINE, session()).await??;
    let target = target.word.clone();
    let targets = vec![target.clone()];
    let (wait, follow) = (true, Follow::default());
    let reply = match verb {
        Verb::Reload => {
            let request = ReloadRequest {
                targets,
                env: BTreeMap::new(),
                watch_after_ms: None,
                attach: false,
                wait,
                follow,
            };
            session.post("/v1/reload", &request).await?
        }
        // A known app that is restarted is started if it does not run.
        Verb::Restart | Verb::Start => {
            session
                .post("/v1/actions", &action(Action::Restart, targets, wait))
                .await?
        }
        Verb::Stop => {
            session
                .post("/v1/actions", &action(Action::Stop, targets, wait))
                .await?
        }
        Verb::Scale(count) => {
            let count = count.clone();
            session
                .post("/v1/scale", &ScaleRequest { target, count, wait })
                .await?
        }
        Verb::Rollback => {
            session
                .post("/v1/rollback", &RollbackRequest { target, wait, follow })
                .await?
        }
    };
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_can_be_done() {
        let refused = |hint: Option<&str>| {
            complete(&anyhow::Error::from(RequestError::Api(ApiError {
                error: "it does not become ready".to_owned(),
                hint: hint.map(str::to_owned),
                last_lines: Vec::new(),
                unknown: None,
            })))
        };
        assert_eq!(refused(None), "it does not become ready");
        assert_eq!(
            refused(Some("`rpm logs web`")),
            "it does not become ready; `rpm logs web`"
        );
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let mut pauses = Pauses::new();
        let taken: Vec<u128> = (0..7).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(taken, [250, 500, 1000, 2000, 4000, 4000, 4000]);
    }
}
