//! `sandboxctl version`: of this program, and of the daemon when there is one.

use crate::args::Globals;
use crate::connect;
use crate::failure::Failure;
use crate::render;

const CLIENT: &str = env!("CARGO_PKG_VERSION");

/// Starts no daemon: asking for a version should change nothing.
pub(crate) async fn version(globals: &Globals, client_only: bool) -> Result<u8, Failure> {
    let daemon = match client_only {
        true => None,
        false => match connect::existing(globals).await? {
            Some(client) => connect::health(&client).await.map(|health| (health, client.endpoint().to_string())),
            None => None,
        },
    };
    if globals.json {
        let daemon = daemon.map(|(health, endpoint)| serde_json::json!({"version": health.version, "url": endpoint}));
        let mut document = serde_json::json!({"client": {"version": CLIENT}});
        if !client_only {
            document["daemon"] = daemon.unwrap_or_default();
        }
        render::json(&document);
        return Ok(0);
    }
    let mut text = format!("sandboxctl {CLIENT}\n");
    match daemon {
        Some((health, endpoint)) => {
            text.push_str(&format!("sandboxd {} at {endpoint}\n", render::plain(&health.version)))
        }
        None if client_only => {}
        None => text.push_str("sandboxd: none answers\n"),
    }
    render::text(&text);
    Ok(0)
}
