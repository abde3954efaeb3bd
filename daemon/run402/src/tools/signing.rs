//! Tools that sign users of a project's app in.

use super::by_hand::Call;
use crate::client::Auth;
use crate::error::Error;
use serde_json::{Map, Value, json};

impl Call<'_> {
    /// Invitations are the project's own, so they need its service key.
    pub(super) async fn request_magic_link(&self) -> Result<Value, Error> {
        let project = self.project()?;
        let auth = match self.text("intent") {
            Some("invite") => Auth::AnonService(project),
            _ => Auth::AnonPair(project),
        };
        let body: Map<String, Value> = self
            .arguments
            .iter()
            .filter(|(name, _)| *name != "project_id")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let request = self.client().post("/auth/v1/magic-link", auth).json(&body)?;
        Ok(request.send("asking for a link to sign in").await?.value())
    }

    pub(super) async fn verify_magic_link(&self) -> Result<Value, Error> {
        let (grant, body) = match (self.text("token"), self.text("challenge_id"), self.text("code")) {
            (Some(token), None, None) => ("magic_link", json!({ "token": token })),
            (None, Some(challenge), Some(code)) => ("email_code", json!({"challenge_id": challenge, "code": code})),
            _ => return Err(self.bad("either token, or challenge_id and code are wanted")),
        };
        let path = format!("/auth/v1/token?grant_type={grant}");
        let request = self.client().post(path, Auth::AnonPair(self.project()?)).json(&body)?;
        Ok(request.send("signing in").await?.value())
    }
}
