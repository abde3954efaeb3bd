//! `sandboxctl up`: from a folder to a URL.

use super::deploy::{Plan, show_release};
use crate::args::{Globals, UpArgs};
use crate::deployment::build::{Interrupted, build};
use crate::deployment::recipe::Recipe;
use crate::deployment::target::Target;
use crate::failure::Failure;
use crate::interrupt::Interrupts;

pub(crate) async fn up(globals: &Globals, args: UpArgs) -> Result<u8, Failure> {
    let folder = std::path::PathBuf::from(super::project::folder(&args.dir)?);
    let recipe = Recipe::of(&folder)?;
    if !args.no_build
        && let Some(Interrupted(status)) = build(globals, &folder, &recipe).await?
    {
        return Ok(status);
    }
    let mut interrupts = Interrupts::listen();
    let deploy = async {
        let mut target = Target::open(globals)?;
        let named = args.into.project.as_deref().or(recipe.project.as_deref());
        let project = target.project_of(&folder, named, &recipe.name).await?;
        let manifest = recipe.manifest(&folder, &project)?;
        let plan = Plan { target: &target, project: &project, folder: &folder, into: &args.into, quiet: globals.json };
        plan.release(manifest).await
    };
    tokio::select! {
        deployed = deploy => {
            show_release(&deployed?, globals.json);
            Ok(0)
        }
        signal = interrupts.next() => Ok(signal.exit_code()),
    }
}
