//! The metrics of workers that use prom-client, asked over their channels as the primary of node:cluster asks them (`AggregatorRegistry`; the
//! protocol is `lib/cluster.js` of prom-client 15). No HTTP is spoken, so it matters neither where a worker listens nor how it is reached.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpm_core::WorkerId;
use rpm_wire::channel;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::os::clock::now_ms;
use crate::workers::worker::{Outgoing, Workers};

/// The question, and the answer to it.
const REQUEST: &str = "prom-client:getMetricsReq";
const ANSWER: &str = "prom-client:getMetricsRes";
/// Before the numbers of our questions: programs that put the same question by other ways have other numbers.
const OURS: &str = "rpm-";

/// What a worker has answered: its registries as JSON, or why there are none.
pub(crate) type Answer = Result<String, String>;

/// A question that has no answer is put again after this time, and then after twice as long each time: it may have come before the program
/// had its registry, and whoever listened then was not meant.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The workers that were asked and have not answered. There is one question to each at a time: Node keeps messages for a program that does
/// not listen to any.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: u64,
    open: BTreeMap<WorkerId, Question>,
}

#[derive(Debug)]
struct Question {
    number: String,
    waiting: Vec<oneshot::Sender<Answer>>,
    /// When it is put again, and how long after that the next time.
    again: Instant,
    pause: Duration,
}

impl Questions {
    /// Asks a worker, unless it is still being asked: the answer. Nothing is received if it cannot be asked any more.
    pub(crate) fn ask(&mut self, worker: WorkerId, workers: &mut Workers) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let now = Instant::now();
        let mut waiting = Vec::new();
        let mut pause = FIRST_PAUSE;
        if let Some(question) = self.open.get_mut(&worker) {
            question.waiting.retain(|waiting| !waiting.is_closed());
            if now < question.again {
                question.waiting.push(answer);
                return receiver;
            }
            waiting = std::mem::take(&mut question.waiting);
            pause = (question.pause * 2).min(LONGEST_PAUSE);
        }
        waiting.push(answer);
        let (question, bytes) = self.question(waiting, now, pause);
        let outgoing = Outgoing { bytes, fd: None };
        let channel = workers.get_mut(&worker).and_then(|held| held.channel_mut());
        if channel.is_some_and(|channel| !channel.is_behind() && channel.send(outgoing, None)) {
            self.open.insert(worker, question);
        }
        receiver
    }

    fn question(
        &mut self,
        waiting: Vec<oneshot::Sender<Answer>>,
        now: Instant,
        pause: Duration,
    ) -> (Question, Vec<u8>) {
        self.asked += 1;
        // A daemon that takes over does not know what the one before has asked: the time makes it another question.
        let number = format!("{OURS}{}-{}", now_ms(), self.asked);
        let bytes = channel::message(&json!({"type": REQUEST, "requestId": number}));
        let question = Question {
            number,
            waiting,
            again: now + pause,
            pause,
        };
        (question, bytes)
    }

    /// A program has sent a message: true if it is the answer to a question of a daemon, and nobody else's business.
    pub(crate) fn hear(&mut self, worker: WorkerId, message: &Value) -> bool {
        let number = message["requestId"].as_str().unwrap_or_default();
        if message["type"] != ANSWER || !number.starts_with(OURS) {
            return false;
        }
        if self.open.get(&worker).is_some_and(|it| it.number == number) {
            self.answered(worker, &answer_of(message));
        }
        true
    }

    /// What the worker has sent could not be read: it may have been the answer.
    pub(crate) fn unread(&mut self, worker: WorkerId, why: &str) {
        self.answered(worker, &Err(why.to_owned()));
    }

    fn answered(&mut self, worker: WorkerId, answer: &Answer) {
        let question = self.open.remove(&worker);
        for waiting in question.into_iter().flat_map(|question| question.waiting) {
            // Whoever has waited may have given up.
            let _ = waiting.send(answer.clone());
        }
    }

    /// Nothing comes from the worker any more.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.open.remove(&worker);
    }
}

fn answer_of(message: &Value) -> Answer {
    match (&message["metrics"], &message["error"]) {
        (metrics @ Value::Array(_), _) => Ok(metrics.to_string()),
        (_, Value::String(error)) => Err(format!("prom-client: {error}")),
        _ => Err("its answer has no metrics".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(7);

    /// A question to the worker that is open, its number, and where the answer comes.
    fn asked(questions: &mut Questions) -> (String, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        let (question, bytes) = questions.question(vec![answer], Instant::now(), FIRST_PAUSE);
        let number = question.number.clone();
        let sent: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(sent, json!({"type": REQUEST, "requestId": number}));
        questions.open.insert(WORKER, question);
        (number, receiver)
    }

    #[test]
    fn the_answer_to_a_question_is_its_own() {
        let mut questions = Questions::default();
        let (number, mut receiver) = asked(&mut questions);
        let answer = |number: &Value| json!({"type": ANSWER, "requestId": number, "metrics": [[]]});
        for other in [json!(1), json!("mine"), Value::Null] {
            assert!(!questions.hear(WORKER, &answer(&other)), "{other}: a program's");
        }
        assert!(!questions.hear(WORKER, &json!({"type": "else", "requestId": number})));
        assert!(questions.hear(WORKER, &answer(&json!("rpm-1-1"))), "an old one");
        assert!(questions.hear(WorkerId(8), &answer(&json!(number))));
        assert!(receiver.try_recv().is_err(), "not answered yet");
        // Whoever asks meanwhile gets the same answer.
        let mut second = questions.ask(WORKER, &mut Workers::new());
        assert!(questions.hear(WORKER, &answer(&json!(number))));
        assert_eq!(receiver.try_recv(), Ok(Ok("[[]]".to_owned())));
        assert_eq!(second.try_recv(), Ok(Ok("[[]]".to_owned())));
        assert!(questions.open.is_empty());
    }

    #[test]
    fn a_question_without_an_answer_is_put_again_later() {
        let mut questions = Questions::default();
        let (number, _receiver) = asked(&mut questions);
        let mut second = questions.ask(WORKER, &mut Workers::new());
        assert!(second.try_recv().is_err() && questions.open[&WORKER].number == number);
        let open = questions.open.get_mut(&WORKER).expect("it is open");
        open.again = Instant::now();
        // There is nobody to ask here: the old question stays, and so does nobody who waited.
        let mut third = questions.ask(WORKER, &mut Workers::new());
        assert_eq!(third.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(questions.open[&WORKER].waiting.is_empty());
        let (answer, _receiver) = oneshot::channel();
        let (next, _) = questions.question(vec![answer], Instant::now(), FIRST_PAUSE * 2);
        assert!(next.number != number && next.pause == FIRST_PAUSE * 2);
    }

    #[test]
    fn what_goes_wrong_ends_the_question() {
        let answer = |rest: Value| {
            let mut questions = Questions::default();
            let (number, mut receiver) = asked(&mut questions);
            let mut message = json!({"type": ANSWER, "requestId": number});
            let fields = message.as_object_mut().expect("an object");
            fields.extend(rest.as_object().cloned().unwrap_or_default());
            assert!(questions.hear(WORKER, &message));
            receiver.try_recv().expect("an answer").expect_err("no metrics")
        };
        assert_eq!(
            answer(json!({"error": "no such thing"})),
            "prom-client: no such thing"
        );
        assert_eq!(answer(json!({})), "its answer has no metrics");
        let mut questions = Questions::default();
        let (_, mut receiver) = asked(&mut questions);
        questions.unread(WORKER, "too long");
        assert_eq!(receiver.try_recv(), Ok(Err("too long".to_owned())));
        let (_, mut receiver) = asked(&mut questions);
        questions.forget(WORKER);
        assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        // It has no channel.
        let mut none = questions.ask(WORKER, &mut Workers::new());
        assert_eq!(none.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
