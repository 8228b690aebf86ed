//! What the system permits.

use serde::{Deserialize, Serialize};

/// One mechanism (`GET /v1/doctor`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub mechanism: String,
    /// It can be used.
    pub works: bool,
    /// What it gives, or why it cannot be used.
    pub detail: String,
    /// What to change to have (more of) it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}
