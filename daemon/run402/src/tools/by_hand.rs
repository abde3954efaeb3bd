//! Tools that are more than one request, or one that the table has no words for, or whose answer is not for everybody.

use super::thin::pick_mailbox;
use super::{Context, Files, Tool, value};
use crate::account::Account;
use crate::api::functions::{self, InvokeBody};
use crate::api::projects::{self, NewProject};
use crate::api::{query, releases, wallets};
use crate::client::{Auth, Client, KeyPair, Secret};
use crate::deploy::encoded;
use crate::error::Error;
use reqwest::Method;
use reqwest::header::HeaderName;
use serde_json::{Map, Value, json};

/// One call.
pub(super) struct Call<'a> {
    pub(super) tool: &'a Tool,
    pub(super) account: &'a Account,
    pub(super) files: &'a dyn Files,
    pub(super) arguments: &'a Map<String, Value>,
    active: Option<&'a str>,
}

pub(super) async fn call(
    tool: &Tool,
    context: Context<'_>,
    arguments: &Map<String, Value>,
    active: Option<&str>,
) -> Result<Value, Error> {
    tool.check(arguments)?;
    let call = Call { tool, account: context.account, files: context.files, arguments, active };
    match tool.name.as_str() {
        "provision_postgres_project" => call.provision().await,
        "project_use" => call.project_use().await,
        "rest_query" => call.rest_query().await,
        "validate_manifest" => call.validate_manifest().await,
        "invoke_function" => call.invoke_function().await,
        "deploy_diagnose_url" => call.deploy_diagnose_url().await,
        "fork_app" => call.fork_app().await,
        "request_faucet" => call.request_faucet().await,
        "billing_history" => call.billing_history().await,
        "get_mailbox" => call.get_mailbox().await,
        "list_projects" => call.list_projects().await,
        "deploy" => call.deploy().await,
        "deploy_resume" => call.deploy_resume().await,
        "deploy_site" => call.deploy_site().await,
        "deploy_site_dir" => call.deploy_site_dir().await,
        "deploy_function" => call.deploy_function().await,
        "assets_put" => call.assets_put().await,
        "assets_get" => call.assets_get().await,
        "wait_for_cdn_freshness" => call.wait_for_cdn_freshness().await,
        "request_magic_link" => call.request_magic_link().await,
        "verify_magic_link" => call.verify_magic_link().await,
        name => Err(Error::local("LOCAL_ERROR", format!("{name} is in the table, and nothing calls it"))),
    }
}

impl Call<'_> {
    pub(super) fn client(&self) -> &Client {
        &self.account.client
    }

    pub(super) fn bad(&self, why: &str) -> Error {
        Error::local("BAD_ARGUMENT", format!("{}: {why}", self.tool.name))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.arguments.get(name).and_then(Value::as_str)
    }

    pub(super) fn project(&self) -> Result<&str, Error> {
        self.text("project_id").or(self.active).ok_or_else(|| self.bad("project_id is missing"))
    }

    /// The keys stay on this machine: whoever calls needs the project's name only.
    async fn provision(&self) -> Result<Value, Error> {
        let own = |name: &str| self.text(name).map(str::to_owned);
        let tier = own("tier").or_else(|| Some("prototype".to_owned()));
        let wanted = NewProject { tier, name: own("name"), org_id: own("org_id") };
        let made = projects::provision(&self.account.client, &wanted).await?;
        self.account.keys.save_project(&made.project_id, &made.keys).await?;
        let mut answer = made.rest;
        answer.insert("project_id".to_owned(), made.project_id.into());
        answer.extend(made.schema_slot.map(|slot| ("schema_slot".to_owned(), slot.into())));
        Ok(answer.into())
    }

    /// As with a project that is made.
    async fn fork_app(&self) -> Result<Value, Error> {
        let request = self.account.client.post("/fork/v1", Auth::Wallet).json(self.arguments)?;
        let mut answer: Map<String, Value> = request.receive("copying the app").await?;
        let mut taken = |name: &str| answer.remove(name).and_then(|value| Some(value.as_str()?.to_owned()));
        let keys = taken("anon_key").zip(taken("service_key"));
        if let (Some(project), Some((anon, service))) = (answer.get("project_id").and_then(Value::as_str), keys) {
            let keys = KeyPair { anon: Secret::new(anon), service: Secret::new(service) };
            self.account.keys.save_project(project, &keys).await?;
        }
        Ok(answer.into())
    }

    async fn project_use(&self) -> Result<Value, Error> {
        let project = self.project()?;
        let path = format!("/projects/v1/{}", encoded(project));
        let shown = self.account.client.get(path, Auth::Wallet).send("looking at the project").await?.value();
        self.account.keys.set_active(project).await?;
        Ok(shown)
    }

    async fn rest_query(&self) -> Result<Value, Error> {
        let (project, table) = (self.project()?, encoded(self.text("table").unwrap_or_default()).to_string());
        let method = self.text("method").unwrap_or("GET");
        let (path, auth) = match self.text("key_type") {
            Some("service") => (format!("/admin/v1/rest/{table}"), Auth::ServicePair(project)),
            _ => (format!("/rest/v1/{table}"), Auth::AnonPair(project)),
        };
        let path = format!("{path}{}", self.options());
        let parsed: Method = method.parse().map_err(|_| self.bad("that is no method"))?;
        let mut request = self.account.client.request(parsed, path, auth);
        if method != "GET" {
            request = request.header(HeaderName::from_static("prefer"), "return=representation")?;
        }
        if let (Some(body), "POST" | "PATCH") = (self.arguments.get("body"), method) {
            request = request.json(body)?;
        }
        Ok(request.send("asking for rows").await?.value())
    }

    /// `params` as a query.
    fn options(&self) -> String {
        let given = self.arguments.get("params").and_then(Value::as_object).into_iter().flatten();
        let texts = given.map(|(name, value)| {
            (name.as_str(), Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        });
        query(&texts.collect::<Vec<_>>())
    }

    async fn validate_manifest(&self) -> Result<Value, Error> {
        let manifest = match self.arguments.get("manifest") {
            Some(Value::String(text)) => {
                serde_json::from_str(text).map_err(|error| self.bad(&format!("manifest is not JSON: {error}")))?
            }
            other => other.cloned().unwrap_or_default(),
        };
        let mut body = json!({ "manifest": manifest });
        if let Some(sql) = self.text("migration_sql") {
            body["migration_sql"] = sql.into();
        }
        let (path, auth) = match self.text("project_id") {
            Some(project) => {
                (format!("/projects/v1/admin/{}/expose/validate", encoded(project)), Auth::Service(project))
            }
            None => ("/projects/v1/expose/validate".to_owned(), Auth::Wallet),
        };
        Ok(self.account.client.post(path, auth).json(&body)?.send("checking the manifest").await?.value())
    }

    async fn invoke_function(&self) -> Result<Value, Error> {
        let method = self.text("method").unwrap_or("POST").to_ascii_uppercase();
        let method: Method = method.parse().map_err(|_| self.bad("that is no method"))?;
        let body = InvokeBody::from(self.arguments.get("body").cloned().unwrap_or_default());
        let mut headers = Vec::new();
        for (name, value) in self.arguments.get("headers").and_then(Value::as_object).into_iter().flatten() {
            let name: HeaderName = name.parse().map_err(|_| self.bad(&format!("{name:?} is no header")))?;
            headers.push((name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
        if let Some(key) = self.text("idempotency_key") {
            headers.push((HeaderName::from_static("idempotency-key"), key.to_owned()));
        }
        let name = self.text("name").unwrap_or_default();
        let invoked =
            functions::invoke_with(&self.account.client, self.project()?, name, method, body, &headers).await?;
        value(invoked)
    }

    async fn deploy_diagnose_url(&self) -> Result<Value, Error> {
        let url = match (self.text("url"), self.text("host")) {
            (Some(_), Some(_)) => return Err(self.bad("url and host exclude each other")),
            (Some(url), None) => url.to_owned(),
            (None, Some(host)) => format!("https://{host}{}", self.text("path").unwrap_or("/")),
            (None, None) => return Err(self.bad("name a url, or a host")),
        };
        let method = self.text("method").unwrap_or("GET");
        releases::diagnose_url(&self.account.client, self.project()?, &url, method).await
    }

    async fn request_faucet(&self) -> Result<Value, Error> {
        let own = self.account.client.address();
        let address = self.text("address").or(own.as_deref()).ok_or_else(|| self.bad("address is missing"))?;
        value(wallets::faucet(&self.account.client, address).await?)
    }

    async fn billing_history(&self) -> Result<Value, Error> {
        let client = &self.account.client;
        let look_up = query(&[("wallet", self.text("wallet").map(str::to_owned))]);
        let found = client.get(format!("/orgs/v1/lookup{look_up}"), Auth::Wallet);
        let found = found.send("looking up the wallet's organisation").await?.value();
        let organisation = found["org_id"].as_str().ok_or_else(|| self.bad("no organisation has this wallet"))?;
        let limit = self.arguments.get("limit").map(Value::to_string);
        let path = format!("/orgs/v1/{}/billing/history{}", encoded(organisation), query(&[("limit", limit)]));
        Ok(client.get(path, Auth::Wallet).send("reading what was paid").await?.value())
    }

    /// Those of the wallet, or all that an operator sees.
    async fn list_projects(&self) -> Result<Value, Error> {
        let number = |name: &str| self.arguments.get(name).map(Value::to_string);
        let own = |name: &str| self.text(name).map(str::to_owned);
        let path = match self.arguments.get("all") {
            Some(Value::Bool(true)) => "/agent/v1/operator/projects",
            _ => "/projects/v1",
        };
        let query = query(&[("org_id", own("org_id")), ("limit", number("limit")), ("after", own("cursor"))]);
        let request = self.client().get(format!("{path}{query}"), Auth::Wallet);
        Ok(request.send("listing the projects").await?.value())
    }

    async fn get_mailbox(&self) -> Result<Value, Error> {
        let request = self.account.client.get("/mailboxes/v1", Auth::Service(self.project()?));
        pick_mailbox(&request.send("looking for the mailbox").await?.value(), self.text("mailbox"))
    }
}
