//! A port for each site, so that it has an origin of its own everywhere.
//!
//! Names under `localhost` are known to browsers and not to every resolver, and a page below a path breaks
//! as soon as it names a file from the root, as bundlers do. A port of the same address works with both.
//! A project keeps its port, unless somebody else has it at the next start.

use super::site;
use crate::error::Result;
use crate::gateway::Gateway;
use crate::store::projects::Project;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Projects whose port is open.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<HashSet<String>>);

impl Ports {
    /// Whether it is ours to open.
    fn take(&self, project: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(project.to_owned())
    }

    fn give_back(&self, project: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(project);
    }
}

impl Gateway {
    /// Of every project that has something to serve.
    pub(crate) async fn open_ports(&self, shutdown: &CancellationToken) {
        let projects = match self.blocking(|gateway| gateway.store().projects()).await {
            Ok(projects) => projects,
            Err(error) => return tracing::error!(?error, "the projects cannot be read"),
        };
        for project in projects.iter().filter(|project| project.live_release.is_some()) {
            if let Err(error) = self.open_port(&project.id, shutdown).await {
                tracing::warn!(project = project.id, ?error, "a site's port cannot be opened");
            }
        }
    }

    /// Serves a project's site on its port until `shutdown`.
    pub(crate) async fn open_port(&self, id: &str, shutdown: &CancellationToken) -> Result<()> {
        if !self.ports().take(id) {
            return Ok(());
        }
        let opened = self.bind(id).await;
        let (project, listener) = opened.inspect_err(|_| self.ports().give_back(id))?;
        let router = Router::new().fallback(serve).with_state((self.clone(), project.id));
        let stopped = shutdown.clone();
        self.tasks().spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(async move { stopped.cancelled().await });
            if let Err(error) = served.await {
                tracing::warn!(%error, "a site is served no longer");
            }
        });
        Ok(())
    }

    async fn bind(&self, id: &str) -> Result<(Project, TcpListener)> {
        let name = id.to_owned();
        let project = self.blocking(move |gateway| gateway.store().project(&name)).await?;
        let project = project.ok_or_else(crate::error::Refusal::unknown_project)?;
        let ip = self.address().ip();
        let kept = match project.port {
            Some(port) => TcpListener::bind(SocketAddr::new(ip, port)).await.ok(),
            None => None,
        };
        let listener = match kept {
            Some(listener) => listener,
            None => TcpListener::bind(SocketAddr::new(ip, 0)).await?,
        };
        let port = listener.local_addr()?.port();
        let name = id.to_owned();
        self.blocking(move |gateway| gateway.store().set_port(&name, port)).await?;
        Ok((Project { port: Some(port), ..project }, listener))
    }
}

async fn serve(State((gateway, project)): State<(Gateway, String)>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    site(&gateway, &project, &path, request).await
}
