//! `tandem plan`: what a fleet file means.

use std::process::ExitCode;

use tandem_fleet::Plan;
use tandem_fleet::render::{self, Chosen, ReadyMs};
use tandem_node::{Forecast, GroupSpec, forecast, starts};
use tandem_process::{ControlGroups, Enforcement};
use tandem_types::{Fault, NodeName};

use crate::cli::PlanArgs;
use crate::fleet::{Source, coloured};
use crate::place::Place;
use crate::{Outcome, expected, preflight, style};

/// `place`: where a node may run that knows how long its groups take.
pub(crate) async fn run(args: PlanArgs, place: Option<Place>) -> Outcome {
    let source = Source::open(args.fleet.fleet.as_deref(), place.as_ref())?;
    let node = source.node(args.fleet.node.as_ref(), place.as_ref())?;
    let plan = source.plan(node.as_ref())?;
    let width = style::width();
    if args.json {
        anstream::println!("{}", render::json(&plan));
    } else if args.mermaid {
        anstream::print!("{}", render::mermaid(&plan));
    } else if args.agents {
        anstream::print!("{}", headings(&render::agents(&plan, width)));
    } else {
        let foretold = node.as_ref().and_then(|node| foretold(&plan, node, place.as_ref()?));
        let measured = measured(place, &plan.plan_hash).await;
        let (findings, chosen) = (plan.findings.clone(), chosen(&plan)?);
        let shown = Plan { findings: vec![], ..plan };
        anstream::print!("{}", headings(&render::text(&shown, width, measured.as_ref(), &chosen)));
        if let Some(node) = &node {
            anstream::print!("\n{}", headings(&format!("limits on {node}: {}\n", limits())));
        }
        if let (Some(node), Some(forecast)) = (&node, &foretold) {
            let lines = expected::full(forecast).join("\n");
            anstream::print!("\n{}", headings(&format!("start of {node}: {lines}\n")));
        }
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

/// How long the next start of this node takes, by how long its groups took lately.
fn foretold(plan: &Plan, node: &NodeName, place: &Place) -> Option<Forecast> {
    forecast(&GroupSpec::of_plan(plan, node), &starts(&place.layout))
}

/// What the kernel would hold groups of this machine to, were they started by whoever asks.
fn limits() -> String {
    match ControlGroups::find() {
        Ok(groups) => groups.offer().to_string(),
        Err(why) => Enforcement::none(&why).to_string(),
    }
}

/// What this machine chooses for open roles. Of a fleet of several it is but one, and no measure for the others.
fn chosen(plan: &Plan) -> Result<Chosen, Fault> {
    if plan.nodes.len() > 1 {
        return Ok(Chosen::new());
    }
    let models = preflight::chosen(plan)?;
    Ok(models.into_iter().flat_map(|(name, roles)| roles.into_iter().map(move |role| (role, name.clone()))).collect())
}

/// What is not indented stands over what is.
fn headings(text: &str) -> String {
    let paint = |line: &str| if line.starts_with(' ') || line.is_empty() { line.to_owned() } else { style::bold(line) };
    text.lines().map(|line| paint(line) + "\n").collect()
}
