//! `GET /v1/messages`: what programs send over their channel, as NDJSON. `POST /v1/message`: what they are sent.

use axum::extract::State;
use axum::response::Response;
use rpm_wire::api::{ChangeReply, MessageRequest};
use tokio::sync::mpsc;

use super::body::{Body, Refusal};
use super::lines::{CHUNKS, lines_of};
use crate::inbox::{Handle, Request};

/// When the head of the answer is there, no message is missed.
pub(super) async fn follow(State(handle): State<Handle>) -> Result<Response, Refusal> {
    let mut subscription = handle.ask(Request::Subscribe).await??;
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = subscription.next() => next,
                () = sender.closed() => None,
            };
            let Some(line) = next else { return };
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    Ok(lines_of(receiver, None))
}

pub(super) async fn send(
    State(handle): State<Handle>,
    Body(request): Body<MessageRequest>,
) -> Result<axum::Json<ChangeReply>, Refusal> {
    handle.ask(|reply| Request::SendMessage(request, reply)).await??;
    Ok(axum::Json(ChangeReply::default()))
}
