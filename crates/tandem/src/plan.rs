//! `tandem plan`: what a fleet file means.

use std::process::ExitCode;

use tandem_fleet::render::{self, ReadyMs};

use crate::cli::PlanArgs;
use crate::fleet::{Source, coloured};
use crate::place::Place;
use crate::{Outcome, style};

/// `place`: where a node may run that knows how long its groups take.
pub(crate) async fn run(args: PlanArgs, place: Option<Place>) -> Outcome {
    let source = Source::open(args.fleet.fleet.as_deref())?;
    let node = source.node(args.fleet.node.as_ref())?;
    let plan = source.plan(node.as_ref())?;
    let width = style::width();
    if args.json {
        anstream::println!("{}", render::json(&plan));
    } else if args.mermaid {
        anstream::print!("{}", render::mermaid(&plan));
    } else if args.agents {
        anstream::print!("{}", headings(&render::agents(&plan, width)));
    } else {
        let measured = measured(place, &plan.plan_hash).await;
        let findings = plan.findings.clone();
        let shown = tandem_fleet::Plan { findings: vec![], ..plan };
        anstream::print!("{}", headings(&render::text(&shown, width, measured.as_ref())));
        if !findings.is_empty() {
            anstream::print!("\n{}", coloured(&findings, &source.text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How long the groups took to be ready, when this very plan runs here.
async fn measured(place: Option<Place>, plan_hash: &str) -> Option<ReadyMs> {
    let status = place?.control().status().await.ok().filter(|status| status.plan_hash == plan_hash)?;
    Some(status.groups.into_iter().filter_map(|group| Some((group.group, group.ready_ms?))).collect())
}

/// What is not indented stands over what is.
fn headings(text: &str) -> String {
    let paint = |line: &str| if line.starts_with(' ') || line.is_empty() { line.to_owned() } else { style::bold(line) };
    text.lines().map(|line| paint(line) + "\n").collect()
}
