//! The routes and their description, from the same declarations.

use super::{Shared, deploys, events, operations, output, policies, projects, runs, tokens};
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use sandbox_wire::event::{Chunk, StreamResult};
use sandbox_wire::{Code, Event, Problem};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Response};
use utoipa::{IntoResponses, Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "sandboxd",
        description = "Runs commands in sandboxes, one per project. Every call is served at / and at /api/v1/ alike.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/"), (url = "/api/v1")),
    components(schemas(Problem, Code, Event, Chunk, StreamResult)),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The answers that every call may give when it fails.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let answers = [
            ("400", "Malformed, or out of range"),
            ("401", "No token, or one that is not good"),
            ("403", "The token lacks a scope, the policy refuses the request, or Host or Origin is not allowed"),
            ("404", "No such project, run, token or policy"),
            ("405", "No such method here; see Allow"),
            ("406", "None of the accepted media types can be given"),
            ("409", "In conflict with what is there"),
            ("410", "The output asked for is not kept any more"),
            ("413", "The body or the command is too large"),
            ("415", "The body is not application/json"),
            ("422", "The build command of a deploy did not succeed"),
            ("429", "Too many requests; see Retry-After"),
            ("431", "Too many or too large headers"),
            ("500", "A fault of the daemon"),
            ("502", "The gateway of a deploy refused or failed"),
            ("503", "No capacity, or stopping; see Retry-After"),
            ("507", "The disk is full"),
        ];
        let problem = |description: &str| {
            let mut response = Response::new(description);
            let content = Content::new(Some(Ref::from_schema_name("Problem")));
            response.content.insert("application/json".to_owned(), content.into());
            RefOr::T(response)
        };
        answers.into_iter().map(|(status, description)| (status.to_owned(), problem(description))).collect()
    }
}

static DOCUMENT: OnceLock<Bytes> = OnceLock::new();

/// All calls; `/openapi.json` describes them, itself included.
pub(crate) fn routes() -> Router<Shared> {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(projects::create, projects::list))
        .routes(routes!(projects::show, projects::change, projects::delete))
        .routes(routes!(runs::run))
        .routes(routes!(runs::start, runs::list))
        .routes(routes!(runs::show, runs::kill))
        .routes(routes!(runs::signal))
        .routes(routes!(runs::input))
        .routes(routes!(runs::eof))
        .routes(routes!(deploys::create, deploys::list))
        .routes(routes!(deploys::files))
        .routes(routes!(output::read))
        .routes(routes!(events::resume))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(policies::list))
        .routes(routes!(policies::show))
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::doctor))
        .routes(routes!(operations::metrics))
        .routes(routes!(describe))
        .split_for_parts();
    DOCUMENT.get_or_init(|| serde_json::to_vec(&document).expect("a description is JSON").into());
    router
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "operations", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI", body = Object, content_type = "application/json"), Problems))]
async fn describe() -> impl IntoResponse {
    let document = DOCUMENT.get().cloned().expect("made before the first route is served");
    ([(CONTENT_TYPE, "application/json")], document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described_with_its_problems() {
        assert!(routes().has_routes());
        let document = DOCUMENT.get().expect("made");
        let document: serde_json::Value = serde_json::from_slice(document).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        assert!(paths.len() >= 16, "{:?}", paths.keys());
        let mut ids = Vec::new();
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("operations") {
                for status in ["400", "401", "404", "405", "500"] {
                    let schema = &operation["responses"][status]["content"]["application/json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
                }
                ids.push(operation["operationId"].as_str().expect("an id").to_owned());
            }
        }
        let calls = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), calls, "operation ids are unique");
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().expect("a name");
            assert!(document["components"]["schemas"].get(name).is_some(), "{name} is described");
        }
    }
}
