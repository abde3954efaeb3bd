//! Our standard input becomes a run's, as it comes.
//!
//! Input: bytes, until their end; output: calls of `…/input` in their order, then one of `…/eof`. What cannot be sent
//! ends the run: a command must not take half of its input for all of it.

use crate::client::{Client, ClientError};
use crate::render;
use reqwest::{Method, StatusCode};
use sandbox_wire::run::InputTaken;
use sandbox_wire::{Code, Problem};
use std::io::Read;
use tokio::sync::mpsc;

const PIECE_BYTES: usize = 64 << 10;
/// Pieces that are read ahead of the command.
const QUEUE: usize = 4;

/// Why no more is sent.
enum Stopped {
    /// Nobody is there to take it: the run has ended, or closed its input.
    Closed,
    Failed(String),
}

/// Feeds the run at this path for as long as this program runs.
pub(crate) fn feed(client: Client, run: String) {
    let mut pieces = read();
    tokio::spawn(async move {
        let fed = async {
            while let Some(piece) = pieces.recv().await {
                let piece = piece.map_err(|error| Stopped::Failed(format!("cannot read standard input: {error}")))?;
                send(&client, &run, &piece).await?;
            }
            call(&client, &format!("{run}/eof"), Vec::new()).await.map(drop)
        };
        if let Err(Stopped::Failed(why)) = fed.await {
            eprintln!("sandboxctl: the input broke off, so the run is ended: {}", render::plain(&why));
            // What else could be done is done by the run's deadline.
            let _ = client.delete(&run).await;
        }
    });
}

/// Reading blocks, and cannot be given up.
fn read() -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(buffer[..length].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = piece.is_err();
            if send.blocking_send(piece).is_err() || last {
                return;
            }
        }
    });
    receive
}

/// All of a piece, however slowly the command takes it.
async fn send(client: &Client, run: &str, piece: &[u8]) -> Result<(), Stopped> {
    let mut left = piece;
    while !left.is_empty() {
        let taken = call(client, &format!("{run}/input"), left.to_vec()).await?;
        left = left.get(usize::try_from(taken).unwrap_or(usize::MAX)..).unwrap_or_default();
    }
    Ok(())
}

async fn call(client: &Client, path: &str, body: Vec<u8>) -> Result<u64, Stopped> {
    let failed = |error: ClientError| Stopped::Failed(error.to_string());
    let response =
        client.exchange(Method::POST, path, reqwest::header::HeaderMap::new(), body).await.map_err(failed)?;
    let status = response.status();
    let text = response.bytes().await.map_err(|error| Stopped::Failed(error.to_string()))?;
    if status == StatusCode::OK {
        let taken = serde_json::from_slice::<InputTaken>(&text).map(|answer| answer.taken);
        return taken.map_err(|error| Stopped::Failed(error.to_string()));
    }
    match serde_json::from_slice::<Problem>(&text) {
        Ok(problem) if matches!(problem.code, Code::InputClosed | Code::RunEnded | Code::RunNotFound) => {
            Err(Stopped::Closed)
        }
        Ok(problem) => Err(Stopped::Failed(problem.error)),
        Err(_) => Err(Stopped::Failed(format!("the daemon answered with {status}"))),
    }
}
