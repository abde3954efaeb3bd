//! `sandboxctl run402`: any tool of the gateway, from the same table as an agent's.

use crate::args::{Globals, ToolArgs};
use crate::deployment::target::Target;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::render;
use ::run402::tools::{self, Context, LocalFiles, Tool};
use sandbox_wire::{Code, Problem};
use serde_json::{Map, Value, json};
use std::io::Read;

/// Longer arguments are none.
const MAX_INPUT_BYTES: u64 = 16 << 20;

pub(crate) async fn run402(globals: &Globals, args: ToolArgs) -> Result<u8, Failure> {
    let Some(name) = &args.tool else {
        list(globals.json);
        return Ok(0);
    };
    let tool = tools::named(name).ok_or_else(|| {
        let problem = Problem::new(Code::NotFound, format!("there is no tool {name}"));
        Failure::from(problem.next("sandboxctl run402 lists them"))
    })?;
    if args.describe {
        render::json(&described(tool));
        return Ok(0);
    }
    let arguments = arguments(args.input.as_deref())?;
    let mut interrupts = Interrupts::listen();
    let called = async {
        if tool.is_local() {
            return Ok::<_, Failure>(tools::call_local(tool, &Target::environment(globals)?, &arguments).await?);
        }
        let target = Target::open(globals)?;
        let context = Context { account: &target.account, project: None, files: &LocalFiles };
        Ok(tools::call(tool, context, &arguments).await?)
    };
    tokio::select! {
        answer = called => render::json(&answer?),
        signal = interrupts.next() => return Ok(signal.exit_code()),
    }
    Ok(0)
}

fn list(json: bool) {
    if json {
        render::json(&tools::all().iter().map(described).collect::<Vec<_>>());
        return;
    }
    let lines = tools::all().iter().map(|tool| format!("{:<34} {:<10} {}\n", tool.name, tool.group, tool.title));
    render::text(&lines.collect::<String>());
}

fn described(tool: &Tool) -> Value {
    json!({
        "name": tool.name, "group": tool.group, "title": tool.title, "description": tool.about,
        "example": tool.example, "input_schema": tool.input_schema()
    })
}

fn arguments(input: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let text = match input {
        None => return Ok(Map::new()),
        Some("-") => {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(MAX_INPUT_BYTES).read_to_string(&mut text);
            read.map_err(|error| Failure::new(Code::InvalidRequest, format!("cannot read standard input: {error}")))?;
            text
        }
        Some(text) => text.to_owned(),
    };
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(Code::InvalidRequest, format!("--input is not a JSON object: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_an_object() {
        assert!(arguments(None).expect("nothing").is_empty());
        assert_eq!(arguments(Some("{\"sql\": \"SELECT 1\"}")).expect("an object")["sql"], "SELECT 1");
        for bad in ["", "[]", "1", "{"] {
            assert!(arguments(Some(bad)).is_err(), "{bad}");
        }
    }
}
