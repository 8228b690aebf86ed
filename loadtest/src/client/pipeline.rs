//! Several requests at once on a kept connection (RFC 9112 9.3.2).

use std::collections::VecDeque;

use tokio::time::timeout;

use super::connection::{Connection, Opener};
use super::failure::Failure;
use super::{Answered, Fate, Target};
use crate::response::Parser;

/// Requests that are sent at once.
const DEPTH: usize = 4;

#[derive(Debug)]
pub(crate) struct Pipeline {
    connection: Option<Connection>,
    parser: Parser,
}

impl Pipeline {
    pub(super) fn new() -> Pipeline {
        Pipeline {
            connection: None,
            parser: Parser::new(),
        }
    }

    /// Of requests behind an answer that says `Connection: close` the server has processed none (RFC 9112 9.6): they
    /// are sent again on another connection. An end that nobody announced fails all that wait.
    pub(super) async fn turn(&mut self, opener: &mut Opener, target: &Target, fates: &mut Vec<Fate>) {
        let mut waiting: VecDeque<Answered> = [Answered::First; DEPTH].into();
        let talk = timeout(target.timeout, self.talk(opener, target, &mut waiting, fates)).await;
        let Err(failure) = talk.unwrap_or(Err(Failure::TimedOut(target.timeout))) else {
            return;
        };
        self.connection = None;
        let others = waiting.len().saturating_sub(1);
        let behind: Vec<Failure> = (0..others).map(|_| failure.of_another()).collect();
        let failed = std::iter::once(failure).chain(behind);
        fates.extend(failed.map(|failure| Fate::of(Err(failure), "")));
    }

    async fn talk(
        &mut self,
        opener: &mut Opener,
        target: &Target,
        waiting: &mut VecDeque<Answered>,
        fates: &mut Vec<Fate>,
    ) -> Result<(), Failure> {
        let (path, authority) = (&target.path, &target.authority);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        while !waiting.is_empty() {
            let mut connection = match self.connection.take().and_then(Connection::if_open) {
                Some(connection) => connection,
                None => Connection::new(opener.open(target).await?),
            };
            let mut unsent = connection.write(request.repeat(waiting.len()).as_bytes()).await;
            let mut open = true;
            while open && let Some(answered) = waiting.front().copied() {
                connection.read_answer(&mut self.parser, unsent.take()).await?;
                let status = self.parser.status();
                if status != target.expect_status {
                    return Err(Failure::Status(status));
                }
                waiting.pop_front();
                fates.push(Fate {
                    result: Ok(answered),
                    worker: self.parser.worker().into_owned(),
                });
                open = self.parser.keep_alive();
            }
            if open {
                self.connection = Some(connection);
            } else {
                waiting.iter_mut().for_each(|one| *one = Answered::Again);
            }
        }
        Ok(())
    }
}
