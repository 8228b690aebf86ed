//! Spans from one daemon, and the next.

use std::sync::Arc;
use std::time::Duration;

use rpm_wire::events::Lost;
use rpm_wire::spans::SpanLine;
use tokio::time::sleep;

use super::queue::Waiting;
use crate::daemon::{Daemon, Unanswered};

/// After so many in a row it is said.
const REFUSALS: u32 = 3;
/// Pauses between two attempts: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];
/// The longest line, in bytes: a path has 512.
const LINE_BYTES: usize = 64 << 10;

/// Reads, for ever.
pub(super) async fn read(daemon: Daemon, waiting: Arc<Waiting>) {
    let [first, longest] = PAUSES;
    let mut pause = first;
    let (mut refusals, mut said) = (0_u32, false);
    loop {
        let (come, ended) = follow(&daemon, &waiting).await;
        // The reader before this one, or the daemon, may just be leaving, which is no news.
        match &ended {
            Err(Unanswered::Refused(_)) => refusals += 1,
            Ok(()) | Err(_) => refusals = 0,
        }
        said &= !come;
        if let (Err(Unanswered::Refused(status)), REFUSALS.., false) = (&ended, refusals, said) {
            eprintln!(
                "otlp: the daemon gives no spans (it answered {status}): it is of an older version, or another process reads them"
            );
            said = true;
        }
        pause = match come {
            true => first,
            false => (pause * 2).min(longest),
        };
        sleep(pause).await;
    }
}

/// Until the stream ends; and whether anything has come.
async fn follow(daemon: &Daemon, waiting: &Waiting) -> (bool, Result<(), Unanswered>) {
    let mut come = false;
    let ended = async {
        let mut stream = daemon.stream("/v1/spans").await?;
        let mut rest = Vec::new();
        while let Some(piece) = stream.piece().await? {
            come = true;
            rest.extend_from_slice(&piece);
            let mut done = 0;
            while let Some(length) = rest[done..].iter().position(|byte| *byte == b'\n') {
                line(&rest[done..done + length], waiting);
                done += length + 1;
            }
            rest.drain(..done);
            if rest.len() > LINE_BYTES {
                rest.clear();
            }
        }
        Ok(())
    };
    let ended = ended.await;
    (come, ended)
}

/// What only a newer daemon says is passed over.
fn line(text: &[u8], waiting: &Waiting) {
    match serde_json::from_slice(text) {
        Ok(SpanLine::Span(span)) => waiting.push(*span),
        Ok(SpanLine::Lost(Lost { lost })) => waiting.missing(lost),
        Err(_) => waiting.missing(1),
    }
}
