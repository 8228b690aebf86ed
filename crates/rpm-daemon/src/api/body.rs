//! Bodies in and errors out, always as JSON.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rpm_wire::api::ApiError;
use serde::de::DeserializeOwned;

use crate::failure::failure;
use crate::inbox::ShuttingDown;

/// Largest request: the whole environments of some hundred apps.
pub(super) const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// A request body that is what the endpoint expects.
pub(super) struct Body<T>(pub(super) T);

/// An [`ApiError`] with its status.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) ApiError);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| too_large_or_cut(&rejection))?;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| {
            let what = format!("the request is not what this endpoint expects: {error}");
            Refusal(
                StatusCode::BAD_REQUEST,
                failure(what, Some("see docs/API.md for the fields of each request")),
            )
        })
    }
}

fn too_large_or_cut(rejection: &BytesRejection) -> Refusal {
    let status = rejection.status();
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        let what = format!("the request is larger than {BODY_LIMIT} bytes");
        return Refusal(
            status,
            failure(what, Some("shorten the environment or the arguments")),
        );
    }
    Refusal(status, failure(rejection.body_text(), None))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, axum::Json(self.1)).into_response()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal(StatusCode::UNPROCESSABLE_ENTITY, error)
    }
}

impl From<ShuttingDown> for Refusal {
    fn from(error: ShuttingDown) -> Refusal {
        Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            failure(error.to_string(), Some("try again in a moment")),
        )
    }
}
