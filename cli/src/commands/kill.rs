//! `sandboxctl kill`: ends runs, or sends their commands a signal.

use super::runs::{self, Found};
use crate::args::KillArgs;
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::render;
use sandbox_wire::run::{Signal, SignalRequest};

/// Goes on after a run that cannot be killed; exit 1 then.
pub(crate) async fn kill(client: &Client, args: &KillArgs, json: bool) -> Result<u8, Failure> {
    let mut killed = Vec::new();
    let mut failures = Vec::new();
    for text in &args.runs {
        let done = match runs::find(client, text).await {
            Ok(found) => end(client, args, &found).await.map(|()| found).map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(found) => killed.push(found.run.to_string()),
            Err(failure) => failures.push(failure),
        }
    }
    if json {
        let problems: Vec<_> = failures.iter().map(Failure::problem).collect();
        render::json(&serde_json::json!({"killed": killed, "failed": problems}));
    } else {
        render::text(&killed.iter().map(|run| format!("{run}\n")).collect::<String>());
        failures.iter().for_each(|failure| eprint!("{}", failure.text()));
    }
    Ok(u8::from(!failures.is_empty()))
}

async fn end(client: &Client, args: &KillArgs, found: &Found) -> Result<(), ClientError> {
    match &args.signal {
        Some(signal) => {
            let body = SignalRequest { signal: Signal::Name(signal.0.clone()) };
            client.tell(&format!("{}/signal", found.path()), &body).await
        }
        None => client.delete(&found.path()).await,
    }
}
