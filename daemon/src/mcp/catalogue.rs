//! All tools, in the order in which they are listed: what is needed most comes first.

use super::tool::{Listed, listed};
use super::{deploys, files, gateway, profile, projects, runs};
use std::sync::LazyLock;

static ALL: LazyLock<Vec<Listed>> = LazyLock::new(|| {
    let ours = [
        listed::<runs::RunCommand>("run"),
        listed::<runs::RunOutput>("run"),
        listed::<runs::RunInput>("run"),
        listed::<runs::RunKill>("run"),
        listed::<runs::RunList>("run"),
        listed::<files::ReadFile>("files"),
        listed::<files::WriteFile>("files"),
        listed::<files::ListFiles>("files"),
        listed::<projects::CreateProject>("run"),
        listed::<projects::ListProjects>("run"),
        listed::<projects::GetProject>("run"),
        listed::<deploys::BuildAndDeploy>("deploy"),
        listed::<deploys::DeployProject>("deploy"),
        listed::<profile::MoreTools>(profile::GROUP),
    ];
    ours.into_iter().chain(gateway::listed()).collect()
});

pub(crate) fn all() -> &'static [Listed] {
    &ALL
}

pub(crate) fn named(name: &str) -> Option<&'static Listed> {
    ALL.iter().find(|listed| listed.tool.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// Each schema in a schema, with its place.
    fn visit(schema: &Value, place: &str, check: &mut impl FnMut(&Value, &str)) {
        check(schema, place);
        match schema {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| visit(value, &format!("{place}/{name}"), check));
            }
            Value::Array(items) => items.iter().for_each(|value| visit(value, place, check)),
            _ => {}
        }
    }

    #[test]
    fn names_are_unique_and_words_are_there() {
        let names: BTreeSet<_> = all().iter().map(|listed| &listed.tool.name).collect();
        assert_eq!(names.len(), all().len());
        for Listed { tool, .. } in all() {
            let description = tool.description.as_deref().unwrap_or_default();
            assert!(description.len() > 120, "{}: a model cannot guess what it does: {description}", tool.name);
            assert!(description.contains("Example: {"), "{} has no example", tool.name);
            let hints = tool.annotations.as_ref().expect("hints");
            assert!(hints.read_only_hint.is_some() && hints.idempotent_hint.is_some(), "{}", tool.name);
        }
    }

    #[test]
    fn schemas_are_what_every_client_takes() {
        for Listed { tool, .. } in all() {
            let input = Value::Object((*tool.input_schema).clone());
            assert_eq!(
                (&input["type"], &input["additionalProperties"]),
                (&"object".into(), &false.into()),
                "{}",
                tool.name
            );
            let output = Value::Object((**tool.output_schema.as_ref().expect("a shape")).clone());
            assert_eq!(output["type"], "object", "{}", tool.name);
            for schema in [&input, &output] {
                visit(schema, "", &mut |part, place| {
                    assert!(!part["type"].is_array(), "{}{place}: several types", tool.name);
                    assert!(part.get("$ref").is_none(), "{}{place}: a reference", tool.name);
                });
            }
            for (name, field) in input["properties"].as_object().expect("fields") {
                assert!(field["description"].as_str().is_some_and(|text| text.len() > 10), "{}: {name}", tool.name);
            }
        }
    }
}
