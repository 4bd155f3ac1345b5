//! `tandem plan`: what a fleet file means.

use std::process::ExitCode;

use tandem_fleet::render;

use crate::Outcome;
use crate::cli::PlanArgs;
use crate::fleet::{Source, coloured};

/// Columns of a terminal that does not say how many it has.
const WIDTH: usize = 120;

pub(crate) fn run(args: &PlanArgs) -> Outcome {
    let source = Source::open(args.fleet.fleet.as_deref())?;
    let node = source.node(args.fleet.node.as_ref())?;
    let plan = source.plan(node.as_ref())?;
    if args.json {
        anstream::println!("{}", render::json(&plan));
    } else if args.mermaid {
        anstream::print!("{}", render::mermaid(&plan));
    } else {
        let findings = plan.findings.clone();
        let shown = tandem_fleet::Plan { findings: vec![], ..plan };
        anstream::print!("{}", render::text(&shown, width(), None));
        if !findings.is_empty() {
            anstream::print!("\n{}", coloured(&findings, &source.text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    columns.filter(|columns| *columns >= 40).unwrap_or(WIDTH)
}
