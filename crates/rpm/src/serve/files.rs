//! Which files of a directory are for everybody.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use rpm_cli::StaticSite;

/// What names with a dot are meant to be seen below (RFC 8615).
const WELL_KNOWN: &str = ".well-known";
/// What is served for a directory.
const INDEX: &str = "index.html";
/// There is never anything at this path.
const NOWHERE: &str = "/..";

/// What is served of a directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
    dotfiles: bool,
    links: bool,
}

impl Files {
    pub(super) fn of(site: &StaticSite) -> Arc<Files> {
        Arc::new(Files {
            root: site.path.clone(),
            dotfiles: site.dotfiles,
            links: site.follow_links,
        })
    }

    /// Is there anything at this path that nobody is to see?
    fn keeps_back(&self, path: &str) -> bool {
        let path = decoded(path);
        (!self.dotfiles && is_hidden(&path)) || (!self.links && leads_out(&self.root, &path))
    }
}

/// Answers as if it were not there for what is kept back.
pub(super) async fn guard(State(files): State<Arc<Files>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    // A join fails if it panics: then nobody has said that it may be seen.
    let kept_back = tokio::task::spawn_blocking(move || files.keeps_back(&path)).await;
    if kept_back.unwrap_or(true) {
        *request.uri_mut() = Uri::from_static(NOWHERE);
    }
    next.run(request).await
}

/// The same for a file that is served under any path.
pub(super) async fn guard_own(
    State((files, name)): State<(Arc<Files>, Arc<str>)>,
    request: Request,
    next: Next,
) -> Response {
    let out = tokio::task::spawn_blocking(move || !files.links && leads_out(&files.root, &name)).await;
    if out.unwrap_or(true) {
        return StatusCode::NOT_FOUND.into_response();
    }
    next.run(request).await
}

fn is_hidden(path: &str) -> bool {
    let mut names = path
        .split('/')
        .filter(|name| !matches!(*name, "" | "." | ".."))
        .peekable();
    names.next_if_eq(&WELL_KNOWN);
    names.any(|name| name.starts_with('.'))
}

/// Does a link on the way lead out of the directory?
fn leads_out(root: &Path, path: &str) -> bool {
    let Ok(root) = root.canonicalize() else {
        return false;
    };
    let mut file = root.join(path.trim_start_matches('/'));
    if file.is_dir() && file.join(INDEX).exists() {
        file.push(INDEX);
    }
    // What is not there leads nowhere.
    file.canonicalize().is_ok_and(|real| !real.starts_with(&root))
}

/// The path with what `%` and two digits stand for.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = code.map_or(after, |_| &after[2..]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_dot_are_hidden_wherever_they_stand() {
        for (path, expected) in [
            ("/", false),
            ("/a.js", false),
            ("/a/./b/../c", false),
            ("/.env", true),
            ("/a/.git/config", true),
            ("/%2eenv", true),
            ("//.htpasswd", true),
            ("/...", true),
            ("/.well-known/acme-challenge/x", false),
            ("/.well-known/.env", true),
            ("/a/.well-known/x", true),
            ("/%", false),
            ("/%2", false),
        ] {
            assert_eq!(is_hidden(&decoded(path)), expected, "{path}");
        }
    }
}
