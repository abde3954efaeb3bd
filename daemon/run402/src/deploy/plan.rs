//! Asking the gateway what a release would change.
//!
//! Input: a prepared release. Output: the gateway's [`Plan`], or the warnings that nobody agreed to.

use super::content::{self, Uploads};
use super::digest::Digest;
use super::event::{Event, Observer};
use super::prepare::{Content, Origin, Prepared, Summary};
use super::rules;
use super::wire::{ContentRef, Spec};
use crate::client::{Auth, Client};
use crate::error::Error;
use indexmap::IndexMap;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt;

/// A longer request is sent by reference: the release is uploaded first like any content.
const MAX_INLINE_BYTES: usize = 5 << 20;
const MANIFEST_TYPE: &str = "application/vnd.run402.deploy-manifest+json";
const PLANS: &str = "/apply/v1/plans";
const MISSING: &str = "missing_content";

/// The parts of an answer that say what is different.
const BUCKETS: [&str; 9] = [
    "migrations",
    "site",
    "functions",
    "secrets",
    "subdomains",
    "routes",
    "static_assets",
    "asset_entries",
    "asset_deletes",
];
const MORE_BUCKETS: [&str; 2] = ["asset_sync", "cost"];

/// Binds a deploy to a plan that somebody has looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequiredPlan {
    pub plan_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_fingerprint: Option<String>,
}

/// How a plan is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be committed.
    Commit { idempotency_key: Option<String>, required_plan: Option<RequiredPlan> },
    /// Only to see what it says.
    DryRun,
    /// To be stored, and approved by somebody later.
    Review,
}

/// One content that the release refers to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MissingContent {
    pub sha256: Digest,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub present: bool,
}

/// What the gateway answered.
#[derive(Debug, Clone)]
pub struct Plan {
    /// None for dry runs.
    pub plan_id: Option<String>,
    pub operation_id: Option<String>,
    pub base_release_id: Option<String>,
    pub is_noop: bool,
    pub summary: String,
    /// Every content of the release, in the gateway's order.
    pub missing_content: Vec<MissingContent>,
    pub warnings: Vec<Value>,
    pub payment_required: Option<Map<String, Value>>,
    /// Every bucket of differences, and what is_noop, summary and warnings say.
    pub diff: Value,
    /// The rest of the answer.
    pub fields: Map<String, Value>,
}

/// An answer, apart from the long list that it may have: as values, that would take several times the room.
#[derive(Debug, Default)]
struct Answer {
    missing_content: Vec<MissingContent>,
    fields: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Answer;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a plan")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer, A::Error> {
                let mut answer = Answer::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        MISSING => answer.missing_content = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        _ => drop(answer.fields.insert(name, map.next_value()?)),
                    }
                }
                Ok(answer)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Plan {
    fn read(body: &[u8]) -> Result<Self, Error> {
        let Answer { missing_content, fields } = serde_json::from_slice(body).map_err(|error| {
            let message = format!("the gateway's plan cannot be understood: {error}");
            Error::deploy("INTERNAL_ERROR", "plan", "plan", message)
        })?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let list = |name: &str| fields.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let diff = match fields.contains_key("kind") {
            true => {
                let kept = ["is_noop", "summary", "warnings"];
                let names = kept.iter().chain(&BUCKETS).chain(&MORE_BUCKETS);
                let diff = names.filter_map(|name| Some(((*name).to_owned(), fields.get(*name)?.clone())));
                Value::Object(diff.collect())
            }
            // Older gateways have everything in one place.
            false => fields.get("diff").cloned().unwrap_or_else(|| json!({})),
        };
        Ok(Self {
            plan_id: text("plan_id"),
            operation_id: text("operation_id"),
            base_release_id: text("base_release_id"),
            is_noop: fields.get("is_noop").and_then(Value::as_bool).unwrap_or(false),
            summary: text("summary").unwrap_or_default(),
            missing_content,
            warnings: list("warnings"),
            payment_required: fields.get("payment_required").and_then(Value::as_object).cloned(),
            diff,
            fields,
        })
    }

    /// The whole answer.
    pub fn to_json(&self) -> Value {
        let missing = (MISSING.to_owned(), json!(self.missing_content));
        Value::Object(self.fields.clone().into_iter().chain([missing]).collect())
    }

    /// Bytes that the gateway has yet to get, and all that the site has, when the plan says so.
    pub fn asset_bytes(&self) -> Option<(u64, u64)> {
        let assets = self.fields.get("static_assets")?;
        let new = assets.get("newly_uploaded_cas_bytes")?.as_u64()?;
        let reused = assets.get("reused_cas_bytes")?.as_u64()?;
        Some((new, new + reused))
    }
}

/// Asks for a plan; a release that is too long is uploaded first.
pub(crate) async fn ask(
    client: &Client,
    prepared: &Prepared,
    purpose: &Purpose,
    uploads: &Uploads,
) -> Result<Plan, Error> {
    let mut body = Map::new();
    let mut path = PLANS.to_owned();
    match purpose {
        Purpose::DryRun => path.push_str("?dry_run=true"),
        Purpose::Review => {
            body.insert("mode".to_owned(), json!("reviewed_plan"));
        }
        Purpose::Commit { idempotency_key, required_plan } => {
            if let Some(key) = idempotency_key {
                body.insert("idempotency_key".to_owned(), json!(key));
            }
            if let Some(required) = required_plan {
                body.insert("required_plan".to_owned(), to_value(required)?);
            }
        }
    }
    let inline = encode(&prepared.spec, &body)?;
    let bytes = match inline.len() > MAX_INLINE_BYTES {
        false => inline,
        true => by_reference(client, prepared, purpose, body, uploads).await?,
    };
    let request = client.post(path, Auth::Wallet).bytes(bytes, Some("application/json"));
    let answered = request.send("planning the deploy").await.map_err(Error::into_deploy)?;
    Plan::read(&answered.body)
}

fn to_value(value: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(value)
        .map_err(|error| Error::local("LOCAL_ERROR", format!("the release cannot be written: {error}")))
}

fn encode(spec: &Spec, rest: &Map<String, Value>) -> Result<Vec<u8>, Error> {
    #[derive(Serialize)]
    struct Body<'a> {
        // In its own order, which a map of JSON values would not keep.
        spec: &'a Spec,
        #[serde(flatten)]
        rest: &'a Map<String, Value>,
    }
    serde_json::to_vec(&Body { spec, rest })
        .map_err(|error| Error::local("LOCAL_ERROR", format!("the release cannot be written: {error}")))
}

async fn by_reference(
    client: &Client,
    prepared: &Prepared,
    purpose: &Purpose,
    mut body: Map<String, Value>,
    uploads: &Uploads,
) -> Result<Vec<u8>, Error> {
    let plain = matches!(purpose, Purpose::Commit { required_plan: None, .. });
    if !plain || client.is_bearer() {
        let message = "the release is longer than 5 MiB, which only an ordinary deploy may be";
        return Err(Error::deploy("PLAN_REQUIRES_INLINE_SPEC", "plan", "spec", message));
    }
    let manifest = serde_json::to_vec(&prepared.spec)
        .map_err(|error| Error::local("LOCAL_ERROR", format!("the release cannot be written: {error}")))?;
    let reference = ContentRef {
        sha256: Digest::of(&manifest),
        size: manifest.len() as u64,
        content_type: Some(MANIFEST_TYPE.into()),
    };
    let content = Content {
        size: reference.size,
        content_type: reference.content_type.clone(),
        label: "deploy manifest".to_owned(),
        slice: super::event::SliceKind::Release,
        origin: Origin::Memory(manifest.into()),
    };
    let contents = IndexMap::from([(reference.sha256, content)]);
    let project = &prepared.spec.project_id;
    content::send_manifest(client, project, &contents, uploads).await?;
    body.insert("spec".to_owned(), json!({"project_id": project}));
    body.insert("manifest_ref".to_owned(), to_value(&reference)?);
    serde_json::to_vec(&body)
        .map_err(|error| Error::local("LOCAL_ERROR", format!("the release cannot be written: {error}")))
}

/// Which warnings the caller has agreed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AllowWarnings {
    #[default]
    Nothing,
    Codes(BTreeSet<String>),
    Everything,
}

fn code(warning: &Value) -> &str {
    warning.get("code").and_then(Value::as_str).unwrap_or_default()
}

/// The gateway's warnings, and one of our own.
pub(crate) fn warnings(plan: &Plan, spec: &Spec) -> Vec<Value> {
    const OWN: &str = "WILDCARD_ROUTE_EXCLUDES_MUTATION_METHODS";
    let mut warnings = plan.warnings.clone();
    let Some(Some(routes)) = &spec.routes else { return warnings };
    let doubtful =
        |route: &&super::spec::Route| rules::is_readonly_wildcard(route) && route.acknowledge_readonly != Some(true);
    let patterns: BTreeSet<&String> = routes.replace.iter().filter(doubtful).map(|route| &route.pattern).collect();
    let affected = json!(patterns);
    if patterns.is_empty()
        || warnings.iter().any(|known| code(known) == OWN && known.get("affected") == Some(&affected))
    {
        return warnings;
    }
    let list = patterns.iter().map(|pattern| pattern.as_str()).collect::<Vec<_>>().join(", ");
    warnings.push(json!({
        "code": OWN,
        "severity": "warn",
        "requires_confirmation": true,
        "message": format!("{list} answers reads only; set acknowledge_readonly, or name the other methods"),
        "affected": affected,
        "confidence": "heuristic",
        "details": {"missing_common_methods": ["POST", "PUT", "PATCH", "DELETE"]},
    }));
    warnings
}

/// Stops at a warning that needs somebody's consent and does not have it.
pub(crate) fn check_warnings(warnings: &[Value], allowed: &AllowWarnings) -> Result<(), Error> {
    let codes = match allowed {
        AllowWarnings::Everything => return Ok(()),
        AllowWarnings::Nothing => BTreeSet::new(),
        AllowWarnings::Codes(codes) => codes.clone(),
    };
    const SECRET: &str = "MISSING_REQUIRED_SECRET";
    let needs = |warning: &&Value| {
        let confirm = warning.get("requires_confirmation").and_then(Value::as_bool).unwrap_or(false);
        (confirm || code(warning) == SECRET) && !codes.contains(code(warning))
    };
    let blocking: Vec<&Value> = warnings.iter().filter(needs).collect();
    let first = blocking.iter().find(|warning| code(warning) == SECRET).or(blocking.first());
    let Some(first) = first else { return Ok(()) };
    let message = first.get("message").and_then(Value::as_str).unwrap_or("the plan has warnings that need consent");
    let unacknowledged: BTreeSet<&str> = blocking.iter().map(|warning| code(warning)).collect();
    let details = json!({
        "warnings": blocking,
        "unacknowledged_warnings": blocking,
        "unacknowledged_warning_codes": unacknowledged,
        "allowed_warning_codes": codes,
    });
    let error = Error::deploy(code(first), "plan", "warnings", message);
    Err(error.with_fix(json!({"action": "review_warnings", "path": "warnings"})).with_details(details))
}

/// Tells what the plan says.
pub(crate) fn announce(plan: &Plan, warnings: &[Value], observer: &dyn Observer) {
    observer.observe(Event::PlanDiff { diff: plan.diff.clone() });
    if !warnings.is_empty() {
        observer.observe(Event::PlanWarnings { warnings: warnings.to_vec() });
    }
    if let Some(terms) = &plan.payment_required {
        observer.observe(Event::PaymentRequired { terms: terms.clone() });
    }
}

/// Asks once more, only to learn which variants of an image there are; what goes wrong does not matter.
pub(crate) async fn image_variants(client: &Client, spec: &Spec, summary: &Summary) -> Option<Value> {
    if !summary.has_typed_image {
        return None;
    }
    let bytes = encode(spec, &Map::new()).ok()?;
    let request = client.post(format!("{PLANS}?dry_run=true"), Auth::Wallet).bytes(bytes, Some("application/json"));
    let answered = request.send("reading image variants").await.ok()?;
    answered.value().get("asset_entries").cloned()
}
