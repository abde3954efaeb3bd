//! One skill: its file SKILL.md and another one in a folder, served as resources too.

use crate::contents::resource;
use rmcp::ErrorData;
use rmcp::model::{
    DIRECTORY_MIME_TYPE, Resource, ResourceContents, Skill, SkillFrontmatter, SkillResource, SkillResources,
};

const NAME: &str = "greeting";
const DESCRIPTION: &str = "How to greet people";
const ROOT: &str = "skill://greeting";
const FOLDER: &str = "skill://greeting/references";
const MANUAL: &str = "skill://greeting/SKILL.md";
const WORDS: &str = "skill://greeting/references/words.md";
const FILES: [(&str, &str, &str); 2] = [
    (
        MANUAL,
        NAME,
        "---\nname: greeting\ndescription: How to greet people\n---\n\nSay one of the words of references/words.md.\n",
    ),
    (WORDS, "words", "- Hello\n- Good morning\n"),
];

fn file((uri, name, _): (&str, &str, &str)) -> Resource {
    let file = Resource::new(uri, name).with_mime_type("text/markdown");
    if uri == MANUAL { file.with_description(DESCRIPTION) } else { file }
}

/// As files among all resources.
pub(crate) fn resources() -> impl Iterator<Item = Resource> {
    FILES.into_iter().map(file)
}

pub(crate) fn read(uri: &str) -> Option<ResourceContents> {
    let (uri, _, text) = FILES.into_iter().find(|(known, ..)| *known == uri)?;
    Some(resource(uri, "text/markdown", text))
}

pub(crate) fn listed() -> Vec<Skill> {
    let files = FILES.iter().map(|(uri, _, text)| SkillResource::from_bytes(*uri, text.as_bytes())).collect();
    vec![Skill::new(MANUAL, SkillFrontmatter::new(NAME, DESCRIPTION), SkillResources::Files(files))]
}

pub(crate) fn named(uri: &str) -> Result<Skill, ErrorData> {
    let skill = listed().into_iter().find(|skill| skill.uri == uri);
    skill.ok_or_else(|| ErrorData::invalid_params("there is no such skill", None))
}

pub(crate) fn folder(uri: &str) -> Result<Vec<Resource>, ErrorData> {
    match uri {
        ROOT => Ok(vec![file(FILES[0]), Resource::new(FOLDER, "references").with_mime_type(DIRECTORY_MIME_TYPE)]),
        FOLDER => Ok(vec![file(FILES[1])]),
        _ => Err(ErrorData::invalid_params("there is no such folder", None)),
    }
}
