//! Resources: a text, an image, one by a template, and the files of the skill.

use crate::contents::{PNG, resource};
use crate::skills;
use rmcp::ErrorData;
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::json;

const TEXT: &str = "test://static-text";
const BINARY: &str = "test://static-binary";
const WATCHED: &str = "test://watched-resource";

pub(crate) fn listed() -> Vec<Resource> {
    let own = [(TEXT, "A text", "text/plain"), (BINARY, "An image", "image/png"), (WATCHED, "Watched", "text/plain")];
    let own = own.map(|(uri, name, mime_type)| Resource::new(uri, name).with_mime_type(mime_type));
    own.into_iter().chain(skills::resources()).collect()
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    vec![ResourceTemplate::new("test://template/{id}/data", "Data by id").with_mime_type("application/json")]
}

pub(crate) fn read(uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let contents = match uri {
        TEXT => resource(uri, "text/plain", "This is the content of the static text resource."),
        BINARY => ResourceContents::blob(PNG, uri).with_mime_type("image/png"),
        WATCHED => resource(uri, "text/plain", "It never changes."),
        _ => by_template(uri)
            .or_else(|| skills::read(uri))
            .ok_or_else(|| ErrorData::resource_not_found("there is no such resource", Some(json!({"uri": uri}))))?,
    };
    Ok(ReadResourceResult::new(vec![contents]))
}

fn by_template(uri: &str) -> Option<ResourceContents> {
    let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
    let data = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
    Some(resource(uri, "application/json", data.to_string()))
}
