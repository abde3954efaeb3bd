//! Functions: what a release says is to be run when it is called.
//!
//! `Function + request -> Invocation -> FunctionRunner -> Reply`. How a function is isolated is the
//! runner's; here its files are put in place, its environment is made, its reply is judged as hostile, and
//! its log is kept. Each call is a new process on code that no call can change; what a call leaves in its
//! scratch folder or in /tmp may be there in the next one, or not.

mod files;
mod keys;
mod log;
pub(crate) mod packages;
mod reply;
mod schedule;

pub(crate) use keys::LentKeys;
pub(crate) use log::{Logs, Wanted};
pub use packages::Installation;
pub use reply::REPLY_LIMIT_BYTES;
pub(crate) use reply::{REQUEST_LIMIT_BYTES, Request, Response};

use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::ids;
use crate::spec::Function;
use axum::http::StatusCode;
use futures::future::BoxFuture;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Calls that run at once; more are refused.
pub(crate) const MAX_RUNNING: usize = 16;
/// Where its files are for a function.
pub const CODE_FOLDER: &str = "/opt/function";
/// Where its packages are for a function: node looks there for whatever is in a folder beside it.
pub const PACKAGES_FOLDER: &str = "/opt/node_modules";
/// Where the gateway's socket is for a function.
pub const SOCKET_FOLDER: &str = "/opt/run402";

/// Everything that a runner needs for one call.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Holds the function's files and nothing else; to be seen by it at [`CODE_FOLDER`], read-only.
    pub folder: PathBuf,
    /// Has the packages that the function is deployed with, to be seen at [`PACKAGES_FOLDER`], read-only.
    pub packages: Option<PathBuf>,
    /// Where the function may write: its own from call to call.
    pub scratch: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What the program reads.
    pub stdin: String,
    pub environment: BTreeMap<String, String>,
    pub timeout: Duration,
    pub memory_mb: u32,
    /// On the host; to be seen by the function at [`SOCKET_FOLDER`].
    pub socket_folder: PathBuf,
}

/// How a call ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub timed_out: bool,
    pub out_of_memory: bool,
    pub exit_code: Option<i32>,
}

/// The function could not be run at all.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RunnerError(pub String);

/// Runs functions somewhere safe.
pub trait FunctionRunner: Send + Sync + fmt::Debug {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, std::result::Result<Ended, RunnerError>>;

    /// Runs a package manager, with the network that it needs, in a sandbox that sees only this folder.
    fn install(&self, installation: Installation) -> BoxFuture<'_, std::result::Result<Ended, RunnerError>>;
}

/// A function of a live release.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) function: Function,
}

impl Gateway {
    /// A function of the live release, when there is one of that name.
    pub(crate) async fn live_function(&self, project: &str, name: &str) -> Result<Live> {
        let (project, name) = (project.to_owned(), name.to_owned());
        let found = self.blocking(move |gateway| {
            let live = gateway.store().live_release(&project)?;
            let function = live.and_then(|release| release.manifest.functions.get(&name).cloned());
            Ok(function.map(|function| Live { project, name, function }))
        });
        found.await?.ok_or_else(|| Refusal::not_found("function", "FUNCTION_NOT_FOUND"))
    }

    /// Calls a function and waits for its answer.
    pub(crate) async fn invoke(&self, live: Live, request: Request) -> Result<Response> {
        let Some(runner) = self.config().functions.clone() else {
            return Err(Refusal::not_here("this gateway was started without a way to run functions"));
        };
        if request.body.len() > REQUEST_LIMIT_BYTES {
            return Err(Refusal::too_large("a function takes a body of at most 5 MiB"));
        }
        let Ok(_running) = self.running().try_acquire() else {
            return Err(Refusal::too_many("too many functions are running; try again in a moment"));
        };
        let id = ids::new("req");
        let nonce = ids::random();
        let invocation = self.blocking({
            let (live, nonce) = (live.clone(), nonce.clone());
            move |gateway| gateway.invocation(&live, &nonce, &request)
        });
        let mut invocation = invocation.await?;
        let keys = self.lent_keys().lend(&live.project);
        invocation.environment.insert("RUN402_ANON_KEY".to_owned(), keys.anon.clone());
        invocation.environment.insert("RUN402_SERVICE_KEY".to_owned(), keys.service.clone());
        let ended = runner.run(invocation).await;
        drop(keys);
        let ended = ended.map_err(|error| Refusal::unavailable("FUNCTION_UNAVAILABLE", error.to_string()))?;
        let (ended, added) = self
            .blocking({
                let (live, id) = (live.clone(), id.clone());
                move |gateway| {
                    let added = gateway.logs().add(&live.project, &live.name, &id, &ended.stderr);
                    Ok((ended, added))
                }
            })
            .await?;
        if let Err(error) = added {
            // The answer is worth more than its log.
            tracing::error!(function = live.name, ?error, "what a function wrote cannot be kept");
        }
        self.judge(&live, &nonce, &ended).map_err(|refusal| refusal.detail("request_id", json!(id)))
    }

    fn invocation(&self, live: &Live, nonce: &str, request: &Request) -> Result<Invocation> {
        let files::Placed { folder, scratch } = files::place(self, live)?;
        let packages = packages::mounted(self, &live.project, &live.function);
        if packages.as_ref().is_some_and(|packages| !packages.is_dir()) {
            let message = format!("the packages of function {} are not there; deploy it again", live.name);
            return Err(Refusal::unavailable("FUNCTION_UNAVAILABLE", message));
        }
        let mut environment = self.store().secret_values(&live.project)?;
        environment.insert("RUN402_PROJECT_ID".to_owned(), live.project.clone());
        environment.insert("RUN402_API_BASE".to_owned(), self.base());
        environment.insert("RUN402_API_SOCKET".to_owned(), format!("{SOCKET_FOLDER}/api.sock"));
        Ok(Invocation {
            folder,
            packages,
            scratch,
            command: vec!["node".to_owned(), format!("{CODE_FOLDER}/{}", files::SHIM)],
            stdin: request.encode(nonce, live.function.entrypoint()),
            environment,
            timeout: Duration::from_secs(live.function.timeout_seconds().into()),
            memory_mb: live.function.memory_mb(),
            socket_folder: self.socket_folder(),
        })
    }

    fn judge(&self, live: &Live, nonce: &str, ended: &Ended) -> Result<Response> {
        let name = &live.name;
        let failed = |status: StatusCode, code: &str, message: String| {
            Err(Refusal::deploy(status, code, "invoke", name, message))
        };
        if ended.timed_out {
            let message = format!("function {name} did not answer within {} s", live.function.timeout_seconds());
            return failed(StatusCode::GATEWAY_TIMEOUT, "FUNCTION_TIMEOUT", message);
        }
        if ended.out_of_memory {
            let message = format!("function {name} needed more than its {} MB", live.function.memory_mb());
            return failed(StatusCode::BAD_GATEWAY, "FUNCTION_OUT_OF_MEMORY", message);
        }
        match reply::read(&ended.stdout, nonce) {
            Ok(Ok(response)) => Ok(response),
            // Its own words are in its log, for whom the log is.
            Ok(Err(_)) => failed(
                StatusCode::INTERNAL_SERVER_ERROR,
                "FUNCTION_ERROR",
                format!("function {name} failed; its log says why"),
            ),
            Err(error) => failed(StatusCode::BAD_GATEWAY, "FUNCTION_BAD_REPLY", format!("function {name}: {error}")),
        }
    }
}
