//! `GET /v1/scrape`: the pages of metrics that apps have themselves.

use axum::extract::State;
use rpm_wire::api::{Scrape, ScrapedPage};
use tokio::task::JoinSet;

use super::body::Refusal;
use crate::inbox::{Asked, Handle, Request};
use crate::processes::pages::{ask, by_app};

/// Asks all workers of all apps side by side.
pub(super) async fn scrape(State(handle): State<Handle>) -> Result<axum::Json<Scrape>, Refusal> {
    let Asked { apps, targets, last } = handle.ask(Request::Scrape).await?;
    let mut running = JoinSet::new();
    for targets in by_app(&targets) {
        let handle = handle.clone();
        running.spawn(async move { ask(targets, &handle).await });
    }
    let mut pages = last;
    for read in running.join_all().await {
        pages.extend(read);
    }
    if pages.iter().any(|page| page.error.is_some()) {
        // Whoever has left meanwhile, by a reload or a crash, is no trouble.
        let now = handle.ask(Request::Scrape).await?.targets;
        let stays = |page: &ScrapedPage| now.iter().any(|it| it.about.worker == page.worker);
        pages.retain(|page| page.error.is_none() || stays(page));
    }
    Ok(axum::Json(Scrape { apps, pages }))
}
